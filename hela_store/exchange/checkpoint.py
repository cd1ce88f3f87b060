"""A tuned decoder and an adapted encoder put back into their SAM: one file that segment-anything, or this one, loads.

Adapters are merged into the weights they were learned beside.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from hela_store.base.progress import Progress, silent
from hela_store.base.tensors import safetensors_bytes
from hela_store.embedding.encoders import store_of
from hela_store.errors import CheckpointError, RunError
from hela_store.evaluation.checkpoint import checkpoint_of
from hela_store.runs.default import default_run
from hela_store.runs.folder import RunInfo, load_run
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.layouts.hugging_face import CONFIG, VISION, WEIGHTS, config_of, to_hugging_face
from hela_store.sam.lora import AdaptedLinear
from hela_store.sam.nano import ARCHITECTURES as NANOS
from hela_store.sam.registry import in_domain
from hela_store.store.store import Store

from .target import Targets

CheckpointFormat = Literal["sam", "huggingface"]


@dataclass(frozen=True, kw_only=True)
class CheckpointExport:
    """A file or folder that was written.

    Attributes
    ----------
    path : Path
    run : id of the fine-tuning whose decoder is in it
    architecture : ``"nano"``, ``"nano2"``, ``"vit_t"``, ``"vit_b"``, ``"vit_l"`` or ``"vit_h"``
    tensors, bytes : int
    in_domain : says that the encoder was trained on the store's data set; empty where that is not known
    """

    path: Path
    run: str
    architecture: str
    tensors: int
    bytes: int
    in_domain: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"path": str(self.path)}


def export_checkpoint(
    store: Store,
    run: str | None,
    out: Path,
    *,
    layout: CheckpointFormat = "sam",
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> CheckpointExport:
    """Write encoder and tuned decoder as one checkpoint, float32, adapters merged.

    Parameters
    ----------
    store : Store
    run : a fine-tuning (id, its beginning or ``"latest"``); None for the store's default run
    out : ``.pth`` for ``sam_model_registry``; ``.safetensors`` for nano, which ``new --checkpoint`` takes; a folder for
        Hugging Face
    layout : ``"sam"``, segment-anything's names, or ``"huggingface"``, what ``SamModel.from_pretrained`` opens
    cache_dir : where a fetched official checkpoint lies
    progress : shown while one is fetched

    Raises
    ------
    RunError
        Unknown or damaged run, one of another encoder, an ending that does not fit, an architecture that the layout
        does not have, or a file that is there already.
    CheckpointError
        The encoder's weights are not there, or are others than the store was made with; Conv-LoRA, which is no matrix.
    """
    architecture = store.recipe.encoder.architecture
    _check_out(out, architecture, layout)
    info = tuned_run(store, run)
    store = store_of(store, info)
    encoder = replace(store.recipe.encoder, source="")
    sam = load_sam_encoder(encoder, base=store.path, cache_dir=cache_dir, progress=progress)
    if any(isinstance(module, AdaptedLinear) for module in sam.encoder.modules()):
        raise CheckpointError(
            f"the encoder of run {info.id} has Conv-LoRA adapters, which depend on the view and cannot be merged into "
            "a stock checkpoint; use it here (`hela-store embed --adapter`), or adapt without --conv"
        )
    state = {f"image_encoder.{name}": value for name, value in sam.encoder.state_dict().items()}
    state |= checkpoint_of(store, info).load_decoder().state_dict()
    state = {name: value.detach().contiguous() for name, value in state.items()}
    targets = Targets()
    if layout == "huggingface":
        with targets.folder(out) as partial:
            (partial / WEIGHTS).write_bytes(safetensors_bytes(to_hugging_face(state), {"format": "pt"}))
            (partial / CONFIG).write_text(json.dumps(config_of(architecture), indent=2) + "\n")
    else:
        targets.file(out, _file_bytes(state, architecture, info.id))
    targets.finish()
    file = out / WEIGHTS if layout == "huggingface" else out
    return CheckpointExport(
        path=out,
        run=info.id,
        architecture=architecture,
        tensors=len(state),
        bytes=file.stat().st_size,
        in_domain=in_domain(store.recipe),
    )


def _check_out(out: Path, architecture: str, layout: CheckpointFormat) -> None:
    if layout == "huggingface":
        if architecture not in VISION:
            raise RunError(
                f"a SamModel of Hugging Face has no {architecture}, only {', '.join(VISION)}; leave --format out"
            )
        return
    suffix = ".safetensors" if architecture in NANOS else ".pth"
    if out.suffix != suffix:
        raise RunError(f"--out is {out.name}; a checkpoint of {architecture} ends in {suffix}")


def _file_bytes(state: dict[str, torch.Tensor], architecture: str, run: str) -> bytes:
    if architecture in NANOS:
        return safetensors_bytes(state, {"architecture": architecture, "run": run})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def tuned_run(store: Store, run: str | None) -> RunInfo:
    """Return the fine-tuning that is meant, None for the store's default run; arguments and errors as above."""
    info = default_run(store.path, store.key) if run is None else load_run(store.path, run, "finetune")
    if info is None:
        raise RunError("this store has no default run: no fine-tuning that helped on validation; name a run")
    return info
