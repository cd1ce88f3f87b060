"""Low-rank adapters beside the frozen linear layers of segment-anything's own modules.

LoRA (Hu et al. 2022): ``W x + B A x`` with ``A`` random and ``B`` zero, so that a fresh adapter changes nothing.
Conv-LoRA (Zhong et al., ICLR 2024): ``W x + B (u + expert(u))``, ``u = A x``, where the expert that a gate picks for
the view convolves ``u`` at 1 to 8 times its resolution.

An adapted layer keeps ``weight`` and ``bias``, and its ``weight`` is the merged one: the folded decoder
(:mod:`hela_store.sam.fast_decoder`) reads weights where a stock one calls the layer. In the layer that peft (0.21)
makes,
``weight`` is the frozen one, so that a folded decoder would pass over the adapter without a word; peft also takes the
fused projection to q, k and v as one layer, and has no Conv-LoRA. Hence own code.

Shape suffixes: B views, H rows, W columns, C channels, R rank, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, pad, softplus

from hela_store.base.rng import generator
from hela_store.errors import CheckpointError, RecipeError

from .resize import resize

EXPERTS = 8
"""Resolutions of Conv-LoRA's experts, 1 to 8 times that of the tokens, as its authors' code has it."""


class LowRank(nn.Module):
    """``B A x``; ``a`` is (R, inputs), ``b`` (outputs, R)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def draw(self, *key: int | str) -> None:
        """Fill ``a`` as a linear layer's weight, from its key alone, and ``b`` with zeros."""
        _fill(self.a, 1 / math.sqrt(self.a.shape[1]), *key)
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the frozen layer's output."""
        return linear(linear(x, self.a), self.b)

    def change(self) -> Tensor:
        """Return what is added to the frozen layer's weight, (outputs, inputs)."""
        return self.b @ self.a


class ConvLowRank(LowRank):
    """``B (u + p expert(u))`` with ``u = A x`` over all tokens of a view.

    The gate is noisy top-1 (Shazeer et al. 2017) on the mean of ``u``. The chosen expert's output is scaled by its
    share ``p`` (Fedus et al. 2022), so that the gate learns from the loss itself: with a view a step there is no batch
    to balance the experts over, which is how Conv-LoRA's authors train theirs.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs, rank)
        self.experts = nn.ModuleList(nn.Conv2d(rank, rank, 3, padding=1) for _ in range(EXPERTS))
        self.gate = nn.Parameter(torch.zeros(EXPERTS, rank))
        self.spread = nn.Parameter(torch.zeros(EXPERTS, rank))
        self.noise: Tensor | None = None

    def draw(self, *key: int | str) -> None:
        """Fill all but the gate, which begins without a preference."""
        super().draw(*key)
        for number, expert in enumerate(self.experts):
            assert isinstance(expert, nn.Conv2d) and expert.bias is not None
            _fill(expert.weight, 1 / math.sqrt(9 * expert.in_channels), *key, number)
            nn.init.zeros_(expert.bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return what is added to the frozen layer's output, (B, H, W, outputs)."""
        u_BHWR = linear(x_BHWC, self.a)
        return linear(u_BHWR + self._mixed(u_BHWR), self.b)

    def change(self) -> Tensor:
        """Refuse: convolutions that depend on the view are no matrix."""
        raise CheckpointError("a Conv-LoRA adapter depends on the view and cannot be merged into the encoder's weights")

    def _mixed(self, u_BHWR: Tensor) -> Tensor:
        mean_BR = u_BHWR.mean((1, 2))
        scores_BE = linear(mean_BR, self.gate)
        if self.training and self.noise is not None:
            scores_BE = scores_BE + self.noise.to(scores_BE.device, non_blocking=True) * softplus(
                linear(mean_BR, self.spread)
            )
        shares_BE = scores_BE.float().softmax(1)
        out = []
        for u_HWR, shares_E in zip(u_BHWR, shares_BE, strict=True):
            best = int(shares_E.argmax())
            out.append(shares_E[best] * _convolved(self.experts[best], u_HWR.permute(2, 0, 1)[None], best + 1))
        return torch.cat(out).permute(0, 2, 3, 1)


