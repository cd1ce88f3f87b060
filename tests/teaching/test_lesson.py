"""What the page asks for, answered in process: masks, edits, undo, refusals."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from typing import Any

import numpy as np
import pytest
from teach_server import splittable

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import ConflictError, HelaError, LabelError, PromptError, QueryError, StoreError
from hela_store.images.rle import decode_crop, encode
from hela_store.labels.versions import label_at
from hela_store.metrics.overlap import overlap
from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.lesson import Lesson
from hela_store.teaching.next_cell import choose
from hela_store.teaching.rules import rule_of

FRAME = "01/t000"


def middle(lesson: Lesson, cell: int, frame: str = FRAME) -> tuple[float, float]:
    rows, columns = np.nonzero(lesson.session.label(frame) == cell)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def some_cells(lesson: Lesson) -> list[int]:
    return [cell["cell"] for cell in lesson.cells(FRAME)["cells"]]


def edit(lesson: Lesson, kind: str, **about: Any) -> dict[str, Any]:
    version = lesson.session.log.version
    return lesson.edit({"page": "a", "frame": FRAME, "version": version, "kind": kind} | about)


def square(lesson: Lesson, place: int = 0, side: int = 8) -> str:
    """Return a square on background, one of several that do not overlap."""
    label = lesson.session.label(FRAME)
    corners = [
        (x, y)
        for y in range(40, 150, side)
        for x in range(40, 210, side)
        if not label[y : y + side, x : x + side].any()
    ]
    return encode(np.ones((side, side), bool), corners[place], label.shape).counts


@pytest.mark.ci
def test_a_hover_answers_with_the_cell_below(shown: Lesson) -> None:
    label = shown.session.label(FRAME)
    ious = []
    for number, cell in enumerate(some_cells(shown)):
        x, y = middle(shown, cell)
        found = shown.hover({"page": "h", "number": number, "frame": FRAME, "points": [[x, y, 1]]})
        mask, origin = decode_crop(found["counts"], *label.shape)
        ious.append(overlap(mask, label == cell, origin, (0, 0)).iou)
        assert len(found["counts"]) < 20_000 and 0 <= found["doubt"] <= 1
    assert np.median(ious) > 0.7


def test_a_late_question_is_not_decoded(shown: Lesson) -> None:
    x, y = middle(shown, some_cells(shown)[0])
    asked = {"page": "late", "frame": FRAME, "points": [[x, y, 1]]}
    assert "counts" in shown.hover(asked | {"number": 7})
    assert shown.hover(asked | {"number": 6}) == {"stale": True}


@pytest.mark.parametrize(
    ("asked", "error", "why"),
    [
        ({"points": [[1e9, 5, 1]]}, PromptError, "inside of it"),
        ({"points": [[float("nan"), 5, 1]]}, PromptError, "NaN"),
        ({"points": [[5, 5, 0]]}, PromptError, "no click in a cell"),
        ({"points": [[5, 5, 1]] * 1000}, PromptError, "at most 64"),
        ({"points": [[5, 5, 7]]}, PromptError, "label 7|no click"),
        ({"points": "x"}, PromptError, "rows of 3"),
        ({"box": [5, 5, 4, 4]}, PromptError, "x0 < x1"),
        ({"box": [0, 0, 1e6, 1e6]}, PromptError, "inside of the frame"),
        ({}, PromptError, "no click"),
        ({"frame": "01/t999", "points": [[5, 5, 1]]}, QueryError, "no such frame"),
        ({"frame": ["01"], "points": [[5, 5, 1]]}, QueryError, "no such frame"),
        ({"number": "1", "points": [[5, 5, 1]]}, QueryError, "number"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    shown: Lesson, asked: dict[str, Any], error: type[HelaError], why: str
) -> None:
    with pytest.raises(error, match=why):
        shown.hover({"page": "x", "number": 1, "frame": FRAME} | asked)


def test_a_frame_that_is_not_embedded_is_shown_and_not_decoded(store: Store) -> None:
    for folder in ("ledger", "arrays.zarr/embeddings"):
        shutil.rmtree(store.path / folder)
    embed(Store.open(store.path), EmbedConfig(splits=("train",), device="cpu"))
    lesson = Lesson(Store.open(store.path), TeachConfig(device="cpu"))
    frames = {about["frame"]: about["embedded"] for about in lesson.state("a", FRAME)["frames"]}
    assert frames == {"01/t000": True, "01/t001": True, "01/t002": False, "01/t003": False}
    assert lesson.cells("01/t003")["cells"]
    with pytest.raises(StoreError, match=r"views of 01/t003 are not embedded yet"):
        lesson.hover({"page": "a", "number": 1, "frame": "01/t003", "points": [[5, 5, 1]]})
    assert "counts" in lesson.hover({"page": "a", "number": 2, "frame": FRAME, "points": [[5, 5, 1]]})
    lesson.close()


def test_a_cell_is_added_corrected_split_merged_and_all_of_it_taken_back(lesson: Lesson, store: Store) -> None:
    before = label_at(store, FRAME)
    first, second = splittable(before)[:2]
    x, y = middle(lesson, first)
    edit(lesson, "erase", cells=[first])
    counts = lesson.hover({"page": "a", "number": 1, "frame": FRAME, "points": [[x, y, 1]]})["counts"]
    added = edit(lesson, "add", counts=counts, prompt={"points": [[x, y, 1]]}, seconds=1.5)["cells"][0]
    after = label_at(store, FRAME)
    mask, (left, top) = decode_crop(counts, *before.shape)
    expected = np.where(before == first, 0, before)
    part = expected[top : top + mask.shape[0], left : left + mask.shape[1]]
    part[mask & (part == 0)] = added["cell"]
    np.testing.assert_array_equal(after, expected)
    event = lesson.session.log.events()[-1]
    assert event.who == "ann" and event.seconds == 1.5 and event.clicks[0].x == x

    x, y = middle(lesson, second)
    parts = edit(lesson, "split", cell=second, line=[[x, y - 50], [x, y + 50]])["cells"]
    split = label_at(store, FRAME)
    assert {cell["cell"] for cell in parts} == set(np.unique(split[before == second]).tolist()) and len(parts) == 2
    other = next(cell["cell"] for cell in parts if cell["cell"] != second)
    assert (np.nonzero(split == other)[1] + 0.5 > x).all() or (np.nonzero(split == other)[1] + 0.5 < x).all()
    assert edit(lesson, "merge", cells=[second, other])["gone"] == [other]
    np.testing.assert_array_equal(label_at(store, FRAME), after)

    final = after.copy()
    undone = [lesson.again("undo") for _ in range(4)]
    assert [found["gone"] for found in undone] == [[], [other], [added["cell"]], []]
    assert [[cell["cell"] for cell in found["cells"]] for found in undone] == [[second, other], [second], [], [first]]
    np.testing.assert_array_equal(label_at(store, FRAME), before)
    with pytest.raises(LabelError, match="nothing to undo"):
        lesson.again("undo")
    for _ in range(4):
        lesson.again("redo")
    np.testing.assert_array_equal(label_at(store, FRAME), final)


@pytest.mark.parametrize(
    ("kind", "about", "why"),
    [
        ("add", {"counts": "0"}, "empty|fit"),
        ("add", {"counts": "~~~~"}, "does not fit"),
        ("add", {"counts": encode(np.ones((9, 9), bool), (0, 0), (700, 1100)).counts}, "does not fit"),
        ("add", {"counts": "o" * (1 << 21)}, "run-length"),
        ("add", {"counts": 7}, "run-length"),
        ("replace", {"cell": 10**6}, "no cell"),
        ("replace", {"cell": 10**20}, "whole numbers"),
        ("replace", {"cell": "1"}, "whole numbers"),
        ("erase", {"cells": []}, "0 cells"),
        ("erase", {"cells": list(range(1, 200_000))}, "at most"),
        ("merge", {"cells": [1]}, "merge"),
        ("split", {"line": None}, "needs a line"),
        ("split", {"line": [[0, 0], [0, 0]]}, "no direction"),
        ("split", {"line": [[0, 0], [0, float("inf")]]}, "no direction"),
        ("paint", {}, "unknown"),
    ],
)
def test_edits_that_do_not_fit_are_refused_and_nothing_is_written(
    shown: Lesson, kind: str, about: dict[str, Any], why: str
) -> None:
    cell = some_cells(shown)[0]
    given = {"counts": square(shown), "cell": cell, "line": [[0, 0], [5, 5]]} | about
    with pytest.raises(LabelError, match=why):
        edit(shown, kind, **given)
    assert shown.session.log.version == 0


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_is_said_and_nothing_that_was_saved_is_lost(
    lesson: Lesson, store: Store, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    first, second, third = some_cells(lesson)[:3]
    edit(lesson, "erase", cells=[first])
    count, sync = 0, os.fsync

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count >= at:  # the first one syncs the file, the second one its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left while writing"):
        edit(lesson, "erase", cells=[second])
    monkeypatch.setattr(os, "fsync", sync)
    # without a sync of the folder the version may be there or not, as after a power cut, and the page reads it again
    written = lesson.session.log.version
    assert written == at and (second in some_cells(lesson)) == (at == 1)
    assert edit(lesson, "erase", cells=[third])["version"] == written + 1
    assert lesson.again("undo")["version"] == written + 2
    there = np.unique(label_at(Store.open(store.path), FRAME))
    assert first not in there and third in there


def test_a_mask_on_another_cell_is_refused(shown: Lesson) -> None:
    cell = shown.cells(FRAME)["cells"][0]
    with pytest.raises(LabelError, match=f"belongs to cell {cell['cell']}"):
        edit(shown, "add", counts=cell["counts"])


def test_two_pages_see_each_other_and_do_not_overwrite(lesson: Lesson) -> None:
    cell = some_cells(lesson)[0]
    assert lesson.state("a", FRAME)["others"] == ""
    assert "1 other page has this store open, 1 of them this frame" in lesson.state("b", FRAME)["others"]
    edit(lesson, "replace", cell=cell, counts=square(lesson))
    with pytest.raises(ConflictError, match=f"cell {cell} was changed in another page"):
        edit(lesson, "erase", cells=[cell], version=0)
    with pytest.raises(QueryError, match="reload"):
        edit(lesson, "erase", cells=[cell], version=99)
    lesson.leave({"page": "b"})
    assert lesson.state("a", FRAME)["others"] == ""


def test_a_second_server_is_told_of_the_first(lesson: Lesson) -> None:
    with pytest.raises(StoreError, match=r"labels of .* are being changed by process"):
        Lesson(lesson.store, TeachConfig())


def test_what_was_taught_is_known_after_a_restart(store: Store) -> None:
    lesson = Lesson(store, TeachConfig(device="cpu"))
    kept, erased = some_cells(lesson)[:2]
    edit(lesson, "replace", cell=kept, counts=square(lesson))
    edit(lesson, "replace", cell=erased, counts=square(lesson, 1))
    edit(lesson, "erase", cells=[erased])
    edit(lesson, "add", counts=square(lesson, 2))
    lesson.again("undo")
    taught = lesson.session.taught_cells()
    lesson.close()
    again = Lesson(Store.open(store.path), TeachConfig(device="cpu"))
    assert again.session.taught_cells() == taught == [(FRAME, kept)]
    assert again.session.can() == {"undo": True, "redo": True}
    again.close()


def test_all_proposals_up_to_a_doubt_are_accepted_and_taken_back_at_once(lesson: Lesson) -> None:
    edit(lesson, "erase", cells=some_cells(lesson))
    proposed = lesson.proposed(FRAME)["proposals"]
    least = sorted(each["doubt"] for each in proposed)[len(proposed) // 2]
    found = lesson.accept({"frame": FRAME, "doubt": least})
    assert len(found["cells"]) == sum(each["doubt"] <= least for each in proposed) > 0
    assert lesson.again("undo")["cells"] == []
    with pytest.raises(LabelError, match="no proposal"):
        lesson.accept({"frame": FRAME, "doubt": -1})


def test_far_offers_the_cell_least_like_those_taught(lesson: Lesson) -> None:
    everything = lesson.cells(FRAME)["cells"]
    edit(lesson, "erase", cells=[cell["cell"] for cell in everything])
    lesson.proposals.of(FRAME)
    candidates = lesson.offers._candidates(FRAME)
    rule = rule_of("far", lesson.store, lesson.proposals, lesson.decoding, lesson.session.taught_labels)
    assert rule.measure is not None and rule.measure(candidates) is None
    taken = candidates[0].proposal
    edit(lesson, "add", counts=taken.rle.counts)
    found = rule.measure(candidates)
    assert found is not None and found[0] == pytest.approx(0, abs=1e-5) and found.max() > 1e-3 and found.min() > -1e-5
    offer = choose(candidates, rule.words, 0, rule.measure)
    assert offer is not None and offer.candidate is candidates[int(found.argmax())]


def test_the_next_cell_is_in_a_training_frame_and_every_fifth_is_random(lesson: Lesson) -> None:
    edit(lesson, "erase", cells=some_cells(lesson))
    offers = [lesson.next({"page": "a", "frame": FRAME}) for _ in range(5)]
    assert [offer["random"] for offer in offers] == [False, False, False, False, True]
    assert all(lesson.store.blocks()[offer["frame"]] == "train" for offer in offers)
    doubts = [each["doubt"] for each in lesson.proposed(FRAME)["proposals"]]
    assert offers[0]["doubt"] == max(doubts)
    edit(lesson, "add", counts=offers[4]["counts"], page="a", prompt={"box": offers[4]["box"]})
    edit(lesson, "replace", cell=lesson.session.taught_cells()[0][1], counts=square(lesson))
    assert lesson.offers.errors() == ([], [1.0]) or lesson.offers.errors()[1][0] > 0.5
    # what the page is told of it follows each change of the cell
    lesson.again("undo")
    assert lesson.offers.errors()[1] == pytest.approx([0.0], abs=1e-9)
    lesson.again("undo")
    assert lesson.offers.errors() == ([], [])


def test_a_cell_taken_on_one_page_does_not_disturb_what_another_is_told(lesson: Lesson) -> None:
    edit(lesson, "erase", cells=some_cells(lesson))
    broken: list[Exception] = []
    ended = threading.Event()

    def tell() -> None:
        while not ended.is_set():
            try:
                lesson.offers._errors.clear()
                str(lesson.offers)
            except RuntimeError as error:
                broken.append(error)

    other = threading.Thread(target=tell)
    other.start()
    for _ in range(8):
        offer = lesson.next({"page": "a", "frame": FRAME})
        if offer["frame"] == FRAME:
            edit(lesson, "add", counts=offer["counts"], page="a", prompt={"box": offer["box"]})
    ended.set()
    other.join()
    assert not broken and sum(map(len, lesson.offers.errors())) > 4
