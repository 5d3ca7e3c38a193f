"""Surfaces whose terms in N and D are coupled: a p-norm of the two instead of their sum."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Arrays, Floor, mesh
from .surface import Surface

# p below: nearly a product of the two powers; above: nearly the larger of them. Neither can be seen
LEAST_P, MOST_P = 0.1, 20.0


class Coupled(Surface):
    """L(N, D) = E + ((A N^-alpha)^p + (B D^-beta)^p)^(1/p).

    p = 1 is the additive surface, p > 1 comes near the worse of the two terms, p < 1 lets N and D
    limit together: where the terms are equal, L - E is 2^(1/p) times one of them.

    For C = k N D the optimum minimises the sum of the two powers of p, so a, b and gamma are those
    of the additive surface: a = beta/(alpha+beta), gamma = alpha beta/(alpha+beta). Where one term
    is far above the other, the local exponents are alpha and beta as there; in between they are
    split by the shares of the powers of p.
    """

    name = "coupled"
    formula = "L = E + ((A N^-alpha)^p + (B D^-beta)^p)^(1/p)"
    shapes: tuple[str, ...] = ("alpha", "beta", "p")
    logs: tuple[str, ...] = ("p",)
    soft: tuple[str, ...] = ("p",)
    projects_exactly = False
    one_optimum = True

    def norm(self, values: Arrays) -> np.ndarray | float:
        return values["p"]

    def loss(self, values: Arrays, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        p = self.norm(values)
        first = np.log(values["A"]) - values["alpha"] * np.log(n)
        second = np.log(values["B"]) - values["beta"] * np.log(d)
        return values["E"] + np.exp(np.logaddexp(p * first, p * second) / p)

    def power(self, psi: np.ndarray) -> np.ndarray:
        """p [B, 1] of psi [B, Q]."""
        return np.exp(psi[:, -1:])

    def power_slopes(self, psi: np.ndarray, p: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """(q, d ln p / d psi_q) for the shapes that p depends on."""
        return [(psi.shape[1] - 1, np.ones_like(p))]

    def residuals(
        self, theta: np.ndarray, x: Any, y: Any, jacobian: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        k, c = self.n_coefficients, self.n_columns
        psi = theta[:, c:]
        p = self.power(psi)
        gs, dgs = self.terms(psi, x)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            first, second = (theta[:, i, None] + g for i, g in enumerate(gs))
            gap = p * (second - first)
            both = first + np.logaddexp(0.0, gap) / p  # ln of the p-norm, [B, n]
            part = np.exp(both - y)
            total = part
            if self.free_floor:
                total = total + theta[:, k, None] * np.exp(-y)
            elif self.log_floor is not None:
                total = total + np.exp(self.log_floor - y)
            r = np.log(total)
            if not jacobian:
                return r, None
            share = part / total
            log_w = (-np.logaddexp(0.0, gap), -np.logaddexp(0.0, -gap))
            weights = [np.exp(w) for w in log_w]  # shares of the two powers of p
            jac = np.zeros((len(theta), self.size, r.shape[1]))
            for i, w in enumerate(weights):
                jac[:, i] = share * w
            if self.free_floor:
                jac[:, k] = np.exp(-y) / total
            for i, q, dg in dgs:
                jac[:, c + q] += jac[:, i] * dg
            # d ln(p-norm) / d ln p = sum_i w_i ln w_i / p, without cancellation
            entropy = sum(w * np.maximum(lw, -745.0) for w, lw in zip(weights, log_w)) / p
            for q, slope in self.power_slopes(psi, p):
                jac[:, c + q] += share * entropy * slope
        return r, jac

    def grid(self, x: Arrays) -> np.ndarray:
        exponents = np.geomspace(0.03, 3.0, 96 if self.tied else 14)
        axes = [exponents] * (1 if self.tied else 2) + [np.log([0.3, 0.5, 0.8, 1.2, 2.0, 5.0])]
        return mesh(*axes)

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        low, high = super().bounds(x)
        low[-1], high[-1] = np.log(LEAST_P), np.log(MOST_P)
        return low, high


class Kaplan(Coupled):
    """L(N, D) = [(N_c/N)^(alpha/beta) + D_c/D]^beta + E (Kaplan et al. 2020, eq. 1.5, with alpha
    for their alpha_N and beta for alpha_D).

    The coupled surface with p = 1/beta, A = N_c^alpha, B = D_c^beta; N_c, D_c and p are among the
    derived quantities. As published it has no floor; ``floor="free"`` adds one.
    """

    name = "kaplan"
    formula = "L = ((N_c/N)^(alpha/beta) + D_c/D)^beta + E, A = N_c^alpha, B = D_c^beta"
    shapes: tuple[str, ...] = ("alpha", "beta")
    logs: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    default_floor: ClassVar[Floor] = "zero"
    can_tie = False

    def norm(self, values: Arrays) -> np.ndarray | float:
        return 1.0 / values["beta"]

    def power(self, psi: np.ndarray) -> np.ndarray:
        return 1.0 / psi[:, 1:2]

    def power_slopes(self, psi: np.ndarray, p: np.ndarray) -> list[tuple[int, np.ndarray]]:
        return [(1, -p)]

    def grid(self, x: Arrays) -> np.ndarray:
        return Surface.grid(self, x)

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-20.0, 1.0 / MOST_P]), np.array([20.0, 1.0 / LEAST_P])

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        alpha, beta = values["alpha"], values["beta"]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return super().derived(values, context) | {
                "N_c": values["A"] ** (1.0 / alpha),
                "D_c": values["B"] ** (1.0 / beta),
                "p": 1.0 / beta,
            }
