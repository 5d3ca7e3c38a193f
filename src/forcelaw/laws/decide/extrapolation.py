"""Extrapolation beyond the largest budget of a table: forms of law weighed by back-tests, and an
interval that grows with the distance as their errors did.

A law that fits inside a table may bend outside it, and a floor found at small budgets is mostly too
high. So every candidate form is fitted twice, to all budgets and to the last factor of
:data:`WINDOW` of them, and asked what it would have said before: at cuts a quarter of a decade
apart it is fitted to the budgets below, and predicts the ends of the runs above. Candidates are
weighed by these errors, and

    var ln L = spread of the candidates + law (deleted runs) + (growth x)^2 + noise of a new run,

x being ln of the budget over the largest fitted one. growth is the misfit by e-fold of budget in
the back-tests, the noise taken off and later cuts counting more, shrunk towards :data:`PRIOR` of
the fall of the loss by e-fold with the weight of :data:`PRIOR_CUTS` cuts. These two numbers, the
window and the cuts are the only ones that were set by other tables (those to tune on in
benchmarks/published_tables.py); the rest is the table's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.objective import Objective
from ..fit.problem import Problem, build
from ..fit.result import AT_BOUND, OK, REFUSED, Band, FitResult, Result, spread
from ..forms import make
from ..forms.base import Floor, Law

# name -> law and floor; a floor of zero is the one sharp hypothesis that forecasts better than its
# parent where budgets are few
FORMS: dict[str, tuple[str, Floor | None]] = {
    "surface": ("surface", None),
    "surface, no floor": ("surface", "zero"),
    "coupled": ("coupled", None),
}
# where N, or D, is the same in all runs: laws in the other
LINES: dict[str, tuple[str, Floor | None]] = {
    "power_floor": ("power_floor", None),
    "power": ("power", None),
}
WINDOW = 30.0
CUT_COUNT, STEP = 8, 0.25  # how many, and decades of budget between them
MOST_CUTS = 6  # more say no more: they share their runs
SHARE = 0.5  # of an independent observation that a cut is in the weights of candidates
LEAST = 8, 6  # rows that all budgets, and a window of them, must have to be fitted
NEAR = 1.2  # ends closer to the cut than this factor say nothing of it
GROWTH_FROM = 1.9  # and closer than this nothing of how errors grow
AS_GOOD = 0.003  # errors by e-fold below which two candidates are equally good
PRIOR, PRIOR_CUTS = 0.1, 8.0
HALF_LIFE = 1.0  # decades of budget in which a back-test loses half its weight
USABLE = (OK, AT_BOUND)
# growth over the fall of the loss, beyond which back-tests say no: they have fewer runs and smaller
# budgets than the forecast, and err twice as much by e-fold
NO_SKILL = 2.0


@dataclass
class Candidate(Result):
    """One form on all budgets, or on the last of them: its weight, and the error by e-fold of
    budget in its back-tests (None without any)."""

    name: str
    window: float | None
    weight: float
    error: float | None


@dataclass
class BackTest(Result):
    """What the weighted candidates, fitted below ``cut`` (budget), said of ``runs`` ends above it,
    up to ``reach`` times the cut: mean and root mean square of ln (forecast / truth), and the
    misfit by e-fold of budget that the latter means (``growth``, noise taken off)."""

    cut: float
    runs: int
    reach: float
    error: float
    rms: float
    growth: float


@dataclass
class Extrapolation:
    """Candidates with weights, and what an interval needs. status: ok or refused; ``tried``: every
    form with its status. ``limit``: the largest budget fitted. ``growth``: sd of ln L by e-fold of
    budget beyond it. ``fall``: of ln L by e-fold there, by the candidates."""

    limit: float
    tried: list[dict[str, Any]]
    status: str = REFUSED
    message: str = ""
    candidates: list[Candidate] = field(default_factory=list)
    back_tests: list[BackTest] = field(default_factory=list)
    growth: float = 0.0
    fall: float = float("nan")
    noise: float = 0.0
    df: float = 1.0
    level: float = 0.95
    rows: int = 0
    _fits: list[_Fit] = field(default_factory=list, repr=False)
    _thetas: list[np.ndarray] = field(default_factory=list, repr=False)
    _owners: list[int] = field(default_factory=list, repr=False)

    @property
    def ok(self) -> bool:
        return self.status in USABLE

    @property
    def weights(self) -> np.ndarray:
        return np.array([one.weight for one in self.candidates])

    @property
    def _shares(self) -> np.ndarray:
        """The weight of each fit, that of its windows included."""
        return np.bincount(self._owners, self.weights, len(self._fits))

    @property
    def best(self) -> FitResult:
        """The fit, to all budgets, of the form with the largest weight."""
        return self._fits[int(self._shares.argmax())].result

    @property
    def foretells(self) -> bool | None:
        """Whether back-tests err by less than twice the fall of the loss; None without any."""
        if not self.back_tests:
            return None
        return bool(self.measured_growth < NO_SKILL * self.fall)

    @property
    def measured_growth(self) -> float:
        """The growth in the back-tests alone."""
        weights = _recency(self.back_tests, self.limit)
        return float(np.sqrt(np.average([b.growth**2 for b in self.back_tests], weights=weights)))

    def verdict(self) -> str:
        """The back-tests in one line."""
        if not self.back_tests:
            return "no back-test: the budgets span too little; the interval is that of other tables"
        last = self.back_tests[0]
        cuts = [b for b in self.back_tests if b.runs]
        ends = "1 run" if last.runs == 1 else f"{last.runs} runs"
        said = (
            f"back-test: fitted below {last.cut:.2e}, {ends} up to {last.reach:.3g} times that came"
            f" out {abs(np.expm1(-last.error)):.1%}"
            f" {'lower' if last.error > 0 else 'higher'} than forecast; over {len(cuts)} cuts the"
            f" error is {self.measured_growth:.1%} by e-fold of budget, the loss falls by"
            f" {self.fall:.1%}"
        )
        return said + ("" if self.foretells else ": no better than no forecast")

    def log_predictions(self, **roles: Any) -> np.ndarray:
        """ln L of every candidate [K, M]."""
        made = [
            _log(self._fits[i].result, theta[None], roles)[0]
            for i, theta in zip(self._owners, self._thetas)
        ]
        return np.stack(made)

    def predict(self, **roles: Any) -> np.ndarray:
        """Loss [M]: the weighted geometric mean of the candidates."""
        return np.exp(self.weights @ self.log_predictions(**roles))

    def moments(self, budget: np.ndarray, **roles: Any) -> tuple[np.ndarray, ...]:
        """Mean and sd of ln L of the law [M] at ``budget`` [M], without the noise of a run, and the
        part of the sd that is the forms' and not the runs': how far the candidates disagree, and
        what grows with the distance."""
        every, weights = self.log_predictions(**roles), self.weights
        mean = weights @ every
        distance = np.maximum(np.log(np.asarray(budget, float) / self.limit), 0.0)
        misfit = np.sqrt(weights @ (every - mean) ** 2 + (self.growth * distance) ** 2)
        variance = misfit**2
        for one, weight in zip(self._fits, self._shares):
            centre = _log(one.result, one.result.best()[None], roles)[0]
            draws = _log(one.result, one.result.refits(), roles)
            own = spread(draws, centre, one.result.method)
            variance = variance + weight * np.where(np.isfinite(own), own, 0.0) ** 2
        return mean, np.sqrt(variance), misfit

    def interval(
        self, kind: str = "mean", *, budget: Any, level: float | None = None, **roles: Any
    ) -> Band:
        """Band around the prediction; ``kind``: mean or "new run", as of a fit."""
        level = self.level if level is None else level
        roles = {role: np.atleast_1d(value) for role, value in roles.items()}
        mean, sd, _ = self.moments(np.atleast_1d(budget), **roles)
        if kind != "mean":
            sd = np.hypot(sd, self.noise)
        half = stats.t.ppf(0.5 + level / 2, self.df) * sd
        return Band(np.exp(mean), np.exp(mean - half), np.exp(mean + half), kind, level)


@dataclass
class _Fit:
    """A form fitted to all budgets, and the problem that it solved."""

    name: str
    result: FitResult
    problem: Problem


def extrapolate(
    runs: Runs,
    budget: np.ndarray,
    law: str | type[Law] | Law = "auto",
    *,
    floor: Floor | None = None,
    x: str | None = None,
    calibrate: bool = True,
    level: float = 0.95,
    **settings: Any,
) -> Extrapolation:
    """Fit the candidates to ``runs`` of one architecture, whose budgets are ``budget`` [rows], and
    back-test them.

    law: a law, or "auto" for :data:`FORMS`. x: n or d, where the other is the same everywhere (law
    auto only). calibrate: False fits the law to all budgets alone, without back-tests: the interval
    is then right only where the law is. settings: those of :func:`forcelaw.fit` but for the
    interval.
    """
    forms, every = _forms(law, floor, x), law == "auto" and calibrate
    limit = float(budget.max()) if len(budget) else 0.0
    fits: list[_Fit] = []
    tried = []
    for name, one in forms.items():
        if fits and not every:
            break
        result = fit(runs, one, interval="jackknife", level=level, **settings)
        said = {"status": result.status, "message": result.message}
        tried.append({"law": name, "floor": one.floor, **said})
        if result.ok and result.replicates is not None:
            fits.append(_Fit(name, result, _problem(runs, result, settings)))
    out = Extrapolation(limit=limit, tried=tried, level=level, rows=len(runs), _fits=fits)
    if not fits:  # the reason of the preferred form counts
        status, out.message = str(tried[0]["status"]), str(tried[0]["message"])
        out.status = REFUSED if status in USABLE else status
        return out
    out.status, out.message = fits[0].result.status, fits[0].result.message
    if calibrate:
        _calibrate(out, runs, budget)
    else:
        out._owners, out._thetas = [0], [fits[0].result.best()]
        out.candidates = [Candidate(fits[0].name, None, 1.0, None)]
        out.noise, out.df = fits[0].result.noise, max(fits[0].result.n_runs - 1, 1)
    return out


def _forms(law: Any, floor: Floor | None, x: str | None) -> Mapping[str, Law]:
    """The candidates; of a law that is named with a floor of its own, the same without one comes
    second, for tables that are too short for the first."""
    options: dict[str, Any] = {}
    made: Mapping[str, tuple[str, Floor | None]]
    if law == "auto":
        made = FORMS if x is None else LINES
        options = {} if x is None else {"x": x}
    elif isinstance(law, str):
        made = {law: (law, None), f"{law}, no floor": (law, "zero")}
    else:
        one = make(law, floor)
        return {one.name: one}
    return {
        name: make(form, own if floor is None or form == "power" else floor, **options)
        for name, (form, own) in made.items()
        if floor is None or own is None
    }


def _problem(runs: Runs, result: FitResult, settings: dict[str, Any]) -> Problem:
    objective = Objective(result.objective_kind, result.delta)
    return build(
        runs, result.law, objective, settings.get("cluster", "run"), settings.get("weights")
    )


def _log(result: FitResult, theta: np.ndarray, roles: Mapping[str, Any]) -> np.ndarray:
    """ln L [B, M] of the law of ``result`` at theta [B, P]."""
    here = {role: np.atleast_1d(roles[role]) for role in result.law.roles}
    return result.law.predict_log(theta, here, result.centre)


# -- back-tests ---------------------------------------------------------------------------------


@dataclass
class _Cut:
    """Budgets up to ``limit`` are fitted; ``held`` are the rows at the ends of the runs above, x
    [held] the logs of their budgets over it. errors: candidate -> ln (said / truth) [held]."""

    limit: float
    decades: float
    held: np.ndarray
    x: np.ndarray
    errors: dict[int, np.ndarray] = field(default_factory=dict)


def _calibrate(out: Extrapolation, runs: Runs, budget: np.ndarray) -> None:
    """Candidates, their weights, back-tests and growth, put into ``out``."""
    cuts = _cuts(runs, budget, out.limit)
    windows: list[tuple[int, float | None]] = []
    for i, one in enumerate(out._fits):
        for window in (None, WINDOW):
            thetas = _solve(one, budget, out.limit, window, cuts)
            if thetas is None:
                continue
            label = len(windows)
            windows.append((i, window))
            out._thetas.append(one.result.best() if window is None else thetas[0])
            out._owners.append(i)
            for cut, theta in zip(cuts, thetas[1:]):
                roles = {role: runs[role][cut.held] for role in one.result.law.roles}
                said = _log(one.result, theta[None], roles)[0]
                error = said - np.log(runs["loss"][cut.held])
                cut.errors[label] = np.clip(np.nan_to_num(error, nan=2.0), -2.0, 2.0)
    scores = [
        [np.mean(cut.errors[k] ** 2) / np.mean(cut.x**2) for cut in cuts]
        for k in range(len(windows))
    ]
    weights = _weights(np.array(scores))
    out.candidates = [
        Candidate(out._fits[i].name, window, float(w), float(np.sqrt(np.mean(s))) if s else None)
        for (i, window), w, s in zip(windows, weights, scores)
    ]
    out.noise = float(out._shares @ [one.result.noise for one in out._fits])
    out.fall = _fall(out, runs, budget)
    out.back_tests = [_back_test(cut, weights, out.noise) for cut in cuts]
    recency = _recency(out.back_tests, out.limit) * SHARE
    growth = np.array([one.growth**2 for one in out.back_tests])
    known = PRIOR_CUTS * (PRIOR * max(out.fall, 0.01)) ** 2 + recency @ growth
    out.df = PRIOR_CUTS + float(recency.sum())
    out.growth = float(np.sqrt(known / out.df))


def _cuts(runs: Runs, budget: np.ndarray, limit: float) -> list[_Cut]:
    """The cuts that leave enough to fit and hold out some end of a run, the largest first."""
    out = []
    for k in range(1, CUT_COUNT + 1):
        at = limit * 10 ** (-STEP * k)
        if (budget <= at).sum() < LEAST[0]:
            break
        last = np.zeros(len(runs.run_names))
        np.maximum.at(last, runs.run, budget)
        held = np.flatnonzero((budget == last[runs.run]) & (budget > NEAR * at))
        if len(held):
            out.append(_Cut(at, STEP * k, held, np.log(budget[held] / at)))
    return out


def _solve(
    one: _Fit, budget: np.ndarray, limit: float, window: float | None, cuts: list[_Cut]
) -> np.ndarray | None:
    """theta [1 + cuts, P]: the form fitted to the last factor ``window`` (None: all) of budgets up
    to the limit, and up to each cut; to all budgets there where the window has too few rows. None
    where the window leaves out nothing, or too much, at the limit itself."""
    keep = []
    for at in (limit, *(cut.limit for cut in cuts)):
        rows = budget <= at * (1 + 1e-9)
        late = rows if window is None else rows & (budget >= at / window)
        if window is not None and (late.sum() < LEAST[1] or late.sum() == rows.sum()):
            if at == limit:
                return None
            late = rows
        keep.append(late.astype(float))
    start = np.repeat(one.result.best()[None], len(keep), 0)
    return one.problem.solve(start, np.array(keep), tolerance=1e-9, iterations=100).theta


def _weights(scores: np.ndarray) -> np.ndarray:
    """Weights [K] of candidates from their mean squared errors by e-fold [K, cuts]: equal without
    back-tests, else as if each cut were :data:`SHARE` of an observation."""
    count, cuts = scores.shape
    if not cuts:
        return np.full(count, 1.0 / count)
    score = np.log(scores.mean(axis=1) + AS_GOOD**2)
    raised = np.exp(-0.5 * SHARE * min(cuts, MOST_CUTS) * (score - score.min()))
    return raised / raised.sum()


def _back_test(cut: _Cut, weights: np.ndarray, noise: float) -> BackTest:
    """What the weighted candidates said above ``cut``."""
    error = weights @ np.stack([cut.errors[k] for k in range(len(weights))])
    far = cut.x >= min(np.log(GROWTH_FROM), 0.99 * cut.x.max())
    x, left = cut.x[far], error[far] ** 2 - noise**2
    growth = np.sqrt(max((x**2 @ left) / (x**4).sum(), 0.0))
    rms = float(np.sqrt(np.mean(error**2)))
    reach = float(np.exp(cut.x.max()))
    return BackTest(cut.limit, len(error), reach, float(error.mean()), rms, float(growth))


def _recency(back_tests: list[BackTest], limit: float) -> np.ndarray:
    """Weights of the back-tests: a cut further back says less of what is ahead."""
    decades = np.log10([limit / one.cut for one in back_tests])
    return 0.5 ** (decades / HALF_LIFE)


def _fall(out: Extrapolation, runs: Runs, budget: np.ndarray) -> float:
    """Fall of ln L by e-fold of budget over the next decade, where N and D grow alike: the median
    over the rows of the last factor of three."""
    top = budget >= out.limit / 3
    grown = [role for role in ("n", "d") if role in runs]
    roles = {role: values[top] for role, values in runs.values.items()}
    later = roles | {role: roles[role] * 10 ** (1 / len(grown)) for role in grown}
    later |= {role: roles[role] * 10 for role in ("c", "h") if role in roles}
    now, then = (out.weights @ out.log_predictions(**at) for at in (roles, later))
    return float(np.median(now - then) / np.log(10))
