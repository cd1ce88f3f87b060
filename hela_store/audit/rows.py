"""Rows of ``suspects.parquet``, ranked, and how many injected faults are found among the first labels of that rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.spatial import cKDTree

from .config import BASE_RATE, FAULTS, FLAGGED
from .evidence import Row
from .judge import CLEAN, Model, fit
from .result import Recall
from .signs import ANSWERS, SIGNS, TIME, said

NO_PROPOSAL = ("debris", "identity")
"""Kinds of fault whose mend is no other mask."""
WORDS = 2
"""Signs that a reason names."""
NEAREST = 5
"""Labels whose mean distance says how odd an embedding is."""
PLACE_SIGNS = tuple(name for name in SIGNS if name not in ("mask_answer", "agreement", "mask_confidence", "renamed"))
"""What is known of a place without a label."""

SUSPECT_SCHEMA = pa.schema(
    [
        ("suspect", pa.string()),
        ("rank", pa.int64()),
        *[(name, pa.string()) for name in ("split", "frame", "cell")],
        *[(name, pa.int64()) for name in ("x0", "y0", "x1", "y1")],
        *[(name, pa.float64()) for name in ("cx", "cy", "score")],
        *[(name, pa.string()) for name in ("kind", "reason")],
        *[(name, pa.float64()) for name in SIGNS],
        ("rle", pa.string()),
        ("rle_height", pa.int64()),
        ("rle_width", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All rows of an audit with their scores.

    Attributes
    ----------
    rows : as :func:`hela_store.audit.evidence.evidence` yields them
    scores : float64, (rows,), chance of any fault
    kinds : most likely kind of fault of each row; empty where no kind was learned
    reasons : in words
    """

    rows: Sequence[Row]
    scores: npt.NDArray[np.float64]
    kinds: list[str]
    reasons: list[str]


def judge(blocks: Sequence[Sequence[Row]]) -> Judged:
    """Score the rows of each block with models that were fitted on the rows of the others.

    A real fault may lack what gives injected ones away: it may be the same in all frames, or be what the decoder has
    learned to draw. So several models, each of which looks at some of the signs alone, have one vote each, and a
    score is the mean of their chances.
    """
    rows: list[Row] = []
    scores: list[float] = []
    kinds: list[str] = []
    reasons: list[str] = []
    measured = with_oddity(blocks)
    for number, block in enumerate(measured):
        others = [row for other, part in enumerate(measured) if other != number for row in part]
        labels = sum(not row["place"] and not row["fault"] for row in others)
        models = {place: _fitted([row for row in others if row["place"] == place], place, labels) for place in (0, 1)}
        for row in block:
            score, kind, reason = _scored(row, models[row["place"]])
            rows.append(row)
            scores.append(score)
            kinds.append(kind)
            reasons.append(reason)
    return Judged(rows=rows, scores=np.array(scores, float), kinds=kinds, reasons=reasons)


