"""A multinomial model, learned from injected faults, that turns the signs of a label into the chance of each fault.

Each kind of fault weighs as much as it would at :data:`hela_store.audit.config.BASE_RATE`. The store's own labels count
as right here, so its real faults make a model cautious.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .config import BASE_RATE, FAULTS

CLEAN = ""
STRENGTH = 1e-3
"""Weight of the squared coefficients in the loss."""
CLIP = 4.0
"""Standardised signs end here, so that no single one decides without limit."""
STEPS = 200
"""Iterations of L-BFGS at most."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A fitted model.

    Attributes
    ----------
    names : the signs that it looks at
    kinds : kinds of fault that it tells apart, the first is :data:`CLEAN`
    middle, scale : float64, (signs,), median and spread of the signs of labels as they are in the store
    weights : float64, (kinds, 3 signs + 1), the constant last
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    middle: Floats
    scale: Floats
    weights: Floats

    def chances(self, values: Floats) -> Floats:
        """Return the chance of each kind, float64, (rows, kinds), of signs, float64, (rows, signs), NaN for unknown."""
        logits = _expanded(values, self.middle, self.scale) @ self.weights.T
        powers = np.exp(logits - logits.max(1, keepdims=True))
        found: Floats = powers / powers.sum(1, keepdims=True)
        return found

    def reasons(self, values: Floats, kind: int) -> Floats:
        """Return how much each sign speaks for a kind and against a right label, float64, (signs,), of one row."""
        parts = _expanded(values[None], self.middle, self.scale)[0, :-1]
        pull = parts * (self.weights[kind, :-1] - self.weights[0, :-1])
        found: Floats = pull.reshape(3, -1).sum(0)
        return found


def fit(names: Sequence[str], values: Floats, kinds: Sequence[str], labels: int) -> Model:
    """Fit a model.

    Parameters
    ----------
    names : the signs
    values : float64, (rows, signs)
    kinds : kind of fault of each row; :data:`CLEAN` for labels as they are
    labels : how many labels there are, of which a kind of fault makes ``BASE_RATE / 8``

    Returns
    -------
    Model
        Of the kinds that occur.
    """
    there = (CLEAN, *(kind for kind in FAULTS if kind in set(kinds)))
    code = np.array([there.index(kind) for kind in kinds])
    clean = values[code == 0] if (code == 0).any() else values
    middle, scale = _spread(clean, values)
    x = torch.from_numpy(_expanded(values, middle, scale))
    y, counts = torch.from_numpy(code), np.bincount(code, minlength=len(there))
    share = np.array([counts[0], *([labels * BASE_RATE / len(FAULTS)] * (len(there) - 1))], float)
    weight = torch.from_numpy((share / np.maximum(counts, 1))[code])
    weights = torch.zeros((len(there), x.shape[1]), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        own = torch.nn.functional.cross_entropy(x @ weights.T, y, reduction="none")
        found = (own * weight).sum() / weight.sum() + STRENGTH * BASE_RATE * (weights[:, :-1] ** 2).sum()
        found.backward()
        return found

    search.step(loss)
    return Model(names=tuple(names), kinds=there, middle=middle, scale=scale, weights=weights.detach().numpy())


def _spread(clean: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return median and spread of each sign, of right labels, or of all where right ones are all alike."""
    middle, scale = np.zeros(clean.shape[1]), np.ones(clean.shape[1])
    for i, (right, every) in enumerate(zip(clean.T, values.T, strict=True)):
        right, every = right[~np.isnan(right)], every[~np.isnan(every)]
        if len(right):
            low, middle[i], high = np.quantile(right, [0.1, 0.5, 0.9])
            # 2.56 spreads of a normal distribution lie between these quantiles
            scale[i] = (high - low) / 2.56 if high - low > 1e-6 else max(float(np.std(every)), 1e-3)
    return middle, scale


def _expanded(values: Floats, middle: Floats, scale: Floats) -> Floats:
    """Return standardised signs, their squares and their parts below the median, and a constant; unknown ones are 0."""
    plain = np.nan_to_num((values - middle) / scale).clip(-CLIP, CLIP)
    return np.concatenate([plain, plain**2 / CLIP, np.minimum(plain, 0), np.ones((len(plain), 1))], 1)
