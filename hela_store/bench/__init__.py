"""Benchmarks against named peers: one module each, run by ``hela-store bench``."""
