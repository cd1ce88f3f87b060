"""How the rule of the next cell compares with chance, as the page says it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hela_store.teaching.offers import rule_or_chance

WORSE = [0.30, 0.34, 0.28, 0.40, 0.31, 0.36]
BETTER = [0.10, 0.12, 0.08, 0.15, 0.11]
NO_VERDICT = "if each was of another nucleus; this is no verdict, as it is looked at after every cell"


@pytest.mark.parametrize(
    ("by_rule", "control", "said"),
    [
        (WORSE, BETTER, f"difference +0.22, 95 % interval +0.17 to +0.27 {NO_VERDICT}"),
        (BETTER, WORSE, f"difference -0.22, 95 % interval -0.27 to -0.17 {NO_VERDICT}"),
        (WORSE, WORSE[:4], "too early to compare, 5 of each are needed"),
        ([0.1] * 5, [0.1] * 5, "too much alike to compare"),
    ],
)
def test_the_rule_is_compared_with_chance_in_words(by_rule: list[float], control: list[float], said: str) -> None:
    assert rule_or_chance(by_rule, control) == said


def test_the_interval_covers_if_looked_at_once() -> None:
    rng = np.random.default_rng(0)
    said = [rule_or_chance(rng.beta(2, 8, 40).tolist(), rng.beta(2, 8, 10).tolist()) for _ in range(1000)]
    ends = np.array([re.findall(r"[+-]0\.\d\d", each)[1:] for each in said], float)
    # ends are printed with two decimals
    assert 0.925 < np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)) < 0.985
