"""Learning curves, from the logs of fine-tunings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from hela_store.runs.folder import RunInfo

from .choice import Choice
from .page import MOST_RUNS, Chart, Section, to_spec, values

MOST_POINTS = 500
SHOWN = {"val.mean_iou": "IoU on validation cells", "loss": "training loss", "lr": "learning rate"}
FORMATS = {"IoU on validation cells": ".3f", "training loss": "~g", "learning rate": "~e"}
"""Numbers of a log line that are drawn, in this order, and their titles."""


def learning(choice: Choice) -> Section | None:
    """Return the section; None where no log holds a curve."""
    runs = choice.tuned[-MOST_RUNS:]
    curves = {run.id.split("-", 2)[-1]: _curves(run) for run in runs}
    charts = []
    for name, title in SHOWN.items():
        rows = [
            {"run": run, "step": step, "value": value}
            for run, found in curves.items()
            for step, value in _thinned(found.get(name, []))
        ]
        if len({row["step"] for row in rows}) > 1:
            charts.append(Chart(title=title, spec=to_spec(_drawn(rows, title, list(curves)), title)))
    if not charts:
        return None
    more = len(choice.tuned) - len(runs)
    text = "The step whose weights are kept is chosen on validation frames. Step 0 is the decoder before fine-tuning."
    notes = [f"{more} earlier fine-tunings are left out; name the runs to see them."] if more else []
    return Section(id="learning", title="Learning curves", text=text, charts=charts, notes=notes)


def _curves(run: RunInfo) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in run.log():
        step = line.get("step")
        if not isinstance(step, int) or "result" in line:
            continue
        flat = {**line, **{f"val.{k}": v for k, v in _mapping(line.get("val")).items()}}
        for name in SHOWN:
            if isinstance(flat.get(name), int | float):
                found.setdefault(name, []).append((step, float(flat[name])))
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    return points[:: max(1, len(points) // MOST_POINTS)]


def _drawn(rows: Sequence[Mapping[str, Any]], title: str, order: Sequence[str]) -> Any:
    colour = alt.Color("run:N", title=None, sort=order, legend=alt.Legend(orient="top", direction="vertical"))
    return (
        alt.Chart(values(rows), width="container", height=220)
        .mark_line(point=alt.OverlayMarkDef(size=25))
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=FORMATS[title])),
            color=colour,
            tooltip=["run:N", "step:Q", "value:Q"],
        )
    )
