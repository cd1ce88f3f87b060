"""Merge micro-sam's low-rank adapters (``micro_sam.models.peft_sam``, 1.8) into the weights they learned beside."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from hela_store.errors import CheckpointError

ATTENTION = re.compile(r"(image_encoder\.blocks\.\d+\.attn\.qkv)\.qkv_proj\.(weight|bias)")
LAYER = re.compile(r"(image_encoder\.blocks\.\d+\.mlp)\.mlp_layer\.(lin[12])\.(weight|bias)")
ADAPTER = re.compile(r".*\.w_[ab]_linear_([qkv12])\.weight")


def has_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a SAM has micro-sam's adapters beside its weights."""
    return any(ADAPTER.fullmatch(name) for name in tensors)


def merge_lora(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the plain SAM: ``W + B A`` for each adapted layer (micro-sam's factor alpha is 1).

    Raises
    ------
    CheckpointError
        One of the two matrices of an adapter is missing, or they do not fit.
    """
    out, used = {}, set()
    for name, value in tensors.items():
        attention, layer = ATTENTION.fullmatch(name), LAYER.fullmatch(name)
        if attention:
            place, kind = attention.groups()
            if kind == "weight":
                if value.ndim != 2 or value.shape[0] % 3:
                    raise CheckpointError(f"{name} has shape {tuple(value.shape)}, expected three square matrices")
                value = value.clone()
                for start, part in enumerate("qkv"):
                    used |= _add(tensors, f"{place}.w_{{}}_linear_{part}.weight", value.chunk(3)[start])
            out[f"{place}.{kind}"] = value
        elif layer:
            place, linear, kind = layer.groups()
            if kind == "weight":
                value = value.clone()
                used |= _add(tensors, f"{place}.w_{{}}_linear_{linear[-1]}.weight", value)
            out[f"{place}.{linear}.{kind}"] = value
        elif not ADAPTER.fullmatch(name):
            out[name] = value
    lone = [name for name in tensors if ADAPTER.fullmatch(name) and name not in used]
    if lone:
        raise CheckpointError(f"the adapter {lone[0]} has no layer that it belongs to ({len(lone)} such)")
    return out


def _add(tensors: Mapping[str, Tensor], pattern: str, weight: Tensor) -> set[str]:
    """Add an adapter's product to a weight, in place; return the names of its matrices."""
    names = [pattern.format(part) for part in "ab"]
    there = [name for name in names if name in tensors]
    if len(there) == 1:
        raise CheckpointError(f"the adapter has {there[0]} alone, without its other matrix")
    if there:
        a, b = (tensors[name].double() for name in names)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != weight.shape:
            raise CheckpointError(
                f"the adapter {names[0]}, {tuple(a.shape)} and {tuple(b.shape)}, does not fit a weight of "
                f"{tuple(weight.shape)}"
            )
        weight.copy_((weight.double() + b @ a).to(weight.dtype))
    return set(there)
