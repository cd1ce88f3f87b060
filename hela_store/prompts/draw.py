"""Prompts drawn from the truth (rules "prompts" and "mask prompts").

Evaluation prompts depend on (cell, kind, prompt seed) alone, so that runs are compared on identical prompts. Training
uses the same functions with its own generator, keyed by (seed, epoch, step, cell).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, FloatArray
from hela_store.base.rng import generator
from hela_store.errors import PromptError
from hela_store.images.rle import largest_piece, trim

from .context import CellContext, cell_context, cell_contexts
from .degraded import draw_degraded_mask
from .error_model import BINS, GENERIC, ErrorModel
from .kinds import PROMPT_KINDS
from .logits import to_mask_logits
from .prompt import Prompt

__all__ = [
    "JITTER",
    "CellContext",
    "DrawnPrompt",
    "add_negative_points",
    "cell_context",
    "cell_contexts",
    "centre_point",
    "check_prompt_kind",
    "clicks_of",
    "corrective_click",
    "draw_box",
    "draw_mask",
    "draw_point",
    "draw_prompt",
    "make_prompt",
    "point_at_depth",
    "to_mask_logits",
]

JITTER = 0.05
"""Standard deviation of a side's jitter, as a share of the box's extent across that side (rule "prompts")."""
CLICKS = 3
"""Of a ``"point-clicks"`` prompt, where nothing else is said."""
RANGES = {
    "box": ("the jitter", 0.0, 1.0),
    "point": ("the depth", 0.0, 1.0),
    "mask": ("the prompt's IoU", BINS[0][0], BINS[-1][1]),
    "point-clicks": ("the number of clicks", 1.0, 100.0),
}
"""What a setting behind a kind's ``@`` says, and from where to where it goes."""
NEGATIVE_REACH = 0.5
"""How far outside of the cell negative points lie at most, in cell diameters."""


@dataclass(frozen=True, kw_only=True)
class DrawnPrompt(Prompt):
    """A prompt that was drawn, and how.

    Attributes
    ----------
    params : dict
        Plain values: ``jitter`` for boxes; ``bin`` (its two ends), ``redraws``, ``prompt_iou`` and ``event`` for masks.
    """

    params: dict[str, float | int | str | list[float]] = field(default_factory=dict)

    @property
    def prompt_iou(self) -> float | None:
        """The IoU of a mask prompt with the truth."""
        value = self.params.get("prompt_iou")
        return float(value) if isinstance(value, float) else None


def make_prompt(
    kind: str,
    cell: CellContext,
    seed: int,
    *,
    jitter: float = JITTER,
    negatives: int = 0,
    model: ErrorModel = GENERIC,
) -> DrawnPrompt:
    """Make the evaluation prompt of a cell.

    Parameters
    ----------
    kind : str
        One of ``PROMPT_KINDS`` but ``"mask-previous"`` and ``"point-clicks"``, which take a decoder; or a setting of
        one, see :func:`draw_prompt`.
    cell : CellContext
    seed : int
        The prompt seed.
    jitter : float
        See :func:`draw_box`; boxes of one seed move along the same direction for all jitters.
    negatives : int
        Number of points outside of the cell to add to a point prompt; they move nothing else.
    model : ErrorModel
        How mask prompts differ from the truth.

    Raises
    ------
    PromptError
        The kind is unknown or takes a decoder, or a parameter is out of range.
    """
    # settings of one kind share their draws: a box moves along the same direction for all jitters
    prompt = draw_prompt(generator(cell.cell, kind.partition("@")[0], seed), kind, cell, jitter=jitter, model=model)
    if negatives:
        prompt = add_negative_points(generator(cell.cell, kind, seed, "negatives"), cell, prompt, negatives)
    return prompt


def draw_prompt(
    rng: np.random.Generator, kind: str, cell: CellContext, *, jitter: float = JITTER, model: ErrorModel = GENERIC
) -> DrawnPrompt:
    """Draw a prompt of any kind from a generator; parameters and errors as :func:`make_prompt`.

    ``"box+mask"`` has both parts. ``"box@0.1"`` is a box with a jitter of 10 %, ``"point@0.25"`` a click a quarter
    of the way from the cell's edge to its innermost pixel, ``"mask@0.45"`` a mask prompt of about this IoU.
    """
    if "+" in kind:
        parts = [draw_prompt(rng, part, cell, jitter=jitter, model=model) for part in kind.split("+")]
        given = {name: value for part in parts for name, value in vars(part).items() if value is not None}
        return DrawnPrompt(**given | {"kind": kind, "params": {k: v for part in parts for k, v in part.params.items()}})
    base, _, setting = kind.partition("@")
    if setting and base in ("box", "point", "mask"):
        return _draw_setting(rng, base, _number(kind, setting), cell)
    if kind == "box":
        box = draw_box(rng, cell.box, cell.frame_shape, jitter)
        return DrawnPrompt(kind=kind, box=box, params={"jitter": jitter})
    if kind == "box-exact":
        return DrawnPrompt(kind=kind, box=cell.box.copy())
    if kind in ("point", "point-centre"):
        point = draw_point(rng, cell.mask) if kind == "point" else centre_point(cell.mask)
        return DrawnPrompt(kind=kind, points=(point + cell.origin)[None], point_labels=np.ones(1, np.int64))
    if kind == "mask":
        return draw_mask(rng, cell, model=model)
    if kind == "mask-perfect":
        mask, origin = trim(cell.mask, cell.origin)
        return DrawnPrompt(kind=kind, mask=mask, mask_origin=origin, params={"prompt_iou": 1.0})
    if base in ("mask-previous", "point-clicks"):
        raise PromptError(f"a {kind!r} prompt needs the decoder's own first answer and cannot be drawn from truth")
    raise PromptError(f"prompt {kind!r} is unknown, expected one of {', '.join(PROMPT_KINDS)}")


