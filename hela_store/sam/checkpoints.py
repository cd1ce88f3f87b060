"""SAM weights: which file, whose bytes, which architecture. No object of a file is ever made, only its tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hela_store.base.files import sha256_file
from hela_store.base.progress import Progress, silent
from hela_store.errors import CheckpointError
from hela_store.recipe.recipe import UNTRAINED, EncoderRecipe
from hela_store.runs.folder import RunInfo, load_run

from . import nano
from .adapters import ADAPTER_FILE, apply_adapter
from .build import build_sam
from .decoder import SamDecoder, load_decoder
from .fetch import fetch
from .layouts.read import main_file, weights_sha256
from .layouts.table import read_sam
from .modeling import ImageEncoderViT
from .registry import KnownEncoder, plain_name, weights_of
from .tiny_vit import TinyViT

WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


@dataclass(frozen=True, kw_only=True)
class LoadedSam:
    """A SAM taken apart: what runs once, and what is tuned.

    Attributes
    ----------
    encoder : ImageEncoderViT or TinyViT, float32, eval mode, no gradients, on the device asked for; LoRA is merged
    decoder : SamDecoder, float32, on the CPU; of an adapted encoder the one that was tuned with it
    architecture : str
    sha256 : str
        Of the weights file; ``"untrained"`` where nano ships none.
    notes : tuple of str
        What of the file is not used.
    """

    encoder: ImageEncoderViT | TinyViT
    decoder: SamDecoder
    architecture: str
    sha256: str
    notes: tuple[str, ...] = ()


def checkpoint_path(encoder: EncoderRecipe, base: Path, cache_dir: Path | None = None) -> Path | None:
    """Return the file with an encoder's weights, or None for the nano that ships with the package.

    Parameters
    ----------
    encoder : EncoderRecipe
    base : Path
        What a relative ``encoder.checkpoint`` is relative to: the store's folder.
    cache_dir : Path
        Where a fetched official checkpoint lies.

    Raises
    ------
    CheckpointError
        No such file.
    """
    if encoder.checkpoint:
        path = main_file(base / Path(encoder.checkpoint).expanduser())
    elif (known := _fetched(encoder)) is None:
        return None
    else:
        path = Path(cache_dir or base) / known.file
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; pass the file with --checkpoint, or fetch the official one")
    return path


def checkpoint_sha256(encoder: EncoderRecipe, base: Path = Path()) -> str:
    """Return the sha256 that pins an encoder's weights: of nano and official checkpoints known, of a file computed.

    It is empty for a known encoder whose project publishes another hash: the file has to be fetched first.

    Raises
    ------
    CheckpointError
        No such file.
    """
    if encoder.checkpoint:
        path = checkpoint_path(encoder, base)
        assert path is not None
        return weights_sha256(path)
    if (known := _fetched(encoder)) is None:
        trained = nano.is_trained(encoder.architecture)
        return nano.shipped(encoder.architecture)[1] if trained else UNTRAINED
    return known.sha256


def _fetched(encoder: EncoderRecipe) -> KnownEncoder | None:
    """Return the known encoder whose file is fetched; None for the nano that ships with the package."""
    known = weights_of(replace(encoder, checkpoint=""))
    return known if known is not None and known.url else None


def weights_file(
    encoder: EncoderRecipe, base: Path, cache_dir: Path | None = None, progress: Progress = silent
) -> Path | None:
    """Return the file with an encoder's weights as :func:`checkpoint_path`, fetched where it is not there yet.

    Raises
    ------
    CheckpointError
        No such file, no folder to fetch it into, or it cannot be fetched.
    """
    if encoder.checkpoint or (known := _fetched(encoder)) is None:
        return checkpoint_path(encoder, base, cache_dir)
    if cache_dir is None:
        raise CheckpointError(f"{known.name} needs encoder.checkpoint, or a folder to fetch it into")
    return fetch(known, cache_dir, progress=progress)


def load_sam_encoder(
    encoder: EncoderRecipe,
    device: str | torch.device = "cpu",
    *,
    base: Path = Path(),
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> LoadedSam:
    """Load the SAM a recipe names; an official checkpoint is fetched into ``cache_dir`` where it is not there yet.

    Parameters
    ----------
    base : the store's folder: a relative checkpoint is relative to it, and the run of an adapter is in it

    Raises
    ------
    CheckpointError
        No such file, bytes other than the recipe pins, not a checkpoint, another architecture, missing or foreign keys;
        an adapter that does not fit.
    RecipeError
        The recipe's embeddings are another tool's; its weights are loaded where ``source`` is taken out.
    """
    encoder.check_encodes()
    path = weights_file(encoder, base, cache_dir, progress)
    sha256 = weights_sha256(path) if path else checkpoint_sha256(encoder)
    if encoder.sha256 and encoder.sha256 != sha256:
        raise CheckpointError(
            f"{path or 'the nano of this version'} has sha256 {sha256[:12]}, the store was made with "
            f"{encoder.sha256[:12]}; give it that file again, or make a new store"
        )
    notes: tuple[str, ...] = ()
    if path is None:
        sam = nano.load_nano(None, encoder.architecture)
    else:
        found = read_sam(path)
        sam = _build(encoder.architecture, found.state, path)
        notes = tuple(f"{path.name} also holds {part}, which is left alone" for part in found.left)
    sam.requires_grad_(False).eval()
    decoder = SamDecoder(sam.prompt_encoder, sam.mask_decoder)
    if encoder.adapter:
        decoder = _adapt(sam.image_encoder, encoder, load_run(base, encoder.adapter), sha256)
    return LoadedSam(
        encoder=sam.image_encoder.to(device),
        decoder=decoder,
        architecture=encoder.architecture,
        sha256=sha256,
        notes=notes,
    )


def _adapt(module: ImageEncoderViT, encoder: EncoderRecipe, run: RunInfo, sha256: str) -> SamDecoder:
    """Put a run's adapter into the encoder; return the decoder that was tuned with it."""
    path = run.file(ADAPTER_FILE)
    if path.exists() and sha256_file(path) != encoder.adapter_sha256:
        raise CheckpointError(
            f"{path} is not the one encoder.adapter_sha256 names ({encoder.adapter_sha256[:12]}); restore the run"
        )
    apply_adapter(module, path, encoder.architecture, sha256)
    module.eval()
    return load_decoder(run.weights, of_run=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a SAM checkpoint by segment-anything's names; :mod:`hela_store.sam.layouts` reads it.

    Raises
    ------
    CheckpointError
        Not a checkpoint, cut short, or another model than a SAM.
    """
    return read_sam(path).state


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """Say which SAM a state dict is of, None if of none that is known."""
    patch = state.get("image_encoder.patch_embed.proj.weight")
    if patch is not None and patch.ndim:
        return WIDTHS.get(patch.shape[0])
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "vit_t"
    if "image_encoder.patch_embed.layers.0.weight" not in state:
        return None
    return "nano2" if "image_encoder.blocks.4.out.weight" in state else "nano"


def _build(architecture: str, state: dict[str, Tensor], path: Path) -> Any:
    found = architecture_of(state)
    if found is None:
        raise CheckpointError(
            f"{path} is not a SAM checkpoint of a known architecture ({len(state)} tensors, no known patch embedding); "
            f"expected {architecture}"
        )
    if found != architecture:
        raise CheckpointError(f"{path} is a {found}, the recipe says {architecture}; use --encoder {plain_name(found)}")
    sam = build_sam(architecture)
    expected = sam.state_dict()
    missing = [name for name in expected if name not in state]
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of {len(expected)} tensors of {architecture}: {_few(missing)}; "
            "expected all of a SAM: encoder, prompt encoder and mask decoder"
        )
    # ours alone would run without an adapter or an extra token the weights were trained with
    foreign = [name for name in state if name not in expected and name.startswith(PARTS)]
    if foreign:
        raise CheckpointError(f"{path} has {len(foreign)} tensors {architecture} does not know: {_few(foreign)}")
    odd = [name for name in expected if expected[name].shape != state[name].shape]
    if odd:
        raise CheckpointError(
            f"{path}: {odd[0]} has shape {tuple(state[odd[0]].shape)}, {architecture} has "
            f"{tuple(expected[odd[0]].shape)} ({len(odd)} such)"
        )
    plain = [name for name in expected if expected[name].is_floating_point()]
    for name in plain:
        if not (state[name].is_floating_point() and state[name].device.type == "cpu" and not state[name].is_sparse):
            kind = f"{state[name].dtype}, {state[name].layout}, {state[name].device}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name} is of {kind}; expected plain floating-point numbers")
    # what BatchNorm counts is a whole number, and nothing reads it
    values = {name: state[name].float() if name in plain else state[name].long() for name in expected}
    wrong = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if wrong:
        count = int((~torch.isfinite(values[wrong[0]])).sum())
        raise CheckpointError(
            f"{path}: {count} of the {values[wrong[0]].numel()} values of {wrong[0]} are NaN or infinite in float32 "
            f"({len(wrong)} of {len(expected)} tensors have such): the weights cannot be used, take others"
        )
    sam.load_state_dict(values, assign=True)
    return sam


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
