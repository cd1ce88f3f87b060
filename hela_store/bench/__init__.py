"""Timings of this machine, ours against the named peers."""
