"""Training batches straight from the store; no encoder is loaded here.

Step ``i`` is a pure function of (seed, i): which view, which cells, which prompts. So the order is the same for any
number of loader workers, and a resumed run goes on with the same next batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hela_store.augment.labels import view_cells
from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.cores import usable_cores
from hela_store.base.rng import generator
from hela_store.embedding.reader import ViewReader, embed_command, readable_views
from hela_store.errors import RecipeError, SplitError
from hela_store.evaluation.frames import need_labels
from hela_store.images.geometry import SAM_INPUT, Rect, holds_whole, view_scale
from hela_store.prompts.draw import cell_context
from hela_store.prompts.error_model import GENERIC, ErrorModel
from hela_store.prompts.training import draw_training_prompt, kind_of_step
from hela_store.sam.decoder import SamPrompts
from hela_store.sam.predict import sam_prompts
from hela_store.store.labelled import opener
from hela_store.store.records import CellBox, ViewRecord, by_frame
from hela_store.store.store import Store

CUDA_WORKERS = 4
"""Most loader processes for a CUDA device where nobody asks for a number."""
FINE = 512
"""Truth pixels along each side of a view: 2 SAM input px each, a frame's own pixels in 512-px tiles."""


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """One view and some of its cells.

    Attributes
    ----------
    step : int
    view : str
    embedding : as stored, float16 or float32, (256, 64, 64); of an encoder that is cut what its blocks behind the cut
        take, see :class:`hela_store.embedding.reader.ViewReader`
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
    """A view that can be read, with the cells it holds whole.

    Attributes
    ----------
    view : id
    row : in the embeddings array
    rect : ``(x0, y0, width, height)`` px, frame; of an augmented variant ``(0, 0, width, height)`` px, view
    frame : id
    cells : px, frame, of a variant px, view
    planned : how it was planned
    variant : 0 as acquired
    """

    view: str
    row: int
    rect: Rect
    frame: str
    cells: tuple[CellBox, ...]
    planned: ViewRecord
    variant: int = 0

    def label(self, store: Store) -> LabelArray:
        """Return the labels in which :attr:`rect` and the boxes lie: the frame's, or those of the variant."""
        return self.truth(store)[0] if self.variant else store.pixels.label(self.frame)

    def truth(self, store: Store) -> tuple[LabelArray, BoolArray]:
        """Return the labels and where they say something; as :meth:`label`."""
        if self.variant:
            return store.variant_truth(self.planned)
        return store.pixels.label(self.frame), store.pixels.valid(self.frame)


def stored_variants(store: Store, split: str = "train") -> int:
    """Return the highest variant of which a view of the block is committed; 0 where only views as acquired are."""
    blocks, committed, views = store.blocks(), readable_views(store), store.views_table()
    columns = (views[name].to_pylist() for name in ("view", "frame", "variant"))
    there = (n for view, frame, n in zip(*columns, strict=True) if view in committed and blocks[frame] == split)
    return max(there, default=0)


def training_variants(store: Store, asked: int | None) -> int:
    """Return how many variants of every view train: so many as asked for, of None all that are stored.

    Raises
    ------
    RecipeError
        More are asked for than are stored.
    """
    stored = stored_variants(store)
    if (asked or 0) > stored:
        raise RecipeError(
            f"variants is {asked}, the training views have {stored}; raise augment.variants in store.toml "
            "and run `hela-store embed`"
        )
    return stored if asked is None else asked


def training_views(store: Store, split: str = "train", variants: int = 0) -> list[TrainingView]:
    """Return the committed views of a block that hold at least one whole cell, in plan order.

    Parameters
    ----------
    store : Store
    split : str
    variants : int
        Variants 1 to this of every view, too, with the cells that their stored labels have.

    Raises
    ------
    SplitError
        There is none.
    StoreError
        Nothing is planned or ingested yet.
    """
    blocks, committed = store.blocks(), readable_views(store)
    frames = [frame for frame in store.frame_records() if blocks[frame] == split]
    cells = by_frame(CellBox, store.cells_table(), frames)
    table, found = store.views_table(), []
    for view in ViewRecord.of(table.filter(pc.less_equal(table["variant"], variants))):
        if not cells.get(view.frame) or view.view not in committed:
            continue
        if view.variant:
            rect, inside = _of_variant(store, view)
        else:
            rect, inside = view.rect, [cell for cell in cells[view.frame] if holds_whole(cell.box, view.rect)]
        if inside:
            found.append(
                TrainingView(
                    view=view.view,
                    row=committed[view.view],
                    rect=rect,
                    cells=tuple(inside),
                    frame=view.frame,
                    planned=view,
                    variant=view.variant,
                )
            )
    if not found:
        need_labels(store)
        raise SplitError(
            f"split {split!r} of {store.path} has no embedded view with a whole labelled cell; run "
            f"`{embed_command(store)}`"
        )
    return found