def with_oddity(blocks: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return the rows with how far each embedding is from the nearest ones of labels of other blocks.

    Returns
    -------
    list of list of dict
        ``oddity`` is the base-2 logarithm of that distance over the median one; NaN where there is no embedding.
    """
    found: list[list[Row]] = []
    for number, block in enumerate(blocks):
        others = [row for other, part in enumerate(blocks) if other != number for row in part]
        known = np.array([row["vector"] for row in others if not row["fault"] and not row["place"]], np.float32)
        there = [i for i, row in enumerate(block) if row["vector"] is not None]
        distance = np.full(len(block), np.nan)
        if len(known) > NEAREST and there:
            middle, spread = known.mean(0), known.std(0) + 1e-6
            tree = cKDTree((known - middle) / spread)
            vectors = (np.array([block[i]["vector"] for i in there], np.float32) - middle) / spread
            distance[there] = tree.query(vectors, k=NEAREST)[0].mean(1)
            usual = np.median([d for d, row in zip(distance, block, strict=True) if not row["fault"] and d == d])
            distance = np.log2(np.maximum(distance, 1e-6) / usual)
        found.append([row | {"oddity": float(d)} for row, d in zip(block, distance, strict=True)])
    return found


def _names(place: bool) -> list[tuple[str, ...]]:
    """Return the signs of each model: all, those of the frame alone, those without decoder and detector, the form."""
    every = PLACE_SIGNS if place else tuple(SIGNS)
    alone = tuple(name for name in every if name not in TIME)
    drawn = tuple(name for name in every if name not in ANSWERS)
    return [every, alone, drawn, tuple(name for name in alone if name not in ANSWERS)]


def _values(rows: Sequence[Row], names: Sequence[str]) -> npt.NDArray[np.float64]:
    return np.array([[row[name] for name in names] for row in rows], float).reshape(-1, len(names))


def _fitted(rows: Sequence[Row], place: int, labels: int) -> list[Model]:
    """Return models of the rows, fitted twice: the second time without the labels that the first ones suspect most.

    The store's own labels stand for right ones, and some are not. Of them the :data:`BASE_RATE` with the highest
    scores are left out, or models would learn that faults like theirs are right.
    """
    known = [row for row in rows if not row["lost"]]
    if not any(row["fault"] for row in known):
        return []
    models = _models(known, place, labels)
    own = [i for i, row in enumerate(known) if not row["fault"]]
    suspected = np.mean([1 - model.chances(_values(known, model.names))[own, 0] for model in models], 0)
    left_out = {own[i] for i in np.argsort(-suspected, kind="stable")[: int(BASE_RATE * len(own))]}
    return _models([row for i, row in enumerate(known) if i not in left_out], place, labels)


def _models(rows: Sequence[Row], place: int, labels: int) -> list[Model]:
    kinds = [row["fault"] for row in rows]
    return [fit(names, _values(rows, names), kinds, labels) for names in _names(bool(place))]


def _scored(row: Row, models: Sequence[Model]) -> tuple[float, str, str]:
    if row["lost"] or not models:
        return 0.0, "", ""
    # all models were fitted on the same rows, so they know the same kinds
    chances = np.stack([model.chances(_values([row], model.names))[0] for model in models])
    kind = 1 + int(chances.mean(0)[1:].argmax())
    surest = models[int(chances[:, kind].argmax())]
    values = _values([row], surest.names)[0]
    pull = surest.reasons(values, kind)
    told = [i for i in np.argsort(-pull)[:WORDS] if pull[i] > 0 and not np.isnan(values[i])]
    words = "; ".join(said(surest.names[i], float(values[i])) for i in told)
    what = FAULTS[surest.kinds[kind]]
    return float(1 - chances[:, 0].mean()), surest.kinds[kind], f"{what}: {words}" if words else what


def recalls(judged: Judged) -> list[Recall]:
    """Return the recall of each kind of fault, were 2 % of all labels faulty, each kind as often as any other.

    The store's labels and places count as right, so its real faults take places among the flagged.
    """
    faults = np.array([row["fault"] for row in judged.rows])
    there = [kind for kind in FAULTS if (faults == kind).any()]
    labels = sum(not row["place"] and not row["fault"] for row in judged.rows)
    weight = np.where(faults == CLEAN, 1 - BASE_RATE, 0.0)
    for kind in there:
        mine = faults == kind
        weight[mine] = labels * BASE_RATE / len(there) / mine.sum()
    order = np.argsort(-judged.scores, kind="stable")
    taken = np.empty(len(order))
    taken[order] = np.cumsum(weight[order])
    named = np.array([fault == kind for fault, kind in zip(faults, judged.kinds, strict=True)], bool)
    found = []
    for kind in there:
        mine = faults == kind
        at = tuple(float((taken[mine] <= share * labels).mean()) for share in FLAGGED)
        found.append(Recall(kind=kind, n=int(mine.sum()), at=at, named=float(named[mine].mean())))
    if not found:
        return []
    whole = tuple(float(np.mean([one.at[i] for one in found])) for i in range(len(FLAGGED)))
    total = Recall(
        kind="all", n=sum(one.n for one in found), at=whole, named=float(np.mean([one.named for one in found]))
    )
    return [total, *found]


def suspect_rows(
    judged: Judged, splits: Mapping[str, str], shapes: Mapping[str, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return the labels and places of the store, most suspicious first.

    Parameters
    ----------
    judged : Judged
    splits : split of each frame
    shapes : (rows, cols) of each frame, px
    """
    own = [i for i, row in enumerate(judged.rows) if not row["fault"]]
    own.sort(key=lambda i: (-judged.scores[i], judged.rows[i]["frame"], judged.rows[i]["x0"], judged.rows[i]["y0"]))
    found = []
    for rank, i in enumerate(own, 1):
        row, kind = judged.rows[i], judged.kinds[i]
        shape = shapes[row["frame"]]
        rle = None if kind in NO_PROPOSAL else row["rle"]
        found.append(
            {name: row[name] for name in ("frame", "cell", "x0", "y0", "x1", "y1")}
            | {"suspect": f"{rank:06d}", "rank": rank, "split": splits[row["frame"]]}
            | {"cx": (row["x0"] + row["x1"] - 1) / 2, "cy": (row["y0"] + row["y1"] - 1) / 2}
            | {"score": float(judged.scores[i]), "kind": kind, "reason": judged.reasons[i]}
            | {name: row[name] for name in SIGNS}
            | {"rle": rle, "rle_height": shape[0] if rle else None, "rle_width": shape[1] if rle else None}
        )
    return found
