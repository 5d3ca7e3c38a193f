"""Is what was fitted an exponent, or only a trend over the range that was measured?

Each check is made at 1%, so that a sound study is seldom called unsound (size and power of each,
on right and wrong truths: benchmarks/law_diagnosis.py). One that fails turns the verdict into "a
trend, not an exponent", with its reason and the runs that would help. A check that says "unknown"
names what the table cannot tell: a floor that is not determined, steps and data on one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..decide.allocation import Cost, compute_optimal
from ..fit.fit import fit
from ..fit.floor_profile import Profile, profile_floor
from ..fit.objective import Objective
from ..fit.result import FitResult, Result, clean, named, note_lines
from ..forms import make
from ..forms.base import Floor, Law
from ..forms.power import OneVariable
from ..frontier.frontier import Frontier, frontier
from ..inputs import as_runs, one_architecture
from .check import Check
from .consistency import consistency
from .covariates import batches, factors, learning_rates, sweep_ends
from .curvature import curvature
from .floor import floor_check
from .holdout import clock_of, holdout
from .interaction import interaction
from .lack_of_fit import lack_of_fit
from .local_exponents import local_exponents
from .seeds import seeds
from .stability import stability, windows

EXPONENT, TREND, REFUSED = "an exponent", "a trend, not an exponent", "refused"
DECADES = 1.5  # of compute below which nobody should speak of an exponent


@dataclass
class Diagnosis(Result):
    """verdict: "an exponent", "a trend, not an exponent" or "refused" (the surface could not be
    fitted)."""

    verdict: str
    group: str
    checks: list[Check]
    surface: FitResult
    frontier: Frontier | None = None
    profile: Profile | None = None
    notes: list[str] = field(default_factory=list)
    also = ("status", "reasons", "remedies")

    @property
    def status(self) -> str:
        return "refused" if self.verdict == REFUSED else "ok"

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def reasons(self) -> list[str]:
        """Why it is a trend; empty for an exponent."""
        return [f"{check.name}: {check.detail}" for check in self.failed]

    @property
    def remedies(self) -> list[str]:
        """What would help."""
        return list(dict.fromkeys(check.remedy for check in self.failed if check.remedy))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each check, without its data."""
        names = ("name", "passed", "detail", "remedy", "p")
        return [clean({name: getattr(check, name) for name in names}) for check in self.checks]

    def summary(self) -> str:
        """For a terminal."""
        lines = [f"{named(self.group)}{self.verdict}"]
        marks = {True: "passed", False: "FAILED", None: "unknown"}
        lines += [
            f"  {marks[check.passed]:8} {check.name:19} {check.detail}" for check in self.checks
        ]
        lines += [f"  remedy: {remedy}" for remedy in self.remedies]
        return "\n".join([*lines, *note_lines(self.notes, "  ")])


def diagnose(
    runs: Any,
    law: str | type[Law] | Law = "surface",
    *,
    x: str = "c",
    factor: str | Sequence[str] | None = None,
    sweep: Any = None,
    level: float = 0.95,
    objective: str | Objective = "huber",
    delta: float | None = None,
    cluster: str | None = "run",
    floor: Floor | None = None,
    weights: str | np.ndarray | None = None,
) -> Diagnosis:
    """Diagnose a table of one architecture.

    runs: any table (see :func:`forcelaw.fit`). x: the cost of the frontier, "c" FLOPs or "h" hours
    (without that column, N D is taken), or the variable of a law in one variable, "n", "d", "c" or
    "h" (without that column, the one that is there). factor: columns that change along
    N in steps, taken as factors (default: depth, where it changes). sweep: the runs of the
    learning-rate sweeps, a table of the same architecture. Others: as for :func:`forcelaw.fit`. A
    law that cannot be fitted gives the verdict "refused" with the reason; FitError where the table
    holds several architectures or cannot be read.
    """
    runs = one_architecture(runs, "diagnose", "a diagnosis")
    group = runs.group_names[0]
    settings: dict[str, Any] = {"objective": objective, "delta": delta, "cluster": cluster}
    settings |= {"level": level, "weights": weights}
    result = fit(runs, _made(law, floor, runs, x), interval="jackknife", **settings)
    if not result.ok or result.replicates is None:
        refused = Check("fit", False, result.message or result.status)
        return Diagnosis(REFUSED, group, [refused], result)
    checks = [_range(runs, result, x)]
    notes = []
    if result.n_runs < 8:
        notes.append(f"only {result.n_runs} runs: the checks have little power to fail")
    found = None
    if x in runs and "n" in runs and len(result.law.roles) > 1:
        found = frontier(runs, x, level=level)
        checks += [_edge(found), local_exponents(found, level)]
        if "alpha" in result.parameters:
            checks.append(consistency(found, compute_optimal(result, Cost.measured(runs, x))))
    checks += _of_the_form(runs, result, x, settings)
    names = [factor] if isinstance(factor, str) else factor
    checks += _of_the_design(runs, result, names, None if sweep is None else as_runs(sweep), level)
    profile = None
    if result.law.free_floor:
        profile = profile_floor(runs, result, cluster=cluster, weights=weights)
        checks.append(floor_check(result, profile))
        if not profile.excludes_zero:
            notes.append(
                f"the floor may be zero (p = {profile.p_zero:.2f}): gamma is"
                f" {profile.gamma_zero:.3f} with floor 0 and {profile.gamma_high:.3f} with the"
                " largest floor the data allow"
            )
    verdict = TREND if any(check.passed is False for check in checks) else EXPONENT
    return Diagnosis(verdict, group, checks, result, found, profile, notes)


