"""Read the tensors of a checkpoint file, whatever it is called and whatever else is in it."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor

from hela_store.base.files import digest, sha256_file
from hela_store.base.text import first_line
from hela_store.errors import CheckpointError

from .foreign import instead
from .inert import InertFile
from .limits import check_file, check_tensors

WRAPPERS = ("model", "state_dict", "model_state")
PREFIXES = ("module.", "sam.")
INDEX = ".safetensors.index.json"
IN_FOLDER = ("model.safetensors", "model" + INDEX)
"""Files that stand for a folder of Hugging Face's."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The tensors of a file, and the parts that are left alone.

    Attributes
    ----------
    tensors : by name, without the prefixes of wrappers
    left : names of other parts of the file that hold tensors, and are not used
    """

    tensors: dict[str, Tensor]
    left: tuple[str, ...] = ()


def main_file(path: Path) -> Path:
    """Return the file of a checkpoint: the path itself, or that in a folder of Hugging Face's.

    Raises
    ------
    CheckpointError
        A folder without one.
    """
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path} is a folder without {' or '.join(IN_FOLDER)}; pass the weights file itself")


def weights_sha256(path: Path) -> str:
    """Return the sha256 of a weights file; of an index one that covers it and all files it names."""
    if not path.name.endswith(INDEX):
        return sha256_file(path)
    return digest(sha256_file(path), *(sha256_file(part) for part in _parts(path)))


def read_tensors(path: Path) -> Found:
    """Return the tensors of a file: safetensors, an index of several, or what torch saved.

    Raises
    ------
    CheckpointError
        Not a checkpoint, cut short, or without tensors; files of an index that are missing.
    """
    try:
        if path.name.endswith(INDEX):
            found: Any = _read_parts(path)
        elif path.suffix == ".safetensors":
            found = load_file(path)
        else:
            return _read_torch(path)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # readers of zip files and pickles raise anything on bytes that are neither
        raise CheckpointError(f"{path} {instead(path, error)}") from error
    return Found(tensors=_plain(path, found))


def _read_torch(path: Path) -> Found:
    content: Any = None
    check_file(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd pickles, which become an error
            content = torch.load(path, map_location="cpu", weights_only=True)
        has_objects = False
    except pickle.UnpicklingError:
        if not is_zipfile(path):
            raise
        has_objects = True
    if has_objects:  # outside the except clause, where the error still holds the tensors of the attempt
        return _read_inert(path)
    found, left = _unwrapped(path, content)
    tensors = {name: value for name, value in dict.items(found) if isinstance(value, Tensor)}
    check_tensors(path, tensors.items())
    return Found(tensors=_plain(path, tensors), left=left)


def _read_inert(path: Path) -> Found:
    file = InertFile(path)
    if not isinstance(file.content, dict):
        raise pickle.UnpicklingError("no named tensors")
    found, left = _unwrapped(path, file.content)
    tensors = file.tensors(found)
    if not tensors:
        raise pickle.UnpicklingError("no named tensors")
    check_tensors(path, tensors.items())
    return Found(tensors=_plain(path, tensors), left=left)


def _unwrapped(path: Path, content: Any) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """Return the dictionary with the model's tensors, and the names of others that are left alone."""
    left: tuple[str, ...] = ()
    for name in WRAPPERS:
        if isinstance(content, dict) and isinstance(dict.get(content, name), dict):
            if isinstance(dict.get(content, "decoder_state"), dict):
                left = ("decoder_state",)
            content = dict.get(content, name)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected named tensors of a SAM")
    return content, left


def _plain(path: Path, tensors: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        short = str(name)
        for prefix in PREFIXES:
            short = short.removeprefix(prefix)
        if short in out and not same(out[short], value):
            raise CheckpointError(f"{path} has {short} twice, with different values; pass a file that has it once")
        out[short] = value
    return out


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in shape, type and every value."""
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _parts(index: Path) -> list[Path]:
    """Return the files of an index, in the order of their names; all of them are there."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files ({first_line(error)[:80]})") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names files outside of its folder; expected files beside it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(names)} files, of which {len(missing)} are missing: {', '.join(missing)}; copy them "
            f"into {index.parent}"
        )
    return [index.parent / name for name in names]


def _read_parts(index: Path) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for part in _parts(index):
        try:
            found = load_file(part)
        except Exception as error:
            raise CheckpointError(f"{part} {instead(part, error)}") from error
        for name, value in found.items():
            if name in out and not same(out[name], value):
                raise CheckpointError(f"{index}: two of its files have {name}, with different values")
            out[name] = value
    return out
