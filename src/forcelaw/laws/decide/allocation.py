"""The best N and D for a budget on a fitted surface, under C = k N D or a measured cost C = k N^p
D^q."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from scipy import stats

from ...errors import FitError
from ...table.roles import flops_per_nd
from ...table.runs import Runs
from ..fit import intervals
from ..fit.result import Estimate, FitResult, Result, clean, records
from ..forms.surface import Surface, optimal_exponents


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
        """From a Cost, a number k or text "6nd" for C = 6 N D, or :class:`Runs` with measured
        FLOPs."""
        if isinstance(value, Cost):
            return value
        if isinstance(value, Runs):
            return cls.measured(value)
        if isinstance(value, str):
            product = flops_per_nd(value.strip().lower().removeprefix("c=").replace(" ", ""))
            if product is None:
                raise FitError(
                    f"the cost {value!r} is not known",
                    where="cost",
                    remedy="give 6nd, a number k or runs",
                )
            value = product
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
        basis = np.stack([np.ones(len(c)), n - n.mean(), d - d.mean()], axis=1)
        if np.linalg.matrix_rank(basis, tol=1e-6 * np.sqrt(len(c))) < 3:
            k, sd = float(np.exp((c - n - d).mean())), float((c - n - d).std())
            return cls(k, 1.0, 1.0, sd, f"{x} = k N D (N and D do not vary apart)")
        w = np.linalg.lstsq(basis, c, rcond=None)[0]
        resid = c - basis @ w
        k = float(np.exp(w[0] - w[1] * n.mean() - w[2] * d.mean()))
        source = f"{x} = k N^p D^q measured over {len(c)} rows"
        return cls(k, float(w[1]), float(w[2]), float(resid.std()), source)

    def __call__(self, n: Any, d: Any) -> Any:
        return self.k * n**self.p * d**self.q


def with_compute(runs: Runs, cost: Any = None) -> Runs:
    """``runs`` with N, D and C. cost: "6nd", a factor k or a :class:`Cost` that C is made with;
    None: C as it is in the table. A table without N (or D) is of one size (length), so that D (N)
    stands for its compute. FitError where there is no C and nothing to make it of."""
    there = [role for role in ("n", "d") if role in runs]
    if cost is None and "c" not in runs and len(there) == 2:
        raise FitError(
            "there is no compute in the table, so nothing says which runs are the largest",
            where=runs.source,
            remedy="name the column: --columns c=..., or let it be 6 N D: --cost 6nd",
        )
    if not there:
        return runs
    values, taken = dict(runs.values), dict(runs.taken)
    for role in ("n", "d"):
        values.setdefault(role, np.ones(len(runs)))
    if cost is not None or "c" not in runs:
        made = Cost.of(cost) if cost is not None else Cost(1.0, source="C = N D")
        values["c"], taken["c"] = (
            made(values["n"], values["d"]),
            "= " + made.source.removeprefix("C = ").lower(),
        )
    return replace(runs, values=values, taken=taken)


@dataclass
class Allocation(Result):
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

    def summary(self) -> str:
        """The exponents, for a terminal."""
        found = {"a": self.a, "b": self.b, "gamma": self.gamma}
        return "\n".join(
            f"{name:<6}{one.value:.4f}"
            + (f" [{one.low:.4f}, {one.high:.4f}]" if one.bounded else "")
            for name, one in found.items()
        )

    def n(self, c: Any) -> np.ndarray:
        """N*(C)."""
        return self._at(c, self.surface.best())[0][0]

    def d(self, c: Any) -> np.ndarray:
        """D*(C)."""
        return self._at(c, self.surface.best())[1][0]

    def loss(self, c: Any) -> np.ndarray:
        """L*(C)."""
        return self._at(c, self.surface.best())[2][0]

    def _at(self, c: Any, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = self.surface.law.natural(theta, self.surface.centre)
        values = {name: value[:, None] for name, value in values.items()}
        law = cast(Surface, self.surface.law)
        log_c = np.log(np.atleast_1d(np.asarray(c, float)))[None]
        n, d = optimal(values, log_c, self.cost, law.norm(values))
        return n, d, law.loss(values, n, d)

    def table(self, c: Any) -> dict[str, np.ndarray]:
        """c, n, d, loss and their intervals (n_low, n_high, d_low, d_high, loss_low, loss_high) at
        budgets ``c`` [K]."""
        c = np.atleast_1d(np.asarray(c, float))
        points, ends = {"c": c}, {}
        for i, name in enumerate(("n", "d", "loss")):

            def at_budgets(theta: np.ndarray, i: int = i) -> dict[str, np.ndarray]:
                return {str(j): value for j, value in enumerate(self._at(c, theta)[i].T)}

            # sizes follow from the exponents, losses from refits whose floor is no less than zero
            made = intervals.estimates(
                self.surface, at_budgets, self.level, constrained=name == "loss"
            ).values()
            points[name] = np.array([one.value for one in made])
            if self.surface.replicates is not None:
                for end in ("low", "high"):
                    ends[f"{name}_{end}"] = np.array([getattr(one, end) for one in made], float)
        return points | ends

    def rows(self, c: Any) -> list[dict[str, Any]]:
        """The table at budgets ``c``, one row for each."""
        return records(self.table(c))

    def new_run(self, loss: Estimate) -> Estimate | None:
        """Where one more run should fall whose expected loss is ``loss`` (with the interval of the
        law): widened by what runs and checkpoints scatter, in ln L. None without an interval."""
        if loss.low is None or loss.high is None or not loss.low > 0:
            return None
        df = max(self.surface.n_runs - 1, 1)
        extra = float(stats.t.ppf(0.5 + self.surface.level / 2, df)) * self.surface.noise
        down = math.hypot(math.log(loss.value / loss.low), extra)
        up = math.hypot(math.log(loss.high / loss.value), extra)
        return Estimate(
            loss.value, None, loss.value * math.exp(-down), loss.value * math.exp(up), "new run"
        )

    def as_json(self) -> dict[str, Any]:
        """The exponents and the cost."""
        return clean({name: getattr(self, name) for name in ("a", "b", "gamma", "cost")})


def optimal(
    values: dict[str, Any], log_c: np.ndarray, cost: Cost, norm: Any = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """N*, D* minimising (A N^-alpha)^norm + (B D^-beta)^norm at k N^p D^q = C. At the optimum
    alpha (A N^-alpha)^norm / p = beta (B D^-beta)^norm / q (Lagrange), which with the constraint
    is linear in ln N and ln D."""
    alpha, beta = values["alpha"], values["beta"]
    rest = log_c - np.log(cost.k)
    tilt = np.log(alpha * values["A"] / cost.p) - np.log(beta * values["B"] / cost.q)
    # alpha ln N - beta ln D; a norm of one changes nothing, to the last digit
    tilt = tilt + (1.0 / norm - 1.0) * (np.log(alpha / cost.p) - np.log(beta / cost.q))
    total = beta * cost.p + alpha * cost.q
    ln_n = (beta * rest + cost.q * tilt) / total
    ln_d = (alpha * rest - cost.p * tilt) / total
    return np.exp(ln_n), np.exp(ln_d)


def compute_optimal(
    surface: FitResult, cost: Any = "6nd", *, level: float | None = None
) -> Allocation:
    """Allocation on a fitted surface; ``cost`` is "6nd", a factor k, a :class:`Cost` or runs with
    measured FLOPs. FitError where ``surface`` is none."""
    if not isinstance(surface, FitResult):
        raise FitError(
            f"compute_optimal takes what fit returns, not {type(surface).__name__}",
            where="compute_optimal",
            remedy='compute_optimal(fit(runs, law="surface"))',
        )
    if not surface.law.closed_optimum:
        raise FitError(
            f"a compute-optimal allocation needs a surface, not {surface.law.name}",
            where="compute_optimal",
            remedy='fit(runs, law="surface")',
        )
    surface.require()
    cost = Cost.of(cost)
    level = surface.level if level is None else level

    def exponents(theta: np.ndarray) -> dict[str, np.ndarray]:
        return optimal_exponents(surface.law.natural(theta, surface.centre), cost.p, cost.q)

    made = intervals.estimates(surface, exponents, level)
    return Allocation(made["a"], made["b"], made["gamma"], cost, surface, level)
