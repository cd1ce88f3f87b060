"""How many cells to annotate: budgets, picks, scores on the same cells, and the curve."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import RecipeError, RunError
from hela_store.evaluation.tracks import nuclei
from hela_store.runs.folder import list_runs, load_run, run_ids
from hela_store.segmentation.calibration import Calibration
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.evaluate import keep
from hela_store.segmentation.resolve import resolve_prompts
from hela_store.show.report.budgets import budgets
from hela_store.show.report.choice import choose
from hela_store.store.store import Store
from hela_store.studies.budget import BudgetResult, _notes, plan_budgets, study_budgets
from hela_store.studies.budget_config import BudgetStudyConfig, held_of, parse_budgets
from hela_store.studies.budget_rows import BudgetCurve, budget_runs, budget_table, sentence, strategy_name
from hela_store.studies.budget_text import COLUMNS, budget_lines, budget_markdown
from hela_store.studies.curves import Scores, fit
from hela_store.studies.picks import Picker, farthest_first
from hela_store.training.config import FinetuneConfig
from hela_store.workflows.info import info

TUNING = FinetuneConfig.of(cells=4, workers=0, window=8, lr=1e-3)
CONFIG = BudgetStudyConfig(
    budgets=(3, 4, 6, "all"), picks=("random", "frames"), seeds=1, test_cells=2, steps=2, tuning=TUNING
)
Study = tuple[Path, BudgetResult]


@pytest.fixture(scope="module")
def studied(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a store with a study of budgets, and its result."""
    path = tmp_path_factory.mktemp("budgets") / "store"
    shutil.copytree(embedded, path)
    return path, study_budgets(Store.open(path), CONFIG)


@pytest.mark.ci
def test_one_budget_is_trained_and_scored(store: Store) -> None:
    result = study_budgets(store, replace(CONFIG, budgets=(3,), picks=("random",), steps=1))
    (row,) = result.table.rows
    assert (row.budget, row.share, result.sentences) == (3, None, []) and not result.errors
    zero, scored = sorted(list_runs(store.path, "budget"), key=lambda run: run.config["budget"])
    assert (zero.config["method"], scored.config["pick"], scored.id) == ("zero-shot", "random", row.runs[0])
    assert scored.parent == list_runs(store.path, "finetune")[0].id
    assert all(f"{iou:.4f}" in budget_markdown(result) for iou in row.iou_runs)
    study_budgets(store, replace(CONFIG, budgets=(4,), picks=("random",), steps=2))
    rows = budget_table(store, budget_runs(store)).rows
    assert [(strategy_name(row), row.budget) for row in rows] == [
        ("decoder, steps 1, random", 3),
        ("decoder, steps 2, random", 4),
    ], "points with other numbers of steps are on no common curve"


def test_zero_shot_says_what_the_encoder_was_made_beside(store: Store) -> None:
    named = replace(store.recipe, dataset=replace(store.recipe.dataset, path="/data/Fluo-N2DL-HeLa"))
    assert any(
        "zero-shot: the look of nano's drawn scenes" in note for note in _notes(Store(store.path, named), CONFIG)
    )
    assert not any("zero-shot" in note for note in _notes(store, CONFIG))


def test_cells_that_choose_the_step_are_of_other_nuclei(store: Store) -> None:
    of, config = nuclei(store), replace(CONFIG, budgets=("all",), methods=("unet",), seeds=5)
    cells = len(of)
    assert cells > 1.5 * len(set(of.values()))
    for _, tuning in plan_budgets(store, config).points:
        held, train = tuning.budget.held, tuning.budget.train
        assert held and sorted((*held, *train)) == sorted(of)
        assert not {of[cell] for cell in held} & {of[cell] for cell in train}
        assert len(held) <= max(held_of(cells, "unet"), max(list(of.values()).count(one) for one in of.values()))


def test_points_with_other_steps_are_other_points(store: Store) -> None:
    config = replace(CONFIG, budgets=(3,), picks=("random",), methods=("decoder", "unet", "classical"))
    one, two = (plan_budgets(store, replace(config, steps=steps)).points for steps in (1, 2))
    assert [mine != other for (mine, _), (other, _) in zip(one, two, strict=True)] == [True, True, False]


