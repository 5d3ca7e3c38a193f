"""The surface L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, eq. 2; Rosenfeld et al.
2020)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Law, Terms


class Surface(Law):
    """L(N, D) = E + A N^-alpha + B D^-beta.

    Derived for C = k N D: N* ~ C^a, D* ~ C^b with a = beta/(alpha+beta), b = alpha/(alpha+beta),
    and L* - E ~ C^-gamma with gamma = alpha beta/(alpha+beta).
    """

    name = "surface"
    formula = "L = E + A N^-alpha + B D^-beta"
    roles = ("n", "d")
    coefficients = ("A", "B")
    shapes = ("alpha", "beta")

    def terms(self, psi: np.ndarray, x: dict[str, np.ndarray]) -> Terms:
        u, v = x["n"], x["d"]
        return [-psi[:, :1] * u, -psi[:, 1:2] * v], [(0, 0, -u), (1, 1, -v)]

    def grid(self, x: dict[str, np.ndarray]) -> np.ndarray:
        axis = np.geomspace(0.02, 3.0, 24)
        return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)

    def centre_shift(self, psi: np.ndarray, centre: dict[str, float]) -> np.ndarray:
        return np.column_stack([psi[:, 0] * centre["n"], psi[:, 1] * centre["d"]])

    def derived(
        self, values: dict[str, np.ndarray], context: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        alpha, beta = values["alpha"], values["beta"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "a": beta / (alpha + beta),
                "b": alpha / (alpha + beta),
                "gamma": alpha * beta / (alpha + beta),
            }
