"""The learning rate: each schedule is what it is called, with and without a warm-up."""

from __future__ import annotations

import itertools
import math

import pytest

from hela_store.training.schedule import learning_rate


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_a_schedule_is_what_it_is_called(schedule: str, middle: float, end: float, warmup: int) -> None:
    rates = [learning_rate(step, peak=2.0, steps=100, warmup=warmup, schedule=schedule) for step in range(102)]
    assert rates[0] == pytest.approx(2.0 / (warmup or 1))
    assert rates[50] == pytest.approx(2.0 * middle) and rates[100] == pytest.approx(2.0 * end)
    assert rates[101] == rates[100], "a step after the last has the last rate"
    rising = [after > before for before, after in itertools.pairwise(rates[:warmup])]
    assert all(rising)


def test_a_cosine_is_slow_at_both_ends_and_a_line_is_not() -> None:
    first, quarter = (learning_rate(step, peak=1.0, steps=100) for step in (0, 25))
    assert quarter == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    line = learning_rate(25, peak=1.0, steps=100, schedule="linear")
    assert first > quarter > line == pytest.approx(0.775)


def test_the_floor_is_the_share_that_is_left() -> None:
    assert learning_rate(100, peak=3.0, steps=100, warmup=5, floor=0.01) == pytest.approx(0.03)


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(KeyError):
        learning_rate(0, peak=1.0, steps=1, schedule="staircase")
