"""The tables that a store holds: frames, cells and planned views, at one version of the labels.

Nothing here imports torch, dask or zarr.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hela_store.base.manifest import Sums
from hela_store.base.parquet import parse_parquet
from hela_store.base.segments import LABELS
from hela_store.base.text import first_line
from hela_store.errors import EMBED_FIRST, StoreError
from hela_store.recipe.recipe import Recipe
from hela_store.recipe.splits import Block, assign

from .groups import table_groups
from .label_changes import FrameState, LabelLogFiles, changed_cells, changed_frames, frame_states
from .plan_names import plan_names
from .records import FrameRecord, FrameRecords
from .tables import checked_frames, in_time_order

READERS = 8
VERSIONS_KEPT = 4
"""Versions of the labels for which what is made of them is kept in memory."""
WAY_OUT = "restore it, or make a new store"
T = TypeVar("T")


class StoredTables:
    """The tables of a store.

    Attributes
    ----------
    path : Path
        Folder of the store.
    recipe : Recipe
    labels_version : int, optional
        Which version of the labels it reads; by default the latest when labels are first read.
    """

    def __init__(self, path: Path, recipe: Recipe, labels_version: int | None = None) -> None:
        self.path = path
        self.recipe = recipe
        self._labels_version = labels_version
        self._others: dict[int, Self] = {}
        self._files: dict[Path, pa.Table] = {}
        self._tables: dict[tuple[Path, ...], pa.Table] = {}
        self._derived: dict[str, tuple[pa.Table, Any]] = {}

    @cached_property
    def sums(self) -> Sums:
        """The sums of the files in ``ingest/`` and ``plan/``."""
        return Sums(self.path)

    def seal(self) -> None:
        """Check the files in ``ingest/`` and ``plan/``; write down the sums that a killed process left out.

        Whoever calls holds the store's embed lock. Raises StoreError where a file is damaged.
        """
        paths = [path for folder in ("ingest", "plan") for path in (self.path / folder).glob("*.parquet")]
        without = self.sums.without(paths)
        for path in paths:
            if path in without:
                self._table([path])
            elif path not in self._files:  # those were compared when they were read
                self.sums.read(path, way_out=WAY_OUT)
        self.sums.add(without)

    def has_all_plans(self) -> bool:
        """Return whether no plan is lost that was written; False in a store without sums, which cannot tell."""
        return bool(self.sums.load()) and not self.sums.lost("plan")

    def forget_lost_plans(self) -> None:
        """Drop the sums of plans that are gone: what was in them is planned again, maybe under another name."""
        self.sums.add((), forget="plan")

    # versions of the labels

    @cached_property
    def label_log(self) -> LabelLogFiles:
        """The files in which versions of the labels are written down."""
        return LabelLogFiles(self.path)

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
        other = self._others.get(version)
        if other is None or other._labels_version != version:  # it may have followed its log since
            kept = [number for number in self._others if number]  # as ingested is asked for all the time
            if len(kept) >= VERSIONS_KEPT:
                del self._others[kept[0]]
            other = self._others[version] = copy.copy(self)
            other._labels_version, other._derived = version, {}
        return other

    def follow_labels(self, version: int) -> None:
        """Read a version that was just written, unless this store reads an earlier one than the one before it."""
        if self.labels_version == version - 1:
            self._labels_version, self._derived = version, {}

    def label_states(self) -> dict[str, FrameState]:
        """Return the frames whose labels are not as ingested, by id; StoreError where the log is damaged."""
        if not self.labels_version:
            return {}

        def states(frames: pa.Table) -> dict[str, FrameState]:
            found = frame_states(self.label_log.versions(self.labels_version))
            if unknown := sorted(found.keys() - set(frames["frame"].to_pylist())):
                raise StoreError(
                    f"{self.path / LABELS} has labels of frame {unknown[0]}, which was never ingested; {WAY_OUT}"
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

    def known_frames(self) -> Mapping[str, FrameRecord]:
        """Return :meth:`frame_records`, empty where nothing was ingested yet."""
        return self.frame_records() if any((self.path / "ingest").glob("frames-*.parquet")) else {}

    def cells_table(self) -> pa.Table:
        """Return all labelled cells; raises as :meth:`frames_table`."""
        cells = self._ingested("cells")
        states = self.label_states()
        if not states:
            return cells
        return self._once("cells_table", lambda frames: changed_cells(cells, states, frames["frame"].to_pylist()))

    def frame_records(self) -> Mapping[str, FrameRecord]:
        """Return all ingested frames by id, in the order of :meth:`frames_table`, which raises the same errors."""
        return self._once("frame_records", lambda frames: FrameRecords(self.frames_table()))

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
        folder = self.path / "ingest"
        try:
            # by os, which is five times as fast as pathlib's glob: every question about frames begins here
            names = sorted(os.listdir(folder))
        except OSError:
            names = []
        # a segment's frames are written last: cells without them are leftovers of an interrupted ingest
        segments = [name[len("frames") :] for name in names if name.startswith("frames-") and name.endswith(".parquet")]
        if not segments:
            raise StoreError(f"nothing was ingested into {self.path} yet; {EMBED_FIRST}")
        return [folder / f"{what}{segment}" for segment in segments]

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
