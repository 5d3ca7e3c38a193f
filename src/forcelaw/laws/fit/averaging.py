"""Forms of law compete: weights from prediction, and numbers averaged over the forms that stand.

An exponent belongs to a form, and a table of runs seldom decides between forms. So every candidate
is fitted, and weighted by how well it predicts what it did not see:

- runs left out one at a time (the refits of the jackknife). Of each run two numbers count, the mean
  of its errors and their slope in ln D, because checkpoints of a run share their errors; the score
  is that of an information criterion with the number of runs for the number of observations,
  -(G/2) (ln mean square of the means + ln mean square of the slopes).
- the largest N and the largest D held out: the logarithm of Student's density of the mean error
  there, in units of its standard error by the jackknife.

The weights are the softmax of the sum, averaged over a Bayesian bootstrap of the runs (pseudo-BMA+
of Yao et al. 2018), so that few runs decide little. A number is then averaged with the weights, and
its interval holds the central part of the mixture of the forms' sampling distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from ...errors import FitError
from ...table.runs import Runs
from ..forms import make
from ..forms.base import Floor, Law
from ..forms.stepped import Stepped, must_step, with_steps
from ..inputs import as_runs
from .intervals import LINEAR, scale_of
from .mixtures import Part, mixture
from .objective import Objective, objective_of
from .problem import Problem, build, collinear, levels
from .result import OK, REFUSED, Band, Estimate, FitResult, Result, note_lines, spread
from .single import fit_one
from .size_effects import SIZE_SD, moved_by_sizes, reach

AVERAGED = ("alpha", "beta", "a", "b", "gamma", "E")
STANDING = 0.05  # weight below which a form does not stand
WEIGHT_DRAWS = 400  # of the Bayesian bootstrap
HELD_OUT_CUTS = (
    3.0,
    10.0,
)  # rows above these shares of the largest N, and of the largest D, are held out
LEAST_LEVELS = 3  # of N and of D that must be left to fit
UNSAID = (
    "no column says whether depth changes along N: a law takes a step for a part of alpha, so these"
    f" intervals allow every size {SIZE_SD:.0%} or so beside the law (--factor COLUMN names what"
    " changes, --factor none says that nothing does)"
)

# name -> law, its options, and the floor where the law's own is zero
SURFACES: dict[str, tuple[str, dict[str, Any], Floor | None]] = {
    "surface": ("surface", {}, None),
    "surface, alpha=beta": ("surface", {"tie": "alpha=beta"}, None),
    "coupled": ("coupled", {}, None),
    "kaplan": ("kaplan", {}, "free"),
}
LINES: dict[str, tuple[str, dict[str, Any], Floor | None]] = {
    "power_floor": ("power_floor", {}, None),
    "power": ("power", {}, None),
    "shifted": ("shifted", {}, None),
}
# Sharp hypotheses within a form. They are weighed against it but not averaged: that a hypothesis
# cannot be excluded is no evidence for it, and it would take the doubt out of the interval.
WITHIN = {"surface, alpha=beta": "surface", "power": "power_floor"}


@dataclass
class Form(Result):
    """One candidate: its fit, its weight, the two parts of its score (natural logarithms; only
    differences between forms mean something), and why it has no weight. within: the form of which
    it is a special case that is not averaged; its weight is then against that form alone. moved
    [2, S, P]: optima with the losses of each size moved, where sizes may have effects of their
    own."""

    name: str
    result: FitResult
    weight: float = 0.0
    left_out: float = float("nan")
    held_out: float = 0.0
    reason: str = ""
    within: str = ""
    moved: np.ndarray | None = None

    def as_json(self) -> dict[str, Any]:
        out = super().as_json()
        out.pop("moved")
        return out

    def by_sizes(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | float:
        """Standard deviation of what ``function`` gives for theta [B, P], by effects of sizes."""
        if self.moved is None:
            return 0.0
        values = function(self.moved.reshape(-1, self.moved.shape[-1]))
        return reach(values.reshape(*self.moved.shape[:2], *values.shape[1:]))


@dataclass
class Averaged(Result):
    """Numbers averaged over forms. forms: all candidates, by weight; those at or above
    :data:`STANDING` make ``estimates`` and predictions. status: ok or refused. factor: the column
    at whose changes all forms may step; predictions are made beyond all steps. variable: that of
    laws in one, in words."""

    also: ClassVar[tuple[str, ...]] = ("ok",)

    forms: list[Form]
    estimates: dict[str, Estimate] = field(default_factory=dict)
    level: float = 0.95
    status: str = OK
    message: str = ""
    factor: str = ""
    variable: str = ""

    @property
    def ok(self) -> bool:
        return self.status == OK

    @property
    def standing(self) -> list[Form]:
        """The forms that stand, with weights that add up to one."""
        kept = [f for f in self.forms if f.weight >= STANDING and not f.within]
        total = sum(form.weight for form in kept)
        return [replace(form, weight=form.weight / total) for form in kept]

    @property
    def best(self) -> Form:
        """The form of the largest weight; its own numbers have single-form intervals."""
        return self.forms[0]

    def require(self) -> Averaged:
        """Itself, or FitError if no form is usable."""
        if not self.ok:
            raise FitError(f"no form of law is usable: {self.message}", where="law auto")
        return self

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise KeyError(f"{name}: there are {', '.join(self.estimates)}")
        return self.estimates[name]

    def predict(self, **roles: Any) -> np.ndarray:
        """Loss at the given n, d, ...: the weighted geometric mean of the forms."""
        self.require()
        parts = [form.weight * np.log(form.result.predict(**roles)) for form in self.standing]
        return np.exp(sum(parts[1:], parts[0]))

    def interval(self, kind: str = "mean", *, level: float | None = None, **roles: Any) -> Band:
        """Band around the prediction, the doubt about the form included; ``kind`` as
        :meth:`FitResult.interval`."""
        self.require()
        level = self.level if level is None else level
        bands = [form.result.interval(kind, level=level, **roles) for form in self.standing]
        value = np.atleast_1d(self.predict(**roles))
        low, high = np.empty(len(value)), np.empty(len(value))
        extra = [np.zeros(len(value)) + f.by_sizes(_said(f.result, roles)) for f in self.standing]
        for i in range(len(value)):
            ends = [np.log([b.value[i], b.low[i], b.high[i]]) for b in bands]
            parts = [_part(f, z, sd[i], level) for f, z, sd in zip(self.standing, ends, extra)]
            low[i], high[i] = np.exp(mixture(parts, level))
        return Band(value, low, high, kind, level)

    def as_json(self) -> dict[str, Any]:
        out = super().as_json()
        return {"law": "auto", "averaged": out.pop("estimates"), **out}

    def summary(self) -> str:
        """For a terminal: weights of the forms, averaged numbers, and those of the best form."""
        lines = [self.variable] if self.variable else []
        lines.append(f"{'form':24} {'weight':>7} {'left out':>9} {'held out':>9}")
        for form in self.forms:
            if form.within and not form.reason:
                lines.append(
                    f"{form.name:24} {form.weight:7.2f} {form.left_out:9.2f} {form.held_out:9.2f}"
                    f"   against {form.within}; not averaged"
                )
            elif form.reason:
                lines.append(f"{form.name:24} {'-':>7}   {form.reason}")
            else:
                lines.append(
                    f"{form.name:24} {form.weight:7.2f} {form.left_out:9.2f} {form.held_out:9.2f}"
                )
        if not self.ok:
            return "\n".join([*lines, f"status: {self.status}", f"  {self.message}"])
        if self.message:
            lines.append(self.message)
        if self.factor:
            lines.append(f"every form has a free step where {self.factor} changes along N")
        lines += [
            self._sure(),
            f"{'':8} {'averaged over forms':>32}   {self.best.name}, single form",
        ]
        for name, value in self.estimates.items():
            own = self.best.result
            single = own[name] if name in {**own.parameters, **own.derived} else "-"
            lines.append(f"{name:8} {value!s:>32}   {single!s}")
        far = [f"by {self.best.name}, {run}" for run in self.best.result.outlying]
        return "\n".join([*lines, *note_lines(far)])

    def _sure(self) -> str:
        best = self.best.weight
        others = ", ".join(f.name for f in self.standing if f.name != self.best.name)
        if not others:
            return f"the form is {self.best.name}: the others predict worse"
        word = "is likely" if best > 0.8 else "is not known"
        return f"the form {word}: {self.best.name} {best:.0%}; {others} cannot be excluded"


def average(
    runs: Any,
    *,
    forms: Mapping[str, tuple[str, dict[str, Any], Floor | None]] | None = None,
    x: str | None = None,
    floor: Floor | None = None,
    objective: str | Objective = "huber",
    delta: float | None = None,
    cluster: str | None = "run",
    weights: str | np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
    factor: str | None = None,
) -> Averaged:
    """Fit all forms that the table can carry and average over them.

    runs: any table (see :func:`forcelaw.fit`); all its architectures are fitted as one.
    forms: candidates (name -> law, options, floor); default: surfaces where the table has N and D
    that vary and do not lie on one line, else laws in one variable, ``x``. floor: of all forms.
    factor: a column that changes along N in steps; all forms get a free step there, because a law
    without it takes the steps for a part of alpha (default: depth, where it changes; "none": no
    steps). Others: as for :func:`forcelaw.fit`.
    """
    runs, goal = as_runs(runs), objective_of(objective, delta)
    settings: dict[str, Any] = {"cluster": cluster, "weights": weights}
    variable = "" if x is None else f"laws in {x.upper()}"
    if forms is None:
        x, variable = (x, variable) if x is not None else _variable(runs)
        forms = SURFACES if x is None else LINES
    laws = _laws(forms, x, floor)
    stepped: Runs = runs
    steps: tuple[str, ...] = ()
    if factor != "none":
        stepped, steps = must_step(runs, factor) if factor else with_steps(runs, "depth")
        # every step takes a size; a depth that changes at nearly all of them is a part of the size
        if steps and not factor and levels(runs["n"]) < len(steps) + LEAST_LEVELS:
            steps = ()
    found: list[Form] = []
    if steps and _along_size(laws):
        wrapped = {name: Stepped(law, steps) for name, law in laws.items()}
        found = _fits(stepped, wrapped, goal, level, settings)
    said = ""
    if any(not form.reason for form in found):
        runs = stepped
    else:
        if found:
            said = f"no form can be fitted with steps in {factor or 'depth'}: {found[0].reason}"
        found, steps = _fits(runs, laws, goal, level, settings), ()
        if factor is None and not said and runs.column("depth") is None and _along_size(laws):
            said = UNSAID
    usable = [form for form in found if not form.reason]
    if not usable:
        return Averaged(found, {}, level, REFUSED, found[0].reason, variable=variable)
    for form in usable if said == UNSAID else ():
        problem = _problem(runs, form.result, settings)
        form.moved = moved_by_sizes(problem, form.result.best(), runs["n"])
    for form in usable:
        if WITHIN.get(form.name) in [other.name for other in usable]:
            form.within = WITHIN[form.name]
    _score(runs, usable, settings, seed)
    found.sort(key=lambda form: (bool(form.within), -form.weight))
    out = Averaged(found, {}, level, message=said, variable=variable)
    out.factor = (factor or "depth") if steps else ""
    out.estimates = _estimates(out)
    return out


def _along_size(laws: Mapping[str, Law]) -> bool:
    return all("n" in law.roles for law in laws.values())


def _fits(
    runs: Runs, laws: Mapping[str, Law], goal: Objective, level: float, settings: dict[str, Any]
) -> list[Form]:
    """Every candidate fitted; a reason where it may not be used."""
    found = []
    for name, law in laws.items():
        result = fit_one(runs, law, goal, interval="jackknife", level=level, **settings)
        complete = result.ok and result.replicates is not None
        reason = "" if complete else f"{result.status.replace('_', ' ')}: {result.message}"
        found.append(Form(name, result, reason=reason))
    return found


def _variable(runs: Runs) -> tuple[str | None, str]:
    """The one variable of the laws, and why, in words; None where N and D vary each for itself."""
    varies = [role for role in ("n", "d") if role in runs and np.ptp(np.log(runs[role])) > 0.02]
    if len(varies) == 2:
        if collinear(runs, *varies) > 0:
            return "n", "N and D lie on one line: laws in N along it"
        return None, ""
    x = next((role for role in (*varies, "c", "h") if role in runs), None)
    if x is None:
        raise FitError(
            "the table has no variable for a law",
            where="law auto",
            remedy="name a column: --columns n=..., d=... or c=...",
        )
    return x, f"laws in {x.upper()}: N and D do not both vary"


def _laws(forms: Any, x: str | None, floor: Floor | None) -> dict[str, Law]:
    """The candidates, ready made."""
    out = {}
    for name, (law, options, own) in forms.items():
        given = {"x": x} if x is not None else {}
        if law == "power" and floor not in (None, "zero", 0):
            continue
        out[name] = make(law, floor if floor is not None else own, **options, **given)
    return out


# -- weights ------------------------------------------------------------------------------------


def _score(runs: Runs, forms: list[Form], settings: dict[str, Any], seed: int) -> None:
    """Scores and weights of the usable forms."""
    problems = [_problem(runs, form.result, settings) for form in forms]
    cluster = problems[0].cluster
    squares = np.stack([_left_out(runs, form.result, cluster) for form in forms])  # [F, 2, G]
    groups = squares.shape[-1]
    moving = squares.max(axis=(0, 2)) > 0  # runs of one row have no slope
    squares = np.maximum(squares[:, moving], 1e-24)
    held = _held_out(runs, forms, problems)

    def score(share: np.ndarray) -> np.ndarray:
        return -0.5 * groups * np.log(squares @ share).sum(axis=1)

    for form, left, one in zip(forms, score(np.full(groups, 1.0 / groups)), held):
        form.left_out, form.held_out = float(left), float(one)
    rng = np.random.default_rng(seed)
    totals = (
        np.stack([score(share) for share in rng.dirichlet(np.ones(groups), WEIGHT_DRAWS)]) + held
    )
    free = [i for i, form in enumerate(forms) if not form.within]
    for i, form in enumerate(forms):
        if form.within:
            parent = next(k for k in free if forms[k].name == form.within)
            form.weight = float(_shares(totals[:, [i, parent]])[0])
    for i, weight in zip(free, _shares(totals[:, free])):
        forms[i].weight = float(weight)


def _shares(totals: np.ndarray) -> np.ndarray:
    """Softmax of scores [draws, F], averaged over the draws."""
    raised = np.exp(totals - totals.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).mean(axis=0)


def _problem(runs: Runs, result: FitResult, settings: dict[str, Any]) -> Problem:
    """What the fit minimised, to be minimised again without some of the rows."""
    objective = Objective(result.objective_kind, result.delta)
    return build(runs, result.law, objective, **settings)


def _left_out(runs: Runs, result: FitResult, cluster: np.ndarray) -> np.ndarray:
    """Squared mean error [2, G] of each run, and the square of its slope in the standard deviations
    of ln D, from the fit without the run."""
    out = np.zeros((2, int(cluster.max()) + 1))
    y = np.log(runs["loss"])
    along = np.log(runs["d" if "d" in runs else result.law.roles[-1]])
    for g in range(out.shape[1]):
        rows = np.flatnonzero(cluster == g)
        here = {role: runs[role][rows] for role in result.law.roles}
        error = y[rows] - result.law.predict_log(result.refits()[g], here, result.centre)[0]
        t = along[rows] - along[rows].mean()
        out[0, g] = error.mean() ** 2
        if t @ t > 1e-9:
            out[1, g] = (t @ error) ** 2 / (t @ t) / len(rows)
    return out


def _held_out(runs: Runs, forms: list[Form], problems: list[Problem]) -> np.ndarray:
    """Log density [F] of the mean error of what is held out: for N and for D, the mean over the
    cuts. A form that cannot be fitted to what is left scores as the worst that can."""
    total = np.zeros(len(forms))
    for role in ("n", "d"):
        if role not in forms[0].result.law.roles:
            continue
        scores = []
        for cut in HELD_OUT_CUTS:
            held = runs[role] > runs[role].max() / cut * (1 + 1e-9)
            enough = min(levels(runs[one][~held]) for one in forms[0].result.law.roles)
            left = len(np.unique(runs.run[~held])) if (~held).any() else 0
            if held.any() and left > forms[0].result.law.size and enough >= LEAST_LEVELS:
                scores.append([_density(held, *one) for one in zip(forms, problems)])
        if scores and np.isfinite(scores).any():
            table = np.array(scores)
            worst = np.nanmin(table, axis=1, keepdims=True)
            total += np.where(np.isfinite(table), table, worst).mean(axis=0)
    return total


def _density(held: np.ndarray, form: Form, problem: Problem) -> float:
    """Log of Student's density of the mean error of the rows ``held`` [n] under the law fitted to
    the others; NaN where there is no such fit."""
    result = form.result
    fitted = problem.solve(result.best()[None], (~held)[None].astype(float), damping=1e-2)
    if not (fitted.converged[0] or fitted.gradient[0] < 1e-4):
        return float("nan")
    left = np.unique(problem.cluster[~held])
    kept = (problem.cluster[None, :] != left[:, None]) & ~held
    start = np.tile(fitted.theta, (len(left), 1))
    draws = problem.solve(start, kept.astype(float), tolerance=1e-9, damping=1e-2).theta
    x = {role: value[held] for role, value in problem.x.items()}
    y = problem.y[held]
    error = -problem.law.residuals(fitted.theta, x, y, jacobian=False)[0].mean()
    moved = -problem.law.residuals(draws, x, y, jacobian=False)[0].mean(axis=1)
    noise = result.diagnostics["sd_between_runs"] ** 2 + result.diagnostics["sd_within_runs"] ** 2
    law_sd = spread(moved, np.asarray(error), "jackknife")
    sd = float(np.hypot(law_sd, np.sqrt(noise / len(np.unique(problem.cluster[held])))))
    if not np.isfinite(sd) or not np.isfinite(error):
        return float("nan")
    return float(stats.t.logpdf(error, max(len(left) - 1, 1), scale=max(sd, 1e-12)))


# -- mixtures -----------------------------------------------------------------------------------


def _part(form: Form, ends: Iterable[Any], sd: float, level: float) -> Part:
    """The form's distribution from value, low and high; sd: what these do not hold yet."""
    value, low, high = map(float, ends)
    df = float(max(form.result.n_runs - 1, 1))
    return Part(form.weight, value, low, high, df).widened(sd, level)


