"""The detector that tests train: a little, in seconds."""

from __future__ import annotations

from hela_store.detection.config import DetectorConfig

QUICK = DetectorConfig(steps=60, batch=2, workers=0, evaluate_every=30, device="cpu")
