"""Comparing two architectures without a law: ratios of their losses at equal N and D.

Runs of the same size step and seed are a pair. Their losses are compared at equal D, by
interpolation of ln L in ln D between evaluations and never beyond them; what a size dial leaves of
a difference in N is taken off with the slope between the neighbouring sizes of one of the two. From
each size comes one level and one slope in D of ln(second / first), and the sizes are the
independent units: what a size has in common over its seeds (a step in depth, a learning rate that
does not fit) is then not counted as certainty. Heteroskedasticity-robust standard errors (HC2) with
the degrees of freedom of Bell & McCaffrey (2002) carry the slopes.

Slopes are given as extra slopes, -d ln(second / first) / d ln x: positive where the loss of the
second falls faster, to be compared with a difference of exponents. Where none is seen a constant
factor suffices, and a fitted difference of exponents rests on the form of the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit.problem import SAME_LEVEL
from ..fit.result import Result, small_p
from ..inputs import as_runs
from .equal_cost import CostRatio, at_equal_cost
from .size_pairs import (
    COMPARED_SIZE,
    SizeRatio,
    at_one_d,
    curves,
    differences,
    matched,
    of_size,
    windowed,
)
from .slopes import LEAST_SIZES, Slope, estimate

COLUMNS = 6  # of D in the printed map
CONSTANT, NOT_CONSTANT, TOO_FEW = "constant factor", "not constant", "too few sizes"
WORDS = {
    "d": "extra slope in D at equal N",
    "n": "extra slope in N at equal D",
    "d_by_n": "extra slope in D, by ln N",
    "c": "extra slope in C",
    "h": "extra slope in hours",
}


@dataclass
class Ratios(Result):
    """Comparison of ``second`` with ``first``. window: the common range of each variable.

    verdict: :data:`CONSTANT` (no slope in N or D is seen), :data:`NOT_CONSTANT` or
    :data:`TOO_FEW`; factor: geometric mean of the levels over sizes, with its interval; p: of the
    hypothesis of a constant factor, the slopes' p-values corrected together by Holm's rule.
    """

    first: str
    second: str
    level: float
    window: dict[str, tuple[float, float]]
    sizes: list[SizeRatio]
    slopes: dict[str, Slope]
    factor: float
    factor_low: float | None
    factor_high: float | None
    verdict: str
    p: float | None
    costs: dict[str, CostRatio] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def slope(self, variable: str) -> Slope | None:
        """The extra slope in "d", "n", "d_by_n", "c" or "h", if there is one."""
        return self.costs[variable].slope if variable in self.costs else self.slopes.get(variable)

    def rows(self) -> list[dict[str, Any]]:
        """The map as a long table: one row for each size and D."""
        return [
            {
                "first": self.first,
                "second": self.second,
                "n": size.n,
                "n_first": size.n_first,
                "n_second": size.n_second,
                "d": float(d),
                "ratio": float(ratio),
            }
            for size in self.sizes
            for d, ratio in zip(size.d, size.ratio)
        ]

    def grid(self, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
        """The map at ``columns`` values of D over the window: D [columns] and the ratio [sizes,
        columns], NaN where a size was not compared."""
        low, high = self.window["d"]
        at = np.geomspace(low, high, columns if high > low else 1)
        rows = []
        for size in self.sizes:
            seen = (at > size.d[0] * (1 - SAME_LEVEL)) & (at < size.d[-1] * (1 + SAME_LEVEL))
            ratio = np.interp(np.log(at), np.log(size.d), size.ratio)
            rows.append(np.where(seen, ratio, np.nan))
        return at, np.array(rows)

    def summary(self) -> str:
        """For a terminal: the map, the slopes and the verdict."""
        low, high = self.window["d"]
        span = f"from {low:.3g} to {high:.3g}" if high > low else f"= {low:.3g}"
        lines = [f"{self.second} / {self.first}: ratio of losses at equal N and D, D {span}"]
        at, table = self.grid()
        lines.append(f"{'N':>10} |" + "".join(f"{d:>9.2g}" for d in at) + "  extra slope")
        for size, row in zip(self.sizes, table):
            cells = "".join(f"{'-' if np.isnan(r) else f'{r:.3f}':>9}" for r in row)
            slope = "-" if size.slope is None else f"{size.slope:+.3f}"
            lines.append(f"{size.n:10.3g} |{cells}  {slope}")
        lines += [f"  {WORDS[name]:27} {slope}" for name, slope in self.slopes.items()]
        for cost in self.costs.values():
            lines.append(f"  {cost.words()}")
            lines.append(f"  {WORDS[cost.x]:27} {cost.slope}")
        lines.append(f"  {self.words()}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def words(self) -> str:
        """The verdict in a sentence."""
        span = (
            "" if self.factor_low is None else f" [{self.factor_low:.3f}, {self.factor_high:.3f}]"
        )
        if self.verdict == TOO_FEW:
            return (
                f"{self.verdict}: {len(self.sizes)} sizes are compared, at least {LEAST_SIZES} are"
                f" needed; the mean ratio is {self.factor:.3f}"
            )
        if self.verdict == CONSTANT:
            at = "" if "d" in self.slopes else f" at D = {self.window['d'][0]:.3g}"
            return f"a constant factor suffices{at}: {self.factor:.3f}{span}, p {small_p(self.p)}"
        found = WORDS[min(_tested(self.slopes), key=_tested(self.slopes).__getitem__)]
        return (
            f"no constant factor (p {small_p(self.p)}): {found}; the mean ratio is"
            f" {self.factor:.3f}{span}"
        )


# -- the comparison -----------------------------------------------------------------------------


def ratios(
    runs: Any,
    first: str,
    second: str,
    *,
    d_window: tuple[float, float] | None = None,
    n_window: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Ratios:
    """Compare ``second`` with ``first`` on the runs that both have.

    runs: any table (see :func:`forcelaw.fit`) with a column of architectures.
    d_window, n_window: ranges of D and N to use; default: what both cover at every size. FitError
    where the two have no size in common.
    """
    runs = as_runs(runs)
    both = [curves(runs.select(name)) for name in (first, second)]
    steps, notes = matched(both[0], both[1], n_window)
    if not steps:
        raise FitError(
            f"{first} and {second} have no size in common",
            where="ratios",
            remedy=f"train pairs whose N differ by less than {np.expm1(COMPARED_SIZE):.0%}",
        )
    pairs, window = windowed([differences(both, step) for step in steps], d_window)
    if not pairs:
        pairs, window = at_one_d([differences(both, step, one_d=True) for step in steps], d_window)
        notes.append("both are compared at one D: what changes with D is not seen")
    if not pairs:
        raise FitError(
            f"{first} and {second} share no range of D",
            where="ratios",
            remedy="evaluate both at the same amounts of data, or give a window that both cover",
        )
    sizes = [of_size(pair, 0.5 * float(np.log(window).sum())) for pair in pairs]
    slopes, mean = _slopes(sizes, level)
    p, verdict = _constant(slopes, level)
    if verdict != TOO_FEW and len(sizes) < 5:
        notes.append(
            f"only {len(sizes)} sizes: intervals are wide, and a slope is seen only if it is large"
        )
    windows = {"d": window, "n": (min(s.n for s in sizes), max(s.n for s in sizes))}
    tried = {x: at_equal_cost(runs, both, x, level) for x in ("c", "h") if x in runs}
    costs = {x: cost for x, cost in tried.items() if cost is not None}
    windows |= {x: (float(cost.at[0]), float(cost.at[-1])) for x, cost in costs.items()}
    low, high = (None if z is None else float(np.exp(z)) for z in (mean.low, mean.high))
    factor = float(np.exp(mean.value))
    return Ratios(
        first, second, level, windows, sizes, slopes, factor, low, high, verdict, p, costs, notes
    )


def all_ratios(
    runs: Runs,
    baseline: str | None = None,
    *,
    architectures: Sequence[str] | None = None,
    **options: Any,
) -> tuple[list[Ratios], list[str]]:
    """Every two architectures of a table (or of ``architectures``), or each with ``baseline``; and
    why pairs are left out. options: those of :func:`ratios`."""
    names = list(runs.group_names if architectures is None else architectures)
    if baseline is not None and baseline not in names:
        raise FitError(
            f"there is no architecture {baseline!r}",
            where="ratios",
            remedy=f"there are {', '.join(names)}",
        )
    if "n" not in runs or "d" not in runs:
        return [], ["the table has no N or no D"]
    pairs = list(combinations(names, 2))
    if baseline is not None:
        pairs = [(baseline, name) for name in names if name != baseline]
    out, left_out = [], []
    for first, second in pairs:
        try:
            out.append(ratios(runs, first, second, **options))
        except FitError as error:
            left_out.append(error.what)
    return out, left_out


def brief(found: list[Ratios]) -> list[str]:
    """One line for each pair, for a terminal."""
    width = max(len(f"{one.second} / {one.first}") for one in found)
    lines = [
        "ratio of losses at equal N and D (mean over sizes), and extra slopes of the second:",
        f"{'':{width}}  ratio  {'in D':>16}  {'in N':>16}  {'in C':>16}",
    ]
    for one in found:
        cells = []
        for name in ("d", "n", "c"):
            slope = one.slope(name)
            half = ""
            if slope is not None and slope.high is not None:
                half = f" +- {slope.high - slope.value:.3f}"
            cells.append("-" if slope is None else f"{slope.value:+.3f}{half}")
        lines.append(
            f"{f'{one.second} / {one.first}':{width}}  {one.factor:.3f}  "
            + "  ".join(f"{cell:>16}" for cell in cells)
            + f"  {one.verdict}"
        )
    return lines


# -- inference ----------------------------------------------------------------------------------


def _slopes(sizes: list[SizeRatio], level: float) -> tuple[dict[str, Slope], Slope]:
    """Extra slopes in D (none at one D) and in N, the change of that in D with ln N; and the mean
    of the levels of ln(second / first)."""
    ln_n, at_centre = np.log([size.n for size in sizes]), np.log([size.level for size in sizes])
    seen = [size.slope for size in sizes if size.slope is not None]
    one = np.ones((len(sizes), 1))
    line = np.column_stack([one, ln_n - ln_n.mean()])
    out = {"d": estimate("d", one, np.array(seen), 0, level)} if seen else {}
    if len(sizes) >= 2:
        out["n"] = estimate("n", line, -at_centre, 1, level)
    if len(sizes) >= 2 and seen:
        out["d_by_n"] = estimate("d_by_n", line, np.array(seen), 1, level)
    return out, estimate("level", one, at_centre, 0, level)


def _tested(slopes: dict[str, Slope]) -> dict[str, float]:
    """p of the slopes that have one."""
    return {name: slope.p for name, slope in slopes.items() if slope.p is not None}


def _constant(slopes: dict[str, Slope], level: float) -> tuple[float | None, str]:
    """p of a constant factor and the verdict: the smallest p of the slopes times their number."""
    tested = _tested(slopes)
    if "n" not in tested or ("d" in slopes and "d" not in tested):
        return None, TOO_FEW
    p = min(1.0, len(tested) * min(tested.values()))
    return p, NOT_CONSTANT if p < 1 - level else CONSTANT
