"""The curve of budgets in the report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hela_store.metrics.intervals import Interval
from hela_store.show.report.budgets import drawn
from hela_store.show.report.page import to_spec
from hela_store.studies.budget_rows import BudgetCurve, BudgetRow, BudgetTable, Rule, sentence
from hela_store.studies.curves import Scores, fit

BUDGETS = (5, 10, 20, 50, 100, 200, 500)
ALL = 9_000


def table(fewest: int = 0) -> BudgetTable:
    """Return a table of two strategies with five seeds each, and all cells; the second from ``fewest`` cells on."""
    rng, cells, rows, curves = np.random.default_rng(1), 300, [], []
    each = rng.normal(0, 0.04, cells)
    zero = 0.88 + each
    for pick, steep in (("random", 0.6), ("frames", 0.4)):
        tried = [budget for budget in (*BUDGETS, ALL) if pick == "random" or budget >= fewest]
        budgets = np.repeat(tried, 5)
        level = 0.935 - 0.06 * budgets ** -(steep if pick else 0) + rng.normal(0, 0.002, len(budgets))
        sums = level[:, None] + each + rng.normal(0, 0.02, (len(budgets), cells))
        seeds = np.tile(np.arange(5), len(tried))
        curve = fit(Scores(budget=budgets, seed=seeds, sums=sums, counts=np.ones(cells), zero=zero))
        assert curve is not None
        about: dict[str, Any] = {"prompt": "box", "method": "decoder", "variants": 0}
        curves.append(BudgetCurve(**about, pick=pick, curve=curve))
        for budget in tried[:-1] if pick == "frames" else tried:
            ious = sums[budgets == budget].mean(1)
            gain = Interval(mean=0.04, low=0.03, high=0.05, blocks=9, seeds=5)
            own: dict[str, Any] = {
                "iou": float(ious.mean()),
                "iou_runs": tuple(ious.tolist()),
                "over_zero": gain,
                "share": 0.9,
            }
            named = "all" if budget == ALL else pick
            rows.append(BudgetRow(**about, pick=named, budget=budget, frames=5.0, runs=(), **own))
    rule = Rule(prompt="box", zero_shot=0.88, naive=0.83, cells=cells)
    return BudgetTable(
        rows=rows,
        curves=curves,
        rules={"box": rule},
        units="intervals count a cell in several frames once (by its label)",
    )


def test_every_seed_is_a_dot_and_every_strategy_a_line() -> None:
    found = table()
    spec = to_spec(drawn(found, "box"), "labelled cells, box prompts")
    datasets = [layer["data"]["values"] for layer in spec["layer"]]
    names = {row["name"] for rows in datasets for row in rows if "name" in row}
    assert names == {"zero-shot", "naive guess", "all cells"}
    dots = [row for rows in datasets for row in rows if "seed" in row]
    assert len({json.dumps(row) for row in dots}) == 5 * (2 * len(BUDGETS) + 1)
    lines = {row["strategy"] for rows in datasets for row in rows if "low" in row}
    assert lines == {"decoder, random", "decoder, frames"}
    text = sentence(found.curves[0])
    assert text.startswith("box, decoder, random: ") and "of what 9,000 give" in text and "±" in text


def test_no_line_begins_below_its_own_smallest_budget() -> None:
    spec = to_spec(drawn(table(fewest=50), "box"), "labelled cells, box prompts")
    rows = [row for layer in spec["layer"] for row in layer["data"]["values"] if "low" in row]
    first = {
        name: min(row["cells"] for row in rows if row["strategy"] == name)
        for name in ("decoder, random", "decoder, frames")
    }
    assert first == {"decoder, random": 5, "decoder, frames": 50}
