"""Augmented views: what is drawn for each, one warp of the whole frame, its labels in step, and its light."""
