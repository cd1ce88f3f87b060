"""A store: recipe, arrays, plan, ledger and catalog in one folder, opened by its path.

Opening reads ``store.toml`` and nothing else; neither torch nor dask nor zarr is imported before an array is asked for.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hela_store.base.aliases import BoolArray, FloatArray, LabelArray
from hela_store.base.manifest import Sums
from hela_store.base.names import inside, refuse_links
from hela_store.base.parquet import parse_parquet
from hela_store.base.text import first_line
from hela_store.errors import EMBED_FIRST, StoreError
from hela_store.recipe.recipe import RECIPE_FILE, UNTRAINED, Recipe, encoder_key, load_recipe
from hela_store.recipe.splits import Block, assign

from .find_view import find_view
from .groups import table_groups
from .label_changes import FOLDER, FrameState, LabelLogFiles, changed_cells, changed_frames, frame_states
from .ledger import Entry, Ledger
from .plan_names import plan_names
from .records import FrameRecord, ViewRecord
from .tables import checked_frames, in_time_order
from .view_data import ViewData

if TYPE_CHECKING:
    import duckdb
    import xarray as xr

    from .arrays import Arrays
    from .embeddings import Embeddings
    from .pixels import Pixels
    from .truths import Truths

LINKLESS = {
    "arrays.zarr": 3,
    "runs": 2,
    "encoders": 2,
    "ledger": 1,
    "truths": 1,
    "ingest": 1,
    FOLDER: 1,
    "plan": 1,
    "cache": 0,
    "data.json": 0,
    "sums.json": 0,
}
"""What of a store must not be a symbolic link, and down to which depth, so that nothing is written beyond the store."""
READERS = 8
WAY_OUT = "restore it, or make a new store"
T = TypeVar("T")


class Store:
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
        self.path = path
        self.recipe = recipe
        self._labels_version = labels_version
        self._ledgers: dict[str, Ledger] = {}
        self._files: dict[Path, pa.Table] = {}
        self._tables: dict[tuple[Path, ...], pa.Table] = {}
        self._derived: dict[str, tuple[pa.Table, Any]] = {}
        self._embeddings: dict[str, Embeddings] = {}

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
        return Arrays(open_storage(self.path / "arrays.zarr", where.data, where.cache_mib))

    def ledger(self, key: str | None = None) -> Ledger:
        """Return the ledger of an encoder key (default: the recipe's)."""
        key = key or self.key
        return self._ledgers.setdefault(key, Ledger(inside(self.path / "ledger", key, what="the encoder key")))

    def encoder_folder(self, key: str | None = None) -> Path:
        """Return where the decoder and the record of an encoder key are (default: the recipe's)."""
        return inside(self.path / "encoders", key or self.key, what="the encoder key")

    @cached_property
    def sums(self) -> Sums:
        """The sums of the files in ``ingest/`` and ``plan/``."""
        return Sums(self.path)

    def seal(self) -> None:
        """Check the files in ``ingest/`` and ``plan/``; write down the sums that a killed process left out.

        Whoever calls holds the store's embed lock. Raises StoreError where a file is damaged.
        """
        paths = [path for folder in ("ingest", "plan") for path in (self.path / folder).glob("*.parquet")]
        for path in paths:
            self._table([path])
        # a plan that is gone is made again, maybe under another name
        self.sums.add(self.sums.without(paths), forget="plan")

    # versions of the labels

    @cached_property
    def label_log(self) -> LabelLogFiles:
        """The files in which versions of the labels are written down."""
        return LabelLogFiles(self.path / FOLDER)

    @property
    def labels_version(self) -> int:
        """Version of the labels that this store reads; it stays the same while others write new ones."""
        if self._labels_version is None:
            self._labels_version = self.label_log.latest
        return self._labels_version

    def at_labels(self, version: int | None = None) -> Self:
        """Return the store with another version of the labels: 0 as ingested, None the latest there is now.

        Raises
        ------
        StoreError
            There is no such version, or the log is damaged.
        """
        version = len(self.label_log.versions(version))
        if version == self._labels_version:
            return self
        other = copy.copy(self)
        other._labels_version, other._derived = version, {}
        return other

    def label_states(self) -> dict[str, FrameState]:
        """Return the frames whose labels are not as ingested, by id; StoreError where the log is damaged."""
        if not self.labels_version:
            return {}

        def states(frames: pa.Table) -> dict[str, FrameState]:
            found = frame_states(self.label_log.versions(self.labels_version))
            if unknown := sorted(found.keys() - set(frames["frame"].to_pylist())):
                raise StoreError(
                    f"{self.path / FOLDER} has labels of frame {unknown[0]}, which was never ingested; {WAY_OUT}"
                )
            return found

        return self._once("label_states", states)

    # tables

    def frames_table(self) -> pa.Table:
        """Return all ingested frames, each sequence in the order of time; columns as in ``stores/README.md``.

        Raises
        ------
        StoreError
            Nothing was ingested yet, or a file is damaged.
        """
        return self._once("frames_table", lambda frames: changed_frames(in_time_order(frames), self.label_states()))

    def frames_as_ingested(self) -> pa.Table:
        """Return the same rows in the order of their ingest, which plans keep; raises as :meth:`frames_table`."""
        return self._ingested("frames")

    def known_frames(self) -> dict[str, FrameRecord]:
        """Return :meth:`frame_records`, empty where nothing was ingested yet."""
        return self.frame_records() if any((self.path / "ingest").glob("frames-*.parquet")) else {}

    def cells_table(self) -> pa.Table:
        """Return all labelled cells; raises as :meth:`frames_table`."""
        cells = self._ingested("cells")
        states = self.label_states()
        if not states:
            return cells
        return self._once("cells_table", lambda frames: changed_cells(cells, states, frames["frame"].to_pylist()))

    def frame_records(self) -> dict[str, FrameRecord]:
        """Return all ingested frames by id, in the order of :meth:`frames_table`, which raises the same errors."""

        def by_id(frames: pa.Table) -> dict[str, FrameRecord]:
            found = changed_frames(in_time_order(frames), self.label_states())
            return {record.frame: record for record in FrameRecord.of(found)}

        return self._once("frame_records", by_id)

    def blocks(self) -> dict[str, Block]:
        """Return the block of every ingested frame by id.

        Raises
        ------
        SplitError
            As in :func:`hela_store.recipe.splits.assign`.
        StoreError
            As :meth:`frames_table`.
        """

        def assigned(frames: pa.Table) -> dict[str, Block]:
            columns = (in_time_order(frames)[name].to_pylist() for name in ("frame", "sequence", "time"))
            return assign(self.recipe.split, [*zip(*columns, strict=True)], self.recipe.dataset.stills, self.groups())

        return self._once("blocks", assigned)

    def groups(self) -> dict[str, str] | None:
        """Return the group of each still by frame id; None where stills are not grouped."""
        return self._once("groups", lambda frames: table_groups(self.recipe, frames))

    def _once(self, name: str, make: Callable[[pa.Table], T]) -> T:
        """Return what is made of the frames as they were ingested; made again only when frames were added."""
        frames = self.frames_as_ingested()
        found = self._derived.get(name)
        if found is None or found[0] is not frames:
            found = self._derived[name] = (frames, make(frames))
        return cast(T, found[1])

    def cell_count(self) -> int:
        """Return how many labelled cells there are, if it can from heads of files; raises as :meth:`frames_table`."""
        if self.label_states():
            return self.cells_table().num_rows
        with ThreadPoolExecutor(READERS) as pool:
            return sum(pool.map(self._rows_of, self._ingest_paths("cells")))

    def _rows_of(self, path: Path) -> int:
        data = self.sums.read(path, way_out=WAY_OUT)
        try:
            return int(pq.read_metadata(pa.BufferReader(data)).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path} is damaged: {first_line(error)}; {WAY_OUT}") from None

    def views_table(self) -> pa.Table:
        """Return the views of the current recipe over all ingested frames, in plan order.

        Raises
        ------
        StoreError
            Not planned yet: nothing was ingested, or the recipe changed since.
        """
        files = self.plan_files(self._plan_name())
        if not files:
            raise StoreError(f"no plan in {self.path} for the current recipe and frames; {EMBED_FIRST}")
        return self._table(files)

    def plan_path(self) -> Path:
        """Return where the plan of the current recipe is, with its last rows, or will be, with all of them.

        Raises as :meth:`frames_table`.
        """
        name = self._plan_name()
        return (self.plan_files(name) or [self.path / "plan" / f"{name}.parquet"])[-1]

    def plan_names(self) -> dict[int, str]:
        """Return :func:`plan_names` of the recipe and all frames; raises as :meth:`frames_table`."""
        return self._once("plan_names", lambda frames: plan_names(self.recipe, frames))

    def plan_files(self, name: str) -> list[Path]:
        """Return the files whose rows, one after the other, are the plan of this name; none where one is not there."""
        # of a plan that is there whole and as an addition, the whole one comes last
        there = {path.name.partition(".")[0]: path for path in self._plan_paths()}
        files: list[Path] = []
        name = name.partition(".")[0]
        while name in there:
            files.insert(0, there[name])
            _, _, name = files[0].stem.partition(".")
            if not name:
                return files
        return []

    def all_plans(self) -> Iterator[pa.Table]:
        """Yield the plans of this and of earlier recipes, each with the rows of those it adds to."""
        for path in self._plan_paths():
            yield self._table(self.plan_files(path.stem) or [path])

    def plan_parts(self) -> Iterator[pa.Table]:
        """Yield what each file of ``plan/`` holds: the rows of all plans, of one that adds to another only its own."""
        for path in self._plan_paths():
            yield self.read_plan(path)

    def read_plan(self, path: Path) -> pa.Table:
        """Return what one file of ``plan/`` holds; StoreError where it is damaged."""
        return self._table([path])

    def _plan_name(self) -> str:
        return list(self.plan_names().values())[-1]

    def _plan_paths(self) -> list[Path]:
        return sorted((self.path / "plan").glob("*.parquet"))

    def _ingested(self, what: str) -> pa.Table:
        paths = self._ingest_paths(what)
        if tuple(paths) not in self._tables and (lost := self.sums.lost("ingest")):
            raise StoreError(f"{lost[0]} is not there, though it was written; {WAY_OUT}")
        return self._table(paths)

    def _ingest_paths(self, what: str) -> list[Path]:
        frames = sorted((self.path / "ingest").glob("frames-*.parquet"))
        if not frames:
            raise StoreError(f"nothing was ingested into {self.path} yet; {EMBED_FIRST}")
        # a segment's frames are written last: cells without them are leftovers of an interrupted ingest
        return [path.with_name(path.name.replace("frames-", f"{what}-", 1)) for path in frames]

    def _table(self, paths: list[Path]) -> pa.Table:
        found = self._tables.get(tuple(paths))
        if found is None:
            new = [path for path in paths if path not in self._files]
            with ThreadPoolExecutor(READERS) as pool:
                self._files.update(zip(new, pool.map(self._read_file, new), strict=True))
            found = self._tables[tuple(paths)] = pa.concat_tables(self._files[path] for path in paths)
        return found

    def _read_file(self, path: Path) -> pa.Table:
        table = parse_parquet(path, self.sums.read(path, way_out=WAY_OUT), way_out=WAY_OUT)
        return checked_frames(path, table) if path.name.startswith("frames-") else table

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
        self.truths.ledger.commit(truths)
        self.ledger().commit(entries)

    @property
    def pixels(self) -> Pixels:
        """The reader of ingested frames: images, labels and where these say something."""
        from .pixels import Pixels

        return self._once("pixels", lambda frames: Pixels(*self._pixel_parts(frames)))

    def _pixel_parts(self, frames: pa.Table) -> tuple[Any, ...]:
        """Return what a reader of the frames is made of."""
        records = {record.frame: record for record in FrameRecord.of(frames)}
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
        import duckdb

        from hela_store.catalog import index as catalog

        return duckdb.connect().from_arrow(catalog.query(self.path, query, frames=frames))
