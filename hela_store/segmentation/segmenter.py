"""Frames that no store holds: encoded tile by tile, then what detector and decoder find in them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.progress import Progress, silent
from hela_store.detection import generic
from hela_store.detection.detect import load_grid_head
from hela_store.detection.detections import Detections, no_detections
from hela_store.detection.generic import load_generic_head
from hela_store.detection.head import GridHead
from hela_store.detection.propose import detect_frame
from hela_store.errors import RunError
from hela_store.images.geometry import Rect, view_scale
from hela_store.predictor.frame import Encode, EncodedFrame, encode_tile
from hela_store.predictor.load import default_recipe, tiled
from hela_store.recipe.recipe import Recipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.devices import pick_device
from hela_store.sam.predict import DEFAULT_WINDOW, check_window
from hela_store.store.store import Store

from .assemble import FoundCell, decode_detections, resolve
from .calibration import Calibration, find_calibration
from .config import DetectedConfig
from .recover import with_recovered
from .resolve import DetectedPrompts

_LOADING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """All that is loaded once.

    Attributes
    ----------
    recipe : how frames are normalised, tiled and encoded
    encode : encodes a tile
    head, decoder : that find cells and draw them
    calibration : says which masks to doubt, None where there is none
    threshold : score from which a detection counts
    form : what of a detection the decoder is given
    window : positions along each side that a prompt reads at least
    finer : side of the tiles, px, in which a frame is looked at again if its cells are small in those of ``recipe``; 0
        for never
    """

    recipe: Recipe
    encode: Encode
    head: GridHead
    decoder: SamDecoder
    calibration: Calibration | None
    threshold: float
    form: str
    window: int
    finer: int = 0

    def look(
        self, image: npt.NDArray[Any], encode: Encode | None = None, progress: Progress = silent
    ) -> tuple[EncodedFrame, Detections]:
        """Encode a frame, (row, col), as acquired; return it with the detections that count.

        Parameters
        ----------
        image : (row, col), as acquired
        encode : instead of the own one
        progress : shown tile by tile
        """
        frame = EncodedFrame(image, self.recipe, encode or self.encode)
        found = self._found(frame, progress)
        if self.finer and are_small(found, frame.tiles[0], self.finer):
            frame = EncodedFrame(image, tiled(self.recipe, self.finer), encode or self.encode)
            found = self._found(frame, progress)
        return frame, found

    def _found(self, frame: EncodedFrame, progress: Progress) -> Detections:
        if frame.is_blank:
            return no_detections()
        embeddings = (frame.embedding(number) for number in range(len(frame.tiles)))
        shown = progress(embeddings, total=len(frame.tiles), what="find cells, by tile")
        return detect_frame(self.head, shown, frame.tiles, frame.shape).above(self.threshold)

    def cells(
        self, frame: EncodedFrame, found: Detections, others: Sequence[Detections], progress: Progress = silent
    ) -> tuple[npt.NDArray[np.int32], list[FoundCell]]:
        """Return the label image of a frame and its cells, as :func:`hela_store.segmentation.assemble.resolve` does.

        Parameters
        ----------
        frame : EncodedFrame
        found : in this frame
        others : in the frames before and after it, where misses are recovered
        progress : shown tile by tile
        """
        if frame.is_blank:
            return resolve([], frame.shape)
        decode = partial(
            decode_detections,
            self.decoder,
            frame,
            form=self.form,
            window=self.window,
            progress=progress,
        )
        return resolve(with_recovered(decode, found, others, frame.shape)[0], frame.shape)


def are_small(found: Detections, tile: Rect, finer: int) -> bool:
    """Whether tiles of side ``finer``, px, would show the detected cells better than one like ``tile`` does."""
    if not len(found) or max(tile[2:]) <= finer:
        return False
    sides = np.sqrt((found.boxes[:, 2:] - found.boxes[:, :2]).prod(1))
    return float(np.median(sides)) * view_scale(tile) < generic.SMALL


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
        encode=encode_tile(sam.encoder, store.recipe.encoder.precision),
        head=load_grid_head(store, prompts.detector, prompts.config.device),
        decoder=prompts.checkpoint.load_decoder(device),
        calibration=find_calibration(store, prompts.config),
        threshold=prompts.threshold,
        form=prompts.config.form,
        window=prompts.window,
    )


def resolve_generic(prompts: DetectedConfig) -> DetectedConfig:
    """Return settings with every choice made for segmentation without a store: the shipped detector and decoder.

    Raises
    ------
    RunError
        This version ships no detector, or a run is named, which only a store has.
    """
    recipe = default_recipe(generic.GENERIC_ENCODER)
    if prompts.checkpoint is not None or prompts.detector != DetectedConfig.detector:
        named = prompts.checkpoint or prompts.detector
        raise RunError(f"run {named!r} is in a store, and none is given; name it with `-s NAME`, or leave the run out")
    load_generic_head(recipe.encoder.sha256)
    threshold = generic.GENERIC_THRESHOLD if prompts.threshold is None else prompts.threshold
    window = check_window(prompts.window or DEFAULT_WINDOW[recipe.encoder.architecture])
    return replace(prompts, detector=generic.generic_name(), threshold=threshold, window=window)


def load_generic_segmenter(prompts: DetectedConfig) -> Segmenter:
    """Load the shipped encoder, detector and decoder.

    Parameters
    ----------
    prompts : from :func:`resolve_generic`

    Raises
    ------
    CheckpointError, RunError
        What is shipped is missing or damaged.
    """
    return _load_generic(prompts, default_recipe(generic.GENERIC_ENCODER), str(pick_device(prompts.device)))


def kept_generic_segmenter(prompts: DetectedConfig) -> Segmenter:
    """Return the shipped encoder, detector and decoder, loaded once in a process; as :func:`load_generic_segmenter`.

    They are loaded again where settings, device or the detector's file are others than at the last call; the encoder is
    pinned by its sum. Several threads may call it and use what it returns: nothing in it is changed by use.
    """
    with _LOADING:
        return _kept(prompts, default_recipe(generic.GENERIC_ENCODER), str(pick_device(prompts.device)))


def _load_generic(prompts: DetectedConfig, recipe: Recipe, device: str) -> Segmenter:
    sam = load_sam_encoder(recipe.encoder, device)
    assert prompts.threshold is not None and prompts.window is not None
    return Segmenter(
        recipe=recipe,
        encode=encode_tile(sam.encoder, recipe.encoder.precision),
        head=load_generic_head(recipe.encoder.sha256, device),
        decoder=sam.decoder.to(device),
        calibration=None,
        threshold=prompts.threshold,
        form=prompts.form,
        window=prompts.window,
        finer=generic.FINER,
    )


_kept = lru_cache(maxsize=1)(_load_generic)
"""By settings, which name the detector by its sum, by the recipe, which names the encoder by its sum, and by device."""
