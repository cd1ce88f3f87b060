"""Turn the proposal for a suspicious label into an event of labelling, and the decision to keep the label into another.

The proposed mask is the answer of a decoder that never saw the label. Where it swallows other labels, they are merged.
Where it is one of several cells under one label, the label is split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray
from hela_store.errors import LabelError, RunError
from hela_store.images.rle import Rle, decode, encode, largest_piece, trim
from hela_store.labels.events import Box, LabelEvent
from hela_store.labels.versions import now

SWALLOWED = 0.5
"""Share of another label that a proposed mask must hold for both to become one cell."""
REST = 0.25
"""Share of a merged label from which a piece that the proposed mask leaves out becomes a cell of its own."""
FREE = 0.5
"""Share of the mask for a missing label that must not belong to other labels."""

Row = Mapping[str, Any]
Label = npt.NDArray[np.int32]


def label_of(row: Row) -> int | None:
    """Return the number of the label that a row of ``suspects`` is about; None for a place without a label."""
    return None if row["cell"] is None else int(row["cell"].rpartition("#")[2])


def accepted(row: Row, label: Label, who: str, free: Callable[[], int], seconds: float = 0.0) -> LabelEvent:
    """Return the event that does what is proposed.

    Parameters
    ----------
    row : of the table ``suspects``
    label : int32, (row, col), labels of its frame as they are now
    who : who accepted it
    free : returns a number that no label has
    seconds : how long that took

    Raises
    ------
    LabelError
        Nothing is proposed, the label is gone, or other labels hold the place.
    """
    about, own = _about(row, who, "accepted", seconds), label_of(row)
    _check_there(row, own, label)
    if own is not None and row["kind"] == "debris":
        return LabelEvent(kind="erase", cells=(own,), **about)
    shape = (label.shape[0], label.shape[1])
    mask = _proposed(row, shape)
    if own is None:
        if (label[mask] == 0).mean() < FREE:
            raise LabelError(f"other labels of frame {row['frame']} hold the place of suspect {row['rank']} by now")
        return LabelEvent(kind="add", cells=(free(),), masks=(_code(mask & (label == 0), shape),), **about)
    swallowed = [other for other in np.unique(label[mask]).tolist() if other not in (0, own)]
    swallowed = [other for other in swallowed if mask[label == other].mean() >= SWALLOWED]
    if swallowed:
        return LabelEvent(kind="merge", cells=(own, *swallowed), masks=(_code(mask, shape),), **about)
    before = label == own
    rest = largest_piece(before & ~ndimage.binary_dilation(mask))
    if row["kind"] == "merged" and rest.sum() >= REST * before.sum():
        return LabelEvent(kind="split", cells=(own, free()), masks=(_code(mask, shape), _code(rest, shape)), **about)
    return LabelEvent(kind="replace", cells=(own,), masks=(_code(mask, shape),), **about)


def kept(row: Row, label: Label, who: str, seconds: float = 0.0) -> LabelEvent:
    """Return the event that says that the label of a suspect is right; its mask stays. As :func:`accepted`.

    Raises
    ------
    LabelError
        The suspect is a place without a label, or the label is gone.
    """
    own = label_of(row)
    if own is None:
        raise LabelError(f"suspect {row['rank']} is a place without a label, so there is no label to keep")
    _check_there(row, own, label)
    shape = (label.shape[0], label.shape[1])
    return LabelEvent(
        kind="replace", cells=(own,), masks=(_code(label == own, shape),), **_about(row, who, "kept", seconds)
    )


def _about(row: Row, who: str, done: str, seconds: float) -> dict[str, Any]:
    box = Box(**{name: float(row[name]) for name in ("x0", "y0", "x1", "y1")})
    reason = f"suspect {row['rank']} of {row['run']} {done}: {row['reason']}"[:1000].rstrip()
    return {"frame": row["frame"], "who": who, "when": now(), "seconds": seconds, "boxes": (box,), "reason": reason}


def _check_there(row: Row, own: int | None, label: Label) -> None:
    if own is not None and not (label == own).any():
        raise LabelError(f"frame {row['frame']} has no label {own} any more, so suspect {row['rank']} is settled")


def _proposed(row: Row, shape: tuple[int, int]) -> BoolArray:
    """Return the proposed mask in the frame, bool, (row, col)."""
    if not row["rle"]:
        raise LabelError(f"no mask is proposed for suspect {row['rank']} ({row['kind']}); correct the label by hand")
    try:
        crop, (x, y) = decode(Rle(counts=row["rle"], height=shape[0], width=shape[1]), shape)
    except RunError as error:
        raise LabelError(f"the mask that is proposed for suspect {row['rank']} does not fit: {error}") from None
    mask = np.zeros(shape, bool)
    mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return mask


def _code(mask: BoolArray, shape: tuple[int, int]) -> Rle:
    crop, origin = trim(mask)
    return encode(crop, origin, shape)
