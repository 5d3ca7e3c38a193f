"""A budget turned into a decision: which architecture, how large, on how much data, and what loss
to expect.

For every architecture: forms of law weighed by back-tests (:mod:`.extrapolation`), the measured
cost C = k N^p D^q (FLOPs, or device-hours), N and D that minimise the loss within the budget, the
interval in which the loss of such a run should fall, and how far this extrapolates. N and D stay
within :data:`BEYOND` times the largest measured ones, and hours are never cheaper than the best
measured rate. Where back-tests and ``diagnose`` both say no, the data cannot say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...errors import FitError
from ...table.columns import ROLES
from ...table.runs import Runs
from ..fit.result import UNITS, Result, note_lines
from ..inputs import as_runs
from .allocation import Cost, with_compute
from .extrapolation import Extrapolation, extrapolate
from .forecast import AUTO, CANNOT_SAY, second_opinion
from .repeats import fit_repeats

BEYOND = 30.0  # multiple of the largest measured N, D and budget beyond which nothing is answered
# passes over limited data up to which repeats are close to new data (Muennighoff et al. 2023, fig.
# 5)
MOST_EPOCHS = 4.0
# of the variance of what is wrong with the forms, the part that architectures of one table have in
# common; differences of pairs in fourteen sets of columns bear it (benchmarks/shared_errors.py)
SHARED = 0.8
DRAWS = 4000


@dataclass
class Choice(Result):
    """What one architecture would do with the budget. loss: prediction with the interval for a new
    run; loss_mean_*: that of the law itself. extrapolation: budget, N and D over the largest
    measured ones. epochs: D over the distinct data that were named, else over the most that a run
    of the table has. back_test, diagnosis: verdicts in words. reason: why it has none."""

    group: str
    n: float = float("nan")
    d: float = float("nan")
    loss: float = float("nan")
    loss_low: float = float("nan")
    loss_high: float = float("nan")
    loss_mean_low: float = float("nan")
    loss_mean_high: float = float("nan")
    flops: float | None = None
    hours: float | None = None
    epochs: float | None = None
    extrapolation: dict[str, float] = field(default_factory=dict)
    p_best: float = float("nan")
    back_test: str = ""
    diagnosis: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    also = ("ok",)

    @property
    def ok(self) -> bool:
        return not self.reason


@dataclass
class Budget(Result):
    """choices, the likeliest to be best first, then by loss; amount of the budget, and its unit."""

    amount: float
    unit: str
    choices: list[Choice]
    unique: float | None = None
    level: float = 0.95
    notes: list[str] = field(default_factory=list)
    also = ("status",)

    @property
    def best(self) -> Choice | None:
        return self.choices[0] if self.choices and self.choices[0].ok else None

    @property
    def status(self) -> str:
        return "ok" if self.best else "refused"

    def rows(self) -> list[dict[str, Any]]:
        """One row for each architecture."""
        return [one.as_json() for one in self.choices]

    def summary(self) -> str:
        """For a terminal."""
        several = sum(one.ok for one in self.choices) > 1
        lines = [
            f"budget: {self.amount:.4g} {self.unit}",
            f"{'architecture':16} {'N':>9} {'D':>9} {'loss':>9}"
            f" {f'{self.level:.0%} of a new run':>22} {'epochs':>7} {'hours':>9} {'FLOPs':>9}"
            f" {'beyond: C':>9} {'N':>6} {'D':>6} {'P(best)':>8}",
        ]
        for one in self.choices:
            if not one.ok:
                lines.append(f"{one.group or 'all':16} no answer: {one.reason}")
                continue
            hours, flops, epochs = (
                "-" if value is None else f"{value:.3g}"
                for value in (one.hours, one.flops, one.epochs)
            )
            best = f"{one.p_best:.2f}" if several else "-"
            lines.append(
                f"{one.group or 'all':16} {one.n:9.3g} {one.d:9.3g} {one.loss:9.4g}"
                f" {f'[{one.loss_low:.4g}, {one.loss_high:.4g}]':>22} {epochs:>7} {hours:>9}"
                f" {flops:>9} {one.extrapolation['budget']:8.3g}x {one.extrapolation['n']:5.3g}x"
                f" {one.extrapolation['d']:5.3g}x {best:>8}"
            )
            lines += [f"{'':16} {said}" for said in (one.back_test, one.diagnosis) if said]
            lines += note_lines(one.notes, f"{'':16} ")
        return "\n".join([*lines, *note_lines(self.notes)])


def budget(
    runs: Any,
    *,
    flops: float | None = None,
    hours: float | None = None,
    unique: float | None = None,
    max_epochs: float = MOST_EPOCHS,
    device: str | None = None,
    beyond: float = BEYOND,
    cost: Any = None,
    anyway: bool = False,
    diagnosis: bool = False,
    law: Any = AUTO,
    level: float = 0.95,
    seed: int = 0,
    **settings: Any,
) -> Budget:
    """The best use of ``flops`` or ``hours`` (one of them) for every architecture of the table.

    runs: any table (see :func:`forcelaw.fit`). unique: distinct data there are; more of D means
    epochs. If the table has runs with repeats (column u) the data-constrained law says what repeats
    are worth; else at most ``max_epochs`` passes are planned, each counted as new data, and that is
    said. device: rows of this device only (for hours). beyond: most times the largest measured N
    and D. cost, law, anyway, diagnosis: as of :func:`forcelaw.forecast`. settings: those of
    :func:`forcelaw.fit`.

    An architecture that cannot be fitted is listed with the reason. FitError where the budget or
    the table cannot be used.
    """
    if (flops is None) == (hours is None):
        raise FitError(
            "give a budget in FLOPs or in hours",
            where="budget",
            remedy="one of --flops and --hours",
        )
    amount, x = (flops, "c") if flops is not None else (hours, "h")
    numbers = {"budget": amount, "distinct data": unique, "most times beyond": beyond}
    for what, value in numbers.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise FitError(f"{what} is {value}", where="budget", remedy="give a positive number")
    runs = as_runs(runs) if device is None else _of_device(as_runs(runs), device)
    notes = []
    if x == "h" and device is None and len(set(_devices(runs))) > 1:
        notes.append("hours of several devices are mixed: name one with --device")
    settings.pop("interval", None)
    settings |= {"law": law, "level": level}
    total = float(amount or 0.0)
    plan = _Plan(x, total, unique, max_epochs, beyond, cost, settings, anyway, diagnosis)
    choices, samples = zip(*(plan.choose(name, part) for name, part in runs.groups().items()))
    _rank(choices, samples, seed)
    ranked = sorted(choices, key=lambda one: (not one.ok, *np.nan_to_num((-one.p_best, one.loss))))
    if len(ranked) > 1 and ranked[0].ok and ranked[0].p_best < 0.9:
        notes.append(f"the choice of {ranked[0].group} is not sure (P = {ranked[0].p_best:.2f})")
    return Budget(plan.amount, UNITS[x], ranked, unique, level, notes)


def _devices(runs: Runs) -> list[str]:
    """The device of each row, empty where the table does not say."""
    frame = runs.frame
    known = frame is not None and "device" in frame.columns
    return [str(value) for value in frame["device"].to_list()] if known else []


def _of_device(runs: Runs, device: str) -> Runs:
    names = _devices(runs)
    if not names:
        raise FitError(
            "the table has no column device", where=runs.source, remedy="leave --device out"
        )
    mask = np.array([device.lower() in name.lower() for name in names])
    if not mask.any():
        raise FitError(
            f"no run was made on {device!r}",
            where=runs.source,
            remedy=f"devices: {', '.join(sorted(set(names)))}",
        )
    return runs.take(mask, f"device {device}: {int(mask.sum())} rows")


class _Said(NamedTuple):
    """ln of the loss that a law says, the sd of that, and the part of it that is the forms'."""

    mean: float
    sd: float
    misfit: float


