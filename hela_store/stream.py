"""Training batches straight from the store; the encoder is never loaded.

Step ``i`` is a pure function of (seed, i): which view, which cells, which prompts. So the order is the same for any
number of loader workers, and a resumed run goes on with the same next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .errors import SplitError
from .geometry import SAM_INPUT, Rect, holds_whole, view_scale
from .predict import sam_prompts
from .prompts import cell_context
from .random import generator
from .sam.decoder import SamPrompts
from .scoring import blocks_of
from .store import Store
from .training_prompts import draw_training_prompt, kind_of_step
from .types import LabelArray

FINE = 512
"""Truth pixels along each side of a view: 2 SAM input px each, a frame's own pixels in 512-px tiles."""


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """One view and some of its cells.

    Attributes
    ----------
    step : int
    view : str
    embedding : float32, (256, 64, 64)
    prompts : of B cells, SAM input px
    cells : ids of the B cells
    labels : int64, (B,), values of the cells in ``truth``
    truth : int32, (512, 512), the view's labels on a grid of 2 SAM input px
    """

    step: int
    view: str
    embedding: Tensor
    prompts: SamPrompts
    cells: tuple[str, ...]
    labels: Tensor
    truth: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """A committed view with the cells it holds whole."""

    view: str
    row: int
    rect: Rect
    group: str
    group_row: int
    cells: tuple[dict[str, Any], ...]


def training_views(store: Store, split: str = "train") -> list[TrainingView]:
    """Return the committed views of a block that hold at least one whole cell, in plan order.

    Raises
    ------
    SplitError
        There is none.
    StoreError
        Nothing is planned or ingested yet.
    """
    blocks, committed = blocks_of(store), store.committed()
    frames = {row["frame"]: row for row in store.frames_table().to_pylist() if blocks[row["frame"]] == split}
    cells: dict[str, list[dict[str, Any]]] = {frame: [] for frame in frames}
    names = ["cell", "frame", "label", "x0", "y0", "x1", "y1"]
    for cell in store.cells_table().select(names).to_pylist():
        if cell["frame"] in cells:
            cells[cell["frame"]].append(cell)
    table, found = store.views_table(), []
    for row in table.filter(pc.equal(table["variant"], 0)).to_pylist():
        if row["frame"] not in frames or row["view"] not in committed:
            continue
        rect = (row["x0"], row["y0"], row["width"], row["height"])
        inside = [c for c in cells[row["frame"]] if holds_whole((c["x0"], c["y0"], c["x1"], c["y1"]), rect)]
        if inside:
            frame = frames[row["frame"]]
            place = {"group": frame["group"], "group_row": frame["row"]}
            found.append(
                TrainingView(view=row["view"], row=committed[row["view"]], rect=rect, cells=tuple(inside), **place)
            )
    if not found:
        raise SplitError(f"split {split!r} of {store.path} has no embedded view with a whole labelled cell; embed more")
    return found


class TrainingSteps(Dataset[TrainingStep]):
    """Steps ``first .. first + count - 1`` of an endless, shuffled series.

    Parameters
    ----------
    store : its folder is opened again in each loader worker
    prompt : one of :data:`hela_store.types.TRAINING_PROMPTS`
    cells : most cells a step
    seed : of views, cells and prompts
    """

    def __init__(self, store: Store, prompt: str, *, cells: int, seed: int, first: int, count: int) -> None:
        self.path: Path = store.path
        self.key = store.key
        self.views = training_views(store)
        self.prompt, self.cells, self.seed, self.first, self.count = prompt, cells, seed, first, count
        self._store: Store | None = None

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every view comes once."""
        return len(self.views)

    def __getitem__(self, index: int) -> TrainingStep:
        """Return step ``first + index``."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        step = self.first + index
        epoch, place = divmod(step, len(self.views))
        order = generator("views", self.seed, epoch).permutation(len(self.views))
        view = self.views[order[place]]
        chosen = generator("cells", self.seed, epoch, step).permutation(len(view.cells))[: self.cells]
        cells = [view.cells[i] for i in sorted(chosen)]
        if self._store is None:
            self._store = Store.open(self.path)
        arrays = self._store.arrays
        label = arrays.label(view.group, view.group_row)
        embedding = torch.from_numpy(np.asarray(arrays.embedding(self.key, view.row), np.float32))
        return TrainingStep(
            step=step,
            view=view.view,
            embedding=embedding,
            prompts=self._prompts(label, cells, view.rect, (self.seed, epoch, step)),
            cells=tuple(cell["cell"] for cell in cells),
            labels=torch.tensor([cell["label"] for cell in cells]),
            truth=torch.from_numpy(fine_labels(label, view.rect)),
        )

    def _prompts(
        self, label: LabelArray, cells: Sequence[dict[str, Any]], rect: Rect, key: tuple[int, int, int]
    ) -> SamPrompts:
        kind = kind_of_step(self.prompt, generator("kind", *key))
        drawn = []
        for cell in cells:
            context = cell_context(label, cell["label"], cell["cell"], (cell["x0"], cell["y0"], cell["x1"], cell["y1"]))
            drawn.append(draw_training_prompt(generator("train", *key, cell["cell"]), kind, context))
        return sam_prompts(drawn, rect)


def fine_labels(label: LabelArray, rect: Rect) -> npt.NDArray[np.int32]:
    """Return a view's labels on the grid of 2 SAM input px, int32, (512, 512), nearest pixel, 0 in the padding.

    Parameters
    ----------
    label : integer, (row, col), of the frame
    rect : of the view, ``(x0, y0, width, height)`` px, frame
    """
    x0, y0, width, height = rect
    step = SAM_INPUT / FINE / view_scale(rect)
    place = ((np.arange(FINE) + 0.5) * step).astype(int)
    rows, columns = place[place < height], place[place < width]
    out = np.zeros((FINE, FINE), np.int32)
    out[: len(rows), : len(columns)] = label[y0 : y0 + height, x0 : x0 + width][np.ix_(rows, columns)]
    return out
