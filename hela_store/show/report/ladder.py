"""The ladder: every run beside the image-free answer, on the same cells, per kind of prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import numpy as np

from hela_store.evaluation.spread import frame_spread
from hela_store.evaluation.tracks import store_protocol
from hela_store.metrics.failures import FAILURES
from hela_store.metrics.overlap import skill
from hela_store.recipe.splits import SPLIT_NAMES
from hela_store.studies.reference import REFERENCE

from .choice import FREE, NAIVE, Choice, Row
from .page import AFTER, BEFORE, Chart, Section, Table, number, to_spec, values
from .units import Units

STUDY_DATA = ("Fluo-N2DL-HeLa", "DIC-C2DH-HeLa")
STUDY = (
    "For reference only: the study behind this tool reports IoU (Dice) of "
    + ", ".join(f"{iou} ({dice}) with {kind} prompts" for kind, (iou, dice) in REFERENCE.items())
    + " for a fine-tuned ViT-B; its data fit DIC-C2DH-HeLa as much as Fluo-N2DL-HeLa and its split is unknown. An "
    "ellipse drawn into the exact box, without looking at the image, has IoU 0.834 and Dice 0.907 on Fluo-N2DL-HeLa/01."
)
HOW = (
    "Means over the cells that all runs of a prompt share. The range is a 95 % interval over tracks of cells and "
    "frames (of stills over images, or groups of them), because neighbouring frames show the same cells. With too few "
    "frames there is no interval, and – stands in its place. Every fine-tuning has a line of its own, so its "
    "interval does not say how much training seeds differ. The naive guess does not look at the image: it is made "
    "from the prompt alone, for masks also an ellipse of the usual size. Skill is the gain over the naive guess as a "
    "share of what was possible. "
    "Prompts are made from the ground truth, except for detected cells and the classical baseline. A missed cell "
    "counts as 0."
)
OPTIONAL = {
    "boundary_iou": "boundary IoU",
    "hd95": "HD95, px",
    "nsd1": "NSD 1 px",
    "nsd2": "NSD 2 px",
    "spill": "spill",
}
"""Columns of ``cell_metrics`` that are shown where they are there, and their headings."""
ELLIPSE = f"{NAIVE}, ellipse of the mask"

OVER_FRAMES = ("mean over frames", "median of frames", "quartiles of frames")
UNSEEN = "IoU of cells in no training frame"

NAMES = alt.Axis(labelLimit=150)
LEGEND = alt.Legend(orient="bottom", columns=2)

MEANS = """,
    same AS (SELECT cell FROM scored GROUP BY cell HAVING count(DISTINCT run) = $runs)
    SELECT run, frame, count(*) AS n, sum(iou) AS iou, sum(dice) AS dice, sum(is_empty::INT)::BIGINT AS empty,
           sum(free_iou) AS free_iou, sum(free_dice) AS free_dice,
           sum(free_ellipse_iou) AS ellipse_iou {more}
    FROM scored SEMI JOIN same USING (cell) GROUP BY run, frame ORDER BY ALL
"""
CELLS = """,
    same AS (SELECT cell FROM scored GROUP BY cell HAVING count(DISTINCT run) = $runs)
    SELECT run, cell, count(*) AS n, sum(iou) AS iou, sum(free_iou) AS free_iou,
           sum(free_ellipse_iou) AS ellipse_iou
    FROM scored SEMI JOIN same USING (cell) GROUP BY run, cell ORDER BY ALL
"""
FAILED = """
    SELECT run, failure, count(*) AS n FROM scored WHERE failure <> '' GROUP BY ALL ORDER BY ALL
