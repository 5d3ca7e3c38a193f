"""The surface L(N, D) = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, eq. 2; Rosenfeld et al.
2020)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...errors import FitError
from .base import Arrays, Floor, Law, Terms, mesh

TIES = ("alpha=beta", "beta=alpha")


def optimal_exponents(values: Arrays, p: Any = 1.0, q: Any = 1.0) -> Arrays:
    """a, b and gamma of N* ~ C^a, D* ~ C^b and L* - E ~ C^-gamma for C = k N^p D^q."""
    alpha, beta = values["alpha"], values["beta"]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = beta * p + alpha * q
        return {"a": beta / total, "b": alpha / total, "gamma": alpha * beta / total}


class Surface(Law):
    """L(N, D) = E + A N^-alpha + B D^-beta.

    Derived for C = k N D: N* ~ C^a, D* ~ C^b with a = beta/(alpha+beta), b = alpha/(alpha+beta),
    and L* - E ~ C^-gamma with gamma = alpha beta/(alpha+beta). With ``tie="alpha=beta"`` both
    exponents are one parameter, alpha.
    """

    name = "surface"
    formula = "L = E + A N^-alpha + B D^-beta"
    roles: tuple[str, ...] = ("n", "d")
    coefficients = ("A", "B")
    shapes: tuple[str, ...] = ("alpha", "beta")
    can_tie: ClassVar[bool] = True
    closed_optimum = True

    def __init__(self, floor: Floor | None = None, tie: str | None = None, **options: Any):
        super().__init__(floor, **options)
        if tie is None:
            return
        if not self.can_tie:
            raise FitError(
                f"law {self.name} cannot tie its exponents",
                where="tie",
                remedy="use surface, surface_cost or coupled",
            )
        if tie.replace(" ", "") not in TIES:
            raise FitError(f"the tie {tie!r} is not known", where="tie", remedy=f"give {TIES[0]!r}")
        self.tied = {"beta": "alpha"}
        self.shapes = tuple(name for name in self.shapes if name != "beta")
        self.formula = self.formula.replace("beta", "alpha")

    def exponents(self, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """alpha and beta [B, 1] of psi [B, Q]."""
        return psi[:, :1], psi[:, :1] if self.tied else psi[:, 1:2]

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        u, v = x["n"], x["d"]
        alpha, beta = self.exponents(psi)
        return [-alpha * u, -beta * v], [(0, 0, -u), (1, 0 if self.tied else 1, -v)]

    def grid(self, x: Arrays) -> np.ndarray:
        if self.tied:
            return np.geomspace(0.02, 3.0, 96)[:, None]
        axis = np.geomspace(0.02, 3.0, 24)
        return mesh(axis, axis)

    def centre_shift(self, psi: np.ndarray, centre: dict[str, float]) -> np.ndarray:
        alpha, beta = self.exponents(psi)
        return np.concatenate([alpha * centre["n"], beta * centre["d"]], axis=1)

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        return optimal_exponents(values)

    def norm(self, values: Arrays) -> np.ndarray | float:
        """p of the p-norm that joins the terms of N and D; 1 is their sum."""
        return 1.0

    def loss(self, values: Arrays, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """L of named parameter values at N and D, broadcast."""
        return (
            values["E"] + values["A"] * n ** -values["alpha"] + values["B"] * d ** -values["beta"]
        )

    def local_exponents(
        self, theta: np.ndarray, values: dict[str, Any], centre: dict[str, float]
    ) -> Arrays:
        """-d ln L / d ln N and -d ln L / d ln D ([B, n] under "n" and "d") of theta [B, P] at the
        given N and D: what a measurement of L there shows, floor included."""
        theta = np.atleast_2d(theta)
        n, d = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(values[role], float)) for role in ("n", "d"))
        )
        x, _ = self.prepare({"n": n, "d": d}, centre)
        jac = self.residuals(theta, x, np.zeros(1))[1]
        assert jac is not None
        alpha, beta = self.exponents(theta[:, self.n_columns :])
        return {"n": alpha * jac[:, 0], "d": beta * jac[:, 1]}