def _made(law: str | type[Law] | Law, floor: Floor | None, runs: Runs, x: str) -> Law:
    """The law; one in one variable is made for ``x``, or for a variable that is there."""
    made = make(law, floor)
    if isinstance(law, Law) or not isinstance(made, OneVariable) or made.default_x != "n":
        return made
    there = [role for role in (x, "d", "n", "c", "h") if role in runs]
    return make(law, floor, x=there[0]) if there else made


def _of_the_form(runs: Runs, result: FitResult, x: str, settings: dict[str, Any]) -> list[Check]:
    """Does the law describe the table, in every part of it?"""
    quantity = "gamma" if "gamma" in result.derived else result.law.shapes[0]
    checks = [curvature(runs, result)]
    if {"n", "d"} <= set(result.law.roles):
        checks.append(interaction(runs, result))
    checks += stability(runs, result, quantity, settings)
    checks += windows(runs, result, settings)
    return [*checks, holdout(runs, result, x, settings), lack_of_fit(runs, result)]


def _of_the_design(
    runs: Runs,
    result: FitResult,
    factor: Sequence[str] | None,
    sweep: Runs | None,
    level: float,
) -> list[Check]:
    """Does anything but N and D change along the column, and are there seeds where they count?"""
    noise = float(result.diagnostics["sd_between_runs"])
    others = (
        learning_rates(runs, result, level),
        sweep_ends(sweep, noise),
        seeds(runs, result),
        batches(runs, result, level),
    )
    return [*factors(runs, result, factor, level), *(one for one in others if one is not None)]


def _range(runs: Runs, result: FitResult, x: str) -> Check:
    clock, x = clock_of(runs, result, x)
    decades = float(np.log10(clock.max() / clock.min()))
    sizes = float(np.log10(runs["n"].max() / runs["n"].min())) if "n" in runs else 0.0
    data = {"decades": decades, "decades_n": sizes}
    if decades >= DECADES:
        detail = f"{decades:.1f} decades of {x}" + (f", {sizes:.1f} of N" if "n" in runs else "")
        return Check("range", True, detail, "", None, data)
    remedy = (
        f"extend the study to {DECADES} decades or more: up to {x} ="
        f" {clock.min() * 10**DECADES:.2g}"
    )
    return Check("range", False, f"{decades:.1f} decades of {x}", remedy, None, data)


def _edge(found: Frontier) -> Check:
    name, best = "optimum inside grid", found.optimum
    if found.method != "tangents":
        remedy = "add sizes so that at least five touch the frontier"
        return Check(name, False, found.message, remedy)
    if not best.edge:
        return Check(name, True, "the best size lies inside the grid over most of the range")
    sizes = np.asarray(found.points["n"])
    remedy = (
        f"add sizes beyond those at the ends of the frontier ({sizes.min():.3g} and"
        f" {float(sizes[-1]):.3g}), or stop the largest budgets earlier"
    )
    return Check(name, False, best.message, remedy)
