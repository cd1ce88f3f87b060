"""The trainer of decoders, detectors and U-Nets: a loop that can be interrupted at any time and resumed.

A step depends only on the seed, its number and the weights before it. A run that was killed therefore continues from
its last saved state and ends in the same weights, to the bit, whatever the number of loader processes: on a CPU at the
same number of threads, and on one kind of GPU with one version of torch. The state is one durable file of tensors: it
is never half written and never unpickled.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hela_store.base.files import write_atomic
from hela_store.base.progress import Progress
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import RunError
from hela_store.runs.folder import RunFolder, new_run, take_up
from hela_store.runs.leftovers import STATE as STATE
from hela_store.sam.devices import repeatable

from .settings import same_training

Tensors = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module, contravariant=True)
Batch = TypeVar("Batch", contravariant=True)
OPTIMIZER = "optimizer"
STATE_FORMAT = 3
"""Version of the state file. Format 1 had no number, and one form for decoders and another for networks; in format 2
the best score was that of all validation cells, in 3 it is that of the half that chooses."""
SAVE_SECONDS = 60.0
"""The longest time between two saves, in seconds."""


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
    write_atomic(path, safetensors_bytes(plain, about))


def load_training(path: Path, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensors], dict[str, str]]:
    """Read what :func:`save_training` wrote and restore the optimiser; return the parts and ``about``.

    Raises
    ------
    RunError
        The file is missing, damaged, or belongs to another optimiser.
    """
    parts, about = _read(path)
    _restore(path, optimizer, parts)
    return parts, about


def _read(path: Path) -> tuple[dict[str, Tensors], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    parts: dict[str, Tensors] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts, about


def _restore(path: Path, optimizer: torch.optim.Optimizer, parts: dict[str, Tensors]) -> None:
    try:
        state = optimizer.state_dict()
        for name, value in parts.pop(OPTIMIZER, {}).items():
            number, field_name = name.split(".")
            state["state"].setdefault(int(number), {})[field_name] = value
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged ({error}); delete {path.parent} and start the run again")


def adamw(parameters: Sequence[Tensor], *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW for parameters of one device; on a GPU a step is few kernels, where it would be some for each."""
    fused = True if parameters[0].device.type == "cuda" else None
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused)


def open_run(
    store_path: Path,
    kind: str,
    config: Mapping[str, Any],
    *,
    label: str,
    parent: str | None = None,
    resume: bool = True,
) -> RunFolder:
    """Return the folder of the last interrupted run with this configuration, or that of a new run.

    Parameters
    ----------
    store_path, kind, config, label, parent : as for :func:`hela_store.runs.folder.new_run`
    resume : False always starts a new run
    """
    folder = take_up(store_path, kind, STATE, lambda other: same_training(other, config)) if resume else None
    return folder or new_run(store_path, kind, config, parent=parent, label=label)


def _state_dict(network: nn.Module) -> Tensors:
    return dict(network.state_dict())


def _load_state_dict(network: nn.Module, values: Tensors) -> None:
    network.load_state_dict(values)


_PLAIN = ("step", "best_step", "best_score", "stale", "losses", "seconds")


