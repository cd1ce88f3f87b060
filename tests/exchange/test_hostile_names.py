"""Stores with names that lead elsewhere, through every exporter: nothing is written beside ``--out``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hela_store.base.text import visible
from hela_store.errors import HelaError, RunError, StoreError
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.exchange.coco import export_coco
from hela_store.exchange.ctc import export_ctc
from hela_store.exchange.micro_sam_export import export_micro_sam
from hela_store.exchange.ome_zarr import export_ome_zarr
from hela_store.exchange.onnx import export_onnx
from hela_store.runs.folder import latest, load_run
from hela_store.show.report import report
from hela_store.store.store import Store
from stores import reseal_tables

EXPORTERS: dict[str, Callable[[Store, str, str, Path], Any]] = {
    "ctc": lambda store, run, name, out: export_ctc(store, run, out, prompt="box"),
    "coco": lambda store, run, name, out: export_coco(store, run, out / "x.json", prompt="box"),
    "ome-zarr": lambda store, run, name, out: export_ome_zarr(store, [run], out, prompt="box"),
    "micro-sam": lambda store, run, name, out: export_micro_sam(store, name, out),
    "onnx": lambda store, run, name, out: export_onnx(store, None, out / "x.onnx"),
    "checkpoint": lambda store, run, name, out: export_checkpoint(store, None, out / "x.safetensors"),
}
NAMES = st.sampled_from(
    ["../../escaped", "..", ".", "/tmp/escaped", "a\\b", "C:\\x", "a\0b", "a\nb", "\x1b[2J", "", "x" * 400, "\u2025\uff0fx"]
) | st.text(min_size=1, max_size=8)  # fmt: skip


def rename(path: Path, *columns: str, name: str) -> None:
    """Give all frames of a store another name in these columns; what is derived of it follows."""
    for file in (path / "ingest").glob("frames-*.parquet"):
        rows = pq.read_table(file)
        table = rows.to_pylist()
        for row in table:
            row.update(dict.fromkeys(columns, name))
            row["frame"] = f"{row['sequence']}/{row['name']}"
        pq.write_table(pa.Table.from_pylist(table, rows.schema), file)
    reseal_tables(path)


def others(root: Path, *without: Path) -> set[str]:
    return {str(p) for p in root.rglob("*") if not any(w in (p, *p.parents) for w in without)}


# onnx and checkpoint make no path of a name, and take long
@pytest.mark.parametrize("name", ["ctc", "coco", "ome-zarr", "micro-sam"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(hostile=NAMES, columns=st.sampled_from([("sequence",), ("group",), ("name",), ("sequence", "group", "name")]))
def test_no_exporter_writes_beside_its_folder(
    scored: Path, tmp_path_factory: pytest.TempPathFactory, name: str, hostile: str, columns: tuple[str, ...]
) -> None:
    root = tmp_path_factory.mktemp("deep") / "a" / "b"
    path, out = root / "store", root / "out"
    shutil.copytree(scored, path, ignore=shutil.ignore_patterns("embeddings", "catalog*"))
    rename(path, *columns, name=hostile)
    before = others(root.parents[1], out)
    store = Store.open(path)
    said = ""
    try:
        EXPORTERS[name](store, latest(path, "evaluate").id, hostile, out)
    except HelaError as error:
        said = str(error)
    assert visible(said) == said and "\n" not in said
    assert others(root.parents[1], out) == before
    assert not Path("/tmp/escaped_RES").exists()
    shutil.rmtree(root.parents[1])


@pytest.mark.parametrize("column", ["sequence", "group"])
def test_a_hostile_name_is_refused_when_the_tables_are_opened(scored: Path, tmp_path: Path, column: str) -> None:
    path = shutil.copytree(scored, tmp_path / "store")
    rename(path, column, name="../../escaped")
    for use in (Store.frames_table, Store.frame_records, Store.blocks):
        with pytest.raises(StoreError, match=rf"{column} '../../escaped' cannot be the name of a file"):
            use(Store.open(path))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(group=NAMES | st.text(st.characters(codec=None, exclude_categories=())))
def test_no_group_or_encoder_key_leads_out_of_the_arrays(scored: Path, group: str) -> None:
    store = Store.open(scored)
    assume(group not in ("", *store.arrays.storage.below("frames")))
    for read in (
        lambda name, row: store.arrays.frame_part(name, row, "image"),
        lambda name, row: store.ledger(name).rows()[str(row)],
        store.arrays.embedding,
    ):
        with pytest.raises((StoreError, KeyError)):
            read(group, 0)


@pytest.mark.parametrize(
    "link",
    ["arrays.zarr", "runs", "arrays.zarr/frames", "arrays.zarr/embeddings", "ledger", "encoders", "plan", "ingest"],
)
def test_a_store_with_a_link_out_of_it_is_not_opened(scored: Path, tmp_path: Path, link: str) -> None:
    path = shutil.copytree(scored, tmp_path / "store")
    (path / link).rename(tmp_path / "elsewhere")
    (path / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=rf"{link} is a symbolic link"):
        Store.open(path)


def test_a_run_that_is_a_link_is_named(scored: Path, tmp_path: Path) -> None:
    path = shutil.copytree(scored, tmp_path / "store")
    run = latest(path, "evaluate")
    (path / "runs" / run.id).rename(tmp_path / run.id)
    (path / "runs" / run.id).symlink_to(tmp_path / run.id)
    with pytest.raises(RunError, match="is a symbolic link"):
        load_run(path, run.id)


@pytest.mark.parametrize("name", ["checkpoint", "encoder", "parent"])
def test_a_run_with_a_hostile_name_in_its_configuration_is_not_loaded(scored: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(scored, tmp_path / "store")
    run = latest(path, "evaluate")
    file = run.path.relative_to(path) / "config.json"
    text = (path / file).read_text()
    value = run.raw[name]
    (path / file).write_text(text.replace(f'"{name}": "{value}"', f'"{name}": "../../{value}"', 1))
    with pytest.raises(RunError, match=f"{name} '../../.* cannot be the name of a file"):
        load_run(path, run.id)


@pytest.mark.ci
@pytest.mark.parametrize("dangling", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_exporter_writes_through_a_link(scored: Path, tmp_path: Path, dangling: bool) -> None:
    store, run, elsewhere = Store.open(scored), latest(scored, "evaluate").id, tmp_path / "elsewhere"
    if not dangling:
        elsewhere.mkdir()
    sequence = store.frames_table()["sequence"][0].as_py()
    out = tmp_path / "out"
    out.mkdir()
    for name in (
        f"{sequence}_RES",
        f".{sequence}.ome.zarr.partial",
        "x.json",
        "x.safetensors",
        "x.onnx",
        "report.html",
    ):
        (out / name).symlink_to(elsewhere)
    for name in ("ctc", "ome-zarr", "coco", "checkpoint", "onnx"):
        with pytest.raises((RunError, StoreError), match=r"already|symbolic link"):
            EXPORTERS[name](store, run, "", out)
    with pytest.raises(StoreError, match="symbolic link"):
        report(store, out=out / "report.html")
    assert elsewhere.exists() != dangling and (dangling or not list(elsewhere.iterdir()))
