"""All that a resumed training needs in one durable file of tensors: never half there, never unpickled."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hela_store.base.files import write_atomic
from hela_store.errors import RunError
from hela_store.runs.folder import RunFolder

if TYPE_CHECKING:
    from .config import FinetuneConfig

Tensors = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
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


_PLAIN = ("step", "best_step", "best_score", "stale", "losses", "seconds")


@dataclass
class NetworkTraining(Generic[Network]):
    """A network on its way, and all that a resumed run needs.

    Attributes
    ----------
    network, optimizer : as they are after ``step`` steps
    best : weights at the best validation so far, that of ``best_step``, with ``best_score``
    stale : validations since then
    losses : of the steps since the last line of the log
    began : on the monotonic clock, as if the training had never been interrupted
    """

    network: Network
    optimizer: torch.optim.Optimizer
    best: Tensors = field(init=False)
    step: int = 0
    best_step: int = 0
    best_score: float = -1.0
    stale: int = 0
    losses: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.best = self._weights()

    def _weights(self) -> Tensors:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    @property
    def seconds(self) -> float:
        """Spent on it so far."""
        return time.monotonic() - self.began

    @seconds.setter
    def seconds(self, spent: float) -> None:
        self.began = time.monotonic() - spent

    def judge(self, score: float, margin: float = 0.0) -> None:
        """Count a validation, and keep the weights if it is better than the best by more than ``margin``."""
        self.stale += 1
        if score > self.best_score + margin:
            self.best, self.best_score, self.best_step, self.stale = self._weights(), score, self.step, 0

    def save(self, folder: RunFolder) -> None:
        """Write everything a resumed run needs; StoreError without space, and then the state before is still there."""
        about = {name: json.dumps(getattr(self, name)) for name in _PLAIN}
        parts = {"network": self.network.state_dict(), "best": self.best}
        save_training(folder.path / STATE, parts, self.optimizer, about)

    def load(self, folder: RunFolder) -> None:
        """Go on from what :meth:`save` wrote, and cut the log there; RunError if it is damaged."""
        parts, about = load_training(folder.path / STATE, self.optimizer)
        self.network.load_state_dict(parts["network"])
        self.best = parts["best"]
        for name, value in about.items():
            setattr(self, name, json.loads(value))
        folder.rewind(self.step)


def learning_rate(config: FinetuneConfig, step: int) -> float:
    """Linear warm-up, then a cosine or a line down to a tenth, or none; without warm-up constant, as in the study."""
    if config.optimiser.warmup == 0 and config.optimiser.schedule == "cosine":
        return config.optimiser.lr
    warm = min(1.0, (step + 1) / config.optimiser.warmup) if config.optimiser.warmup else 1.0
    share = min(1.0, step / config.optimiser.steps)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[
        config.optimiser.schedule
    ]
    return config.optimiser.lr * warm * (0.1 + 0.9 * left)
