"""Masks of other tools before and after mending: what was changed, by how much, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from PIL import Image

from hela_store.base.text import percent
from hela_store.errors import RunError
from hela_store.images.normalise import apply, limits
from hela_store.images.rle import decode_crop, paste
from hela_store.metrics.boundaries import edge
from hela_store.recipe.splits import SPLIT_NAMES
from hela_store.runs.folder import RunInfo
from hela_store.show.cards import crop_around, data_address
from hela_store.store.store import Store

from .choice import Choice
from .page import AFTER, BEFORE, HEIGHT, MOST_RUNS, Chart, Section, Table, number, to_spec, values

SIDE = 200
"""Of a picture, px."""
MOST_PICTURES = 4
"""Pictures of each run and kind of change."""
OLD, NEW = (255, 140, 0), (0, 220, 90)
HOW = (
    "Every mask of the tool became a prompt. The decoder's answer replaces it where the gate, which was calibrated on "
    "validation, finds a gain probable enough. IoU is with the labelled cell that the old mask stands for, if there is "
    "one; better and worse mean by more than 0.02. Where something was fitted on the labels of a frame, no IoU is "
    "shown. In the pictures the old mask is orange and the new one green; the number after @ is the mask's in its file."
)
BLOCKS = """
    SELECT split, fitted, count(*) AS n, count_if(action <> 'kept') AS changed, count(iou_before) AS scored,
        avg(iou_before) AS before, avg(iou_after) AS after, avg((iou_after > iou_before + 0.02)::INT) AS better,
        avg((iou_after < iou_before - 0.02)::INT) AS worse, count_if(proposal = 'split') AS splits,
        count_if(proposal = 'merge') AS merges
    FROM changes WHERE run = $run AND label IS NOT NULL GROUP BY ALL ORDER BY split, fitted
"""
REASONS = """
    SELECT action, count(*) AS n, regexp_replace(
        regexp_replace(reason, '(: | with )probability [0-9.]+(, needed [0-9.]+)?', ''), 'mask [0-9]+', 'another mask'
    ) AS why
    FROM changes WHERE run = $run GROUP BY ALL ORDER BY n DESC LIMIT 12
"""
SCATTER = """
    SELECT "change", action, iou_before, iou_after, probability FROM changes
    WHERE run = $run AND iou_before IS NOT NULL AND split = $split AND fitted = '' ORDER BY hash("change") LIMIT 1500
"""
SHOWN = """
    SELECT * FROM changes WHERE run = $run AND label IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY action, proposal ORDER BY iou_change, "change") <= $most
    ORDER BY action DESC, proposal, iou_change, "change"
"""


def mended(choice: Choice) -> Section | None:
    """Return the section; None where no masks were mended."""
    runs = choice.mended[-MOST_RUNS:]
    if not runs:
        return None
    tables: list[Table] = []
    charts: list[Chart] = []
    pictures: list[tuple[str, str]] = []
    for run in runs:
        name = f"{run.config.get('origin', 'masks')}, {run.id.split('-', 2)[-1]}"
        blocks = choice.rows(BLOCKS, run=run.id)
        tables += [_blocks(name, blocks), _reasons(name, choice.rows(REASONS, run=run.id))]
        charts += [
            _scatter(choice, run, name, block["split"]) for block in blocks if block["scored"] and block["fitted"] == ""
        ]
        pictures += _pictures(choice.store, name, choice.rows(SHOWN, run=run.id, most=MOST_PICTURES))
    return Section(id="mended", title="Mended masks", text=HOW, tables=tables, charts=charts, pictures=pictures)


def _blocks(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        *(
            "frames",
            "fitted on it",
            "masks",
            "changed",
            "splits",
            "merges",
            "with a labelled cell",
            "IoU before",
            "IoU after",
        ),
        *("better", "worse"),
    )
    found = []
    for row in rows:
        counts = [str(row[column]) for column in ("n", "changed", "splits", "merges", "scored")]
        scores = {name: row[name] if row["fitted"] == "" else None for name in ("before", "after", "better", "worse")}
        shares = ["–" if share is None else percent(share) for share in (scores["better"], scores["worse"])]
        ious = number(scores["before"]), number(scores["after"])
        found.append((SPLIT_NAMES.get(row["split"], row["split"]), row["fitted"] or "–", *counts, *ious, *shares))
    return Table(columns=columns, rows=found, title=name)


def _reasons(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    found = [(row["action"], row["why"], str(row["n"])) for row in rows]
    return Table(columns=("what was done", "why", "masks"), rows=found, title=f"{name}: reasons")


def _scatter(choice: Choice, run: RunInfo, name: str, split: str) -> Chart:
    data = choice.rows(SCATTER, run=run.id, split=split)
    unit = alt.Scale(domain=[0, 1])
    colour = alt.Scale(domain=["kept", "mended", "split", "merged"], range=[BEFORE, AFTER, "#e07b39", "#b3589a"])
    points = (
        alt.Chart(values(data), width="container", height=HEIGHT)
        .mark_circle(size=18, opacity=0.6)
        .encode(
            x=alt.X("iou_before:Q", title="IoU before", scale=unit),
            y=alt.Y("iou_after:Q", title="IoU after", scale=unit),
            color=alt.Color("action:N", title=None, scale=colour, legend=alt.Legend(orient="top")),
            tooltip=["change:N", "action:N", "iou_before:Q", "iou_after:Q", "probability:Q"],
        )
    )
    line = alt.Chart(values([{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(strokeDash=[4, 4], color=BEFORE)
    title = f"{name}: IoU on {SPLIT_NAMES.get(split, split)} frames"
    return Chart(title=title, spec=to_spec(line.encode(x="x:Q", y="y:Q") + points, title))


def _pictures(store: Store, name: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for row in rows:
        drawn = _picture(store, row)
        if drawn:
            proposed = f", {row['proposal']} proposed" if row["proposal"] and row["action"] == "kept" else ""
            found.append((f"{name}, {row['change']}: {row['action']}{proposed}", drawn))
    return found


def _picture(store: Store, row: Mapping[str, Any]) -> str:
    """Return a crop of the frame with both outlines as a ``data:`` address; empty where the rows do not fit it."""
    record = store.frame_records().get(row["frame"])
    if record is None:
        return ""
    x0, y0, width, height = crop_around([row[corner] for corner in ("x0", "y0", "x1", "y1")], record.shape)
    crop = store.pixels.image(row["frame"], (x0, y0, width, height))
    grey = apply(crop, *limits(crop, "percentile")).astype(np.uint8)
    times = max(1, SIDE // max(width, height))
    seen = np.repeat(np.kron(grey, np.ones((times, times), np.uint8))[..., None], 3, 2)
    for counts, ink in ((row["rle_before"], OLD), (row["rle"], NEW)):
        try:
            mask, origin = decode_crop(counts or "", *record.shape)
        except RunError:
            return ""
        inside = paste(mask, origin, (height, width), (x0, y0))
        seen[edge(np.kron(inside, np.ones((times, times), bool)))] = ink
    return data_address(Image.fromarray(seen), SIDE)
