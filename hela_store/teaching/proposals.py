"""Cells that a detector proposes in a frame, with the decoder's masks and how far each is to be doubted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.detection.detect import load_grid_head, threshold_of
from hela_store.detection.generic import GENERIC_THRESHOLD, has_generic_head, load_generic_head
from hela_store.detection.head import GridHead
from hela_store.detection.propose import detect_frame
from hela_store.errors import RunError
from hela_store.images.labels import field_of_interest
from hela_store.images.rle import Rle, bbox, encode
from hela_store.metrics.overlap import overlap
from hela_store.predictor.frame import StoredFrame
from hela_store.runs.finished import find_finished
from hela_store.segmentation.assemble import FoundCell, decode_detections, resolve
from hela_store.store.store import Store

from .decode import Decoding

T = TypeVar("T", bound=np.generic)
Detector = tuple[GridHead | None, float, str]
FRAMES_KEPT = 64
"""Frames whose proposals stay in memory."""
TAKEN = 0.5
"""Share of a proposal that belongs to labelled cells from which it is no longer proposed."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A cell that is proposed.

    Attributes
    ----------
    detection : number of the detection in its frame, the same for every decoder
    mask, origin : bool (row, col) and ``(x, y)`` px, frame
    rle : the same as a run-length code of the frame
    doubt : 0 to 1: 1 less the product of the decoder's predicted IoU and of the IoU of its mask's box with the detected
        box
    """

    detection: int
    mask: BoolArray
    origin: tuple[int, int]
    rle: Rle
    doubt: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``(x0, y0, x1, y1)`` px, frame."""
        return bbox(self.mask, self.origin)

    def taken(self, label: npt.NDArray[np.int32]) -> float:
        """Return which share of it belongs to labelled cells."""
        return float((self.under(label) > 0).mean())

    def paint(self, label: npt.NDArray[np.int32], number: int) -> None:
        """Write a number into a label image of the frame where the proposal is."""
        x, y = self.origin
        label[y : y + self.mask.shape[0], x : x + self.mask.shape[1]][self.mask] = number

    def under(self, label: npt.NDArray[T]) -> npt.NDArray[T]:
        """Return what a frame, (row, col), has under its pixels, (pixels,)."""
        x, y = self.origin
        found: npt.NDArray[T] = label[y : y + self.mask.shape[0], x : x + self.mask.shape[1]][self.mask]
        return found


def doubt_of(predicted_iou: float, agreement: float = 1.0) -> float:
    """Return how far a mask is to be doubted, 0 to 1."""
    return float(np.clip(1 - predicted_iou * agreement, 0.0, 1.0))


class Proposals:
    """Proposals by frame, made when they are asked for and again after the decoder changed.

    Parameters
    ----------
    store : Store
    decoding : Decoding
        Its decoder makes the masks.
    detector : tuple, optional
        Head, threshold and name; the latest of the store by default, else the shipped one.
    """

    def __init__(self, store: Store, decoding: Decoding, detector: Detector | None = None) -> None:
        self._store, self._decoding = store, decoding
        self._detector = detector or _detector(store)
        self._head, self._threshold, self.name = self._detector
        self._made: OrderedDict[tuple[str, str], list[Proposal]] = OrderedDict()
        self._making = Lock()

    @property
    def note(self) -> str:
        """Say why nothing is proposed; empty where there is a detector."""
        if self._head is not None:
            return ""
        return "No detector fits this encoder, so nothing is proposed; hela-store detect train makes one from labels."

    def of(self, frame: str) -> list[Proposal]:
        """Return the proposals of a frame; none where no detector fits. StoreError where it is not embedded."""
        if self._head is None:
            return []
        key = (frame, self._decoding.checkpoint.name)
        with self._making:
            if key not in self._made:
                self._made[key] = self._make(frame)
                while len(self._made) > FRAMES_KEPT:
                    self._made.popitem(last=False)
            return self._made[key]

    def by(self, decoding: Decoding) -> Proposals:
        """Return the proposals for the same detections by another decoder."""
        return Proposals(self._store, decoding, self._detector)

    def open(self, frame: str, label: npt.NDArray[np.int32]) -> list[Proposal]:
        """Return the proposals of a frame that its labels do not have; none that lies wholly in the outer band."""
        inner = field_of_interest((label.shape[0], label.shape[1]), self._store.recipe.dataset.field_of_interest)
        found = self.of(frame)
        return [each for each in found if each.taken(label) < TAKEN and each.under(inner).any()]

    def known(self) -> list[str]:
        """Return the frames whose proposals by the present decoder are there."""
        name = self._decoding.checkpoint.name
        return [frame for frame, decoder in list(self._made) if decoder == name]

    def judged(self, frame: str, label: npt.NDArray[np.int32]) -> dict[int, dict[str, float]]:
        """Return for labelled cells the doubt of their proposal and its IoU with the label."""
        found: dict[int, dict[str, float]] = {}
        for proposal in self.of(frame):
            under = proposal.under(label)
            cells, counts = np.unique(under[under > 0], return_counts=True)
            if not len(cells):
                continue
            cell = int(cells[counts.argmax()])
            iou = overlap(proposal.mask, label == cell, proposal.origin, (0, 0)).iou
            if iou > found.get(cell, {"iou": 0.0})["iou"]:
                found[cell] = {"doubt": proposal.doubt, "iou": iou}
        return found

    def _make(self, frame: str) -> list[Proposal]:
        assert self._head is not None
        stored = self._decoding.frame(frame)
        tiles = list(stored.tiles)
        embeddings = (self._decoding.embedding(frame, tile) for tile in range(len(tiles)))
        found = detect_frame(self._head, embeddings, tiles, stored.shape).above(self._threshold)
        kept = StoredFrame(stored.shape, tiles, lambda tile: self._decoding.embedding(frame, tile))
        window = self._decoding.checkpoint.window
        answers = decode_detections(self._decoding.decoder, kept, found, form="box", window=window)
        return [self._proposal(cell, stored.shape) for cell in resolve(answers, stored.shape)[1]]

    def _proposal(self, cell: FoundCell, shape: tuple[int, int]) -> Proposal:
        return Proposal(
            detection=cell.number,
            mask=cell.mask,
            origin=cell.origin,
            rle=encode(cell.mask, cell.origin, shape),
            doubt=doubt_of(cell.predicted_iou, cell.box_agreement),
        )


def _detector(store: Store) -> Detector:
    """Return the detector of a store, its threshold and its name: the latest trained one, else the shipped one."""
    run = find_finished(store.path, "detector", lambda info: info.encoder == store.key)
    if run is not None and run.config.get("backend") == "grid":
        return load_grid_head(store, run), threshold_of(run), run.id
    try:
        if not store.recipe.encoder.adapter and has_generic_head(store.recipe.encoder.sha256):
            return load_generic_head(store.recipe.encoder.sha256), GENERIC_THRESHOLD, "the shipped detector"
    except RunError:
        pass
    return None, 1.0, ""