"""


def ladder(choice: Choice) -> Section | None:
    """Return the section; None without scores."""
    if not choice.lines:
        return None
    more = [name for name in OPTIONAL if name in choice.columns]
    scored = choice.scored("SELECT DISTINCT frame FROM scored ORDER BY ALL", choice.lines)
    units = Units.of(choice, [row["frame"] for row in scored])
    steps = {prompt: _steps(choice, prompt, more, units) for prompt in choice.prompts}
    charts = [_chart(prompt, found) for prompt, found in steps.items() if found]
    if "failure" in choice.columns:
        charts += _failures(choice)
    frames = SPLIT_NAMES[choice.split].capitalize()
    return Section(
        id="ladder",
        title="Scores of every run",
        text=f"{frames} frames; {store_protocol(choice.store, choice.split)}; {units}. {HOW}",
        tables=[_table(steps, more)] if any(steps.values()) else [],
        charts=charts,
        notes=[*_study(choice), *_apart(choice, steps)],
    )


def _study(choice: Choice) -> list[str]:
    """Return what the study reports, beside the data sets that it may have used."""
    return [STUDY] if Path(choice.store.recipe.dataset.path).name in STUDY_DATA else []


def _steps(choice: Choice, prompt: str, more: Sequence[str], units: Units) -> list[Row]:
    lines = choice.beside(prompt)
    extra = "".join(f", sum({name}) AS {name}, count({name}) AS {name}_n" for name in more)
    frames = choice.scored(MEANS.format(more=extra), lines, runs=len({line.run for line in lines}))
    cells = choice.scored(CELLS, lines, runs=len({line.run for line in lines}))
    found: list[Row] = []
    for line in lines:
        own = [row for row in cells if row["run"] == line.run]
        rows = [row for row in frames if row["run"] == line.run]
        if not rows:
            continue
        n = sum(row["n"] for row in rows)
        step: Row = {"name": line.name, "kind": line.kind, "n": n, "all": line.n}
        for name in ("iou", "dice", "free_iou", "free_dice", "ellipse_iou"):
            step[name] = _mean(rows, name, "n")
        for name in more:
            step[name] = _mean(rows, name, f"{name}_n")
        step["empty"] = sum(row["empty"] for row in rows) / n
        step["low"], step["high"] = units.interval(own, "iou")
        step["frames"] = frame_spread(np.array([row["iou"] / row["n"] for row in rows]), [row["frame"] for row in rows])
        new = [row for row in own if units.unseen is not None and row["cell"] in units.unseen]
        step["unseen"] = (len(new), _mean(new, "iou", "n"))
        if step["free_iou"] is not None:
            step["skill"] = skill(step["iou"], max(step["free_iou"], step["ellipse_iou"] or 0.0))
            step["free_low"], step["free_high"] = units.interval(own, "free_iou")
        if step["ellipse_iou"] is not None:
            step["ellipse_low"], step["ellipse_high"] = units.interval(own, "ellipse_iou")
        found.append(step)
    with_free = next((step for step in found if step["free_iou"] is not None), None)
    if with_free is None or found[0]["kind"] == FREE:
        return found
    free = {"name": NAIVE, "kind": FREE, "n": with_free["n"], "iou": with_free["free_iou"]}
    free |= {"dice": with_free["free_dice"], "low": with_free["free_low"], "high": with_free["free_high"]}
    if with_free["ellipse_iou"] is None:
        return [free, *found]
    ellipse = {"name": ELLIPSE, "kind": FREE, "n": with_free["n"], "iou": with_free["ellipse_iou"], "dice": None}
    return [free, ellipse | {"low": with_free["ellipse_low"], "high": with_free["ellipse_high"]}, *found]


def _mean(rows: Sequence[Row], name: str, count: str) -> float | None:
    total, n = sum(row[name] or 0 for row in rows), sum(row[count] for row in rows)
    return total / n if n and any(row[name] is not None for row in rows) else None


def _table(steps: Mapping[str, Sequence[Row]], more: Sequence[str]) -> Table:
    columns: tuple[str, ...] = ("", "n", "IoU", "95 % interval", *OVER_FRAMES, UNSEEN, "Dice", "skill", "empty")
    columns = (*columns, *(OPTIONAL[name] for name in more))
    rows: list[tuple[str, ...]] = []
    heads = set()
    for prompt, found in steps.items():
        heads.add(len(rows))
        rows.append((prompt, *[""] * (len(columns) - 1)))
        for step in found:
            between = "–" if step["low"] is None else f"{number(step['low'])} to {number(step['high'])}"
            empty = step.get("empty")
            share = "–" if empty is None else f"{100 * empty:.1f} %"
            scores = (
                number(step["iou"]),
                between,
                *_spread(step),
                number(step["dice"]),
                number(step.get("skill")),
                share,
            )
            rows.append((step["name"], str(step["n"]), *scores, *(number(step.get(name)) for name in more)))
    return Table(columns=columns, rows=rows, heads=frozenset(heads))


def _spread(step: Row) -> tuple[str, str, str, str]:
    """Return mean, median and quartiles over frames, and the score of cells that no training frame holds, as text."""
    if "frames" not in step:
        return "–", "–", "–", "–"
    frames, (cells, iou) = step["frames"], step["unseen"]
    quartiles = f"{number(frames.low_quartile)} to {number(frames.high_quartile)}"
    return number(frames.mean), number(frames.median), quartiles, f"{number(iou)} (n {cells})" if cells else "–"


def _chart(prompt: str, steps: Sequence[Row]) -> Chart:
    rows = [{key: step[key] for key in ("name", "n", "iou", "dice", "low", "high")} for step in steps]
    for row in rows:
        row["role"] = FREE if row["name"] in (NAIVE, ELLIPSE) else "run"
    colour = alt.Color("role:N", scale=alt.Scale(domain=[FREE, "run"], range=[BEFORE, AFTER]), legend=None)
    order = [row["name"] for row in rows]
    base = alt.Chart(values(rows), width="container", height=26 * len(rows)).encode(
        y=alt.Y("name:N", sort=order, title=None, axis=NAMES), color=colour
    )
    ranged = any(row["low"] is not None for row in rows)
    title = "IoU, 95 % interval over tracks and frames" if ranged else "IoU"
    tooltip = ["name:N", "n:Q", "iou:Q", "low:Q", "high:Q", "dice:Q"]
    x = alt.X("iou:Q", title=title, scale=alt.Scale(zero=False))
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, tooltip=tooltip)
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", tooltip=tooltip)
    spec = to_spec(bars + points if ranged else points, f"IoU of every run with {prompt} prompts")
    return Chart(title=f"mean IoU, {prompt}", spec=spec)


def _failures(choice: Choice) -> list[Chart]:
    charts = []
    for prompt in choice.prompts:
        lines = {line.run: line for line in choice.beside(prompt)}
        data = [
            {
                "name": lines[row["run"]].name,
                "failure": row["failure"],
                "share": row["n"] / lines[row["run"]].n,
            }
            for row in choice.scored(FAILED, list(lines.values()))
        ]
        names = [line.name for line in lines.values()]
        if data:
            chart = (
                alt.Chart(values(data), width="container", height=26 * len(lines))
                .mark_bar()
                .encode(
                    x=alt.X("share:Q", title="share of predictions", axis=alt.Axis(format="%")),
                    y=alt.Y("name:N", scale=alt.Scale(domain=names), title=None, axis=NAMES),
                    color=alt.Color("failure:N", title=None, scale=alt.Scale(domain=list(FAILURES)), legend=LEGEND),
                    tooltip=["name:N", "failure:N", alt.Tooltip("share:Q", format=".2%")],
                )
            )
            charts.append(
                Chart(title=f"failures, {prompt}", spec=to_spec(chart, f"failure types with {prompt} prompts"))
            )
    return charts


def _apart(choice: Choice, steps: Mapping[str, Sequence[Row]]) -> list[str]:
    """Say where the runs of a prompt do not score the same cells."""
    notes = []
    for prompt, found in steps.items():
        shown = [step for step in found if "all" in step]
        if not shown:
            runs = len(choice.beside(prompt))
            notes.append(f"{prompt}: the {runs} runs have no cell in common; compare them by naming fewer runs")
        for step in shown:
            if step["n"] != step["all"]:
                share = f"{step['n']} of {step['all']} predictions are of cells that all runs share"
                notes.append(f"{prompt}, {step['name']}: {share}")
    return notes
