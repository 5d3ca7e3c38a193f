"""One law on one table: the arrays that the solver works on, and the checks that the table can
carry the law."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..forms.base import Arrays, Law
from .objective import Objective
from .solver import Local, Solution, evaluate, solve

EXTREME = 230.0  # |ln L| beyond which squares of 1/L overflow
SAME_LEVEL = 0.02  # two values closer than this in ln are one level
COLLINEAR = 0.999  # |correlation| of two logs above which their exponents cannot be distinguished


@dataclass
class Problem:
    """x: centred logs; y: ln L; weights [n] or None; cluster: labels [n] of the units that are
    deleted or resampled."""

    law: Law
    x: Arrays
    centre: dict[str, float]
    y: np.ndarray
    weights: np.ndarray | None
    objective: Objective
    cluster: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]
    free: np.ndarray
    fixed: dict[str, float] = field(default_factory=dict)

    @property
    def n_clusters(self) -> int:
        return int(self.cluster.max()) + 1

    def solve(
        self,
        theta: np.ndarray,
        weights: np.ndarray | None = None,
        tolerance: float = 1e-14,
        iterations: int = 300,
        y: np.ndarray | None = None,
        damping: float = 0.1,
    ) -> Solution:
        """Fits from theta [B, P]; ``weights`` [B, n] multiply those of the problem; ``y`` [B, n]
        are other losses."""
        w = self.weights
        if weights is not None:
            w = weights if w is None else weights * w
        return solve(
            self.law,
            self.x,
            self.y if y is None else y,
            w,
            self.objective,
            np.atleast_2d(theta),
            bounds=self.bounds,
            free=self.free,
            tolerance=tolerance,
            iterations=iterations,
            damping=damping,
        )

    def evaluate(self, theta: np.ndarray) -> Local:
        """Objective, slope and curvatures at one theta [P]."""
        return evaluate(
            self.law, self.x, self.y, self.weights, self.objective, theta[None], self.free
        )

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """ln L - ln Lhat [n]: positive where the run is worse than the law."""
        return -self.law.residuals(np.atleast_2d(theta), self.x, self.y, jacobian=False)[0][0]

    def subset(self, pick: np.ndarray) -> Problem:
        """The same problem on the rows ``pick`` (same centre)."""
        cluster = np.unique(self.cluster[pick], return_inverse=True)[1].ravel()
        return replace(
            self,
            x={role: value[pick] for role, value in self.x.items()},
            y=self.y[pick],
            weights=None if self.weights is None else self.weights[pick],
            cluster=cluster,
        )

    def with_objective(self, objective: Objective) -> Problem:
        return replace(self, objective=objective)


def build(
    runs: Runs,
    law: Law,
    objective: Objective,
    cluster: str | None,
    weights: str | np.ndarray | None,
    fixed: dict[str, float] | None = None,
) -> Problem:
    """The problem of ``law`` on ``runs``. FitError if a column that the law needs is not there."""
    roles = {role: runs[role] for role in law.roles}
    if len(runs["loss"]) == 0:
        raise FitError(
            "no row is left to fit",
            remedy="loosen the filters or the burn-in (--burn-in-steps), or train longer",
        )
    fixed = dict(fixed or {})
    for name, value in fixed.items():
        if name not in law.names:
            raise FitError(
                f"{name!r} is not a free parameter of {law.name}",
                where="fixed parameters",
                remedy=f"the parameters are {', '.join(law.names)}",
            )
        if not np.isfinite(value) or (
            (name in law.coefficients or name in law.logs) and value <= 0
        ):
            raise FitError(f"{name} cannot be fixed at {value}", where="fixed parameters")
    # a fixed coefficient is that of uncentred data
    held = any(name in law.coefficients for name in fixed)
    x, centre = law.prepare(roles, dict.fromkeys(law.roles, 0.0) if held else None)
    loss = runs["loss"]
    y = np.log(loss)
    labels = runs.clusters(cluster)
    w = point_weights_of(runs, weights, labels)
    bounds = law.all_bounds(x, y)
    if held:  # coefficients at ln N = 0 lie far from the losses
        bounds[0][: law.n_coefficients] = -1000.0
        bounds[1][: law.n_coefficients] = 1000.0
    return Problem(
        law,
        x,
        centre,
        y,
        objective.point_weights(loss, w),
        objective,
        labels,
        bounds,
        np.array([name not in fixed for name in law.names]),
        fixed,
    )


def point_weights_of(
    runs: Runs, weights: str | np.ndarray | None, labels: np.ndarray
) -> np.ndarray | None:
    """Weights [rows] as asked for ("run": every run counts the same, however many checkpoints it
    has); None where all are one."""
    if weights is None:
        return None
    if not isinstance(weights, str):
        w = np.asarray(weights, float)
    elif weights in ("none", "point"):
        return None
    elif weights == "run":
        return (1.0 / np.bincount(labels))[labels] * len(labels) / (labels.max() + 1)
    elif weights == "column":
        w = runs["weight"]
    else:
        raise FitError(
            f"weights {weights!r} are not known",
            where="weights",
            remedy="use none, run, column or an array",
        )
    if w.shape != (len(runs),) or not np.isfinite(w).all() or (w < 0).any() or not (w > 0).any():
        raise FitError(
            "weights must be one finite, non-negative number for each row, not all zero",
            where="weights",
        )
    return w


def level_of(values: np.ndarray, width: float = SAME_LEVEL) -> np.ndarray:
    """Level [n] of each value, 0, 1, ... upwards: values within ``width`` (2%), in ln, of the
    lowest of a level are of it, wherever that lies."""
    logs = np.log(values)
    distinct = np.unique(logs)
    starts, i = [], 0
    while i < len(distinct):
        starts.append(distinct[i])
        i = int(np.searchsorted(distinct, distinct[i] + width, side="right"))
    return np.searchsorted(starts, logs, side="right") - 1


def levels(values: np.ndarray, width: float = SAME_LEVEL) -> int:
    """Distinct values, those of one level being one."""
    return int(level_of(values, width).max(initial=-1)) + 1


def refusal(runs: Runs, law: Law, cluster: np.ndarray, n_free: int) -> str:
    """Why the design cannot carry the fit; empty if it can."""
    if len(runs) == 0:
        return "no rows are left"
    n_runs = int(cluster.max()) + 1
    logs = np.log(runs["loss"])
    if float(np.abs(logs).max()) > EXTREME:
        return (
            f"losses from {runs['loss'].min():.3g} to {runs['loss'].max():.3g} are beyond what a"
            " fit can carry (1e-100 to 1e100): give them in another unit, and drop runs that"
            " blew up"
        )
    reason = _too_few_levels(runs, law) or _collinear(runs, law)
    if reason:
        return reason
    if len(runs) <= n_free:
        return f"{len(runs)} rows cannot determine {n_free} parameters; add runs"
    needed = 4 if len(law.roles) > 1 else 3
    if n_runs < needed:
        return (
            f"only {n_runs} independent runs; {law.name} needs at least {needed}: checkpoints of"
            " one run share its error and do not replace runs"
        )
    if float(np.ptp(logs)) < 1e-9:
        return "the loss is constant: there is nothing to fit"
    return ""


def _too_few_levels(runs: Runs, law: Law) -> str:
    for role in law.roles:
        values = runs[role]
        column = runs.taken.get(role, role)
        found, least = levels(values), law.least_levels(role)
        if found < least and found == 1:
            return (
                f"column {column!r} ({role}) is constant ({values[0]:.6g}): an exponent in {role}"
                " cannot be seen; add runs that vary it"
            )
        if found < least:
            return (
                f"only {found} distinct levels of {role} (column {column!r}); {law.name} needs at"
                f" least {least}, else exponent, coefficient and floor trade for one another: add"
                " runs in between or beyond"
            )
    return ""


def collinear(runs: Runs, first: str, second: str) -> float:
    """Correlation of the logs of two roles where it is so close to 1 that their exponents cannot be
    told apart, else 0; also 0 where one of them is the same in all rows. At equal compute it is
    negative, and the loss has a lowest point along the line."""
    logs = [np.log(runs[role]) for role in (first, second)]
    if min(float(np.ptp(values)) for values in logs) == 0:
        return 0.0
    correlation = float(np.corrcoef(*logs)[0, 1])
    return correlation if abs(correlation) > COLLINEAR else 0.0


def _collinear(runs: Runs, law: Law) -> str:
    for second, first in combinations(law.roles, 2):
        if "u" not in (first, second) and (correlation := collinear(runs, first, second)):
            along = ", or fit a law in one variable along that line (law power_floor)"
            return (
                f"{second} and {first} are perfectly correlated (r = {correlation:.5f} of the"
                " logarithms): their exponents cannot be distinguished; add runs that vary one at"
                f" fixed other{along if correlation > 0 else ''}"
            )
    return ""