def _convolved(expert: nn.Module, u_1RHW: Tensor, ratio: int) -> Tensor:
    if ratio == 1:
        return gelu(expert(u_1RHW))
    height, width = u_1RHW.shape[2:]
    fine = resize(u_1RHW, (ratio * height, ratio * width), "bicubic")
    return resize(gelu(expert(fine)), (height, width), "bicubic")


class AdaptedLinear(nn.Module):
    """A frozen linear layer and adapters of some of its outputs.

    Parameters
    ----------
    base : as it was
    parts : adapters by name; each changes the outputs from its start on, and all of them have one length
    """

    def __init__(self, base: nn.Linear, parts: Mapping[str, tuple[int, LowRank]]) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.parts = nn.ModuleDict({name: part for name, (_, part) in parts.items()})
        self.starts = {name: start for name, (start, _) in parts.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with what the adapters add."""
        out: Tensor = self.base(x)
        for name, part in self.parts.items():
            change = part(x)
            before = self.starts[name]
            out = out + pad(change, (before, out.shape[-1] - before - change.shape[-1]))
        return out

    @property
    def weight(self) -> Tensor:
        """The merged weight, (outputs, inputs); CheckpointError where there is none (Conv-LoRA)."""
        out: Tensor = self.base.weight
        for name, part in self.parts.items():
            assert isinstance(part, LowRank)
            change, before = part.change(), self.starts[name]
            out = out + pad(change, (0, 0, before, len(out) - before - len(change)))
        return out

    @property
    def bias(self) -> Tensor | None:
        """Bias of the frozen layer."""
        return self.base.bias


def adapt_linear(
    root: nn.Module, name: str, parts: Mapping[str, int], rank: int, *, conv: bool = False, seed: int = 0
) -> None:
    """Put adapters beside one linear layer.

    Parameters
    ----------
    root : changed in place
    name : of the layer, as in ``root.named_modules()``
    parts : first output of each adapter, by name; all of one length
    rank : of each
    conv : Conv-LoRA instead of LoRA
    seed : of the first values, which depend on it and the names alone

    Raises
    ------
    RecipeError
        The rank is no rank of such a layer.
    """
    base = root.get_submodule(name)
    assert isinstance(base, nn.Linear)
    outputs = base.out_features // 3 if set(parts) <= {"q", "k", "v"} else base.out_features
    if not 1 <= rank <= min(base.in_features, outputs):
        raise RecipeError(
            f"rank is {rank}, expected 1 to {min(base.in_features, outputs)}: {name} has {base.in_features} inputs and "
            f"{outputs} outputs"
        )
    made = {}
    for part, start in parts.items():
        low = (ConvLowRank if conv else LowRank)(base.in_features, outputs, rank)
        low.draw("adapter", seed, name, part)
        made[part] = (start, low.to(base.weight.device))
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, AdaptedLinear(base, made))


def merge(root: nn.Module) -> None:
    """Replace every adapted layer by a plain one with the merged weight; those with Conv-LoRA stay as they are."""
    for name, module in list(root.named_modules()):
        if isinstance(module, AdaptedLinear) and not any(isinstance(p, ConvLowRank) for p in module.parts.values()):
            base = module.base
            base.weight = nn.Parameter(module.weight.detach(), requires_grad=False)
            parent, _, leaf = name.rpartition(".")
            setattr(root.get_submodule(parent), leaf, base)


def draw_noise(modules: Iterable[nn.Module], *key: int | str) -> None:
    """Set the gates' noise of one training step; it depends on the key and the order of the gates alone."""
    gates = [module for module in modules if isinstance(module, ConvLowRank)]
    for number, gate in enumerate(gates):
        drawn = generator("gate", *key, number).normal(size=EXPERTS)
        gate.noise = torch.from_numpy(drawn).float()


def _fill(parameter: Tensor, bound: float, *key: int | str) -> None:
    drawn = generator(*key).uniform(-bound, bound, size=tuple(parameter.shape))
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(drawn))
