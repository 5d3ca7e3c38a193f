"""Which runs to add to a study so that a named quantity gets a shorter interval, per hour spent, by
simulation.

The fitted surface and the measured noise (between runs, within runs, its autocorrelation) make
synthetic copies of the study with and without a candidate run; each is refitted. The candidate with
the largest fall of the interval per hour (or per FLOP) is taken, and the next is looked for on top
of it. All candidates see the same noise in the old runs, so that their ranking needs few copies.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ...progress import Progress
from ...table.runs import Runs
from ..fit.fit import fit, quantities
from ..fit.objective import Objective
from ..fit.problem import Problem, build
from ..fit.result import FitResult, clean
from .allocation import Cost
from .simulate import noise, table

COPIES = 200
SURE = 2.0  # standard errors of the simulation that a gain must exceed to be acted on
RANKS = {"per-cost": "for their cost", "gain": "whatever they cost"}


@dataclass
class Addition:
    """One run to add: its size, data and cost, and the half-width of the interval with it (and all
    above it). gain_se: standard error of the gain, for there are only so many simulated copies."""

    n: float
    d: float
    cost: float
    half_width: float
    before: float
    kind: str = ""
    gain_se: float = 0.0

    @property
    def gain(self) -> float:
        """Fall of the half-width, as a fraction."""
        return 1 - self.half_width / self.before

    @property
    def sure(self) -> bool:
        """Whether the gain is more than the noise of the simulation."""
        return self.gain > SURE * self.gain_se


@dataclass
class Design:
    """additions in the order to make them; candidates: all that were tried at the first step."""

    quantity: str
    group: str
    value: float
    half_width: float
    measured_half_width: float | None
    unit: str
    additions: list[Addition]
    candidates: list[Addition]
    noise: dict[str, float]
    rank: str = "per-cost"
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        listed = [
            [vars(one) | {"gain": one.gain} for one in many]
            for many in (self.additions, self.candidates)
        ]
        return clean(vars(self) | {"status": "ok", "additions": listed[0], "candidates": listed[1]})

    def summary(self) -> str:
        lines = [
            f"{self.group + ': ' if self.group else ''}{self.quantity} = {self.value:.4g} +-"
            f" {self.half_width:.3g} expected of the study as it is"
            + (f" ({self.measured_half_width:.3g} measured)" if self.measured_half_width else "")
        ]
        if self.additions:
            lines += [
                f"runs that shorten it most, {RANKS[self.rank]} (--rank {self.rank}):",
                (
                    f"{'add':>3} {'N':>9} {'D':>9} {self.unit:>10} {'then +-':>9}"
                    f" {'shorter by':>10}  what"
                ),
            ]
        for i, one in enumerate(self.additions):
            lines.append(
                f"{i + 1:>3} {one.n:9.3g} {one.d:9.3g} {one.cost:10.3g} {one.half_width:9.3g} "
                f"{one.gain:10.0%}  {one.kind}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def design(
    runs: Runs,
    quantity: str = "gamma",
    *,
    add: int = 3,
    cost: str | None = None,
    max_cost: float | None = None,
    copies: int = COPIES,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = False,
    law: str = "surface",
    rank: str = "per-cost",
    **settings: Any,
) -> Design:
    """Plan ``add`` runs. quantity: a parameter or derived quantity of the law (alpha, beta, E, a,
    gamma). cost: "h" or "c" (default: hours if the table has them). max_cost: leave out dearer
    candidates (default: 4 times the dearest run). rank: "per-cost" takes the run with the largest
    fall of the interval per cost, which is often a small one; "gain" the one with the largest fall,
    whatever it costs."""
    if rank not in RANKS:
        raise FitError(
            f"candidates cannot be ranked by {rank!r}",
            where="design",
            remedy=f"use {' or '.join(RANKS)}",
        )
    if len(runs.group_names) > 1:
        raise FitError(
            f"a design is for one architecture; the table has {', '.join(runs.group_names)}",
            where="design",
            remedy="select one: --group NAME",
        )
    settings.pop("interval", None)
    result = fit(runs, law, interval="jackknife", level=level, **settings).require()
    there = {**result.parameters, **result.derived}
    if quantity not in there:
        raise FitError(
            f"{quantity!r} is no quantity of {law}",
            where="design",
            remedy=f"there are {', '.join(there)}",
        )
    unit = cost or ("h" if "h" in runs else "c")
    price = Cost.measured(runs, unit)
    study = _Study(runs, result, quantity, copies, seed, level)
    candidates = _candidates(runs, price, max_cost)
    if not candidates:
        raise FitError(
            "no candidate run is within the cost limit", where="design", remedy="raise --max-cost"
        )
    now = study.values([])  # of the quantity, over the copies
    base = study.half_width(now, 0)
    bar = (
        Progress("design", add * len(candidates), unit="candidates", stream=sys.stderr)
        if progress
        else None
    )
    chosen: list[Addition] = []
    tried: list[Addition] = []
    for step in range(add):
        before = chosen[-1].half_width if chosen else base
        options, samples = [], []
        for i, (n, d, kind) in enumerate(candidates):
            samples.append(study.values([(one.n, one.d) for one in chosen] + [(n, d)]))
            options.append(
                Addition(
                    n,
                    d,
                    float(price(n, d)),
                    study.half_width(samples[-1], len(chosen) + 1),
                    before,
                    kind,
                    study.doubt(now, samples[-1]),
                )
            )
            if bar:
                bar.update(step * len(candidates) + i + 1)
        worth = np.array(
            [one.gain / one.cost if rank == "per-cost" else one.gain for one in options]
        )
        tried = tried or [options[i] for i in np.argsort(-worth, kind="stable")]
        sure = np.array([one.sure for one in options])
        if not sure.any():  # the best of many gains that are all noise would be a run at random
            break
        best = int(np.argmax(np.where(sure, worth, -np.inf)))
        chosen.append(options[best])
        now = samples[best]
    if bar:
        bar.close()
    notes = []
    if len(chosen) < add:
        notes.append(
            f"no {'single' if not chosen else 'further'} candidate shortens the interval by more"
            " than the noise of the simulation (about"
            f" {SURE * float(np.median([one.gain_se for one in options])):.0%}): more --copies see"
            " less, several runs together do more, or raise --max-cost"
        )
    notes += [
        f"with N = {one.n:.3g} the study goes beyond its sizes"
        for one in chosen
        if one.n > runs["n"].max() * 1.01
    ]
    value = there[quantity]
    measured = None if value.low is None or value.high is None else (value.high - value.low) / 2
    return Design(
        quantity,
        runs.group_names[0],
        value.value,
        base,
        measured,
        {"h": "hours", "c": "FLOPs"}[unit],
        chosen,
        tried,
        study.noise,
        rank,
        notes,
    )


def _candidates(runs: Runs, price: Cost, max_cost: float | None) -> list[tuple[float, float, str]]:
    """N, D and kind: the sizes there are (another seed), between, and beyond; as long as now, and
    four times longer."""
    sizes = np.unique(runs["n"])
    sizes = sizes[np.concatenate([[True], np.diff(np.log(sizes)) > 0.1])]
    if len(sizes) > 12:  # thin a fine ladder
        sizes = sizes[np.unique(np.linspace(0, len(sizes) - 1, 12).astype(int))]
    step = (
        float(np.clip(np.median(np.diff(np.log(sizes))), np.log(1.5), np.log(4.0)))
        if len(sizes) > 1
        else np.log(2)
    )
    between = np.sqrt(sizes[1:] * sizes[:-1])
    longest = float(runs["d"].max())
    full = runs["n"][runs["d"] > 0.9 * longest]  # sizes with a run as long as the candidates
    new = [
        (
            float(n),
            "another seed" if (abs(np.log(full / n)) < 0.05).any() else "size there is, longer",
        )
        for n in sizes
    ]
    new += [(float(n), "size between") for n in between]
    new += [(float(sizes[-1] * np.exp(step * k)), "larger size") for k in (1, 2)]
    new += [(float(sizes[0] * np.exp(-step)), "smaller size")]
    limit = max_cost if max_cost is not None else 4 * float(price(runs["n"], runs["d"]).max())
    out = []
    for n, kind in new:
        for factor, more in ((1.0, ""), (4.0, ", 4 times longer")):
            if price(n, longest * factor) <= limit:
                out.append((n, longest * factor, kind + more))
    return out


class _Study:
    """The study as a simulation: how long would the interval of a quantity be with some runs
    more?"""

    def __init__(
        self, runs: Runs, result: FitResult, quantity: str, copies: int, seed: int, level: float
    ):
        self.runs, self.result, self.quantity, self.copies, self.seed, self.level = (
            runs,
            result,
            quantity,
            copies,
            seed,
            level,
        )
        d = result.diagnostics
        self.noise = {
            "sd_run": d["sd_between_runs"],
            "sd_within": max(d["sd_within_runs"], 1e-6),
            "correlation": d["autocorrelation"],
        }
        clock = np.unique(np.round(np.log(runs["d"] / runs["d"].max()), 2))
        if len(runs) == len(
            runs.run_names
        ):  # where every run has one evaluation, so has a new one: its last
            clock = np.zeros(1)
        self.clock = np.exp(
            clock[np.unique(np.linspace(0, len(clock) - 1, min(len(clock), 12)).astype(int))]
        )
        self.objective = Objective(result.objective_kind, result.delta)
        self.mean = result.law.predict_log(
            result.theta, {role: runs[role] for role in result.law.roles}, result.centre
        )[0]
        order = np.lexsort((runs["d"], runs.run))
        self.error = np.empty((copies, len(runs)))
        for copy in range(copies):
            rng = np.random.default_rng([seed, copy])
            self.error[copy, order] = noise(runs.run[order], rng, **self.noise)

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
        ``additions``."""
        runs, law = self.runs, self.result.law
        extra = [(n, d * self.clock) for n, d in additions]
        columns = {
            "n": np.concatenate([runs["n"], *(np.full(len(d), n) for n, d in extra)]),
            "d": np.concatenate([runs["d"], *(d for _, d in extra)]),
        }
        groups = len(runs.run_names)
        run = np.concatenate(
            [runs.run, *(np.full(len(d), groups + i) for i, (_, d) in enumerate(extra))]
        ).astype(int)
        y = np.empty((self.copies, len(run)))
        y[:, : len(runs)] = self.mean + self.error
        for i, (n, d) in enumerate(extra):
            rows = run == groups + i
            mean = law.predict_log(
                self.result.theta, {"n": np.full(len(d), n), "d": d}, self.result.centre
            )[0]
            for copy in range(
                self.copies
            ):  # a generator for each added run: the same whatever else is added
                rng = np.random.default_rng([self.seed, copy, i + 1, 7])
                y[copy, rows] = mean + noise(np.zeros(len(d), int), rng, **self.noise)
        whole = table(
            n=columns["n"],
            d=columns["d"],
            loss=np.exp(y[0]),
            run=run,
            c=None if self.result.law.name == "surface" else columns["n"] * columns["d"],
        )
        problem: Problem = build(whole, law, self.objective, "run", None)
        start = law.internal(
            {
                name: one.value if one.value > 0 else 1e-12
                for name, one in self.result.parameters.items()
            },
            problem.centre,
        )
        low, high = problem.bounds
        theta = problem.solve(
            np.tile(np.clip(start, low, high), (self.copies, 1)), tolerance=1e-8, iterations=60, y=y
        ).theta
        copy = FitResult(
            law, "ok", theta=theta[0], centre=problem.centre, context=self.result.context
        )
        values, derived = quantities(copy, theta)
        return {**values, **derived}[self.quantity]


def _sd(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation over the last axis: with few runs some copies have no optimum and
    run away."""
    low, high = np.quantile(values, [0.16, 0.84], axis=-1)
    return (high - low) / 2
