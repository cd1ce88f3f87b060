"""Say what a file is that is not a SAM: another model, or damage; and the way out."""

from __future__ import annotations

import pickle
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile, is_zipfile

from torch import Tensor

from hela_store.base.text import first_line

ZIP = b"PK\x03\x04"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
AGAIN = "copy or fetch it again"
NO_SAM = "use a SAM checkpoint (vit_t, vit_b, vit_l, vit_h)"
EXPORT = "export the model with micro_sam.util.export_custom_sam_model and pass that file"
POSITIONS = (1, 64, 64)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model that is not SAM.

    Attributes
    ----------
    name : what it is, as a clause behind "is"
    known : whether tensors, by name, are of it
    way_out : what to do instead
    """

    name: str
    known: Callable[[Mapping[str, Tensor]], bool]
    way_out: str = NO_SAM


def _key(part: str) -> Callable[[Mapping[str, Tensor]], bool]:
    return lambda tensors: any(part in name for name in tensors)


def _start(*parts: str) -> Callable[[Mapping[str, Tensor]], bool]:
    return lambda tensors: any(name.startswith(parts) for name in tensors)


def _only_lora(tensors: Mapping[str, Tensor]) -> bool:
    return any(
        "lora" in name.lower() or ".w_a_linear_" in name or ".w_b_linear_" in name for name in tensors
    ) and not _key("patch_embed")(tensors)


def _other_size(tensors: Mapping[str, Tensor]) -> bool:
    for name in ("image_encoder.pos_embed", "vision_encoder.pos_embed"):
        if name in tensors and tensors[name].ndim == 4:
            return tuple(tensors[name].shape[:3]) != POSITIONS
    return False


FOREIGN = (
    Foreign(
        name="a SAM-HQ, whose mask decoder needs features that are not stored",
        known=_key("mask_decoder.hf_token"),
        way_out="use the plain SAM it was made from",
    ),
    Foreign(
        name="a SAM 3",
        known=lambda tensors: (
            _start("tracker_model.", "detector_model.")(tensors)
            or (_start("detector.")(tensors) and _start("tracker.")(tensors))
        ),
    ),
    Foreign(
        name="a SAM 2 (or 2.1, MedSAM2), whose decoder needs embeddings of three sizes",
        known=_start("image_encoder.trunk.", "sam_mask_decoder.", "vision_encoder.backbone."),
    ),
    Foreign(name="an EfficientSAM", known=_key("prompt_encoder.bbox_top_left_embeddings")),
    Foreign(
        name="a Cellpose-SAM (cpsam), which has no prompts",
        known=lambda tensors: "out.weight" in tensors and _start("encoder.patch_embed.")(tensors),
    ),
    Foreign(name="a CellSAM", known=_start("cellfinder.", "model_cp.")),
    Foreign(
        name="only the decoder of micro-sam's automatic segmentation",
        known=lambda tensors: _start("decoder_head.", "out_conv.")(tensors) and not _key("patch_embed")(tensors),
        way_out="pass the file of the model it belongs to (vit_b_lm for vit_b_lm_decoder)",
    ),
    Foreign(
        name="only low-rank adapters (LoRA), without the SAM they belong to",
        known=_only_lora,
        way_out="merge them into their SAM with the tool that made them, and pass that file",
    ),
    Foreign(
        name="a SAM with micro-sam's adapters of another kind than LoRA",
        known=lambda tensors: (
            _key(".FacTu.")(tensors) or _key("qkv.layer.weight")(tensors) or _key(".adapter_")(tensors)
        ),
        way_out="fine-tune with LoRA there, or without adapters",
    ),
    Foreign(
        name="a SAM for other images than 1024 x 1024 px",
        known=_other_size,
        way_out="use one for 1024 x 1024 px, with position embeddings of 64 x 64",
    ),
)


def foreign(tensors: Mapping[str, Tensor]) -> str | None:
    """Say which other model tensors are of, as a clause behind the file's name; None for what may be a SAM."""
    for model in FOREIGN:
        if model.known(tensors):
            detail = ""
            if model.known is _other_size:
                shape = next(tensors[n].shape for n in tensors if n.endswith("_encoder.pos_embed"))
                detail = f": its position embeddings are {shape[1]} x {shape[2]}"
            return f"is {model.name}{detail}; {model.way_out}"
    return None


def instead(path: Path, error: Exception) -> str:
    """Say what a file that cannot be read as a checkpoint is; only one that lacks bytes can be fetched again."""
    with path.open("rb") as file:
        head = file.read(256)
    text = head.removeprefix(BOM_UTF8).lstrip().lower()
    if not head:
        return f"is damaged or not a checkpoint: it is empty; {AGAIN}"
    if not head.strip(b"\0"):
        return f"is damaged or not a checkpoint: it begins with zeros, where nothing was written; {AGAIN}"
    if head.startswith(LFS_POINTER):
        return "is a Git LFS pointer, not the weights it stands for; fetch them with `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml")):
        return (
            "is not a SAM checkpoint but a web page, damaged or not a checkpoint at its address; open the address in a "
            "browser and save the file itself"
        )
    if path.suffix == ".onnx" or (head[0] == 8 and head[2:3] == b"\x12" and b"onnx" in text + path.name.encode()):
        return f"is not a SAM checkpoint but an ONNX graph; {NO_SAM}"
    if head.startswith(ZIP) and is_zipfile(path) and _is_script(path):
        return "is not a SAM checkpoint but a TorchScript program, which is not run; save the model's state_dict()"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "is not a SAM checkpoint, or holds objects other than tensors; only tensors are read, and nothing in it "
            f"was run; save the model's state_dict(), or {EXPORT}"
        )
    reason = first_line(error)[:120]
    torn = "incomplete" in reason.lower() or "unexpected EOF" in reason or isinstance(error, EOFError)
    if torn or (head.startswith(ZIP) and not is_zipfile(path)):
        return f"is damaged or not a checkpoint: bytes are missing ({reason}); {AGAIN}"
    return f"is damaged or not a checkpoint ({reason}); expected the .pth, .pt or .safetensors file of a SAM"


def _is_script(path: Path) -> bool:
    with ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
