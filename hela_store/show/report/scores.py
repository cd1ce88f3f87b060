"""Figures over scored cells: distributions, what scores depend on, change between two runs, time, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from hela_store.errors import HelaError
from hela_store.evaluation.compare import compare
from hela_store.runs.folder import RunInfo
from hela_store.segmentation.calibration import Calibration, find_calibration
from hela_store.segmentation.config import DetectedConfig
from hela_store.store.store import Store

from .choice import Choice, Line, Pair, Row
from .page import AFTER, BEFORE, HEIGHT, PALETTE, Chart, Section, Table, number, to_spec, values

POINTS = 1500
"""Dots in a scatter; above that a sample is shown, the curves are over all cells."""
FRAMES = alt.Scale(zero=False, nice=False)
BRUSH = "Drag in a chart to filter the gallery where it says so; click beside the selection to undo it."
STEPS = {"iou": 0.02, "dice": 0.02, "change": 0.02}

HISTOGRAM = """
    SELECT run, least(floor({column} / {step}), {last}) * {step} AS low, count(*) AS n FROM scored
    WHERE prompt = $prompt GROUP BY ALL ORDER BY ALL
"""
CURVE = """,
    cut AS (SELECT *, ntile(12) OVER (PARTITION BY run ORDER BY {column}) AS part FROM scored
            WHERE prompt = $prompt AND {column} IS NOT NULL)
    SELECT run, median({column}) AS x, quantile_cont(iou, 0.1) AS low, median(iou) AS middle,
           quantile_cont(iou, 0.9) AS high, count(*) AS n
    FROM cut GROUP BY run, part ORDER BY run, x
"""
DOTS = """
    SELECT cell, {column}, iou, touches_neighbour FROM scored WHERE prompt = $prompt AND run = $run
    ORDER BY hash(cell, prompt_seed) LIMIT {points}
"""
TOUCHING = """
    SELECT run, CASE WHEN touches_neighbour THEN 'touching' ELSE 'apart' END AS cells, quantile_cont(iou, 0.1) AS low,
           median(iou) AS middle, quantile_cont(iou, 0.9) AS high, count(*) AS n
    FROM scored WHERE prompt = $prompt GROUP BY ALL ORDER BY ALL
"""
CHANGE = """,
    change AS (
        SELECT a.cell, b.iou AS before, a.iou AS iou, a.iou - b.iou AS change, a.prompt_seed
        FROM scored a JOIN scored b USING (cell, prompt, prompt_seed)
        WHERE a.run = $after AND b.run = $first AND prompt = $prompt)
"""
CHANGE_BINS = (
    CHANGE
    + """
    SELECT floor(change / {step}) * {step} AS low, count(*) AS n FROM change GROUP BY ALL ORDER BY ALL
"""
)
CHANGE_DOTS = CHANGE + "SELECT * FROM change ORDER BY hash(cell, prompt_seed) LIMIT {points}"
CHANGE_SUM = (
    CHANGE
    + """
    SELECT count(*) AS n, avg(change) AS mean, median(change) AS middle, avg((change > 0.01)::INT) AS better,
           avg((change < -0.01)::INT) AS worse FROM change
"""
)
TIME = """
    SELECT run, sequence, time, frame, quantile_cont(iou, 0.1) AS low, avg(iou) AS middle,
           quantile_cont(iou, 0.9) AS high, count(*) AS n
    FROM scored WHERE prompt = $prompt GROUP BY ALL ORDER BY ALL
"""
CALIBRATION = """
    SELECT run, least(floor(predicted_iou.greatest(0) * 10), 9)::INT AS part, avg(predicted_iou) AS predicted,
           avg(iou) AS iou, count(*) AS n
    FROM scored WHERE prompt = $prompt AND predicted_iou IS NOT NULL GROUP BY ALL ORDER BY ALL
