"""Injected faults are what their names say, and models find them in plain numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hela_store.audit.cases import Case, debris, injected, painted, renamed
from hela_store.audit.config import FAULTS, AuditConfig
from hela_store.audit.judge import fit
from hela_store.audit.rows import Judged, recalls
from hela_store.errors import RecipeError
from hela_store.metrics.overlap import iou
from hela_store.prompts.context import CellContext, cell_context


def discs() -> np.ndarray:
    rows, columns = np.indices((80, 100))
    label = np.zeros((80, 100), np.int32)
    for number, (y, x) in enumerate([(40, 40), (40, 63), (15, 15)], 1):
        label[(rows - y) ** 2 + (columns - x) ** 2 < 121] = number
    return label


def case() -> Case:
    label = discs()
    rows, columns = np.nonzero(label == 1)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return Case(context=cell_context(label, 1, "01/t000#1", box), cell="01/t000#1")


def before(context: CellContext, of: CellContext) -> float:
    """Return the IoU of two labels of one crop."""
    return iou(context.labels == context.label, of.labels == of.label)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("merged", 0.4, 0.6), ("split", 0.2, 0.8), ("shifted", 0.2, 0.8), ("ragged", 0.55, 0.97), ("crescent", 0.1, 0.75)],
)
def test_a_fault_changes_its_label_and_takes_nothing_from_others(kind: str, low: float, high: float) -> None:
    whole = case()
    for seed in range(6):
        made = injected(whole, kind, np.random.default_rng(seed))
        assert made is not None and made.fault == kind
        assert low <= before(made.context, whole.context) <= high, (kind, seed)
        third = whole.context.labels == 3
        assert np.array_equal(made.context.labels == 3, third)
        others = whole.context.labels == 2
        assert (made.context.labels[others] == (1 if kind == "merged" else 2)).all()


def test_lost_renamed_and_invented_labels() -> None:
    rng, whole = np.random.default_rng(0), case()
    gone = injected(whole, "missing", rng)
    assert gone is not None and not (gone.context.labels == 1).any()
    other = renamed(whole, rng)
    number = other.context.label
    assert number in (2, 3) and np.array_equal(other.context.mask, whole.context.mask)
    assert (other.context.labels == 1).sum() == (whole.context.labels == number).sum()
    image = np.zeros((80, 100))
    made = debris(whole, discs(), image, rng)
    assert made is not None and made.context.label == 4 and not made.cell
    again = painted(gone, whole.context.mask, whole.context.origin)
    assert again is not None and iou(again.context.mask, whole.context.mask) == 1
    assert painted(whole, whole.context.mask, whole.context.origin) is None, "a label is there"


def test_models_are_fitted_and_recall_counts_what_the_flagged_hold() -> None:
    rng = np.random.default_rng(0)
    clean, bad = rng.normal(0, 1, (1000, 4)), rng.normal([6, 0, 0, 0], 1, (40, 4))
    bad[0, 1] = np.nan
    kinds = [""] * 1000 + ["split"] * 40
    values = np.concatenate([clean, bad])
    model = fit("abcd", values, kinds, 1000)
    scores = 1 - model.chances(values)[:, 0]
    assert scores[:1000].mean() < 0.01 and np.median(scores[1000:]) > 0.8
    assert model.reasons(bad[1], 1).argmax() == 0
    rows = [{"fault": kind, "place": False} for kind in kinds]
    judged = Judged(rows=rows, scores=scores, kinds=["split"] * 1040, reasons=[""] * 1040)
    whole, split = recalls(judged)
    assert whole.kind == "all" and split.n == 40 and split.at[0] < 0.6, "1 % flagged holds at most half of 2 % faults"
    assert split.at[1] > 0.95 and split.named == 1


def test_settings_check_themselves() -> None:
    assert set(FAULTS) >= {"missing", "debris"}
    for wrong in ({"folds": 1}, {"steps": 0}, {"faults": 0.0}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            AuditConfig(**wrong)
