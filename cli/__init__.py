"""The ``hela-store`` command; installed as the package ``hela_store_cli``."""
