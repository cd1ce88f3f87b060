"""Describe how masks differ from the truth, in units of the cell's diameter d: degraded mask prompts are drawn from it.

The generic model is rule "mask prompts". That of one tool is fitted by :mod:`hela_store.prompts.fit_errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hela_store.base.text import percent

BINS: tuple[tuple[float, float], ...] = ((0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9))
"""IoU with the truth of generic masks, lower end included, equal shares."""


@dataclass(frozen=True, kw_only=True)
class ErrorModel:
    """Distribution of the errors of masks.

    Attributes
    ----------
    offset : (float, float)
        Ends of the uniform distribution of how far the boundary lies outside of the truth's, d.
    noise : float
        Rms of the smooth roughness of the boundary, d.
    shift : float
        Standard deviation of the shift along each axis, d.
    merge, cut : float
        Share of the masks that are merged with a neighbour, and that are cut along a straight line.
    bins : tuple of (float, float)
        IoU with the truth, lower end included; the bins have equal shares.
    pairs : int
        Pairs of a mask and a labelled cell that it was fitted on; 0 for the generic model.
    """

    offset: tuple[float, float] = (-0.15, 0.15)
    noise: float = 0.08
    shift: float = 0.08
    merge: float = 0.1
    cut: float = 0.1
    bins: tuple[tuple[float, float], ...] = BINS
    pairs: int = 0

    @property
    def merge_share(self) -> float:
        """Share of the merges among merges and cuts."""
        return self.merge / (self.merge + self.cut) if self.merge + self.cut else 0.0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> ErrorModel:
        """Return the model that plain values, such as those of a run's configuration, describe."""
        bins = tuple((float(low), float(high)) for low, high in plain["bins"])
        return cls(**{**plain, "offset": tuple(plain["offset"]), "bins": bins})

    def __str__(self) -> str:
        """Return it in words."""
        if not self.pairs:
            return "the generic error model"
        low, high = self.bins[0][0], self.bins[-1][1]
        return (
            f"errors measured on {self.pairs} masks and their labels: outlines {self.offset[0]:+.2f} to "
            f"{self.offset[1]:+.2f} diameters too far outside, roughness {self.noise:.2f} and shift {self.shift:.2f} "
            f"diameters, {percent(self.merge)} merged, {percent(self.cut)} cut, IoU {low:.2f} to {high:.2f}"
        )


GENERIC = ErrorModel()
