"""A power law with one smooth break (Caballero et al. 2023, eq. 1 with n = 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Arrays, Law, Terms, mesh
from .power import OneVariable, PowerFloor


class Broken(OneVariable):
    """L(x) = A x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1) + E: slope c0 below the break at d1, c0 + c1
    above it; f1 is how wide the break is. ``x``: n, d, c or h. Derived gamma = c0 + c1, the slope
    after the break."""

    name = "broken"
    formula = "L = A x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1) + E"
    shapes = ("c0", "c1", "d1", "f1")
    logs = ("d1", "f1")
    soft = ("f1",)
    change = "c1"
    levels = 6
    default_x = "c"

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        u = x[self.x]
        c0, c1, ln_d, f = psi[:, :1], psi[:, 1:2], psi[:, 2:3], np.exp(psi[:, 3:4])
        z = (u - ln_d) / f
        soft = np.logaddexp(0.0, z)
        gate = 1.0 / (1.0 + np.exp(-np.clip(z, -500, 500)))
        return [-c0 * u - c1 * f * soft], [
            (0, 0, -u),
            (0, 1, -f * soft),
            (0, 2, c1 * gate),
            (0, 3, -c1 * f * (soft - z * gate)),
        ]

    def grid(self, x: Arrays) -> np.ndarray:
        u = x[self.x]
        breaks = np.linspace(u.min(), u.max(), 12)[1:-1]
        axes = (
            np.geomspace(0.03, 1.5, 9),
            np.array([-0.6, -0.3, -0.1, 0.1, 0.2, 0.4, 0.8, 1.6]),
            breaks,
            np.log([0.1, 0.4, 1.2]),
        )
        return mesh(*axes)

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        u = x[self.x]
        return (
            np.array([-20.0, -20.0, u.min() - 0.5, np.log(0.02)]),
            np.array([20.0, 20.0, u.max() + 0.5, np.log(5.0)]),
        )

    def plainer(self) -> tuple[Law, dict[str, str]]:
        return PowerFloor(self.floor, x=self.x), {"A": "A", "E": "E", "c0": "gamma"}

    def unseen(self, theta: np.ndarray, x: Arrays) -> str:
        u, at = np.unique(x[self.x]), theta[self.names.index("d1")]
        below, above = int((u <= at).sum()), int((u >= at).sum())
        if below >= 2 and above >= 2:
            return ""
        side = "lower" if below < 2 else "upper"
        return (
            f"the break lies at the {side} end of the data, so that one of its two slopes is not"
            " seen: add runs beyond it, or fit power_floor"
        )

    def shape_shift(self, name: str, centre: dict[str, float]) -> float:
        return centre[self.x] if name == "d1" else 0.0

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        return {"gamma": values["c0"] + values["c1"]}
