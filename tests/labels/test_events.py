"""What a label event may be: everything else is refused in one line, from Python and from JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from label_events import disc, make_event

from hela_store.errors import LabelError
from hela_store.labels.events import Box, Click, LabelEvent

SHAPE = (20, 30)
MASK = disc(SHAPE, 10, 10, 4)


def test_an_event_comes_back_from_json() -> None:
    prompts = {"clicks": (Click(x=1.5, y=2), Click(x=3, y=4, is_cell=False)), "boxes": (Box(x0=0, y0=0, x1=9, y1=9.5),)}
    event = make_event("add", "01/t000", (3,), (MASK,), seconds=1.25, reason="by hand", **prompts)
    assert LabelEvent.from_json(json.loads(json.dumps(event.to_json()))) == event
    event.check_fits(SHAPE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "erased"}, "expected one of .*did you mean 'erase'"),
        ({"cells": (0,)}, "names cell 0, expected whole numbers from 1"),
        ({"cells": (2**31,)}, "names cell 2147483648"),
        ({"cells": (True,)}, "names cell True"),
        ({"cells": (1, 1)}, "expected at most .* different ones"),
        ({"cells": ()}, "needs?|need a mask for each cell"),
        ({"masks": ()}, "has 1 cells and 0 masks"),
        ({"kind": "merge"}, "at least two"),
        ({"kind": "undo", "cells": (), "masks": ()}, "only undo and redo have one"),
        ({"target": 3}, "only undo and redo have one"),
        ({"seconds": float("nan")}, "finite numbers"),
        ({"seconds": -1.0}, "expected 0 to"),
        ({"clicks": (Click(x=float("inf"), y=0),)}, "finite numbers"),
        ({"who": ""}, "needs a frame and a who"),
        ({"who": "ann\nbob"}, "who of a label event must be text"),
        ({"reason": "\x1b[2J"}, "reason of a label event must be text"),
        ({"reason": "x" * 1001}, "at most 1000 visible characters"),
        ({"when": "2026-01-31T12:00:00"}, "expected UTC"),
        ({"when": "yesterday"}, "expected UTC"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_wrong_event_is_refused(changes: dict[str, Any], said: str) -> None:
    right = make_event("add", "01/t000", (3,), (MASK,))
    values = {name: getattr(right, name) for name in right.to_json()}
    with pytest.raises(LabelError, match=said) as found:
        LabelEvent(**values | changes)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cels": [1]}, "no 'cels'; did you mean 'cells'"),
        ({"masks": [{"counts": 7, "height": 1, "width": 1}]}, "needs counts, height and width"),
        ({"masks": [{"counts": "0"}]}, "cannot be read: missing"),
        ({"clicks": [{"x": 1, "y": 2, "is_cell": "no"}]}, "must be true or false"),
        ({"boxes": "all"}, "must be lists"),
        ({"who": None}, "who of a label event must be text"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_wrong_json_is_refused(changes: dict[str, Any], said: str) -> None:
    right = make_event("add", "01/t000", (3,), (MASK,)).to_json()
    with pytest.raises(LabelError, match=said):
        LabelEvent.from_json(json.loads(json.dumps(right | changes)))
    with pytest.raises(LabelError):
        LabelEvent.from_json([right])


def test_masks_lie_in_their_frame_and_are_not_empty() -> None:
    event = make_event("add", "01/t000", (3,), (MASK,))
    with pytest.raises(LabelError, match="mask of cell 3 of frame 01/t000 does not fit"):
        event.check_fits((20, 31))
    with pytest.raises(LabelError, match="is empty; erase the cell"):
        make_event("add", "01/t000", (3,), (np.zeros(SHAPE, bool),)).check_fits(SHAPE)
