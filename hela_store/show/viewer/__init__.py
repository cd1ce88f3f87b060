"""Whole frames on a canvas, for pages of this machine: pictures here, the canvas as plain modules of JavaScript."""
