"""The decoder behind the page: masks from clicks and boxes in a stored frame, without the encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hela_store.base.aliases import FloatArray
from hela_store.base.memory import keep_freed_memory
from hela_store.errors import PromptError, StoreError
from hela_store.evaluation.checkpoint import Checkpoint
from hela_store.images.geometry import EMBEDDING_POSITIONS, scoring_tile
from hela_store.predictor.checks import checked_boxes, checked_points
from hela_store.predictor.frame import StoredFrame
from hela_store.predictor.load import stored_frame
from hela_store.prompts.prompt import Prompt, prompt_rectangle
from hela_store.sam.decoder import SamDecoder, view_tokens
from hela_store.sam.devices import pick_device
from hela_store.sam.predict import Prediction, predict_best

TILES_KEPT = 16
"""Tiles whose embeddings stay in memory, 4 MiB each."""
MOST_POINTS = 64
"""Clicks that one prompt may have."""


class Decoding:
    """Answers prompts in stored frames; the decoder can be exchanged while the page is open.

    Parameters
    ----------
    checkpoint : Checkpoint
        The decoder that answers first.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        keep_freed_memory()
        self.device = device
        self._device = pick_device(device)
        self._frames: dict[str, StoredFrame] = {}
        self._tiles: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._reading, self._decoding = Lock(), Lock()
        self.use(checkpoint)

    def use(self, checkpoint: Checkpoint) -> None:
        """Answer with another decoder from now on."""
        decoder = checkpoint.load_decoder(self._device)
        self._current: tuple[Checkpoint, SamDecoder] = (checkpoint, decoder)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint whose decoder answers."""
        return self._current[0]

    @property
    def decoder(self) -> SamDecoder:
        """The decoder that answers."""
        return self._current[1]

    def frame(self, frame: str) -> StoredFrame:
        """Return the tiles of a frame; StoreError where one of them is not embedded."""
        found = self._frames.get(frame)
        if found is None:
            found = self._frames[frame] = stored_frame(self.checkpoint.store, frame)
        return found

    def is_embedded(self, frame: str) -> bool:
        """Return whether all tiles of a frame are embedded."""
        try:
            self.frame(frame)
        except StoreError:
            return False
        return True

    def warm(self, frame: str) -> None:
        """Read the embeddings of a frame, as many as stay in memory, so that the first prompt need not wait."""
        for tile in range(min(len(self.frame(frame).tiles), TILES_KEPT)):
            self.tokens(frame, tile)

    def embedding(self, frame: str, tile: int) -> Tensor:
        """Return the embedding of a tile on the decoder's device, float32, (256, 64, 64)."""
        return self.tokens(frame, tile).T.reshape(-1, EMBEDDING_POSITIONS, EMBEDDING_POSITIONS)

    def tokens(self, frame: str, tile: int) -> Tensor:
        """Return the positions of a tile's embedding, float32, (4096, 256); those of the last tiles are kept."""
        with self._reading:
            found = self._tiles.pop((frame, tile), None)
        if found is None:
            # read without the lock, so that a prompt never waits for other tiles of its frame that are read ahead
            found = view_tokens(self.frame(frame).embedding(tile).to(self._device))
        with self._reading:
            self._tiles[frame, tile] = found
            while len(self._tiles) > TILES_KEPT:
                self._tiles.popitem(last=False)
            return found

    def answer(self, frame: str, prompt: Prompt, is_stale: Callable[[], bool] = lambda: False) -> Prediction | None:
        """Return the mask of one prompt, in the tile that holds the prompt best.

        Parameters
        ----------
        frame : id
        prompt : in frame coordinates
        is_stale : whether nobody waits for the answer any more; asked when it is this prompt's turn, None then

        Raises
        ------
        StoreError
            The frame is unknown, not embedded, or damaged.
        """
        checkpoint, decoder = self._current
        stored = self.frame(frame)
        tile = scoring_tile(prompt_rectangle(prompt), stored.tiles, stored.shape)
        tokens, rect, window = self.tokens(frame, tile), stored.tiles[tile], checkpoint.window
        with self._decoding, torch.inference_mode():
            return None if is_stale() else predict_best(decoder, tokens, rect, prompt, window=window)


def prompt_of(asked: Mapping[str, Any], shape: tuple[int, int]) -> Prompt:
    """Return the prompt that a page sent.

    Parameters
    ----------
    asked : mapping
        ``points``, a list of ``[x, y, label]`` with label 1 in the cell and 0 in the background, and ``box``, ``[x0,
        y0, x1, y1]``; px, frame, where pixel (0, 0) covers 0 to 1. One of the two may be left out.
    shape : (rows, cols) of the frame, px

    Raises
    ------
    PromptError
        It holds no click in a cell and no box, too many clicks, or something outside of the frame.
    """
    points = _numbers(asked.get("points") or [], 3, "points")
    boxes = _numbers([asked["box"]] if asked.get("box") is not None else [], 4, "box")
    if len(points) > MOST_POINTS:
        raise PromptError(f"{len(points)} clicks for one cell, expected at most {MOST_POINTS}")
    labels = points[:, 2].astype(np.int64)
    if not len(boxes) and not (labels == 1).any():
        raise PromptError("no click in a cell and no box; give one of them")
    places = points[:, :2] - 0.5  # the middle of a pixel is a whole number in prompts
    if len(points):
        checked_points(places, labels, shape)
    box = checked_boxes(boxes, shape)[0] if len(boxes) else None
    given = {"points": places, "point_labels": labels} if len(points) else {}
    return Prompt(kind="point" if box is None else "box", box=box, **given)  # type: ignore[arg-type]


def _numbers(rows: Any, columns: int, what: str) -> FloatArray:
    """Return rows of numbers as float64, (N, columns); PromptError where they are not that, or not finite."""
    try:
        array = np.array(rows, np.float64).reshape(-1, columns)
    except (TypeError, ValueError, OverflowError):
        raise PromptError(f"{what} are no rows of {columns} numbers") from None
    if not np.isfinite(array).all():
        raise PromptError(f"{what} hold NaN or infinite numbers, expected px of the frame")
    return array
