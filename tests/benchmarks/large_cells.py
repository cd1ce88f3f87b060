"""Score exact boxes on large cells that pretraining does not learn from: what weights of ``nano@2`` are compared on.

    python tests/benchmarks/large_cells.py --data ../shared/data nano@1 nano@2
    python tests/benchmarks/large_cells.py --data ../shared/data --weights DIR/nano.safetensors

Large synthetic cells, those of the validation parts of phase contrast and of the neurons, and nuclei of DSB 2018 beside
them; no frame of the Cell Tracking Challenge and no test part. Prints the mean IoU and the number of cells.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import hela_store as hs
from hela_store.images.rle import bbox
from hela_store.metrics.overlap import overlap
from hela_store.pretrain.sources import Source, read_sources, synthetic_sources
from hela_store.sam import nano

SEED, SCENES, MOST_SCENES = 99, 60, 12
"""Scenes that are drawn, and how many of those with large cells are scored."""
LARGE = 50
"""Least equivalent diameter, px."""
MOST_CELLS, LEAST_AREA = 25, 30
REAL = {"open/pfc_neurons_brightfield": (4, 0), "open/usiigaci_phase": (3, LARGE), "dsb2018": (5, 0)}
"""Folder: images of its validation part, and the least diameter of their cells, px."""


def ious(model: hs.Predictor, sources: Sequence[Source], least: float) -> list[float]:
    """Return the IoU of the answer to the exact box of each cell of at least this diameter, at most 25 an image."""
    found = []
    for source in sources:
        truths = [mask for value in np.unique(source.label)[1:] if (mask := source.label == value).sum() >= LEAST_AREA]
        truths = [mask for mask in truths if np.sqrt(4 * mask.sum() / np.pi) >= least]
        if not truths:
            continue
        chosen = [truths[i] for i in np.random.default_rng(0).permutation(len(truths))[:MOST_CELLS]]
        image = (source.image * 255).astype(np.uint8)
        boxes = np.array([bbox(mask) for mask in chosen], float)
        for mask, answer in zip(chosen, model.predict_boxes(image, boxes), strict=True):
            found.append(overlap(answer.mask, mask, answer.origin, (0, 0)).iou)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--weights", type=Path, help="a file of nano@2's architecture, scored in place of the shipped one"
    )
    parser.add_argument("models", nargs="*", default=["nano@2"])
    given = parser.parse_args()
    if given.weights:
        nano.NANO2_FILE = given.weights
        nano.NANO2_SHA256 = hashlib.sha256(given.weights.read_bytes()).hexdigest()
    drawn = [source for source in synthetic_sources(SEED, 0, SCENES) if source.diameter > LARGE + 10][:MOST_SCENES]
    sets = {"synthetic": (drawn, LARGE)}
    sets |= {name: (read_sources(given.data / name)["val"][:most], least) for name, (most, least) in REAL.items()}
    for name in given.models:
        model = hs.load(name)
        for what, (sources, least) in sets.items():
            scored = ious(model, sources, least)
            print(f"| {name} | {what} | {np.mean(scored):.3f} | {len(scored)} |", flush=True)


if __name__ == "__main__":
    main()
