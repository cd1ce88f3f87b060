"""Say what the cells are like: correlogram of position and size, as used for detection data sets."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import altair as alt

from .choice import Choice, Row
from .page import AFTER, Chart, Section, to_spec, values

BINS = 32
SIDE = 120
VARIABLES = {
    "x": "((c.x0 + c.x1) / 2.0) / f.width",
    "y": "((c.y0 + c.y1) / 2.0) / f.height",
    "width": "(c.x1 - c.x0) / f.width::DOUBLE",
    "height": "(c.y1 - c.y0) / f.height::DOUBLE",
}
"""Of the bounding box, as shares of the frame."""
PLACES = "WITH place AS (SELECT {columns} FROM cells c JOIN frames f USING (frame))"
COUNTS = """,
    whole AS (SELECT max({b}) AS most_b, max({a}) AS most_a FROM place)
    SELECT least(floor({a} / top_a * {bins}), {bins} - 1) AS a, least(floor({b} / top_b * {bins}), {bins} - 1) AS b,
           any_value(top_a) AS top_a, any_value(top_b) AS top_b, count(*) AS n
    FROM place, (SELECT {top_a} AS top_a, {top_b} AS top_b FROM whole) GROUP BY 1, 2 ORDER BY 1, 2
"""


def correlograms(choice: Choice) -> Section | None:
    """Return the section; None without cells."""
    if not choice.rows("SELECT 1 FROM cells LIMIT 1"):
        return None
    names = list(VARIABLES)
    rows: list[Any] = []
    for j, down in enumerate(names):
        panels = [_pair(choice, across, down) for across in names[:j]]
        rows.append(alt.hconcat(*panels, _histogram(choice, down), spacing=14))
    chart = alt.vconcat(*rows, spacing=14)
    title = "box position and size, shares of the frame"
    count = choice.rows("SELECT count(*) AS n, count(DISTINCT frame) AS frames FROM cells")[0]
    assert len(list(combinations(names, 2))) == sum(len(row.hconcat) - 1 for row in rows)
    return Section(
        id="cells",
        title="Cells",
        text=f"All {count['n']} labelled cells of {count['frames']} frames: centre, width and height of their boxes.",
        charts=[Chart(title=title, spec=to_spec(chart, title), wide=True)],
    )


def _counts(choice: Choice, a: str, b: str) -> list[Row]:
    columns = ", ".join(f"{sql} AS {name}" for name, sql in VARIABLES.items())
    top = {name: "1e0" if name in ("x", "y") else f"greatest(most_{axis}, 1e-9)" for axis, name in (("a", a), ("b", b))}
    return choice.rows(PLACES.format(columns=columns) + COUNTS.format(a=a, b=b, bins=BINS, top_a=top[a], top_b=top[b]))


def _pair(choice: Choice, across: str, down: str) -> Any:
    data = []
    for row in _counts(choice, across, down):
        a, b = row["top_a"] / BINS, row["top_b"] / BINS
        data.append(
            {"x": row["a"] * a, "x2": (row["a"] + 1) * a, "y": row["b"] * b, "y2": (row["b"] + 1) * b, "n": row["n"]}
        )
    upward = down != "y"  # rows of a frame count downward
    return (
        alt.Chart(values(data), width=SIDE, height=SIDE)
        .mark_rect(color=AFTER)
        .encode(
            x=alt.X("x:Q", title=across if down == "height" else None, axis=alt.Axis(tickCount=3)),
            x2="x2:Q",
            y=alt.Y(
                "y:Q",
                title=down if across == "x" else None,
                axis=alt.Axis(tickCount=3),
                scale=alt.Scale(reverse=not upward),
            ),
            y2="y2:Q",
            # opacity, not hue: the page below may be white or black
            opacity=alt.Opacity("n:Q", scale=alt.Scale(type="sqrt", range=[0.25, 1]), legend=None),
            tooltip=["n:Q"],
        )
    )


def _histogram(choice: Choice, name: str) -> Any:
    data = []
    for row in _counts(choice, name, name):
        width = row["top_a"] / BINS
        data.append({"x": row["a"] * width, "x2": (row["a"] + 1) * width, "n": row["n"]})
    return (
        alt.Chart(values(data), width=SIDE, height=SIDE)
        .mark_bar(color=AFTER)
        .encode(
            x=alt.X("x:Q", bin="binned", title=name, axis=alt.Axis(tickCount=3)),
            x2="x2:Q",
            y=alt.Y("n:Q", title=None, axis=None),
            tooltip=["n:Q"],
        )
    )
