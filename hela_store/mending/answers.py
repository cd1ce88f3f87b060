"""Ask the decoder for better masks: one prompt a mask, some moved ones beside it, and one for what the answer left out.

An answer that differs much from its mask is a better prompt than the mask: it is given to the decoder once more.

A mask that two cells were merged into is answered with one of them. What is left of it is asked for in turn: a second
answer says that the mask wants to be split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch import Tensor

from hela_store.base.aliases import BoolArray
from hela_store.images.geometry import Rect, scoring_tiles
from hela_store.images.rle import bbox, largest_piece, paste, trim
from hela_store.metrics.boundaries import edge, signed_distance
from hela_store.metrics.overlap import equivalent_diameter, overlap
from hela_store.prompts.prompt import Prompt, prompt_rectangle
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.predict import predict_view

MOVE = 0.06
"""How far the moved prompts are moved, in diameters of the mask; their boundaries go out or in by as much."""
MOVES = ((1, -1, 1), (-1, 1, 1), (0, 0, -1.4))
"""Of each moved prompt: boundary outwards, shift along x, shift along y."""
AGREED = 0.85
"""Agreement of an answer with its mask below which the answer is the next prompt. On validation cells of Fluo-N2DL-HeLa
a second pass raises degraded masks from 0.912 to 0.928 and lowers good ones from 0.949 to 0.946."""
REST = 0.25
"""Share of a mask from which a piece that the answer left out is asked for in turn."""
RING = 0.3
"""Width of the ground around a mask that its edge is compared with, in diameters."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A mask as a crop of its frame.

    Attributes
    ----------
    mask : bool, (row, col)
    origin : (int, int)
        ``(x, y)`` px, frame.
    """

    mask: BoolArray
    origin: tuple[int, int]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    def iou(self, other: Piece) -> float:
        """Return the IoU with another mask of the frame."""
        return overlap(self.mask, other.mask, self.origin, other.origin).iou


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The decoder's answer to one mask, and the signs of how good it is.

    Attributes
    ----------
    old, new : Piece
        The mask that was given, and the answer, which may be empty.
    tile : int
        Number of the tile it was decoded in.
    predicted_iou : float
        The decoder's own estimate.
    agreement : float
        IoU of the answer with the mask that was given.
    steadiness : float
        Mean IoU of the answer with those to the moved prompts.
    contrast : float
        Log of the ratio of the edge contrasts of the answer and the mask, see :func:`edge_contrast`.
    rest : Answer or None
        The answer for what this one left out of the mask.
    """

    old: Piece
    new: Piece
    tile: int
    predicted_iou: float
    agreement: float
    steadiness: float
    contrast: float
    rest: Answer | None = None

    @property
    def signs(self) -> list[float]:
        """Return signs of a gain that need no labels; see :mod:`hela_store.mending.gate`."""
        apart = float(np.log(1.02 - self.agreement))
        return [self.predicted_iou, apart, apart**2, float(np.log(1.02 - self.steadiness)), self.contrast]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame in which masks are asked for.

    Attributes
    ----------
    shape : (int, int)
        ``(rows, cols)`` px.
    tiles : sequence of Rect
    embedding : callable
        Returns the embedding of a tile by its number, on the decoder's device.
    slope : float32, (row, col)
        Steepness of the image, see :func:`slope_of`.
    """

    shape: tuple[int, int]
    tiles: Sequence[Rect]
    embedding: Callable[[int], Tensor]
    slope: npt.NDArray[np.float32]


def slope_of(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return how steep an image is, float32, (row, col): the length of the gradient after a blur of 1 px."""
    result: npt.NDArray[np.float32] = ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 1.0)
    return result


def pieces_of(label: npt.NDArray[np.integer]) -> dict[int, Piece]:
    """Return the masks of a label image, integer (row, col), by their values."""
    # values may be in the millions, of which find_objects would make a list
    values = np.unique(label[label != 0])
    index = np.zeros(label.shape, np.int32)
    index[label != 0] = np.searchsorted(values, label[label != 0]) + 1
    places = enumerate(ndimage.find_objects(index), 1)
    return {
        int(values[number - 1]): Piece(mask=index[place] == number, origin=(place[1].start, place[0].start))
        for number, place in places
        if place is not None
    }


def ask(
    decoder: SamDecoder, frame: Frame, masks: Sequence[Piece], *, form: str, window: int, rests: bool = True
) -> list[Answer]:
    """Ask for better masks than these, tile by tile; return the answers in their order.

    Parameters
    ----------
    decoder : SamDecoder
    frame : Frame
    masks : sequence of Piece
        None is empty.
    form : str
        ``"mask"``, ``"box"`` or ``"both"``: what of a mask the decoder is given.
    window : int
        Positions along each side that a prompt reads at least.
    rests : bool
        Whether what an answer leaves out of its mask is asked for in turn.
    """
    how: dict[str, Any] = {"form": form, "window": window}
    first = _ask_once(decoder, frame, masks, **how)
    far = [i for i, answer in enumerate(first) if answer.agreement < AGREED and answer.new.mask.any()]
    second = _ask_once(decoder, frame, [first[i].new for i in far], **how)
    for i, answer in zip(far, second, strict=True):
        if answer.new.mask.any():
            first[i] = _refined(frame, first[i], answer)
    return _with_rests(decoder, frame, first, **how) if rests else first


