"""A study as text: the lines of its table for a terminal, and the whole of it as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from hela_store.base.files import explain_os_errors, write_atomic
from hela_store.metrics.failures import FAILURES
from hela_store.metrics.intervals import BLOCK_FRAMES, LEAST_BLOCKS, LEAST_SEEDS, MARGIN, Interval

from .encoders import EncoderStudy
from .reference import REFERENCE
from .rows import StudyRow
from .study import StudyResult

ORACLE = "SEG (oracle prompts)"
COLUMNS = (
    "prompt", "method", "runs", "cells", "IoU", "Dice", "over image-free", "skill", "HD95, px", "without empty",
    "empty", ORACLE, "SEG", "over zero-shot, per cell", "verdict",
)  # fmt: skip
"""Heads of the columns of :func:`table`."""
AGAINST = (
    "prompt", "method", "nuclei", "IoU", "Dice", "IoU of labels", "Dice of labels", "labels' own IoU",
    "SEG, of true prompts oracle", "labels' own SEG", "over zero-shot",
)  # fmt: skip
"""Heads of the columns of :func:`against`: scores against the other labels, then against the store's."""
GAINS = (
    "prompt", "method", "per cell", "bootstrap", "each training seed", "verdict", "per frame", "verdict",
)  # fmt: skip
ENCODERS = (
    "prompt", "method", "encoder", "s a view", "MiB a view", "runs", "cells", "IoU", "over the first", "verdict",
)  # fmt: skip
"""Heads of the columns of :func:`encoder_table`."""
ENCODER = ("encoder", "s a view", "MiB a view", "IoU", "over the first", "verdict")
"""Heads of the columns of :func:`encoder_blocks`."""
FRAMES = ("mean", "low_quartile", "median", "high_quartile")
SPREAD = (
    "prompt", "method", "mean over frames", "lower quartile", "median", "upper quartile", "HD95, median, px",
    "HD95, empty as the view's diagonal, px", "cells in no training frame", "their IoU",
)  # fmt: skip


def table(result: StudyResult) -> list[list[str]]:
    """Return the cells of the table's lines, as text."""
    return [_line(row) for row in result.rows]


def against(result: StudyResult) -> list[list[str]]:
    """Return the lines of the table against other labels, as text: means over the runs of a method."""
    scores = {(score.run, score.prompt): score for score in result.against}
    lines = []
    for row in result.rows:
        if part := [scores[run, row.prompt] for run in row.runs if (run, row.prompt) in scores]:
            means = [
                fmean(getattr(score, name) for score in part)
                for name in ("iou", "dice", "reference_iou", "reference_dice", "between_iou", "seg", "between_seg")
            ]
            gain = result.gains_against.get((row.prompt, row.method))
            over = "" if gain is None else interval(gain) + (f", {gain.word}" if gain.word else "")
            lines.append([row.prompt, row.method, str(part[0].nuclei), *(f"{value:.4f}" for value in means), over])
    return lines


def spread(result: StudyResult) -> list[list[str]]:
    """Return the lines of the table over frames, as text, with the cells that no training frame holds."""
    return [
        [row.prompt, row.method, *(f"{getattr(row.frames, name):.4f}" for name in FRAMES)]
        + [_number(row.hd95_median, ".2f"), _number(row.hd95_worst, ".2f")]
        + ["" if row.unseen is None else str(row.unseen), _number(row.iou_unseen, ".4f")]
        for row in result.rows
    ]


def _line(row: StudyRow) -> list[str]:
    seg = ", ".join(f"{name} {value:.3f}" for name, value in row.seg.items())
    return [
        row.prompt,
        row.method,
        str(len(row.runs)),
        str(row.cells),
        _points(row.iou, row.iou_runs),
        _points(row.dice, row.dice_runs),
        _number(row.over_free, "+.4f"),
        _number(row.skill, ".3f"),
        _number(row.hd95, ".2f"),
        "" if row.hd95_found is None else f"{row.hd95_found:.2f} (n {row.n_found:.0f})",
        f"{row.empty:.2%}",
        "" if row.is_label_free else seg,
        seg if row.is_label_free else "",
        "" if row.gain is None else interval(row.gain.per_cell),
        "" if row.gain is None else row.gain.per_cell.word,
    ]


def interval(found: Interval) -> str:
    """Write a mean difference with its 95 % interval."""
    if math.isnan(found.low):
        return f"{found.mean:+.4f} (one track or frame is too few for an interval)"
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def bootstrap(found: Interval) -> str:
    """Write the ends of the bootstrap, which stands beside the interval."""
    return "" if math.isnan(found.bootstrap_low) else f"{found.bootstrap_low:+.4f} to {found.bootstrap_high:+.4f}"


def _signed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.4f}" for value in values)


