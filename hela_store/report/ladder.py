"""The ladder: every run beside the image-free answer, on the same cells, per kind of prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from ..metrics import skill
from ..random import generator
from .choice import Choice, Line, Row
from .page import AFTER, BEFORE, Chart, Section, Table, number, to_spec, values

DRAWS = 2000
FREE = "image-free"
STUDY = (
    "For reference only: the study behind this tool reports IoU 0.8366 and Dice 0.9081 for a tuned ViT-B with boxes; "
    "its data fit DIC-C2DH-HeLa as much as Fluo-N2DL-HeLa and its split is unknown. An ellipse drawn into the exact "
    "box, without looking at the image, has IoU 0.834 and Dice 0.907 on Fluo-N2DL-HeLa/01."
)
HOW = (
    "Means over the cells that all runs of a prompt share. The range is a 95 % interval from a bootstrap over frames, "
    "because cells of one frame are not independent draws; training seeds are not in it. Image-free is what the prompt "
    "alone is worth; skill is the share of what it leaves open that the run wins. Prompts come from the truth."
)
OPTIONAL = {
    "boundary_iou": "boundary IoU",
    "hd95": "HD95, px",
    "nsd1": "NSD 1 px",
    "nsd2": "NSD 2 px",
    "spill": "spill",
}
"""Columns of ``cell_metrics`` that are shown where they are there, and their headings."""

MEANS = """,
    runs_of AS (SELECT prompt, count(DISTINCT run) AS runs FROM scored GROUP BY prompt),
    same AS (SELECT s.prompt, s.cell FROM scored s JOIN runs_of o USING (prompt)
             GROUP BY s.prompt, s.cell HAVING count(DISTINCT s.run) = any_value(o.runs))
    SELECT s.run, s.prompt, s.frame, count(*) AS n, sum(s.iou) AS iou, sum(s.dice) AS dice,
           sum(s.is_empty::INT)::BIGINT AS empty, sum(s.free_iou) AS free_iou, sum(s.free_dice) AS free_dice {more}
    FROM scored s JOIN same USING (prompt, cell) GROUP BY s.run, s.prompt, s.frame ORDER BY ALL
"""
FAILURES = """
    SELECT run, prompt, failure, count(*) AS n FROM scored
    WHERE failure IS NOT NULL AND failure NOT IN ('', 'none', 'ok') GROUP BY ALL ORDER BY ALL
"""


def interval(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return a 95 % interval of a mean over cells, drawn anew frame by frame.

    Parameters
    ----------
    sums, counts : float64, (frame,)
        Of the score and of cells in each frame.
    """
    weights = generator("report interval").multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    low, high = np.percentile((weights @ sums) / (weights @ counts), [2.5, 97.5])
    return float(low), float(high)


def ladder(choice: Choice) -> Section | None:
    """Return the section; None without scores."""
    if not choice.lines:
        return None
    more = [name for name in OPTIONAL if name in choice.columns]
    extra = "".join(f", sum(s.{name}) AS {name}, count(s.{name}) AS {name}_n" for name in more)
    frames = choice.scored(MEANS.format(more=extra), choice.lines)
    steps: list[Row] = []
    for prompt in choice.prompts:
        steps += _steps([line for line in choice.lines if line.prompt == prompt], frames, more)
    charts = [_chart(prompt, [step for step in steps if step["prompt"] == prompt]) for prompt in choice.prompts]
    if "failure" in choice.columns:
        charts += _failures(choice)
    return Section(
        id="ladder",
        title="Result ladder",
        text=f"Block: {choice.split}. {HOW}",
        tables=[_table(choice.prompts, steps, more)] if steps else [],
        charts=charts,
        notes=[STUDY, *_apart(choice, steps)],
    )


def _steps(lines: Sequence[Line], frames: Sequence[Row], more: Sequence[str]) -> list[Row]:
    found: list[Row] = []
    for line in lines:
        rows = [row for row in frames if (row["run"], row["prompt"]) == (line.run, line.prompt)]
        if not rows:
            continue
        n = sum(row["n"] for row in rows)
        step: Row = {"prompt": line.prompt, "name": line.name, "kind": line.kind, "n": n}
        for name in ("iou", "dice", "free_iou", "free_dice"):
            step[name] = _mean(rows, name, "n")
        for name in more:
            step[name] = _mean(rows, name, f"{name}_n")
        step["empty"] = sum(row["empty"] for row in rows) / n
        step["low"], step["high"] = _interval(rows, "iou")
        if step["free_iou"] is not None:
            step["skill"] = skill(step["iou"], step["free_iou"])
            step["free_low"], step["free_high"] = _interval(rows, "free_iou")
        found.append(step)
    with_free = next((step for step in found if step["free_iou"] is not None), None)
    if with_free is None:
        return found
    free = {
        "prompt": with_free["prompt"],
        "name": FREE,
        "kind": FREE,
        "n": with_free["n"],
        "iou": with_free["free_iou"],
    }
    free |= {"dice": with_free["free_dice"], "low": with_free["free_low"], "high": with_free["free_high"]}
    return [free, *found]


