"""The words of this package as plain data: no logic, no imports of ours.

Shape suffixes used in all modules: B batch, N prompts, C channels, H rows, W columns.
Coordinates are ``(x, y)`` in px with pixel centres at integers; boxes are ``(x0, y0, x1, y1)`` with x1, y1 exclusive,
so a box of one pixel is one wide and ``x1 - x0`` is a width. "frame" coordinates count px of the frame as acquired,
"view" coordinates count px of the tile as acquired (before the resize to the encoder's input).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.integer]