def _of_variant(store: Store, view: ViewRecord) -> tuple[Rect, list[CellBox]]:
    """Return a variant's rectangle and cells, in its own px."""
    cells = view_cells(store.variant_truth(view)[0])
    places = [{name: cell[name] for name in ("label", "x0", "y0", "x1", "y1")} for cell in cells]
    found = [CellBox(cell=f"{view.frame}#{place['label']}", frame=view.frame, **place) for place in places]
    return (0, 0, view.width, view.height), found


def loader_workers(asked: int | None, device: torch.device, start_method: str | None) -> int:
    """Return how many loader processes prepare steps ahead, as asked.

    Of None up to four with CUDA, one for another GPU or a bucket, else none: a step on the CPU takes every core,
    and a process beside it costs it more than the few ms that a step takes to read.
    """
    if asked is not None:
        return asked
    if device.type == "cuda":
        return max(1, min(CUDA_WORKERS, usable_cores() - 1))
    return 0 if device.type == "cpu" and start_method is None else 1


class TrainingSteps(Dataset[TrainingStep]):
    """Steps ``first .. first + count - 1`` of an endless, shuffled series.

    Parameters
    ----------
    store : opened again in each loader worker
    prompt : one of :data:`hela_store.prompts.kinds.TRAINING_PROMPTS`
    cells : most cells a step
    seed : of views, cells and prompts
    variants : augmented variants 1 to this stream beside the views as acquired

    Attributes
    ----------
    errors : ErrorModel
        How mask prompts differ from the truth; may be set before the first step is taken.
    """

    def __init__(
        self, store: Store, prompt: str, *, cells: int, seed: int, first: int, count: int, variants: int = 0
    ) -> None:
        self.open = opener(store)
        self.views = training_views(store, variants=variants)
        self.prompt, self.cells, self.seed, self.first, self.count = prompt, cells, seed, first, count
        self.errors: ErrorModel = GENERIC
        self._opened: tuple[Store, ViewReader] | None = None
        self.start_method = store.arrays.start_method

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def only(self, cells: Collection[str]) -> Self:
        """Let only these cells give loss, and leave out views that hold none of them; return the same steps."""
        wanted = frozenset(cells)
        kept = [replace(view, cells=tuple(cell for cell in view.cells if cell.cell in wanted)) for view in self.views]
        self.views = [view for view in kept if view.cells]
        return self

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
        if self._opened is None:
            store = self.open()
            self._opened = (store, ViewReader(store))
        label = view.label(self._opened[0])
        return TrainingStep(
            step=step,
            view=view.view,
            embedding=self._opened[1](view.row),
            prompts=self._prompts(label, cells, view.rect, (self.seed, epoch, step)),
            cells=tuple(cell.cell for cell in cells),
            labels=torch.tensor([cell.label for cell in cells]),
            truth=torch.from_numpy(fine_labels(label, view.rect)),
        )

    def _prompts(
        self, label: LabelArray, cells: Sequence[CellBox], rect: Rect, key: tuple[int, int, int]
    ) -> SamPrompts:
        kind = kind_of_step(self.prompt, generator("kind", *key))
        drawn = []
        for cell in cells:
            context = cell_context(label, cell.label, cell.cell, cell.box)
            drawn.append(draw_training_prompt(generator("train", *key, cell.cell), kind, context, self.errors))
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
    # two passes along whole rows take a third of the time of np.ix_
    out[: len(rows), : len(columns)] = label[y0 : y0 + height, x0 : x0 + width].take(rows, 0).take(columns, 1)
    return out
