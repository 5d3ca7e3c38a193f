"""A budget turned into a decision: which architecture, how large, on how much data, and what loss
to expect.

For every architecture: the surface, the measured cost C = k N^p D^q (FLOPs, or device-hours), N and
D that minimise the loss within the budget, the interval in which the loss of such a run should
fall, and how far all this extrapolates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.columns import ROLES
from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import UNITS, FitResult, Result, note_lines, spread
from ..inputs import as_runs
from .allocation import Cost, optimal
from .repeats import fit_repeats

FAR = 30.0  # budgets beyond this multiple of the largest measured one are called far
# passes over limited data up to which repeats are close to new data (Muennighoff et al. 2023, fig.
# 5)
MOST_EPOCHS = 4.0


@dataclass
class Choice(Result):
    """What one architecture would do with the budget. loss: prediction with the interval for a new
    run; loss_mean_*: that of the law itself. extrapolation: budget, N and D over the largest
    measured ones. reason: why it has none."""

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
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    also = ("ok",)

    @property
    def ok(self) -> bool:
        return not self.reason


@dataclass
class Budget(Result):
    """choices, the best first; amount of the budget and its unit, FLOPs or hours."""

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
            f" {'x beyond':>9} {'P(best)':>8}",
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
                f" {flops:>9} {one.extrapolation['budget']:9.3g} {best:>8}"
            )
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
    level: float = 0.95,
    seed: int = 0,
    **settings: Any,
) -> Budget:
    """The best use of ``flops`` or ``hours`` (one of them) for every architecture of the table.

    runs: any table (see :func:`forcelaw.fit`). unique: distinct data there are; more of D means
    epochs. If the table has runs with repeats (column u) the data-constrained law says what repeats
    are worth; else at most ``max_epochs`` passes are planned, each counted as new data, and that is
    said. device: rows of this device only (for hours). settings: those of :func:`forcelaw.fit`.

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
    if not all(
        value is None or (np.isfinite(value) and value > 0) for value in (flops, hours, unique)
    ):
        raise FitError(
            f"the budget is {amount}, distinct data {unique}",
            where="budget",
            remedy="give positive numbers",
        )
    runs = as_runs(runs) if device is None else _of_device(as_runs(runs), device)
    notes = []
    if x == "h" and device is None and len(set(_devices(runs))) > 1:
        notes.append("hours of several devices are mixed: name one with --device")
    settings.pop("interval", None)
    plan = _Plan(x, float(amount or 0.0), unique, max_epochs, level, settings)
    choices, samples = zip(*(plan.choose(name, part) for name, part in runs.groups().items()))
    _rank(choices, samples, seed)
    ranked = sorted(choices, key=lambda one: (not one.ok, one.loss if one.ok else 0.0))
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


