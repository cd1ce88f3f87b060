"""Say which encoder is meant: a known name, a file of weights, or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from hela_store.base.progress import Progress, silent
from hela_store.errors import CheckpointError
from hela_store.recipe.recipe import Architecture, EncoderRecipe, Precision

from .checkpoints import architecture_of, checkpoint_path, checkpoint_sha256, load_sam_encoder, read_state
from .fetch import hash_of, name_of
from .layouts.read import main_file
from .registry import ENCODERS, KnownEncoder, find_encoder, plain_name


def choose_encoder(
    name: str,
    file: str = "",
    *,
    base: Path = Path(),
    precision: Precision = "float32",
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> EncoderRecipe:
    """Return the recipe of an encoder, with the sha256 that pins its weights.

    Weights are fetched only where their project publishes another hash than sha256. A file is loaded once, so that
    one that does not fit is refused here.

    Parameters
    ----------
    name : str
        One of :data:`~hela_store.sam.registry.ENCODERS`.
    file : str
        A file with its weights, relative to ``base``. With the plain name of an architecture it may hold any weights,
        and is recognised where they are known ones; with another name it has to hold just those.
    base, precision : of the recipe
    cache_dir, progress : as of :func:`~hela_store.sam.checkpoints.load_sam_encoder`

    Raises
    ------
    CheckpointError
        An unknown name; a file that is not there, does not fit, or is not the one of that name.
    RecipeError
        An architecture that cannot be loaded.
    """
    known = find_encoder(name)
    is_plain = known.name == plain_name(known.architecture)
    architecture = cast(Architecture, known.architecture)
    encoder = EncoderRecipe(
        architecture=architecture, name="" if is_plain else known.name, checkpoint=file, precision=precision
    )
    if not file:
        pinned = checkpoint_sha256(encoder)
    else:
        path, pinned = checkpoint_path(encoder, base), ""
        assert path is not None
        encoder = replace(encoder, name=_recognised(path, known) if is_plain else _checked(path, known))
    if not pinned:
        pinned = load_sam_encoder(encoder, base=base, cache_dir=cache_dir, progress=progress).sha256
    return replace(encoder, sha256=pinned)


def encoder_at(
    place: str,
    *,
    precision: Precision = "float32",
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> EncoderRecipe:
    """Return the recipe of an encoder that is given by its name or as its weights; arguments and errors as above.

    A known name means that encoder, even if a file of that name lies in the current folder.
    """
    path = Path(place).expanduser()
    if place == "nano" or place in ENCODERS or not path.exists():
        name, file = place, ""
    else:
        found = architecture_of(read_state(main_file(path)))
        if found is None:
            raise CheckpointError(f"{path} is not a SAM checkpoint of a known architecture; give another file")
        name, file = plain_name(found), str(path.resolve())
    if not file and ("/" in place or path.suffix):
        raise CheckpointError(f"no file {path}; give the path of a SAM checkpoint, or a name of `hela-store encoders`")
    return choose_encoder(name, file, precision=precision, cache_dir=cache_dir, progress=progress)


def _recognised(path: Path, known: KnownEncoder) -> str:
    found = name_of(path, known.architecture)
    return "" if found == known.name else found


def _checked(path: Path, known: KnownEncoder) -> str:
    found = hash_of(path, known.hash.partition(":")[0])
    if found != known.hash:
        raise CheckpointError(
            f"{path} is not {known.name}: it has {found}, expected {known.hash}; take the file from {known.url}, or "
            f"give --encoder {plain_name(known.architecture)} for other weights"
        )
    return known.name
