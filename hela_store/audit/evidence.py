"""Gather the signs of every label of a block: as it is, with an injected fault, and of places without a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hela_store.base.aliases import LabelArray
from hela_store.base.rng import generator
from hela_store.detection.detections import Detections
from hela_store.detection.head import GridHead
from hela_store.detection.propose import detect_frame
from hela_store.evaluation.frames import FrameCells, frame_cells
from hela_store.images.boxes import box_iou
from hela_store.images.geometry import scoring_tile, scoring_tiles
from hela_store.images.rle import bbox, encode, trim
from hela_store.metrics.matching import countable
from hela_store.prompts.context import CellContext
from hela_store.prompts.prompt import Prompt, prompt_rectangle
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.predict import DEFAULT_WINDOW, Prediction, predict_view
from hela_store.store.records import CellBox, CellRecord
from hela_store.store.store import Store
from hela_store.vectors.pool import pooled

from .cases import Case, debris, injected, label_case, painted, renamed
from .config import FAULTS, AuditConfig
from .signs import SIGNS, Surroundings, signs

Row = dict[str, Any]
Box = tuple[float, float, float, float]

LEAST_SCORE = 0.1
"""Score from which a detection without a label is a place that is judged."""
SAME_PLACE = 0.3
"""Box IoU from which two boxes are about one place."""
HELD = 0.3
"""Share of a neighbour's label that labels of this frame may hold where its cell has no label here."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Everything that all blocks of an audit share.

    Attributes
    ----------
    store : Store
    config : AuditConfig
    near : labelled frames before and after each frame
    tracked : whether labels keep their numbers over time
    area : median area of the labels, px
    """

    store: Store
    config: AuditConfig
    near: Mapping[str, Sequence[str]]
    tracked: bool
    area: float


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """A frame with what is looked at for each of its labels."""

    cells: FrameCells
    image: np.ndarray
    near: list[LabelArray]
    found: Detections
    embeddings: list[torch.Tensor]


def evidence(shared: Shared, frames: Sequence[str], decoder: SamDecoder, head: GridHead) -> Iterator[list[Row]]:
    """Yield the rows of each frame: ``fault``, ``place``, ``lost``, where it is, the signs, and the answer's mask.

    Parameters
    ----------
    shared : Shared
    frames : ids, of one block
    decoder, head : which never saw the labels of these frames
    """
    window = DEFAULT_WINDOW[shared.store.recipe.encoder.architecture]
    for cells in frame_cells(shared.store, frames):
        frame = _looked(shared, cells, head)
        rng = generator("audit", shared.config.seed, cells.frame)
        cases = [label_case(cells.label, cell) for cell in cells.cells]
        cases += [*_faulty(shared, frame, cases, rng), *_places(shared, frame)]
        yield _rows(shared, frame, cases, _decoded(frame, cases, decoder, window))


def _looked(shared: Shared, cells: FrameCells, head: GridHead) -> _Frame:
    store, device = shared.store, next(head.parameters()).device
    embeddings = [torch.from_numpy(store.embedding_at(tile.row)).float().to(device) for tile in cells.tiles]
    found = detect_frame(head, embeddings, [tile.rect for tile in cells.tiles], cells.shape)
    return _Frame(
        cells=cells,
        image=store.pixels.image(cells.frame).astype(np.float64),
        near=[store.pixels.label(name) for name in shared.near[cells.frame]],
        found=found.take(countable(found.boxes, store.pixels.valid(cells.frame))),
        embeddings=embeddings,
    )


def _faulty(shared: Shared, frame: _Frame, cases: Sequence[Case], rng: np.random.Generator) -> Iterator[Case]:
    """Yield copies of some labels with a fault each, kinds in turn."""
    kinds = [kind for kind in FAULTS if kind != "identity" or (shared.tracked and frame.near)]
    chosen = [case for case in cases if rng.random() < shared.config.faults]
    start = int(rng.integers(len(kinds)))
    for number, case in enumerate(chosen):
        kind = kinds[(start + number) % len(kinds)]
        if kind == "debris":
            made = debris(case, frame.cells.label, frame.image, rng)
        elif kind == "identity":
            made = renamed(case, rng)
        else:
            made = injected(case, kind, rng)
        if made is not None and kind == "missing":
            made = replace(made, box=_found_again(frame, case.context))
        if made is not None:
            yield made


def _found_again(frame: _Frame, cell: CellContext) -> Box | None:
    """Return the box in which a cell without its label would be asked for; None where nothing points at it."""
    own = bbox(*trim(cell.mask, cell.origin))
    sure = frame.found.above(LEAST_SCORE)
    if len(sure):
        ious = box_iou([own], sure.boxes)[0]
        if ious.max() >= SAME_PLACE:
            return _box(sure.boxes[int(ious.argmax())])
    return next((box for box in _gaps(frame, without=cell) if box_iou([own], [box])[0, 0] >= SAME_PLACE), None)


def _places(shared: Shared, frame: _Frame) -> list[Case]:
    """Return places where the detector, or the frames before and after, have a cell and the labels have none."""
    sure = frame.found.above(LEAST_SCORE)
    at = np.floor(sure.points + 0.5).astype(int)
    free = frame.cells.label[at[:, 1], at[:, 0]] == 0
    labelled = np.array([cell.box for cell in frame.cells.cells], float).reshape(-1, 4)
    boxes = [_box(box) for box in sure.boxes[free]]
    boxes += _gaps(frame)
    kept: list[Box] = []
    for box in boxes:
        others = np.concatenate([labelled, np.array(kept, float).reshape(-1, 4)])
        if not len(others) or box_iou([box], others).max() < SAME_PLACE:
            kept.append(box)
    return [Case(context=_place(frame.cells, box), box=box) for box in kept]


def _gaps(frame: _Frame, without: CellContext | None = None) -> list[Box]:
    """Return boxes of cells that the frames before and after both have at one place, where this one has no label."""
    if len(frame.near) < 2:
        return []
    here = frame.cells.label
    if without is not None:
        here = np.where(here == without.label, 0, here)
    before, after = frame.near
    boxes = []
    for number in np.unique(before[before > 0]).tolist():
        own = before == number
        area = np.count_nonzero(own)
        later = np.bincount(after[own])
        later[0] = 0
        if np.count_nonzero(here[own]) <= HELD * area and later.max(initial=0) >= 0.5 * area:
            boxes.append(_box(bbox(*trim(own))))
    return boxes


def _box(values: Sequence[float] | np.ndarray) -> Box:
    x0, y0, x1, y1 = (float(value) for value in values)
    return x0, y0, x1, y1


def _place(cells: FrameCells, box: Box) -> CellContext:
    """Return the surroundings of a place: as much on each side as its box is long."""
    side = int(1.5 * max(box[2] - box[0], box[3] - box[1])) + 2
    x0, y0 = max(int(box[0]) - side, 0), max(int(box[1]) - side, 0)
    crop = cells.label[y0 : int(box[3]) + side, x0 : int(box[2]) + side].copy()
    return CellContext(cell="", label=0, labels=crop, origin=(x0, y0), frame_shape=cells.shape)


def _asked(case: Case) -> list[Prompt]:
    """Return what the decoder is given: the box, and of a label also its mask."""
    if case.box is not None:
        return [Prompt(kind="box", box=np.asarray(case.box))]
    mask, origin = trim(case.context.mask, case.context.origin)
    box = Prompt(kind="box", box=np.asarray(bbox(mask, origin), float))
    return [box, Prompt(kind="mask", mask=mask, mask_origin=origin)]


def _decoded(frame: _Frame, cases: Sequence[Case], decoder: SamDecoder, window: int) -> list[list[Prediction]]:
    """Return the decoder's answers to the prompts of each case, tile by tile; none where nothing points at a cell."""
    rects = [tile.rect for tile in frame.cells.tiles]
    lost = [case.fault == "missing" and case.box is None for case in cases]
    prompts = [[] if gone else _asked(case) for case, gone in zip(cases, lost, strict=True)]
    flat = [(number, prompt) for number, asked in enumerate(prompts) for prompt in asked]
    homes = scoring_tiles([prompt_rectangle(prompt) for _, prompt in flat], rects, frame.cells.shape).tolist()
    answers: dict[int, Prediction] = {}
    for tile in sorted(set(homes)):
        members = [i for i, home in enumerate(homes) if home == tile]
        asked = [flat[i][1] for i in members]
        part = predict_view(decoder, frame.embeddings[tile], rects[tile], asked, window=window)
        answers |= dict(zip(members, part, strict=True))
    found: list[list[Prediction]] = [[] for _ in cases]
    for i, (number, _) in enumerate(flat):
        found[number].append(answers[i])
    return found


