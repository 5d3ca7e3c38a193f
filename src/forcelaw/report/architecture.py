"""Everything that the laws say of one architecture of a study: the calls, and their results."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from ..errors import FitError
from ..figures.laws import floor_rise
from ..figures.style import Look
from ..laws.decide.allocation import Allocation, compute_optimal
from ..laws.decide.design import Design, design
from ..laws.decide.repeats import fit_repeats, repeats_smaller_set
from ..laws.diagnose.check import Check
from ..laws.diagnose.diagnose import Diagnosis, diagnose
from ..laws.fit.fit import fit
from ..laws.fit.floor_profile import Profile
from ..laws.fit.result import FitResult
from ..laws.frontier.isoflop import IsoFlop, isoflop
from ..store.runs import COUNTED
from ..table.runs import Runs, early
from .frontiers import HULL, NO_FLOPS, FrontierOutcome, frontier_of, outcome, runs_of
from .outcome import Outcome, attempt, of_fit, one_line
from .paper import Published, published

HULL_REMEDY = (
    "add sizes in between, so that at least five touch the frontier, or train the middle sizes"
    " longer"
)
# checks of the frontier; the others judge the surface as well
FRONTIER_CHECKS = ("optimum inside grid", "local exponents", "two gammas")
# simulated copies behind a suggestion: enough to rank runs, not for the last per cent of their gain
COPIES = 64
CURVE_POINTS = 32  # of N*(C) and D*(C)
TERMS = ("energy", "forces")


@dataclass
class Named:
    """An architecture of the study: the label of its runs, what it is, its symmetry in words, and
    how it is drawn."""

    label: str
    architecture: str
    symmetry: str
    look: Look


@dataclass
class Architecture(Named):
    """One architecture with its evaluations and the results of the laws.

    frame: evaluations of finished runs of the grid, by run and step. repeated: those of runs on
    clearly smaller training sets, used only by ``repeats``. unfinished: of runs under way, failed
    or diverged. lines: N*(C) and D*(C) with bands, as ``Allocation.table`` gives them. terms and
    term_surfaces: of the energy and the force term of the loss. burn_in: the frontier in FLOPs by
    the number of steps left out.
    """

    frame: pl.DataFrame
    repeated: pl.DataFrame
    unfinished: pl.DataFrame
    surface: Outcome[FitResult] = field(default_factory=Outcome)
    frontier_c: FrontierOutcome = field(default_factory=FrontierOutcome)
    frontier_h: FrontierOutcome = field(default_factory=FrontierOutcome)
    allocation: Outcome[Allocation] = field(default_factory=Outcome)
    lines: dict[str, np.ndarray] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None
    isoflop: Outcome[IsoFlop] | None = None  # None where the table has no FLOPs
    design: Design | None = None
    repeats: Outcome[FitResult] | None = None  # None without runs on smaller sets
    terms: dict[str, FrontierOutcome] = field(default_factory=dict)
    term_surfaces: dict[str, Outcome[FitResult]] = field(default_factory=dict)
    burn_in: dict[int, FrontierOutcome] = field(default_factory=dict)

    @property
    def paper(self) -> Published | None:
        """What the paper reports for this architecture."""
        return published(self.architecture, self.label)

    @property
    def sizes(self) -> list[int]:
        """The sizes N that finished, ascending."""
        return sorted(self.frame["n"].unique().to_list())

    @property
    def runs(self) -> int:
        """Finished runs."""
        return self.frame["run"].n_unique()

    @property
    def seeds(self) -> int:
        """Seeds of the size that has most of them."""
        counts = self.frame.group_by("n").agg(pl.col("seed").n_unique())["seed"]
        return int(counts.max() or 0)

    @property
    def hours(self) -> float | None:
        """Device-hours of all runs that were evaluated, finished or not."""
        usable = pl.concat([self.frame, self.repeated, self.unfinished])
        if not len(usable["h"].drop_nulls()):
            return None
        return float(usable.group_by("run").agg(pl.col("h").max())["h"].sum())

    @property
    def kappa(self) -> float | None:
        """Median of kappa over the finished runs."""
        values = self.frame.filter(pl.col("final"))["kappa"].drop_nulls()
        return float(values.median()) if len(values) else None

    @property
    def checks(self) -> list[Check]:
        """The checks of the laws; none without a surface."""
        return self.diagnosis.checks if self.diagnosis is not None and self.surface.ok else []

    @property
    def profile(self) -> Profile | None:
        """The profile of the floor, if it has an interval and enough points to draw."""
        if self.diagnosis is None or not self.surface.ok or self.diagnosis.profile is None:
            return None
        profile = self.diagnosis.profile
        usable = math.isfinite(profile.low) and math.isfinite(profile.high)
        return profile if usable and len(floor_rise(profile)[0]) > 2 else None

    @property
    def trend(self) -> list[str]:
        """Why the exponents describe a trend only; empty if they hold."""
        failed = [f"{check.name}: {self.finding(check)[0]}" for check in self.failed]
        return failed or ([self.frontier_c.trend] if self.frontier_c.trend else [])

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.passed is False]

    def finding(self, check: Check) -> tuple[str, str]:
        """What a check found, and the remedy. Where the frontier was read off its corners, three
        checks give the same long reason: the first keeps it, in words that all architectures
        share."""
        found = self.frontier_c.result
        if found is not None and found.method == "hull" and found.message:
            if check.name == "optimum inside grid":
                return HULL, HULL_REMEDY
            if check.name in FRONTIER_CHECKS:
                return "the frontier has too few sizes to tell", one_or_none(check.remedy)
        return one_line(check.detail), one_or_none(check.remedy)

    @property
    def verdict(self) -> str:
        """ "holds", "trend" or "none": whether the frontier's exponent may be quoted."""
        if not self.frontier_c.ok and not self.surface.ok:
            return "none"
        holds = self.surface.ok and self.frontier_c.ok and not self.trend
        return "holds" if holds else "trend"

    @property
    def reasons(self) -> list[str]:
        """Why the numbers are missing or a trend only."""
        out = list(self.trend)
        for what, found in (("surface", self.surface), ("frontier", self.frontier_c)):
            if found.reason:
                out.append(f"{what}: cannot carry a fit: {found.reason}")
        return out


