"""Say how scores hold up as the prompt gets worse: box jitter, place of the click, the mask prompt's own IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from hela_store.prompts.kinds import ROBUSTNESS_PROMPTS

from .choice import NAIVE, Choice, Row
from .page import BEFORE, HEIGHT, MOST_RUNS, PALETTE, Chart, Section, to_spec, values
from .units import Units

LEGEND = alt.Legend(orient="top", direction="vertical", symbolOpacity=1)
SETTINGS = {
    "box": "box jitter, share of the side",
    "point": "click, 0 the cell's edge, 1 its innermost pixel",
    "mask": "IoU of the mask prompt itself",
}
"""What the number after ``@`` is, by the prompt before it."""
MEANS = """
    SELECT q.run, q.prompt, q.cell, any_value(q.frame) AS frame, count(*) AS n, sum(q.iou) AS iou,
        sum(p.free_iou) AS free
    FROM predictions q JOIN prompts p ON p.run = q.run AND p.prompt_id = q.prompt_id
    WHERE list_contains($runs, q.run) AND q.split = $split AND list_contains($prompts, q.prompt)
    GROUP BY q.run, q.prompt, q.cell ORDER BY q.run, q.prompt, q.cell
"""


def robustness(choice: Choice) -> Section | None:
    """Return the section; None without robustness runs."""
    names = dict(list({line.run: line.name for line in choice.robust}.items())[-MOST_RUNS:])
    if not names:
        return None
    asked = {"runs": list(names), "split": choice.split, "prompts": list(ROBUSTNESS_PROMPTS)}
    rows = choice.rows(MEANS, **asked)
    units = Units.of(choice, sorted({row["frame"] for row in rows}))
    charts = []
    for base, title in SETTINGS.items():
        mine = [row for row in rows if row["prompt"].partition("@")[0] == base]
        points = [point for run, name in names.items() for point in _curve(name, run, mine, units)]
        if points:
            # the same prompts for all runs, and so the same image-free answers
            points = _curve(NAIVE, mine[0]["run"], mine, units, "free") + points
            drawn = _drawn(points, title, [NAIVE, *names.values()])
            charts.append(Chart(title=f"robustness, {base}", spec=to_spec(drawn, title)))
    text = (
        "Mean IoU over cells, with a 95 % interval over tracks of cells and frames, as the prompt changes. The "
        "naive guess is what the prompt alone is worth."
    )
    return Section(id="robustness", title="Robustness", text=text, charts=charts) if charts else None


def _curve(name: str, run: str, rows: Sequence[Row], units: Units, column: str = "iou") -> list[Row]:
    """Return the mean of a column, and its interval, for each setting."""
    by_setting: dict[float, list[Row]] = {}
    for row in rows:
        if row["run"] == run and row[column] is not None:
            by_setting.setdefault(float(row["prompt"].partition("@")[2]), []).append(row)
    points: list[Row] = []
    for setting, cells in sorted(by_setting.items()):
        low, high = units.interval(cells, column)
        count = sum(row["n"] for row in cells)
        mean = {"iou": sum(row[column] for row in cells) / count, "low": low, "high": high, "n": count}
        points.append({"name": name, "setting": setting} | mean)
    return points


def _drawn(points: Sequence[Row], title: str, names: Sequence[str]) -> Any:
    scale = alt.Scale(domain=list(names), range=[BEFORE, *PALETTE[: len(names) - 1]])
    base = alt.Chart(values(points), width="container", height=HEIGHT).encode(
        x=alt.X("setting:Q", title=title, scale=alt.Scale(zero=False, nice=False, padding=8)),
        color=alt.Color("name:N", title=None, scale=scale, legend=LEGEND),
        tooltip=["name:N", "setting:Q", "iou:Q", "low:Q", "high:Q", "n:Q"],
    )
    between = alt.Y("low:Q", title="IoU", scale=alt.Scale(zero=False))
    dash = alt.condition(f"datum.name === '{NAIVE}'", alt.value([4, 3]), alt.value([1, 0]))
    mean = alt.Y("iou:Q", title="IoU", scale=alt.Scale(zero=False))
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25)).encode(y=mean, strokeDash=dash)
    if all(point["low"] is None for point in points):
        return line
    return base.mark_rule(opacity=0.5).encode(y=between, y2="high:Q") + line
