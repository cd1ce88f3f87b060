"""The whole path through the command, on a store of eight small frames that is embedded already."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from console import Run

from hela_store.store.store import Store

QUICK = ("--steps", 4, "--evaluate-every", 2, "--cells", 2, "--workers", 0)


def test_new_embed_and_info(run: Run, embedded: Path, tmp_path: Path) -> None:
    data = embedded / "data"
    found = json.loads(run("new", "tiny", "--dataset", data, "--tile", "none", "--json").stdout)
    assert found["frames"] == 8 and found["tile"] == 0 and found["split"] == {"train": 5, "val": 1, "test": 2, "gap": 0}
    assert "already complete" in run("new", "tiny", "--dataset", data).stderr
    assert "is a store already" in run("new", "tiny", "--dataset", data, "--variants", 1, code=1).stderr
    assert "8 planned, 0 done before, 8 left" in run("embed", "--dry-run").stdout
    some = ("--split", "val", "--split", "test", "--split", "val")
    assert "3 planned of val and test, 0 done before, 3 left" in run("embed", "--dry-run", *some).stdout
    assert not (tmp_path / "stores/tiny/ingest").exists()
    done = run("embed", *some, "--limit", 1)
    assert "3 planned of val and test, 0 done before, 1 now, 2 left" in done.stdout
    assert "8 planned, 1 done before, 7 left" in run("embed", "--dry-run").stdout
    assert "embed" in done.stderr
    state = json.loads(run("info", "--json", "-s", "tiny").stdout)
    assert (state["frames"], state["views_planned"], state["views_done"]) == (8, 8, 1)
    assert state["scale"]["round_trip_whole"] > 0.9
    assert state["bytes"]["arrays.zarr"] > 1_000_000


def test_an_untrained_encoder_is_said_plainly(run: Run, store: Store) -> None:
    recipe = store.path / "store.toml"
    if store.recipe.encoder.sha256 != "untrained":
        recipe.write_text(recipe.read_text().replace(store.recipe.encoder.sha256, "untrained"))
    for command in (("embed", "--dry-run"), ("finetune", "--lr", "-1"), ("evaluate", "--run", "x")):
        done = run(*command, folder=store.path, code=None)
        assert "UNTRAINED" in done.stderr, command
    assert "untrained" in run("info", folder=store.path).stdout


@pytest.mark.ci
def test_finetune_evaluate_sql_info_and_rebuild(run: Run, store: Store) -> None:
    here = {"folder": store.path}
    tuned = json.loads(run("finetune", "--prompt", "box", "--prompt", "point", *QUICK, "--json", **here).stdout)
    assert [row["prompt"] for row in tuned] == ["box", "point"]
    scored = json.loads(run("evaluate", "--run", tuned[0]["run"], "--split", "val", "--json", **here).stdout)
    assert scored["checkpoint"] == tuned[0]["run"] and scored["split"] == "val"
    assert list(scored["prompts"]) == ["box", "box-exact", "point", "mask"]
    assert {"n", "mean_iou", "mean_dice", "empty", "image_free_iou", "skill"} <= scored["prompts"]["box"].keys()
    assert "prompt_iou" in scored["prompts"]["mask"] and "prompt_iou" not in scored["prompts"]["box"]
    zero = run("evaluate", "--zero-shot", "--prompt", "box-exact", **here)
    assert "checkpoint zero-shot, split test" in zero.stdout and "mean IoU" in zero.stdout
    assert "has been scored once" in zero.stdout
    query = (
        "SELECT prompt, count(*) AS n, avg(iou) AS iou FROM cell_metrics WHERE split = 'val' GROUP BY ALL ORDER BY ALL"
    )
    rows = json.loads(run("sql", query, "--json", **here).stdout)
    assert {row["prompt"]: row["n"] for row in rows} == {k: s["n"] for k, s in scored["prompts"].items()}
    assert len(list(csv.DictReader(io.StringIO(run("sql", query, "--csv", **here).stdout)))) == 4
    run("sql", query, "--parquet", "out.parquet", **here)
    assert pq.read_table(store.path / "out.parquet").to_pylist() == rows
    assert run("sql", query, **here).stdout.splitlines()[0].split() == ["prompt", "n", "iou"]
    lines = json.loads(run("info", "--json", **here).stdout)["runs"]
    assert {line["kind"] for line in lines} == {"finetune", "evaluate"}
    short = run("info", **here).stdout.splitlines()
    table = short[short.index("") + 1 : -1]  # above it stands the path of the store, here a long one
    assert max(map(len, table)) <= 80 and any(" zero-shot " in line and "box-exact" in line for line in short)
    told = run("info", "--full", **here).stdout
    assert "box-exact" in told and "empty masks" in told and re.search(r" \d+ of \d+$", told, re.MULTILINE)
    (store.path / "catalog.duckdb").unlink()
    counts = json.loads(run("catalog", "rebuild", "--json", **here).stdout)
    assert counts["runs"] == 4 and counts["frames"] == 8


def test_one_prompt_prints_one_object_and_the_table_says_what_changed(run: Run, store: Store) -> None:
    done = run("finetune", "--prompt", "mask", "--preset", "paper", "--steps", 1, "--workers", 0, folder=store.path)
    for word in ("naive guess", "zero-shot", "tuned", "change of IoU, the same prompts"):
        assert word in done.stdout
    assert run("finetune", "--lr", "-1", folder=store.path, code=1).stderr.endswith("positive number such as 1e-4\n")
    assert "exclude each other" in run("evaluate", "--run", "x", "--zero-shot", folder=store.path, code=2).stderr
    for idle in (("--detector", "latest"), ("--form", "box"), ("--recover",)):
        assert "give --prompt detected" in run("evaluate", *idle, folder=store.path, code=2).stderr
    assert "leave --clicks out" in run("evaluate", "--robustness", "--clicks", 3, folder=store.path, code=2).stderr
    mixed = ("--prompt", "detected", "--foreign")
    assert "not for --prompt detected" in run("evaluate", "--zero-shot", *mixed, folder=store.path, code=2).stderr
    own = ("--prompt", "detected", "--prompts", "own.csv")
    assert "--prompts is not for --prompt detected" in run("evaluate", *own, folder=store.path, code=2).stderr
    before = len(list((store.path / "runs").iterdir()))
    wrong = ("--prompt", "point", "--prompt", "box", "--clicks", 2)
    assert "has no points" in run("finetune", *wrong, folder=store.path, code=1).stderr
    assert len(list((store.path / "runs").iterdir())) == before, "nothing ran before what is impossible was found"
    assert "leave --prompt out" in run("evaluate", "--robustness", "--prompt", "box", folder=store.path, code=2).stderr
    missing = run("evaluate", "--zero-shot", "--prompt", "detected", folder=store.path, code=1).stderr
    assert "there is no trained detector" in missing and "`hela-store detect train` makes one" in missing
    assert "no run 'x'" in run("evaluate", "--run", "x", folder=store.path, code=1).stderr
    for mine in (("--prompts", "mine.csv"), ("--prompt-masks", "masks")):
        refused = run("evaluate", "--prompt", "box", *mine, folder=store.path, code=2).stderr
        assert f"{mine[0]} brings prompts of its own; leave --prompt out" in refused


def test_a_command_that_does_not_exist_is_answered_with_the_nearest(run: Run, tmp_path: Path) -> None:
    asked = {("fine-tune",): "did you mean finetune?", ("detect", "eval"): "did you mean evaluate?"}
    asked |= {("xyz",): "`hela-store --help` lists the commands", ("export", "xyz"): "`hela-store export --help` lists"}
    for words, said in asked.items():
        assert said in run(*words, folder=tmp_path, code=2).stderr


def test_a_store_without_labels_says_what_can_be_done(run: Run, embedded: Path, tmp_path: Path) -> None:
    made = run("new", "bare", "--dataset", embedded / "data", "--labels", "none", "--tile", "none").stdout
    assert "no frame has labels" in made and "segment FRAMES --generic" in made
    run("embed", "-s", "bare", "--limit", 1)
    asked = ("finetune", "evaluate --zero-shot", "detect train", "baseline classical", "audit", "study --prompt box")
    for words in asked:
        said = run(*words.split(), "-s", "bare", code=1).stderr
        assert "has labels, so there is nothing to learn from or to score" in said, words
        assert "`hela-store teach -s bare`" in said and "`hela-store segment FRAMES --generic`" in said, words
        assert "Warning" not in said, words
    page = run("report", "-s", "bare").stdout
    assert "0 runs, 0 charts, 0 cells" in page and "worst frames" not in page


def test_every_form_of_sql_says_the_same(run: Run, embedded: Path) -> None:
    query = (
        "SELECT [1, 2, NULL] AS list, {'a': 'x'} AS object, 'nan'::DOUBLE AS nan, NULL AS nothing, '' AS empty, "
        "true AS yes, TIMESTAMP '2026-01-02 03:04:05' AS moment, '\\xFF'::BLOB AS bytes, 1 AS n, 2 AS n"
    )
    (row,) = json.loads(run("sql", "-s", embedded, query, "--json").stdout)
    assert row == {
        "list": [1, 2, None], "object": {"a": "x"}, "nan": "nan", "nothing": None, "empty": "", "yes": True,
        "moment": "2026-01-02 03:04:05", "bytes": "\\xFF", "n": 1, "n_1": 2,
    }  # fmt: skip
    names, fields = csv.reader(io.StringIO(run("sql", "-s", embedded, query, "--csv").stdout))
    assert names == list(row)
    assert fields == ["[1, 2, null]", '{"a": "x"}', "nan", "", "", "true", row["moment"], "\\xFF", "1", "2"]
    words = run("sql", "-s", embedded, query).stdout.split()
    assert words[: len(row)] == names and words[len(row) :] == " ".join(field for field in fields if field).split()
    for form in ([], ["--csv"], ["--json"]):
        assert "294247-01-10" in run("sql", "-s", embedded, "FROM test_all_types()", *form).stdout
    done = run("sql", "-s", embedded, "SELECT INTERVAL 1 DAY AS day", "--parquet", "day.parquet", code=1)
    assert "column day is of type" in done.stderr and "cast it to VARCHAR" in done.stderr


def test_sql_neither_writes_nor_reaches_files(run: Run, embedded: Path) -> None:
    bad = (
        "COPY frames TO 'x.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "ATTACH 'x.db'",
        "DELETE FROM frames",
        "SELECT nope FROM frames",
    )
    for query in bad:
        done = run("sql", "-s", embedded, query, code=1)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not done.stdout
    assert "exclude each other" in run("sql", "-s", embedded, "SELECT 1", "--json", "--csv", code=2).stderr


def test_doctor(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["versions"]["torch"] and found["devices"]["cpu"] and found["disk"]["write_mb_s"] > 0
    assert "cores" in run("doctor").stdout


def test_pretrain_is_there(run: Run) -> None:
    assert "--data" in run("pretrain", "--help").stdout
