"""Found cells made by hand, and a drawn crowd of nuclei."""

from __future__ import annotations

import numpy as np

from hela_store.base.rng import generator
from hela_store.segmentation.assemble import FoundCell


def cell(number: int, x: int, y: int, size: int, predicted_iou: float) -> FoundCell:
    return FoundCell(
        number=number,
        mask=np.ones((size, size), bool),
        origin=(x, y),
        predicted_iou=predicted_iou,
        score=0.9,
        box_agreement=1.0,
        mask_agreement=1.0,
    )


def crowd(scale: float = 1.0) -> np.ndarray:
    """A dozen nuclei of 20 to 28 px times ``scale``, some touching, some at the border."""
    labels = np.zeros((int(100 * scale), int(130 * scale)), np.int32)
    rows, columns = np.indices(labels.shape)
    rng = generator("crowd")
    for label in range(1, 13):
        x, y = (18 + 30 * ((label - 1) % 4), 20 + 28 * ((label - 1) // 4)) + rng.uniform(-4, 4, 2)
        a, b, angle = rng.uniform(11, 15), rng.uniform(8, 12), rng.uniform(0, np.pi)
        u = (columns / scale - x) * np.cos(angle) + (rows / scale - y) * np.sin(angle)
        v = (rows / scale - y) * np.cos(angle) - (columns / scale - x) * np.sin(angle)
        labels[((u / a) ** 2 + (v / b) ** 2 <= 1) & (labels == 0)] = label
    return labels
