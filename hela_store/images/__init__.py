"""Pixels, boxes, masks and label images: geometry and algebra without any model.

Coordinates are ``(x, y)`` px with pixel centres at integers; boxes are ``(x0, y0, x1, y1)``, x1 and y1 exclusive.
"""
