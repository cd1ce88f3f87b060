"""Targets, what the head's output becomes, and merging of tiles."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.detection.detections import Detections, from_boxes, merge_tiles, no_detections
from hela_store.detection.head import GridHead, HeadOutput
from hela_store.detection.propose import MOST, detect_frame, detect_tile
from hela_store.detection.targets import HEAD_POSITIONS, Targets, position_px, view_targets
from hela_store.images.boxes import box_iou
from hela_store.images.geometry import tile_rectangles
from hela_store.images.rle import decode
from hela_store.sam.devices import ieee
from hela_store.store.records import CellBox

SHAPE = (300, 420)


def drawn(cells: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, list[CellBox]]:
    label, rows = np.zeros(SHAPE, np.int32), []
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for number, (x0, y0, x1, y1) in enumerate(cells, 1):
        inside = ((x - (x0 + x1 - 1) / 2) / (x1 - x0) * 2) ** 2 + ((y - (y0 + y1 - 1) / 2) / (y1 - y0) * 2) ** 2 <= 1
        label[inside] = number
        rows.append(CellBox(cell=f"f#{number}", frame="f", label=number, x0=x0, y0=y0, x1=x1, y1=y1))
    return label, rows


class Oracle(torch.nn.Module):
    """A head that says the targets of the view it is asked for, in order."""

    def __init__(self, targets: list[Targets]) -> None:
        super().__init__()
        self.targets, self.asked = targets, 0
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, embedding: torch.Tensor) -> HeadOutput:
        truth = self.targets[self.asked]
        self.asked += 1

        def sure(mask: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.where(mask, 8.0, -8.0).astype(np.float32))[None]

        maps = {name: torch.from_numpy(getattr(truth, name))[None] for name in ("offset", "size", "click")}
        peak = torch.logit(torch.from_numpy(truth.centre).clamp(1e-4, 1 - 1e-4))[None]
        return HeadOutput(centre=peak, quality=sure(truth.centre == 1), inside=sure(truth.inside), **maps)


CELLS = [
    (20, 30, 50, 55),
    (60, 30, 84, 60),
    (190, 100, 220, 130),
    (205, 200, 240, 228),
    (0, 250, 18, 280),
    (380, 10, 420, 40),
]


@pytest.mark.parametrize("tile", [0, 256])
def test_a_perfect_head_finds_every_cell_once_and_exactly(tile: int) -> None:
    label, rows = drawn(CELLS)
    tiles = tile_rectangles(SHAPE, tile, 64)
    head = Oracle([view_targets(label, np.ones(SHAPE, bool), rows, rect) for rect in tiles])
    found = detect_frame(head, [torch.zeros(256, 64, 64)] * len(tiles), tiles, SHAPE, 0.5)  # type: ignore[arg-type]
    assert len(found) == len(CELLS)
    overlaps = box_iou(found.boxes, np.array(CELLS, float))
    assert overlaps.max(1).min() > 0.99 and sorted(overlaps.argmax(1)) == list(range(len(CELLS)))
    for i, cell in enumerate(overlaps.argmax(1)):
        x, y = found.points[i].round().astype(int)
        assert label[y, x] == cell + 1
        rle = found.masks[i]
        assert rle is not None
        mask, (left, top) = decode(rle, (rle.height, rle.width))
        truth = label[top : top + mask.shape[0], left : left + mask.shape[1]] == cell + 1
        assert (mask & truth).sum() / ((label == cell + 1).sum() + mask.sum() - (mask & truth).sum()) > 0.6


def test_targets_leave_out_what_nobody_knows() -> None:
    label, rows = drawn(CELLS)
    valid = np.ones(SHAPE, bool)
    valid[:, :100] = label[:, :100] > 0
    rect = (0, 0, 212, 212)  # cuts the third cell
    truth = view_targets(label, valid, rows, rect)
    pitch = position_px(rect)
    assert len(truth.boxes) == 2 and (truth.centre == 1).sum() == 2
    at = lambda x, y: (int(y / pitch), int(x / pitch))  # noqa: E731
    assert not truth.counted[at(200, 115)] and truth.inside[at(200, 115)] and truth.inside_counted[at(200, 115)]
    assert not truth.counted[at(5, 5)] and truth.counted[at(150, 20)]
    row, col = at(34.5, 42)
    assert truth.size[:, row, col] == pytest.approx([math.log(30 / pitch), math.log(25 / pitch)], abs=1e-5)


def test_an_untrained_head_is_bounded_in_number_and_time() -> None:
    """Thousands of false peaks must cost neither memory nor minutes, and every box lies in the frame."""
    torch.manual_seed(0)
    head = GridHead()
    with torch.no_grad():
        head.out.weight.normal_(0, 20)
    tiles = tile_rectangles((700, 1100), 512, 53)
    start = time.monotonic()
    found = detect_frame(head, [torch.randn(256, 64, 64) for _ in tiles], tiles, (700, 1100), 0.0)
    assert time.monotonic() - start < 20
    assert 0 < len(found) <= MOST * len(tiles)
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] <= [1100, 700]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert np.isfinite(found.boxes).all() and (np.diff(found.scores) <= 0).all()


def test_a_frame_on_a_device_has_the_cells_that_it_has_on_a_cpu(device: torch.device) -> None:
    torch.manual_seed(0)
    head = GridHead().eval()
    with torch.no_grad():
        head.out.weight.normal_(0, 5)
    tiles = tile_rectangles(SHAPE, 256, 64)
    embeddings = [torch.randn(256, 64, 64) for _ in tiles]
    expected = detect_frame(head, embeddings, tiles, SHAPE, 0.0)
    with ieee(device):
        found = detect_frame(head.to(device), embeddings, tiles, SHAPE, 0.0)
    # the last bits of a score may let another of two neighbours win
    assert len(expected) > 20 and abs(len(found) - len(expected)) <= len(expected) / 50
    overlaps = box_iou(expected.boxes, found.boxes)
    assert (overlaps.max(1) > 0.95).mean() > 0.95
    assert np.abs(expected.scores - found.scores[overlaps.argmax(1)])[overlaps.max(1) > 0.95].max() < 1e-2


def test_a_head_that_sees_nothing_is_no_error() -> None:
    found = detect_tile(GridHead(), torch.zeros(256, 64, 64), (0, 0, 512, 512), (512, 512), 0, least=0.99)
    assert len(found) == 0 and len(merge_tiles(no_detections(), [(0, 0, 512, 512)], (512, 512))) == 0


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 9)), unique=True, max_size=25), st.integers(0, 99))
def test_merging_gives_back_separate_cells(places: list[tuple[int, int]], seed: int) -> None:
    """Cells on a lattice, each seen whole by several tiles with a little noise, come back once each."""
    rng = np.random.default_rng(seed)
    true = np.array([(30 * x, 30 * y, 30 * x + 26, 30 * y + 26) for x, y in places], float).reshape(-1, 4)
    tiles = tile_rectangles(SHAPE, 200, 60)
    boxes, owners = [], []
    for number, (x0, y0, width, height) in enumerate(tiles):
        for box in true:
            if box[0] >= x0 and box[1] >= y0 and box[2] <= x0 + width and box[3] <= y0 + height:
                boxes.append(box + rng.uniform(-2, 2, 4))
                owners.append(number)
    plain = from_boxes(np.array(boxes).reshape(-1, 4), rng.uniform(0.5, 1, len(boxes)))
    found = Detections(
        boxes=plain.boxes, scores=plain.scores, points=plain.points, tiles=np.array(owners, np.int64), masks=plain.masks
    )
    merged = merge_tiles(found, tiles, SHAPE)
    seen = np.flatnonzero(box_iou(true, plain.boxes).max(1, initial=0) > 0.5)
    assert len(merged) == len(seen)
    assert sorted(box_iou(merged.boxes, true).argmax(1)) == seen.tolist() if len(seen) else True


def test_positions_cover_the_view() -> None:
    assert position_px((0, 0, 512, 512)) * HEAD_POSITIONS == 512
