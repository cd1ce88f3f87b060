"""Controls: prompts are decoded with an embedding in which the cells are elsewhere, or nowhere.

What a score keeps under a control comes from the prompt, not from the image. The next frames of a time-lapse are no
control, because most nuclei moved by less than their radius. The positions that the decoder adds to an embedding are
its own: no control moves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.embedding.reader import ViewReader, embed_command
from hela_store.errors import RunError, SplitError, StoreError
from hela_store.images.geometry import EMBEDDING_POSITIONS, Rect
from hela_store.runs.folder import RunInfo
from hela_store.store.store import Store

from .frames import FrameCells, frame_cells, frame_tiles

Swap = Callable[[Tensor, Rect], Tensor]
"""Returns what is decoded in place of the embedding, (256, 64, 64), of the view with this rectangle."""
BLIND_FILE = "blind.safetensors"
"""The vector that an image-blind decoder was trained with, in its run."""


def turned(embedding: Tensor, rect: Rect) -> Tensor:
    """Turn an embedding by 180 degrees.

    Parameters
    ----------
    embedding : Tensor of shape (256, 64, 64)
    rect : tuple of int
        ``(x0, y0, width, height)`` of the view in px. The side that the view does not fill is padding and stays.
    """
    _, _, width, height = rect
    rows, columns = (math.ceil(EMBEDDING_POSITIONS * side / max(width, height)) for side in (height, width))
    found = embedding.clone()
    found[:, :rows, :columns] = embedding[:, :rows, :columns].flip(1, 2)
    return found


def mean_vector(store: Store, frames: Sequence[str]) -> Tensor:
    """Return the mean over all positions and views of frames: float32, (256,).

    A mean over views alone would keep a shadow of cells that hardly move.
    """
    read = ViewReader(store)
    rows = [tile.row for tiles in frame_tiles(store, frames).values() for tile in tiles]
    if not rows:
        raise StoreError(f"no view of these frames is embedded yet; run `{embed_command(store)}`")
    return torch.stack([read(row).float().mean((1, 2)) for row in rows]).mean(0)


def save_vector(run: Path, vector: Tensor) -> None:
    """Write the vector of an image-blind decoder into the folder of its run."""
    write_atomic(run / BLIND_FILE, safetensors_bytes({"mean": vector.cpu().contiguous()}, {}))


def load_vector(run: RunInfo) -> Tensor:
    """Read what :func:`save_vector` wrote; RunError where it is damaged."""
    try:
        return load(run.read(BLIND_FILE) or b"")["mean"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{run.path / BLIND_FILE} cannot be read ({error}); train the run again") from None


def filled(vector: Tensor) -> Callable[..., Tensor]:
    """Return the swap that puts one vector, (256,), at every position."""

    def swap(embedding: Tensor, rect: Rect | None = None) -> Tensor:
        return vector.to(embedding)[:, None, None].expand_as(embedding)

    return swap


def swap_of(store: Store, frames: Sequence[str], foreign: str | None) -> Swap | None:
    """Return what a control does with the embedding of a view; None where it takes those of other frames."""
    if foreign == "turned":
        return turned
    return filled(mean_vector(store, frames)) if foreign == "mean" else None


def foreign_cells(store: Store, frames: Sequence[str], foreign: str | None) -> Iterator[FrameCells]:
    """Yield frames as :func:`~hela_store.evaluation.frames.frame_cells`, with the embeddings that a control asks for.

    Parameters
    ----------
    store : Store
    frames : sequence of str
    foreign : str, optional
        ``"frame"`` takes the embeddings of the frame half the list away, of the same size where there is one;
        ``"sequence"`` those of a frame of another sequence. All else changes no frame, see :func:`swap_of`.

    Raises
    ------
    SplitError
        There is no other frame or no other sequence.
    StoreError
        A view is not embedded yet.
    """
    if foreign not in ("frame", "sequence"):
        yield from frame_cells(store, frames)
        return
    about = store.frame_records()
    tiles = frame_tiles(store, list(frames) if foreign == "frame" else list(about))
    others = list(tiles)
    for number, part in enumerate(frame_cells(store, frames)):
        own, first = about[part.frame], number + len(others) // 2
        order = [others[(first + i) % len(others)] for i in range(len(others))]
        if foreign == "frame":
            fits = [name for name in order if name != own.frame]
        else:
            fits = [name for name in order if about[name].sequence != own.sequence]
        other = next((name for name in fits if about[name].shape == own.shape), next(iter(fits), None))
        if other is None:
            raise _nothing(store, part.frame, foreign)
        theirs = tiles[other]
        taken = [replace(tile, row=theirs[i % len(theirs)].row) for i, tile in enumerate(part.tiles)]
        yield replace(part, tiles=taken)


def _nothing(store: Store, frame: str, foreign: str) -> SplitError:
    where = {"frame": "other labelled frame in the split", "sequence": "embedded frame of another sequence"}[foreign]
    return SplitError(
        f"no {where} in {store.path} to take embeddings from in place of {frame}'s; "
        "use `--foreign turned`, which needs no other frame"
    )