def _refined(frame: Frame, first: Answer, second: Answer) -> Answer:
    """Return the second answer as one to the mask; how steady it is was seen around the mask."""
    contrast = _log_ratio(edge_contrast(frame.slope, second.new), edge_contrast(frame.slope, first.old))
    agreement = second.new.iou(first.old)
    return replace(first, new=second.new, predicted_iou=second.predicted_iou, agreement=agreement, contrast=contrast)


def _ask_once(decoder: SamDecoder, frame: Frame, masks: Sequence[Piece], *, form: str, window: int) -> list[Answer]:
    families = [[prompt_of(mask, form), *(prompt_of(m, form) for m in moved(mask, frame.shape))] for mask in masks]
    home = scoring_tiles([prompt_rectangle(family[0]) for family in families], frame.tiles, frame.shape)
    answers: dict[int, Answer] = {}
    for tile in np.unique(home):
        members: list[int] = np.flatnonzero(home == tile).tolist()
        asked = [prompt for i in members for prompt in families[i]]
        found = predict_view(decoder, frame.embedding(int(tile)), frame.tiles[tile], asked, window=window)
        size = len(MOVES) + 1
        for place, i in enumerate(members):
            first, *others = found[place * size : (place + 1) * size]
            new = Piece(mask=first.mask, origin=first.origin)
            answers[i] = Answer(
                old=masks[i],
                new=new,
                tile=int(tile),
                predicted_iou=first.predicted_iou,
                agreement=new.iou(masks[i]),
                steadiness=float(np.mean([new.iou(Piece(mask=o.mask, origin=o.origin)) for o in others])),
                contrast=_log_ratio(edge_contrast(frame.slope, new), edge_contrast(frame.slope, masks[i])),
            )
    return [answers[i] for i in range(len(masks))]


def _with_rests(decoder: SamDecoder, frame: Frame, answers: list[Answer], *, form: str, window: int) -> list[Answer]:
    left = {i: rest for i, answer in enumerate(answers) if (rest := rest_of(answer)) is not None}
    if not left:
        return answers
    found = ask(decoder, frame, list(left.values()), form=form, window=window, rests=False)
    for i, other in zip(left, found, strict=True):
        answers[i] = replace(answers[i], rest=other)
    return answers


def rest_of(answer: Answer) -> Piece | None:
    """Return the largest piece of a mask that its answer left out; None where it is small."""
    old, new = answer.old, answer.new
    if not new.mask.any():
        return None
    covered = ndimage.binary_dilation(paste(new.mask, new.origin, old.mask.shape, old.origin))
    rest, origin = trim(largest_piece(old.mask & ~covered), old.origin)
    return Piece(mask=rest, origin=origin) if rest.sum() >= REST * old.area else None


def prompt_of(mask: Piece, form: str) -> Prompt:
    """Return the prompt that a mask becomes."""
    box = np.asarray(bbox(mask.mask, mask.origin), float)
    if form == "box":
        return Prompt(kind="box", box=box)
    if form == "both":
        return Prompt(kind="box+mask", box=box, mask=mask.mask, mask_origin=mask.origin)
    return Prompt(kind="mask", mask=mask.mask, mask_origin=mask.origin)


def moved(mask: Piece, shape: tuple[int, int]) -> list[Piece]:
    """Return a mask moved by a little in several ways, within a frame of ``shape`` (rows, cols); none is empty."""
    step = MOVE * equivalent_diameter(mask.area)
    margin = int(np.ceil(3 * step)) + 1
    distance = signed_distance(np.pad(mask.mask, margin))
    found = []
    for outwards, right, down in MOVES:
        wanted = ndimage.shift(distance, (down * step, right * step), order=1, mode="nearest") > -outwards * step
        x, y = mask.origin[0] - margin, mask.origin[1] - margin
        inside = wanted[max(-y, 0) : max(shape[0] - y, 0), max(-x, 0) : max(shape[1] - x, 0)]
        crop, origin = trim(inside, (max(x, 0), max(y, 0)))
        found.append(Piece(mask=crop, origin=origin) if crop.any() else mask)
    return found


def edge_contrast(slope: npt.NDArray[np.float32], mask: Piece) -> float:
    """Return how steep the image is along the edge of a mask, beside the ground near that edge; 1 where it is alike."""
    if not mask.mask.any():
        return 1.0
    margin = max(2, round(RING * equivalent_diameter(mask.area)))
    wide = np.pad(mask.mask, margin)
    x, y = mask.origin[0] - margin, mask.origin[1] - margin
    part = slope[max(y, 0) : y + wide.shape[0], max(x, 0) : x + wide.shape[1]]
    wide = wide[max(-y, 0) : max(-y, 0) + part.shape[0], max(-x, 0) : max(-x, 0) + part.shape[1]]
    near = np.abs(signed_distance(wide)) <= margin
    return float((part[edge(wide)].mean() + 1e-6) / (part[near].mean() + 1e-6))


def _log_ratio(one: float, other: float) -> float:
    return float(np.log(max(one, 1e-3) / max(other, 1e-3)))
