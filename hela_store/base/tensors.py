"""Safetensors files that are equal to the byte where their tensors and metadata are equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = 8
"""Bytes of the header's length before it; the header ends at a multiple of this (safetensors, README, "Format")."""


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file, its metadata in order."""
    from safetensors.torch import save

    return in_order(save(dict(tensors), metadata=dict(metadata)))


def in_order(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in alphabetical order.

    The package writes the metadata in an order that differs from process to process, so that a digest of the file
    would name the process, too.
    """
    begin = LENGTH + int.from_bytes(data[:LENGTH], "little")
    header = json.loads(data[LENGTH:begin])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH)
    return len(text).to_bytes(LENGTH, "little") + text + data[begin:]
