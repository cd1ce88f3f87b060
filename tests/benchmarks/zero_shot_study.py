"""Score ``hs.segment(image)``, which has seen no label of the data set, against the labels.

    python tests/benchmarks/zero_shot_study.py --data ../shared/data --part test

Prints one Markdown row a data set: F1 and TP / (TP + FP + FN) at IoU 0.5, mSA (the mean of the latter over the IoUs 0.50 to 0.95),
SEG, and the mean IoU of the pairs. ``--part val`` reads the validation parts of the open folders, which choices are made
on; ``--part test`` reads what nano and its detector have not seen: DSB 2018's and the open folders' own test parts, and
the test block of Fluo-N2DL-HeLa/01, against its tracker reference and against its partial gold (SEG alone).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from hela_store_cli.output import bars
from skimage.io import imread

import hela_store as hs
from hela_store.datasets.look import FIELD_OF_INTEREST
from hela_store.detection.box_scores import FramePairs, count, mean_accuracy
from hela_store.images.labels import shared_pixels
from hela_store.images.rle import bbox
from hela_store.metrics.ctc import match_frame, seg
from hela_store.metrics.matching import countable
from hela_store.pretrain.sources import read_sources

FLUO = "Fluo-N2DL-HeLa"
TEST = range(70, 92)
Labels = npt.NDArray[np.int32]


def pairs(truth: Labels, found: Labels, band: int) -> FramePairs:
    """Return all pairs of found objects with cells; an object mostly in the outer band is not counted as false."""
    shared = shared_pixels(found, truth)
    ious = np.zeros((len(shared.first_labels), len(shared.second_labels)))
    ious[shared.first, shared.second] = shared.ious
    valid = np.zeros(truth.shape, bool)
    valid[band : truth.shape[0] - band, band : truth.shape[1] - band] = True
    boxes = np.array([bbox(found == value) for value in shared.first_labels], float).reshape(-1, 4)
    return FramePairs(scores=np.ones(len(ious)), ious=ious, counted=countable(boxes, valid))


def images(folder: Path, part: str) -> Iterator[tuple[npt.NDArray[np.uint8], Labels]]:
    """Yield images and labels of one part of a folder that nano learns from."""
    for source in read_sources(folder)[part]:  # type: ignore[index]
        yield imread(next((folder / "images").glob(f"{source.name}.*"))), source.label


def challenge(data: Path, truth: str) -> Iterator[tuple[npt.NDArray[np.uint16], Labels]]:
    """Yield the frames of the test block that have labels of one kind."""
    for number in TEST:
        path = data / FLUO / f"01_{truth}" / "SEG" / f"man_seg{number:03d}.tif"
        if path.exists():
            yield tifffile.imread(data / FLUO / "01" / f"t{number:03d}.tif"), tifffile.imread(path).astype(np.int32)


def score(name: str, frames: Sequence[tuple[npt.NDArray[Any], Labels]], band: int, *, partial: bool) -> None:
    found = [hs.segment(image) for image, _ in bars(frames, total=len(frames), what=name)]
    own_seg = seg(match_frame(truth, label) for (_, truth), label in zip(frames, found, strict=True))
    cells = sum(len(np.unique(truth)) - 1 for _, truth in frames)
    if partial:
        print(f"| {name} | {len(frames)} | {cells} | – | – | – | {own_seg:.3f} | – |", flush=True)
        return
    scored = [pairs(truth, label, band) for (_, truth), label in zip(frames, found, strict=True)]
    at = count(scored, 0.0, 0.5)
    print(
        f"| {name} | {len(frames)} | {cells} | {at.f1:.3f} ({at.precision:.3f}, {at.recall:.3f}) | {at.accuracy:.3f} "
        f"| {mean_accuracy(scored, 0.0):.3f} | {own_seg:.3f} | {at.sq:.3f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--only", nargs="*", help="folders below --data; without it, all of them")
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="images of a folder at most")
    given = parser.parse_args()
    open_folders = [f"open/{path.name}" for path in sorted((given.data / "open").iterdir()) if path.is_dir()]
    names = given.only or ["dsb2018", *open_folders, *([FLUO] if given.part == "test" else [])]
    print("| data | images | cells | F1 (precision, recall) | AP at IoU 0.5 | mSA | SEG | IoU of pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        if name == FLUO:
            score(
                f"{FLUO}/01 test block, tracker reference",
                list(challenge(given.data, "ST")),
                FIELD_OF_INTEREST[FLUO],
                partial=False,
            )
            score(
                f"{FLUO}/01 test block, partial gold",
                list(challenge(given.data, "GT")),
                FIELD_OF_INTEREST[FLUO],
                partial=True,
            )
            continue
        frames = list(images(given.data / name, given.part))
        if frames:
            score(f"{name}, {given.part} part", frames[:: -(-len(frames) // given.most)], 0, partial=False)


if __name__ == "__main__":
    main()
