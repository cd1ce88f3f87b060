"""Means over the cells that are hard, and over masks by their own IoU; from the catalog, so SQL gives the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hela_store.catalog import index as catalog
from hela_store.errors import RunError, StoreError
from hela_store.metrics.overlap import skill
from hela_store.prompts.degraded import BINS
from hela_store.store.store import Store

SUBSETS = {"touching": "touches_neighbour", "dim": "is_dim", "bright-small": "is_bright_small"}
"""Columns of cell_metrics by the names that tables show."""
PROMPT_BINS = {f"prompt IoU {low:g}-{high:g}": f"prompt_iou >= {low} AND prompt_iou < {high}" for low, high in BINS}
"""Mask prompts by their own IoU (rule "mask prompts")."""

_NAMES = [*SUBSETS, *PROMPT_BINS]
_NUMBERS = ", ".join(
    f"CASE WHEN {flag} THEN {number} END" for number, flag in enumerate([*SUBSETS.values(), *PROMPT_BINS.values()])
)
"""Of the subsets that a cell belongs to, which may be several."""
UNSEEN = "in no training frame"
"""Nuclei of a sequence that was trained on, which no training frame holds."""
_SCORED = """
WITH scored AS (
    SELECT m.*, p.free_iou, p.free_ellipse_iou, p.prompt_iou FROM cell_metrics m
    JOIN prompts p ON p.run = m.run AND p.kind = m.prompt AND p.prompt_seed = m.prompt_seed AND p.cell = m.cell
    WHERE m.run = $run
), member AS ({members})
SELECT prompt, subset, count(*) AS n, avg(iou) AS mean_iou, avg(dice) AS mean_dice, avg(is_empty::INT) AS empty,
    avg(free_iou) AS image_free_iou, avg(free_ellipse_iou) AS ellipse_iou, avg((iou < prompt_iou)::INT) AS made_worse,
    avg(hd95) AS mean_hd95, avg(boundary_iou) AS mean_boundary_iou,
    avg(nsd1) AS mean_nsd1, avg(nsd2) AS mean_nsd2, avg(spill) AS mean_spill
FROM member WHERE subset IS NOT NULL GROUP BY prompt, subset ORDER BY prompt, subset
"""
_MEANS = _SCORED.format(members=f"SELECT *, unnest([{_NUMBERS}]) AS subset FROM scored")
_MEANS_UNSEEN = _SCORED.format(members="SELECT *, 0 AS subset FROM scored WHERE cell IN (SELECT unnest($cells))")


@dataclass(frozen=True, kw_only=True)
class SubsetScore:
    """Means over the cells of a subset; None where the run has no such columns.

    Attributes
    ----------
    n : int
    mean_iou, mean_dice, empty : float
    image_free_iou, skill : float; None of cells that were found without a prompt; skill is of the better of the
        image-free answers
    ellipse_iou : float
        Of the ellipse of a mask prompt's moments, image-free as well; None where there is none.
    made_worse : float
        Share of mask prompts that were better than the answer; None where there are none.
    mean_hd95 : float, px
        Empty predictions count as the cell's diameter.
    mean_boundary_iou, mean_nsd1, mean_nsd2, mean_spill : float
    """

    n: int
    mean_iou: float
    mean_dice: float
    empty: float
    image_free_iou: float | None
    ellipse_iou: float | None
    skill: float | None
    made_worse: float | None
    mean_hd95: float | None
    mean_boundary_iou: float | None
    mean_nsd1: float | None
    mean_nsd2: float | None
    mean_spill: float | None


Subsets = dict[str, dict[str, SubsetScore]]
"""By prompt kind and name of the subset."""


def pending_subsets(store: Store, run: str, unseen: Sequence[str] | None = None) -> tuple[Subsets, str]:
    """Return the means of a run that was published just now, and why there are none yet where there are none.

    The catalog may be open in another program, or the disk be full: the run is complete all the same.
    """
    try:
        return subset_scores(store, run, unseen), ""
    except (StoreError, RunError, OSError) as error:
        return {}, str(error)


def subset_scores(store: Store, run: str, unseen: Sequence[str] | None = None) -> Subsets:
    """Return the means of a published run by prompt kind and subset; subsets without a cell are left out.

    Parameters
    ----------
    unseen : cells that no training frame holds, see :func:`hela_store.evaluation.tracks.unseen_cells`; they get a row
        :data:`UNSEEN`
    """
    found: Subsets = {}
    rows = [(row, _NAMES) for row in catalog.query(store.path, _MEANS, {"run": run}).to_pylist()]
    if unseen:
        more = catalog.query(store.path, _MEANS_UNSEEN, {"run": run, "cells": list(unseen)}).to_pylist()
        rows += [(row, [UNSEEN]) for row in more]
    for row, names in rows:
        prompt, name, free = row.pop("prompt"), names[row.pop("subset")], row["image_free_iou"]
        won = None if free is None else skill(row["mean_iou"], max(free, row["ellipse_iou"] or 0.0))
        found.setdefault(prompt, {})[name] = SubsetScore(**row, skill=won)
    return found
