"""The frontiers of two architectures at equal compute or equal hours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.result import Result
from .size_pairs import Curve, Curves, partners
from .slopes import Slope, jackknife

GRID = 25  # budgets at which frontiers are compared
SHOWN = 6  # of them in the printed line


@dataclass
class CostRatio(Result):
    """Frontier of the second over that of the first at equal cost x ("c" FLOPs or "h" hours).

    n_first, n_second: the size that is lowest there; edge: whether it is the smallest or largest of
    either architecture, so that the frontier is not yet one.
    """

    x: str
    at: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_first: np.ndarray
    n_second: np.ndarray
    edge: np.ndarray
    slope: Slope

    def words(self) -> str:
        """The ratio at a few budgets, in a line."""
        pick = np.unique(np.linspace(0, len(self.at) - 1, SHOWN).round().astype(int))
        unit = "FLOPs" if self.x == "c" else "hours"
        cells = ", ".join(
            f"{self.ratio[i]:.3f} at {self.at[i]:.2g}{' (edge)' if self.edge[i] else ''}"
            for i in pick
        )
        return f"at equal {unit}: {cells}"


def at_equal_cost(runs: Runs, curves: list[Curves], x: str, level: float) -> CostRatio | None:
    """Compare frontiers at equal cost over the range in which each has two sizes to choose from;
    None where there is no such range. Intervals are from the delete-one-size jackknife; a size is
    deleted from both."""
    span = _common(curves, x)
    if span is None:
        return None
    grid = np.linspace(*span, GRID)
    tables = [np.stack([_at(own, x, grid) for _, own in one]) for one in curves]  # [sizes, grid]
    if any((np.isfinite(table).sum(axis=0) < 2).any() for table in tables):
        return None  # runs of one size end before those of the next begin
    value = tables[1].min(axis=0) - tables[0].min(axis=0)
    sizes = [np.array([n for n, _ in one]) for one in curves]
    draws = _without_each(sizes, tables)
    count = len(draws)
    se = np.sqrt((count - 1) / count * ((draws - value) ** 2).sum(axis=0))
    half = float(stats.t.ppf(0.5 + level / 2, max(count - 1, 1))) * se
    who = [table.argmin(axis=0) for table in tables]
    edge = np.any([(w == 0) | (w == len(table) - 1) for w, table in zip(who, tables)], axis=0)
    slopes = np.array([_slope(grid, y) for y in draws])
    return CostRatio(
        x,
        np.exp(grid),
        np.exp(value),
        np.exp(value - half),
        np.exp(value + half),
        np.exp(sizes[0][who[0]]),
        np.exp(sizes[1][who[1]]),
        edge,
        jackknife(x, _slope(grid, value), slopes, level),
    )


def _common(curves: list[Curves], x: str) -> tuple[float, float] | None:
    """The range of ln cost in which each architecture has at least two sizes."""
    lows, highs = [], []
    for one in curves:
        if len(one) < 2:
            return None
        lows.append(sorted(min(c.costs[x][0] for c in own.values()) for _, own in one)[1])
        highs.append(sorted(max(c.costs[x][-1] for c in own.values()) for _, own in one)[-2])
    return (max(lows), min(highs)) if min(highs) > max(lows) else None


def _without_each(sizes: list[np.ndarray], tables: list[np.ndarray]) -> np.ndarray:
    """ln ratio of the frontiers [units, grid] without each size in turn, of the two or more that
    each architecture has at every cost. Sizes that are partners are deleted together."""
    both = partners(*sizes)
    units: list[tuple[int | None, int | None]] = [
        *both,
        *((i, None) for i in range(len(sizes[0])) if i not in dict(both)),
    ]
    used = {j for _, j in both}
    units += [(None, j) for j in range(len(sizes[1])) if j not in used]
    out = []
    for unit in units:
        kept = [
            np.delete(table, [] if k is None else [k], axis=0) for table, k in zip(tables, unit)
        ]
        out.append(kept[1].min(axis=0) - kept[0].min(axis=0))
    return np.stack(out)


def _at(own: dict[str, Curve], x: str, grid: np.ndarray) -> np.ndarray:
    """Mean over seeds of ln L of one size at ln cost ``grid``; infinite where no seed was
    evaluated."""
    many = np.stack(
        [np.interp(grid, c.costs[x], c.y, left=np.nan, right=np.nan) for c in own.values()]
    )
    count = (~np.isnan(many)).sum(axis=0)
    return np.where(count > 0, np.nansum(many, axis=0) / np.maximum(count, 1), np.inf)


def _slope(grid: np.ndarray, y: np.ndarray) -> float:
    """Extra slope of the second along ln cost ``grid``; y [grid]: ln ratio."""
    t = grid - grid.mean()
    return -float(t @ y / (t @ t))
