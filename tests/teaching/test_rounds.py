"""Fine-tuning from the page: which cells judge, what is kept, and what is expected of more cells."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hela_store.metrics.intervals import Units
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.curve import ahead_of, curve_of, forecast
from hela_store.teaching.deal import Deal, Dealt
from hela_store.teaching.lesson import Lesson
from hela_store.teaching.retune import (
    Round,
    _Pace,
    last_round,
    learned_cells,
    retune,
    rounds,
    shares,
)
from hela_store.training.budget import VALIDATIONS
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.training.schedule import learning_rate


def dealt_cells(store: Store, held: float) -> dict[tuple[str, int], Dealt]:
    """Return what all cells are for, as if they had been taught one after the other."""
    deal = Deal(store, held, learned_cells(store))
    cells = [(row["frame"], row["label"]) for row in store.cells_table().to_pylist()]
    for cell in cells:
        deal.add(*cell)
    return {cell: dealt for cell in cells if (dealt := deal.of(*cell))}


def test_what_more_cells_add_is_fitted() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(60)
    units = Units(track=rows, frame=None, block=rows, seed=np.zeros(60, np.int64))
    base = rng.normal(0, 0.02, 60)
    steps = [(0, 0.6 + base), *((n, 0.7 + 0.05 * np.log(n / 20) + base) for n in (20, 40, 60, 80))]
    assert ahead_of(steps[:4], units) == []
    assert (forecast([], 0), forecast([], 3)) == (
        "",
        "After 4 rounds the page says what more cells are expected to add.",
    )
    cells, _, _, _, gain, low, high = ahead_of(steps, units)[-1]
    assert cells == 40 and low <= gain <= high and gain == pytest.approx(0.05 * np.log(120 / 80), abs=0.01)
    assert forecast(ahead_of(steps, units), 4).startswith("40 more cells: +0.0")
    assert [point[0] for point in curve_of(steps, units)] == [0, 20, 40, 60, 80]


@pytest.mark.parametrize(("left", "steps"), [(1e9, 60), (100.0, 48), (60.0, 18), (30.0, 6), (-5.0, 6)])
def test_steps_fit_into_the_time_that_is_left(left: float, steps: int) -> None:
    # 0.8 of the time is planned for: 30 s of it for scores, a second for each step
    assert _Pace(step=1.0, answer=0.1, answers=300).steps(left, 60) == steps


@pytest.mark.ci
def test_a_round_makes_as_many_steps_as_fit_and_says_how_many(store: Store) -> None:
    dealt = dealt_cells(store, held=0.3)
    done = retune(store, dealt, TeachConfig(device="cpu", held=0.3, steps=12, seconds=1e-3))
    assert done.steps == VALIDATIONS and "6 of 12 steps in" in str(done) and "as many as 0 s allow" in str(done)
    # its schedule is a whole one: it warms up, and ends at the rate at which one of 6 steps ends
    run = load_run(store.path, done.after)
    rates = [row["lr"] for row in run.log() if "lr" in row]
    peak = run.config["lr"]
    assert run.config["steps"] == VALIDATIONS and run.config["warmup"] == 2 and rates[0] == pytest.approx(peak / 2)
    assert rates[-1] == pytest.approx(learning_rate(VALIDATIONS - 1, peak=peak, steps=VALIDATIONS))
    assert Round.of(load_run(store.path, done.run)) == done
    # and the same fine-tuning asked for again is that run
    again = FinetuneConfig.of(
        prompt="box-or-point",
        steps=VALIDATIONS,
        warmup=2,
        workers=0,
        device="cpu",
        train_cells=shares(store, dealt).train,
        held_cells=shares(store, dealt).choose,
        pick="taught",
    )
    assert finetune(store, again).run == done.after
    # a decoder that was dropped leaves the curve where it was
    assert [point[0] for point in done.curve] == [0, done.trained]
    assert done.curve[-1][1] == pytest.approx(done.after_iou if done.kept else done.before_iou)
    # what learned never judges, also where a larger share is set aside later
    parts = shares(store, dealt)
    assert learned_cells(store) == {*parts.train, *parts.choose}
    later = shares(store, dealt_cells(store, held=0.9))
    assert {*parts.judge} == {*later.judge} and {*later.train} >= {*parts.train}


@pytest.mark.slow
def test_the_decoder_is_fine_tuned_beside_the_page_and_judged_on_cells_set_aside(store: Store) -> None:
    wanted = [f"01/t00{time}" for time in (0, 1)]
    count = store.cells_table()["frame"].to_pylist()
    config = TeachConfig(device="cpu", every=sum(count.count(frame) for frame in wanted), held=0.3, steps=2)
    lesson = Lesson(store, config)
    for frame in wanted:
        for cell in lesson.cells(frame)["cells"]:
            version = lesson.session.log.version
            asked = {"kind": "replace", "cell": cell["cell"], "counts": cell["counts"], "version": version}
            lesson.edit({"page": "a", "frame": frame} | asked)
    assert lesson.learning()["running"]
    ended = time.monotonic() + 500
    while lesson.learning()["running"] and time.monotonic() < ended:
        time.sleep(0.5)
    done, said = last_round(store), lesson.learning()["told"]
    assert done is not None and done.number == 1 and said == str(done) and done.judged + done.trained < 26
    assert [one.number for one in rounds(store)] == [1] and ("answers now" in said) == done.kept
    assert lesson.decoding.checkpoint.id == done.decoder
    lesson.close()
