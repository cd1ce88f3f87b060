"""Ways to look at a store and to take views back out of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hela_store.runs.info import MANIFEST, manifest_of
from hela_store.store.store import Store


def chunks(store: Store) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(store.arrays.chunk_path(store.key, 0).parent.glob("c.*"))}


def forget(store: Store, views: int, chunks_too: bool = True) -> list[int]:
    """Take the last views back out of the ledger, as if the job had been killed before them."""
    rows = []
    for segment in sorted(store.ledger().path.iterdir())[-views:]:
        row = json.loads(segment.read_text())["row"]
        segment.unlink()
        if chunks_too:
            store.arrays.chunk_path(store.key, row).unlink()
        rows.append(row)
    return rows


def reseal(run: Path) -> None:
    """Write the manifest of a published run again, as if it had been made with the files that are there now."""
    (run / MANIFEST).write_text(manifest_of(run))


def changed(store: Store, **parts: Any) -> Store:
    return Store(store.path, replace(store.recipe, **parts))
