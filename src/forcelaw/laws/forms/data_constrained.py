"""Repeated data are worth less: the data-constrained surface (Muennighoff et al. 2023, eqs. 5 and
6)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Arrays, Terms, mesh
from .surface import Surface

REPEATS = np.log([1.0, 5.0, 20.0, 100.0, 1e4])  # ln R_D where starts are looked for
# ln R so wide that the ends are the limits: nothing beyond the first pass counts, nothing is lost
LEAST_R, MOST_R = np.log(1e-8), np.log(1e15)


class Repeats(Surface):
    """A surface in which data that are seen again are worth less; u is the distinct data. The first
    three shapes are alpha, beta and R_D."""

    roles = ("n", "d", "u")
    can_tie = False
    closed_optimum = False

    def least_levels(self, role: str) -> int:
        return 1 if role == "u" else self.levels

    def prepare(
        self, values: Arrays, centre: dict[str, float] | None = None
    ) -> tuple[Arrays, dict[str, float]]:
        """Centred ln N and ln D; ln U is centred as ln D is, so that their difference stays."""
        n, d, u = (np.log(np.asarray(values[role], float)) for role in ("n", "d", "u"))
        u = np.minimum(u, d)  # more distinct data than data cannot be seen
        if centre is None:
            centre = {"n": float(n.mean()), "d": float(d.mean())}
        return {"n": n - centre["n"], "d": d - centre["d"], "u": u - centre["d"]}, centre

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        """N and D', with one R_D for all."""
        d, slope, _ = saturated(x["u"], x["d"], psi[:, 2:3])
        beta = psi[:, 1:2]
        return [-psi[:, :1] * x["n"], -beta * d], [
            (0, 0, -x["n"]),
            (1, 1, -d),
            (1, 2, -beta * slope),
        ]


class DataConstrained(Repeats):
    """L = E + A N'^-alpha + B D'^-beta with U distinct data.

    D' = U (1 + R_D (1 - exp(-R/R_D))), R = D/U - 1 repeats: after about R_D repeats more of them
    add nothing; large R_D means that repeats are as good as new data. N' likewise from U_N = min(N,
    N*(U)), where N*(U) is the size for which U is the compute-optimal amount of data (C = k N D),
    with R_N. Both are poorly determined with few long runs: look at their intervals. Published
    practice holds the surface fixed (``fixed={"A": ..., "alpha": ...}``) and fits R_D and R_N.
    """

    name = "data_constrained"
    formula = "L = E + A N'^-alpha + B D'^-beta, D' = U (1 + R_D (1 - exp(-R/R_D))), R = D/U - 1"
    shapes = ("alpha", "beta", "R_D", "R_N")
    logs = ("R_D", "R_N")
    soft = ("R_D", "R_N")
    projects_exactly = False

    def prepare(
        self, values: Arrays, centre: dict[str, float] | None = None
    ) -> tuple[Arrays, dict[str, float]]:
        x, centre = super().prepare(values, centre)
        return x | {f"{role}0": np.full_like(x["n"], centre[role]) for role in ("n", "d")}, centre

    # terms, for the starts, are without the saturation of N: it depends on the coefficients
    def residuals(
        self, theta: np.ndarray, x: Any, y: Any, jacobian: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        k, c = self.n_coefficients, self.n_columns
        a, b = theta[:, :1], theta[:, 1:2]
        alpha, beta, rho_d, rho_n = (theta[:, c + i, None] for i in range(4))
        n0, d0 = x["n0"], x["d0"]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            d, d_rho, _ = saturated(x["u"], x["d"], rho_d)
            ratio = np.log(alpha / beta) + (a + alpha * n0) - (b + beta * d0)
            best = (ratio + beta * (x["u"] + d0)) / alpha - n0  # ln N*(U), centred
            active = best < x["n"]
            n, n_rho, n_best = saturated(np.minimum(best, x["n"]), x["n"], rho_n)
            n_best = np.where(active, n_best, 0.0)
            parts = [np.exp(a - alpha * n - y), np.exp(b - beta * d - y)]
            if self.free_floor:
                parts.append(np.broadcast_to(theta[:, k, None] * np.exp(-y), n.shape))
            total = sum(parts[1:], parts[0])
            if self.log_floor is not None:
                total = total + np.exp(self.log_floor - y)
            r = np.log(total)
            if not jacobian:
                return r, None
            jac = np.zeros((theta.shape[0], self.size, r.shape[1]))
            share = [part / total for part in parts[:2]]
            pull = -alpha * n_best * share[0]  # d r / d ln N*(U)
            jac[:, 0] = share[0] + pull / alpha
            jac[:, 1] = share[1] - pull / alpha
            if self.free_floor:
                jac[:, k] = np.exp(-y) / total
            full = best + n0
            jac[:, c] = -share[0] * n + pull * (1 / alpha**2 - full / alpha + n0 / alpha)
            jac[:, c + 1] = -share[1] * d + pull * (x["u"] - 1 / beta) / alpha
            jac[:, c + 2] = -share[1] * beta * d_rho
            jac[:, c + 3] = -share[0] * alpha * n_rho
        return r, jac

    def grid(self, x: Arrays) -> np.ndarray:
        axis = np.geomspace(0.03, 2.0, 14)
        return mesh(axis, axis, REPEATS, np.log([0.3, 2.0, 20.0, 1e4]))

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        return np.array([1e-3, 1e-3, LEAST_R, LEAST_R]), np.array([20.0, 20.0, MOST_R, MOST_R])


def saturated(
    ln_unique: np.ndarray, ln_seen: np.ndarray, rho: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln D' of D seen and U unique with ln R* = rho, and its derivatives by rho and by ln U (at
    fixed D)."""
    much = np.exp(rho)
    repeats = np.expm1(np.maximum(ln_seen - ln_unique, 0.0))
    z = repeats / much
    decay = np.exp(-z)
    worth = -much * np.expm1(-z)  # R* (1 - exp(-R/R*))
    total = 1.0 + worth
    return (
        ln_unique + np.log(total),
        (worth - repeats * decay) / total,
        1.0 - decay * (1.0 + repeats) / total,
    )