def _estimates(found: Averaged) -> dict[str, Estimate]:
    """The averaged quantities that every standing form has."""
    out = {}
    for name in AVERAGED:
        own = []
        for form in found.standing:
            values = {**form.result.parameters, **form.result.derived}
            if name not in values or (values[name].low is None and values[name].method != "given"):
                break
            own.append((form, values[name]))
        else:
            out[name] = _averaged(name, own, found.level)
    return out


def _said(result: FitResult, roles: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """ln L at ``roles`` of theta [B, P]."""
    return lambda theta: result.law.predict_log(theta, dict(roles), result.centre)


def _quantity(
    result: FitResult, name: str, there: Callable[[Any], Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """The quantity [B] of theta [B, P], on the scale of its interval."""

    def function(theta: np.ndarray) -> np.ndarray:
        values, derived = result.quantities(theta)
        return np.asarray(there({**values, **derived}[name]))

    return function


def _averaged(name: str, own: list[tuple[Form, Estimate]], level: float) -> Estimate:
    values = [estimate for _, estimate in own]
    ends = [
        (v.value, v.value) if v.low is None or v.high is None else (v.low, v.high) for v in values
    ]
    there, back = (
        LINEAR
        if name == "E"
        else scale_of(name, "E", min(low for low, _ in ends), max(high for _, high in ends))
    )
    parts = []
    for (form, estimate), end in zip(own, ends):
        sd = float(form.by_sizes(_quantity(form.result, name, there)))
        parts.append(_part(form, [there(z) for z in (estimate.value, *end)], sd, level))
    mean = sum(part.weight * part.value for part in parts)
    low, high = (float(back(z)) for z in mixture(parts, level))
    value = float(back(mean))
    if name == "E":
        low = max(low, 0.0)
    names = ", ".join(f"{form.name} {form.weight:.2f}" for form, _ in own)
    return Estimate(value, None, min(low, value), max(high, value), f"averaged over {names}")
