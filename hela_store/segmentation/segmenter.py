"""Frames that no store holds: encoded tile by tile, then what detector and decoder find in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from hela_store.base.progress import Progress, silent
from hela_store.detection.detect import load_grid_head
from hela_store.detection.detections import Detections, no_detections
from hela_store.detection.head import GridHead
from hela_store.detection.propose import detect_frame
from hela_store.images import normalise
from hela_store.images.geometry import Rect, tile_rectangles
from hela_store.recipe.recipe import Recipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.devices import pick_device
from hela_store.sam.encoder import encode
from hela_store.store.store import Store

from .assemble import FoundCell, decode_detections, resolve
from .calibration import Calibration, find_calibration
from .recover import with_recovered
from .resolve import DetectedPrompts


@dataclass(frozen=True, kw_only=True)
class EncodedFrame:
    """A frame as the encoder saw it.

    Attributes
    ----------
    image : (row, col), as acquired
    seen : float32, (row, col), 0..255, as :func:`hela_store.images.normalise.apply` gives it
    tiles : (x0, y0, width, height) px, each
    embeddings : (tile, 256, 64, 64), of the store's dtype, in a file that goes with it; none of a blank frame
    """

    image: npt.NDArray[Any]
    seen: npt.NDArray[np.float32]
    tiles: list[Rect]
    embeddings: npt.NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, px."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def is_blank(self) -> bool:
        """Whether all its pixels are the same, so that there is nothing to see."""
        return not len(self.embeddings)

    def embedding(self, tile: int) -> Tensor:
        """Return the embedding of a tile by its number, float32, (256, 64, 64)."""
        return torch.from_numpy(np.asarray(self.embeddings[tile], np.float32))


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """All that is loaded once; ``prompts`` is from :func:`hela_store.segmentation.config.resolve_prompts`."""

    recipe: Recipe
    prompts: DetectedPrompts
    encoder: ImageEncoderViT
    head: GridHead
    decoder: SamDecoder
    calibration: Calibration | None

    def look(self, image: npt.NDArray[Any]) -> tuple[EncodedFrame, Detections]:
        """Encode a frame, (row, col), as acquired; return it with the detections that count."""
        how = self.recipe.normalise
        lo, hi = normalise.limits(image, how.method, how.low, how.high, self.recipe.dataset.offset)
        seen = normalise.apply(image, lo, hi, how.method)
        tiles = tile_rectangles((image.shape[0], image.shape[1]), self.recipe.views.tile, self.recipe.views.overlap)
        count = len(tiles) if hi > lo else 0
        frame = EncodedFrame(image=image, seen=seen, tiles=tiles, embeddings=_on_disk(count, self.recipe.arrays.dtype))
        if frame.is_blank:
            return frame, no_detections()
        found = detect_frame(self.head, self._encoded(frame), tiles, frame.shape)
        return frame, found.above(self.prompts.threshold)

    def _encoded(self, frame: EncodedFrame) -> Iterator[Tensor]:
        for number, (x0, y0, width, height) in enumerate(frame.tiles):
            view = np.ascontiguousarray(frame.seen[y0 : y0 + height, x0 : x0 + width])
            frame.embeddings[number] = encode(self.encoder, view[None], self.recipe.encoder.precision)[0].numpy()
            yield frame.embedding(number)

    def cells(
        self, frame: EncodedFrame, found: Detections, others: Sequence[Detections]
    ) -> tuple[npt.NDArray[np.uint16], list[FoundCell]]:
        """Return the label image of a frame and its cells, as :func:`hela_store.segmentation.assemble.resolve` does.

        Parameters
        ----------
        frame : EncodedFrame
        found : in this frame
        others : in the frames before and after it, where misses are recovered
        """
        if frame.is_blank:
            return resolve([], frame.shape)
        decode = partial(
            decode_detections,
            self.decoder,
            frame.embedding,
            frame.tiles,
            frame.shape,
            form=self.prompts.config.form,
            window=self.prompts.window,
        )
        return resolve(with_recovered(decode, found, others, frame.shape)[0], frame.shape)


def load_segmenter(
    store: Store, prompts: DetectedPrompts, *, cache_dir: Path | None = None, progress: Progress = silent
) -> Segmenter:
    """Load a store's encoder, detector, decoder and calibration.

    Parameters
    ----------
    store : whose recipe says how frames are normalised, tiled and encoded
    prompts : from :func:`hela_store.segmentation.config.resolve_prompts`
    cache_dir : where official checkpoints are fetched to
    progress : shown while one is fetched

    Raises
    ------
    CheckpointError, RunError
        The encoder's weights are missing or others; a run is damaged or of another encoder.
    """
    device = pick_device(prompts.config.device)
    sam = load_sam_encoder(store.recipe.encoder, device, base=store.path, cache_dir=cache_dir, progress=progress)
    return Segmenter(
        recipe=store.recipe,
        prompts=prompts,
        encoder=sam.encoder,
        head=load_grid_head(store, prompts.detector, prompts.config.device),
        decoder=prompts.checkpoint.load_decoder(device),
        calibration=find_calibration(store, prompts.config),
    )


def _on_disk(count: int, dtype: str) -> npt.NDArray[Any]:
    """Return room for so many embeddings: a large frame has more tiles than memory holds."""
    if count == 0:
        return np.zeros((0, 256, 64, 64), dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=(count, 256, 64, 64))
