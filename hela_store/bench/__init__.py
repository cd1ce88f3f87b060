"""Measurements of this machine: ours against named peers, interleaved in one run."""
