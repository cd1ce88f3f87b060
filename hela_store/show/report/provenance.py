"""Say where the numbers come from: recipe, encoder, versions, runs, and what the embeddings cost."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

from hela_store.base.sizes import mebibytes
from hela_store.embedding.record import read_record
from hela_store.evaluation.tracks import store_protocol
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.runs.folder import RunInfo
from hela_store.runs.info import to_json
from hela_store.sam.informed import informed_by
from hela_store.store.sizes import embedding_bytes

from .choice import Choice
from .page import Section, Table

PACKAGES = ("hela-store", "torch", "zarr", "duckdb", "numpy", "altair")
COUNTS = """
    SELECT (SELECT count(*) FROM frames) AS frames, (SELECT count(*) FROM cells) AS cells,
           (SELECT count(*) FROM views) AS views,
           (SELECT count(*) FROM committed WHERE encoder = $key) AS done
"""


def provenance(choice: Choice) -> Section:
    """Return the section."""
    runs = [(run.id, run.kind, _weights(run), run.split or "", _when(run)) for run in choice.runs]
    tables = [Table(columns=("", ""), rows=_facts(choice))]
    if runs:
        tables.append(Table(columns=("run", "kind", "weights of", "split", "began, UTC"), rows=runs, title="Runs"))
    recipe = (choice.store.path / RECIPE_FILE).read_text(encoding="utf-8")
    details = [("Recipe: store.toml", recipe)]
    details += [(f"Configuration of {run.id}", to_json(run.config, indent=2)) for run in choice.runs]
    return Section(id="provenance", title="Provenance", tables=tables, details=details)


def _weights(run: RunInfo) -> str:
    """Return the run whose weights a run used; of a decoder without one that it is the encoder's own."""
    return run.checkpoint or run.parent or ("zero-shot" if run.kind in ("evaluate", "control", "robustness") else "")


def _when(run: RunInfo) -> str:
    return f"{run.created:%Y-%m-%d %H:%M}"


def _facts(choice: Choice) -> list[Sequence[str]]:
    store, record = choice.store, read_record(choice.store)
    told = informed_by(store.recipe.encoder.architecture, store.recipe.dataset.path)
    counts = choice.rows(COUNTS, key=store.key)[0]
    size = embedding_bytes(store.arrays, store.key, store.ledger().table())
    rows: list[Sequence[str]] = [
        ("store", store.recipe.name),
        ("frames, cells", f"{counts['frames']}, {counts['cells']}"),
        ("encoder key", store.key),
        ("encoder weights, sha256", store.recipe.encoder.sha256),
        *([("chosen beside this data set", told)] if told else []),
        ("protocol", store_protocol(store)),
        ("views embedded", f"{counts['done']} of {counts['views']}, about {mebibytes(size)}"),
    ]
    if record is not None:
        rows.append(
            ("embedded with", f"{record.device}, {record.processor}, torch {record.torch}, {record.threads} threads")
        )
        if record.seconds_per_view:
            rows += _cost(counts["done"], record.seconds_per_view)
    counted = choice.rows("FROM test_scorings")
    scorings, points = (sum(row[name] for row in counted) for name in ("scorings", "points"))
    rows.append(
        ("scorings of the test frames", f"{scorings}" + (f", and {points} points of budgets" if points else ""))
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    rows.append(("this report", f"Python {platform.python_version()}, {versions}"))
    return rows


def _cost(views: int, seconds: float) -> list[Sequence[str]]:
    """Say what embedding cost, and from when on it pays: with the second pass over the same views."""
    once = views * seconds
    return [
        ("encoder time", f"{seconds:.2f} s a view, {_duration(once)} for all, once"),
        ("what the store saves", f"{_duration(once)} of encoder time in every pass over all views after the first"),
    ]


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
