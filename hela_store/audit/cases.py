"""Labels as they are judged: those of the store, copies with injected faults, and places without a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images.rle import filled, largest_piece
from hela_store.prompts.context import CellContext, cell_context
from hela_store.store.records import CellRecord

REACH = 0.35
"""Two labels are merged where the gap between them is at most this many diameters."""
LEAST_PIXELS = 12
"""An injected fault that leaves fewer pixels of a label is not used."""
TRIES = 10
"""Empty places of which debris takes the brightest."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A label, or a place without one, in a crop of its frame.

    Attributes
    ----------
    context : the label and its surroundings; of a place, its label is painted in once the decoder has answered
    cell : id of the store's cell that it is or was; empty for debris and places
    fault : kind of the injected fault; empty for a label as it is in the store
    box : ``(x0, y0, x1, y1)`` px, frame, where a place is asked for; None for a label
    """

    context: CellContext
    cell: str = ""
    fault: str = ""
    box: tuple[float, float, float, float] | None = None


def label_case(label: LabelArray, cell: CellRecord) -> Case:
    """Return a label as it is in the store; ``label`` is the frame's, integer, (row, col)."""
    return Case(context=cell_context(label, cell.label, cell.cell, cell.box), cell=cell.cell)


def injected(case: Case, kind: str, rng: np.random.Generator) -> Case | None:
    """Return a copy of a label with a fault; None where the label cannot have it, such as a merge of a lone cell.

    Parameters
    ----------
    case : from :func:`label_case`
    kind : one of :data:`hela_store.audit.config.FAULTS`, but those of :func:`debris` and :func:`renamed`
    rng : np.random.Generator
    """
    labels = _INJECT[kind](case.context, rng)
    if labels is None:
        return None
    left = int((labels == case.context.label).sum())
    if kind != "missing" and (left < LEAST_PIXELS or np.array_equal(labels, case.context.labels)):
        return None
    return replace(case, context=_with(case.context, labels), fault=kind)


