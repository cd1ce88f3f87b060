"""Measures of a probability, on cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hela_store.metrics.confidence import aurc, auroc, brier_skill, clopper_pearson

RIGHT = np.array([True, True, True, False])


def test_a_constant_has_no_skill() -> None:
    constant = np.full(4, 0.75)
    assert brier_skill(constant, RIGHT) == 0 and auroc(constant, RIGHT) == 0.5
    assert aurc(constant, RIGHT) == pytest.approx(0.25)


def test_a_probability_that_knows() -> None:
    known = np.array([0.9, 0.8, 0.7, 0.1])
    brier = (0.01 + 0.04 + 0.09 + 0.01) / 4
    assert brier_skill(known, RIGHT) == pytest.approx(1 - brier / 0.1875)
    assert auroc(known, RIGHT) == 1 and aurc(known, RIGHT) == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert auroc(-known, RIGHT) == 0 and aurc(-known, RIGHT) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert auroc(np.array([0.9, 0.5, 0.2, 0.5]), RIGHT) == pytest.approx((1 + 0.5 + 0) / 3)


def test_nothing_to_tell_apart() -> None:
    every = np.ones(3, bool)
    assert math.isnan(auroc(np.ones(3), every)) and math.isnan(brier_skill(np.ones(3), every))
    assert math.isnan(aurc(np.zeros(0), np.zeros(0, bool)))


def test_exact_intervals() -> None:
    """No failure in n: 1 - 0.025 ** (1 / n); 1 of 10 as tables have it."""
    assert clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert clopper_pearson(1, 10) == pytest.approx((0.0025, 0.4450), abs=1e-4)
    assert clopper_pearson(10, 10) == pytest.approx((0.025 ** (1 / 10), 1))
    assert clopper_pearson(0, 0) == (0, 1)
