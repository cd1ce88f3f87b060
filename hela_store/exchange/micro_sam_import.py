"""Embeddings that micro-sam has computed already, brought into a store under a key of their own.

``embeddings.zarr`` is what ``micro_sam.util.precompute_image_embeddings`` (1.8) leaves behind, as described in
:mod:`hela_store.exchange.micro_sam_export`. Its values are of images stretched from their darkest to their brightest
pixel and
resized as 8-bit RGB, which no key of ours says: ``encoder.source`` in the recipe makes it another one.

The file names its checkpoint by a hash that is not ours. So one frame is encoded as micro-sam does, with the store's
checkpoint, and compared: a decoder must not read what another encoder wrote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr

from hela_store.base.locks import embed_lock
from hela_store.base.progress import Progress, silent
from hela_store.embedding.embed import clear_leftovers
from hela_store.embedding.ingest import ingest
from hela_store.embedding.pipeline import make_room, write_view
from hela_store.embedding.plan import make_plan
from hela_store.embedding.record import IMPORTED, has_decoder, prepare
from hela_store.errors import CheckpointError, RecipeError, StoreError
from hela_store.images.geometry import tile_rectangles
from hela_store.integrity.store_faults import planned_views, view_faults
from hela_store.recipe.codecs import parse_codec
from hela_store.recipe.recipe import Recipe
from hela_store.sam.checkpoints import LoadedSam, load_sam_encoder
from hela_store.sam.devices import pick_device
from hela_store.sam.modeling import ImageEncoderViT
from hela_store.store.arrays import EMBEDDING_SHAPE
from hela_store.store.records import FrameRecord, ViewRecord
from hela_store.store.store import Store

from .micro_sam_encode import encode_as_micro_sam
from .micro_sam_export import ARCHITECTURES

SOURCE = "micro-sam"
ALLOWED = 2e-2
"""Relative error (L2) between a frame's embedding and the same encoded here: devices differ by 5e-3 at most."""
Row = dict[str, Any]
"""A row of the frames' table."""


@dataclass(frozen=True, kw_only=True)
class MicroSamImport:
    """Result of an import from micro-sam.

    Attributes
    ----------
    key : str
        Encoder key.
    source : str
        With it as ``encoder.source`` in ``store.toml`` every later command reads these embeddings.
    views, done_before, done_now : int
        Of the file, those of them that were committed before, and now; frames with the very same pixels are one.
    left : int
        Views of the store that have no embedding under this key, such as those of other sequences.
    """

    key: str
    source: str
    views: int
    done_before: int
    done_now: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """An ``embeddings.zarr`` that micro-sam has finished.

    Attributes
    ----------
    path : Path
    features : float32, (1, 256, 64, 64), or (frame, 1, 256, 64, 64)
    signature : str
        sha1 of the image's bytes, hex.
    """

    path: Path
    features: zarr.Array[Any]
    signature: str

    @property
    def frames(self) -> int | None:
        """Number of frames of a sequence; None of a single image."""
        return self.features.shape[0] if self.features.ndim == 5 else None

    def read(self, number: int) -> npt.NDArray[np.float32]:
        """Return the embedding of a frame, float32, (256, 64, 64), CHW.

        Raises
        ------
        StoreError
            It cannot be read, or was never written.
        """
        again = "restore the file, or let micro-sam compute it anew"
        try:
            found = np.asarray(self.features[...] if self.frames is None else self.features[number])[0]
        except (ValueError, RuntimeError, TypeError, OSError) as error:
            raise StoreError(f"frame {number} of {self.path} is damaged ({error}); {again}") from error
        if not np.isfinite(found).all():
            raise StoreError(f"frame {number} of {self.path} has values that are not finite; {again}")
        # a chunk that is not there reads as zeros
        if (found == found.flat[0]).all():
            raise StoreError(
                f"frame {number} of {self.path} is {found.flat[0]:g} everywhere, so never written; {again}"
            )
        return found