def _rows(shared: Shared, frame: _Frame, cases: Sequence[Case], answers: Sequence[list[Prediction]]) -> list[Row]:
    rows, spread = [], float(frame.image.std())
    for case, given in zip(cases, answers, strict=True):
        is_place = case.box is not None or case.fault == "missing"
        row: Row = {"frame": frame.cells.frame, "cell": case.cell or None, "fault": case.fault, "place": is_place}
        shown = painted(case, given[0].mask, given[0].origin) if is_place and given else case
        if not given or shown is None:
            if case.fault:
                rows.append(row | {"lost": True, "vector": None} | dict.fromkeys(SIGNS, float("nan")))
            continue
        context = shown.context
        x, y = context.origin
        window = (slice(y, y + context.labels.shape[0]), slice(x, x + context.labels.shape[1]))
        about = Surroundings(
            image=frame.image[window],
            spread=spread,
            near=[labels[window] for labels in frame.near],
            tracked=shared.tracked,
            found=frame.found,
            area=shared.area,
        )
        row |= {"lost": False} | dict(
            zip(("x0", "y0", "x1", "y1"), bbox(*trim(context.mask, context.origin)), strict=True)
        )
        row |= signs(shown, about, given[0], given[1] if len(given) > 1 else None)
        row["vector"] = _pooled(frame, context)
        rows.append(row if case.fault else row | _proposal(given[-1], frame.cells.shape))
    return rows


def _pooled(frame: _Frame, context: CellContext) -> list[float]:
    """Return the mean of the embedding in a label, (256,), rounded to what a distance needs."""
    rects = [tile.rect for tile in frame.cells.tiles]
    box = bbox(*trim(context.mask))
    home = scoring_tile(bbox(*trim(context.mask, context.origin)), rects, frame.cells.shape)
    left, top, width, height = rects[home]
    x0, y0 = context.origin
    cell = CellBox(context.cell, frame.cells.frame, context.label, *box)
    rect = (left - x0, top - y0, width, height)
    vector = pooled(frame.embeddings[home].cpu().numpy(), rect, context.labels, [cell])[0]
    return [round(float(value), 3) for value in vector]


def _proposal(answer: Prediction, shape: tuple[int, int]) -> Row:
    if answer.is_empty:
        return {"rle": None}
    return {"rle": encode(answer.mask, answer.origin, shape).counts}


def usual_area(cells: Sequence[CellRecord]) -> float:
    """Return the median area of labels, px."""
    return float(np.median([cell.area for cell in cells]))
