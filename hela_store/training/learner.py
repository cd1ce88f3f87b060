"""Say what learns in a fine-tuning: a mask decoder or adapters in it, and with them the last blocks of the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hela_store.base.files import sha256_file
from hela_store.base.progress import Progress, silent
from hela_store.embedding.record import check_weights
from hela_store.errors import RecipeError
from hela_store.evaluation.checkpoint import checkpoint_of
from hela_store.evaluation.foreign import filled, mean_vector, save_vector
from hela_store.evaluation.frames import labelled_frames
from hela_store.runs.folder import RunInfo
from hela_store.sam.adapters import ADAPTER_FILE, adapt_decoder, adapt_encoder, save_adapter
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.decoder import SamDecoder, save_decoder
from hela_store.sam.fast_encoder import drop_trunk, view_embedding
from hela_store.sam.lora import draw_noise
from hela_store.sam.modeling import ImageEncoderViT
from hela_store.store.store import Store

from .config import adapter_of

if TYPE_CHECKING:
    from .config import FinetuneConfig


class Learner(nn.Module):
    """A decoder and, where it adapts, the part of the encoder in front of it.

    Parameters
    ----------
    decoder : SamDecoder
    encoder : None where embeddings are read as they are
    cut : blocks of the encoder whose tokens are read instead of run; 0: it takes preprocessed views
    precision : of the encoder, as in the recipe
    blind : float32, (256,), what every position of every embedding is in place of the image; None to look at it
    beside : sha256 of the file with the frozen weights that adapters are trained on top of; empty if none is saved
    """

    def __init__(
        self,
        decoder: SamDecoder,
        encoder: ImageEncoderViT | None = None,
        cut: int = 0,
        precision: str = "float32",
        *,
        blind: Tensor | None = None,
        beside: str = "",
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.encoder = encoder
        self.cut, self.precision = cut, precision
        self.blind = blind
        self.beside = beside

    @property
    def device(self) -> torch.device:
        """Device that it is on."""
        return next(self.parameters()).device

    def embed(self, x: Tensor) -> Tensor:
        """Return a view's embedding, (256, 64, 64), of what is stored of it: itself, or, of an encoder, float32.

        Parameters
        ----------
        x : float16 or float32, on this device: (256, 64, 64) embedding; (64, 64, C) tokens after the cut; or, of an
            encoder that is cut at 0, the preprocessed view, (3, 1024, 1024)
        """
        if self.blind is not None:
            return filled(self.blind)(x)
        if self.encoder is None:
            return x
        return view_embedding(self.encoder, x, self.cut, self.precision)

    def draw_noise(self, *key: int | str) -> None:
        """Set the noise of the gates, if there are any, for one training step."""
        draw_noise(self.modules(), *key)


def new_learner(
    store: Store,
    config: FinetuneConfig,
    device: torch.device,
    *,
    init: RunInfo | None,
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> Learner:
    """Return what learns, as it is before the first step.

    Parameters
    ----------
    store : as it is read: cut where the encoder adapts
    config : resolved
    device : where it learns
    init : fine-tuning run whose decoder is the beginning; None for the decoder that came with the encoder
    cache_dir : where a fetched official checkpoint lies; only an encoder that adapts needs it

    Raises
    ------
    RecipeError
        A rank or cut that the model does not have.
    CheckpointError, StoreError
        Weights are missing, damaged, or others than the stored tokens were made with.
    """
    adapter = adapter_of(config)
    if adapter is None or adapter.part == "decoder":
        begin = checkpoint_of(store, init)
        decoder = begin.load_decoder().requires_grad_(True)
        decoder.prompt_encoder.requires_grad_(False)
        if adapter is not None:
            adapt_decoder(decoder, adapter, config.seed)
        blind = mean_vector(store, labelled_frames(store, "train")) if config.blind else None
        return Learner(decoder, blind=blind, beside=sha256_file(begin.file)).to(device)
    recipe = store.recipe.encoder
    if recipe.precision == "float16":
        raise RecipeError("precision is float16, in which gradients vanish; an encoder adapts in float32 or bfloat16")
    sam = load_sam_encoder(recipe, base=store.path, cache_dir=cache_dir, progress=progress)
    check_weights(store, sam.sha256)
    adapt_encoder(sam.encoder, adapter, config.seed)
    drop_trunk(sam.encoder, adapter.cut)
    sam.decoder.mask_decoder.requires_grad_(True)
    return Learner(sam.decoder, sam.encoder, adapter.cut, recipe.precision, beside=sam.sha256).to(device)


def save_learner(folder: Path, store: Store, config: FinetuneConfig, learner: Learner) -> None:
    """Write what a run keeps: the decoder or the adapters in it, and those of the encoder.

    Parameters
    ----------
    folder : of the run
    store, config : as of :func:`new_learner`
    learner : with the weights to keep
    """
    adapter, architecture = adapter_of(config), store.recipe.encoder.architecture
    if adapter is None or adapter.part == "encoder":
        save_decoder(folder / "weights.safetensors", learner.decoder, architecture)
    if learner.blind is not None:
        save_vector(folder, learner.blind)
    if adapter is not None:
        module = learner.decoder if learner.encoder is None else learner.encoder
        about = {"architecture": architecture, "sha256": learner.beside}
        save_adapter(folder / ADAPTER_FILE, module, adapter, about)
