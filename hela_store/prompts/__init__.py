"""Boxes, points and masks given for a cell: their kinds, how they are drawn, and what they score without an image."""
