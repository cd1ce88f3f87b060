"""Say what other tools read and write: one module a format; ``export.py`` names the exporters."""

from . import export as export
