"""A decoder of one's own, own columns and a caller's frames, on a real store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import hela_store as hs
from hela_store.catalog import index as catalog
from hela_store.embedding.record import decoder_file
from hela_store.errors import CheckpointError, QueryError, RunError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.exchange.coco import export_coco
from hela_store.integrity.verify import verify
from hela_store.runs.default import default_run
from hela_store.runs.folder import load_run, partial_runs, run_ids
from hela_store.sam.decoder import load_decoder
from hela_store.sam.nano import load_nano
from hela_store.workflows.info import info


@pytest.fixture
def mine(scored: Path, tmp_path: Path) -> hs.Store:
    shutil.copytree(scored, tmp_path / "mine")
    return hs.Store.open(tmp_path / "mine")


def evaluation(store: hs.Store) -> str:
    return next(run for run in run_ids(store.path) if "-evaluate-" in run)


def test_a_decoder_of_ones_own_is_scored_as_the_one_it_is(mine: hs.Store, tmp_path: Path) -> None:
    decoder = load_decoder(decoder_file(mine))
    before = default_run(mine.path, mine.key)
    run = mine.add_run(decoder, name="my loop", config={"lr": 0.5, "prompt": "box"})
    assert mine.add_run(decoder.state_dict(), name="my loop", config={"lr": 0.5, "prompt": "box"}) == run
    config = EvaluateConfig(prompts=("box",), prompt_seeds=1)
    own, zero = evaluate(mine, run, config), evaluate(mine, None, config)
    assert own.checkpoint == run
    assert own.prompts["box"].mean_iou == zero.prompts["box"].mean_iou
    assert default_run(mine.path, mine.key) == before
    found = mine.sql(f"SELECT config->'config'->>'lr' FROM runs WHERE id = '{run}'").fetchall()
    assert found == [("0.5",)]
    assert any(line.run == run for line in info(mine).runs)
    assert verify(mine).whole
    change = next(row for row in compare(mine, [zero.run, own.run]).rows if row.subset == "all")
    assert (change.variant, change.mean, change.n) == (own.run, 0.0, own.prompts["box"].n)
    kept = export_coco(mine, own.run, tmp_path / "masks.json")
    assert kept.run == own.run and kept.annotations + kept.empty == own.prompts["box"].n
    assert export_checkpoint(mine, run, tmp_path / "own.safetensors").run == run


def test_a_mask_decoder_alone_gets_the_prompt_encoder_of_the_store(mine: hs.Store) -> None:
    decoder = load_decoder(decoder_file(mine))
    run = mine.add_run(decoder.mask_decoder, name="mask decoder")
    kept = load_decoder(load_run(mine.path, run).weights, of_run=True).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in decoder.state_dict().items())


def test_a_whole_sam_is_taken_with_the_encoder_of_the_store_alone(mine: hs.Store) -> None:
    sam = load_nano()
    run = mine.add_run(sam, name="sam")
    kept = load_decoder(load_run(mine.path, run).weights, of_run=True).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in sam.state_dict().items() if name in kept)
    with torch.no_grad():
        next(sam.image_encoder.parameters()).add_(1)
    with pytest.raises(CheckpointError, match="is not the one whose embeddings the store has"):
        mine.add_run(sam, name="sam")


def test_weights_that_do_not_fit_leave_nothing(mine: hs.Store) -> None:
    state = load_decoder(decoder_file(mine)).state_dict()
    first = "mask_decoder.iou_token.weight"
    wrong: list[tuple[Any, str]] = [
        ({}, "they lack"),
        ({name: value for name, value in state.items() if name != first}, "they lack 1 tensors"),
        (state | {"mask_decoder.extra": torch.zeros(1)}, "have, beyond those, 1 tensors"),
        (state | {first: torch.zeros(2, 256)}, r"has shape \(2, 256\), expected \(1, 256\)"),
        (state | {first: torch.full((1, 256), torch.nan)}, "no finite"),
        (state | {"image_encoder.pos_embed": torch.zeros(1)}, "is not the one whose embeddings the store has"),
        (3, "expected a module"),
    ]
    before = run_ids(mine.path)
    for weights, words in wrong:
        with pytest.raises(CheckpointError, match=words):
            mine.add_run(weights, name="wrong")
    for settings, words in (({"adapt": "decoder"}, "add_run sets itself"), ({"window": 65}, "expected 1 to 64")):
        with pytest.raises(RunError, match=words):
            mine.add_run(state, name="wrong", config=settings)
    with pytest.raises(RunError, match="expected text with a letter"):
        mine.add_run(state, name="!")
    with pytest.raises(RunError, match="expected ids of ingested frames"):
        mine.add_run(state, name="wrong", train=["01/none"])
    assert run_ids(mine.path) == before and partial_runs(mine.path) == []


def test_frames_that_it_trained_on_are_not_scored_as_test(mine: hs.Store) -> None:
    state = load_decoder(decoder_file(mine)).state_dict()
    run = mine.add_run(state, name="saw the test", train=["01/t007"])
    with pytest.raises(RunError, match="trained on 1 of the 1 frames to score"):
        evaluate(mine, run, EvaluateConfig(prompts=("box",), prompt_seeds=1))


def test_own_columns_are_my_metrics_and_survive_a_rebuild(mine: hs.Store) -> None:
    run = evaluation(mine)
    cells = sorted({row["cell"] for row in load_run(mine.path, run).rows("predictions", ["cell"])})
    columns = {"cell": cells, "dose": [float("nan"), *range(1, len(cells))], "drug": ["a"] * len(cells)}
    table = pa.table(columns | {"count": pa.array(range(len(cells)), pa.int16()), "alive": [True] * len(cells)})
    added = mine.add_metrics(run, table)
    assert mine.add_metrics(run, table) == added, "the same table again is the same run"
    asked = "SELECT m.cell, dose, drug, count, alive FROM my_metrics m WHERE run = '{}' ORDER BY m.cell"
    rows = mine.sql(asked.format(run)).to_arrow_table()
    assert rows["cell"].to_pylist() == cells
    assert str(rows["dose"][0]) == "nan" and rows["dose"].to_pylist()[1:] == list(range(1, len(cells)))
    assert [str(field.type) for field in rows.schema][1:] == ["double", "string", "int64", "bool"]
    joined = "SELECT count(*) FROM cell_metrics JOIN my_metrics USING (run, cell) WHERE iou >= 0"
    assert mine.sql(joined).fetchall()[0][0] == len(load_run(mine.path, run).rows("predictions", ["cell"]))
    (mine.path / "catalog.duckdb").unlink()
    catalog.rebuild(mine.path)
    assert mine.sql(asked.format(run)).to_arrow_table().schema == rows.schema
    file = mine.path / "runs" / added / "metrics.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert [fault.path for fault in verify(mine).faults] == [f"runs/{added}/metrics.parquet"]


def test_own_columns_that_cannot_be_kept_leave_nothing(mine: hs.Store) -> None:
    run = evaluation(mine)
    cell = load_run(mine.path, run).rows("predictions", ["cell"])[0]["cell"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"x": [1]}, "no column 'cell'"),
        ({"cell": [cell]}, "no column of its own"),
        ({"cell": [cell, cell], "x": [1, 2]}, "twice"),
        ({"cell": ["01/t000#999"], "x": [1]}, "1 of 1 rows are not of run"),
        ({"cell": [cell], "prompt": ["polygon"], "x": [1]}, "1 of 1 rows are not of run"),
        ({"cell": pa.array([None], pa.string()), "x": [1]}, "1 rows have no cell"),
        ({"cell": [1.0], "x": [1]}, "of type double, expected text"),
        ({"cell": [cell], "IoU": [1]}, "cell_metrics has already"),
        ({"cell": [cell], "a b": [1]}, "expected letters"),
        ({"cell": [cell], "x": [1], "X": [1]}, "one in SQL"),
        ({"cell": [cell], "x": [[1, 2]]}, "expected numbers, text or truth values"),
        ({"cell": [cell], "prompt_seed": [0], "x": [1]}, "no prompt"),
    ]
    before = run_ids(mine.path)
    for columns, words in wrong:
        with pytest.raises(RunError, match=words):
            mine.add_metrics(run, pa.table(columns))
    with pytest.raises(RunError, match="expected a table of Arrow, pandas or polars"):
        mine.add_metrics(run, {"cell": [cell], "x": [1]})
    with pytest.raises(RunError, match="no run 'nobody'"):
        mine.add_metrics("nobody", pa.table({"cell": [cell], "x": [1]}))
    tuned = next(each for each in run_ids(mine.path) if "-finetune-" in each)
    with pytest.raises(RunError, match="scored no cells"):
        mine.add_metrics(tuned, pa.table({"cell": [cell], "x": [1]}))
    assert run_ids(mine.path) == before and partial_runs(mine.path) == []
    mine.add_metrics(run, pa.table({"cell": [cell], "x": [1]}))
    with pytest.raises(RunError, match="has a column 'x' already"):
        mine.add_metrics(run, pa.table({"cell": [cell], "x": [2]}))


def test_frames_of_the_caller_are_read_and_nothing_else(mine: hs.Store, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    cells = mine.cells_table()["cell"].to_pylist()[:3]
    df = pandas.DataFrame({"cell": cells, "drug": ["a", "b", "c"]})
    asked = "SELECT drug FROM mine JOIN cells USING (cell) ORDER BY drug"
    assert mine.sql(asked, mine=df).fetchall() == [("a",), ("b",), ("c",)]
    assert mine.sql(asked, mine=pa.Table.from_pandas(df)).fetchall() == [("a",), ("b",), ("c",)]
    polars = pytest.importorskip("polars")
    assert mine.sql(asked, mine=polars.from_pandas(df)).fetchall() == [("a",), ("b",), ("c",)]
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for query in ("SELECT * FROM df", "SELECT * FROM mine", f"FROM read_csv('{tmp_path / 'secret.csv'}')"):
        with pytest.raises(QueryError):
            mine.sql(query, other=df)
    with pytest.raises(QueryError, match="has a table 'cells' already"):
        mine.sql("FROM cells", cells=df)
    with pytest.raises(QueryError, match="has a table 'my_metrics' already"):
        mine.sql("FROM my_metrics", My_Metrics=df)
    assert mine.sql("FROM My_Metrics").columns == ["run", "cell", "prompt", "prompt_seed"]
    with pytest.raises(QueryError, match="expected a table"):
        mine.sql("FROM mine", mine=[1, 2])
