"""Which taught cells train and which judge: a nucleus is on one side alone, and the shares are as stated."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from frames import save
from label_events import disc, make_event

from hela_store.base.progress import silent
from hela_store.embedding.ingest import ingest
from hela_store.evaluation.tracks import cell_tracks
from hela_store.images.rle import encode
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import undo
from hela_store.store.store import Store
from hela_store.teaching.deal import CHOOSING, Deal, Part, draw_of
from hela_store.teaching.session import Session
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

SHAPE, RADIUS, FRAMES = (160, 200), 9, 6
NUCLEI = [(20 + 30 * column, 20 + 30 * row) for row in range(4) for column in range(5)]
"""Middles of 20 nuclei in the first frame; they drift to the right, and touch no other."""


def nucleus(number: int, time: float, speed: float = 4) -> np.ndarray:
    """Return the mask of a nucleus, bool, (row, col)."""
    x, y = NUCLEI[number]
    return disc(SHAPE, x + speed * time, y, RADIUS)


def lapse(path: Path, *, masks: bool) -> Store:
    """Return an ingested time-lapse in ``images/``; its ``masks/``, if any, are numbered anew in each frame."""
    rng = np.random.default_rng(0)
    for time in range(FRAMES):
        label = np.zeros(SHAPE, np.uint16)
        for place, number in enumerate(rng.permutation(len(NUCLEI)), 1):
            label[nucleus(number, time)] = place
        image = (200 + rng.normal(0, 10, SHAPE) + 800 * (label > 0)).clip(0).astype(np.uint16)
        save(path / "data" / "images" / f"t{time:03}.tif", image)
        if masks:
            save(path / "data" / "masks" / f"t{time:03}.tif", label)
    blocks = {"train_frames": "0-3", "val_frames": "4-4", "test_frames": "5-5"}
    new(path / "store", NewConfig.of(dataset=str(path / "data"), tile="none", **blocks))
    store = Store.open(path / "store")
    ingest(store, silent)
    return store


@pytest.fixture
def unlabelled(tmp_path: Path) -> Store:
    return lapse(tmp_path, masks=False)


def frames_of(store: Store) -> list[str]:
    return list(store.frame_records())


def teach(deal: Deal, frame: str, label: int, mask: np.ndarray) -> None:
    deal.note([make_event("add", frame, (label,), (mask,))])


def part(deal: Deal, frame: str, label: int) -> Part:
    dealt = deal.of(frame, label)
    assert dealt is not None
    return dealt.part


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_nucleus_drawn_in_three_frames_is_for_one_thing_and_a_fifth_judge(
    unlabelled: Store, order: tuple[int, ...]
) -> None:
    frames, deal = frames_of(unlabelled), Deal(unlabelled, 0.2)
    labels = itertools.count(1)  # as on the page, where no label is given twice
    found: dict[int, set[Part]] = {number: set() for number in range(len(NUCLEI))}
    for time in order:
        for number in range(len(NUCLEI)):
            teach(deal, frames[time], label := next(labels), nucleus(number, time))
            found[number].add(part(deal, frames[time], label))
    assert all(len(parts) == 1 for parts in found.values())
    parts = [min(parts) for parts in found.values()]
    # 20 cells of the first frame that was taught are enough for all three
    assert parts.count("judge") == 4 and parts.count("choose") in (2, 3, 4)


def test_shares_are_as_stated_from_the_first_tracks_on() -> None:
    draws = np.array([draw_of(track) for track in range(400)])
    count = np.arange(1, 401)
    for held in (0.05, 0.2, 0.25, 0.5, 0.8):
        judged = np.cumsum(draws < held)
        chosen = np.cumsum(draws >= 1 - (1 - held) * CHOOSING)
        most = 3 if held in (0.2, 0.5, 0.8) else 6  # whole tracks of a block of 10, or drawn
        assert (abs(judged - held * count) < most).all() and (abs(chosen - (1 - held) * CHOOSING * count) < 6).all()
    # not a beat that the random control of every fifth offer could have, too
    assert len({tuple(np.flatnonzero(draws[at : at + 10] < 0.2)) for at in range(0, 400, 10)}) > 10


def test_frames_that_are_taught_between_show_that_two_cells_are_one_nucleus(unlabelled: Store) -> None:
    frames, deal, speed = frames_of(unlabelled), Deal(unlabelled, 0.2), 10
    tracks = range(len(NUCLEI) + 1)
    judging = next(track for track in tracks if draw_of(track) < 0.2)
    training = next(track for track in tracks if 0.2 <= draw_of(track) < 0.84)
    labels = itertools.count(1)
    for track in range(max(judging, training) + 1):
        time = 2 if track == judging else 0
        teach(deal, frames[time], next(labels), nucleus(0 if track in (judging, training) else 5 + track, time, speed))
    before, after = (frames[0], training + 1), (frames[2], judging + 1)
    assert part(deal, *before) == "train" and part(deal, *after) == "judge"
    teach(deal, frames[1], 99, nucleus(0, 1, speed))
    # what trained may have been learned from already
    assert part(deal, *before) == part(deal, *after) == part(deal, frames[1], 99) == "train"


def test_labels_of_the_data_set_are_dealt_by_the_tracks_that_intervals_count(tmp_path: Path) -> None:
    store = lapse(tmp_path, masks=True)
    deal, cells = Deal(store, 0.2), store.cells_table().to_pylist()
    for row in cells:
        deal.add(row["frame"], row["label"])
    trained = [row for row in cells if store.blocks()[row["frame"]] == "train"]
    tracks = cell_tracks(store, sorted({row["frame"] for row in trained})).of
    parts: dict[int, set[Part]] = {}
    for row in trained:
        parts.setdefault(tracks[row["cell"]], set()).add(part(deal, row["frame"], row["label"]))
    assert len(parts) == len(NUCLEI) and all(len(found) == 1 for found in parts.values())
    assert [min(found) for found in parts.values()].count("judge") == 4
    assert all(deal.of(row["frame"], row["label"]) is None for row in cells if row not in trained)
    # one that is deleted and drawn again is the same nucleus, also where it is taught in another frame only
    for speed in (4, 5):
        again = Deal(store, 0.2)
        for number in range(len(NUCLEI)):
            teach(again, frames_of(store)[3], 100 + number, nucleus(number, 3, speed))
        label = store.pixels.label(frames_of(store)[0])
        for number in range(len(NUCLEI)):
            own = int(label[nucleus(number, 0)][0])
            again.add(frames_of(store)[0], own, encode(nucleus(number, 0), (0, 0), SHAPE))
            assert part(again, frames_of(store)[0], own) == part(again, frames_of(store)[3], 100 + number)


def test_what_is_drawn_again_split_or_merged_stays_what_it_was(unlabelled: Store) -> None:
    frame, deal = frames_of(unlabelled)[0], Deal(unlabelled, 0.5)
    for number in range(10):
        teach(deal, frame, number + 1, nucleus(number, 0))
    for number in range(10):
        deal.note([make_event("erase", frame, (number + 1,))])
        teach(deal, frame, number + 11, nucleus(number, 0.5))
        assert deal.of(frame, number + 11) == deal.of(frame, number + 1)
    columns = np.indices(SHAPE)[1]
    whole, middle = nucleus(0, 0.5), NUCLEI[0][0] + 2
    deal.note([make_event("split", frame, (11, 30), (whole & (columns < middle), whole & (columns >= middle)))])
    assert deal.of(frame, 30) == deal.of(frame, 11)
    judging = next(n for n in range(10) if part(deal, frame, n + 11) == "judge")
    training = next(n for n in range(10) if part(deal, frame, n + 11) == "train")
    deal.note([make_event("merge", frame, (judging + 11, training + 11))])
    assert part(deal, frame, judging + 11) == part(deal, frame, training + 11) == "train"


def test_a_session_deals_as_before_after_a_restart_and_an_undo(unlabelled: Store) -> None:
    frames = frames_of(unlabelled)
    with LabelLog(unlabelled) as log:
        for number in range(10):
            log.append([make_event("add", frames[number % 2], (number + 1,), (nucleus(number, 0),))])
        undo(log, who="ann")
        log.append([make_event("add", frames[2], (11,), (nucleus(9, 2),))])
        log.append([make_event("add", frames[4], (12,), (nucleus(11, 2),))])
    session = Session(Store.open(unlabelled.path), "ann", 0.2)
    dealt = session.dealt()
    held = [cell for cell, one in dealt.items() if one.part == "judge"]
    assert len(dealt) == 10 and (frames[4], 12) in session.taught_cells() and (frames[4], 12) not in dealt
    # the cell that was taken back may have trained: the same nucleus, drawn in another frame, is what it was
    assert dealt[frames[2], 11].track == 9 and {one.track for one in dealt.values()} == set(range(10))
    assert sorted(held) == sorted(cell for cell in session.taught_cells() if session.is_held(*cell)) and len(held) == 2
    session.close()
    again = Session(Store.open(unlabelled.path), "ann", 0.2)
    assert again.dealt() == dealt
    again.close()