@dataclass
class _Plan:
    """The question that every architecture answers. x: c or h, what the budget is in."""

    x: str
    amount: float
    unique: float | None
    max_epochs: float
    beyond: float
    cost: Any
    settings: dict[str, Any]
    anyway: bool
    diagnosis: bool

    def choose(self, name: str, part: Runs) -> tuple[Choice, _Said | None]:
        """One architecture's choice, and what its law says of the loss."""
        choice = Choice(name)
        try:
            self._check_cost(part)
            part = with_compute(part, self.cost or (None if "c" in part else "6nd"))
            law = self._law(part, choice.notes)
            limits = _Limits.of(part, self)
            choice.n, choice.d = _search(law, limits, part, self.unique)
            sample = self._predict(choice, law, part)
            self._describe(choice, part, limits)
            self._judge(choice, law, part)
        except FitError as error:
            choice.reason = error.what
        return choice, None if choice.reason else sample

    def _check_cost(self, part: Runs) -> None:
        if self.x in part or (self.x == "c" and self.cost is not None):
            return
        missing = ROLES[self.x].meaning.split(" (")[0]
        other = ", or let it be 6 N D: --cost 6nd"
        if self.x == "h":
            other = ", or give the budget in FLOPs (--flops)"
        elif "h" in part:
            other += ", or give the budget in --hours"
        raise FitError(
            f"the table has no {missing} ({self.x}): name their column with"
            f" --columns {self.x}=...{other}"
        )

    def _law(self, part: Runs, notes: list[str]) -> Extrapolation:
        """The forms of law, or the law of repeated data where it is asked for and can be fitted."""
        settings = self.settings
        if self.unique is not None and _repeated(part):
            own = {k: v for k, v in settings.items() if k != "law"}
            repeats = fit_repeats(part, interval="jackknife", **own)
            if repeats.ok:
                settings = settings | {"law": repeats.law}
                if "rho" in repeats.parameters:
                    notes.append(
                        "repeats wear out sooner the larger the model: R_D ~"
                        f" N^-{repeats['rho'].value:.2g}"
                    )
            else:
                notes.append(f"repeats are not modelled: {repeats.message}")
        found = extrapolate(part, part["c"], **settings)
        if not found.ok:
            raise FitError(f"the fit is {found.status.replace('_', ' ')}: {found.message}")
        if not set(found.best.law.roles) <= {"n", "d", "u"}:
            raise FitError(
                f"the law {found.best.law.name} is one of {', '.join(found.best.law.roles)}, and"
                " does not say how a budget is split into N and D: choose --law auto or surface"
            )
        return found

    def _predict(self, choice: Choice, law: Extrapolation, part: Runs) -> _Said:
        """Put the predicted loss into ``choice``."""
        flops = float(Cost.measured(part)(choice.n, choice.d))
        at = {"n": choice.n, "d": choice.d, "c": flops}
        at["u"] = min(self.unique or choice.d, choice.d)
        new, mean = (law.interval(kind, budget=flops, **at) for kind in ("new run", "mean"))
        choice.loss, choice.loss_low, choice.loss_high = (
            float(v[0]) for v in (new.value, new.low, new.high)
        )
        choice.loss_mean_low, choice.loss_mean_high = float(mean.low[0]), float(mean.high[0])
        moments = law.moments(np.array([flops]), **{k: np.array([v]) for k, v in at.items()})
        return _Said(*(float(values[0]) for values in moments))

    def _describe(self, choice: Choice, part: Runs, limits: _Limits) -> None:
        """Epochs, cost, how far ``choice`` extrapolates, and what held it back."""
        distinct = self.unique or (float(part["u"].max()) if "u" in part else None)
        choice.epochs = None if distinct is None else choice.d / distinct
        spent = float(limits.spent(choice.n, choice.d))
        spent = self.amount if spent > 0.98 * self.amount else spent
        for role, name in (("c", "flops"), ("h", "hours")):
            if role == self.x:
                setattr(choice, name, spent)
            elif role in part:
                setattr(choice, name, float(Cost.measured(part, role)(choice.n, choice.d)))
        choice.extrapolation = {
            "budget": spent / float(part[self.x].max()),
            "n": choice.n / float(part["n"].max()),
            "d": choice.d / float(part["d"].max()),
        }
        notes = choice.notes
        if spent < self.amount:
            notes.append(
                f"only {spent / self.amount:.2g} of the budget is used: N and D stay within"
                f" {self.beyond:g} times the largest measured ones (--beyond)"
            )
        if self.unique is not None and choice.d > self.unique and "u" not in limits.roles:
            notes.append("the table has no runs with repeats: repeated data are counted as new")
            if choice.d > 0.99 * self.unique * self.max_epochs:
                notes.append(
                    f"data end at {self.max_epochs:g} passes, so the model is larger than compute"
                    " alone would have it"
                )
        if self.unique is None and choice.epochs is not None and choice.epochs > 1.05:
            notes.append(
                f"that is {choice.epochs:.3g} passes over the largest data set of the table,"
                " counted as new data: name what there is with --unique"
            )
        if choice.extrapolation["budget"] > BEYOND:
            notes.append(
                f"the budget is {choice.extrapolation['budget']:.3g} times the largest that was"
                " measured: a law that bends there would not be seen here"
            )
        if limits.cost.sd > 0.1:
            notes.append(f"the cost scatters by {limits.cost.sd:.0%} about k N^p D^q")

    def _judge(self, choice: Choice, law: Extrapolation, part: Runs) -> None:
        """Verdicts of back-tests and diagnosis; the reason where both say no."""
        choice.back_test = law.verdict()
        if self.diagnosis or law.foretells is False:
            choice.diagnosis, sound = second_opinion(part, self.settings)
            if law.foretells is False and not sound and not self.anyway:
                choice.reason = f"{CANNOT_SAY}: {choice.back_test}; {choice.diagnosis}"


