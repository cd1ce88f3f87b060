"""Synthetic scenes and training from nothing: how the packaged tiny model came to be."""
