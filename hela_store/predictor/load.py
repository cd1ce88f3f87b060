"""Make a predictor of a store, a fine-tuning run, or the name of a model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
from torch import Tensor

from hela_store.base.aliases import FloatArray
from hela_store.embedding.reader import embed_command
from hela_store.errors import RunError, StoreError
from hela_store.evaluation.checkpoint import Checkpoint, checkpoint_of, resolve_checkpoint
from hela_store.images.geometry import DEFAULT_OVERLAP
from hela_store.recipe.recipe import RECIPE_FILE, DatasetRecipe, EncoderRecipe, Recipe, ViewsRecipe
from hela_store.runs.default import default_run
from hela_store.runs.folder import RUN_ID, run_ids
from hela_store.sam.checkpoints import LoadedSam, load_sam_encoder
from hela_store.sam.choice import choose_encoder
from hela_store.sam.devices import pick_device
from hela_store.sam.modeling import ImageEncoderViT
from hela_store.sam.predict import DEFAULT_WINDOW, check_window
from hela_store.sam.registry import ENCODERS, KnownEncoder, find_encoder, weights_of
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store

from .frame import StoredFrame
from .predictor import Parts, Predictor

TILE = 512
"""Tile of images that no recipe speaks of, px; :func:`hela_store.images.geometry.auto_tile` chooses it unlabelled."""


def load(
    source: str | Path | Store,
    *,
    window: int | None = None,
    tile: int | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
) -> Predictor:
    """Load a predictor that is used like ``segment_anything.SamPredictor``.

    The image encoder is loaded when the first image is set, so stored frames need none.

    Parameters
    ----------
    source : str, Path or Store
        A store (its folder, or an opened one): its default run, or the decoder that came with the encoder where no run
        helped. A run: its folder, such as ``stores/fluo/runs/<id>``, or its id where the store is under ``./stores`` or
        around the working directory. A model: a name that `hela-store encoders` lists, such as ``"nano"``.
    window : int
        Positions of the embedding along each side that a prompt reads at least: 8, 16, 32, or 64 for all, as
        ``SamPredictor`` does. That of the run, or of the model, where None.
    tile : int
        Edge length, px, of the tiles that images are cut into, 0 for whole images as ``SamPredictor`` sees them. That
        of the store's recipe where None; 512 without a store.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    cache_dir : Path
        Where official checkpoints are fetched to; pooch's cache folder of hela-store where None.

    Returns
    -------
    Predictor

    Raises
    ------
    StoreError, RunError
        No such store or run, or a run of another encoder than the store's recipe names.
    CheckpointError
        Weights are missing, damaged, or not those that the recipe names.
    RecipeError
        ``window``, ``tile`` or ``device`` cannot be.
    """
    if isinstance(source, str) and (source == "nano" or source in ENCODERS):
        return _of_model(source, window, tile, device, cache_dir)
    checkpoint = _checkpoint(source)
    store, where = checkpoint.store, pick_device(device)
    recipe = tiled(store.recipe, tile)
    parts = Parts(
        name=checkpoint.name if checkpoint.run is not None else f"{store.path.name} (zero-shot)",
        recipe=recipe,
        decoder=checkpoint.load_decoder(where),
        window=check_window(window or checkpoint.window),
        load_encoder=partial(_encoder, recipe.encoder, device, store.path, cache_dir),
        stored=partial(stored_frame, store),
    )
    return Predictor(parts)


def default_recipe(name: str = "nano", tile: int | None = None, cache_dir: Path | None = None) -> Recipe:
    """Return how images are normalised, tiled and encoded by a known encoder where no store says it."""
    encoder = choose_encoder(name, cache_dir=cache_dir)
    views = ViewsRecipe(tile=TILE, overlap=DEFAULT_OVERLAP)
    return tiled(Recipe(name=name, dataset=DatasetRecipe(path=""), encoder=encoder, views=views), tile)


def load_model(recipe: Recipe, device: str, base: Path = Path(), cache_dir: Path | None = None) -> LoadedSam:
    """Load the SAM a recipe names, as :func:`hela_store.sam.checkpoints.load_sam_encoder`; it may be fetched."""
    known = weights_of(recipe.encoder)
    if known is not None and not recipe.encoder.checkpoint:
        cache_dir = _cache_of(known, cache_dir)
    return load_sam_encoder(recipe.encoder, pick_device(device), base=base, cache_dir=cache_dir)


def _cache_of(known: KnownEncoder, cache_dir: Path | None) -> Path | None:
    """Return where weights are fetched to; those that ship with this package are not fetched."""
    if cache_dir is not None or not known.url:
        return cache_dir
    import pooch

    return Path(pooch.os_cache("hela-store"))


def stored_frame(store: Store, frame: str) -> StoredFrame:
    """Return a frame of a store as acquired, with its tiles; each embedding is read when it is asked for.

    Raises
    ------
    StoreError
        No such frame, or a tile of it is not embedded.
    """
    table, committed = store.views_table(), store.committed()
    views = [v for v in ViewRecord.of(table.filter(pc.equal(table["frame"], frame))) if v.variant == 0]
    missing = [view for view in views if view.view not in committed]
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(views)} views of {frame} are not embedded yet; run `{embed_command(store)}`, or "
            "give the pixels to set_image"
        )
    if not views:
        store.embedding(frame)  # says which frames there are

    def read(tile: int) -> FloatArray | Tensor:
        return store.embedding_at(committed[views[tile].view])

    return StoredFrame(store.frame_records()[frame].shape, [view.rect for view in views], read)


def _of_model(name: str, window: int | None, tile: int | None, device: str, cache_dir: Path | None) -> Predictor:
    cache_dir = _cache_of(find_encoder(name), cache_dir)
    recipe = default_recipe(name, tile, cache_dir)
    architecture = recipe.encoder.architecture
    sam = load_model(recipe, device, cache_dir=cache_dir)
    parts = Parts(
        name=name,
        recipe=recipe,
        decoder=sam.decoder.to(pick_device(device)),
        window=check_window(window or DEFAULT_WINDOW[architecture]),
        load_encoder=lambda: sam.encoder,
    )
    return Predictor(parts)


def _encoder(encoder: EncoderRecipe, device: str, base: Path, cache_dir: Path | None) -> ImageEncoderViT:
    recipe = Recipe(name="", dataset=DatasetRecipe(path=""), encoder=encoder)
    return load_model(recipe, device, base, cache_dir).encoder


def tiled(recipe: Recipe, tile: int | None) -> Recipe:
    """Return a recipe with tiles of this side, px, 0 for whole frames; as it is where nothing is said."""
    if tile is None:
        return recipe
    overlap = min(recipe.views.overlap, tile * 3 // 4) if tile else recipe.views.overlap
    return replace(recipe, views=ViewsRecipe(tile=tile, overlap=overlap))


def _checkpoint(source: str | Path | Store) -> Checkpoint:
    if isinstance(source, Store):
        return _default(source)
    path = Path(source).expanduser()
    if path.name == RECIPE_FILE or (path / RECIPE_FILE).is_file():
        return _default(Store.open(path))
    if path.absolute().parent.name == "runs" and (path.absolute().parents[1] / RECIPE_FILE).is_file():
        return resolve_checkpoint(Store.open(path.absolute().parents[1]), path.name)
    if isinstance(source, str) and RUN_ID.fullmatch(source):
        return resolve_checkpoint(_store_with(source), source)
    raise StoreError(
        f"nothing to load at {str(source)!r}, expected the folder of a store (stores/NAME), that of a run "
        "(stores/NAME/runs/ID), the id of a run, or a name that `hela-store encoders` lists, such as nano"
    )


def _default(store: Store) -> Checkpoint:
    return checkpoint_of(store, default_run(store.path, store.key))


def _store_with(run: str) -> Store:
    here = Path.cwd()
    around = [folder for folder in (here, *here.parents) if (folder / RECIPE_FILE).is_file()]
    stores = [*around[:1], *(path.parent for path in sorted((here / "stores").glob(f"*/{RECIPE_FILE}")))]
    for folder in stores:
        if run in run_ids(folder):
            return Store.open(folder)
    raise RunError(f"no run {run} in the {len(stores)} stores here; give its folder, stores/NAME/runs/{run}")
