"""Which runs to add to a study so that a named quantity, or the loss at a target, gets a shorter
interval, per hour spent, by simulation.

The fitted surface and the measured noise (between runs, within runs, its autocorrelation) make
synthetic copies of the study with and without a candidate run; each is refitted. The candidate with
the largest fall of the interval per hour (or per FLOP) is taken, and the next is looked for on top
of it. All candidates see the same noise in the old runs, so that their ranking needs few copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ...progress import Progress
from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.objective import Objective
from ..fit.problem import build
from ..fit.result import UNITS, Estimate, FitResult, Result, named, note_lines
from ..inputs import one_architecture
from .allocation import Cost
from .simulate import noise, table

COPIES = 200
SURE = 2.0  # standard errors of the simulation that a gain must exceed to be acted on
RANKS = {"per-cost": "for their cost", "gain": "whatever they cost"}


@dataclass
class Addition(Result):
    """One run to add: its size N, data D and cost, and the half-width of the interval with it (and
    all above it). gain_se: standard error of the gain, for there are only so many simulated
    copies."""

    n: float
    d: float
    cost: float
    half_width: float
    before: float
    kind: str = ""
    gain_se: float = 0.0
    also = ("gain",)

    @property
    def gain(self) -> float:
        """Fall of the half-width, as a fraction."""
        return 1 - self.half_width / self.before

    @property
    def sure(self) -> bool:
        """Whether the gain is more than the noise of the simulation."""
        return self.gain > SURE * self.gain_se


@dataclass
class Design(Result):
    """additions in the order to make them; candidates: all that were tried at the first step; unit:
    of the costs, FLOPs or hours."""

    quantity: str
    group: str
    value: float
    half_width: float
    measured_half_width: float | None
    unit: str
    additions: list[Addition]
    candidates: list[Addition]
    noise: dict[str, float] = field(default_factory=dict)
    rank: str = "per-cost"
    notes: list[str] = field(default_factory=list)
    also = ("status",)
    status = "ok"

    def rows(self) -> list[dict[str, Any]]:
        """One row for each run to add."""
        return [one.as_json() for one in self.additions]

    def summary(self) -> str:
        """For a terminal."""
        measured = self.measured_half_width
        lines = [
            f"{named(self.group)}{self.quantity} = {self.value:.4g} +-"
            f" {self.half_width:.3g} expected of the study as it is"
            + (f" ({measured:.3g} measured)" if measured else "")
        ]
        if self.additions:
            lines += [
                f"runs that shorten it most, {RANKS[self.rank]} (--rank {self.rank}):",
                f"{'add':>3} {'N':>9} {'D':>9} {self.unit:>10} {'then +-':>9} {'shorter by':>10}"
                "  what",
            ]
        for i, one in enumerate(self.additions):
            lines.append(
                f"{i + 1:>3} {one.n:9.3g} {one.d:9.3g} {one.cost:10.3g} {one.half_width:9.3g} "
                f"{one.gain:10.0%}  {one.kind}"
            )
        return "\n".join([*lines, *note_lines(self.notes)])


def design(
    runs: Any,
    quantity: str = "gamma",
    *,
    add: int = 3,
    cost: str | None = None,
    max_cost: float | None = None,
    target: Mapping[str, float] | None = None,
    copies: int = COPIES,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = False,
    law: str = "surface",
    rank: str = "per-cost",
    **settings: Any,
) -> Design:
    """Plan ``add`` runs for a table of one architecture.

    runs: any table (see :func:`forcelaw.fit`). quantity: a parameter or derived quantity of the law
    (alpha, beta, E, a, gamma). target: where the loss is to be known, e.g. n=1e7, d=1e9, instead of
    a quantity; the half-widths are then those of ln L there. cost: "h" or "c" (default: hours if
    the table has them). max_cost: leave out dearer candidates, in FLOPs or hours (default: 4 times
    the dearest run). copies: simulated ones. rank: "per-cost" takes the run with the largest fall
    of the interval per cost, which is often a small one; "gain" the one with the largest fall,
    whatever it costs. settings: those of :func:`forcelaw.fit`. FitError where the table cannot
    carry the fit.
    """
    if rank not in RANKS:
        raise FitError(
            f"candidates cannot be ranked by {rank!r}",
            where="design",
            remedy=f"use {' or '.join(RANKS)}",
        )
    runs = one_architecture(runs, "design", "a design")
    settings.pop("interval", None)
    result = fit(runs, law, interval="jackknife", level=level, **settings).require()
    at = _target(target, result)
    if at is None and quantity not in result.estimates:
        raise FitError(
            f"{law} has no quantity {quantity!r}",
            where="design",
            remedy=f"use one of {', '.join(result.estimates)}",
        )
    unit = cost or ("h" if "h" in runs else "c")
    price = Cost.measured(runs, unit)
    study = _Study(runs, result, quantity, copies, seed, level, at)
    candidates = _candidates(runs, price, max_cost)
    if not candidates:
        raise FitError(
            "no candidate run is within the cost limit", where="design", remedy="raise --max-cost"
        )
    base = study.half_width(study.values([]), 0)
    bar = Progress("design", add * len(candidates), unit="candidates") if progress else None
    chosen, tried, doubt = _choose(study, candidates, price, add, rank, bar)
    value, group = study.estimate(), runs.group_names[0]
    name = (
        quantity if at is None else "ln loss at " + ", ".join(f"{k}={v:g}" for k, v in at.items())
    )
    found = Design(name, group, value.value, base, value.half_width, UNITS[unit], chosen, tried)
    found.noise, found.rank = study.noise, rank
    if len(chosen) < add:
        found.notes.append(
            f"no {'single' if not chosen else 'further'} candidate shortens the interval by more"
            f" than the noise of the simulation (about {SURE * doubt:.0%}): more --copies see"
            " less, several runs together do more, or raise --max-cost"
        )
    for one in chosen:
        if one.n > runs["n"].max() * 1.01:
            found.notes.append(f"with N = {one.n:.3g} the study goes beyond its sizes")
    return found


def _target(target: Mapping[str, float] | None, result: FitResult) -> dict[str, float] | None:
    """The target with every variable of the law; FitError where one is missing or not positive."""
    if target is None:
        return None
    missing = [role for role in result.law.roles if role not in target]
    wrong = [role for role, value in target.items() if not (np.isfinite(value) and value > 0)]
    unknown = [role for role in target if role not in result.law.roles]
    if missing or wrong or unknown:
        raise FitError(
            f"the target {dict(target)} does not give {', '.join(missing or wrong or unknown)}"
            + (" as positive numbers" if wrong else " of the law" if unknown else ""),
            where="--target",
            remedy="give " + ",".join(f"{role}=1e7" for role in result.law.roles),
        )
    return dict(target)


def _choose(
    study: _Study,
    candidates: list[tuple[float, float, str]],
    price: Cost,
    add: int,
    rank: str,
    bar: Progress | None,
) -> tuple[list[Addition], list[Addition], float]:
    """The runs to add one by one, the candidates of the first step, and the median standard error
    of the gains of the last one."""
    now = study.values([])  # of the quantity, over the copies
    before, doubt = study.half_width(now, 0), 0.0
    chosen: list[Addition] = []
    tried: list[Addition] = []
    for step in range(add):
        options, samples = [], []
        for i, (n, d, kind) in enumerate(candidates):
            sample = study.values([*((one.n, one.d) for one in chosen), (n, d)])
            width, unsure = study.half_width(sample, len(chosen) + 1), study.doubt(now, sample)
            options.append(Addition(n, d, float(price(n, d)), width, before, kind, unsure))
            samples.append(sample)
            if bar:
                bar.update(step * len(candidates) + i + 1)
        per = [one.cost if rank == "per-cost" else 1.0 for one in options]
        worth = np.array([one.gain / share for one, share in zip(options, per)])
        tried = tried or [options[i] for i in np.argsort(-worth, kind="stable")]
        doubt = float(np.median([one.gain_se for one in options]))
        sure = np.array([one.sure for one in options])
        if not sure.any():  # the best of many gains that are all noise would be a run at random
            break
        best = int(np.argmax(np.where(sure, worth, -np.inf)))
        chosen.append(options[best])
        now, before = samples[best], options[best].half_width
    if bar:
        bar.close()
    return chosen, tried, doubt


def _candidates(runs: Runs, price: Cost, max_cost: float | None) -> list[tuple[float, float, str]]:
    """N, D and kind: the sizes there are (another seed), between, and beyond; as long as now, and
    four times longer."""
    sizes = np.unique(runs["n"])
    sizes = sizes[np.concatenate([[True], np.diff(np.log(sizes)) > 0.1])]
    if len(sizes) > 12:  # thin a fine ladder
        sizes = sizes[np.unique(np.linspace(0, len(sizes) - 1, 12).astype(int))]
    step = np.log(2)
    if len(sizes) > 1:
        typical = np.median(np.diff(np.log(sizes)))
        step = float(np.clip(typical, np.log(1.5), np.log(4.0)))
    longest = float(runs["d"].max())
    full = runs["n"][runs["d"] > 0.9 * longest]  # sizes with a run as long as the candidates
    new = []
    for n in sizes:
        repeated = (abs(np.log(full / n)) < 0.05).any()
        new.append((float(n), "another seed" if repeated else "size there is, longer"))
    new += [(float(n), "size between") for n in np.sqrt(sizes[1:] * sizes[:-1])]
    new += [(float(sizes[-1] * np.exp(step * k)), "larger size") for k in (1, 2)]
    new += [(float(sizes[0] * np.exp(-step)), "smaller size")]
    limit = max_cost if max_cost is not None else 4 * float(price(runs["n"], runs["d"]).max())
    return [
        (n, longest * factor, kind + more)
        for n, kind in new
        for factor, more in ((1.0, ""), (4.0, ", 4 times longer"))
        if price(n, longest * factor) <= limit
    ]


class _Study:
    """The study as a simulation: how long would the interval of a quantity be with some runs
    more?"""

    def __init__(
        self,
        runs: Runs,
        result: FitResult,
        quantity: str,
        copies: int,
        seed: int,
        level: float,
        at: dict[str, float] | None = None,
    ):
        self.at = at
        self.runs, self.result, self.quantity = runs, result, quantity
        self.copies, self.seed, self.level = copies, seed, level
        d = result.diagnostics
        self.noise = {
            "sd_run": d["sd_between_runs"],
            "sd_within": max(d["sd_within_runs"], 1e-6),
            "correlation": d["autocorrelation"],
        }
        clock = np.unique(np.round(np.log(runs["d"] / runs["d"].max()), 2))
        # where every run has one evaluation, so has a new one: its last
        if len(runs) == len(runs.run_names):
            clock = np.zeros(1)
        some = np.unique(np.linspace(0, len(clock) - 1, min(len(clock), 12)).astype(int))
        self.clock = np.exp(clock[some])
        self.objective = Objective(result.objective_kind, result.delta)
        self.mean = self._mean({role: runs[role] for role in result.law.roles})
        order = np.lexsort((runs["d"], runs.run))
        self.error = np.empty((copies, len(runs)))
        for copy in range(copies):
            rng = np.random.default_rng([seed, copy])
            self.error[copy, order] = noise(runs.run[order], rng, **self.noise)

    def _mean(self, at: dict[str, np.ndarray]) -> np.ndarray:
        """ln L of the law."""
        return self.result.law.predict_log(self.result.best(), at, self.result.centre)[0]

    def estimate(self) -> Estimate:
        """The quantity, or ln L at the target, as the study has it, with its interval."""
        if self.at is None:
            return self.result.estimates[self.quantity]
        at: dict[str, Any] = {role: np.array([v]) for role, v in self.at.items()}
        band = self.result.interval(**at)
        ends = [float(np.log(one[0])) for one in (band.value, band.low, band.high)]
        return Estimate(ends[0], None, ends[1], ends[2], "mean")

    def half_width(self, values: np.ndarray, added: int) -> float:
        """Expected half-width with ``added`` runs more: t(G-1) times the standard deviation of the
        refits ``values``."""
        df = len(self.runs.run_names) + added - 1
        return float(stats.t.ppf(0.5 + self.level / 2, df) * _sd(values))

    def doubt(self, before: np.ndarray, after: np.ndarray) -> float:
        """Standard error of the fall of the half-width, by resampling the copies, which the two
        have in common."""
        pick = np.random.default_rng(self.seed).integers(0, self.copies, (100, self.copies))
        return float(np.std(_sd(after[pick]) / np.maximum(_sd(before[pick]), 1e-300)))

    def values(self, additions: list[tuple[float, float]]) -> np.ndarray:
        """The quantity in the refit of each copy [copies] of the study with the runs
        ``additions`` (N, D)."""
        n, d, run, y = self._simulated(additions)
        law, result = self.result.law, self.result
        c = None if law.name == "surface" else n * d
        whole = table(n=n, d=d, loss=np.exp(y[0]), run=run, c=c)
        problem = build(whole, law, self.objective, "run", None)
        positive = {name: max(one.value, 0.0) or 1e-12 for name, one in result.parameters.items()}
        start = np.clip(law.internal(positive, problem.centre), *problem.bounds)
        many = np.tile(start, (self.copies, 1))
        theta = problem.solve(many, tolerance=1e-8, iterations=60, y=y).theta
        copy = FitResult(law, "ok", theta=theta[0], centre=problem.centre, context=result.context)
        if self.at is not None:
            there = {role: np.array([value]) for role, value in self.at.items()}
            return law.predict_log(theta, there, problem.centre)[:, 0]
        return copy.quantity(self.quantity, theta)

    def _simulated(
        self, additions: list[tuple[float, float]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """N, D, run [rows] and ln L [copies, rows] of the study with the added runs."""
        runs = self.runs
        groups = len(runs.run_names)
        n, d, run, y = [runs["n"]], [runs["d"]], [runs.run], [self.mean + self.error]
        for i, (size, length) in enumerate(additions):
            data = length * self.clock
            n.append(np.full(len(data), size))
            d.append(data)
            run.append(np.full(len(data), groups + i))
            mean, rows = self._mean({"n": n[-1], "d": data}), np.zeros(len(data), int)
            # a generator for each added run: the same whatever else is added
            makers = [
                np.random.default_rng([self.seed, copy, i + 1, 7]) for copy in range(self.copies)
            ]
            y.append(np.stack([mean + noise(rows, rng, **self.noise) for rng in makers]))
        whole = np.concatenate(n), np.concatenate(d), np.concatenate(run).astype(int)
        return *whole, np.concatenate(y, axis=1)


def _sd(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation over the last axis: with few runs some copies have no optimum and
    run away."""
    low, high = np.quantile(values, [0.16, 0.84], axis=-1)
    return (high - low) / 2
