from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from label_events import make_event

from hela_store.base.progress import silent
from hela_store.datasets.frame import frame_digest
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.ingest import cell_scale, ingest
from hela_store.embedding.plan import make_plan
from hela_store.errors import DatasetError, StoreError
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import undo
from hela_store.store.new_store import new_store
from hela_store.store.store import Store
from hela_store.store.tables import FRAMES_SCHEMA
from stores import reseal_tables

RECIPE = """format = 1
name = "s"
[dataset]
path = "../data"
offset = 100.0
{dataset}
[views]
tile = {tile}
overlap = 32
"""


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)


def picture(number: int, shape: tuple[int, int] = (96, 120), dtype: str = "uint16") -> np.ndarray:
    return ((np.arange(shape[0] * shape[1]).reshape(shape) * 3 + number) % 200 + 20).astype(dtype)


def labels(number: int = 0, shape: tuple[int, int] = (96, 120)) -> np.ndarray:
    label = np.zeros(shape, np.uint16)
    label[10:30, 10 + number : 30 + number], label[40:50, 70:90] = 4, 11
    return label


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four frames of sequence 01, one of them blank, one without labels."""
    root = tmp_path / "data"
    for number in range(4):
        write(root / f"01/t{number:03}.tif", picture(number) * (number != 2))
        if number != 3:
            write(root / f"01_ST/SEG/man_seg{number:03}.tif", labels(number))
    return root


def store_of(data: Path, dataset: str = "pixel_size_um = 0.5", tile: int = 0, name: str = "store") -> Store:
    return new_store(data.parent / name, RECIPE.format(dataset=dataset, tile=tile))


def change(store: Store, **values: Any) -> Store:
    dataset = "\n".join(f"{key} = {value}" for key, value in values.items())
    (store.path / "store.toml").write_text(RECIPE.format(dataset=dataset, tile=0))
    return Store.open(store.path)


def files(store: Store) -> dict[str, bytes]:
    """Everything but the recipe."""
    return {
        str(p.relative_to(store.path)): p.read_bytes()
        for p in sorted(store.path.rglob("*"))
        if p.is_file() and p.name != "store.toml"
    }


def test_frames_and_cells(data: Path) -> None:
    store = store_of(data, tile=64)
    report = ingest(store, silent)
    assert (report.new, report.unchanged, report.cells, report.blank) == (4, 0, 6, ("01/t002",))
    table = store.frames_table()
    assert table.schema == FRAMES_SCHEMA
    rows = table.to_pylist()
    assert [row["frame"] for row in rows] == ["01/t000", "01/t001", "01/t002", "01/t003"]
    assert [row["is_blank"] for row in rows] == [False, False, True, False]
    assert [row["has_label"] for row in rows] == [True, True, True, False]
    assert [(row["group"], row["row"]) for row in rows] == [("01", i) for i in range(4)]
    expected = {"sequence": "01", "time": 1, "height": 96, "width": 120, "dtype": "uint16", "pixel_size_um": 0.5}
    assert {key: rows[1][key] for key in expected} == expected
    assert rows[1]["sha256"] == frame_digest(picture(1))
    assert np.array_equal(store.pixels.image("01/t001"), picture(1))
    assert np.array_equal(store.pixels.label("01/t001"), labels(1)) and store.pixels.valid("01/t001").all()
    assert not store.pixels.label("01/t003").any() and not store.pixels.valid("01/t003").any()
    cells = store.cells_table().to_pylist()
    assert [cell["cell"] for cell in cells[:2]] == ["01/t000#4", "01/t000#11"]
    assert cells[0]["area_um2"] == pytest.approx(400 * 0.25)
    assert cells[0]["mean_intensity"] == pytest.approx(picture(0)[labels() == 4].mean() - 100)
    assert cells[0]["round_trip_iou"] == 1.0


def test_again_changes_nothing(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    before = files(store)
    report = ingest(Store.open(store.path), silent)
    assert (report.new, report.unchanged, report.cells) == (0, 4, 0)
    assert files(store) == before


def test_new_frames_become_a_new_segment(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    before = files(store)
    write(data / "01/t004.tif", picture(4))
    write(data / "02/t000.tif", picture(7))
    assert ingest(store, silent).new == 2
    after = files(store)
    assert all(after[name] == before[name] for name in before if "zarr.json" not in name and name != "sums.json")
    rows = {row["frame"]: row for row in Store.open(store.path).frames_table().to_pylist()}
    assert (rows["01/t004"]["group"], rows["01/t004"]["row"]) == ("01", 4)
    assert (rows["02/t000"]["group"], rows["02/t000"]["row"]) == ("02", 0)
    assert np.array_equal(store.pixels.image("01/t004"), picture(4))
    assert sorted(p.name for p in (store.path / "ingest").iterdir()) == [
        "cells-0001.parquet", "cells-0002.parquet", "frames-0001.parquet", "frames-0002.parquet"
    ]  # fmt: skip


class Stop:
    """A progress that is interrupted at the ``after``-th item of the stage ``what``."""

    def __init__(self, what: str, after: int) -> None:
        self.what, self.after = what, after

    def __call__(self, iterable: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
        for number, item in enumerate(iterable):
            if what == self.what and number == self.after:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_ingest_leaves_no_row_and_resumes_to_the_same_bytes(data: Path, after: int) -> None:
    whole, cut = store_of(data, name="whole"), store_of(data, name="cut")
    ingest(whole, silent)
    with pytest.raises(KeyboardInterrupt):
        ingest(cut, Stop("ingest", after))
    assert not (cut.path / "ingest").exists()
    assert ingest(Store.open(cut.path), silent).new == 4
    assert files(cut) == files(whole)


def test_cells_without_their_frames_are_written_again(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    before = files(store)
    (store.path / "ingest/frames-0001.parquet").unlink()  # as if killed between the two files
    assert ingest(Store.open(store.path), silent).new == 4
    assert files(store) == before


def test_labels_of_an_interrupted_ingest_do_not_stay(data: Path) -> None:
    store = store_of(data)
    with pytest.raises(KeyboardInterrupt):
        ingest(store, Stop("ingest", 2))
    store = change(store, labels='"none"')
    ingest(store, silent)
    assert not store.pixels.label("01/t000").any()


@pytest.mark.parametrize("damage", ["truncated", "nan", "negative"])
def test_a_bad_last_frame_leaves_nothing_behind(data: Path, damage: str) -> None:
    path = data / "01/t003.tif"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:900])
    elif damage == "nan":
        write(path, np.full((96, 120), np.nan, np.float32))
    else:
        write(data / "01_ST/SEG/man_seg003.tif", labels().astype(np.int16) - 1)
    store = store_of(data)
    with pytest.raises(DatasetError):
        ingest(store, silent)
    assert files(store) == {}


def test_what_changed_since_is_refused(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    before = files(store)
    original = shutil.copytree(data, data.parent / "original")

    def refuse(words: str, changed: Store | None = None) -> None:
        with pytest.raises(StoreError, match=words):
            ingest(changed or store, silent)
        shutil.rmtree(data)
        shutil.copytree(original, data)

    write(data / "01/t001.tif", picture(9))
    refuse(r"frame 01/t001 \(.*t001\.tif\) changed since .* `hela-store new`")
    refuse("labels ST, now they are none", change(store, labels='"none"', pixel_size_um=0.5))
    refuse(
        r"where the labels of frame .* not as it was ingested \(dataset.field_of_interest",
        change(store, field_of_interest=5, pixel_size_um=0.5),
    )
    refuse("pixel size of 0.5 um, now it is None", change(store))
    assert files(store) == before


def test_label_files_that_changed_are_new_versions_of_the_labels(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    before, first = files(store), store.pixels.label("01/t001")
    truth = data / "01_ST/SEG/man_seg001.tif"
    kept = truth.read_bytes()
    write(truth, labels(2))
    report = ingest(store, silent)
    assert (report.new, report.unchanged) == (0, 4)
    assert any("label files of 1 frames changed (01/t001; cells: " in note for note in report.notes), report.notes
    assert store.labels_version == 1 and np.array_equal(store.pixels.label("01/t001"), labels(2))
    assert np.array_equal(store.at_labels(0).pixels.label("01/t001"), first)
    assert {path: sum_ for path, sum_ in files(store).items() if path in before} == before, "a file of before changed"
    assert ingest(store, silent).notes == () and LabelLog(store).version == 1, "taken in twice"
    truth.write_bytes(kept)
    ingest(store, silent)
    assert store.labels_version == 2 and np.array_equal(store.pixels.label("01/t001"), first)
    events = LabelLog(store).events()
    assert {(event.who, Path(event.reason).resolve()) for event in events} == {("file", truth)}
    assert not undo(LabelLog(store), who="ann"), "a file would be taken in again"


def test_what_people_did_is_kept_where_the_file_changed_too(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    label = store.pixels.label("01/t001")
    cell = int(label.max())
    with LabelLog(store) as log:
        log.append([make_event("erase", "01/t001", (cell,))])
    assert ingest(Store.open(store.path), silent).notes == (), "the file is as it was ingested"
    write(data / "01_ST/SEG/man_seg001.tif", labels(2))
    report = ingest(Store.open(store.path), silent)
    assert any("what people did is kept" in note for note in report.notes), report.notes
    assert np.array_equal(Store.open(store.path).pixels.label("01/t001"), np.where(label == cell, 0, label))


def test_labels_that_come_later_make_a_frame_a_labelled_one(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    assert not store.frame_records()["01/t003"].has_label and not store.pixels.valid("01/t003").any()
    write(data / "01_ST/SEG/man_seg003.tif", labels(2))
    ingest(store, silent)
    record = store.frame_records()["01/t003"]
    assert record.has_label and not record.partial
    assert store.pixels.valid("01/t003").all() and np.array_equal(store.pixels.label("01/t003"), labels(2))
    assert not store.at_labels(0).frame_records()["01/t003"].has_label


def test_stills_of_several_sizes_and_types(data: Path) -> None:
    root = data.parent / "stills"
    for name, shape, dtype in (
        ("a", (40, 50), "u1"),
        ("b", (30, 30), "u1"),
        ("c", (40, 50), "u1"),
        ("d", (30, 30), "u2"),
    ):
        write(root / f"images/{name}.tif", picture(1, shape, dtype))
    dataset = 'reader = "folder"\nlabels = "none"'
    store = new_store(data.parent / "folder", RECIPE.format(dataset=dataset, tile=0).replace("../data", "../stills"))
    ingest(store, silent)

    def places() -> list[tuple[str, int]]:
        return [(row["group"], row["row"]) for row in Store.open(store.path).frames_table().to_pylist()]

    first = [("images@40x50", 0), ("images@30x30-uint8", 0), ("images@40x50", 1), ("images@30x30-uint16", 0)]
    assert places() == first
    write(root / "images/aa.tif", picture(3, (40, 50), "u1"))
    write(root / "images/bb.tif", picture(3, (10, 10), "u1"))
    ingest(store, silent)
    assert places() == [*first, ("images@40x50", 2), ("images@10x10", 0)]
    assert np.array_equal(store.pixels.image("images/aa"), picture(3, (40, 50), "u1"))


def stills(data: Path, names: str) -> Store:
    for name in names:
        write(data.parent / f"stills/images/{name}.tif", picture(ord(name)))
    recipe = RECIPE.format(dataset='reader = "folder"\nlabels = "none"', tile=0).replace("../data", "../stills")
    return new_store(data.parent / "folder", recipe)


def test_stills_that_come_later_get_times_of_their_own(data: Path) -> None:
    store = stills(data, "bdf")
    ingest(store, silent)
    for name in "ace":
        write(data.parent / f"stills/images/{name}.tif", picture(ord(name)))
    assert embed(store, EmbedConfig(dry_run=True)).planned == 6
    ingest(store, silent)
    rows = Store.open(store.path).frames_table().to_pylist()
    assert {row["name"]: row["time"] for row in rows} == {"b": 0, "d": 1, "f": 2, "a": 3, "c": 4, "e": 5}
    assert all(np.array_equal(store.pixels.image(row["frame"]), picture(ord(row["name"]))) for row in rows)


def test_frames_that_come_later_are_sorted_in_time(data: Path) -> None:
    (data / "01/t001.tif").rename(data / "t001.tif")
    (data / "01_ST/SEG/man_seg001.tif").rename(data / "man_seg001.tif")
    write(data / "02/t005.tif", picture(5))
    store = store_of(data)
    ingest(store, silent)
    make_plan(store)
    (data / "t001.tif").rename(data / "01/t001.tif")
    (data / "man_seg001.tif").rename(data / "01_ST/SEG/man_seg001.tif")
    ingest(store, silent)
    make_plan(store)
    store = Store.open(store.path)
    ordered = ["01/t000", "01/t001", "01/t002", "01/t003", "02/t005"]
    assert store.frames_table()["frame"].to_pylist() == [*store.frame_records()] == [*store.blocks()] == ordered
    assert store.frames_as_ingested()["frame"].to_pylist() == [ordered[i] for i in (0, 2, 3, 4, 1)]
    assert store.views_table()["frame"].to_pylist() == [ordered[i] for i in (0, 2, 3, 4, 1)], "rows stay as planned"
    frames = store.frames("01")
    assert frames.time.values.tolist() == [0, 1, 2, 3]
    assert np.array_equal(frames.image.sel(frame="01/t001"), picture(1))


def test_a_renamed_file_is_no_new_frame(data: Path) -> None:
    store = stills(data, "abc")
    ingest(store, silent)
    before = files(store)
    images = data.parent / "stills/images"
    (images / "b.tif").rename(images / "d.tif")
    with pytest.raises(
        StoreError, match=r"d\.tif has the pixels of frame images/b.*no longer in the data set.*old name"
    ):
        ingest(store, silent)
    shutil.copy(images / "d.tif", images / "b.tif")
    assert files(store) == before
    assert ingest(store, silent).new == 1, "a copy beside it is a frame"


def test_two_frames_of_a_sequence_never_share_a_time(data: Path) -> None:
    store = store_of(data)
    ingest(store, silent)
    before = files(store)
    (data / "01/t003.tif").unlink()
    write(data / "01/t0003.tif", picture(99))
    with pytest.raises(StoreError, match="frame 01/t0003 is number 3 of sequence 01, and so is 01/t003"):
        ingest(store, silent)
    assert files(store) == before


def test_a_new_segment_never_takes_the_place_of_another(data: Path) -> None:
    store = store_of(data)
    for number in (4, 5):
        ingest(store, silent)
        write(data / f"01/t{number:03}.tif", picture(number))
    lost, kept = (store.path / f"ingest/frames-000{number}.parquet" for number in (1, 2))
    rows = kept.read_bytes()
    lost.unlink()
    with pytest.raises(StoreError, match=r"frames-0001.parquet is not there, though it was written"):
        ingest(Store.open(store.path), silent)
    (store.path / "sums.json").unlink()  # a store of before, which did not know
    ingest(Store.open(store.path), silent)
    assert kept.read_bytes() == rows and (store.path / "ingest/frames-0003.parquet").exists()


def test_cell_scale(data: Path) -> None:
    store = store_of(data, tile=64)
    ingest(store, silent)
    scale = cell_scale(store)
    assert scale is not None and (scale.frames, scale.cells, scale.tile) == (3, 6, 64)
    diameter = (2 * np.sqrt(400 / np.pi) + 2 * np.sqrt(200 / np.pi)) / 2
    assert scale.diameter == pytest.approx(diameter)
    assert scale.positions_whole == pytest.approx(diameter * 64 / 120)
    assert scale.positions_tiled == pytest.approx(diameter)
    assert 0.99 < scale.round_trip_whole <= scale.round_trip_tiled == 1.0
    table = pq.read_table(store.path / "ingest/cells-0001.parquet")
    assert scale.round_trip_tiled == pytest.approx(np.mean(table["round_trip_iou"].to_numpy()))
    bare = store_of(data, dataset='labels = "none"', name="bare")
    ingest(bare, silent)
    assert cell_scale(bare) is None


REALDATA = Path(os.environ.get("HELA_REALDATA", Path(__file__).resolve().parents[2] / "../shared/data"))


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real frames at {REALDATA} (HELA_REALDATA)")
def test_real_gold_frames(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in (12, 13):
        source = REALDATA / "Fluo-N2DL-HeLa"
        for name in (f"01/t{number:03}.tif", f"01_ST/SEG/man_seg{number:03}.tif", f"01_GT/SEG/man_seg{number:03}.tif"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to((source / name).resolve())
    dataset = 'labels = "GT+ST"\nfield_of_interest = 25'
    store = new_store(tmp_path / "store", RECIPE.format(dataset=dataset, tile=512).replace("100.0", "32768.0"))
    report = ingest(store, silent)
    assert report.new == 2 and 100 < report.cells < 120
    scale = cell_scale(store)
    assert scale is not None and 23 < scale.diameter < 27
    assert 0.93 < scale.round_trip_whole < scale.round_trip_tiled < 1
    assert scale.positions_whole == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\\b", "C:x", "x" * 220, "\u2025", "a\udcff"])
def test_a_name_that_cannot_become_a_path_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    for file in (name, "fine"):
        write(tmp_path / f"data/images/{file}.tif", picture(1))
        write(tmp_path / f"data/masks/{file}.tif", labels())
    store = store_of(tmp_path / "data", 'reader = "folder"\nlabels = "masks"')
    with pytest.raises(DatasetError, match=r"the frame .* cannot be the name of a file") as caught:
        ingest(store, silent)
    assert str(caught.value).isprintable() and not (store.path / "ingest").exists()
    assert not (store.path / "arrays.zarr").exists()


def test_an_unknown_pixel_size_stays_unknown(data: Path) -> None:
    """Earlier versions stored NaN where a file's metadata said that, and refused the same file afterwards."""
    store = store_of(data, dataset="")
    ingest(store, silent)
    (path,) = (store.path / "ingest").glob("frames-*.parquet")
    table = pq.read_table(path)
    assert table["pixel_size_um"].null_count == 4
    column = table.schema.get_field_index("pixel_size_um")
    table = table.set_column(column, table.schema.field(column), pa.array([float("nan")] * 4))
    pq.write_table(table, path)
    reseal_tables(store.path)
    assert ingest(Store.open(store.path), silent).unchanged == 4


def test_what_is_odd_about_new_frames_is_said(data: Path) -> None:
    store = store_of(data, dataset="")
    assert ingest(store, silent).notes == ()
    write(data / "01/t004.tif", picture(4) // 20)
    write(data / "01_ST/SEG/man_seg004.tif", (labels() > 0).astype(np.uint8))
    spread, black = ingest(store, silent).notes
    assert "value 1: 2 separate pieces in 01/t004" in spread
    assert black.startswith("most of 01/t004 lies below the black level 100") and "--offset" in black
    assert ingest(store, silent).notes == ()