"""


def _of(pair: Pair) -> list[Line]:
    return [line for line in (pair.before, pair.after) if line is not None]


def _colour(lines: Sequence[Line]) -> alt.Color:
    names = [line.name for line in lines]
    colours = [AFTER] if len(names) == 1 else [BEFORE, AFTER]
    return alt.Color(
        "name:N",
        title=None,
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(orient="top", direction="vertical", symbolOpacity=1) if len(names) > 1 else None,
    )


def _named(rows: Sequence[Row], lines: Sequence[Line]) -> list[Row]:
    names = {line.run: line.name for line in lines}
    return [row | {"name": names[row["run"]]} for row in rows]


def _brush(*axes: Literal["x", "y"]) -> alt.Parameter:
    return alt.selection_interval(name="brush", encodings=list(axes))


def _base(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(values(rows), width="container", height=HEIGHT)


def distributions(choice: Choice) -> Section | None:
    """Draw histograms of IoU and Dice for every kind of prompt."""
    charts = []
    for pair in choice.pairs:
        for column, name in (("iou", "IoU"), ("dice", "Dice")):
            step = STEPS[column]
            sql = HISTOGRAM.format(column=column, step=step, last=round(1 / step) - 1)
            rows = _named(choice.scored(sql, _of(pair), prompt=pair.prompt), _of(pair))
            total = {line.run: sum(row["n"] for row in rows if row["run"] == line.run) for line in _of(pair)}
            data = [
                {
                    "name": r["name"],
                    column: r["low"],
                    "high": r["low"] + step,
                    "share": r["n"] / total[r["run"]],
                    "n": r["n"],
                }
                for r in rows
            ]
            chart = (
                _base(data)
                .mark_bar(opacity=0.55)
                .encode(
                    x=alt.X(f"{column}:Q", title=name, bin="binned", scale=alt.Scale(domain=[0, 1])),
                    x2="high:Q",
                    y=alt.Y("share:Q", title="share of predictions", stack=None, axis=alt.Axis(format="%")),
                    color=_colour(_of(pair)),
                    tooltip=["name:N", f"{column}:Q", "high:Q", alt.Tooltip("share:Q", format=".1%"), "n:Q"],
                )
                .add_params(_brush("x"))
            )
            title = f"{name}, {pair.prompt}"
            charts.append(_chart(title, chart, pair, brush=True))
    return _section(
        "distributions",
        "Distributions",
        f"The scores of all cells and prompts. {BRUSH}",
        charts,
    )


def _chart(title: str, chart: Any, pair: Pair, *, brush: bool = False) -> Chart:
    return Chart(title=title, spec=to_spec(chart, title), where={"prompt": pair.prompt}, brush=brush)


def _section(id: str, title: str, text: str, charts: Sequence[Chart]) -> Section | None:
    return Section(id=id, title=title, text=text, charts=charts) if charts else None


def against(choice: Choice) -> Section | None:
    """Draw IoU against size, brightness and touching."""
    charts = []
    for pair in choice.pairs:
        lines = _of(pair)
        for column, title in (("diameter", "diameter, px"), ("mean_intensity", "brightness, counts")):
            curve = _named(choice.scored(CURVE.format(column=column), lines, prompt=pair.prompt), lines)
            if not curve:
                continue
            sql = DOTS.format(column=column, points=POINTS)
            dots = choice.scored(sql, [pair.after], prompt=pair.prompt, run=pair.after.run)
            log = column == "mean_intensity"
            if log:
                dots = [dot for dot in dots if dot[column] > 0]
                curve = [row for row in curve if row["x"] > 0]
            # a log scale has no zero to leave out, and Vega warns of one
            zero = alt.Undefined if log else False
            scale = alt.Scale(type="log" if log else "linear", nice=False, padding=8, zero=zero)
            scatter = (
                _base(dots)
                .mark_point(filled=True, size=14, opacity=0.5, color=AFTER)
                .encode(
                    x=alt.X(f"{column}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5)),
                    y=alt.Y("iou:Q", title="IoU", scale=alt.Scale(domain=[0, 1])),
                    tooltip=["cell:N", f"{column}:Q", "iou:Q"],
                )
                .add_params(_brush("x", "y"))
            )
            line = _base(curve).mark_line(strokeWidth=2.5).encode(x="x:Q", y="middle:Q", color=_colour(lines))
            charts.append(_chart(f"{title.split(',')[0]}, {pair.prompt}", scatter + line, pair, brush=True))
        rows = _named(choice.scored(TOUCHING, lines, prompt=pair.prompt), lines)
        charts.append(_chart(f"touching, {pair.prompt}", _touching(rows, lines), pair))
    text = f"Dots: cells of the last run (a sample of at most {POINTS}); lines: medians of twelve equal parts. {BRUSH}"
    return _section("against", "What scores depend on", text, charts)


def _touching(rows: Sequence[Row], lines: Sequence[Line]) -> Any:
    base = _base(rows).encode(
        x=alt.X("cells:N", title=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("name:N", sort=[line.name for line in lines]),
        color=_colour(lines),
        tooltip=["name:N", "cells:N", "low:Q", "middle:Q", "high:Q", "n:Q"],
    )
    bars = base.mark_rule(strokeWidth=3).encode(
        y=alt.Y("low:Q", title="IoU, 10 to 90 %, median", scale=alt.Scale(domain=[0, 1])), y2="high:Q"
    )
    return bars + base.mark_point(filled=True, size=90, opacity=1).encode(y="middle:Q")


def change(choice: Choice) -> Section | None:
    """Draw the change of IoU per cell between the two runs of a pair, on identical prompts."""
    charts, rows = [], []
    for pair in choice.pairs:
        if pair.before is None:
            continue
        asked = {"after": pair.after.run, "first": pair.before.run, "prompt": pair.prompt}
        total = choice.scored(CHANGE_SUM, _of(pair), **asked)[0]
        if not total["n"]:
            continue
        step = STEPS["change"]
        bins = choice.scored(CHANGE_BINS.format(step=step), _of(pair), **asked)
        data = [{"change": r["low"], "high": r["low"] + step, "n": r["n"], "up": r["low"] >= 0} for r in bins]
        histogram = (
            _base(data)
            .mark_bar(opacity=0.8)
            .encode(
                x=alt.X("change:Q", title="change of IoU", bin="binned"),
                x2="high:Q",
                y=alt.Y("n:Q", title="predictions"),
                color=alt.Color("up:N", legend=None, scale=alt.Scale(domain=[False, True], range=[PALETTE[1], AFTER])),
                tooltip=["change:Q", "high:Q", "n:Q"],
            )
            .add_params(_brush("x"))
        )
        dots = choice.scored(CHANGE_DOTS.format(points=POINTS), _of(pair), **asked)
        unit = alt.Scale(domain=[0, 1])
        scatter = (
            _base(dots)
            .mark_point(filled=True, size=14, opacity=0.5, color=AFTER)
            .encode(
                x=alt.X("before:Q", title=f"IoU, {pair.before.name}", scale=unit),
                y=alt.Y("iou:Q", title=f"IoU, {pair.after.name}", scale=unit),
                tooltip=["cell:N", "before:Q", "iou:Q", "change:Q"],
            )
            .add_params(_brush("x", "y"))
        )
        diagonal = _base([{"x": 0, "y": 0}, {"x": 1, "y": 1}]).mark_line(color=BEFORE, strokeDash=[4, 4])
        charts += [
            _chart(f"change, {pair.prompt}", histogram, pair, brush=True),
            _chart(f"before and after, {pair.prompt}", scatter + diagonal.encode(x="x:Q", y="y:Q"), pair, brush=True),
        ]
        shares = (f"{100 * total['better']:.0f} %", f"{100 * total['worse']:.0f} %")
        means = (f"{total['mean']:+.3f}", f"{total['middle']:+.3f}")
        names = (pair.prompt, pair.before.name, pair.after.name, str(total["n"]))
        rows.append((*names, *means, *shares, _interval(choice, pair, total["n"])))
    if not charts:
        return None
    text = (
        "The same cells with identical prompts. Better and worse: the share of masks whose IoU rose or fell by more "
        "than 0.01. The 95 % interval of the mean is over tracks of cells and frames; it is from one training, so it "
        f"does not show how much other seeds differ. {BRUSH}"
    )
    columns = ("prompt", "before", "after", "pairs", "mean", "median", "better", "worse", "95 % of the mean")
    return Section(
        id="change", title="Paired change", text=text, charts=charts, tables=[Table(columns=columns, rows=rows)]
    )


def _interval(choice: Choice, pair: Pair, n: int) -> str:
    """Return the interval of the mean change; a dash where there is none or labels cannot be read.

    The interval is that of all ``n`` pairs of two runs; where the report shows only some of these, it shows none.
    """
    assert pair.before is not None
    try:
        found = compare(choice.store, [pair.before.run, pair.after.run])
    except HelaError:
        return "–"
    part = next((row for row in found.rows if row.prompt == pair.prompt and not row.is_exploratory), None)
    known = part is not None and part.n == n and not math.isnan(part.per_cell.low)
    return f"{part.per_cell.low:+.3f} to {part.per_cell.high:+.3f}" if known and part else "–"


def over_time(choice: Choice) -> Section | None:
    """Draw the mean IoU of each frame, over time."""
    charts = []
    for pair in choice.pairs:
        lines = _of(pair)
        rows = _named(choice.scored(TIME, lines, prompt=pair.prompt), lines)
        for sequence in dict.fromkeys(row["sequence"] for row in rows):
            part = [row for row in rows if row["sequence"] == sequence]
            if len({row["time"] for row in part}) < 2:
                continue
            base = _base(part).encode(
                x=alt.X("time:Q", title="frame", scale=FRAMES, axis=alt.Axis(tickMinStep=1, format="d")),
                color=_colour(lines),
            )
            band = base.mark_area(opacity=0.15).encode(
                y=alt.Y("low:Q", title="IoU, mean and 10 to 90 %", scale=alt.Scale(zero=False)), y2="high:Q"
            )
            line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25)).encode(
                y="middle:Q", tooltip=["name:N", "frame:N", "time:Q", "low:Q", "middle:Q", "high:Q", "n:Q"]
            )
            charts.append(_chart(f"sequence {sequence}, {pair.prompt}", band + line, pair))
    return _section("time", "Frames over time", "", charts)


def calibration(choice: Choice) -> Section | None:
    """Compare the decoder's own estimate with the truth."""
    charts, errors = [], []
    for pair in choice.pairs:
        lines = _of(pair)
        rows = _named(choice.scored(CALIBRATION, lines, prompt=pair.prompt), lines)
        if not rows:
            continue
        diagonal = _base([{"x": 0, "y": 0}, {"x": 1, "y": 1}]).mark_line(color=BEFORE, strokeDash=[4, 4])
        unit = alt.Scale(domain=[0, 1])
        base = _base(rows).encode(
            x=alt.X("predicted:Q", title="predicted IoU", scale=unit),
            y=alt.Y("iou:Q", title="IoU", scale=unit),
            color=_colour(lines),
            tooltip=["name:N", "predicted:Q", "iou:Q", "n:Q"],
        )
        size = alt.Size("n:Q", scale=alt.Scale(range=[15, 220]), legend=None)
        drawn = (
            diagonal.encode(x="x:Q", y="y:Q")
            + base.mark_line()
            + base.mark_point(filled=True, opacity=1).encode(size=size)
        )
        charts.append(_chart(f"calibration, {pair.prompt}", drawn, pair))
        for line in lines:
            parts = [row for row in rows if row["run"] == line.run]
            n = sum(row["n"] for row in parts)
            if n:
                error = sum(row["n"] * abs(row["predicted"] - row["iou"]) for row in parts) / n
                errors.append((pair.prompt, line.name, str(n), number(error)))
    shipped = _shipped(choice)
    if not charts and not shipped:
        return None
    text = (
        "The decoder predicts the IoU of each mask. Masks are put into ten bins by this prediction, and a dot shows "
        "how right it was; a larger dot stands for more masks. The expected calibration error is the mean distance "
        "from the line. Predicting the same number for every mask has a small error as well, so a small error alone "
        "says little. Masks of segment come with another estimate, which detect calibrate learns."
    )
    table = Table(columns=("prompt", "run", "n", "expected calibration error"), rows=errors)
    tables = ([table] if errors else []) + shipped
    return Section(id="calibration", title="Calibration", text=text, charts=charts, tables=tables)


def _shipped(choice: Choice) -> list[Table]:
    """Return the calibrations that segment flags cells with today, and those that these runs were scored with."""
    rows = []
    for line in choice.lines:
        run = next((run for run in choice.runs if run.id == line.run), None)
        if run is None or "calibration" not in run.config:
            continue
        then, now = run.config["calibration"], _today(choice.store, run)
        if then or now:
            counts = ("failures", "cells")
            limit = "none" if now is None else number(now.review_below, 4)
            fitted = ["–" if now is None else str(getattr(now, name)) for name in counts]
            scored = number(then["review_below"], 4) if then else "none"
            rows.append((line.prompt, line.name, limit, *fitted, scored))
    columns = ("prompt", "run", "segment flags below", "failures fitted on", "of cells", "this run flagged below")
    return [Table(columns=columns, rows=rows, title="The calibration that segment ships")] if rows else []


def _today(store: Store, run: RunInfo) -> Calibration | None:
    """Return the calibration that segment would use with the detector, decoder and form of prompt of a run."""
    config = DetectedConfig(**{name: run.config[name] for name in ("checkpoint", "detector", "form")})
    try:
        return find_calibration(store, config)
    except HelaError:  # a damaged one is named where it is used
        return None
