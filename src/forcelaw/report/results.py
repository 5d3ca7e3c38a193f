"""Everything a report says, as plain data: figures, tables and the page are drawn from this and
from nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ..figures.style import Look
from ..store import sweep as sweeps
from .load import Source
from .paper import Published

WIDE = 100.0  # a loss is known to less than such a factor, or it is not told at all


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; the ends are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None


@dataclass
class Fitted:
    """A fit, or why there is none. ``curve``: points (x, loss) of the fitted line. ``trend``: why
    its numbers describe a trend only; empty when they do not."""

    ok: bool
    reason: str = ""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    trend: str = ""

    def get(self, name: str) -> Estimate | None:
        """An estimate by name; None where the fit was refused or has no such number."""
        return self.estimates.get(name) if self.ok else None


@dataclass
class FrontierResult:
    """The lowest loss at each compute (x in FLOPs, or device-hours): hull points, fit,
    compute-optimal N and D."""

    fitted: Fitted
    points: list[dict[str, Any]] = field(default_factory=list)  # x, loss, n, d, run
    optimum: Fitted = field(default_factory=lambda: Fitted(False, "no frontier"))  # estimates a, b
    optimum_n: list[tuple[float, float]] = field(default_factory=list)  # fitted line (x, N)
    optimum_d: list[tuple[float, float]] = field(default_factory=list)
    envelope: list[tuple[float, float]] = field(
        default_factory=list
    )  # (x, loss), lowest of the run-averaged curves
    raw: Any = None  # the laws' own result, for comparisons

    @property
    def decades(self) -> float:
        """Decades of x that the frontier spans."""
        from math import log10

        xs = [point["x"] for point in self.points]
        return log10(max(xs) / min(xs)) if len(xs) > 1 else 0.0


@dataclass
class AllocationResult:
    """The best size and data for a budget, on the fitted surface. lines: c, n, d, n_low, n_high,
    d_low, d_high."""

    fitted: Fitted
    lines: dict[str, list[float]] = field(default_factory=dict)
    raw: Any = None  # the laws' own result, for budgets


@dataclass(frozen=True)
class Check:
    """One diagnostic question with its answer in words. passed is None where it could not be
    answered; remedy: the runs that would mend it; data: what a figure of it needs."""

    name: str
    passed: bool | None
    text: str
    remedy: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FloorProfile:
    """How the misfit rises as the floor is held elsewhere. rise is 1 at the ends of the 95%
    interval low..high; p_zero: of a floor of zero; gamma_*: what the exponent would be with floor
    zero, as fitted, and with the largest floor."""

    floor: list[float]
    rise: list[float]
    low: float
    high: float
    p_zero: float
    gamma_zero: float
    gamma_free: float
    gamma_high: float


@dataclass(frozen=True)
class Route:
    """One way to the best size and data for a budget: exponents a and b, points (x, n, d), and why
    there are none."""

    method: str
    a: Estimate | None
    b: Estimate | None
    points: list[tuple[float, float, float]] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Suggestion:
    """The run that would shorten the interval of ``quantity`` most for its cost: from half-width
    ``before`` to ``after``."""

    quantity: str
    n: float
    d: float
    cost: float
    unit: str
    before: float
    after: float
    kind: str


@dataclass
class Laws:
    """What the laws say of one architecture. trend: why the numbers are a trend and not an
    exponent."""

    surface: Fitted
    allocation: AllocationResult
    frontier: FrontierResult
    checks: list[Check]
    trend: list[str]
    notes: list[str]
    profile: FloorProfile | None = None
    routes: list[Route] = field(default_factory=list)
    suggestion: Suggestion | None = None


@dataclass
class ArchitectureResult:
    label: str
    architecture: str
    symmetry: str
    look: Look
    paper: Published | None
    frame: pl.DataFrame  # evaluations of the finished grid runs, by run and step
    # evaluations of finished runs on clearly smaller training sets; in the fit of ``repeats`` alone
    repeated: pl.DataFrame
    repeats: Fitted | None  # R_D of the law of repeated data; None without such runs
    unfinished: (
        pl.DataFrame
    )  # evaluations of runs that are not finished (still going, failed, diverged)
    sizes: list[int]
    runs: int
    seeds: int
    surface: Fitted
    allocation: AllocationResult
    frontier_c: FrontierResult
    frontier_h: FrontierResult
    terms: dict[
        str, FrontierResult
    ]  # energy, forces: frontiers of the two terms of the loss, without intervals
    term_surfaces: dict[str, Fitted]  # energy, forces: surfaces of the two terms
    checks: list[Check]
    trend: list[str]  # why its numbers are a trend and not an exponent; empty when they hold
    notes: list[str]  # what else the laws say, for instance that the floor is not told from zero
    regime: str
    kappa: Estimate | None  # median, smallest, largest over sizes
    throughput: Estimate | None
    hours: float | None
    profile: FloorProfile | None = None
    routes: list[Route] = field(default_factory=list)  # surface, frontier, iso-FLOP curves
    suggestion: Suggestion | None = None  # the run to add next

    @property
    def verdict(self) -> str:
        """ "holds", "trend" or "none": whether the frontier's exponent may be quoted."""
        if not self.frontier_c.fitted.ok and not self.surface.ok:
            return "none"
        return (
            "trend"
            if self.trend or not self.surface.ok or not self.frontier_c.fitted.ok
            else "holds"
        )


