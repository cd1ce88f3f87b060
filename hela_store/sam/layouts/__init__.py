"""Checkpoints as other projects write them: each is read, told apart and brought to segment-anything's names."""
