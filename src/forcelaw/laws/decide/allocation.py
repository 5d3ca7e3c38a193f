"""The best N and D for a budget on a fitted surface, under C = k N D or a measured cost C = k N^p
D^q."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit import intervals
from ..fit.result import Estimate, FitResult, clean


@dataclass
class Cost:
    """C = k N^p D^q. Language models: k = 6, p = q = 1. sd: scatter of ln C about it, where it was
    measured."""

    k: float = 6.0
    p: float = 1.0
    q: float = 1.0
    sd: float = 0.0
    source: str = "C = 6 N D"

    @classmethod
    def of(cls, value: Any) -> Cost:
        """From a Cost, a number k, "6nd", or :class:`Runs` with measured FLOPs."""
        if isinstance(value, Cost):
            return value
        if isinstance(value, Runs):
            return cls.measured(value)
        if isinstance(value, str):
            if value.replace(" ", "").lower() in ("6nd", "c=6nd"):
                return cls()
            raise FitError(
                f"the cost {value!r} is not known",
                where="cost",
                remedy="give 6nd, a number k or runs",
            )
        if not (np.isfinite(value) and value > 0):
            raise FitError(
                f"the cost factor is {value}", where="cost", remedy="give a positive number"
            )
        return cls(float(value), source=f"C = {float(value):g} N D")

    @classmethod
    def measured(cls, runs: Runs, x: str = "c") -> Cost:
        """log C = log k + p log N + q log D by least squares over the rows; p and q are 1 if N or D
        hardly vary."""
        n, d, c = np.log(runs["n"]), np.log(runs["d"]), np.log(runs[x])
        columns = [np.ones(len(c)), n - n.mean(), d - d.mean()]
        basis = np.stack(columns, axis=1)
        if np.linalg.matrix_rank(basis, tol=1e-6 * np.sqrt(len(c))) < 3:
            k = float(np.exp((c - n - d).mean()))
            return cls(
                k, 1.0, 1.0, float((c - n - d).std()), f"{x} = k N D (N and D do not vary apart)"
            )
        w = np.linalg.lstsq(basis, c, rcond=None)[0]
        resid = c - basis @ w
        k = float(np.exp(w[0] - w[1] * n.mean() - w[2] * d.mean()))
        return cls(
            k,
            float(w[1]),
            float(w[2]),
            float(resid.std()),
            f"{x} = k N^p D^q measured over {len(c)} rows",
        )

    def __call__(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray | float:
        return self.k * n**self.p * d**self.q


@dataclass
class Allocation:
    """Compute-optimal exponents with intervals, and N*(C), D*(C), L*(C) with bands.

    N* ~ C^a, D* ~ C^b, L* - E ~ C^-gamma; a = beta/(beta p + alpha q), b = alpha/(beta p + alpha
    q), gamma = alpha beta/(beta p + alpha q)  (p = q = 1 for C = k N D).
    """

    a: Estimate
    b: Estimate
    gamma: Estimate
    cost: Cost
    surface: FitResult
    level: float

    def n(self, c: Any) -> np.ndarray:
        """N*(C)."""
        return self._at(c, self.surface.theta)[0][0]

    def d(self, c: Any) -> np.ndarray:
        """D*(C)."""
        return self._at(c, self.surface.theta)[1][0]

    def loss(self, c: Any) -> np.ndarray:
        """L*(C)."""
        return self._at(c, self.surface.theta)[2][0]

    def _at(self, c: Any, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = self.surface.law.natural(theta, self.surface.centre)
        values = {name: value[:, None] for name, value in values.items()}
        law = self.surface.law
        log_c = np.log(np.atleast_1d(np.asarray(c, float)))[None]
        n, d = optimal(values, log_c, self.cost, law.norm(values))
        return n, d, law.loss(values, n, d)

    def table(self, c: Any) -> dict[str, np.ndarray]:
        """c, n, d, loss and their intervals (n_low, n_high, d_low, d_high, loss_low, loss_high) at
        budgets ``c``."""
        c = np.atleast_1d(np.asarray(c, float))
        out: dict[str, np.ndarray] = {"c": c}
        points = self._at(c, self.surface.theta)
        theta, many = self.surface.sample()
        about = self._at(c, theta)
        if (
            many is not None
        ):  # sizes follow from the exponents, losses from refits whose floor is no less than zero
            draws = (*self._at(c, many)[:2], self._at(c, self.surface.replicates)[2])
            about = (*about[:2], points[2])
        else:
            draws = None
        kind = "jackknife" if self.surface.method.startswith("jackknife") else self.surface.method
        for i, name in enumerate(("n", "d", "loss")):
            out[name] = points[i][0]
            if draws is None:
                continue
            reference = intervals.references(
                self.surface, lambda many, i=i: dict(enumerate(self._at(c, many)[i].T))
            )
            made = [
                intervals.estimate(
                    name,
                    float(points[i][0, j]),
                    draws[i][:, j],
                    method=kind,
                    level=self.level,
                    floor_name="E",
                    reference=reference[j],
                    about=float(about[i][0, j]),
                )
                for j in range(len(c))
            ]
            out[f"{name}_low"] = np.array([np.nan if one.low is None else one.low for one in made])
            out[f"{name}_high"] = np.array(
                [np.nan if one.high is None else one.high for one in made]
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "a": vars(self.a),
                "b": vars(self.b),
                "gamma": vars(self.gamma),
                "cost": vars(self.cost),
            }
        )


def optimal(
    values: dict[str, Any], log_c: np.ndarray, cost: Cost, norm: Any = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """N*, D* minimising (A N^-alpha)^norm + (B D^-beta)^norm at k N^p D^q = C. At the optimum
    alpha (A N^-alpha)^norm / p = beta (B D^-beta)^norm / q (Lagrange), which with the constraint
    is linear in ln N and ln D."""
    alpha, beta = values["alpha"], values["beta"]
    rest = log_c - np.log(cost.k)
    tilt = np.log(values["A"]) - np.log(values["B"])  # alpha ln N - beta ln D
    tilt = tilt + (np.log(alpha / cost.p) - np.log(beta / cost.q)) / norm
    total = beta * cost.p + alpha * cost.q
    ln_n = (beta * rest + cost.q * tilt) / total
    ln_d = (alpha * rest - cost.p * tilt) / total
    return np.exp(ln_n), np.exp(ln_d)


def compute_optimal(
    surface: FitResult, cost: Any = "6nd", *, level: float | None = None
) -> Allocation:
    """Allocation on a fitted surface; ``cost`` is "6nd", a factor k, a :class:`Cost` or runs with
    measured FLOPs."""
    if surface.law.name not in ("surface", "surface_cost", "coupled", "kaplan"):
        raise FitError(
            f"a compute-optimal allocation needs a surface, not {surface.law.name}",
            where="compute_optimal",
            remedy='fit(runs, law="surface")',
        )
    surface.require()
    cost = Cost.of(cost)
    level = surface.level if level is None else level

    def exponents(theta: np.ndarray) -> dict[str, np.ndarray]:
        values = surface.law.natural(theta, surface.centre)
        alpha, beta = values["alpha"], values["beta"]
        total = beta * cost.p + alpha * cost.q
        return {"a": beta / total, "b": alpha / total, "gamma": alpha * beta / total}

    point = exponents(surface.theta)
    if surface.replicates is None:
        made = {name: Estimate(float(value[0])) for name, value in point.items()}
    else:
        theta, many = surface.sample()
        about, draws = exponents(theta), exponents(many)
        kind = "jackknife" if surface.method.startswith("jackknife") else surface.method
        reference = intervals.references(surface, exponents)
        made = {
            name: intervals.estimate(
                name,
                float(point[name][0]),
                draws[name],
                method=kind,
                level=level,
                floor_name="E",
                reference=reference[name],
                about=float(about[name][0]),
            )
            for name in point
        }
    return Allocation(made["a"], made["b"], made["gamma"], cost, surface, level)