def _mean(rows: Sequence[Row], name: str, count: str) -> float | None:
    total, n = sum(row[name] or 0 for row in rows), sum(row[count] for row in rows)
    return total / n if n and any(row[name] is not None for row in rows) else None


def _interval(rows: Sequence[Row], name: str) -> tuple[float, float]:
    if any(row[name] is None for row in rows):
        return float("nan"), float("nan")
    sums, counts = (np.array([row[key] for row in rows], float) for key in (name, "n"))
    return interval(sums, counts)


def _table(prompts: Sequence[str], steps: Sequence[Row], more: Sequence[str]) -> Table:
    columns = ("", "n", "IoU", "95 % interval", "Dice", "skill", "empty", *(OPTIONAL[name] for name in more))
    rows: list[tuple[str, ...]] = []
    heads = set()
    for prompt in prompts:
        heads.add(len(rows))
        rows.append((prompt, *[""] * (len(columns) - 1)))
        for step in (step for step in steps if step["prompt"] == prompt):
            between = f"{number(step['low'])} to {number(step['high'])}"
            empty = step.get("empty")
            share = "–" if empty is None else f"{100 * empty:.1f} %"
            scores = (number(step["iou"]), between, number(step["dice"]), number(step.get("skill")), share)
            rows.append((step["name"], str(step["n"]), *scores, *(number(step.get(name)) for name in more)))
    return Table(columns=columns, rows=rows, heads=frozenset(heads))


def _chart(prompt: str, steps: Sequence[Row]) -> Chart:
    rows = [{key: step[key] for key in ("name", "n", "iou", "dice", "low", "high")} for step in steps]
    for row in rows:
        row["role"] = FREE if row["name"] == FREE else "run"
    colour = alt.Color("role:N", scale=alt.Scale(domain=[FREE, "run"], range=[BEFORE, AFTER]), legend=None)
    order = [row["name"] for row in rows]
    base = alt.Chart(values(rows), width="container", height=26 * len(rows)).encode(
        y=alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=150)), color=colour
    )
    x = alt.X("low:Q", title="IoU, 95 % interval over frames", scale=alt.Scale(zero=False))
    tooltip = ["name:N", "n:Q", "iou:Q", "low:Q", "high:Q", "dice:Q"]
    bars = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", tooltip=tooltip)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x="iou:Q", tooltip=tooltip)
    return Chart(title=prompt, spec=to_spec(bars + points, f"IoU of every run with {prompt} prompts"))


def _failures(choice: Choice) -> list[Chart]:
    rows = choice.scored(FAILURES, choice.lines)
    total = {(line.run, line.prompt): line for line in choice.lines}
    charts = []
    for prompt in choice.prompts:
        data: list[dict[str, Any]] = [
            {
                "name": total[row["run"], prompt].name,
                "failure": str(row["failure"]).replace("_", " "),
                "share": row["n"] / total[row["run"], prompt].n,
            }
            for row in rows
            if row["prompt"] == prompt
        ]
        if data:
            order = [line.name for line in choice.lines if line.prompt == prompt]
            chart = (
                alt.Chart(values(data), width="container", height=26 * len(order))
                .mark_bar()
                .encode(
                    x=alt.X("share:Q", title="share of predictions", axis=alt.Axis(format="%")),
                    y=alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=150)),
                    color=alt.Color("failure:N", title=None, legend=alt.Legend(orient="bottom", columns=3)),
                    tooltip=["name:N", "failure:N", alt.Tooltip("share:Q", format=".2%")],
                )
            )
            charts.append(
                Chart(title=f"failures, {prompt}", spec=to_spec(chart, f"failure types with {prompt} prompts"))
            )
    return charts


def _apart(choice: Choice, steps: Sequence[Row]) -> list[str]:
    """Say where the runs of a prompt do not score the same cells."""
    notes = []
    for prompt in choice.prompts:
        lines = [line for line in choice.lines if line.prompt == prompt]
        shown = [step["n"] for step in steps if step["prompt"] == prompt and step["kind"] != FREE]
        if not shown:
            notes.append(f"{prompt}: the {len(lines)} runs have no cell in common; compare them by naming fewer runs")
        elif any(n != line.n for n, line in zip(shown, lines, strict=True)):
            most = max(line.n for line in lines)
            notes.append(f"{prompt}: of up to {most} predictions a run, {min(shown)} are of cells that all runs share")
    return notes
