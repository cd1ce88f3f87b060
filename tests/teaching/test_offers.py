"""Whether the rule of the next cell beats chance, as the page says it."""

from __future__ import annotations

import numpy as np
import pytest

from hela_store.teaching.offers import rule_or_chance

WORSE = [0.30, 0.34, 0.28, 0.40, 0.31, 0.36]
BETTER = [0.10, 0.12, 0.08, 0.15, 0.11]


@pytest.mark.parametrize(
    ("by_rule", "control", "said"),
    [
        (WORSE, BETTER, "the rule finds harder cells, difference +0.22 (95 % +0.17 to +0.27)"),
        (BETTER, WORSE, "chance finds harder cells, difference -0.22 (95 % -0.27 to -0.17)"),
        (WORSE, WORSE[:4], "too early to compare, 5 of each are needed"),
        ([0.1] * 5, [0.1] * 5, "too much alike to compare"),
    ],
)
def test_the_rule_is_compared_with_chance_in_words(by_rule: list[float], control: list[float], said: str) -> None:
    assert rule_or_chance(by_rule, control) == said


def test_equal_rules_are_rarely_told_apart() -> None:
    """The interval covers: of two like samples at most about one in twenty gets a verdict."""
    rng = np.random.default_rng(0)
    said = [rule_or_chance(rng.beta(2, 8, 40).tolist(), rng.beta(2, 8, 10).tolist()) for _ in range(1000)]
    assert 0.03 < np.mean([not each.startswith("undecided") for each in said]) < 0.075
