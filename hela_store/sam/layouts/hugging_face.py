"""Hugging Face's ``SamModel``: its names of tensors, and its ``config.json``, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hela_store.base.text import first_line
from hela_store.errors import CheckpointError
from hela_store.sam.build import build_sam

from .read import same

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PATCH = "vision_encoder.patch_embed.projection.weight"
MATRIX = "shared_image_embedding.positional_embedding"
TIED = "prompt_encoder.shared_embedding.positional_embedding"
"""One matrix under two names; a file may have either, or both."""
WAY_OUT = "use a SamModel of facebook/sam-vit-base, -large or -huge, or one fine-tuned from it"
SLIM = {384: "SlimSAM-50", 168: "SlimSAM-77"}
SIZES = {"vit_b": (768, 12, 12, 3), "vit_l": (1024, 24, 16, 6), "vit_h": (1280, 32, 16, 8)}
"""Width, blocks, heads, and every how many blocks attention is over the whole grid."""
VISION: dict[str, dict[str, Any]] = {
    name: {
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "global_attn_indexes": list(range(every - 1, blocks, every)),
    }
    for name, (width, blocks, heads, every) in SIZES.items()
}
COMMON = {"image_size": 1024, "patch_size": 16, "window_size": 14, "output_channels": 256, "layer_norm_eps": 1e-6}
COMMON |= {"qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True}
"""What all of them have, and what a config that leaves it out means."""
RULES = tuple(
    (re.compile(rule), name)
    for rule, name in (
        (r"^image_encoder\.", "vision_encoder."),
        (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
        (r"\.neck\.0\.", ".neck.conv1."),
        (r"\.neck\.1\.", ".neck.layer_norm1."),
        (r"\.neck\.2\.", ".neck.conv2."),
        (r"\.neck\.3\.", ".neck.layer_norm2."),
        (r"\.point_embeddings\.", ".point_embed."),
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", MATRIX),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"(_head|_mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
        (r"(_head|_mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
        (r"(_head|_mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
    )
)


def their_name(name: str) -> str:
    """Return Hugging Face's name of one of segment-anything's tensors."""
    for rule, instead in RULES:
        name = rule.sub(instead, name)
    return name


def is_hugging_face(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether names are those of a ``SamModel``."""
    return PATCH in tensors


def from_hugging_face(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a ``SamModel``'s tensors by segment-anything's names.

    Parameters
    ----------
    tensors : by Hugging Face's names
    path : their file; where ``config.json`` is beside it, it is compared with the stock architecture

    Raises
    ------
    CheckpointError
        Another width than SAM's, a config that asks for another computation, names nobody knows, or the matrix of
        position frequencies twice with different values.
    """
    width = tensors[PATCH].shape[0] if tensors[PATCH].ndim else 0
    architecture = next((name for name, vision in VISION.items() if vision["hidden_size"] == width), None)
    if architecture is None:
        what = SLIM.get(width, "a SamModel")
        raise CheckpointError(f"{path} is {what} of width {width}, expected 768, 1024 or 1280; {WAY_OUT}")
    _check_config(path.parent / CONFIG, architecture)
    if MATRIX in tensors and TIED in tensors and not same(tensors[MATRIX], tensors[TIED]):
        raise CheckpointError(f"{path}: {MATRIX} and {TIED} are one matrix, but differ; pass a file where they agree")
    ours = {their_name(name): name for name in build_sam(architecture).state_dict()}
    ours[TIED] = ours[MATRIX]
    strange = [name for name in tensors if name not in ours]
    if strange:
        raise CheckpointError(
            f"{path} has {len(strange)} tensors a SamModel does not have, first {strange[0]}; {WAY_OUT}"
        )
    return {ours[name]: value for name, value in tensors.items()}


def _check_config(path: Path, architecture: str) -> None:
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text())
        kind, vision = config.get("model_type", "sam"), COMMON | VISION["vit_b"] | config.get("vision_config", {})
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not the config of a SamModel ({first_line(error)[:80]}); restore it"
        ) from None
    if kind != "sam":
        raise CheckpointError(f"{path} is of a {kind!r} model, expected 'sam'; {WAY_OUT}")
    for name, value in (COMMON | VISION[architecture]).items():
        if vision[name] != value:
            raise CheckpointError(f"{path} has {name} {vision[name]}, {architecture} has {value}; {WAY_OUT}")


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return segment-anything's tensors by Hugging Face's names, the tied matrix once, as it writes it."""
    return {their_name(name): value for name, value in tensors.items()}


def config_of(architecture: str) -> dict[str, Any]:
    """Return the ``config.json`` of a ``SamModel`` of this architecture."""
    vision = VISION[architecture] | COMMON
    vision |= {"model_type": "sam_vision_model", "mlp_dim": 4 * vision["hidden_size"], "mlp_ratio": 4.0}
    vision |= {"num_channels": 3, "num_pos_feats": 128, "hidden_act": "gelu", "attention_dropout": 0.0}
    prompt = {"model_type": "sam_prompt_encoder", "hidden_size": 256, "image_size": 1024, "patch_size": 16}
    prompt |= {"image_embedding_size": 64, "mask_input_channels": 16, "num_point_embeddings": 4}
    decoder = {"model_type": "sam_mask_decoder", "hidden_size": 256, "mlp_dim": 2048, "num_hidden_layers": 2}
    decoder |= {"num_attention_heads": 8, "num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 256}
    parts = {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}
    return {"architectures": ["SamModel"], "model_type": "sam", "dtype": "float32", **parts}