@pytest.mark.slow
def test_other_settings_are_another_curve(store: Store) -> None:
    one = replace(CONFIG, budgets=(3,), picks=("random",), steps=1)
    study_budgets(store, one)
    study_budgets(store, replace(one, steps=2))
    faster = replace(one, budgets=(3, 4), tuning=TUNING.with_choices(lr=2e-3))
    mine = study_budgets(store, faster)
    assert [strategy_name(row) for row in mine.table.rows] == ["decoder, random"] * 2, "alike are not told apart"
    table = budget_table(store, budget_runs(store))
    assert [(strategy_name(row), row.budget, len(row.runs)) for row in table.rows] == [
        ("decoder, lr 0.001, steps 1, random", 3, 1),
        ("decoder, lr 0.001, steps 2, random", 3, 1),
        ("decoder, lr 0.002, steps 1, random", 3, 1),
        ("decoder, lr 0.002, steps 1, random", 4, 1),
    ]
    assert [row.runs for row in table.rows[2:]] == [row.runs for row in mine.table.rows]


@pytest.mark.slow
def test_every_point_is_scored_on_the_same_cells_and_is_in_sql(studied: Study) -> None:
    path, result = studied
    store = Store.open(path)
    assert not result.errors
    rows = {(row.pick, row.budget): row for row in result.table.rows}
    cells = len(Picker(store).cells)
    assert set(rows) == {(p, n) for p in ("random", "frames") for n in (3, 4, 6)} | {("all", cells)}
    assert all(len(row.runs) == 1 for row in rows.values())
    assert rows["frames", 4].frames == 2 < rows["random", 4].frames
    asked = """
        SELECT r.config->'config'->>'pick' AS pick, (r.config->'config'->>'budget')::INT AS budget, avg(m.iou) AS iou,
            count(*) AS n, count(DISTINCT m.cell) AS cells
        FROM cell_metrics m JOIN runs r ON r.id = m.run WHERE m.kind = 'budget' GROUP BY ALL
    """
    found = {(pick, budget): numbers for pick, budget, *numbers in store.sql(asked).fetchall()}
    assert all(found[key] == [pytest.approx(row.iou), 2, 2] for key, row in rows.items())
    assert found["none", 0] == [pytest.approx(result.table.rules["box"].zero_shot), 2, 2]
    over = rows["random", 3].over_zero
    assert over is not None and over.mean == pytest.approx(rows["random", 3].iou - found["none", 0][0])
    tuned = load_run(path, load_run(path, rows["all", cells].runs[0]).checkpoint or "")
    assert (tuned.config["budget"], tuned.config["held"]) == (cells, 0)
    assert (held_of(24), held_of(25), held_of(9_000)) == (0, 5, 300)
    assert result.table.rules["box"].naive is not None
    assert len(result.sentences) == 2 and all(f"{cells} " in text for text in result.sentences)


@pytest.mark.slow
def test_the_same_study_runs_nothing_again(studied: Study) -> None:
    path, result = studied
    before = run_ids(path)
    again = study_budgets(Store.open(path), CONFIG)
    assert run_ids(path) == before and again.to_json() == result.to_json()
    kept = {run.id for run in budget_runs(Store.open(path))}
    assert kept == {run.id for run in list_runs(path, "budget")}


# in short: test_one_budget_is_trained_and_scored
@pytest.mark.slow
def test_as_markdown_every_seed_stands_beside_its_mean(studied: Study) -> None:
    _, result = studied
    text = budget_markdown(result)
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {len(COLUMNS) + 1}
    assert all(f"{iou:.4f}" in text for row in result.table.rows for iou in row.iou_runs)
    assert all(sentence in text for sentence in result.sentences)


