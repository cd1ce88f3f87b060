"""All that a resumed training needs in one durable file of tensors: never half there, never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import RunError
from .files import write_atomic

Tensors = dict[str, Tensor]
OPTIMIZER = "optimizer"
STATE = "state.safetensors"
"""Name of the file in the folder of a run."""
SAVE_SECONDS = 60.0
"""How often it is written at least."""


def save_training(
    path: Path, parts: Mapping[str, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer, about: dict[str, str]
) -> None:
    """Write named sets of tensors and the optimiser's state.

    Parameters
    ----------
    path : ``*.safetensors``
    parts : e.g. ``{"decoder": decoder.state_dict()}``
    about : plain values, kept as text: step, scores, configuration
    """
    tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}.{number}.{name}": value for name, value in values.items()}
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(plain, metadata=about))


def load_training(path: Path, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensors], dict[str, str]]:
    """Read what :func:`save_training` wrote and put the optimiser where it was; returns the parts and ``about``.

    Raises
    ------
    RunError
        The file is missing, damaged, or of another optimiser.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        parts: dict[str, Tensors] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        state = optimizer.state_dict()
        for name, value in parts.pop(OPTIMIZER, {}).items():
            number, field = name.split(".")
            state["state"].setdefault(int(number), {})[field] = value
        optimizer.load_state_dict(state)
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); delete {path.parent} and start the run again") from None
    return parts, about


def same_training(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations give the same weights; loader processes only say how the work is done."""
    return _deciding(one) == _deciding(other)


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "workers"}
