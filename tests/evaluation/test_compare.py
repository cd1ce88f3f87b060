"""The paired table of runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hela_store.errors import RecipeError, RunError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.runs.folder import load_run, new_run
from hela_store.store.store import Store


def copy_run(
    store: Store, run: str, change: float, keep: int | None = None, kind: str = "box", weights: str | None = None
) -> str:
    """Publish a run with the masks of another and its IoU moved, as if other weights had been scored."""
    source = load_run(store.path, run)
    folder = new_run(
        store.path, "evaluate", source.config | {"checkpoint": weights or f"moved by {change}"}, label="copy"
    )
    prompts, predictions = (pq.read_table(source.path / f"{name}.parquet") for name in ("prompts", "predictions"))
    if keep is not None:
        prompts, predictions = prompts.slice(0, keep), predictions.slice(0, keep)
    prompts = prompts.set_column(1, "kind", pa.array([kind] * len(prompts)))
    iou = predictions.schema.get_field_index("iou")
    predictions = predictions.set_column(iou, "iou", pc.add(predictions["iou"], change))
    folder.write_table("prompts", prompts)
    folder.write_table("predictions", predictions)
    folder.publish()
    return folder.id


@pytest.fixture
def scored(store: Store) -> tuple[Store, str]:
    config = EvaluateConfig(prompts=("box",), prompt_seeds=1, window=8, split="all")
    return store, evaluate(store, None, config).run


def test_runs_are_compared_on_the_same_cells(scored: tuple[Store, str]) -> None:
    store, run = scored
    others = [copy_run(store, run, change) for change in (0.01, 0.03, 0.02)]
    found = compare(store, [run, others[0], ",".join(others)])
    total = store.sql("select count(*) from cells").fetchall()[0][0]
    alone, three = (
        next(r for r in found.rows if r.variant == v and r.subset == "all")
        for v in dict.fromkeys(r.variant for r in found.rows)
    )
    assert (alone.n, alone.cells, alone.better, alone.worse) == (total, total, 1.0, 0.0)
    assert alone.mean == alone.median == pytest.approx(0.01) and alone.per_cell.standing == "", "all alike"
    assert alone.word == "" and alone.per_cell.seeds == 1 and alone.per_cell.blocks == 2, "too few units for a word"
    assert alone.per_frame.mean == pytest.approx(0.01) and alone.per_cell.tracks < total
    assert (three.n, three.cells, three.per_cell.seeds) == (3 * total, total, 3)
    assert three.mean == pytest.approx(0.02) and three.by_seed == pytest.approx([0.01, 0.03, 0.02])
    half = 4.3027 * 0.01 / 3**0.5  # seeds alone differ: the t interval of three numbers of standard deviation 0.01
    assert three.per_cell.high - 0.02 == pytest.approx(half, rel=1e-4) and three.per_cell.df == pytest.approx(2)
    assert three.per_cell.bootstrap_low == pytest.approx(0.01) and three.per_cell.bootstrap_high == pytest.approx(0.03)
    assert (three.frames.median, three.frames.low_quartile) == pytest.approx((0.02, 0.02))
    assert found.units == "intervals count a cell in several frames once (by its label)"
    parts = {r.subset: r.cells for r in found.rows if r.variant == others[0]}
    assert (
        parts["small"] + parts["medium"] + parts["large"]
        == total
        == parts["dark"] + parts["middling"] + parts["bright"]
    )
    assert abs(parts["small"] - parts["large"]) <= 1 and parts.get("touching", 0) + parts["alone"] == total
    assert any("give 3, as A1,A2,A3" in note for note in found.notes)
    assert "2 groups of up to 5 neighbouring frames: fewer than 5 groups give numbers but no verdict" in found.notes
    assert compare(store, [others[0], run]).rows[0].per_cell.high == pytest.approx(-0.01)
    assert all(r.is_exploratory and r.word == "" for r in found.rows if r.subset != "all")
    with pytest.raises(RunError, match="given twice"):
        compare(store, [run, ",".join([*others, others[0]])])
    assert found.to_json()["rows"][0]["per_cell"]["low"] == pytest.approx(0.01)


def test_runs_of_other_cells_are_compared_on_what_they_share(scored: tuple[Store, str]) -> None:
    store, run = scored
    few = copy_run(store, run, 0.0, keep=9)
    found = compare(store, [run, few])
    assert found.rows[0].n == 9 and found.rows[0].word == "" and found.rows[0].per_cell.high == 0
    assert any(note.startswith("9 rows match of") for note in found.notes)
    assert "1 group of up to 5 neighbouring frames: fewer than 5 groups give numbers but no verdict" in found.notes
    points = copy_run(store, run, 0.0, kind="point")
    with pytest.raises(RunError, match="none is the same under the same prompt"):
        compare(store, [run, points])
    free = copy_run(store, run, 0.1, kind="none")
    both = compare(store, [free, points])
    assert both.rows[0].prompt == "point" and both.rows[0].mean == pytest.approx(-0.1)
    with pytest.raises(RunError, match="two or more"):
        compare(store, [run])
    with pytest.raises(RunError, match="2 runs against 3"):
        compare(store, [f"{run},{few}", f"{run},{few},{free}"])
    with pytest.raises(RecipeError, match="boundary_iou"):
        compare(store, [run, few], metric="hd95")


def test_scorings_of_the_same_weights_are_one_training_seed(scored: tuple[Store, str]) -> None:
    store, run = scored
    same = [copy_run(store, run, change, weights="one") for change in (0.01, 0.02, 0.03)]
    found = compare(store, [run, same])
    assert found.rows[0].per_cell.seeds == 1 and found.rows[0].by_seed == pytest.approx([0.02])
    assert any(note.startswith("1 training seed of") for note in found.notes)


def test_the_command(scored: tuple[Store, str], tmp_path: Path) -> None:
    from click.testing import CliRunner
    from hela_store_cli.main import main

    store, run = scored
    other = copy_run(store, run, 0.02)
    done = CliRunner().invoke(main, ["compare", run, other, "-s", str(store.path)])
    assert (
        done.exit_code == 0
        and run in done.output
        and "intervals count a cell in several frames once (by its label)" in done.output.replace("\n", " ")
    )
    assert "exploratory" in done.output and "no verdict" in done.output and "no difference" not in done.output
    assert "no verdict, because the changes are all alike." in done.output.replace("\n", " ")
    assert CliRunner().invoke(main, ["compare", run, "-s", str(store.path)]).exit_code == 2
