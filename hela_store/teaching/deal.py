"""Deal taught cells out: each trains, chooses the step, or judges, and so does every other cell of the same nucleus.

In a time-lapse one nucleus is in many frames, so what is dealt is a track. Labels of the data set have the tracks that
intervals count (:func:`hela_store.evaluation.tracks.cell_tracks`). A cell that a person drew is of the track of the
label that it covers; else it is linked by overlap with the taught cells nearest in time, before and after. Cells that
were erased or taken back stay dealt: they may have trained. A nucleus that moves farther than its own size between two
frames that were taught counts as another one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from hela_store.base.aliases import BoolArray
from hela_store.base.rng import generator
from hela_store.evaluation.tracks import cell_tracks, shares_no_cell
from hela_store.images.rle import Rle, decode
from hela_store.labels.events import FILE, LabelEvent
from hela_store.metrics.matching import LEAST_IOU
from hela_store.metrics.overlap import overlap
from hela_store.store.store import Store

Part = Literal["train", "choose", "judge"]
CHOOSING = 0.2
"""Share of the tracks that do not judge which chooses the step."""
BLOCK = 10
"""Tracks that are dealt as a block, so that few of them already have the shares that many have."""
SAME = 0.5
"""IoU above which a mask is another one of the same nucleus in the same frame, such as one drawn again."""
LABELS_KEPT = 4
"""Frames whose labels as ingested stay in memory."""


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Hold what a cell is for, and the number of its track."""

    part: Part
    track: int


@dataclass(frozen=True, kw_only=True)
class _Outline:
    """A mask of a frame, and whether its track is known without others."""

    mask: BoolArray
    origin: tuple[int, int]
    is_tracked: bool

    def iou(self, other: _Outline) -> float:
        (x, y), (height, width) = self.origin, self.mask.shape
        (left, top), (high, wide) = other.origin, other.mask.shape
        if x >= left + wide or left >= x + width or y >= top + high or top >= y + height:
            return 0.0  # of thousands of cells in a frame most are elsewhere
        return overlap(self.mask, other.mask, self.origin, other.origin).iou


Cell = tuple[str, int]
Outlines = dict[int, dict[Cell, _Outline]]


