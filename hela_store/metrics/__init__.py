"""Measures: overlap (IoU, Dice), boundaries, failures, matching, CTC measures and confidence intervals."""
