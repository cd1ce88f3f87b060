"""A store: recipe, arrays, plan, ledger and catalog in one folder, opened by its path.

Opening reads ``store.toml`` and nothing else; neither torch nor dask nor zarr is imported before an array is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from hela_store.base.aliases import BoolArray, FloatArray, LabelArray
from hela_store.base.names import inside, refuse_links
from hela_store.base.segments import LABELS
from hela_store.errors import EMBED_FIRST, StoreError
from hela_store.recipe.recipe import RECIPE_FILE, UNTRAINED, Recipe, encoder_key, load_recipe

from .find_view import find_view
from .ledger import Entry, Ledger
from .records import FrameRecords, ViewRecord
from .stored_tables import StoredTables
from .view_data import ViewData

if TYPE_CHECKING:
    import duckdb
    import xarray as xr

    from .arrays import Arrays
    from .embeddings import Embeddings
    from .pixels import Pixels
    from .shards import Gatherer
    from .truths import Truths

LINKLESS = {
    "arrays.zarr": 3,
    "runs": 2,
    "encoders": 2,
    "ledger": 1,
    "truths": 1,
    "ingest": 1,
    LABELS: 1,
    "plan": 1,
    "cache": 0,
    "staged": 2,
    "data.json": 0,
    "sums.json": 0,
}
"""What of a store must not be a symbolic link, and down to which depth, so that nothing is written beyond the store."""


class Store(StoredTables):
    """A store on disk.

    Attributes
    ----------
    path : Path
        Its folder.
    recipe : Recipe
    labels_version : int, optional
        Which version of the labels it reads; by default the latest when labels are first read.
    """

    def __init__(self, path: Path, recipe: Recipe, labels_version: int | None = None) -> None:
        super().__init__(path, recipe, labels_version)
        self._ledgers: dict[str, Ledger] = {}
        self._embeddings: dict[str, Embeddings] = {}
        self._gatherers: dict[str, Gatherer] = {}

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a store by its folder, or by its ``store.toml``.

        Raises
        ------
        StoreError
            No store there, a damaged ``store.toml``, one of a newer version, or a symbolic link in the store.
        RecipeError
            A key or value in it is wrong.
        """
        folder = Path(path).absolute()
        if folder.name == RECIPE_FILE:
            folder = folder.parent
        for name, depth in LINKLESS.items():
            refuse_links(folder / name, depth)
        return cls(folder, load_recipe(folder / RECIPE_FILE))

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def with_encoder(self, **changes: Any) -> Self:
        """Return the store with another encoder in its recipe: ``adapter``, ``cut``, ...; may raise RecipeError."""
        recipe = replace(self.recipe, encoder=replace(self.recipe.encoder, **changes))
        return type(self)(self.path, recipe, self.labels_version)

    @cached_property
    def key(self) -> str:
        """Encoder key of the recipe."""
        return encoder_key(self.recipe)

    @property
    def is_trained(self) -> bool:
        """Whether the recipe's encoder has learnt anything: False for a nano without shipped weights."""
        return self.recipe.encoder.sha256 != UNTRAINED

    @cached_property
    def arrays(self) -> Arrays:
        """The arrays of this store."""
        from .arrays import Arrays
        from .storage import open_storage

        where = self.recipe.arrays
        return Arrays(open_storage(self.path / "arrays.zarr", where.data, where.cache_mib), self.path / "staged")

    def ledger(self, key: str | None = None) -> Ledger:
        """Return the ledger of an encoder key (default: the recipe's)."""
        key = key or self.key
        return self._ledgers.setdefault(key, Ledger(inside(self.path / "ledger", key, what="the encoder key")))

    def encoder_folder(self, key: str | None = None) -> Path:
        """Return where the decoder and the record of an encoder key are (default: the recipe's)."""
        return inside(self.path / "encoders", key or self.key, what="the encoder key")

    # embeddings

    def committed(self, key: str | None = None) -> dict[str, int]:
        """Return the rows of all committed views of an encoder key, by view id."""
        return self.ledger(key).rows()

    def embedding(self, frame: str, tile: int = 0, variant: int = 0, key: str | None = None) -> FloatArray:
        """Return the embedding of a view.

        Parameters
        ----------
        frame : str
            Frame id, e.g. ``"01/t012"``.
        tile, variant : int
            Which tile of the frame, row by row from the upper left; which variant, 0 as acquired.
        key : str
            Encoder key; the recipe's by default.

        Returns
        -------
        float16 (or float32, as the recipe says), (256, 64, 64), CHW

        Raises
        ------
        StoreError
            No such view, or not embedded yet.
        """
        key = key or self.key
        row = self.ledger(key).row(self._find(frame, tile, variant).view)
        if row is None:
            raise StoreError(f"{frame}, tile {tile}, variant {variant} is not embedded yet; {EMBED_FIRST}")
        return self.embedding_at(row, key)

    def embedding_at(self, row: int, key: str | None = None) -> FloatArray:
        """Return the embedding in a row, as :meth:`embedding`; rows of committed views are in :meth:`committed`.

        Raises
        ------
        StoreError
            It is not committed, lost, or not what was committed.
        """
        return self.embeddings(key).read(row)

    def embeddings(self, key: str | None = None) -> Embeddings:
        """Return the reader of the committed embeddings of an encoder key (default: the recipe's)."""
        from .embeddings import Embeddings

        key = key or self.key
        found = self._embeddings.get(key)
        if found is None:
            found = self._embeddings[key] = Embeddings(self.arrays, key, self.ledger(key))
        return found

    def commit(self, entries: Iterable[Entry], truths: Iterable[Entry] = ()) -> None:
        """Write durably that embeddings of the recipe's key, and the labels of variants among them, are there.

        The labels come first: an embedding counts only with the labels that belong to it.
        """
        entries = list(entries)
        self.truths.ledger.commit(truths)
        self.ledger().commit(entries)
        self._gatherer(self.key).add(entry.row for entry in entries)

    def gather(self, key: str | None = None) -> None:
        """Write what is committed and in no shard yet into the shards of an encoder key (default: the recipe's).

        Whoever calls holds the store's embed lock. Does nothing where each embedding is an object of its own.

        Raises
        ------
        StoreError
            A shard is damaged; no space, no permission.
        """
        self._gatherer(key or self.key).finish()
        del self._gatherers[key or self.key]

    def _gatherer(self, key: str) -> Gatherer:
        from .shards import Gatherer

        if key not in self._gatherers:
            self._gatherers[key] = Gatherer(self.arrays, key, self.ledger(key))
        return self._gatherers[key]

    @property
    def pixels(self) -> Pixels:
        """The reader of ingested frames: images, labels and where these say something."""
        from .pixels import Pixels

        return self._once("pixels", lambda frames: Pixels(*self._pixel_parts(frames)))

    def _pixel_parts(self, frames: pa.Table) -> tuple[Any, ...]:
        """Return what a reader of the frames is made of."""
        records = FrameRecords(frames)
        band = self.recipe.dataset.field_of_interest
        return self.arrays, records, self._cell_areas, self.label_states(), band

    def _cell_areas(self) -> dict[str, dict[int, int]]:
        areas: dict[str, dict[int, int]] = {}
        columns = (self._ingested("cells")[name].to_pylist() for name in ("frame", "label", "area"))
        for frame, label, area in zip(*columns, strict=True):
            areas.setdefault(frame, {})[label] = area
        return areas

    @cached_property
    def truths(self) -> Truths:
        """The labels that are stored with augmented variants."""
        from .truths import Truths

        return Truths(self.arrays, Ledger(self.path / "truths"))

    def view(self, frame: str, tile: int = 0, variant: int = 0) -> ViewData:
        """Return what a view shows; arguments and errors as :meth:`embedding`, but it need not be embedded yet.

        A variant's image is made anew from its parameters; its labels are those stored when it was embedded, and made
        anew before that.
        """
        found = self._find(frame, tile, variant)
        shape, pixels = self.frame_records()[frame].shape, self.pixels
        about: dict[str, Any] = {"view": found.view, "rect": found.rect, "frame_shape": shape}
        about["params"] = json.loads(found.params or "{}")
        if variant == 0:
            names = ("image", "label", "valid")
            return ViewData(**about, **{name: getattr(pixels, name)(frame, found.rect) for name in names})
        from hela_store.augment.render import render
        from hela_store.augment.warp import warp_of

        warp = warp_of(found.params, found.rect, shape)
        label, valid = self.variant_truth(found)
        image = render(pixels.image(frame), [warp], (found.lo, found.hi), self.recipe.dataset.offset)[0]
        return ViewData(**about, image=image, label=label, valid=valid)

    def _find(self, frame: str, tile: int, variant: int) -> ViewRecord:
        return find_view(self.path, self.views_table(), frame, tile, variant)

    def variant_truth(self, view: ViewRecord) -> tuple[LabelArray, BoolArray]:
        """Return the labels of an augmented variant, int32, and where they say something, bool, both (row, col).

        They are those stored when it was embedded. Where the frame's labels changed since ingest, or the variant is not
        embedded yet, the frame's labels are warped as the variant's image was.

        Raises
        ------
        StoreError
            The stored labels, or those of the frame, are damaged.
        """
        from hela_store.augment.warp import warp_of

        if view.frame not in self.label_states() and self._is_committed(view.view):
            return self.truths.read(view.view, view.shape, view.row)
        warp = warp_of(view.params, view.rect, self.frame_records()[view.frame].shape)
        return warp.truth(self.pixels.label(view.frame), self.pixels.valid(view.frame))

    def _is_committed(self, view: str) -> bool:
        return any(self.ledger(key).row(view) is not None for key in self.arrays.embedding_keys())

    def xarray(self, key: str | None = None) -> xr.Dataset:
        """Return the committed embeddings of an encoder key as a lazy, Dask-backed Dataset.

        Returns
        -------
        xarray.Dataset
            ``embedding`` (view, channel, y, x), of an encoder that is cut (view, y, x, channel), one Dask chunk a
            view, in the order of their rows; coordinates
            ``view``, ``frame``, ``tile`` and ``variant`` along ``view``. Views of earlier recipes that were embedded
            under the same key are among them. Cast float16 before summing: its sums overflow.

        Raises
        ------
        StoreError
            Nothing was embedded under this key.
        """
        from .xarrays import embeddings_dataset

        key = key or self.key
        return embeddings_dataset(
            self.path, self.arrays, self.embeddings(key), key, self.committed(key), self.plan_parts()
        )

    def frames(self, sequence: str, group: str | None = None) -> xr.Dataset:
        """Return images and labels of a sequence as a lazy, Dask-backed Dataset.

        Parameters
        ----------
        sequence : str
            Its name, e.g. ``"01"``.
        group : str
            Which array group, where the sequence has frames of several sizes.

        Returns
        -------
        xarray.Dataset
            ``image``, ``label`` (int32, 0 background) and ``valid`` (bool), each (frame, row, col); coordinates
            ``frame`` (ids), ``time`` and ``has_label`` along ``frame``.

        Raises
        ------
        StoreError
            No such sequence, or several groups and none named.
        """
        from .xarrays import frames_dataset

        return frames_dataset(self.path, self.arrays, self.pixels, self.frame_records(), sequence, group)

    # catalog

    def sql(self, query: str, /, **frames: Any) -> duckdb.DuckDBPyRelation:
        """Run a read-only query over the catalog and ``frames``: tables of Arrow, pandas or polars by their names.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Over the result, which is in memory: ``.df()``, ``.fetchall()``, ``.to_arrow_table()``.

        Raises
        ------
        QueryError
            The SQL is wrong, writes, or reaches outside the catalog; a frame is no table, or its name is taken.
        """
        from hela_store.catalog import index as catalog
        from hela_store.catalog.values import relation

        return relation(catalog.query(self.path, query, frames=frames))