@pytest.mark.slow
def test_the_command_says_what_it_will_run_and_prints_the_table(studied: Study) -> None:
    path, _ = studied
    given = ["study", "-s", str(path), "--pick", "random", "frames", "--test-cells", "2"]
    given += ["--seeds", "1", "--steps", "2", "--cells", "4", "--workers", "0", "--lr", "1e-3"]
    dry = CliRunner().invoke(main, [*given, "--budget", "3,4,6,all", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert dry.output.startswith("Would run 7 fine-tunings (") and "each scored on 2 test cells" in dry.output
    before = run_ids(path)
    plain = CliRunner().invoke(main, [*given, "--budget", "3", "--json"])
    assert plain.exit_code == 0, plain.output
    found = json.loads(plain.stdout)
    assert [row["budget"] for row in found["rows"]] == [3, 3] and found["sentences"] == []
    assert len(run_ids(path)) == len(before) + 4, "another window is another training"
    table = path.parent / "tables" / "budgets.md"
    shown = CliRunner().invoke(main, [*given, "--budget", "3", "--out", str(table)])
    assert shown.exit_code == 0, shown.output
    assert table.read_text().startswith("## How many cells to annotate")
    assert "zero-shot" in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 80


def test_picks_are_orders_of_the_training_cells(store: Store) -> None:
    picker = Picker(store)
    n = len(picker.cells)
    for pick in ("random", "frames", "far"):
        order = picker.order(pick, 0, n)
        assert sorted(order) == picker.cells and picker.order(pick, 0, 5) == order[:5]
        assert order != picker.order(pick, 1, n)
    frames = [cell.partition("#")[0] for cell in picker.order("frames", 0, n)]
    assert sum(one != other for one, other in pairwise(frames)) == len(set(frames)) - 1
    points = np.array([[0.0], [1.0], [10.0], [4.0]], np.float32)
    assert farthest_first(points, 0, 4) == [0, 2, 3, 1]
    with pytest.raises(RunError, match=r"doubt needs.*detect train.*detect calibrate"):
        picker.order("doubt", 0, 5)


@pytest.mark.slow
def test_doubt_takes_the_cells_that_a_calibration_trusts_least(detector_store: Store) -> None:
    store, signs = detector_store, (0.0, 0.0, 0.0, 0.0)
    prompts = resolve_prompts(store, DetectedConfig(split="val"))
    even: dict[str, Any] = {
        "scale": (1.0, 1.0, 1.0, 1.0),
        "weights": (1.0, 1.0, 1.0, 1.0),
        "bias": 0.0,
        "review_below": 0.0,
    }
    keep(store, prompts, Calibration(mean=signs, **even, cells=40, failures=20))
    picker = Picker(store)
    order = picker.order("doubt", 0, len(picker.cells))
    assert sorted(order) == picker.cells and picker.doubts
    doubts = [picker.doubts.get(cell, -1.0) for cell in order]
    assert doubts == sorted(doubts, reverse=True)


def test_a_curve_finds_the_law_that_made_it() -> None:
    rng, budgets = np.random.default_rng(0), np.repeat([5, 10, 20, 50, 100, 500], 5)
    seeds, cells = np.tile(np.arange(5), 6), 200
    level = 0.93 - 0.1 * budgets**-0.7
    each = rng.normal(0, 0.05, cells)
    sums = level[:, None] + each + rng.normal(0, 0.01, (30, cells)) + rng.normal(0, 0.001, (30, 1))
    scores = Scores(budget=budgets, seed=seeds, sums=sums, counts=np.ones(cells), zero=0.85 + each)
    curve = fit(scores)
    assert curve is not None and curve.form == "power"
    assert curve.at(30).mean == pytest.approx(0.93 - 0.1 * 30**-0.7 + each.mean(), abs=0.003)
    assert curve.gain(500).low < 0.93 - 0.1 * 500**-0.7 - 0.85 < curve.gain(500).high + 0.002
    # 95 % of the gain of 500 cells lies where 0.1 n^-0.7 = 0.1 * 500^-0.7 + 0.05 * gain
    assert curve.reached is not None and 45 <= curve.reached <= 75
    assert 0 < curve.more(20).low < curve.more(20).high < 0.02
    flat = Scores(budget=budgets, seed=seeds, sums=sums * 0 + 0.85 + each, counts=np.ones(cells), zero=0.85 + each)
    none = fit(flat)
    assert none is not None and none.reached is None
    assert fit(Scores(budget=budgets[:15], seed=seeds[:15], sums=sums[:15], counts=np.ones(cells), zero=each)) is None


def test_no_budget_below_the_smallest_one_is_named() -> None:
    rng, budgets, cells = np.random.default_rng(0), np.repeat([50, 100, 200, 500], 3), 100
    each = rng.normal(0, 0.05, cells)
    level = 0.93 - 0.1 * budgets**-1.5  # of the gain of 500 cells 95 % would be there after about 9
    sums = level[:, None] + each + rng.normal(0, 0.01, (12, cells))
    curve = fit(
        Scores(budget=budgets, seed=np.tile(np.arange(3), 4), sums=sums, counts=np.ones(cells), zero=0.85 + each)
    )
    assert curve is not None and (curve.smallest, curve.reached) == (50, 50)
    told = sentence(BudgetCurve(prompt="box", method="decoder", variants=0, pick="random", curve=curve))
    assert "50 cells, the fewest that were tried, reach 95 % of what 500 give" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--budget 5,9999", "budget 9999 is more than the"),
        ("--budget 2", "budget 2 cannot be split"),
        ("--budget 5,5", "budget 5 is given twice"),
        ("--budget 5,many", "budget 'many' is neither a number of cells nor 'all'"),
        ("--budget 5 --method encoder-full", "needs --cut K"),
        ("--budget 5 --cut 2", "only method encoder-full takes"),
        ("--budget 5 --variants 8", "variants is 8, the training views have 0"),
        ("--budget 5 --pick doubt", "pick doubt needs a detector and its calibration"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(embedded: Path, given: str, told: str) -> None:
    before = run_ids(embedded)
    done = CliRunner().invoke(main, ["study", "-s", str(embedded), *given.split()])
    assert done.exit_code == 1 and told in done.output, done.output
    assert run_ids(embedded) == before


def test_options_of_the_other_study_are_refused(embedded: Path) -> None:
    for given, told in (
        ("--pick far", "--pick is for a study of budgets"),
        ("--cut 0", "--cut is for a study"),
        ("--budget 5 --unet", "--unet is not for"),
    ):
        done = CliRunner().invoke(main, ["study", "-s", str(embedded), *given.split()])
        assert done.exit_code == 2 and told in done.output, done.output
    assert parse_budgets("5, 10,all") == (5, 10, "all")
    with pytest.raises(RecipeError, match="pick is best"):
        BudgetStudyConfig(picks=("best",))


@pytest.mark.ci
def test_methods_without_prompts_learn_from_the_same_cells(store: Store) -> None:
    config = replace(CONFIG, budgets=(4,), picks=("frames",), methods=("unet",), steps=1)
    result = study_budgets(store, config)
    (row,) = result.table.rows
    assert not result.errors and (row.prompt, row.method, row.over_zero, row.budget) == ("none", "unet", None, 4)
    (trained,) = list_runs(store.path, "unet")
    # two nuclei in two frames: one of them chooses
    assert (trained.config["budget"], trained.config["held"]) == (4, 2) and trained.is_point
    assert len(budget_lines(result, "none")) == 1 and "val" not in trained.config["frames"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "classical"])
def test_the_other_methods(store: Store, method: str) -> None:
    result = study_budgets(store, replace(CONFIG, budgets=(4,), picks=("frames",), methods=(method,), steps=1))
    assert not result.errors and [row.method for row in result.table.rows] == [method]


@pytest.mark.slow
def test_an_encoder_that_adapts_is_scored_without_embeddings_of_its_own(store: Store) -> None:
    embed(store, EmbedConfig(cut=2))
    config = replace(CONFIG, budgets=(3,), picks=("random",), methods=("encoder-full",), cut=2, steps=1)
    before = store.arrays.embedding_keys()
    result = study_budgets(store, config)
    assert not result.errors and result.table.rows[0].over_zero is not None
    assert store.arrays.embedding_keys() == before
    assert budget_runs(store)[-1].encoder == store.with_encoder(cut=2).key


@pytest.mark.slow
def test_the_report_draws_it_and_leaves_the_points_out_elsewhere(studied: Study) -> None:
    store = Store.open(studied[0])
    section = budgets(store)
    assert section is not None and len(section.charts) == 1 and len(section.notes) == 2
    assert not choose(store, ()).runs and not info(store).runs
    assert info(store).points == len(run_ids(store.path))
    with pytest.raises(RunError, match="no finetune run"):
        load_run(store.path, "latest", "finetune")
