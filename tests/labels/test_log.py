"""The label log against a plain model; damage, two writers, and processes that are killed."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest
from label_events import disc, make_event

from hela_store.base.rng import generator
from hela_store.base.segments import label_segments
from hela_store.base.sums import array_sum
from hela_store.catalog import index as catalog
from hela_store.datasets.frame import Frame
from hela_store.errors import LabelError, StoreError
from hela_store.images.geometry import tile_rectangles
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import cells_at, free_label, label_at, redo, undo
from hela_store.store import label_changes, pixels
from hela_store.store.measure import measure_cells
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

Labels = dict[str, npt.NDArray[np.int32]]


def test_without_a_log_labels_are_as_ingested(plain: Store) -> None:
    assert plain.labels_version == 0
    assert LabelLog(plain).events() == []
    assert not (plain.path / "labels").exists()


def test_a_version_stays_what_it_was(plain: Store) -> None:
    frame = next(iter(plain.frame_records()))
    before = label_at(plain, frame)
    new = free_label(plain, frame)
    free = disc(before.shape, 64, 48, 20) & (before == 0)
    with LabelLog(plain) as log:
        assert log.append([make_event("add", frame, (new,), (free,))]) == 1
        assert log.append([make_event("erase", frame, (new,))]) == 2
    fresh = Store.open(plain.path)
    assert fresh.labels_version == 2
    assert plain.labels_version == 0, "a store that was read stays at its version"
    assert np.array_equal(label_at(fresh, frame, 0), before)
    assert np.array_equal(label_at(fresh, frame, 1), np.where(free, new, before))
    assert np.array_equal(label_at(fresh, frame, 2), before)
    assert cells_at(fresh, 2) == cells_at(fresh, 0)


def _random_event(label: np.ndarray, frame: str, rng: np.random.Generator, new: int):
    there = [int(value) for value in np.unique(label) if value]
    x, y, radius = rng.uniform(10, label.shape[1] - 10), rng.uniform(10, label.shape[0] - 10), rng.uniform(5, 18)
    mask = disc(label.shape, x, y, radius)
    kind = str(rng.choice(["add", "replace", "erase", "split", "merge"]))
    if kind == "add" or len(there) < 2:
        return make_event("add", frame, (new,), (mask,)), np.where(mask & (label == 0), new, label)
    one, two = (int(cell) for cell in rng.choice(there, 2, replace=False))
    if kind == "erase":
        return make_event("erase", frame, (one,)), np.where(label == one, 0, label)
    if kind == "merge":
        return make_event("merge", frame, (one, two)), np.where(label == two, one, label)
    if kind == "replace":
        rest = np.where(label == one, 0, label)
        return make_event("replace", frame, (one,), (mask,)), np.where(mask & (rest == 0), one, rest)
    half = (label == one) & (np.arange(label.shape[1]) < np.median(np.nonzero(label == one)[1]))
    other = (label == one) & ~half
    return make_event("split", frame, (one, new), (half, other)), np.where(other, new, label)


@pytest.mark.parametrize("seed", range(3))
def test_the_log_equals_a_plain_model(plain: Store, seed: int) -> None:
    rng = generator("label log", seed)
    frames = list(plain.frame_records())[:2]
    now = {frame: label_at(plain, frame) for frame in frames}
    states = [dict(now)]
    done: list[Labels] = []
    undone: list[tuple[Labels, Labels]] = []
    log = LabelLog(plain)
    for number in range(50):
        what = rng.random()
        if what < 0.25:
            assert undo(log, who="bob") == (len(states) if done else None)
            if not done:
                continue
            undone.append((done.pop(), now))
            now = undone[-1][0]
        elif what < 0.4:
            assert redo(log, who="bob") == (len(states) if undone else None)
            if not undone:
                continue
            done.append(now)
            now = undone.pop()[1]
        else:
            frame = frames[int(rng.integers(2))]
            made, after = _random_event(now[frame], frame, rng, 1000 + number)
            try:
                assert log.append([made]) == len(states)
            except LabelError as error:
                if not re.search("no pixel|is empty|outer band", str(error)):
                    raise
                assert log.version == len(states) - 1, "what was refused was written"
                continue
            done.append(now)
            undone.clear()
            now = now | {frame: after.astype(np.int32)}
        states.append(now)
        if number % 13 == 0:  # as after a restart
            log.close()
            log = LabelLog(Store.open(plain.path))
    log.close()
    assert len(states) > 20
    fresh = Store.open(plain.path)
    assert fresh.labels_version == len(states) - 1
    for version in (*range(0, len(states), 5), len(states) - 1):
        for frame in frames:
            assert np.array_equal(label_at(fresh, frame, version), states[version][frame]), (version, frame)
        assert cells_at(fresh, version) == _measured(fresh, version), version


def _measured(store: Store, version: int) -> list[CellRecord]:
    """Return the cells of all frames measured as a whole, which the log measures one by one."""
    versioned = store.at_labels(version)
    found: list[CellRecord] = []
    for record in versioned.frame_records().values():
        frame = Frame(
            sequence=record.sequence,
            name=record.name,
            time=record.time,
            image=versioned.pixels.image(record.frame),
            label=versioned.pixels.label(record.frame),
            valid=versioned.pixels.valid(record.frame),
            pixel_size_um=record.pixel_size_um,
        )
        views = store.recipe.views
        tiles = tile_rectangles(record.shape, views.tile, views.overlap)
        found += CellRecord.of(measure_cells(frame, tiles, store.recipe.dataset.offset))
    return found


def test_a_second_writer_is_told_who_writes(plain: Store) -> None:
    frame = next(iter(plain.frame_records()))
    cell = int(label_at(plain, frame).max())
    with LabelLog(plain):
        with pytest.raises(StoreError, match=r"are being changed by process \d+ on .+; wait for it"):
            LabelLog(Store.open(plain.path)).append([make_event("erase", frame, (cell,))])
    assert LabelLog(plain).version == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "lost", "swapped"])
def test_damage_is_one_clear_line(plain: Store, damage: str) -> None:
    frame = next(iter(plain.frame_records()))
    cells = tuple(int(cell) for cell in np.unique(label_at(plain, frame)) if cell)
    with LabelLog(plain) as log:
        log.append([make_event("erase", frame, cells[:1])])
        log.append([make_event("erase", frame, cells[1:2])])
        log.append([make_event("complete", frame)])
    files = [plain.path / "labels" / f"0000000{n}.jsonl" for n in (1, 2, 3)]
    data = files[1].read_bytes()
    if damage == "flip":
        files[1].write_bytes(data.replace(b'"erase"', b'"merge"'))
    elif damage == "cut":
        files[1].write_bytes(data[:-30])
    elif damage == "lost":
        files[1].unlink()
    else:
        files[1].write_bytes(files[2].read_bytes())
        files[2].write_bytes(data)
    readers = (lambda: label_at(Store.open(plain.path), frame), lambda: catalog.query(plain.path, "SELECT 1"))
    for read in readers:
        with pytest.raises(StoreError, match=r"(is damaged|is missing).*restore the file from a copy") as said:
            read()
        assert "00000002.jsonl" in str(said.value) and "\n" not in str(said.value)
    assert label_at(Store.open(plain.path), frame, 0).any(), "labels as ingested need no log"


def test_a_changed_label_image_is_summed_once(plain: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = next(iter(plain.frame_records()))
    cell = int(label_at(plain, frame).max())
    with LabelLog(plain) as log:
        log.append([make_event("erase", frame, (cell,))])
    summed: list[np.ndarray] = []

    def counting(name: str, *arrays: np.ndarray) -> str:
        summed.extend(array.copy() for array in arrays)
        return array_sum(name, *arrays)

    for module in (pixels, label_changes):
        monkeypatch.setattr(module, "array_sum", counting)
    store = Store.open(plain.path)
    images = []
    for _ in range(3):  # as three views of the frame are read
        images.append(store.pixels.label(frame))
        store.pixels.valid(frame)
    changed = images[-1]
    assert sum(np.array_equal(array, changed) for array in summed) == 1 and cell not in changed


@pytest.mark.parametrize("indexed_before", [False, True])
def test_an_earlier_version_written_again_is_found_by_every_reader(plain: Store, indexed_before: bool) -> None:
    frame = next(iter(plain.frame_records()))
    cells = tuple(int(cell) for cell in np.unique(label_at(plain, frame)) if cell)
    with LabelLog(plain) as log:
        log.append([make_event("erase", frame, cells[:1])])
        if indexed_before:
            catalog.index(plain.path)
        log.append([make_event("erase", frame, cells[1:2])])
    segments = label_segments(plain.path)
    (first,) = segments.chain(1)
    segments.write(1, "", [line | {"event": line["event"] | {"who": "eve"}} for line in first.lines])
    for read in (lambda: label_at(Store.open(plain.path), frame), lambda: catalog.index(plain.path)):
        with pytest.raises(StoreError, match=r"00000002.jsonl is damaged .its lines, or those of an earlier version"):
            read()
