"""Logistic regression with a ridge: how probable it is that something is right, from a few signs of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RIDGE = 1.0
"""Weight of the squared coefficients: keeps data without a failure from giving certainty."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted regression.

    Attributes
    ----------
    mean, scale, weights : (signs,), by sign
    bias : float
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, signs: npt.ArrayLike) -> Floats:
        """Return the probability of each row of signs, (N, signs), to be right: float64, (N,)."""
        values = np.asarray(signs, float).reshape(-1, len(self.mean))
        z = (values - self.mean) / self.scale @ np.asarray(self.weights) + self.bias
        result: Floats = 1 / (1 + np.exp(-z.clip(-40, 40)))
        return result


def fit_logistic(signs: npt.ArrayLike, right: npt.ArrayLike) -> Logistic:
    """Fit by Newton's method (iteratively reweighted least squares), with a ridge on the weights.

    Parameters
    ----------
    signs : float, (N, signs)
        At least one row.
    right : bool, (N,)
    """
    values, truth = np.asarray(signs, float), np.asarray(right, float)
    mean, scale = values.mean(0), np.maximum(values.std(0), 1e-3)
    x = np.column_stack([(values - mean) / scale, np.ones(len(values))])
    beta, ridge = np.zeros(x.shape[1]), np.diag([RIDGE] * values.shape[1] + [1e-3])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ beta).clip(-30, 30)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(curvature, x.T @ (truth - p) - ridge @ beta)
        beta = beta + step.clip(-5, 5)
        if np.abs(step).max() < 1e-9:
            break
    return Logistic(
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(beta[:-1].tolist()),
        bias=float(beta[-1]),
    )