def debris(case: Case, frame: LabelArray, image: npt.NDArray[np.generic], rng: np.random.Generator) -> Case | None:
    """Return a label of a cell's form, made smaller, at the brightest of a few places of the frame without labels.

    Parameters
    ----------
    case : whose form it gets
    frame : labels of the whole frame, integer, (row, col)
    image : of the frame, (row, col)
    rng : np.random.Generator
    """
    small = ndimage.zoom(case.context.mask[case.context.near].astype(np.float32), rng.uniform(0.4, 0.9), order=1) > 0.5
    mask = largest_piece(small)
    if mask.sum() < LEAST_PIXELS or any(s + 2 >= f for s, f in zip(mask.shape, frame.shape, strict=True)):
        return None
    places: list[tuple[float, int, int]] = []
    for _ in range(20 * TRIES):
        y, x = (int(rng.integers(1, f - s - 1)) for f, s in zip(frame.shape, mask.shape, strict=True))
        window = (slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1]))
        if not frame[window][mask].any():
            places.append((float(image[window][mask].mean()), y, x))
        if len(places) == TRIES:
            break
    if not places:
        return None
    _, y, x = max(places)
    label = int(frame.max()) + 1
    painted = frame.copy()
    painted[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = label
    box = (x, y, x + mask.shape[1], y + mask.shape[0])
    return Case(context=cell_context(painted, label, case.context.cell, box), fault="debris")


def renamed(case: Case, rng: np.random.Generator) -> Case:
    """Return a copy of a label with the number of a cell near it, which gets its number; a new number for a lone cell.

    Parameters
    ----------
    case : from :func:`label_case`
    rng : np.random.Generator
    """
    labels, own = case.context.labels, case.context.label
    near = np.setdiff1d(labels, [0, own])
    other = int(rng.choice(near)) if len(near) else int(labels.max()) + 1
    swapped = labels.copy()
    swapped[labels == own], swapped[labels == other] = other, own
    return replace(case, context=replace(_with(case.context, swapped), label=other), fault="identity")


def painted(case: Case, mask: BoolArray, origin: tuple[int, int]) -> Case | None:
    """Return a place with the decoder's answer painted in as its label; None where labels hold most of it.

    Parameters
    ----------
    case : a place
    mask, origin : bool (row, col) and ``(x, y)`` px, frame, of the answer
    """
    context = case.context
    labels, number = context.labels.copy(), int(context.labels.max()) + 1
    y, x = origin[1] - context.origin[1], origin[0] - context.origin[0]
    top, left = max(-y, 0), max(-x, 0)
    inside = mask[top : labels.shape[0] - y, left : labels.shape[1] - x]
    window = labels[y + top : y + top + inside.shape[0], x + left : x + left + inside.shape[1]]
    free = inside & (window == 0)
    if free.sum() < max(LEAST_PIXELS, 0.5 * mask.sum()):
        return None
    window[free] = number
    return replace(case, context=replace(_with(context, labels), label=number))


def _with(context: CellContext, labels: LabelArray) -> CellContext:
    # a new context: what the old one has computed belongs to its labels
    return CellContext(
        cell=context.cell,
        label=context.label,
        labels=labels,
        origin=context.origin,
        frame_shape=context.frame_shape,
    )


def _put(context: CellContext, mask: BoolArray) -> LabelArray:
    """Return the labels with another mask of the cell, which takes no pixel from its neighbours."""
    labels = np.where(context.labels == context.label, 0, context.labels)
    labels[mask & (labels == 0)] = context.label
    return labels


def _missing(context: CellContext, rng: np.random.Generator) -> LabelArray:
    return np.where(context.labels == context.label, 0, context.labels)


def _merged(context: CellContext, rng: np.random.Generator) -> LabelArray | None:
    near = [label for label, gap in context.gaps.items() if gap <= REACH * context.diameter]
    if not near:
        return None
    both = context.mask | (context.labels == rng.choice(near))
    width = int(REACH * context.diameter / 2) + 2
    wide = np.pad(both, width)
    closed = ndimage.binary_closing(wide, iterations=width)[width:-width, width:-width] | both
    labels = np.where(both, 0, context.labels)
    labels[closed & (labels == 0)] = context.label
    return labels


def _split(context: CellContext, rng: np.random.Generator) -> LabelArray:
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15) * context.diameter
    rows, columns = np.indices(context.labels.shape)
    x, y = context.centroid
    side = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle) > offset
    other = int(context.labels.max()) + 1
    return np.where(context.mask & side, other, context.labels)


def _shifted(context: CellContext, rng: np.random.Generator) -> LabelArray:
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.5) * context.diameter
    step = (round(far * np.sin(angle)), round(far * np.cos(angle)))
    return _put(context, ndimage.shift(context.mask.astype(np.uint8), step, order=0) > 0)


def _ragged(context: CellContext, rng: np.random.Generator) -> LabelArray:
    d = context.diameter
    noise = ndimage.gaussian_filter(rng.standard_normal(context.labels.shape), max(1.0, 0.06 * d))
    distance = np.full(context.labels.shape, -d, np.float32)
    distance[context.near] = context.distance
    rough = distance + noise / noise.std() * rng.uniform(0.1, 0.18) * d > 0
    return _put(context, filled(largest_piece(rough & (distance > -0.4 * d))))


def _crescent(context: CellContext, rng: np.random.Generator) -> LabelArray:
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.6) * context.diameter
    step = (round(far * np.sin(angle)), round(far * np.cos(angle)))
    return _put(
        context, largest_piece(context.mask & (ndimage.shift(context.mask.astype(np.uint8), step, order=0) == 0))
    )


_INJECT: dict[str, Callable[[CellContext, np.random.Generator], LabelArray | None]] = {
    "missing": _missing,
    "merged": _merged,
    "split": _split,
    "shifted": _shifted,
    "ragged": _ragged,
    "crescent": _crescent,
}