@dataclass(frozen=True)
class Test:
    """A difference (second minus first) and its p, corrected by Holm over all pairs."""

    difference: Estimate
    p: float

    @property
    def sure(self) -> bool:
        """Whether the difference is significant at 5% after correction."""
        return self.p < 0.05


@dataclass
class Comparison:
    """Two architectures. multiplier: compute that the second needs for the loss ``at_loss``, in
    units of the first's; ratio: its loss at the compute ``at_compute``, in units of the first's;
    the curves hold (loss or compute, value, low, high) over the common range. trend: a frontier
    that they are read off describes a trend only."""

    first: str
    second: str
    pairs: int  # runs paired by size, seed and data; 0 where they are not
    tests: dict[str, Test]
    multiplier: Estimate | None = None
    at_loss: float | None = None
    ratio: Estimate | None = None
    at_compute: float | None = None
    multiplier_curve: list[tuple[float, float, float | None, float | None]] = field(
        default_factory=list
    )
    ratio_curve: list[tuple[float, float, float | None, float | None]] = field(default_factory=list)
    crossing: float | None = None
    trend: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass
class Prospect:
    """What the fitted surface of one architecture expects of a budget of ``flops``, spent at its
    best size and data."""

    label: str
    flops: float
    n: float
    d: float
    loss: Estimate  # with the interval of the law itself, not of one more run
    new_run: Estimate | None  # with the interval in which one more run should fall
    decades: float  # how far beyond this architecture's largest run

    @property
    def told(self) -> bool:
        """Whether the law says anything: its interval spans less than a factor of WIDE."""
        return not self.loss.bounded or 0 < self.loss.high < WIDE * self.loss.low


@dataclass
class SweepResult:
    label: str
    points: list[dict[str, Any]]  # lr, loss (None when diverged), diverged
    best: float | None
    used: list[float]
    n: int | None
    within: float = (
        0.0  # the study takes the smallest rate whose loss is within this share of the lowest
    )

    @property
    def chosen(self) -> float | None:
        return sweeps.best_rate(mean_losses(self.points), self.within)


def mean_losses(points: list[dict[str, Any]]) -> dict[float, float]:
    """Learning rate -> mean final loss over seeds of a sweep, without the rates at which a seed
    diverged or did not end."""
    pairs = (
        (point["lr"], point["loss"] if point["status"] == "finished" else None) for point in points
    )
    return {lr: mean for lr, mean in sweeps.mean_losses(pairs).items() if math.isfinite(mean)}


@dataclass
class SymmetryPoint:
    label: str
    n: int
    d: int
    rotation: float | None
    inversion: float | None
    exact: str  # "rotation and inversion", "rotation", "" (learned)


@dataclass
class Analysis:
    source: Source
    burn_in_steps: int
    architectures: list[ArchitectureResult]
    comparisons: list[Comparison]
    comparison_notes: list[str]
    prospects: list[Prospect]
    sweeps: list[SweepResult]
    symmetry: list[SymmetryPoint]
    problems: list[dict[str, Any]]
    risen: list[dict[str, Any]]  # runs that count but end above their own lowest loss
    counts: dict[str, int]  # runs by status
    burn_in_effect: list[dict[str, Any]]
    seconds: float = 0.0

    @property
    def any_finished(self) -> bool:
        """Whether any run of the grid has finished."""
        return any(arch.runs for arch in self.architectures)

    @property
    def name(self) -> str:
        """The study's name, or that of its directory."""
        study = self.source.study.get("name")
        if study:
            return str(study)
        names = [name for name in self.source.frame["study"].unique().to_list() if name]
        return names[0] if len(names) == 1 else self.source.path.resolve().name