def footnotes(result: StudyResult) -> list[str]:
    """Return what stands below the table: measures, the study's own numbers, test scorings, notes."""
    reference = ", ".join(f"{kind} {iou:.4f}/{dice:.4f}" for kind, (iou, dice) in REFERENCE.items())
    found = sorted({row.gain.units for row in result.rows if row.gain})
    units = f"; {', '.join(found)}" if found else ""
    scorings = ", ".join(f"{name} {count}" for name, count in result.test_scorings.items()) or "none"
    points = f", and {result.budget_points} points of budgets" if result.budget_points else ""
    return [
        "IoU and Dice: mean over cells and prompt seeds, empty predictions count as 0; in brackets each training seed. "
        "HD95 counts an empty prediction as the cell's diameter.",
        f"Over zero-shot: mean IoU on the same prompts, with a 95 % interval over tracks of cells, frames and training "
        f"seeds (t quantile, Satterthwaite's degrees of freedom){units}. Better: wholly above +{MARGIN}; worse: wholly "
        f"below -{MARGIN}; equivalent: wholly between; else undecided. No word below {LEAST_BLOCKS} blocks of "
        f"{BLOCK_FRAMES} frames (images of stills) or {LEAST_SEEDS} training seeds.",
        f"For reference only, other data, other split: ViT-B as tuned in the study this began with, {reference}.",
        f"Scorings of the test set of this store so far: {sum(result.test_scorings.values())} ({scorings}){points}.",
        *result.notes,
        *(f"missing: {error}" for error in result.errors),
    ]


def encoder_table(result: EncoderStudy) -> list[list[str]]:
    """Return the lines of the paired table of encoders, as text."""
    about, lines = {encoder.label: encoder for encoder in result.encoders}, []
    for row in result.rows:
        own, over = about[row.encoder], row.over_first
        cost = [_number(own.seconds_per_view, ".2f"), f"{own.bytes_per_view / 2**20:.2f}"]
        gain = ["", ""] if over is None else [interval(over), over.word]
        scores = [str(len(row.runs)), str(row.cells), f"{row.iou:.4f}"]
        lines.append([row.prompt, row.method, row.encoder, *cost, *scores, *gain])
    return lines


def encoder_blocks(result: EncoderStudy) -> list[tuple[str, list[list[str]]]]:
    """Return the same table in parts that fit a terminal: a heading for each prompt and method, and its lines."""
    blocks: dict[str, list[list[str]]] = {}
    for row, line in zip(result.rows, encoder_table(result), strict=True):
        over = row.over_first
        if over is not None and math.isnan(over.low):
            line[-2] = f"{over.mean:+.4f} (no interval)"
        heading = f"{row.prompt}, {row.method} (cells: {row.cells})"
        blocks.setdefault(heading, []).append([*line[2:5], *line[7:]])
    return list(blocks.items())


def encoder_footnotes(result: EncoderStudy) -> list[str]:
    """Return what stands below the paired table of encoders."""
    return [
        f"Over the first: mean IoU minus that of {result.encoders[0].label} on the same cells and prompts, with a 95 % "
        "interval over tracks of cells, frames and training seeds.",
        *result.notes,
        *(f"missing: {error}" for error in result.errors),
    ]


def encoder_markdown(result: EncoderStudy) -> str:
    """Return the comparison of encoders as Markdown, and the whole study of each below it."""
    parts = [
        "## Encoders",
        markdown_table(ENCODERS, encoder_table(result)),
        "\n".join(f"- {text}" for text in encoder_footnotes(result)),
        *(markdown(own).replace("## Study\n", f"## Study: {label}\n", 1) for label, own in result.studies.items()),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def markdown(result: StudyResult) -> str:
    """Return the whole study as Markdown."""
    facts = [f"- {name}: {value}" for name, value in result.facts.items()]
    failures = [[r.prompt, r.method, str(r.n), *(f"{r.failures[name]:g}" for name in FAILURES)] for r in result.rows]
    rows = [(row.prompt, row.method, row.gain) for row in result.rows if row.gain]
    found = [(prompt, method, gain.per_cell, gain.per_frame, gain.by_seed) for prompt, method, gain in rows]
    gains = [
        [prompt, method, interval(cell), bootstrap(cell), _signed(seeds), cell.word, interval(frame), frame.word]
        for prompt, method, cell, frame, seeds in found
    ]
    parts = [
        "## Study",
        "\n".join(facts),
        markdown_table(COLUMNS, table(result)),
        "\n".join(f"- {text}" for text in footnotes(result)),
        "### Over zero-shot, per cell and per frame",
        markdown_table(GAINS, gains),
        "### IoU over frames, and HD95",
        markdown_table(SPREAD, spread(result)),
        *(
            ("### Against the other labels, on the same nuclei", markdown_table(AGAINST, against(result)))
            if result.against
            else ()
        ),
        "### How predictions failed, mean number a run",
        markdown_table(("prompt", "method", "predictions", *FAILURES), failures),
        "### Runs",
        "\n".join(f"- {row.prompt}, {row.method}: {', '.join(row.runs)}" for row in result.rows),
    ]
    return "\n\n".join(parts) + "\n"


def write(text: str, path: Path) -> None:
    """Write the Markdown of a study to a file; StoreError without space or permission."""
    with explain_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', '&#124;') for text in line)} |" for line in lines)


def _points(mean: float, runs: Sequence[float]) -> str:
    """Write a mean, and the runs it is of as single points: a standard deviation of three says little."""
    return f"{mean:.4f}" if len(runs) < 2 else f"{mean:.4f} ({', '.join(f'{value:.4f}' for value in runs)})"


def _number(value: float | None, how: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, how)
