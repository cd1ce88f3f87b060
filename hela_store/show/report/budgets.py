"""Draw scores by the number of labelled cells: how many cells to annotate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from hela_store.prompts.kinds import NO_PROMPT
from hela_store.store.store import Store
from hela_store.studies.budget_rows import (
    BudgetCurve,
    BudgetRow,
    BudgetTable,
    Rule,
    budget_runs,
    budget_table,
    sentence,
    strategy_name,
)

from .page import BEFORE, MOST_RUNS, PALETTE, Chart, Section, to_spec, values

HEIGHT = 300
LEGEND = alt.Legend(orient="top", columns=3, symbolOpacity=1)
POINTS = 60
"""Points of a drawn curve."""
TEXT = (
    "Each dot is a decoder that was fine-tuned on that number of labelled cells of the training frames; the cells "
    "that chose the step are among them. All are scored on the same test cells. A line is the fitted curve, with a "
    "95 % band over seeds and tracks of test cells. Dashed: no labelled cell, and the naive guess that never looks "
    "at the image."
)


def budgets(store: Store) -> Section | None:
    """Return the section; None without a study of budgets."""
    runs = budget_runs(store)
    if len(runs) < 2:
        return None
    table = budget_table(store, runs)
    charts = []
    for prompt in dict.fromkeys(row.prompt for row in table.rows):
        title = f"labelled cells, {'no' if prompt == NO_PROMPT else prompt} prompts"
        charts.append(Chart(title=title, spec=to_spec(drawn(table, prompt), title), wide=True))
    notes = [sentence(curve) for curve in table.curves]
    text = f"{TEXT} {table.units[:1].upper()}{table.units[1:]}."
    return Section(id="budgets", title="How many cells to annotate", text=text, charts=charts, notes=notes)


def drawn(table: BudgetTable, prompt: str) -> Any:
    """Return the chart of one prompt kind."""
    rows = [row for row in table.rows if row.prompt == prompt]
    curves = [curve for curve in table.curves if curve.prompt == prompt]
    every = [*map(strategy_name, curves), *map(strategy_name, rows)]
    names = list(dict.fromkeys(every))[:MOST_RUNS]
    scale = alt.Scale(domain=names, range=list(PALETTE[: len(names)]))
    colour = alt.Color("strategy:N", title=None, scale=scale, legend=LEGEND)
    ticks = alt.Axis(values=sorted({row.budget for row in rows}), format=",")
    x = alt.X("cells:Q", title="labelled cells", axis=ticks, scale=alt.Scale(type="log", nice=False, padding=12))
    y = alt.Y("iou:Q", title="IoU on test cells", scale=alt.Scale(zero=False), axis=alt.Axis(format=".3f"))
    dots = [dot for row in rows if strategy_name(row) in names for dot in _dots(row)]
    shown = alt.Chart(values(dots)).mark_point(filled=True, size=28, opacity=0.75)
    layers = [shown.encode(x=x, y=y, color=colour, tooltip=["strategy:N", "cells:Q", "seed:N", "iou:Q"])]
    if line := [point for curve in curves if strategy_name(curve) in names for point in _line(curve)]:
        base = alt.Chart(values(line)).encode(x=x, color=colour)
        between = alt.Y("low:Q", title="IoU on test cells", scale=alt.Scale(zero=False))
        layers = [base.mark_area(opacity=0.15).encode(y=between, y2="high:Q"), base.mark_line().encode(y=y), *layers]
    return alt.layer(*_rules(table.rules.get(prompt), rows), *layers).properties(width="container", height=HEIGHT)


def _dots(row: BudgetRow) -> list[dict[str, Any]]:
    about = {"strategy": strategy_name(row), "cells": row.budget}
    return [about | {"seed": str(seed), "iou": iou} for seed, iou in enumerate(row.iou_runs)]


def _line(curve: BudgetCurve) -> list[dict[str, Any]]:
    name, fitted = strategy_name(curve), curve.curve
    found = []
    for cells in np.geomspace(fitted.smallest, fitted.largest, POINTS):
        there = fitted.at(float(cells))
        found.append({"strategy": name, "cells": cells, "iou": there.mean, "low": there.low, "high": there.high})
    return found


def _rules(rule: Rule | None, rows: Sequence[BudgetRow]) -> list[Any]:
    """Draw zero-shot, the naive guess and all cells as dashed rules, with their names at the left."""
    named = [] if rule is None else [("zero-shot", rule.zero_shot)]
    named += [] if rule is None or rule.naive is None else [("naive guess", rule.naive)]
    whole = [row for row in rows if row.pick == "all"]
    named += [("all cells", max(row.iou for row in whole))] if whole else []
    data = values([{"name": name, "iou": iou} for name, iou in named])
    base = alt.Chart(data).encode(y=alt.Y("iou:Q", scale=alt.Scale(zero=False)))
    text = base.mark_text(align="left", baseline="bottom", dx=4, color=BEFORE).encode(x=alt.value(0), text="name:N")
    return [base.mark_rule(strokeDash=[4, 3], color=BEFORE), text]
