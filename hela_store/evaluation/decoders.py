"""The decoder of a run, or the one that came with the encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from hela_store.base.files import sha256_file
from hela_store.embedding.encoders import adapts
from hela_store.runs.folder import RunInfo, load_run
from hela_store.sam.adapters import ADAPTER_FILE, apply_adapter
from hela_store.sam.decoder import SamDecoder, load_decoder
from hela_store.store.store import Store


def decoder_file(store: Store, run: RunInfo | None) -> Path:
    """Return the file that says what a run's decoder is; of zero-shot the one that came with the encoder."""
    if run is None:
        return store.encoder_folder() / "decoder.safetensors"
    return run.path / ADAPTER_FILE if adapts(run) == "decoder" else run.weights


def decoder_of(store: Store, run: RunInfo | None, device: str | torch.device = "cpu") -> SamDecoder:
    """Return the decoder of a fine-tuning run, adapters merged, or the one the encoder came with.

    Parameters
    ----------
    store : from :func:`store_of`
    run : None for zero-shot

    Raises
    ------
    CheckpointError, RunError
        Weights are missing, damaged or do not fit.
    """
    path = decoder_file(store, run)
    if run is None or adapts(run) != "decoder":
        return load_decoder(path, device, of_run=run is not None)
    init = run.config["init"]
    base = None if init is None else load_run(store.path, init, "finetune")
    decoder = decoder_of(store, base)
    apply_adapter(decoder, path, store.recipe.encoder.architecture, sha256_file(decoder_file(store, base)))
    return decoder.to(device)
