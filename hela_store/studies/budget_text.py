"""A study of budgets as text: the lines of its table, at most 80 characters wide."""

from __future__ import annotations

import math

from .budget import BudgetResult
from .budget_rows import BudgetRow, method_name

COLUMNS = ("method", "pick", "cells", "frames", "IoU", "over zero-shot", "of all's gain")


def budget_lines(result: BudgetResult, prompt: str) -> list[list[str]]:
    """Return the cells of the table of one prompt kind, as text: what needs no cell first."""
    rule, lines = result.table.rules.get(prompt), []
    if rule is not None and rule.naive is not None:
        lines.append(["naive guess", "", "0", "", f"{rule.naive:.4f}", "", ""])
    if rule is not None:
        lines.append(["zero-shot", "", "0", "", f"{rule.zero_shot:.4f}", "", ""])
    return lines + [_line(row) for row in result.table.rows if row.prompt == prompt]


def _line(row: BudgetRow) -> list[str]:
    gain, over = row.over_zero, ""
    if gain is not None:
        over = f"{gain.mean:+.4f}" + ("" if math.isnan(gain.low) else f" ± {(gain.high - gain.low) / 2:.4f}")
    share = "" if row.share is None else f"{row.share:.0%}"
    return [method_name(row), row.pick, f"{row.budget:,}", f"{row.frames:.0f}", f"{row.iou:.4f}", over, share]
