"""Find suspicious labels: decoders and detectors that never saw a block of frames judge the labels of that block."""
