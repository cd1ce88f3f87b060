"""The optimiser of pretraining: Muon for matrices, AdamW for all else.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon)
replaces a matrix's momentum by the nearest orthogonal matrix, so that rare directions learn as fast as common ones.
torch's own keeps no AdamW beside it, takes one matrix at a time, and does it in bfloat16 always, which CPUs without
bfloat16 instructions emulate at a fifth of float32's speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al. 2024)."""
ITERATIONS = 5
LIKE_ADAMW = 0.2
"""An update's root mean square, as AdamW's is in practice: both share a learning rate (Liu et al. 2025, Moonlight)."""
SMALLEST_SIDE = 32


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices, (N, A, B), with their singular values brought near 1 (0.7 to 1.2), in the dtype given."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def is_matrix(name: str, value: Tensor) -> bool:
    """Whether Muon takes a parameter: weights of linear layers and convolutions, no tokens or embeddings."""
    if value.dim() not in (2, 4) or not name.endswith("weight"):
        return False
    return min(value.shape[0], value[0].numel()) >= SMALLEST_SIDE


class MuonAdamW(torch.optim.Optimizer):
    """Muon with Nesterov momentum for matrices, AdamW for the other parameters.

    Parameters
    ----------
    named : ``model.named_parameters()``
    lr : of both
    weight_decay : decoupled, of matrices only
    momentum : of Muon
    betas : of AdamW
    dtype : in which Muon iterates; the iteration forgives bfloat16
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        parameters = list(named)
        matrices = [value for name, value in parameters if is_matrix(name, value)]
        others = [value for name, value in parameters if not is_matrix(name, value)]
        groups = [{"params": matrices, "is_matrix": True}, {"params": others, "is_matrix": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            values = [value for value in group["params"] if value.grad is not None]
            if not group["is_matrix"]:
                for value in values:
                    self._adam(value, value.grad, group)
                continue
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for value in values:
                alike.setdefault((value.shape[0], value[0].numel()), []).append(value)
            for same in alike.values():
                self._muon(same, group)

    def _muon(self, values: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape together: many small products in a row leave a CPU idle."""
        wanted = []
        for value in values:
            state = self.state[value]
            assert value.grad is not None
            if not state:
                state["momentum"] = torch.zeros_like(value)
            assert value.grad is not None
            average = state["momentum"].lerp_(value.grad, 1 - group["momentum"])
            wanted.append(value.grad.lerp(average, group["momentum"]).flatten(1))
        updates = orthogonalise(torch.stack(wanted).to(self.dtype)).to(values[0].dtype)
        scale = -group["lr"] * LIKE_ADAMW * max(updates.shape[1:]) ** 0.5
        for value, update in zip(values, updates, strict=True):
            value.mul_(1 - group["lr"] * group["weight_decay"])
            value.add_(update.reshape(value.shape), alpha=scale)

    def _adam(self, value: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[value]
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(value), "square": torch.zeros_like(value)}
        first, second = group["betas"]
        state["step"] += 1
        count = float(state["step"])
        mean = state["mean"].lerp_(grad, 1 - first)
        square = state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
        scale = (square / (1 - second**count)).sqrt_().add_(1e-8)
        value.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**count))
