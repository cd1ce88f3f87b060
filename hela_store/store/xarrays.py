"""What is on disk as lazy, Dask-backed xarray Datasets. Nothing is read before it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from hela_store.errors import EMBED_FIRST, StoreError

from .arrays import embedding_dims

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pyarrow as pa
    import zarr

    from .arrays import Arrays


def embeddings_dataset(
    path: Path, arrays: Arrays, key: str, committed: Mapping[str, int], plans: Iterable[pa.Table]
) -> xr.Dataset:
    """Return the committed embeddings of a key; see :meth:`hela_store.store.store.Store.xarray`.

    Parameters
    ----------
    path : folder of the store, for messages
    committed : rows by view id
    plans : all that name the frame, tile and variant of these views
    """
    if not committed:
        have = ", ".join(arrays.embedding_keys()) or "none"
        raise StoreError(f"nothing is embedded under {key} in {path} (there are: {have}); {EMBED_FIRST}")
    known: dict[str, tuple[str, int, int]] = {}
    for plan in plans:
        views, *places = (plan[name].to_pylist() for name in ("view", "frame", "tile", "variant"))
        known.update(zip(views, zip(*places, strict=True), strict=True))
    order = sorted(committed, key=committed.__getitem__)
    lost = [view for view in order if view not in known]
    if lost:
        raise StoreError(f"{len(lost)} committed views, first {lost[0]}, are in no plan of {path}; restore plan/")
    rows = np.array([committed[view] for view in order])
    frame, tile, variant = (np.array(column) for column in zip(*(known[view] for view in order), strict=True))
    array = arrays.embedding_array(key, int(rows.max()) + 1)
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


def frames_dataset(path: Path, arrays: Arrays, frames_table: pa.Table, sequence: str, group: str | None) -> xr.Dataset:
    """Return the frames of a sequence; see :meth:`hela_store.store.store.Store.frames`.

    Parameters
    ----------
    path : folder of the store, for messages
    frames_table : all ingested frames
    """
    frames = frames_table.to_pylist()
    rows = [row for row in frames if row["sequence"] == sequence]
    if not rows:
        have = ", ".join(sorted({row["sequence"] for row in frames}))
        raise StoreError(f"no sequence {sequence!r} in {path}; it has {have}")
    groups = sorted({row["group"] for row in rows})
    if group is None and len(groups) > 1:
        raise StoreError(f"sequence {sequence} has frames of several sizes; name one group of {', '.join(groups)}")
    chosen = groups[0] if group is None else group
    rows = [row for row in rows if row["group"] == chosen]
    if not rows:
        raise StoreError(f"sequence {sequence} has no group {chosen!r}; it has {', '.join(groups)}")
    index = np.array([row["row"] for row in rows])
    lazy = {name: _from_zarr(arrays.frame_array(chosen, name), index) for name in ("image", "label", "valid")}
    return xr.Dataset(
        {name: (("frame", "row", "col"), array) for name, array in lazy.items()},
        {
            "frame": np.array([row["frame"] for row in rows]),
            "time": ("frame", np.array([row["time"] for row in rows])),
            "has_label": ("frame", np.array([row["has_label"] for row in rows])),
        },
    )


def _from_zarr(array: zarr.Array[Any], rows: npt.NDArray[np.int_]) -> da.Array:
    # no name from content: hashing an array on disk would read it
    return da.from_array(array, chunks=array.chunks, name=False)[rows]