@dataclass
class _Limits:
    """What bounds N and D: the budget at the measured ``cost``, and at the best measured rate
    (``fastest``, for hours), and multiples of what was measured. roles: "u" where repeats count."""

    amount: float
    cost: Cost
    fastest: Cost | None
    n: tuple[float, float]
    d: float
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, part: Runs, plan: _Plan) -> _Limits:
        cost, fastest = Cost.measured(part, plan.x), None
        if not cost.q > 0.05:  # cost hardly rises with D: overhead, which says nothing of more
            cost = Cost(float(np.median(part[plan.x] / (part["n"] * part["d"]))), sd=cost.sd)
        if plan.x == "h":
            flops = Cost.measured(part)
            rate = float((part["c"] / part["h"]).max())
            fastest = Cost(flops.k / rate, flops.p, flops.q)
        d = plan.beyond * float(part["d"].max())
        repeats = _repeated(part)
        if plan.unique is not None and not repeats:
            d = min(d, plan.unique * plan.max_epochs)
        n = part["n"].min() / plan.beyond, part["n"].max() * plan.beyond
        return cls(plan.amount, cost, fastest, n, d, ("u",) if repeats else ())

    def spent(self, n: Any, d: Any) -> Any:
        cost = self.cost(n, d)
        return cost if self.fastest is None else np.maximum(cost, self.fastest(n, d))

    def most_d(self, ln_n: np.ndarray) -> np.ndarray:
        """The most data [M] that ln N [M] leaves affordable."""
        d = np.full(len(ln_n), self.d)
        for one in (self.cost, self.fastest):
            if one is not None:
                d = np.minimum(d, np.exp((np.log(self.amount / one.k) - one.p * ln_n) / one.q))
        return d


