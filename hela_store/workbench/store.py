"""The store as users of Python open it: everything of the plain store, and arrays that need no joins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError, StoreError
from hela_store.evaluation.sequences import run_labels
from hela_store.images.assemble import assemble
from hela_store.recipe.splits import members
from hela_store.store.store import Store as PlainStore

if TYPE_CHECKING:
    import duckdb
    import numpy.typing as npt
    from torch import Tensor, nn

    from hela_store.vectors.make import CellVectors
    from hela_store.vectors.similar import SimilarCell


class Masks(NamedTuple):
    """The masks of a run in one frame.

    Attributes
    ----------
    labels : ndarray of int32, shape (row, col)
        The label image; 0 is background.
    table : pyarrow.Table
        One row per mask: ``label`` is its value in the label image, ``id`` its cell or detection, ``score`` the IoU
        that the decoder predicted or the detector's score, and ``area`` its pixels in the label image. The area is 0
        where other masks cover it.
    """

    labels: npt.NDArray[np.int32]
    table: pa.Table


class Store(PlainStore):
    """A store on disk, with frames, labels and masks as arrays.

    Attributes
    ----------
    path : Path
        Folder of the store.
    recipe : Recipe
        Settings from ``store.toml``.
    """

    def image(self, frame: str) -> npt.NDArray[Any]:
        """Return the image of a frame as it was acquired.

        Parameters
        ----------
        frame : str
            Id of the frame, such as ``"01/t012"``.

        Returns
        -------
        ndarray, shape (row, col)
            The pixels in the type in which they were acquired.

        Raises
        ------
        StoreError
            The store has no such frame, or its image is damaged.
        """
        self._check_frame(frame)
        return self.pixels.image(frame)

    def labels(self, frame: str) -> npt.NDArray[np.int32]:
        """Return the ground truth of a frame as a label image.

        Parameters
        ----------
        frame : str
            Id of the frame, such as ``"01/t012"``.

        Returns
        -------
        ndarray of int32, shape (row, col)
            The label of each pixel; 0 is background.

        Raises
        ------
        StoreError
            The store has no such frame, the frame has no labels, or they are damaged.
        """
        self._check_frame(frame)
        if not self.frame_records()[frame].has_label:
            raise StoreError(f"frame {frame} has no labels; read the masks of a run with store.masks(run, {frame!r})")
        return self.pixels.label(frame).astype(np.int32, copy=False)

    def masks(self, run: str, frame: str, prompt: str | None = None, prompt_seed: int | None = None) -> Masks:
        """Return the masks of a run in one frame, as a label image and a table.

        Masks of an evaluation have the labels of their cells. Masks of detections are numbered from 1.

        Parameters
        ----------
        run : str
            Id of the run, its beginning, or ``"latest"``.
        frame : str
            Id of the frame, such as ``"01/t012"``.
        prompt : str, optional
            Kind of prompt, such as ``"box"``. It is needed where an evaluation has several.
        prompt_seed : int, optional
            Seed of the prompts; the smallest by default.

        Returns
        -------
        Masks
            ``labels`` and ``table``.

        Raises
        ------
        RunError
            The run has no masks, none of this frame, several kinds of prompt, or not the one asked for.
        StoreError
            The store has no such frame.
        """
        self._check_frame(frame)
        found = run_labels(self, run, prompt, prompt_seed)
        if frame not in found.answers:
            known = ", ".join(list(found.answers)[:3]) or "none"
            raise RunError(f"run {found.info.id} has no masks of frame {frame}; it has masks of frames such as {known}")
        answers = found.answers[frame]
        labels = assemble(answers, self.frame_records()[frame].shape)
        numbers = np.arange(len(answers) + 1, dtype=np.int32)
        if found.prompt is not None:
            numbers[1:] = [int(answer.id.rpartition("#")[2]) for answer in answers]
        areas = np.bincount(labels.ravel(), minlength=len(numbers))
        columns = {
            "label": pa.array(numbers[1:], pa.int32()),
            "id": pa.array([str(answer.id) for answer in answers], pa.string()),
            "score": pa.array([answer.score for answer in answers], pa.float64()),
            "area": pa.array(areas[1:], pa.int64()),
        }
        return Masks(numbers[labels], pa.table(columns))

    def cells(self, split: str = "all") -> duckdb.DuckDBPyRelation:
        """Return the labelled cells with their properties.

        Parameters
        ----------
        split : str, default: "all"
            Which frames: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.

        Returns
        -------
        duckdb.DuckDBPyRelation
            One row per cell, in memory: ``.df()``, ``.filter("area > 100")``, ``.to_arrow_table()``.

        Raises
        ------
        SplitError
            The split does not exist, or holds no frame.
        """
        import duckdb

        frames = pa.array(members(self.blocks(), split), pa.string())
        table = self.cells_table()
        return duckdb.connect().from_arrow(table.filter(pc.is_in(table["frame"], value_set=frames)))

    def cell_vectors(
        self, run: str | None = None, split: str | None = None, *, progress: Progress = silent
    ) -> CellVectors:
        """Return a vector of every labelled cell; as :func:`hela_store.vectors.make.cell_vectors`.

        Afterwards ``store.sql("FROM cell_vectors")`` has them, too, for DuckDB's functions of arrays.
        """
        from hela_store.vectors.make import cell_vectors

        return cell_vectors(self, run, split, progress=progress)

    def similar(self, cell: str, limit: int = 20, run: str | None = None) -> list[SimilarCell]:
        """Return the labelled cells most like one; as :func:`hela_store.vectors.similar.similar`."""
        from hela_store.vectors.similar import similar

        return similar(self, cell, limit, run)

    def _check_frame(self, frame: str) -> None:
        known = self.frame_records()
        if frame not in known:
            near = difflib.get_close_matches(str(frame), list(known), n=1) or list(known)[:1]
            hint = f"; expected an id such as {near[0]}" if near else "; run `hela-store embed` first"
            raise StoreError(f"the store has no frame {frame!r}{hint}")

    def add_run(
        self,
        decoder: nn.Module | Mapping[str, Tensor] | Path | str,
        *,
        name: str,
        config: Mapping[str, Any] | None = None,
        parent: str | None = None,
        train: Sequence[str] | None = None,
    ) -> str:
        """Publish a decoder from any training loop as a run; as :func:`hela_store.workbench.own_runs.add_run`."""
        from .own_runs import add_run

        return add_run(self, decoder, name=name, config=config, parent=parent, train=train)

    def add_metrics(self, run: str, table: Any) -> str:
        """Publish own per-cell columns of a run; as :func:`hela_store.workbench.own_metrics.add_metrics`."""
        from .own_metrics import add_metrics

        return add_metrics(self, run, table)
