"""A power law that is not asymptotic yet: L = A (x + s)^-gamma + E bends at x of the order of s."""

from __future__ import annotations

import numpy as np

from .base import Arrays, Terms, mesh
from .power import OneVariable


class Shifted(OneVariable):
    """L(x) = A (x + s)^-gamma + E in one variable ``x``; far above s the exponent is gamma. A shift
    that runs to zero (its lower bound) means that the points show no bend."""

    name = "shifted"
    formula = "L = A (x + s)^-gamma + E"
    shapes = ("gamma", "s")
    logs = ("s",)
    soft = ("s",)
    levels = 4

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        u, gamma, ln_s = x[self.x], psi[:, :1], psi[:, 1:2]
        moved = np.logaddexp(u, ln_s)
        return [-gamma * moved], [(0, 0, -moved), (0, 1, -gamma * np.exp(ln_s - moved))]

    def grid(self, x: Arrays) -> np.ndarray:
        u = x[self.x]
        axes = (np.geomspace(0.02, 4.0, 40), np.linspace(u.min() - 3.0, u.max() + 1.0, 16))
        return mesh(*axes)

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        u = x[self.x]
        return np.array([-20.0, u.min() - 12.0]), np.array([20.0, u.max() + 3.0])

    def shape_shift(self, name: str, centre: dict[str, float]) -> float:
        return centre[self.x]