def one_or_none(message: str) -> str:
    """A message on one line, or nothing."""
    return one_line(message) if message else ""


def fit_architecture(
    named: Named, frame: pl.DataFrame, burn_in_steps: int, sweep: pl.DataFrame | None = None
) -> Architecture:
    """Every law of one architecture; ``frame`` holds all its runs of the grid, ``sweep`` those of
    its sweep of learning rates."""
    usable = frame.filter(
        (pl.col("loss") > 0) & (pl.col("n") > 0) & (pl.col("d") > 0) & ~early(frame)
    )
    counted = pl.col("status").is_in(COUNTED)
    done, repeated = split_repeats(usable.filter(counted))
    arch = Architecture(
        **vars(named), frame=done, repeated=repeated, unfinished=usable.filter(~counted)
    )
    _fit_main(arch, burn_in_steps, sweep)
    arch.frontier_h = frontier_of(done, burn_in_steps, "h")
    if len(repeated):
        arch.repeats = _try(pl.concat([done, repeated]), burn_in_steps, fit_repeats)
    for term in TERMS:
        part = done.drop("loss").rename({f"loss_{term}": "loss"}).filter(pl.col("loss") > 0)
        arch.terms[term] = frontier_of(part, burn_in_steps, "c", quick=True)
        arch.term_surfaces[term] = _try(part, burn_in_steps, fit)
    for steps in sorted({0, burn_in_steps // 2, burn_in_steps, 2 * burn_in_steps}):
        chosen = steps == burn_in_steps
        arch.burn_in[steps] = (
            arch.frontier_c if chosen else frontier_of(done, steps, "c", quick=True)
        )
    return arch


def split_repeats(done: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Evaluations for the fits, and those of runs that repeated a clearly smaller training set than
    others of their size had at that length.

    A study with several training sets (nested prefixes) measures what repeats cost; in one surface
    with the others they would bend beta.
    """
    if not len(done) or not len(done["u"].drop_nulls()):
        return done, done.head(0)
    names, run = np.unique(done["run"].to_numpy(), return_inverse=True)
    n, seen = done["n"].to_numpy(), done["d"].to_numpy()
    unique = done["u"].fill_null(done["d"]).to_numpy()
    mask = repeats_smaller_set(run, np.zeros(len(names)), n, seen, unique)[run]
    return done.filter(~mask), done.filter(mask)


def _try(frame: pl.DataFrame, burn_in_steps: int, law: Any) -> Outcome[FitResult]:
    found = attempt(lambda: of_fit(law(runs_of(frame, burn_in_steps))))
    return found.result or Outcome(None, found.reason)


def _sweep_of(sweep: pl.DataFrame | None, burn_in_steps: int) -> Runs | None:
    """The finished runs of a sweep, where there are any."""
    if sweep is None:
        return None
    done = sweep.filter((pl.col("loss") > 0) & pl.col("status").is_in(COUNTED))
    try:
        return runs_of(done, burn_in_steps)
    except FitError:
        return None


def _fit_main(arch: Architecture, burn_in_steps: int, sweep: pl.DataFrame | None) -> None:
    """Surface, frontier in FLOPs, checks, and what follows from them. Where the surface is refused,
    the frontier is tried by itself: it needs less."""
    try:
        runs = runs_of(arch.frame, burn_in_steps)
        found = diagnose(runs, x="c", sweep=_sweep_of(sweep, burn_in_steps))
    except FitError as error:
        reason = one_line(error.what)
        arch.surface, arch.allocation = Outcome(None, reason), Outcome(None, reason)
        arch.frontier_c = frontier_of(arch.frame, burn_in_steps, "c")
        return
    arch.diagnosis = found
    arch.surface = of_fit(found.surface)
    if found.frontier is None:
        arch.frontier_c = frontier_of(arch.frame, burn_in_steps, "c")
    else:
        arch.frontier_c = outcome(runs, found.frontier)
    if not arch.surface.ok:
        arch.allocation = Outcome(None, f"no surface: {arch.surface.reason}")
        return
    named = [(check.name, f"{check.name}: {arch.finding(check)[0]}") for check in arch.failed]
    arch.surface.trend = "; ".join(text for name, text in named if name not in FRONTIER_CHECKS)
    if named and arch.frontier_c.ok:
        arch.frontier_c.trend = arch.frontier_c.trend or "; ".join(text for _, text in named)
    _allocate(arch, runs)
    arch.design = _suggest(runs)


def _allocate(arch: Architecture, runs: Runs) -> None:
    """N*(C), D*(C) with bands over the measured range of C, and the minima of iso-FLOP curves."""
    if "c" not in runs:
        arch.allocation = Outcome(None, NO_FLOPS)
        return

    def optimum() -> Allocation:
        best, flops = compute_optimal(arch.surface.result, runs), np.asarray(runs["c"], float)
        arch.lines = best.table(np.geomspace(flops.min(), flops.max(), CURVE_POINTS))
        return best

    arch.allocation = attempt(optimum)
    arch.isoflop = attempt(lambda: isoflop(runs, "c"))


def _suggest(runs: Runs) -> Design | None:
    """The one run to add next for the exponent gamma, by simulation; None where none helps."""
    found = attempt(lambda: design(runs, "gamma", add=1, copies=COPIES)).result
    return found if found is not None and found.additions else None
