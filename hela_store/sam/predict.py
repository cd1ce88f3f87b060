"""From prompts of one view to masks in frame coordinates.

Every prompt reads a window of the embedding around it (see :mod:`hela_store.sam.decoder`). Which window follows from
the prompt and the recipe alone, never from the truth; it grows only where the *predicted* mask touches its edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hela_store.base.aliases import BoolArray
from hela_store.errors import RecipeError
from hela_store.images.geometry import EMBEDDING_POSITIONS, Rect, box_to_sam, frame_to_sam, resized_shape, view_scale
from hela_store.images.rle import filled, largest_piece, trim
from hela_store.prompts.logits import LOGIT, to_mask_logits
from hela_store.prompts.prompt import Prompt

from .decoder import INPUT, LOGITS, POSITION, SamDecoder, SamPrompts, view_tokens

WINDOWS = (8, 16, 32, 64)
"""Sizes a window may have, positions along each side; 64 is SAM's own."""
STEP = INPUT // (EMBEDDING_POSITIONS * LOGITS)
"""SAM input px per low-resolution logit."""
WINDOW_MARGIN = 2
"""Positions a window is wider than what the prompt spans, at least."""
POSITIONS = {"cpu": 4096, "cuda": 65536, "mps": 65536}
"""Positions decoded at once, of all prompts together: on a CPU what its caches hold."""
DEFAULT_WINDOW = {"nano": 16, "nano2": 16, "vit_t": 64, "vit_b": 64, "vit_l": 64, "vit_h": 64}
"""Where a smaller window is not worse: nano was trained with windows, the others were not."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The decoder's answer to one prompt.

    Attributes
    ----------
    mask : bool, (row, col)
        A crop of the frame; (0, 0) if nothing was predicted.
    origin : (int, int)
        ``(x, y)`` px, frame, of the mask's first pixel.
    predicted_iou : float
    logits : float32, (4 window, 4 window)
        Low-resolution logits of the window.
    corner : (int, int)
        ``(x, y)`` of the window's first position in the 64x64 grid.
    others : of (mask, origin)
        Where three masks were asked for, the two of lower predicted IoU.
    """

    mask: BoolArray
    origin: tuple[int, int]
    predicted_iou: float
    logits: Logits
    corner: tuple[int, int]
    others: tuple[tuple[BoolArray, tuple[int, int]], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no pixel was predicted."""
        return not self.mask.any()


def check_window(window: int) -> int:
    """Return ``window``; RecipeError unless it is one of :data:`WINDOWS`."""
    if window not in WINDOWS:
        raise RecipeError(f"window is {window}, expected one of {', '.join(map(str, WINDOWS))} positions")
    return window


def window_sizes(prompts: SamPrompts, window: int) -> npt.NDArray[np.int64]:
    """Return the window each prompt reads: ``window``, or the next size that holds what the prompt spans; (B,)."""
    extents = prompts.extents()
    span = ((extents[:, 2:] - extents[:, :2]).amax(1) / POSITION).ceil().cpu().numpy() + WINDOW_MARGIN
    sizes = np.array(WINDOWS)
    index = np.minimum(np.searchsorted(sizes, np.maximum(span, window)), len(WINDOWS) - 1)
    found: npt.NDArray[np.int64] = sizes[index].astype(np.int64)
    return found


def is_lone_point(prompt: Prompt) -> bool:
    """Whether several masks may be meant, so that the decoder is asked for three and the best predicted IoU taken."""
    return prompt.box is None and prompt.mask is None and prompt.points is not None and len(prompt.points) == 1


def sam_prompts(
    prompts: Sequence[Prompt], rect: Rect, logits: Sequence[Logits | None] | None = None, device: str = "cpu"
) -> SamPrompts:
    """Bring prompts of one form (same parts given, same number of points) to the SAM input of a view.

    Parameters
    ----------
    prompts : in frame coordinates
    rect : of the view, ``(x0, y0, width, height)`` px, frame
    logits : float32, (256, 256) each; in place of a prompt's own mask, where given
    """
    first = prompts[0]
    given = list(logits) if logits is not None else [None] * len(prompts)
    boxes = points = labels = masks = None
    if first.box is not None:
        boxes = torch.from_numpy(np.stack([box_to_sam(p.box, rect) for p in prompts if p.box is not None])).float()
    if first.points is not None:
        points = torch.from_numpy(np.stack([frame_to_sam(p.points, rect) for p in prompts if p.points is not None]))
        labels = torch.from_numpy(np.stack([p.point_labels for p in prompts if p.point_labels is not None])).float()
    if first.mask is not None or given[0] is not None:
        planes = [_plane(p, own, rect) for p, own in zip(prompts, given, strict=True)]
        masks = torch.from_numpy(np.stack(planes))[:, None]
    parts = (boxes, None if points is None else points.float(), labels, masks)
    boxes, points, labels, masks = (None if part is None else part.to(device) for part in parts)
    return SamPrompts(boxes=boxes, points=points, point_labels=labels, masks=masks)


def _plane(prompt: Prompt, own: Logits | None, rect: Rect) -> Logits:
    if own is not None:
        return own
    assert prompt.mask is not None
    return to_mask_logits(prompt.mask, prompt.mask_origin, rect)


def _form(prompt: Prompt, logits: Logits | None) -> tuple[bool, int, bool]:
    count = 0 if prompt.points is None else len(prompt.points)
    return prompt.box is not None, count, prompt.mask is not None or logits is not None


@torch.no_grad()
def predict_view(
    decoder: SamDecoder,
    embedding: torch.Tensor,
    rect: Rect,
    prompts: Sequence[Prompt],
    *,
    window: int,
    logits: Sequence[Logits | None] | None = None,
    one_piece: bool = True,
) -> list[Prediction]:
    """Decode all prompts of one view.

    Parameters
    ----------
    decoder : on the same device as ``embedding``
    embedding : float16 or float32, (256, 64, 64)
    rect : of the view, ``(x0, y0, width, height)`` px, frame
    prompts : of any kinds, in frame coordinates
    window : least positions along each side that a prompt reads, one of :data:`WINDOWS`
    logits : float32, (256, 256) each, or None: mask prompts that are logits already (a first pass's own)
    one_piece : of a mask in several pieces keep the one with most pixels in the box, on the prompt's mask or under
        its clicks, else the largest, and fill its holes, as a cell is one piece; False for all that the decoder
        answers, as ``SamPredictor`` gives it

    Returns
    -------
    list of Prediction
        In the order of ``prompts``.
    """
    given = list(logits) if logits is not None else [None] * len(prompts)
    out: dict[int, Prediction] = {}
    forms: dict[tuple[bool, int, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        forms.setdefault(_form(prompt, given[i]), []).append(i)
    tokens = view_tokens(embedding)
    for members in forms.values():
        sam = sam_prompts([prompts[i] for i in members], rect, [given[i] for i in members], str(embedding.device))
        multimask = is_lone_point(prompts[members[0]]) and given[members[0]] is None
        found = decode_growing(decoder, tokens, sam, window_sizes(sam, window), multimask)
        for i, answer in zip(members, found, strict=True):
            out[i] = _prediction(prompts[i], answer, rect, one_piece=one_piece)
    return [out[i] for i in range(len(prompts))]


@torch.no_grad()
def predict_best(decoder: SamDecoder, tokens: torch.Tensor, rect: Rect, prompt: Prompt, *, window: int) -> Prediction:
    """Decode one prompt of a view that is asked many times: the first mask of :func:`predict_view`, without ``others``.

    Parameters
    ----------
    decoder, rect, window : as there
    tokens : float32, (4096, 256), as :func:`hela_store.sam.decoder.view_tokens` gives them
    prompt : in frame coordinates
    """
    sam = sam_prompts([prompt], rect, device=str(tokens.device))
    (answer,) = decode_growing(decoder, tokens, sam, window_sizes(sam, window), is_lone_point(prompt))
    return _prediction(prompt, answer, rect, most=1)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The decoder's raw answer to one prompt.

    Attributes
    ----------
    planes : float32, (M, 4 window, 4 window)
        Low-resolution logits of the window, in the decoder's own order.
    ious : float32, (M,)
        Predicted IoU of each.
    corner : (int, int)
        ``(x, y)`` of the window's first position in the 64x64 grid.
    """

    planes: Logits
    ious: Logits
    corner: tuple[int, int]


def _prediction(
    prompt: Prompt, answer: Answer, rect: Rect, *, one_piece: bool = True, most: int | None = None
) -> Prediction:
    """Return the masks of an answer in frame coordinates, the highest predicted IoU first, at most ``most``."""
    best = np.argsort(-answer.ious, kind="stable")
    planes, corner = answer.planes[best], answer.corner
    masks = [frame_mask(plane, corner, rect) for plane in planes[:most]]
    if one_piece:
        masks = [_one_piece(prompt, *mask) for mask in masks]
    (mask, origin), *others = masks
    about = {"predicted_iou": float(answer.ious[best[0]]), "logits": planes[0].copy(), "corner": corner}
    return Prediction(mask=mask, origin=origin, others=tuple(others), **about)


def decode_growing(
    decoder: SamDecoder,
    tokens: torch.Tensor,
    prompts: SamPrompts,
    sizes: npt.NDArray[np.int64],
    multimask: bool,
    *,
    every: bool = False,
) -> list[Answer]:
    """Decode prompts in windows; a window grows while the predicted mask touches its edge.

    Parameters
    ----------
    decoder : on the same device as ``tokens``
    tokens : float32, (4096, 256), as :func:`hela_store.sam.decoder.view_tokens` gives them
    prompts : B prompts
    sizes : int64, (B,), the least window of each, from :func:`window_sizes`; changed to those that were used
    multimask : whether three masks are wanted instead of one
    every : whether each of three masks must lie inside; otherwise the one with the highest predicted IoU alone
    """
    found: dict[int, Answer] = {}
    for size in WINDOWS:
        todo = np.flatnonzero(sizes == size)
        chunk = max(1, POSITIONS[tokens.device.type] // size**2)
        for start in range(0, len(todo), chunk):
            part = todo[start : start + chunk]
            decoded = decoder(
                tokens, prompts.take(torch.from_numpy(part).to(tokens.device)), window=size, multimask=multimask
            )
            planes, ious = decoded.logits.float().cpu().numpy(), decoded.iou.float().cpu().numpy()
            for i, several, iou, corner in zip(part, planes, ious, decoded.origins.cpu().numpy(), strict=True):
                judged = several if every else several[[int(iou.argmax())]]
                if size < EMBEDDING_POSITIONS and any(_touches_edge(plane, corner, size) for plane in judged):
                    sizes[i] = size * 2
                else:
                    found[int(i)] = Answer(planes=several, ious=iou, corner=(int(corner[0]), int(corner[1])))
    return [found[i] for i in range(len(sizes))]


def _touches_edge(plane: Logits, corner: npt.NDArray[np.int64], size: int) -> bool:
    inside = plane > 0
    sides = (
        (corner[1] > 0, inside[0]),
        (corner[0] > 0, inside[:, 0]),
        (corner[1] + size < EMBEDDING_POSITIONS, inside[-1]),
        (corner[0] + size < EMBEDDING_POSITIONS, inside[:, -1]),
    )
    return any(open_side and edge.any() for open_side, edge in sides)


def whole_logits(prediction: Prediction) -> Logits:
    """Return a prediction's logits on SAM's whole 256x256 grid, float32; what its window did not show is background."""
    return whole_plane(prediction.logits, prediction.corner)


def whole_plane(window: Logits, corner: tuple[int, int]) -> Logits:
    """Return the logits of a window, float32, (4 window, 4 window), on the whole grid, as :func:`whole_logits`."""
    plane = np.full((EMBEDDING_POSITIONS * LOGITS, EMBEDDING_POSITIONS * LOGITS), -LOGIT, np.float32)
    x, y = corner[0] * LOGITS, corner[1] * LOGITS
    height, width = window.shape
    plane[y : y + height, x : x + width] = window
    return plane


def frame_mask(
    plane: Logits, corner: tuple[int, int], rect: Rect, *, rounded: bool = False
) -> tuple[BoolArray, tuple[int, int]]:
    """Upsample a window's logits to frame pixels as SAM does and threshold; the crop ends at the view's borders.

    Parameters
    ----------
    plane : float32, (4 window, 4 window)
    corner : ``(x, y)`` of the window's first position in the 64x64 grid
    rect : of the view, ``(x0, y0, width, height)`` px, frame
    rounded : whether the resized view has whole pixels, as in ``SamPredictor``; its shorter side is off by up to half
        a pixel of SAM's input then

    Returns
    -------
    mask : bool, (row, col)
    origin : ``(x, y)`` px, frame, of its first pixel
    """
    inside = plane > 0
    if not inside.any():
        return np.zeros((0, 0), bool), (rect[0], rect[1])
    scales = [view_scale(rect)] * 2
    if rounded:
        scales = [length / side for length, side in zip(resized_shape((rect[3], rect[2])), rect[:1:-1], strict=True)]
    fine, origin = plane, []
    for axis, (first, length, scale) in enumerate(((corner[1], rect[3], scales[0]), (corner[0], rect[2], scales[1]))):
        pitch = STEP / scale
        there = np.flatnonzero(inside.any(1 - axis)) + first * LOGITS
        # one px more than direct interpolation reaches: SAM's goes by way of its input
        start = max(math.floor((there[0] - 0.5) * pitch) - 1, 0)
        stop = min(math.ceil((there[-1] + 1.5) * pitch) + 1, length)
        if stop <= start:
            return np.zeros((0, 0), bool), (rect[0], rect[1])
        place = ((np.arange(start, stop) + 0.5) * scale - 0.5).clip(0, length * scale - 1)
        fine = _resampled(fine, place, first * LOGITS, axis)
        origin.append(start)
    mask, (left, top) = trim(fine > 0)
    return mask, (rect[0] + origin[1] + left, rect[1] + origin[0] + top)


def _one_piece(prompt: Prompt, mask: BoolArray, origin: tuple[int, int]) -> tuple[BoolArray, tuple[int, int]]:
    return trim(filled(largest_piece(mask, _asked_for(prompt, mask.shape, origin))), origin)


def _asked_for(prompt: Prompt, shape: tuple[int, ...], origin: tuple[int, int]) -> BoolArray:
    """Return where in a crop the prompt says that the cell is: in its box, else on its mask, else under its clicks."""
    asked = np.zeros(shape, bool)
    if prompt.box is not None:
        left, top = np.floor(prompt.box[:2] - origin).astype(int).clip(0)
        right, bottom = np.ceil(prompt.box[2:] - origin).astype(int).clip(0)
        asked[top:bottom, left:right] = True
        return asked
    if prompt.mask is not None:
        columns, rows = (at - corner for at, corner in zip(prompt.mask_origin, origin, strict=True))
        places = np.argwhere(prompt.mask) + (rows, columns)
    else:
        assert prompt.points is not None and prompt.point_labels is not None
        places = np.floor(prompt.points[prompt.point_labels == 1][:, ::-1] + 0.5).astype(int) - origin[::-1]
    there = ((places >= 0) & (places < shape)).all(1)
    asked[tuple(places[there].T)] = True
    return asked


def _resampled(values: Logits, place: npt.NDArray[np.float64], first: int, axis: int) -> Logits:
    """Interpolate linearly twice, as SAM does: from logits to every input px, from these to ``place``, input px.

    ``first`` is the logit, counted on the whole grid, with which ``values`` begin along ``axis``.
    """
    low = np.floor(place)
    high = np.minimum(low + 1, INPUT - 1)
    size = values.shape[axis] - 1
    parts = [_lerp(values, ((at + 0.5) / STEP - 0.5 - first).clip(0, size), axis) for at in (low, high)]
    weight = (place - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    mixed: Logits = parts[0] * (1 - weight) + parts[1] * weight
    return mixed


def _lerp(values: Logits, place: npt.NDArray[np.float64], axis: int) -> Logits:
    low = np.minimum(place.astype(int), values.shape[axis] - 2)
    weight = (place - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    mixed: Logits = values.take(low, axis) * (1 - weight) + values.take(low + 1, axis) * weight
    return mixed