@dataclass(kw_only=True)
class Training(Generic[Network]):
    """A network in training, with everything that a resumed run needs.

    Attributes
    ----------
    network, optimizer : as they are after ``step`` steps
    read, write : how the network's weights are read and set; all of its state where nothing is given
    ema : decay of a running average of the weights, which is then validated and kept; 0 for none
    mean : the running average, by name; empty where none is kept
    best : weights at the best validation so far, which was at ``best_step`` and had ``best_score``
    stale : number of validations since then
    losses : losses of the steps since the last line of the log
    began : start on the monotonic clock, moved as if the training had never been interrupted
    """

    network: Network
    optimizer: torch.optim.Optimizer
    read: Callable[[Network], Tensors] = _state_dict
    write: Callable[[Network, Tensors], None] = _load_state_dict
    ema: float = 0.0
    mean: Tensors = field(init=False)
    best: Tensors = field(init=False)
    step: int = 0
    best_step: int = 0
    best_score: float = -1.0
    stale: int = 0
    losses: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.best = self.weights()
        self.mean = self.weights() if self.ema else {}

    def weights(self) -> Tensors:
        """Return a copy of the network's weights, by name."""
        return {name: value.detach().clone() for name, value in self.read(self.network).items()}

    @property
    def seconds(self) -> float:
        """Time spent on the training so far."""
        return time.monotonic() - self.began

    @seconds.setter
    def seconds(self, spent: float) -> None:
        self.began = time.monotonic() - spent

    @torch.no_grad()
    def update_mean(self) -> None:
        """Move the running average, if one is kept, towards the weights after ``step`` steps.

        The first steps weigh more, so that the weights of the beginning are soon forgotten (as in TensorFlow's
        ``ExponentialMovingAverage``).
        """
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        if self.mean:
            values = self.read(self.network)
            torch._foreach_lerp_(list(self.mean.values()), [values[name] for name in self.mean], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[Network]:
        """Lend the network for validation: in evaluation mode, with the averaged weights where they are kept."""
        own = self.weights() if self.mean else {}
        if self.mean:
            self.write(self.network, own | self.mean)
        try:
            yield self.network.eval()
        finally:
            if self.mean:
                self.write(self.network, own)
            self.network.train()

    def judge(self, score: float, margin: float = 0.0) -> None:
        """Count a validation, and keep the network's weights if the score beats the best by more than ``margin``."""
        self.stale += 1
        if score > self.best_score + margin:
            self.best, self.best_score, self.best_step, self.stale = self.weights(), score, self.step, 0

    def save(self, folder: RunFolder) -> None:
        """Write the state file; StoreError if there is no space, and then the previous file is still there."""
        about = {name: json.dumps(getattr(self, name)) for name in _PLAIN} | {"format": str(STATE_FORMAT)}
        parts = {"network": self.read(self.network), "best": self.best, "mean": self.mean}
        save_training(folder.path / STATE, parts, self.optimizer, about)

    def resume(self, folder: RunFolder) -> None:
        """Continue from the state file, if there is one, and drop later lines of the log.

        Raises
        ------
        RunError
            The file is damaged, or another version of hela-store wrote it.
        CheckpointError
            It belongs to another network.
        """
        path = folder.path / STATE
        if not path.exists():
            return
        parts, about = _read(path)
        if about.get("format") != str(STATE_FORMAT):
            raise RunError(
                f"{path} has state format {about.get('format', '1')}, expected {STATE_FORMAT}: another version of "
                f"hela-store began this run; delete {folder.path} and start the run again"
            )
        _restore(path, self.optimizer, parts)
        try:
            plain = {name: json.loads(about[name]) for name in _PLAIN}
            self.write(self.network, parts["network"])
            self.best = parts["best"]
            self.mean = {name: parts["mean"][name].to(value.device) for name, value in self.mean.items()}
        except (KeyError, ValueError, RuntimeError) as error:
            raise _damaged(path, error) from None
        for name, value in plain.items():
            setattr(self, name, value)
        folder.rewind(self.step)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of one validation.

    Attributes
    ----------
    score : higher is better; decides which weights are kept and when to stop
    row : values for the line of the log
    best_as : name under which the log also gets the best score so far; empty for none
    """

    score: float
    row: dict[str, Any]
    best_as: str = ""


class NotFinite(Exception):
    """A loss or gradient is infinite or NaN."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.where = where


class Task(Protocol[AnyNetwork, Batch]):
    """Task of a training: what a network learns, and how it is judged."""

    def learn(self, network: AnyNetwork, batch: Batch) -> Tensor:
        """Add the gradients of one step's loss; return what :meth:`loss` reads, (N,), and do not wait for a GPU."""
        ...

    def loss(self, batch: Batch, values: list[float]) -> float:
        """Return the loss from the values that :meth:`learn` returned; :class:`NotFinite` if it is not finite."""
        ...

    def validate(self, network: AnyNetwork) -> Verdict:
        """Judge a network that is in evaluation mode."""
        ...

    def where(self, batch: Batch) -> str:
        """Describe a batch for an error message, e.g. ``"view v, cells a, b"``; empty for nothing to say."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Describe how long a training lasts and how often it is looked at.

    Attributes
    ----------
    what : name of the work for the progress bar
    steps : optimiser steps at most
    rate : learning rate by step
    clip : largest norm of the gradient
    evaluate_every : steps between validations; the last step is validated, too. 0 for no validation
    log_every : steps between lines of the log without a validation; 0 for none
    patience : the training stops after this many validations without a better one; 0 for never
    margin : by how much a score must beat the best to count as better
    way_out : what to do where a loss is not finite
    """

    what: str
    steps: int
    rate: Callable[[int], float]
    clip: float
    evaluate_every: int = 0
    log_every: int = 0
    patience: int = 0
    margin: float = 0.0
    way_out: str = "lower --lr"


@dataclass(frozen=True, kw_only=True)
class Trainer(Generic[Network, Batch]):
    """Trains a network for a task; ``state`` is changed in place and saved to ``folder``.

    Attributes
    ----------
    state : from :class:`Training`, resumed or new
    plan : Plan
    task : Task
    folder : of the run; its log is appended to. None for a training of which nothing is kept
    """

    state: Training[Network]
    plan: Plan
    task: Task[Network, Batch]
    folder: RunFolder | None

    @property
    def left(self) -> range:
        """Numbers of the steps that are still to be done; empty after an early stop."""
        return range(self.state.step, self.state.step if self._patience_is_over() else self.plan.steps)

    def run(self, batches: Iterable[Batch], progress: Progress) -> None:
        """Train to the end, or until validations brought nothing for too long.

        Parameters
        ----------
        batches : one for each step of :attr:`left`
        progress : shown step by step

        Raises
        ------
        RunError
            A loss or gradient is not finite; the weights before that step are saved.
        """
        with repeatable(next(self.state.network.parameters()).device):
            self._run(batches, progress)

    def _run(self, batches: Iterable[Batch], progress: Progress) -> None:
        state, plan = self.state, self.plan
        what = plan.what + (f", resumed at step {state.step}" if state.step else "")
        what += ", may stop early" if plan.patience else ""
        saved = time.monotonic()
        state.network.train()
        # Ctrl-C may come in the middle of a step, so a state is saved only between whole steps
        for batch in progress(batches, total=len(self.left), what=what):
            state.losses.append(self._step(batch))
            state.step += 1
            state.update_mean()
            every = plan.evaluate_every
            judged = every > 0 and (state.step % every == 0 or state.step == plan.steps)
            if judged:
                self._validate()
            elif plan.log_every and state.step % plan.log_every == 0:
                self._log()
            if judged or time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
            if self._patience_is_over():
                break

    def _patience_is_over(self) -> bool:
        return 0 < self.plan.patience <= self.state.stale

    def _step(self, batch: Batch) -> float:
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = self.plan.rate(state.step)
        state.optimizer.zero_grad()
        try:
            learned = self.task.learn(state.network, batch).detach()
            parameters = [value for value in state.network.parameters() if value.requires_grad]
            clipped = torch.nn.utils.clip_grad_norm_(parameters, self.plan.clip)
            # all at once, and after all of the step: a GPU is waited for here
            *values, norm = torch.cat([learned, clipped.to(learned)[None]]).tolist()
            loss = self.task.loss(batch, values)
            if not math.isfinite(norm):
                raise NotFinite(f"the gradient became {norm}", self.task.where(batch))
        except NotFinite as found:
            self._save()
            where = f" ({found.where})" if found.where else ""
            kept = f"; the last good weights are in {self.folder.path}" if self.folder else ""
            raise RunError(f"{found} at step {state.step}{where}; {self.plan.way_out}{kept}") from None
        state.optimizer.step()
        return loss

    def _validate(self) -> None:
        with self.state.averaged() as network:
            verdict = self.task.validate(network)
            self.state.judge(verdict.score, self.plan.margin)
        best = {verdict.best_as: self.state.best_score} if verdict.best_as else {}
        self._log(**verdict.row, **best)

    def _log(self, **row: object) -> None:
        state = self.state
        loss, rate = float(np.mean(state.losses)), self.plan.rate(state.step - 1)
        if self.folder is not None:
            self.folder.log(step=state.step, loss=loss, lr=rate, **row)
        state.losses = []

    def _save(self) -> None:
        if self.folder is not None:
            self.state.save(self.folder)
