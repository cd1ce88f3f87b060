import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.errors import PromptError, RecipeError
from hela_store.runs.folder import list_runs, load_run, run_ids
from hela_store.store.store import Store
from hela_store.studies.reference import REFERENCE
from hela_store.studies.study import StudyConfig, StudyResult, study
from hela_store.studies.text import AGAINST, COLUMNS, against, markdown, table
from hela_store.training.config import FinetuneConfig
from stores import reseal

TUNING = FinetuneConfig.of(steps=2, cells=2, validation_cells=2, workers=0)
CONFIG = StudyConfig(prompts=("box", "mask"), seeds=2, prompt_seeds=2, tuning=TUNING)


@pytest.mark.ci
def test_the_whole_table_once_and_again_without_another_scoring(store: Store) -> None:
    first = study(store, CONFIG)
    assert [(row.prompt, row.method, len(row.runs)) for row in first.rows] == [
        ("box", "image-free", 1),
        ("box", "zero-shot", 1),
        ("box", "tuned for box", 2),
        ("box-exact", "image-free", 1),
        ("box-exact", "zero-shot", 1),
        ("box-exact", "tuned for box", 2),
        ("mask", "image-free", 1),
        ("mask", "zero-shot", 1),
        ("mask", "tuned for mask", 2),
    ]
    runs = run_ids(store.path)
    assert len(runs) == 4 + 4 + 1 + 1
    assert sum(first.test_scorings.values()) == 6 and first.test_scorings["zero-shot"] == 1
    again = study(store, CONFIG)
    assert (run_ids(store.path) == runs and again.rows == first.rows) or repr(again.rows) == repr(first.rows)
    assert again.test_scorings == first.test_scorings
    check_against(store, first)

    assert first.facts["protocol"] == "the same nuclei, later"
    tuned = first.rows[2]
    of_run = [
        store.sql(
            f"select avg(iou), avg(hd95), count(*) from cell_metrics where run = '{run}' and prompt = 'box'"
        ).fetchall()[0]
        for run in tuned.runs
    ]
    assert tuned.iou == pytest.approx((of_run[0][0] + of_run[1][0]) / 2) and tuned.n == of_run[0][2]
    assert tuned.iou_spread == pytest.approx(abs(of_run[0][0] - of_run[1][0]) / 2**0.5)
    assert tuned.hd95 == pytest.approx((of_run[0][1] + of_run[1][1]) / 2)
    assert [
        load_run(store.path, run).config["seed"]
        for run in (load_run(store.path, r).checkpoint or "" for r in tuned.runs)
    ] == [0, 1]
    zero = first.rows[1]
    assert zero.free_iou is not None
    assert tuned.gain is not None and tuned.gain.per_cell.mean == pytest.approx(tuned.iou - zero.iou)
    assert zero.gain is None and first.rows[0].over_free == pytest.approx(0) and first.rows[0].skill == pytest.approx(0)
    assert zero.free_iou == pytest.approx(first.rows[0].iou) and zero.skill == pytest.approx(
        (zero.iou - zero.free_iou) / (1 - zero.free_iou)
    )
    assert "SEG (oracle prompts)" in zero.to_json() and "SEG" not in zero.to_json()

    text = markdown(first)
    assert "other data, other split" in text and f"{REFERENCE['mask'][0]:.4f}/{REFERENCE['mask'][1]:.4f}" in text
    assert all(name in first.facts for name in ("encoder", "data", "blocks", "truth", "tile", "seeds", "date"))
    assert "the same nuclei, later" in first.facts["scored"] and "give --seeds 3" in text
    assert all(len(line) == len(COLUMNS) for line in table(first))
    given = "study --prompt box mask --seeds 2 --prompt-seeds 2 --steps 2 --cells 2 --validation-cells 2".split()
    out = store.path.parent / "tables" / "study.md"
    done = CliRunner().invoke(main, [*given, "--workers", "0", "-s", str(store.path), "--out", str(out)])
    assert done.exit_code == 0 and "over zero-shot" in done.output, done.output
    assert "cells in no training frame" in done.output and out.read_text().startswith("## Study")
    assert run_ids(store.path) == runs, "what is there was made again"
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|") and "over image-free" in line]
    assert widths == [len(COLUMNS) + 1]


