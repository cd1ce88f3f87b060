"""Make masks of validation cells and compare the answers with the truth: the gate is calibrated on these.

Each cell is asked for with a mask that is drawn from the error model, with a nearly perfect or a perfect one in turn,
and with the tool's own mask, where it made one of that frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.datasets.tool_masks import ToolMasks
from hela_store.embedding.reader import ViewReader
from hela_store.errors import SplitError
from hela_store.evaluation.checkpoint import Checkpoint
from hela_store.evaluation.frames import FrameCells, Tile, context_of, frame_cells, labelled_frames
from hela_store.evaluation.leaks import check_untouched
from hela_store.evaluation.tracks import cell_tracks
from hela_store.prompts.context import CellContext
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.prompts.error_model import ErrorModel
from hela_store.prompts.table import match_masks
from hela_store.sam.decoder import SamDecoder
from hela_store.store.store import Store

from .answers import Frame, Piece, ask, pieces_of, slope_of
from .gate import Judged

CELLS = 300
"""Validation cells that are asked for at most, spread over the block."""
NEARLY = ErrorModel(
    offset=(-0.04, 0.04), noise=0.02, shift=0.02, merge=0.0, cut=0.0, bins=((0.88, 0.92), (0.92, 0.96), (0.96, 0.99))
)
"""Masks as good as those of a good tool: the gate has to know when there is nothing to gain."""


@dataclass(frozen=True, kw_only=True)
class Mender:
    """A decoder that is asked for masks of stored frames.

    Attributes
    ----------
    checkpoint : Checkpoint
    decoder : SamDecoder
    form : str
        ``"mask"``, ``"box"`` or ``"both"``.
    """

    checkpoint: Checkpoint
    decoder: SamDecoder
    form: str

    @property
    def store(self) -> Store:
        """The store as the decoder reads it."""
        return self.checkpoint.store

    def frame(self, name: str, shape: tuple[int, int], tiles: Sequence[Tile]) -> Frame:
        """Return a stored frame in which masks are asked for."""
        read, device = ViewReader(self.store), next(self.decoder.parameters()).device
        return Frame(
            shape=shape,
            tiles=[tile.rect for tile in tiles],
            embedding=lambda number: read(tiles[number].row).to(device),
            slope=slope_of(self.store.pixels.image(name)),
        )


def judge(mender: Mender, model: ErrorModel, masks: ToolMasks, progress: Progress = silent) -> list[Judged]:
    """Ask for validation cells and compare the answers with the truth.

    Raises
    ------
    SplitError
        The validation block has no labelled cell.
    StoreError
        It is not embedded.
    RunError
        The decoder was trained on it.
    """
    store = mender.store
    try:
        frames = labelled_frames(store, "val")
    except SplitError as error:
        raise SplitError(
            f"{error}; mending needs labelled validation frames, on which it learns when to change"
        ) from None
    check_untouched(store, mender.checkpoint.run, frames, "val")
    parts = list(frame_cells(store, frames))
    share = min(1.0, CELLS / sum(len(part.cells) for part in parts))
    tracks = cell_tracks(store, frames).of
    found: list[Judged] = []
    for part in progress(parts, total=len(parts), what="calibrate the gate"):
        kept = [cell for cell in part.cells if generator("validation", cell.cell).random() < share]
        asked = list(_asked(replace(part, cells=kept), model, masks))
        frame = mender.frame(part.frame, part.shape, part.tiles)
        answers = ask(
            mender.decoder,
            frame,
            [mask for _, mask, _ in asked],
            form=mender.form,
            window=mender.checkpoint.window,
            rests=False,
        )
        for (context, mask, own), answer in zip(asked, answers, strict=True):
            truth = Piece(mask=context.mask, origin=context.origin)
            ious = {"before": mask.iou(truth), "after": answer.new.iou(truth)}
            found.append(Judged(answer=answer, **ious, unit=tracks[context.cell], own=own))
    return found


def _asked(part: FrameCells, model: ErrorModel, masks: ToolMasks) -> Iterator[tuple[CellContext, Piece, bool]]:
    """Yield a cell, a mask of it, and whether the mask is the tool's."""
    label = masks.read(part.frame) if part.frame in masks.files else None
    pieces = {} if label is None else pieces_of(label)
    own = {} if label is None else match_masks(label, part.label)
    for number, cell in enumerate(part.cells):
        context = context_of(part, cell)
        yield context, _drawn(context, model, "model"), False
        if number % 2:
            yield context, _drawn(context, NEARLY, "nearly"), False
        else:
            yield context, Piece(mask=context.mask, origin=context.origin), False
        if cell.label in own:
            yield context, pieces[own[cell.label]], True


def _drawn(context: CellContext, model: ErrorModel, what: str) -> Piece:
    drawn = draw_degraded_mask(generator("mend", what, context.cell), context, model=model)
    return Piece(mask=np.asarray(drawn.mask), origin=drawn.origin)