class Deal:
    """Say what each taught cell of the training block is for. It follows from the order of what was taught alone.

    Parameters
    ----------
    store : Store
    held : float
        Share of the tracks that judges.
    learned : collection of str
        Ids of cells that a decoder learned from already: their tracks never judge.
    """

    def __init__(self, store: Store, held: float, learned: Collection[str] = ()) -> None:
        self._held, self._learned = held, frozenset(learned)
        self._ingested = store.at_labels(0)
        self._apart = shares_no_cell(store.recipe)
        self._of: dict[Hashable, int] = {}
        self._draws: list[float] = []
        self._outlines: dict[str, Outlines] = {}
        self._label = lru_cache(LABELS_KEPT)(self._ingested.pixels.label)

    def of(self, frame: str, label: int) -> Dealt | None:
        """Return what a cell is for; None where it was never taught, or is in a frame of another block."""
        track = self._of.get((frame, label))
        return None if track is None else Dealt(part=self._part(self._draws[track]), track=track)

    def note(self, events: Iterable[LabelEvent]) -> None:
        """Deal the cells of events that people made, in their order."""
        for event in events:
            if event.who == FILE or event.kind not in ("add", "replace", "split", "merge"):
                continue
            masks = dict(zip(event.cells, event.masks, strict=False))
            for cell in event.cells:
                self.add(event.frame, cell, masks.get(cell))
            if event.kind in ("split", "merge") and self._trains(event.frame):
                # whatever learned from one of them has seen the others
                self._unite([(event.frame, cell) for cell in event.cells])

    def add(self, frame: str, label: int, mask: Rle | None = None) -> None:
        """Deal a cell, or take in its new mask; without a mask only a label of the data set is linked with others."""
        if not self._trains(frame):
            return
        names: list[Hashable] = [(frame, label)]
        track = self._track(frame, label)
        if mask is not None:
            record = self._ingested.frame_records()[frame]
            pixels, origin = decode(mask, record.shape)
            track = self._covered(frame, pixels, origin) if track is None else track
            outline = _Outline(mask=pixels, origin=origin, is_tracked=track is not None)
            outlines = self._outlines.setdefault(frame if self._apart else record.sequence, {})
            names += _mates(outlines, record.time, (frame, label), outline)
            outlines.setdefault(record.time, {})[frame, label] = outline
        self._unite([*names, *([] if track is None else [track])])
        if f"{frame}#{label}" in self._learned:
            at = self._of[frame, label]
            self._draws[at] = max(self._draws[at], self._held)

    def _trains(self, frame: str) -> bool:
        return self._ingested.blocks().get(frame) == "train"

    def _part(self, draw: float) -> Part:
        if draw < self._held:
            return "judge"
        return "choose" if draw >= 1 - (1 - self._held) * CHOOSING else "train"

    def _unite(self, names: Sequence[Hashable]) -> None:
        """Give all names one track: that of the one among theirs which may have taught most, or else a new one."""
        tracks = sorted({self._of[name] for name in names if name in self._of})
        if not tracks:
            tracks = [len(self._draws)]
            self._draws.append(draw_of(tracks[0]))
        first, others = tracks[0], set(tracks[1:])
        if others:
            order = ("judge", "choose", "train")
            self._draws[first] = max((self._draws[at] for at in tracks), key=lambda draw: order.index(self._part(draw)))
            self._of = {name: first if at in others else at for name, at in self._of.items()}
        self._of |= dict.fromkeys(names, first)

    def _track(self, frame: str, label: int) -> Hashable:
        """Return the track of a label of the data set; None for a cell that the data set does not have."""
        cell = f"{frame}#{label}"
        if not self._ingested.frame_records()[frame].has_label or cell not in self._tracks:
            return None
        return "track", self._tracks[cell]

    @cached_property
    def _tracks(self) -> Mapping[str, Hashable]:
        if self._apart:
            return {cell: cell for cell in self._ingested.cells_table()["cell"].to_pylist()}
        frames = [
            name for name, record in self._ingested.frame_records().items() if record.has_label and self._trains(name)
        ]
        return cell_tracks(self._ingested, frames).of

    def _covered(self, frame: str, mask: BoolArray, origin: tuple[int, int]) -> Hashable:
        """Return the track of the data set's label that a mask covers; None where there is none."""
        if not self._ingested.frame_records()[frame].has_label:
            return None
        label, (x, y) = self._label(frame), origin
        under = label[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
        values, counts = np.unique(under[under > 0], return_counts=True)
        if not len(values):
            return None
        best = counts.argmax()
        union = int(mask.sum()) + np.count_nonzero(label == values[best]) - counts[best]
        return self._track(frame, int(values[best])) if counts[best] > SAME * union else None


def draw_of(track: int) -> float:
    """Return the number, 0 to 1, that decides what a track is for; those of :data:`BLOCK` tracks are evenly spread."""
    block, place = divmod(track, BLOCK)
    rng = generator("teach deal", block)
    return float((rng.permutation(BLOCK)[place] + rng.random(BLOCK)[place]) / BLOCK)


def _mates(outlines: Outlines, time: int, own: Cell, outline: _Outline) -> Iterator[Cell]:
    """Yield the cells that an outline is linked with: in its frame, and in the nearest frames before and after."""
    for cell, other in outlines.get(time, {}).items():
        if cell != own and other.iou(outline) > SAME:
            yield cell
    times = sorted(outlines)
    for order in ([at for at in reversed(times) if at < time], [at for at in times if at > time]):
        for at in order:
            # tracks of the data set need no link
            pairs = {c: o.iou(outline) for c, o in outlines[at].items() if not (o.is_tracked and outline.is_tracked)}
            best = max(pairs, key=pairs.__getitem__, default=None)
            if best is not None and pairs[best] >= LEAST_IOU:
                yield best
                break
