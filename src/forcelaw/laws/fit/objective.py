"""What a fit minimises: the weighted sum over points of rho(r), r = ln Lhat - ln L.

- huber: r^2/2 for |r| <= delta, delta (|r| - delta/2) beyond (Hoffmann et al. use delta = 1e-3)
- log: r^2/2, the squared log error
- relative: (Lhat/L - 1)^2 / 2, the squared relative error
- linear: (Lhat - L)^2 / 2, the squared error in units of the loss; for comparison with fits made so

The sum is minimised, never the mean: optimisers stop early on a mean of 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import FitError

KINDS = ("huber", "log", "relative", "linear")
ALIASES = {"mse": "log", "log_mse": "log", "squared_log": "log", "squared_relative": "relative"}


@dataclass(frozen=True)
class Objective:
    """kind: one of :data:`KINDS`; delta: where Huber's loss turns linear (only for huber)."""

    kind: str = "huber"
    delta: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FitError(
                f"{self.kind!r} is not an objective",
                where="objective",
                remedy=f"use {', '.join(KINDS)}",
            )
        if (
            self.kind == "huber"
            and self.delta is not None
            and not (np.isfinite(self.delta) and self.delta > 0)
        ):
            raise FitError(
                f"delta is {self.delta}", where="objective huber", remedy="give a positive number"
            )

    @property
    def bend(self) -> float:
        """delta, where it is settled."""
        assert self.delta is not None
        return self.delta

    @property
    def robust(self) -> bool:
        return self.kind == "huber"

    def rho(self, r: np.ndarray) -> np.ndarray:
        """Loss of each residual."""
        if self.kind == "huber":
            size = np.abs(r)
            inner = np.minimum(size, self.bend)
            return inner * (size - 0.5 * inner)
        if self.kind == "log":
            return 0.5 * r * r
        return 0.5 * np.expm1(r) ** 2

    def slopes(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """psi = rho'(r), the weight of the safe quadratic (psi/r, a majoriser of Huber's loss), and
        that of the Gauss-Newton quadratic where it differs."""
        if self.kind == "huber":
            size = np.abs(r)
            safe = self.bend / np.maximum(size, self.bend)
            return r * safe, safe, (size <= self.bend).astype(r.dtype)
        if self.kind == "log":
            return r, np.ones_like(r), None
        grown = np.exp(r)
        return (grown - 1.0) * grown, grown * grown, None

    def point_weights(self, loss: np.ndarray, weights: np.ndarray | None) -> np.ndarray | None:
        """Weights [n] of the points with those of the objective folded in (linear: L^2)."""
        if self.kind != "linear":
            return weights
        square = loss**2
        return square if weights is None else weights * square


def objective_of(objective: str | Objective, delta: float | None = None) -> Objective:
    """An objective by name, with its ``delta``, or as it is."""
    if isinstance(objective, Objective):
        return objective
    kind = objective.strip().lower().replace("-", "_")
    return Objective(ALIASES.get(kind, kind), delta)


def robust_delta(residuals: np.ndarray, weights: np.ndarray | None = None) -> float:
    """1.345 robust standard deviations (1.4826 MAD) of the residuals: 95% efficient for normal
    noise."""
    used = residuals if weights is None else residuals[weights > 0]
    sigma = 1.4826 * float(np.median(np.abs(used)))
    return max(1.345 * sigma, 1e-9)
