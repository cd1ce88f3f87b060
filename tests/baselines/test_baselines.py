"""Baselines as runs: what they find, and that the catalog, SEG and compare take them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.baselines.classical import ClassicalParameters, classical, segment
from hela_store.baselines.config import ClassicalConfig
from hela_store.baselines.image_free import image_free
from hela_store.errors import PromptError, RecipeError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.sequences import run_labels, sequence_scores
from hela_store.exchange.ctc import export_ctc
from hela_store.metrics.ctc import match_frame, seg
from hela_store.runs.folder import list_runs
from hela_store.store.store import Store

PARAMETERS = ClassicalParameters(smooth=0.05, block=2.0, above=0.0, floor=0.3, spread=0.1, apart=0.6, least=0.2)


def test_bright_discs_are_found_and_apart() -> None:
    rows, columns = np.mgrid[:80, :120]
    truth = np.zeros((80, 120), np.int32)
    for number, (x, y) in enumerate([(20, 30), (38, 30), (90, 50)], 1):
        truth[np.hypot(rows - y, columns - x) < 10] = number
    image = 1000 + np.random.default_rng(0).poisson(20 + 200 * (truth > 0))
    found = segment(image.astype(np.uint16), 1000, 20, PARAMETERS)
    assert found.max() == 3 and seg([match_frame(truth, found)]) > 0.85
    assert not segment(np.full((50, 60), 7, np.uint8), 0, 20, PARAMETERS).any()


def test_classical_is_a_run_with_every_cell(store: Store, tmp_path: Path) -> None:
    config = ClassicalConfig(budget=6, finalists=2, search_frames=2)
    done = classical(store, config)
    rows = store.sql(f"select * from cell_metrics where run = '{done.run}'").df()
    cells = store.sql("select cell from cells where frame = '01/t007'").df()
    assert (
        sorted(rows.cell) == sorted(cells.cell)
        and set(rows.prompt) == {"none"}
        and set(rows.checkpoint) == {"classical"}
    )
    assert rows.iou.mean() == pytest.approx(done.prompts["none"]["mean_iou"]) and rows.iou.mean() > 0.4
    assert (rows.iou[rows.is_empty] == 0).all()
    assert done.config["budget"] == 6 and done.config["search"]["val_seg"] > 0.4
    scores = sequence_scores(run_labels(store, done.run))
    assert scores.suffix == "" and "SEG" in scores.to_json()["sequences"][0]
    assert scores.sequences[0].seg == pytest.approx(rows.iou[rows.iou > 0].sum() / len(rows), abs=0.15)
    assert done.sequences == scores and done.to_json()["sequences"][0]["count_errors"].keys() == {"01/t007"}
    hard = store.sql(f"select avg(iou), avg(nsd1) from cell_metrics where run = '{done.run}' and is_dim").fetchall()[0]
    dim = done.subsets.get("none", {}).get("dim")
    assert (dim is None and hard[0] is None) or (
        dim is not None and (dim.mean_iou, dim.mean_nsd1) == pytest.approx(hard)
    )
    assert dim is None or dim.skill is None
    assert export_ctc(store, done.run, tmp_path / "out").objects > 0
    assert done.config["spent"]["trials"] == 6 and done.config["spent"]["seconds"] > 0
    given_again = classical(store, config)
    assert given_again.reused and given_again.run == done.run and given_again.sequences == done.sequences
    again = classical(store, config, fresh=True)
    assert again.config["parameters"] == done.config["parameters"] and again.run != done.run
    assert len(list_runs(store.path, "baseline")) == 2
    with pytest.raises(RecipeError, match="at least 1"):
        ClassicalConfig(budget=0)


def test_image_free_rows_are_a_run(store: Store) -> None:
    done = image_free(store, prompts=("box-exact", "mask"), prompt_seeds=2)
    rows = store.sql(
        "select iou, free_iou, prompt from cell_metrics m join prompts p using (run, cell, prompt_seed) where p.kind = m.prompt"
    ).df()
    assert len(rows) and rows.iou.to_numpy() == pytest.approx(rows.free_iou.to_numpy())
    assert done.prompts["box-exact"]["mean_iou"] > 0.7
    assert image_free(store, prompts=("box-exact", "mask"), prompt_seeds=2).run == done.run
    other = classical(store, ClassicalConfig(budget=2, search_frames=1))
    assert {row.prompt for row in compare(store, [done.run, other.run]).rows} == {"box-exact", "mask"}
    with pytest.raises(PromptError, match="mask-previous"):
        image_free(store, prompts=("mask-previous",))


def test_seeds_are_runs_with_a_mean_and_every_seed_and_a_stated_budget(store: Store) -> None:
    asked = ["baseline", "classical", "-s", str(store.path), "--budget", "2", "--seeds", "3"]
    done = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert done.exit_code == 0 and done.output.count("-baseline-classical-test-") == 3, done.output
    assert done.output.count("cost: 2 trials, ") == 3 and "mean IoU over seeds  seed 1  seed 2  seed 3" in done.output
    assert [run.config["seed"] for run in list_runs(store.path, "baseline")] == [0, 1, 2]
    again = CliRunner().invoke(main, [*asked, "--json"], catch_exceptions=False)
    assert again.stderr.count("has done just this before") == 3
    assert len(json.loads(again.stdout)) == 3 and len(list_runs(store.path, "baseline")) == 3