def check_prompt_kind(kind: str) -> str:
    """Return ``kind``; PromptError unless it is one of ``PROMPT_KINDS`` or a setting of one, such as ``"box@0.1"``."""
    base, at, setting = kind.partition("@")
    if base not in PROMPT_KINDS or (at and base not in RANGES):
        raise PromptError(f"prompt {kind!r} is unknown, expected one of {', '.join(PROMPT_KINDS)}")
    if at:
        _number(kind, setting)
    return kind


def clicks_of(kind: str) -> int:
    """Return how many clicks a prompt kind stands for: 3 for ``"point-clicks"``, 5 for ``"point-clicks@5"``, else 1."""
    base, _, setting = kind.partition("@")
    return (int(_number(kind, setting)) if setting else CLICKS) if base == "point-clicks" else 1


def _number(kind: str, setting: str) -> float:
    try:
        value = float(setting)
    except ValueError:
        raise PromptError(f"prompt {kind!r}: {setting!r} is no number; write e.g. 'box@0.1'") from None
    what, low, high = RANGES[kind.partition("@")[0]]
    if not low <= value <= high:
        raise PromptError(f"prompt {kind!r}: {what} is {setting}, expected {low:g} to {high:g}")
    return value


def _draw_setting(rng: np.random.Generator, base: str, value: float, cell: CellContext) -> DrawnPrompt:
    kind = f"{base}@{value:g}"
    if base == "box":
        return replace(draw_prompt(rng, "box", cell, jitter=value), kind=kind)
    if base == "point":
        point = point_at_depth(rng, cell.mask, value) + cell.origin
        return DrawnPrompt(kind=kind, points=point[None], point_labels=np.ones(1, np.int64), params={"depth": value})
    index = min(int(np.searchsorted([high for _, high in BINS], value, "right")), len(BINS) - 1)
    return replace(draw_mask(rng, cell, index), kind=kind)


def draw_box(
    rng: np.random.Generator, box: FloatArray, frame_shape: tuple[int, int], jitter: float = JITTER
) -> npt.NDArray[np.float64]:
    """Move each side of a box by N(0, jitter times the box's extent across it).

    Parameters
    ----------
    box : (4,) float, ``(x0, y0, x1, y1)`` px, frame
    frame_shape : (int, int)
        ``(rows, cols)`` px.
    jitter : float
        0 gives the box back.

    Returns
    -------
    float64, (4,)
        Within the frame, each side at least 1 px long, never inverted.

    Raises
    ------
    PromptError
        Jitter is negative or not finite.
    """
    if not (np.isfinite(jitter) and jitter >= 0):
        raise PromptError(f"jitter is {jitter}, expected a share of the box's extent, 0 or more")
    x0, y0, x1, y1 = (float(value) for value in box)
    extent = np.asarray([x1 - x0, y1 - y0] * 2)
    moved = np.asarray([x0, y0, x1, y1]) + rng.standard_normal(4) * jitter * extent
    for low, limit in ((0, frame_shape[1]), (1, frame_shape[0])):
        first, last = moved[low], moved[low + 2]
        if last - first < 1.0:
            middle = (first + last) / 2
            first, last = middle - 0.5, middle + 0.5
        moved[low] = min(max(first, 0.0), limit - 1.0)
        moved[low + 2] = max(min(last, float(limit)), moved[low] + 1.0)
    return moved


def _edge_distance(mask: BoolArray) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
    """Return the distance of pixel centres to the nearest one outside, around the cell, and where that begins, (x, y).

    Beyond the crop is outside.
    """
    crop, origin = trim(mask)
    distance: npt.NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(crop, 1))[1:-1, 1:-1]
    return distance, origin