def check_against(store: Store, first: StudyResult) -> None:
    """Score the same runs against other labels, which lack a cell and have another one smaller."""
    for path in sorted((store.path / "data/01_ST/SEG").glob("*.tif")):
        label = tifffile.imread(path)
        one, other = np.unique(label[label > 0])[:2]
        label[label == one] = 0
        label[(label == other) & (np.arange(label.shape[1]) % 5 == 0)] = 0
        (store.path / "data/01_GT/SEG").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(store.path / "data/01_GT/SEG" / path.name, label)
    runs = run_ids(store.path)
    found = study(store, replace(CONFIG, truth="GT"))
    assert run_ids(store.path) == runs
    assert list(found.gains_against) == [
        ("box", "image-free"),
        ("box", "tuned for box"),
        ("box-exact", "image-free"),
        ("box-exact", "tuned for box"),
        ("mask", "image-free"),
        ("mask", "tuned for mask"),
    ]
    of = {(score.run, score.prompt): score for score in found.against}
    tuned, zero = found.rows[2], found.rows[1]
    gain = found.gains_against["box", "tuned for box"]
    means = [of[run, "box"].iou - of[zero.runs[0], "box"].iou for run in tuned.runs]
    assert gain.mean == pytest.approx(np.mean(means)) and gain.seeds == 2
    assert len(found.to_json()["gains_against"]) == 6
    line = next(line for line in against(found) if line[:2] == ["box", "tuned for box"])
    assert len(line) == len(AGAINST) and line[-1].startswith(f"{gain.mean:+.4f}")
    assert against(first) == [] and first.gains_against == {}


# in short: evaluation/test_covered.py
@pytest.mark.slow
def test_what_does_not_cover_the_cells_is_not_taken_for_done(store: Store) -> None:
    config = StudyConfig(prompts=("box",), seeds=1, prompt_seeds=1, tuning=TUNING)
    study(store, config)
    for run in list_runs(store.path, "evaluate"):
        path = run.path / "predictions.parquet"
        pq.write_table(pq.read_table(path).slice(1), path)
        reseal(run.path)
    (store.path / "catalog.duckdb").unlink()
    before = len(run_ids(store.path))
    study(Store.open(store.path), config)
    assert len(run_ids(store.path)) == before + 2


# in short: the command in the test of the whole table, and the search of baselines/test_baselines.py
@pytest.mark.slow
def test_the_command_with_classical(store: Store, tmp_path: Path) -> None:
    given = "study --prompt box --seeds 1 --prompt-seeds 1 --steps 1 --cells 2 --validation-cells 2 --workers 0".split()
    out = tmp_path / "tables" / "study.md"
    done = CliRunner().invoke(main, [*given, "--classical", "-s", str(store.path), "--out", str(out)])
    assert done.exit_code == 0 and "classical" in done.output and "over zero-shot" in done.output, done.output
    assert "cells in no training frame" in done.output
    assert out.read_text().startswith("## Study")
    told = CliRunner().invoke(main, [*given, "-s", str(store.path), "--json"])
    found = json.loads(told.stdout)
    assert (
        told.exit_code == 0
        and found["rows"][-1]["method"] == "classical (small baseline)"
        and "SEG" in found["rows"][-1]
    )
    assert found["rows"][-1]["empty"] == found["rows"][-1]["failures"]["empty"] / found["rows"][-1]["n"]
    assert found["rows"][-1]["free_iou"] is None and found["test_scorings"]["classical"] == 1
    assert any("--unet trains the others" in note for note in found["notes"]) and found["against"] == []
    assert CliRunner().invoke(main, ["study", "--prompt", "scribble", "-s", str(store.path)]).exit_code == 2


# in short: the rates of baselines/test_unet.py, and the row of a classical method above
@pytest.mark.slow
def test_a_network_that_is_there_is_taken_whatever_its_steps(store: Store) -> None:
    given = "study --prompt box --seeds 1 --prompt-seeds 1 --steps 1 --cells 2 --validation-cells 2 --workers 0".split()
    trained = CliRunner().invoke(main, "baseline unet --steps 1 --workers 0 --json -s".split() + [str(store.path)])
    assert trained.exit_code == 0, trained.output
    CliRunner().invoke(main, [*given, "-s", str(store.path)])
    runs = run_ids(store.path)
    told = CliRunner().invoke(main, [*given, "-s", str(store.path), "--json"])
    row = json.loads(told.stdout)["rows"][-1]
    assert (row["method"], row["prompt"], len(row["runs"])) == ("U-Net (small baseline)", "none", 1) and "SEG" in row
    assert run_ids(store.path) == runs


def test_impossible_studies_are_refused() -> None:
    assert StudyConfig(prompts=("all", "box+mask", "box")).scored == ("box", "box-exact", "point", "mask", "box+mask")
    with pytest.raises(PromptError, match="scribble"):
        StudyConfig(prompts=("scribble",))
    with pytest.raises(RecipeError, match="split"):
        StudyConfig(split="train")
    with pytest.raises(RecipeError, match="seeds is 0"):
        StudyConfig(seeds=0)
