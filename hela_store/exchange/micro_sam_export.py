"""Embeddings as micro-sam stores them, beside the image they are of, so that its annotators encode nothing.

``embeddings.zarr`` is what ``micro_sam.util.precompute_image_embeddings`` (1.8) leaves behind: ``features``, float32,
(1, 256, 64, 64) of an image or (frame, 1, 256, 64, 64) of a sequence, and attributes by which it knows them again: the
sha1 of the image's bytes, the architecture, and the sizes before and after the resize. Its checkpoint hash and version
are signed, too, but only warned about; the hash is of a kind we do not have, so micro-sam says that it is missing.

The values are those of this store, normalised as its recipe says; micro-sam itself stretches every image from its
darkest to its brightest pixel. Its tiles have a halo and another grid than ours, so tiles go out one by one, as images.
What micro-sam encoded itself goes the other way: :mod:`hela_store.exchange.micro_sam_import`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from hela_store.base.progress import Progress, silent
from hela_store.errors import StoreError
from hela_store.images.geometry import resized_shape
from hela_store.store.arrays import EMBEDDING_SHAPE
from hela_store.store.store import Store
from hela_store.store.view_data import ViewData

from .target import Targets

LAYOUT = "1.8.14"
"""Version of micro-sam whose layout this is."""
ARCHITECTURES = ("vit_t", "vit_b", "vit_l", "vit_h")
EMBEDDINGS, IMAGE = "embeddings.zarr", "image.tif"


@dataclass(frozen=True, kw_only=True)
class MicroSamExport:
    """Result of an export to micro-sam.

    Attributes
    ----------
    embeddings, image : Path
        What ``precompute_image_embeddings`` gets as ``save_path``, and the image that belongs to it.
    model_type : str
        The model to open it with, on the store's checkpoint.
    ndim : int
        2 for an image, 3 for a sequence.
    frames : int
    """

    embeddings: Path
    image: Path
    model_type: str
    ndim: int
    frames: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        about = {"model_type": self.model_type, "ndim": self.ndim, "frames": self.frames}
        return {"embeddings": str(self.embeddings), "image": str(self.image)} | about


def export_micro_sam(
    store: Store, what: str, out: Path, *, tile: int = 0, progress: Progress = silent
) -> MicroSamExport:
    """Write the embeddings of a frame, of a tile of it, or of a whole sequence.

    Parameters
    ----------
    what : a frame's id, e.g. ``"01/t012"``, or a sequence's name
    out : folder that gets ``embeddings.zarr`` and ``image.tif``; must not be there yet
    tile : of the frame; for a sequence frames have to be encoded whole

    Raises
    ------
    StoreError
        No such frame or sequence, not all embedded, tiles or several sizes in a sequence, an encoder that micro-sam
        does not have; no space, no permission.
    RunError
        The folder is there.
    """
    architecture = store.recipe.encoder.architecture
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise StoreError(f"micro-sam has no {architecture}; embed with one of {known} (--encoder, --checkpoint)")
    names = [name for name, frame in store.frame_records().items() if frame.sequence == what]
    views = [store.view(name) for name in names] if names else [store.view(what, tile)]
    if names:
        _check_sequence(what, views)
    pixels = np.stack([view.image for view in views]) if names else views[0].image
    chosen = [(name, 0) for name in names] or [(what, tile)]
    embeddings = (store.embedding(*place)[None] for place in progress(chosen, total=len(chosen), what="export"))
    targets = Targets()
    with targets.folder(out) as partial:
        _write(partial / EMBEDDINGS, embeddings, pixels, architecture)
        tifffile.imwrite(partial / IMAGE, pixels, photometric="minisblack", compression="zlib")
    targets.finish()
    return MicroSamExport(
        embeddings=out / EMBEDDINGS,
        image=out / IMAGE,
        model_type=architecture,
        ndim=pixels.ndim,
        frames=len(views),
    )


def _check_sequence(name: str, views: list[ViewData]) -> None:
    if any(view.rect[2:] != view.frame_shape[::-1] for view in views):
        raise StoreError(f"sequence {name} is embedded in tiles, micro-sam needs whole frames; name a frame and --tile")
    if len({view.frame_shape for view in views}) > 1:
        raise StoreError(f"sequence {name} has frames of several sizes; name one frame")


def _write(
    path: Path, embeddings: Iterable[npt.NDArray[np.floating]], pixels: npt.NDArray[Any], architecture: str
) -> None:
    # format 2 is what zarr-python 2 and 3 both open
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    flat = pixels.ndim == 2
    shape = (1, *EMBEDDING_SHAPE) if flat else (len(pixels), 1, *EMBEDDING_SHAPE)
    chunks = shape if flat else (1, *shape[1:])
    features = root.create_array("features", shape=shape, chunks=chunks, dtype="float32")
    for number, embedding in enumerate(embeddings):
        features[... if flat else number] = embedding.astype(np.float32)
    size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    root.attrs.update(
        {
            "data_signature": hashlib.sha1(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
            "tile_shape": None,
            "halo": None,
            "model_type": architecture,
            "model_name": architecture,
            "micro_sam_version": LAYOUT,
            # micro-sam takes embeddings as finished once this is there
            "input_size": list(resized_shape(size)),
            "original_size": list(size),
        }
    )
