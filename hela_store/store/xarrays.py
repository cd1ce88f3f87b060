"""Show what is on disk as lazy, Dask-backed xarray Datasets. Nothing is read before it is computed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from hela_store.errors import EMBED_FIRST, StoreError

from .arrays import embedding_dims

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from .arrays import Arrays
    from .embeddings import Embeddings
    from .pixels import Pixels
    from .records import FrameRecord


def embeddings_dataset(
    path: Path,
    arrays: Arrays,
    embeddings: Embeddings,
    key: str,
    committed: Mapping[str, int],
    plans: Iterable[pa.Table],
) -> xr.Dataset:
    """Return the committed embeddings of a key; see :meth:`hela_store.store.store.Store.xarray`.

    Parameters
    ----------
    path : folder of the store, for messages
    embeddings : reads those of ``key``
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
    source = _Checked((len(rows), *array.shape[1:]), array.dtype, [partial(embeddings.read, int(row)) for row in rows])
    return xr.Dataset(
        {"embedding": (embedding_dims(array.shape[1:]), source.lazy())},
        {
            "view": np.array(order),
            "frame": ("view", frame),
            "tile": ("view", tile),
            "variant": ("view", variant),
        },
        {"encoder": key},
    )


def frames_dataset(
    path: Path,
    arrays: Arrays,
    pixels: Pixels,
    frames: Mapping[str, FrameRecord],
    sequence: str,
    group: str | None,
) -> xr.Dataset:
    """Return the frames of a sequence; see :meth:`hela_store.store.store.Store.frames`.

    Parameters
    ----------
    path : folder of the store, for messages
    pixels : reads the frames
    frames : all ingested frames by id
    """
    rows = [row for row in frames.values() if row.sequence == sequence]
    if not rows:
        have = ", ".join(sorted({row.sequence for row in frames.values()}))
        raise StoreError(f"no sequence {sequence!r} in {path}; it has {have}")
    groups = sorted({row.group for row in rows})
    if group is None and len(groups) > 1:
        raise StoreError(f"sequence {sequence} has frames of several sizes; name one group of {', '.join(groups)}")
    chosen = groups[0] if group is None else group
    rows = [row for row in rows if row.group == chosen]
    if not rows:
        raise StoreError(f"sequence {sequence} has no group {chosen!r}; it has {', '.join(groups)}")
    lazy: dict[str, da.Array] = {}
    for name in ("image", "label", "valid"):
        array, read = arrays.frame_array(chosen, name), getattr(pixels, name)
        shape = (len(rows), *array.shape[1:])
        lazy[name] = _Checked(shape, array.dtype, [partial(read, row.frame) for row in rows]).lazy()
    return xr.Dataset(
        {name: (("frame", "row", "col"), array) for name, array in lazy.items()},
        {
            "frame": np.array([row.frame for row in rows]),
            "time": ("frame", np.array([row.time for row in rows])),
            "has_label": ("frame", np.array([row.has_label for row in rows])),
        },
    )


class _Checked:
    """An array of which each part along the first dimension is read, and compared with its sum, by a function."""

    # no dataclass: Dask would take one apart

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Sequence[Callable[[], npt.NDArray[Any]]]
    ) -> None:
        self.shape, self.dtype, self.ndim, self._parts = shape, dtype, len(shape), parts

    def __getitem__(self, index: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        first, *rest = index
        if not isinstance(first, slice):
            return self._parts[first]()[tuple(rest)]
        found = [part()[tuple(rest)] for part in self._parts[first]]
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), self.dtype)[(slice(0), *rest)]

    def lazy(self) -> da.Array:
        """Return it as a Dask array, one chunk for each part."""
        # no name from content: hashing an array on disk would read it
        return da.from_array(self, chunks=(1, *self.shape[1:]), name=False)