def import_micro_sam(
    store: Store,
    embeddings: Path,
    what: str,
    *,
    device: str = "auto",
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> MicroSamImport:
    """Commit the embeddings of a frame or of a whole sequence; given again it does what is left or damaged.

    Parameters
    ----------
    store : of the same frames, whole, without variants, and with the checkpoint micro-sam had
    embeddings : ``embeddings.zarr``
    what : a frame's id, e.g. ``"01/t012"``, or a sequence's name
    device : where one frame is encoded for comparison
    cache_dir : where a fetched official checkpoint lies

    Raises
    ------
    RecipeError
        The recipe asks for what micro-sam's embeddings are not: tiles, variants, nano, half precision.
    StoreError
        No such file, frame or sequence; not finished, tiled, of another model or of other frames, damaged; another
        process embeds into this store; no space, no permission.
    CheckpointError
        The store's checkpoint is not there, or is not the one these embeddings were made with.
    """
    store = store.with_encoder(source=SOURCE)
    _check_recipe(store.recipe)
    found = open_embeddings(embeddings, store.recipe.encoder.architecture)
    with embed_lock(store.path):
        clear_leftovers(store.path)
        ingest(store, progress)
        frames = _frames(store, what)
        _check_frames(store, what, frames, found)
        for number in progress(range(len(frames)), total=len(frames), what="check"):
            found.read(number)
        plan = make_plan(store, progress)
        places = _places(plan, frames)
        good = set(store.committed()) - {fault.view for fault in view_faults(store, planned_views(store), progress)}
        todo = [place for view, place in places.items() if view not in good]
        if todo or not has_decoder(store):
            sam = _load(store, device, cache_dir, progress)
            _check_encoder(sam.encoder, store, frames, found, todo[0][0] if todo else 0)
            make_room(store)
            prepare(store, sam, IMPORTED, 1)
            for number, view in progress(todo, total=len(todo), what="import"):
                store.commit([write_view(store, view, found.read(number))])
        store.gather()
    return MicroSamImport(
        key=store.key,
        source=SOURCE,
        views=len(places),
        done_before=len(places) - len(todo),
        done_now=len(todo),
        left=len(set(plan["view"].to_pylist()) - good - set(places)),
    )


def _check_recipe(recipe: Recipe) -> None:
    architecture, variants = recipe.encoder.architecture, recipe.augment.variants
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise RecipeError(
            f"micro-sam has no {architecture}; make a store with one of {known} (`hela-store new`, --encoder and "
            "--checkpoint)"
        )
    if variants:
        raise RecipeError(f"augment.variants is {variants}, and micro-sam embeds none; set it to 0 in store.toml")
    parse_codec(recipe.arrays.codec, recipe.arrays.dtype)


def open_embeddings(path: Path, architecture: str) -> Embeddings:
    """Open what ``precompute_image_embeddings`` wrote of whole images.

    Raises
    ------
    StoreError
        No such file, or of another kind; not finished, of tiles, of another model.
    """
    if not path.is_dir():
        raise StoreError(
            f"no embeddings at {path}; expected the folder that precompute_image_embeddings has as save_path"
        )
    try:
        root = zarr.open_group(str(path), mode="r")
        about, features = dict(root.attrs), root.get("features")
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise StoreError(f"{path} is not what precompute_image_embeddings writes, or is damaged: {error}") from error
    if isinstance(features, zarr.Group) or about.get("tile_shape") is not None:
        raise StoreError(f"{path} is of tiles with a halo, which are no views of ours; compute it without tile_shape")
    if features is None or "input_size" not in about:
        raise StoreError(
            f"{path} is not finished; give precompute_image_embeddings the same save_path again, it goes on"
        )
    if about.get("model_type") != architecture:
        raise StoreError(
            f"{path} is of {about.get('model_type')}, this store's encoder is {architecture}; make a store with "
            "--encoder and --checkpoint of the model micro-sam had"
        )
    _check_features(path, features)
    return Embeddings(path=path, features=features, signature=str(about.get("data_signature")))


def _check_features(path: Path, features: zarr.Array[Any]) -> None:
    shape = (1, *EMBEDDING_SHAPE)
    if features.shape != shape and features.shape[1:] != shape:
        raise StoreError(
            f"features of {path} have shape {features.shape}, expected {shape}, of a sequence (n, *{shape})"
        )
    if features.dtype != np.float32:
        raise StoreError(f"features of {path} are {features.dtype}, expected float32")


def _places(plan: pa.Table, frames: list[FrameRecord]) -> dict[str, tuple[int, ViewRecord]]:
    """Return the number of its frame, and its row of the plan, of each view; frames with the same pixels share one."""
    numbers = {row.frame: number for number, row in enumerate(frames)}
    found: dict[str, tuple[int, ViewRecord]] = {}
    for view in ViewRecord.of(plan):
        if view.frame in numbers:
            found.setdefault(view.view, (numbers[view.frame], view))
    return found


def _frames(store: Store, what: str) -> list[FrameRecord]:
    """Return the frame of that id, or the frames of that sequence by time."""
    rows = list(store.frame_records().values())
    found = [row for row in rows if row.sequence == what] or [row for row in rows if row.frame == what]
    if not found:
        sequences = ", ".join(sorted({row.sequence for row in rows})[:8])
        raise StoreError(
            f"no sequence and no frame {what!r} in {store.path}; it has the sequences {sequences} and frames such as "
            f"{rows[0].frame}"
        )
    return sorted(found, key=lambda row: row.time)


def _check_frames(store: Store, what: str, frames: list[FrameRecord], found: Embeddings) -> None:
    """Raise StoreError unless the embeddings are those of the very same pixels."""
    expected = None if [row.frame for row in frames] == [what] else len(frames)
    if found.frames != expected:
        holds = "a single image" if found.frames is None else f"{found.frames} frames"
        raise StoreError(
            f"{found.path} holds {holds}, {what} is {'one frame' if expected is None else f'{expected} frames'}; name "
            "the frame or the sequence that was encoded"
        )
    views = store.recipe.views
    for row in frames:
        shape = row.shape
        if len(tile_rectangles(shape, views.tile, views.overlap)) > 1:
            raise StoreError(
                f"views.tile is {views.tile}, {row.frame} has {shape[0]} x {shape[1]} px, and micro-sam encoded "
                "whole frames; make a store with --tile none"
            )
    total = hashlib.sha1()
    for row in frames:
        total.update(np.ascontiguousarray(_image(store, row)).tobytes())
    if total.hexdigest() != found.signature:
        one = frames[0]
        size = f"{len(frames)} frames of {one.height} x {one.width} px, {one.dtype}, by time"
        raise StoreError(
            f"{found.path} is of other pixels: their sha1 is {found.signature[:12]}, that of {what} ({size}) is "
            f"{total.hexdigest()[:12]}; let micro-sam encode these files as they are, or make a store of those"
        )


def _image(store: Store, row: FrameRecord) -> npt.NDArray[Any]:
    return store.pixels.image(row.frame)


def _load(store: Store, device: str, cache_dir: Path | None, progress: Progress) -> LoadedSam:
    own = replace(store.recipe.encoder, source="")
    return load_sam_encoder(own, pick_device(device), base=store.path, cache_dir=cache_dir, progress=progress)


def _check_encoder(
    encoder: ImageEncoderViT, store: Store, frames: list[FrameRecord], found: Embeddings, number: int
) -> None:
    """Raise CheckpointError where the encoder does not give what the file has of a frame."""
    now, there = encode_as_micro_sam(encoder, _image(store, frames[number])), found.read(number)
    apart = float(np.linalg.norm(now - there) / np.linalg.norm(now))
    if not apart <= ALLOWED:
        raise CheckpointError(
            f"{found.path} was made with another checkpoint: its frame {number} is {apart:.2g} apart (relative; "
            f"{ALLOWED:g} is allowed) from the same encoded with this store's as micro-sam does; make a store with "
            "--checkpoint of the file micro-sam had"
        )
