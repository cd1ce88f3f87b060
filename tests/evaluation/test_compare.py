"""Intervals by the bootstrap of rule 7, and the paired table of runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.errors import RecipeError, RunError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.metrics.intervals import Interval, crossed_interval, frame_blocks, per_frame_weights
from hela_store.runs.folder import load_run, new_run
from hela_store.store.store import Store


def test_blocks_are_neighbouring_frames_of_one_sequence() -> None:
    frames = [("01", t) for t in (70, 71, 74, 75, 81, 82)] + [("02", 71), ("02", 72)]
    assert frame_blocks(frames).tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert frame_blocks(frames[::-1]).tolist() == [3, 3, 2, 2, 1, 0, 0, 0]
    assert frame_blocks(frames, 1).tolist() == list(range(8))


def test_frames_count_alike_whatever_their_cells() -> None:
    weights = per_frame_weights(["a", "a", "b", "a", "b", "c"])
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2, 1])


def test_constant_differences_have_an_interval_of_no_width() -> None:
    blocks, seeds = np.repeat([0, 1, 2], 4), np.tile([0, 1], 6)
    found = crossed_interval(np.full(12, 0.02), blocks, seeds)
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    assert (found.blocks, found.seeds, found.word) == (3, 2, "better")
    alone = crossed_interval(np.full(4, 0.02), np.zeros(4, np.int64), np.array([0, 1, 2, 3]))
    assert math.isnan(alone.low) and math.isnan(alone.high) and alone.word == "no interval"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.2, -0.001, "worse"), (-0.1, 0.1, "no difference"), (0.001, 0.1, "no difference"), (0.006, 0.1, "better")],
)
def test_words(low: float, high: float, word: str) -> None:
    assert Interval(mean=0, low=low, high=high, blocks=4, seeds=3).word == word


def test_intervals_cover_the_truth_where_blocks_and_seeds_carry_the_spread() -> None:
    """Simulated: 95 % intervals hold the true mean about as often as they say; naive ones would not."""
    rng = np.random.default_rng(0)
    inside = naive = 0
    for _ in range(200):
        effect = rng.normal(0, 0.02, 5)[:, None] + rng.normal(0, 0.02, 12)[None]
        values = (effect[..., None] + rng.normal(0, 0.05, (5, 12, 30))).ravel()
        seeds, blocks = np.repeat(np.arange(5), 360), np.tile(np.repeat(np.arange(12), 30), 5)
        found = crossed_interval(values, blocks, seeds, draws=400)
        inside += found.low <= 0 <= found.high
        half = 1.96 * values.std() / math.sqrt(len(values))
        naive += abs(values.mean()) <= half
    assert inside >= 160
    assert naive < 80


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 6))
def test_intervals_are_repeatable_and_hold_the_mean_of_many_rows(seed: int, seeds: int, blocks: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, seeds, 60), rng.integers(0, blocks, 60)
    values = rng.normal(0, 1, 60)
    first = crossed_interval(values, rows[1], rows[0], draws=200)
    again = crossed_interval(values, rows[1], rows[0], draws=200)
    assert repr(first) == repr(again)
    if first.blocks > 1:
        assert first.low <= first.high and values.min() <= first.low and first.high <= values.max()


def copy_run(store: Store, run: str, change: float, keep: int | None = None, kind: str = "box") -> str:
    """Publish a run with the masks of another and its IoU moved."""
    source = load_run(store.path, run)
    folder = new_run(store.path, "evaluate", source.config, label="copy")
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
    others = [copy_run(store, run, change) for change in (0.01, 0.03)]
    found = compare(store, [run, others[0], ",".join([*others, others[0]])])
    total = store.sql("select count(*) from cells").fetchall()[0][0]
    alone, three = (
        next(r for r in found.rows if r.variant == v and r.subset == "all")
        for v in dict.fromkeys(r.variant for r in found.rows)
    )
    assert (alone.n, alone.cells, alone.better, alone.worse) == (total, total, 1.0, 0.0)
    assert alone.mean == alone.median == pytest.approx(0.01) and alone.word == "better"
    assert alone.per_frame.mean == pytest.approx(0.01) and alone.per_cell.seeds == 1 and alone.per_cell.blocks == 2
    assert (three.n, three.cells, three.per_cell.seeds) == (3 * total, total, 3)
    assert three.mean == pytest.approx(0.05 / 3)
    assert three.per_cell.low == pytest.approx(0.01) and three.per_cell.high == pytest.approx(0.03)
    parts = {r.subset: r.cells for r in found.rows if r.variant == others[0]}
    assert (
        parts["small"] + parts["medium"] + parts["large"]
        == total
        == parts["dark"] + parts["middling"] + parts["bright"]
    )
    assert abs(parts["small"] - parts["large"]) <= 1 and parts.get("touching", 0) + parts["alone"] == total
    assert any("give 3, as A1,A2,A3" in note for note in found.notes)
    assert "2 x 5 frames or fewer to draw from: the intervals say little" in found.notes
    assert compare(store, [others[0], run]).rows[0].word == "worse"
    assert found.to_json()["rows"][0]["per_cell"]["low"] == pytest.approx(0.01)


def test_runs_of_other_cells_are_compared_on_what_they_share(scored: tuple[Store, str]) -> None:
    store, run = scored
    few = copy_run(store, run, 0.0, keep=9)
    found = compare(store, [run, few])
    assert found.rows[0].n == 9 and found.rows[0].word == "no interval"
    assert any(note.startswith("9 rows match of") for note in found.notes)
    assert any(note.endswith("to draw from: no interval") for note in found.notes)
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


def test_the_command(scored: tuple[Store, str], tmp_path: Path) -> None:
    from click.testing import CliRunner
    from hela_store_cli.main import main

    store, run = scored
    other = copy_run(store, run, 0.02)
    done = CliRunner().invoke(main, ["compare", run, other, "-s", str(store.path)])
    assert done.exit_code == 0 and "better" in done.output and run in done.output
    assert CliRunner().invoke(main, ["compare", run, "-s", str(store.path)]).exit_code == 2
