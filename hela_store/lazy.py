"""What is on disk as lazy, Dask-backed xarray Datasets. Nothing is read before it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from .arrays import embedding_dims
from .errors import StoreError

if TYPE_CHECKING:
    import zarr

    from .store import Store

EMBED_FIRST = "run `hela-store embed`"


def embeddings_dataset(store: Store, key: str) -> xr.Dataset:
    """Return the committed embeddings of a key; see :meth:`hela_store.store.Store.xarray`."""
    committed = store.committed(key)
    if not committed:
        have = ", ".join(store.arrays.embedding_keys()) or "none"
        raise StoreError(f"nothing is embedded under {key} in {store.path} (there are: {have}); {EMBED_FIRST}")
    known: dict[str, tuple[str, int, int]] = {}
    for plan in store.plan_parts():
        views, *places = (plan[name].to_pylist() for name in ("view", "frame", "tile", "variant"))
        known.update(zip(views, zip(*places, strict=True), strict=True))
    order = sorted(committed, key=committed.__getitem__)
    lost = [view for view in order if view not in known]
    if lost:
        raise StoreError(f"{len(lost)} committed views, first {lost[0]}, are in no plan of {store.path}; restore plan/")
    rows = np.array([committed[view] for view in order])
    frame, tile, variant = (np.array(column) for column in zip(*(known[view] for view in order), strict=True))
    array = store.arrays.embedding_array(key, int(rows.max()) + 1)
    lazy = _from_zarr(array, rows)
    return xr.Dataset(
        {"embedding": (embedding_dims(array.shape[1:]), lazy)},
        {
            "view": np.array(order),
            "frame": ("view", frame),
            "tile": ("view", tile),
            "variant": ("view", variant),
        },
        {"encoder": key},
    )


def frames_dataset(store: Store, sequence: str, group: str | None) -> xr.Dataset:
    """Return the frames of a sequence; see :meth:`hela_store.store.Store.frames`."""
    frames = store.frames_table().to_pylist()
    rows = [row for row in frames if row["sequence"] == sequence]
    if not rows:
        have = ", ".join(sorted({row["sequence"] for row in frames}))
        raise StoreError(f"no sequence {sequence!r} in {store.path}; it has {have}")
    groups = sorted({row["group"] for row in rows})
    if group is None and len(groups) > 1:
        raise StoreError(f"sequence {sequence} has frames of several sizes; name one group of {', '.join(groups)}")
    chosen = groups[0] if group is None else group
    rows = [row for row in rows if row["group"] == chosen]
    if not rows:
        raise StoreError(f"sequence {sequence} has no group {chosen!r}; it has {', '.join(groups)}")
    index = np.array([row["row"] for row in rows])
    arrays = {name: _from_zarr(store.arrays.frame_array(chosen, name), index) for name in ("image", "label", "valid")}
    return xr.Dataset(
        {name: (("frame", "row", "col"), array) for name, array in arrays.items()},
        {
            "frame": np.array([row["frame"] for row in rows]),
            "time": ("frame", np.array([row["time"] for row in rows])),
            "has_label": ("frame", np.array([row["has_label"] for row in rows])),
        },
    )


def _from_zarr(array: zarr.Array[Any], rows: npt.NDArray[np.int_]) -> da.Array:
    # no name from content: hashing an array on disk would read it
    return da.from_array(array, chunks=array.chunks, name=False)[rows]
