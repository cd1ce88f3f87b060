"""Stills that belong together: split, intervals, copies, what `new` and `info` say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from frames import draw, save

from hela_store.base.progress import silent
from hela_store.embedding.ingest import ingest
from hela_store.errors import SplitError
from hela_store.evaluation.leaks import check_twins, find_copies
from hela_store.evaluation.tracks import cell_tracks
from hela_store.store.store import Store
from hela_store.workflows.info import info
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig
from stores import reseal_tables

PLATES, FIELDS = 6, 4


def stills(root: Path, copied: bool = True) -> Path:
    """Write stills of six plates; every fourth field of a plate is the first one turned."""
    for plate in range(PLATES):
        for field in range(FIELDS):
            image, label = draw(100 * plate + field, (64, 64), cells=8)
            if copied and field == FIELDS - 1:
                image, label = (np.rot90(part) for part in draw(100 * plate, (64, 64), cells=8))
            save(root / f"images/p{plate}_f{field}.tif", np.ascontiguousarray(image))
            save(root / f"masks/p{plate}_f{field}.tif", np.ascontiguousarray(label))
    return root


def made(tmp_path: Path, group: str) -> Store:
    report = new(tmp_path / "s", NewConfig.of(dataset=str(stills(tmp_path / "data")), tile="none", group=group))
    ingest(report.store, silent)
    return Store.open(report.store.path)


def test_new_groups_stills_where_it_finds_copies(tmp_path: Path) -> None:
    report = new(tmp_path / "s", NewConfig.of(dataset=str(stills(tmp_path / "data")), tile="none"))
    assert report.store.recipe.split.group in ("look", "copies")
    assert dict(report.facts())["stills"].startswith("6 of 24 stills are copies of another; grouped by ")
    assert '\ngroup = "' in (tmp_path / "s/store.toml").read_text()
    ingest(report.store, silent)
    store = Store.open(report.store.path)
    blocks = store.blocks()
    assert {name: list(blocks.values()).count(name) for name in ("train", "val", "test", "gap")} == report.blocks
    for plate in range(PLATES):
        assert blocks[f"images/p{plate}_f0"] == blocks[f"images/p{plate}_f{FIELDS - 1}"]
    check_twins(store)
    assert info(store).copies == (
        "6 images resembling an earlier one, 0 of them in another part of the split than the image they resemble"
    )


def test_copies_in_two_blocks_are_refused_where_nobody_chose_the_split(tmp_path: Path) -> None:
    store = made(tmp_path, "none")
    found = find_copies(store)
    assert found is not None and len(found.pairs) == 6 and found.across
    with pytest.raises(SplitError, match=r'is a copy of images/p\d_f0 .* write group = "look" under \[split\]'):
        check_twins(store)
    path = store.path / "store.toml"
    path.write_text(path.read_text().replace('group = ""', 'group = "copies"'))
    check_twins(Store.open(store.path))


def test_the_same_pixels_do_not_train_and_validate(tmp_path: Path) -> None:
    store = made(tmp_path, "none")
    (path,) = (store.path / "ingest").glob("frames-*.parquet")
    table, blocks = pq.read_table(path), store.blocks()
    sums = table["sha256"].to_pylist()
    places = {blocks[frame]: row for row, frame in enumerate(table["frame"].to_pylist())}
    sums[places["val"]] = sums[places["train"]]
    pq.write_table(table.set_column(table.column_names.index("sha256"), "sha256", [sums]), path)
    reseal_tables(store.path)
    with pytest.raises(SplitError, match=r"\((train|val)\) is the same image as .* \((train|val)\)"):
        check_twins(Store.open(store.path))


def test_intervals_count_a_group_of_stills_once(tmp_path: Path) -> None:
    store = made(tmp_path, "name:^p[0-9]+")
    blocks = store.blocks()
    assert all(len({blocks[f"images/p{p}_f{f}"] for f in range(FIELDS)}) == 1 for p in range(PLATES))
    tracks = cell_tracks(store, list(blocks))
    assert str(tracks) == "intervals count each group of images (name:^p[0-9]+) once"
    units = tracks.units(list(tracks.of))
    assert len(set(units.track.tolist())) == len(set(units.block.tolist())) == PLATES and units.frame is None
    # also where somebody named the blocks
    path = store.path / "store.toml"
    path.write_text(path.read_text().replace('\ntrain = ""', '\ntrain = "0-3"'))
    named = Store.open(store.path)
    assert named.recipe.split.train and str(cell_tracks(named, list(blocks))) == str(tracks)


def test_stores_that_an_earlier_version_made_keep_their_split(tmp_path: Path) -> None:
    store = made(tmp_path, "none")
    before = store.blocks()
    (path,) = (store.path / "ingest").glob("frames-*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["look"]), path)
    reseal_tables(store.path)
    text = (store.path / "store.toml").read_text()
    (store.path / "store.toml").write_text(text.replace('group = ""\n', ""))
    old = Store.open(store.path)
    assert old.blocks() == before and str(cell_tracks(old, list(before))) == "intervals count each image once"
    check_twins(old)
    assert info(old).copies.endswith("24 not looked at: an earlier version ingested them")
    (store.path / "store.toml").write_text(text.replace('group = ""', 'group = "look"'))
    with pytest.raises(SplitError, match=r"was ingested by an earlier version"):
        Store.open(store.path).blocks()