def _repeated(part: Runs) -> bool:
    """Whether some run saw its data often enough for a law of repeats."""
    return "u" in part and float((part["d"] / part["u"]).max()) > 1.5


def _search(
    law: Extrapolation, limits: _Limits, part: Runs, unique: float | None
) -> tuple[float, float]:
    """N and D of the lowest loss within ``limits``: for each N all the data that it can afford, and
    a search in ln N that closes in."""
    low, high = np.log(limits.n)
    for _ in range(4):
        ln_n = np.linspace(low, high, 201)
        d = limits.most_d(ln_n)
        at = {"n": np.exp(ln_n), "d": d, "u": np.minimum(unique or d, d)}
        best = int(np.argmin(law.weights @ law.log_predictions(**at)))
        step = (high - low) / 200
        low, high = max(low, ln_n[best] - 2 * step), min(high, ln_n[best] + 2 * step)
    return float(at["n"][best]), float(d[best])


def _rank(choices: Sequence[Choice], samples: Sequence[_Said | None], seed: int) -> None:
    """p_best: how often each has the lowest loss when the laws' errors are drawn (normal). Laws of
    one table bend alike beyond it: :data:`SHARED` of the forms' variance is one draw for all."""
    usable = [(one, sample) for one, sample in zip(choices, samples) if sample is not None]
    if not usable:
        return
    rng = np.random.default_rng(seed)
    mean, sd, misfit = np.array([said for _, said in usable]).T[:, :, None]
    common = np.sqrt(SHARED) * misfit
    own = np.sqrt(np.maximum(sd**2 - common**2, 1e-24))
    drawn = mean + common * rng.normal(size=DRAWS) + own * rng.normal(size=(len(usable), DRAWS))
    winner = np.bincount(drawn.argmin(axis=0), minlength=len(usable)) / DRAWS
    for (one, _), p in zip(usable, winner):
        one.p_best = float(p)
