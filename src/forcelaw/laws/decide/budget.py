"""A budget turned into a decision: which architecture, how large, on how much data, and what loss
to expect.

For every architecture: the surface, the measured cost C = k N^p D^q (FLOPs, or device-hours), N and
D that minimise the loss within the budget, the interval in which the loss of such a run should
fall, and how far all this extrapolates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.columns import ROLES
from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import FitResult, clean, spread
from .allocation import Cost, optimal
from .repeats import fit_repeats

FAR = 30.0  # budgets beyond this multiple of the largest measured one are called far
# passes over limited data up to which repeats are close to new data (Muennighoff et al. 2023, fig.
# 5)
MOST_EPOCHS = 4.0


@dataclass
class Choice:
    """What one architecture would do with the budget. loss: prediction with the interval for a new
    run; loss_mean_*: the interval of the law alone. extrapolation: budget, N and D over the largest
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

    @property
    def ok(self) -> bool:
        return not self.reason


@dataclass
class Budget:
    """choices, the best first; amount and unit of the budget."""

    amount: float
    unit: str
    choices: list[Choice]
    unique: float | None = None
    level: float = 0.95
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> Choice | None:
        return self.choices[0] if self.choices and self.choices[0].ok else None

    @property
    def status(self) -> str:
        return "ok" if self.best else "refused"

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "status": self.status,
                "amount": self.amount,
                "unit": self.unit,
                "unique": self.unique,
                "level": self.level,
                "choices": [vars(one) | {"ok": one.ok} for one in self.choices],
                "notes": self.notes,
            }
        )

    def summary(self) -> str:
        head = (
            f"{'architecture':16} {'N':>9} {'D':>9} {'loss':>9}"
            f" {f'{self.level:.0%} of a new run':>22} {'epochs':>7} {'hours':>9} {'FLOPs':>9}"
            f" {'x beyond':>9} {'P(best)':>8}"
        )
        lines = [f"budget: {self.amount:.4g} {self.unit}", head]
        for one in self.choices:
            if not one.ok:
                lines.append(f"{one.group or 'all':16} no answer: {one.reason}")
                continue
            hours = "-" if one.hours is None else f"{one.hours:.3g}"
            flops = "-" if one.flops is None else f"{one.flops:.3g}"
            best = f"{one.p_best:.2f}" if sum(other.ok for other in self.choices) > 1 else "-"
            epochs = "-" if one.epochs is None else f"{one.epochs:.3g}"
            lines.append(
                f"{one.group or 'all':16} {one.n:9.3g} {one.d:9.3g} {one.loss:9.4g}"
                f" {f'[{one.loss_low:.4g}, {one.loss_high:.4g}]':>22} {epochs:>7} {hours:>9}"
                f" {flops:>9} {one.extrapolation['budget']:9.3g} {best:>8}"
            )
            lines += [f"{'':16} note: {note}" for note in one.notes]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def budget(
    runs: Runs,
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

    unique: distinct data there are; more of D means epochs. If the table has runs with repeats
    (column u) the data-constrained law says what repeats are worth; else at most ``max_epochs``
    passes are planned, each counted as new data, and that is said. device: rows of this device only
    (for hours). settings: those of :func:`forcelaw.laws.fit.fit.fit`.
    """
    if (flops is None) == (hours is None):
        raise FitError(
            "give a budget in FLOPs or in hours",
            where="budget",
            remedy="one of --flops and --hours",
        )
    amount, x = (flops, "c") if flops is not None else (hours, "h")
    if not (np.isfinite(amount) and amount > 0) or (
        unique is not None and not (np.isfinite(unique) and unique > 0)
    ):
        raise FitError(
            f"the budget is {amount}, distinct data {unique}",
            where="budget",
            remedy="give positive numbers",
        )
    if device is not None:
        runs = _of_device(runs, device)
    notes = []
    if (
        x == "h"
        and device is None
        and runs.frame is not None
        and "device" in runs.frame.columns
        and runs.frame["device"].n_unique() > 1
    ):
        notes.append("hours of several devices are mixed: name one with --device")
    settings.pop("interval", None)
    choices, draws = [], []
    for name, part in runs.groups().items():
        choice, sample = _choose(name, part, x, float(amount), unique, max_epochs, level, settings)
        choices.append(choice)
        draws.append(sample)
    _rank(choices, draws, seed)
    choices.sort(key=lambda one: (not one.ok, one.loss if one.ok else 0.0))
    if len(choices) > 1 and choices[0].ok and choices[0].p_best < 0.9:
        notes.append(f"the choice of {choices[0].group} is not sure (P = {choices[0].p_best:.2f})")
    return Budget(float(amount), {"c": "FLOPs", "h": "hours"}[x], choices, unique, level, notes)


def _of_device(runs: Runs, device: str) -> Runs:
    frame = runs.frame
    if frame is None or "device" not in frame.columns:
        raise FitError(
            "the table has no column device", where=runs.source, remedy="leave --device out"
        )
    names = [str(value) for value in frame["device"].to_list()]
    mask = np.array([device.lower() in name.lower() for name in names])
    if not mask.any():
        raise FitError(
            f"no run was made on {device!r}",
            where=runs.source,
            remedy=f"devices: {', '.join(sorted(set(names)))}",
        )
    return runs.take(mask, f"device {device}: {int(mask.sum())} rows")


def _choose(
    name: str,
    part: Runs,
    x: str,
    amount: float,
    unique: float | None,
    max_epochs: float,
    level: float,
    settings: dict[str, Any],
) -> tuple[Choice, tuple[float, float] | None]:
    """One architecture's choice, and mean and sd of its predicted ln loss (of the law)."""
    choice = Choice(name)
    try:
        if x not in part:
            missing = ROLES[x].split(" (")[0]
            raise FitError(
                f"the table has no {missing} ({x}): name their column with --columns {x}=..."
                + (
                    ", or give the budget in FLOPs (--flops)"
                    if x == "h"
                    else ", or give the budget in --hours"
                    if "h" in part
                    else ""
                )
            )
        notes, settings = choice.notes, settings | {"interval": "jackknife", "level": level}
        repeats = unique is not None and "u" in part and float((part["d"] / part["u"]).max()) > 1.5
        result = fit_repeats(part, **settings) if repeats else fit(part, "surface", **settings)
        if repeats and not result.ok:
            notes.append(f"repeats are not modelled: {result.message}")
            result = fit(part, "surface", **settings)
        result.require()
        if result.replicates is None:
            raise FitError("the surface has no interval")
        cost = Cost.measured(part, x)
    except FitError as error:
        choice.reason = error.what
        return choice, None
    values = {
        key: float(value[0])
        for key, value in result.law.natural(result.theta, result.centre).items()
    }
    if "u" in result.law.roles:
        choice.n, choice.d = _search(result, cost, amount, unique)
        if "rho" in result.parameters:
            notes.append(
                f"repeats wear out sooner the larger the model: R_D ~ N^-{result['rho'].value:.2g}"
            )
    else:
        n, d = optimal(values, np.log(amount), cost)
        choice.n, choice.d = float(n), float(d)
        if unique is not None and choice.d > unique * max_epochs:
            choice.d = unique * max_epochs
            choice.n = float(np.exp((np.log(amount / cost.k) - cost.q * np.log(choice.d)) / cost.p))
            notes.append(
                f"data end at {max_epochs:g} passes, so the model is larger than compute alone"
                " would have it"
            )
        if unique is not None and choice.d > unique:
            notes.append("the table has no runs with repeats: repeated data are counted as new")
    at = {"n": choice.n, "d": choice.d, "u": min(unique or choice.d, choice.d)}
    sample = _predict(choice, result, {role: at[role] for role in result.law.roles}, level)
    choice.epochs = choice.d / unique if unique is not None else None
    for other, field_name in (("c", "flops"), ("h", "hours")):
        if other == x:
            setattr(choice, field_name, amount)
        elif other in part:
            setattr(choice, field_name, float(Cost.measured(part, other)(choice.n, choice.d)))
    choice.extrapolation = {
        "budget": amount / float(part[x].max()),
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
    return choice, sample


def _predict(
    choice: Choice, result: FitResult, at: dict[str, float], level: float
) -> tuple[float, float]:
    new, mean = (
        result.interval("new run", level=level, **at),
        result.interval("mean", level=level, **at),
    )
    choice.loss, choice.loss_low, choice.loss_high = (
        float(v[0]) for v in (new.value, new.low, new.high)
    )
    choice.loss_mean_low, choice.loss_mean_high = float(mean.low[0]), float(mean.high[0])
    centre = result.law.predict_log(result.theta, at, result.centre)[0]
    draws = result.law.predict_log(result.replicates, at, result.centre)
    return float(centre[0]), float(spread(draws, centre, result.method)[0])


def _search(result: FitResult, cost: Cost, amount: float, unique: float) -> tuple[float, float]:
    """N and D of the lowest loss at the budget where repeats lose worth: no closed form, so a fine
    search in ln N."""
    values = {
        key: float(value[0])
        for key, value in result.law.natural(result.theta, result.centre).items()
    }
    middle = float(np.log(optimal(values, np.log(amount), cost)[0]))
    width = 8.0
    for _ in range(4):
        ln_n = np.linspace(middle - width, middle + width, 201)
        ln_d = (np.log(amount / cost.k) - cost.p * ln_n) / cost.q
        at = {"n": np.exp(ln_n), "d": np.exp(ln_d), "u": np.minimum(unique, np.exp(ln_d))}
        loss = result.law.predict_log(result.theta, at, result.centre)[0]
        middle, width = float(ln_n[int(np.argmin(loss))]), width / 20
    return float(np.exp(middle)), float(
        np.exp((np.log(amount / cost.k) - cost.p * middle) / cost.q)
    )


def _rank(choices: list[Choice], draws: list[tuple[float, float] | None], seed: int) -> None:
    """p_best: how often each has the lowest loss when the laws' errors are drawn (independent,
    normal)."""
    usable = [i for i, one in enumerate(draws) if one is not None]
    if not usable:
        return
    rng = np.random.default_rng(seed)
    sample = np.stack([rng.normal(draws[i][0], max(draws[i][1], 1e-12), 4000) for i in usable])
    winner = np.bincount(sample.argmin(axis=0), minlength=len(usable)) / sample.shape[1]
    for i, p in zip(usable, winner):
        choices[i].p_best = float(p)
