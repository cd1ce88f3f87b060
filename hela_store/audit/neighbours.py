"""Find the frames before and after a frame."""

from __future__ import annotations

from collections.abc import Iterator

from hela_store.store.store import Store


def neighbours_in_time(store: Store, frames: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each frame with the labelled frames of the same size before and after it; none for stills."""
    records = store.frame_records()
    places = {(r.sequence, r.time): r for r in records.values() if r.has_label}
    for name in frames:
        own = records[name]
        near = [] if store.recipe.dataset.stills else [own.time - 1, own.time + 1]
        found = (places.get((own.sequence, time)) for time in near)
        yield name, [other.frame for other in found if other is not None and other.shape == own.shape]
