"""The guard: what chooses a step does not judge it, and the guard finds a decoder that became worse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.evaluation.questions import answer
from hela_store.evaluation.tracks import CellTracks
from hela_store.metrics.intervals import Units
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune, validation_questions
from hela_store.training.guard import Change, Halves, change, half

TRACKS, FRAMES, STEPS = 110, 9, 5


def simulated(truth: float, rng: np.random.Generator) -> Change | None:
    """One fine-tuning: the best of five steps, each of the same true change; None where none is better than none.

    A third of 110 nuclei in 9 frames is scored, as by default. Their changes have a standard deviation of 0.05, of which
    nuclei hold a third; steps share most of their changes, as they share most of their weights.
    """
    track, frame = (part.ravel() for part in np.indices((TRACKS, FRAMES)))
    scored = rng.random(len(track)) < 0.3
    track, frame = track[scored], frame[scored]
    nucleus = 0.029 * np.sqrt([0.7, 0.3])[:, None, None] * rng.standard_normal((2, STEPS, TRACKS))
    nucleus = nucleus[0, :1] + nucleus[1]
    steps = truth + nucleus[:, track] + 0.003 * rng.standard_normal(FRAMES)[frame]
    steps = steps + 0.04 * rng.standard_normal((STEPS, len(track)))
    chooses = np.isin(track, list(half(set(track.tolist()))))
    means = steps[:, chooses].mean(1)
    if means.max() <= 0:
        return None
    after = steps[means.argmax()][~chooses]
    units = Units(track=track[~chooses], frame=frame[~chooses], block=frame[~chooses] // 5, seed=0 * frame[~chooses])
    return change(np.zeros(len(after)), after, units)


@pytest.mark.parametrize(
    ("truth", "accepted", "worse"),
    [(-0.01, (0, 0.06), (0, 1)), (0.0, (0.2, 0.6), (0, 0.035)), (0.01, (0.9, 1), (0, 0.01)),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in [
         (-0.03, (0, 0.01), (0, 1)), (-0.005, (0, 0.2), (0, 1)), (0.03, (0.99, 1), (0, 0))])],
)  # fmt: skip
def test_its_size_and_power(truth: float, accepted: tuple[float, float], worse: tuple[float, float]) -> None:
    """Share of fine-tunings that become the default run, and share that is called worse, by the true change of IoU."""
    rng = np.random.default_rng(1)
    found = [simulated(truth, rng) for _ in range(300)]
    assert accepted[0] <= np.mean([one is not None and one.helped for one in found]) <= accepted[1]
    assert worse[0] <= np.mean([one is not None and one.verdict == "worse" for one in found]) <= worse[1]


@pytest.mark.parametrize(("frames", "verdict"), [(FRAMES, ""), (25, "worse")])
def test_it_can_say_worse(frames: int, verdict: str) -> None:
    """A decoder that is worse by 0.04 on the judging half is dropped, and called worse where the frames allow a word."""
    rng = np.random.default_rng(2)
    track, frame = (part.ravel() for part in np.indices((TRACKS // 2, frames)))
    units = Units(track=track, frame=frame, block=frame // 5, seed=0 * frame)
    found = []
    for _ in range(200):
        after = -0.04 + 0.029 * rng.standard_normal(TRACKS)[track] + 0.04 * rng.standard_normal(len(track))
        found.append(change(np.zeros(len(after)), after, units))
    assert [one.verdict for one in found].count(verdict) >= 170 and not any(one.helped for one in found)


@pytest.mark.parametrize(("frames", "verdict"), [(20, ""), (21, "better")])
def test_below_five_groups_of_frames_there_is_a_decision_and_no_verdict(frames: int, verdict: str) -> None:
    track, frame = (part.ravel() for part in np.indices((40, frames)))
    units = Units(track=track, frame=frame, block=frame // 5, seed=0 * frame)
    rng = np.random.default_rng(3)
    found = change(np.zeros(len(track)), 0.05 + 0.01 * rng.standard_normal(len(track)), units)
    assert found.low > 0.005 and found.helped and found.verdict == verdict


def test_half_of_the_tracks_chooses() -> None:
    first = half(set(range(101)))
    assert len(first) == 51 and first == half(set(range(101))) and first <= set(range(101))
    assert half({5}) == {5}


def test_no_cell_chooses_and_judges(store: Store) -> None:
    config = FinetuneConfig.of(prompt="all", window=8)
    halves = Halves.of(store, validation_questions(store, config))
    labels = [{question.cell.label for question in part} for part in (halves.choosing, halves.judging)]
    assert all(labels) and not labels[0] & labels[1]
    assert "cells judged, " in halves.units and "others chose the step; all cells are of one frame" in halves.units


def test_a_result_says_what_judged_it(store: Store) -> None:
    config = FinetuneConfig.of(prompt="all", steps=2, lr=1e-3, window=8, warmup=0, ema=0.0, workers=0)
    result = finetune(store, config)
    assert set(result.kinds) == set(result.by_kind) and sum(part.n for part in result.kinds.values()) == result.tuned.n
    assert result.mean_change == pytest.approx(result.tuned.mean_iou - result.zero_shot.mean_iou)
    assert result.accepted == (result.best_step > 0 and result.mean_change > 0) == result.to_json()["accepted"]
    assert result.verdict == result.to_json()["kinds"]["box"]["verdict"] == "", "one frame gives no verdict"


def test_cells_that_chose_the_step_give_no_verdict(store: Store) -> None:
    questions = validation_questions(store, FinetuneConfig.of(prompt="all", window=8))
    zero_shot = resolve_checkpoint(store, None)
    scores = answer(store, zero_shot.load_decoder(), questions, 8)
    halves = Halves.undivided(store, questions, "4 held cells, chose the step and judged it")
    whole, kinds = halves.changes(scores, scores)
    assert whole.verdict == "" and {found.verdict for found in kinds.values()} == {""}


def test_cells_of_a_single_image_give_no_interval_and_no_word() -> None:
    cells = {f"cell {number}": number for number in range(40)}
    times = dict.fromkeys(cells, ("", 3))
    rng = np.random.default_rng(0)
    before = rng.uniform(0.6, 0.8, 40)
    after = before + 0.05 + rng.normal(0, 0.01, 40)
    apart = CellTracks(method="images", of=cells, times=times)
    assert change(before, after, apart.units(list(cells))).verdict == "better"  # of forty images it would be so
    found = change(before, after, replace(apart, alone=True).units(list(cells)))
    assert math.isnan(found.low) and math.isnan(found.high) and found.verdict == ""
    assert found.mean_change == pytest.approx(0.05, abs=0.01) and found.helped