def draw_point(rng: np.random.Generator, mask: BoolArray) -> npt.NDArray[np.float64]:
    """Draw a pixel of the cell uniformly from those at least 1 px from its edge.

    Where the cell is too thin to have one, the centre (:func:`centre_point`) is taken; the generator moves on all the
    same.

    Parameters
    ----------
    mask : bool, (row, col)
        Not empty. Its border counts as an edge, as a frame's border does.

    Returns
    -------
    float64, (2,), ``(x, y)`` px, of the crop
    """
    crop, (x, y) = trim(mask)
    # the edge runs half a pixel short of the nearest pixel outside, so none of the eight around may be outside
    rows, columns = np.nonzero(ndimage.minimum_filter(crop, 3, mode="constant"))
    place = rng.random()
    if not len(rows):
        return centre_point(mask)
    index = int(place * len(rows))
    return np.asarray([columns[index] + x, rows[index] + y], float)


def point_at_depth(rng: np.random.Generator, mask: BoolArray, depth: float) -> npt.NDArray[np.float64]:
    """Draw one of the pixels nearest to a depth: 0 the cell's edge, 1 its innermost pixel; result as `draw_point`."""
    distance, (x, y) = _edge_distance(mask)
    rows, columns = np.nonzero(distance)
    inside = distance[rows, columns]
    away = np.abs(inside - (inside.min() + depth * (inside.max() - inside.min())))
    near = np.flatnonzero(away <= away.min() + 0.5)
    index = near[int(rng.random() * len(near))]
    return np.asarray([columns[index] + x, rows[index] + y], float)


def corrective_click(
    predicted: BoolArray, truth: BoolArray, origin: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], int] | None:
    """Return the click a patient user makes next: in the middle of the largest piece of what is wrong.

    Parameters
    ----------
    predicted, truth : bool, (row, col)
        The same crop of the frame.
    origin : (int, int)
        ``(x, y)`` px, frame, of its first pixel.

    Returns
    -------
    point : float64, (2,), ``(x, y)`` px, frame
    label : 1 where cell was missed, 0 where background was taken for it; None where nothing is wrong
    """
    wrong = predicted != truth
    if not wrong.any():
        return None
    x, y = centre_point(largest_piece(wrong))
    return np.asarray([x, y]) + origin, int(truth[int(y), int(x)])


def centre_point(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Return the pixel furthest from the cell's edge, of several the one nearest to their mean.

    Parameters and result as :func:`draw_point`; distances are between pixel centres.
    """
    distance, (x, y) = _edge_distance(mask)
    rows, columns = np.nonzero(distance >= distance.max() - 1e-9)
    index = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return np.asarray([columns[index] + x, rows[index] + y], float)


def draw_mask(
    rng: np.random.Generator, cell: CellContext, bin: int | None = None, model: ErrorModel = GENERIC
) -> DrawnPrompt:
    """Draw a mask prompt: the truth degraded by rule "mask prompts", see :mod:`hela_store.prompts.degraded`.

    Parameters
    ----------
    rng : np.random.Generator
    cell : CellContext
    bin : int, optional
        Which of the model's bins the prompt's own IoU belongs to; drawn where None.
    model : ErrorModel
        How masks differ from the truth.
    """
    drawn = draw_degraded_mask(rng, cell, bin, model)
    params: dict[str, float | int | str | list[float]] = {
        "bin": list(model.bins[drawn.bin]),
        "redraws": drawn.redraws,
        "prompt_iou": drawn.prompt_iou,
        "event": drawn.event,
    }
    return DrawnPrompt(kind="mask", mask=drawn.mask, mask_origin=drawn.origin, params=params)


def add_negative_points(rng: np.random.Generator, cell: CellContext, prompt: DrawnPrompt, count: int) -> DrawnPrompt:
    """Add points outside of the cell, label 0, drawn uniformly from 1 px to half a diameter off its edge.

    Fewer are added where there are fewer such pixels.

    Raises
    ------
    PromptError
        The prompt has no points, or the count is negative.
    """
    if prompt.points is None or prompt.point_labels is None:
        raise PromptError(f"negative points go with a point prompt, not with {prompt.kind!r}")
    if count < 0:
        raise PromptError(f"{count} negative points, expected 0 or more")
    outside = -cell.distance
    rows, columns = np.nonzero((outside >= 1.0) & (outside <= max(NEGATIVE_REACH * cell.diameter, 2.0)))
    chosen = rng.permutation(len(rows))[:count]
    x, y = cell.origin[0] + cell.near[1].start, cell.origin[1] + cell.near[0].start
    extra = np.stack([columns[chosen] + x, rows[chosen] + y], axis=1).astype(float)
    return DrawnPrompt(
        kind=prompt.kind,
        points=np.concatenate([prompt.points, extra]),
        point_labels=np.concatenate([prompt.point_labels, np.zeros(len(extra), np.int64)]),
        params={**prompt.params, "negatives": len(extra)},
    )
