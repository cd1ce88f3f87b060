"""A study of budgets as text: the lines of its table, at most 80 characters wide."""

from __future__ import annotations

import math

from hela_store.base.text import percent

from .budget import BudgetResult
from .budget_rows import BudgetRow, method_name
from .text import markdown_table

COLUMNS = ("method", "pick", "cells", "frames", "IoU", "over zero-shot", "of all's gain")


def budget_lines(result: BudgetResult, prompt: str) -> list[list[str]]:
    """Return the cells of the table of one prompt kind, as text: what needs no cell first."""
    rule, lines = result.table.rules.get(prompt), []
    if rule is not None and rule.naive is not None:
        lines.append(["naive guess", "", "0", "", f"{rule.naive:.4f}", "", ""])
    if rule is not None:
        lines.append(["zero-shot", "", "0", "", f"{rule.zero_shot:.4f}", "", ""])
    return lines + [_line(row) for row in result.table.rows if row.prompt == prompt]


def budget_markdown(result: BudgetResult) -> str:
    """Return the whole study as Markdown, with the IoU of every seed."""
    parts = ["## How many cells to annotate"]
    for prompt in dict.fromkeys(row.prompt for row in result.table.rows):
        rows = [row for row in result.table.rows if row.prompt == prompt]
        lines = budget_lines(result, prompt)
        seeds = [""] * (len(lines) - len(rows)) + [", ".join(f"{iou:.4f}" for iou in row.iou_runs) for row in rows]
        parts.append(f"### Prompt {prompt}, {result.scored} cells scored")
        wide = [[*line, each] for line, each in zip(lines, seeds, strict=True)]
        parts.append(markdown_table((*COLUMNS, "IoU of each seed"), wide))
    parts += ["\n".join(f"- {text}" for text in [*result.sentences, *result.notes, *result.errors])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(row: BudgetRow) -> list[str]:
    gain, over = row.over_zero, ""
    if gain is not None:
        over = f"{gain.mean:+.4f}" + ("" if math.isnan(gain.low) else f" ± {(gain.high - gain.low) / 2:.4f}")
    share = "" if row.share is None else percent(row.share, 0)
    return [method_name(row), row.pick, f"{row.budget:,}", f"{row.frames:.0f}", f"{row.iou:.4f}", over, share]
