"""A checkpoint: the decoder that answers prompts, and the embeddings that it reads.

A command resolves the name of a run once, with :func:`resolve_checkpoint`, and hands the result down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hela_store.base.files import sha256_file
from hela_store.embedding.encoders import adapts, store_of
from hela_store.embedding.record import decoder_file
from hela_store.errors import RunError
from hela_store.runs.folder import RunInfo, load_run
from hela_store.sam.adapters import ADAPTER_FILE, apply_adapter
from hela_store.sam.decoder import SamDecoder, load_decoder
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.store import Store

ZERO_SHOT = "zero-shot"
"""Name of the decoder that came with the encoder."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A decoder and the embeddings that it reads.

    Attributes
    ----------
    run : the fine-tuning run; None for the decoder that came with the encoder
    store : the store, with the encoder whose embeddings the decoder reads
    base : the checkpoint that the adapters of this run belong to; None for a run that holds a whole decoder
    """

    run: RunInfo | None
    store: Store
    base: Checkpoint | None = None

    @property
    def id(self) -> str | None:
        """Id of the run; None for the decoder that came with the encoder."""
        return None if self.run is None else self.run.id

    @property
    def name(self) -> str:
        """Id of the run, or ``"zero-shot"``."""
        return self.id or ZERO_SHOT

    @property
    def key(self) -> str:
        """Encoder key of the embeddings that the decoder reads."""
        return self.store.key

    @property
    def window(self) -> int:
        """Positions along each side that a prompt reads: those of the run, or the architecture's default."""
        if self.run is not None:
            return int(self.run.config["window"])
        return DEFAULT_WINDOW[self.store.recipe.encoder.architecture]

    @property
    def file(self) -> Path:
        """The file with the decoder's weights, or with the adapters that were learned beside ``base``."""
        if self.run is None:
            return decoder_file(self.store)
        return self.run.weights if self.base is None else self.run.file(ADAPTER_FILE)

    @property
    def is_blind(self) -> bool:
        """Whether its decoder never saw an image, and is a floor for others."""
        return self.run is not None and bool(self.run.config.get("blind"))

    def load_decoder(self, device: str | torch.device = "cpu", *, floor: bool = False) -> SamDecoder:
        """Return the decoder on a device, adapters merged; an image-blind one only where a ``floor`` is asked for.

        Raises
        ------
        RunError
            It is image-blind.
        CheckpointError
            Weights are missing, damaged or do not fit.
        """
        if self.is_blind and not floor:
            raise RunError(
                f"run {self.id} is image-blind: it was trained without looking at images, as a floor for other "
                "decoders, so only `hela-store evaluate` takes it; choose another with --run"
            )
        if self.base is None:
            return load_decoder(self.file, device, of_run=self.run is not None)
        decoder = self.base.load_decoder()
        apply_adapter(decoder, self.file, self.store.recipe.encoder.architecture, sha256_file(self.base.file))
        return decoder.to(device)


def resolve_checkpoint(store: Store, run: str | None) -> Checkpoint:
    """Return the checkpoint of a fine-tuning run, with the store as its decoder reads it.

    Parameters
    ----------
    store : as its recipe describes it
    run : id of a fine-tuning run, its beginning, or ``"latest"``; None for zero-shot

    Raises
    ------
    RunError
        An unknown run, a run of another kind, or one of another encoder.
    """
    info = None if run is None else load_run(store.path, run, "finetune")
    return checkpoint_of(store_of(store, info), info)


def checkpoint_of(store: Store, run: RunInfo | None) -> Checkpoint:
    """Return the checkpoint of a run that was loaded before; ``store`` has the encoder that its decoder reads."""
    base = None
    if run is not None and adapts(run) == "decoder":
        init = run.config["init"]
        base = checkpoint_of(store, None if init is None else load_run(store.path, init, "finetune"))
    return Checkpoint(run=run, store=store, base=base)
