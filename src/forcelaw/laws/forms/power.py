"""Laws in one variable, and the plainest of them: L = A x^-gamma, with a floor or without."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np

from .base import Arrays, Floor, Law, Terms


class OneVariable(Law):
    """A law in one variable (option ``x``: n, d, c or h) with one coefficient; its first shape is
    the exponent of x."""

    coefficients: tuple[str, ...] = ("A",)
    default_x: ClassVar[str] = "n"

    def __init__(self, floor: Floor | None = None, x: str | None = None, **options: Any):
        super().__init__(floor, **options)
        self.x = x or self.default_x
        self.roles = (self.x,)
        self.formula = re.sub(r"\bx\b", self.x.upper(), self.formula)

    def centre_shift(self, psi: np.ndarray, centre: dict[str, float]) -> np.ndarray:
        return psi[:, :1] * centre[self.x]

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        return {"gamma": values["gamma"]}


class PowerFloor(OneVariable):
    """L(x) = A x^-gamma + E in one variable x: N, D, FLOPs or hours (option ``x``)."""

    name = "power_floor"
    formula = "L = A x^-gamma + E"
    shapes = ("gamma",)

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        u = x[self.x]
        return [-psi[:, :1] * u], [(0, 0, -u)]

    def grid(self, x: Arrays) -> np.ndarray:
        return np.geomspace(0.01, 4.0, 120)[:, None]


class Power(PowerFloor):
    """L(x) = A x^-gamma: a straight line in log-log."""

    name = "power"
    formula = "L = A x^-gamma"
    default_floor: ClassVar[Floor] = "zero"
    levels = 2
