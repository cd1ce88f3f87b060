"""The optimiser of pretraining: Muon for matrices, AdamW for all else.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon)
replaces a matrix's momentum by the nearest orthogonal matrix, so that rare directions learn as fast as common ones.
torch's own does that in bfloat16, which CPUs without bfloat16 instructions emulate at a fifth of float32's speed, and
keeps no AdamW beside it.
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


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return the matrix with its singular values brought near 1 (0.7 to 1.2); float32, (A, B)."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


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
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        parameters = list(named)
        matrices = [value for name, value in parameters if is_matrix(name, value)]
        others = [value for name, value in parameters if not is_matrix(name, value)]
        groups = [{"params": matrices, "is_matrix": True}, {"params": others, "is_matrix": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    (self._muon if group["is_matrix"] else self._adam)(value, value.grad, group)

    def _muon(self, value: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[value]
        if not state:
            state["momentum"] = torch.zeros_like(value)
        average = state["momentum"].lerp_(grad, 1 - group["momentum"])
        update = orthogonalise(grad.lerp(average, group["momentum"]).flatten(1))
        value.mul_(1 - group["lr"] * group["weight_decay"])
        value.add_(update.view(value.shape), alpha=-group["lr"] * LIKE_ADAMW * max(update.shape) ** 0.5)

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
