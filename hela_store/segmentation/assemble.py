"""From detections to cells: the decoder's masks, overlaps resolved, one label image a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.base.progress import Progress, silent
from hela_store.detection.detections import Detections
from hela_store.errors import PromptError
from hela_store.images.boxes import box_iou
from hela_store.images.geometry import scoring_tiles
from hela_store.images.rle import bbox, decode, largest_piece, trim
from hela_store.metrics.overlap import overlap
from hela_store.predictor.frame import Tiled
from hela_store.prompts.prompt import Prompt
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.predict import predict_view

FORMS = ("box", "point", "mask")
"""What of a detection the decoder is given."""
LEAST_LEFT = 0.5
"""Share of a mask that must be left once better cells took their pixels; below, it was another cell seen twice."""


@dataclass(frozen=True, kw_only=True)
class FoundCell:
    """One cell of a segmented frame.

    Attributes
    ----------
    number : int
        Of its detection.
    mask, origin : bool (row, col) and ``(x, y)`` px, frame
    score : float
        Of the detection.
    predicted_iou : float
        The decoder's own estimate.
    box_agreement : float
        IoU of the detected box with the mask's box.
    mask_agreement : float
        IoU of the coarse mask with the mask; ``box_agreement`` where there is no coarse mask.
    recovered : bool
        Asked for because a neighbouring frame has it.
    """

    number: int
    mask: BoolArray
    origin: tuple[int, int]
    score: float
    predicted_iou: float
    box_agreement: float
    mask_agreement: float
    recovered: bool = False

    @property
    def signs(self) -> list[float]:
        """Return signs of a good mask that need no labels; see :mod:`hela_store.segmentation.calibration`."""
        return [self.predicted_iou, self.score, self.box_agreement, self.mask_agreement]


def prompt_of(found: Detections, i: int, form: str, shape: tuple[int, int]) -> Prompt:
    """Return the prompt a detection becomes; a box where a mask is asked for and there is none.

    ``shape`` is that of its frame, (rows, cols) px.

    Raises
    ------
    PromptError
        The form is unknown.
    RunError
        The mask is damaged, or another frame's.
    """
    if form not in FORMS:
        raise PromptError(f"prompt form {form!r} is unknown, expected one of {', '.join(FORMS)}")
    rle = found.masks[i]
    if form == "point":
        return Prompt(kind="detected", points=found.points[i : i + 1], point_labels=np.ones(1, np.int64))
    if form == "mask" and rle is not None:
        mask, origin = decode(rle, shape)
        return Prompt(kind="detected", mask=mask, mask_origin=origin)
    return Prompt(kind="detected", box=found.boxes[i])


def decode_detections(
    decoder: SamDecoder,
    frame: Tiled,
    found: Detections,
    *,
    form: str,
    window: int,
    progress: Progress = silent,
) -> list[FoundCell]:
    """Ask the decoder for the mask of every detection, tile by tile; empty answers are left out.

    Parameters
    ----------
    decoder : SamDecoder
    frame : its shape, its tiles, and their embeddings, which are asked for one at a time
    found : of this frame
    form : ``"box"``, ``"point"`` or ``"mask"``
    window : least positions along each side that a prompt reads
    progress : shown tile by tile
    """
    tiles, shape = frame.tiles, frame.shape
    home = scoring_tiles(found.boxes, tiles, shape)
    device = next(decoder.parameters()).device
    cells: list[FoundCell] = []
    places = np.unique(home)
    for tile in progress(places, total=len(places), what="draw cells, by tile"):
        members = np.flatnonzero(home == tile)
        prompts = [prompt_of(found, int(i), form, shape) for i in members]
        answers = predict_view(decoder, frame.embedding(int(tile)).to(device), tiles[tile], prompts, window=window)
        for i, answer in zip(members, answers, strict=True):
            if answer.is_empty:
                continue
            mask, origin = trim(answer.mask, answer.origin)
            box = float(box_iou([found.boxes[i]], [bbox(mask, origin)])[0, 0])
            rle = found.masks[i]
            coarse = box
            if rle is not None:
                other, corner = decode(rle, shape)
                coarse = overlap(mask, other, origin, corner).iou
            cells.append(
                FoundCell(
                    number=int(i),
                    mask=mask,
                    origin=origin,
                    score=float(found.scores[i]),
                    predicted_iou=answer.predicted_iou,
                    box_agreement=box,
                    mask_agreement=coarse,
                )
            )
    return cells


def resolve(cells: Sequence[FoundCell], shape: tuple[int, int]) -> tuple[npt.NDArray[np.int32], list[FoundCell]]:
    """Give every pixel to one cell: where masks overlap the higher predicted IoU wins, ties go to the higher score.

    A recovered cell takes only what others leave. A cell keeps its largest connected part; one that better ones took
    more than half of is dropped.

    Returns
    -------
    label : int32, (row, col), 0 background
    list of FoundCell
        With the masks that are left; the one at index i has label i + 1.
    """
    label = np.zeros(shape, np.int32)
    kept: list[FoundCell] = []
    for cell in sorted(cells, key=lambda c: (c.recovered, -c.predicted_iou, -c.score, c.number)):
        x, y = cell.origin
        part = label[y : y + cell.mask.shape[0], x : x + cell.mask.shape[1]]
        left = largest_piece(cell.mask & (part == 0))
        if left.sum() < max(LEAST_LEFT * cell.mask.sum(), 1):
            continue
        part[left] = len(kept) + 1
        mask, origin = trim(left, cell.origin)
        kept.append(replace(cell, mask=mask, origin=origin))
    return label, kept