@dataclass
class _Plan:
    """The question that every architecture answers. x: c or h, what the budget is in."""

    x: str
    amount: float
    unique: float | None
    max_epochs: float
    level: float
    settings: dict[str, Any]

    def choose(self, name: str, part: Runs) -> tuple[Choice, tuple[float, float] | None]:
        """One architecture's choice, and mean and sd of its predicted ln loss (of the law)."""
        choice = Choice(name)
        try:
            self._check_cost(part)
            result = self._law(part, choice.notes)
            cost = Cost.measured(part, self.x)
        except FitError as error:
            choice.reason = error.what
            return choice, None
        self._size(choice, result, cost)
        seen = min(self.unique or choice.d, choice.d)
        at = {"n": choice.n, "d": choice.d, "u": seen}
        sample = _predict(choice, result, {role: at[role] for role in result.law.roles}, self.level)
        self._describe(choice, part, cost)
        return choice, sample

    def _check_cost(self, part: Runs) -> None:
        if self.x in part:
            return
        missing = ROLES[self.x].meaning.split(" (")[0]
        other = ""
        if self.x == "h":
            other = ", or give the budget in FLOPs (--flops)"
        elif "h" in part:
            other = ", or give the budget in --hours"
        raise FitError(
            f"the table has no {missing} ({self.x}): name their column with"
            f" --columns {self.x}=...{other}"
        )

    def _law(self, part: Runs, notes: list[str]) -> FitResult:
        """The surface, or the law of repeated data where it is asked for and can be fitted."""
        settings = self.settings | {"interval": "jackknife", "level": self.level}
        seen_again = "u" in part and float((part["d"] / part["u"]).max()) > 1.5
        result = None
        if self.unique is not None and seen_again:
            result = fit_repeats(part, **settings)
            if not result.ok:
                notes.append(f"repeats are not modelled: {result.message}")
        if result is None or not result.ok:
            result = fit(part, "surface", **settings)
        result.require()
        if result.replicates is None:
            raise FitError("the surface has no interval")
        return result

    def _size(self, choice: Choice, result: FitResult, cost: Cost) -> None:
        """N and D of ``choice``."""
        unique, notes = self.unique, choice.notes
        if "u" in result.law.roles and unique is not None:
            choice.n, choice.d = _search(result, cost, self.amount, unique)
            if "rho" in result.parameters:
                notes.append(
                    "repeats wear out sooner the larger the model: R_D ~"
                    f" N^-{result['rho'].value:.2g}"
                )
            return
        n, d = optimal(_values(result), np.log(self.amount), cost)
        choice.n, choice.d = float(n), float(d)
        if unique is None:
            return
        if choice.d > unique * self.max_epochs:
            choice.d = unique * self.max_epochs
            rest = np.log(self.amount / cost.k) - cost.q * np.log(choice.d)
            choice.n = float(np.exp(rest / cost.p))
            notes.append(
                f"data end at {self.max_epochs:g} passes, so the model is larger than compute alone"
                " would have it"
            )
        if choice.d > unique:
            notes.append("the table has no runs with repeats: repeated data are counted as new")

    def _describe(self, choice: Choice, part: Runs, cost: Cost) -> None:
        """Epochs, cost and how far ``choice`` extrapolates."""
        choice.epochs = choice.d / self.unique if self.unique is not None else None
        for role, name in (("c", "flops"), ("h", "hours")):
            if role == self.x:
                setattr(choice, name, self.amount)
            elif role in part:
                setattr(choice, name, float(Cost.measured(part, role)(choice.n, choice.d)))
        choice.extrapolation = {
            "budget": self.amount / float(part[self.x].max()),
            "n": choice.n / float(part["n"].max()),
            "d": choice.d / float(part["d"].max()),
        }
        if choice.extrapolation["budget"] > FAR:
            choice.notes.append(
                f"the budget is {choice.extrapolation['budget']:.3g} times the largest that was"
                " measured: a law that bends there would not be seen here"
            )
        if cost.sd > 0.1:
            choice.notes.append(f"the cost scatters by {cost.sd:.0%} about k N^p D^q")


def _values(result: FitResult) -> dict[str, float]:
    return {name: float(value[0]) for name, value in result.quantities(result.best())[0].items()}


def _predict(
    choice: Choice, result: FitResult, at: dict[str, float], level: float
) -> tuple[float, float]:
    """Put the predicted loss into ``choice``; mean and sd of its logarithm."""
    new = result.interval("new run", level=level, **at)
    mean = result.interval("mean", level=level, **at)
    choice.loss, choice.loss_low, choice.loss_high = (
        float(v[0]) for v in (new.value, new.low, new.high)
    )
    choice.loss_mean_low, choice.loss_mean_high = float(mean.low[0]), float(mean.high[0])
    centre = result.law.predict_log(result.best(), at, result.centre)[0]
    draws = result.law.predict_log(result.refits(), at, result.centre)
    return float(centre[0]), float(spread(draws, centre, result.method)[0])


def _search(result: FitResult, cost: Cost, amount: float, unique: float) -> tuple[float, float]:
    """N and D of the lowest loss at the budget where repeats lose worth: no closed form, so a fine
    search in ln N."""
    middle = float(np.log(optimal(_values(result), np.log(amount), cost)[0]))
    width = 8.0

    def ln_d(ln_n: np.ndarray | float) -> Any:
        return (np.log(amount / cost.k) - cost.p * ln_n) / cost.q

    for _ in range(4):
        ln_n = np.linspace(middle - width, middle + width, 201)
        d = np.exp(ln_d(ln_n))
        at = {"n": np.exp(ln_n), "d": d, "u": np.minimum(unique, d)}
        loss = result.law.predict_log(result.best(), at, result.centre)[0]
        middle, width = float(ln_n[int(np.argmin(loss))]), width / 20
    return float(np.exp(middle)), float(np.exp(ln_d(middle)))


def _rank(
    choices: Sequence[Choice], samples: Sequence[tuple[float, float] | None], seed: int
) -> None:
    """p_best: how often each has the lowest loss when the laws' errors are drawn (independent,
    normal)."""
    usable = [(one, sample) for one, sample in zip(choices, samples) if sample is not None]
    if not usable:
        return
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.normal(mean, max(sd, 1e-12), 4000) for _, (mean, sd) in usable])
    winner = np.bincount(drawn.argmin(axis=0), minlength=len(usable)) / drawn.shape[1]
    for (one, _), p in zip(usable, winner):
        one.p_best = float(p)
