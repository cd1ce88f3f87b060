"""Benchmarks: ours against the named peers, interleaved in one run."""
