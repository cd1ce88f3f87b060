"""Say how good detections are: confusion matrix, curves against confidence, average precision, missed cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from hela_store.base.progress import Progress
from hela_store.errors import HelaError
from hela_store.runs.folder import RunInfo

from .choice import Choice
from .page import AFTER, BEFORE, HEIGHT, MOST_RUNS, PALETTE, Chart, Section, Table, number, to_spec, values

if TYPE_CHECKING:
    from hela_store.detection.evaluate import DetectionReport

CURVES = {"f1": "F1", "recall": "recall", "precision": "precision"}
HOW = (
    "One detection for one cell. Objects that lie mostly on pixels that say nothing count neither way; there is no "
    "number of true negatives. Curves are at box IoU 0.5; the dashed line is the score from which detections count, "
    "chosen on validation. Average precision is COCO's, of boxes."
)


def detection(choice: Choice, progress: Progress) -> Section | None:
    """Return the section; None where no detector looked at the block."""
    runs = choice.detections[-MOST_RUNS:]
    if not runs:
        return None
    from hela_store.detection.evaluate import evaluate_detections

    scored: dict[str, DetectionReport] = {}
    notes = []
    for run in progress(runs, total=len(runs), what="detections"):
        try:
            scored[_name(run, runs)] = evaluate_detections(choice.store, run.id, split=choice.split or None)
        except HelaError as error:
            notes.append(f"run {run.id} is left out: {error}")
    if not scored and not notes:
        return None
    charts = [_confusion(name, found) for name, found in scored.items()]
    if scored:
        charts += [_curve(column, title, scored) for column, title in CURVES.items()]
    return Section(
        id="detection",
        title="Detection",
        text=HOW,
        tables=[_scores(scored), _missed(scored)] if scored else [],
        charts=charts,
        notes=notes,
    )


def _name(run: RunInfo, runs: Sequence[RunInfo]) -> str:
    name = (run.checkpoint or run.id).split("-", 2)[-1] if run.checkpoint else run.label
    others = [other for other in runs if other is not run and other.checkpoint == run.checkpoint]
    return f"{name} ({run.id[-4:]})" if any(other.label == run.label for other in others) else name


def _scores(scored: dict[str, DetectionReport]) -> Table:
    columns = (
        "detector",
        "block",
        "counts from",
        "of",
        "at IoU",
        "precision",
        "recall",
        "F1",
        "AP50",
        "AP75",
        "AP50:95",
    )
    rows: list[tuple[str, ...]] = []
    for name, found in scored.items():
        average = (number(found.ap50), number(found.ap75), number(found.ap50_95))
        for what, by_iou in (("boxes", found.boxes), ("masks", found.masks)):
            for iou, counts in by_iou.items():
                scores = [number(counts[column]) for column in ("precision", "recall", "f1")]
                last = average if (what, iou) == ("boxes", "0.5") else ("", "", "")
                rows.append((name, found.split, number(found.threshold, 2), what, iou, *scores, *last))
    return Table(columns=columns, rows=rows)


def _missed(scored: dict[str, DetectionReport]) -> Table:
    groups = list(dict.fromkeys(name for found in scored.values() for name in found.recall_by))
    rows = [
        (name, *(f"{number(found.recall_by[group]['recall'])} of {found.recall_by[group]['n']}" for group in groups))
        for name, found in scored.items()
    ]
    return Table(columns=("detector", *groups), rows=rows, title="Recall by kind of cell, box IoU 0.5")


def _confusion(name: str, found: DetectionReport) -> Chart:
    named = ("detected", "missed")
    most = max(n or 0 for row in found.confusion.values() for n in row.values())
    data = []
    for truth, counts in found.confusion.items():
        for answer, detected in zip(named, found.confusion, strict=True):
            n = counts[answer]
            text, share = ("–", None) if n is None else (f"{n:,}", n / max(1, most))
            data.append({"truth": truth, "detected": detected, "n": text, "share": share, "right": truth == detected})
    order = ["cell", "background"]
    base = alt.Chart(values(data), width="container", height=150).encode(
        x=alt.X("detected:N", sort=order, title="detected as", axis=alt.Axis(labelAngle=0, orient="top")),
        y=alt.Y("truth:N", sort=order, title="truth"),
    )
    # opacity, not hue: the page below may be white or black
    tone = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.15, 0.7]), legend=None)
    colour = alt.Color("right:N", scale=alt.Scale(domain=[True, False], range=[AFTER, PALETTE[1]]), legend=None)
    marks = base.mark_rect().encode(opacity=tone, color=colour)
    drawn = marks + base.mark_text(fontSize=18, color="currentColor").encode(text="n:N")
    return Chart(title=f"confusion matrix, {name}", spec=to_spec(drawn, "truth against detection at box IoU 0.5"))


def _curve(column: str, title: str, scored: dict[str, DetectionReport]) -> Chart:
    data = [
        {"name": name, "confidence": point["confidence"], column: point[column], "n": point["tp"] + point["fp"]}
        for name, found in scored.items()
        for point in found.curve
        if column != "precision" or point["tp"] + point["fp"]
    ]
    colour: Any = alt.value(AFTER)
    if len(scored) > 1:
        scale = alt.Scale(domain=list(scored), range=list(PALETTE[: len(scored)]))
        colour = alt.Color("name:N", title=None, scale=scale, legend=alt.Legend(orient="top", direction="vertical"))
    unit = alt.Scale(domain=[0, 1])
    line = (
        alt.Chart(values(data), width="container", height=HEIGHT)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=20))
        .encode(
            x=alt.X("confidence:Q", title="least score that counts", scale=unit),
            y=alt.Y(f"{column}:Q", title=title, scale=unit),
            color=colour,
            tooltip=["name:N", "confidence:Q", f"{column}:Q", "n:Q"],
        )
    )
    limits = [{"name": name, "confidence": found.threshold} for name, found in scored.items()]
    rule = (
        alt.Chart(values(limits))
        .mark_rule(strokeDash=[4, 4], color=BEFORE)
        .encode(x="confidence:Q", tooltip=["name:N"])
    )
    return Chart(title=f"{title} against confidence", spec=to_spec(rule + line, f"{title} against confidence"))
