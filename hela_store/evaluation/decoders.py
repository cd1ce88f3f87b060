"""The decoder of a run that was loaded before, or the one that came with the encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from hela_store.runs.folder import RunInfo
from hela_store.sam.decoder import SamDecoder
from hela_store.store.store import Store

from .checkpoint import checkpoint_of


def decoder_file(store: Store, run: RunInfo | None) -> Path:
    """Return the file with a run's decoder or adapters; None stands for the decoder that came with the encoder."""
    return checkpoint_of(store, run).file


def decoder_of(store: Store, run: RunInfo | None, device: str | torch.device = "cpu") -> SamDecoder:
    """Return the decoder of a fine-tuning run, adapters merged, or the one that came with the encoder.

    Parameters
    ----------
    store : from :func:`hela_store.embedding.encoders.store_of`
    run : None for zero-shot

    Raises
    ------
    CheckpointError, RunError
        Weights are missing, damaged or do not fit.
    """
    return checkpoint_of(store, run).load_decoder(device)
