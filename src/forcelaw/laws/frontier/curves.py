"""Run-averaged, smoothed curves of loss against compute: what a frontier is taken from, instead of
noisy minima."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit.initial import starts
from ..fit.objective import Objective
from ..fit.solver import solve
from ..forms.power import PowerFloor

DENSE = 33  # points of the dense version of a curve
MOST = 200  # checkpoints of a curve that its smooth version is fitted to
ONE_CURVE = 0.03  # single points within this in ln N are of one size
_LAW = PowerFloor(x="x")


@dataclass
class Curve:
    """One size of one architecture, averaged over its seeds: ln x, ln loss (smoothed), ln D
    [points]; n; the runs (indices into the table) that were averaged; and a dense version of the
    curve (fx, fy)."""

    lx: np.ndarray
    ly: np.ndarray
    ld: np.ndarray
    n: float
    runs: tuple[int, ...]
    fx: np.ndarray
    fy: np.ndarray

    def names(self, table: Runs) -> str:
        """Names of its runs, the first three."""
        return " ".join(table.run_names[r] for r in self.runs[:3])


def curves(runs: Runs, x: str = "c", keep: np.ndarray | None = None) -> list[Curve]:
    """Curves of ``runs`` against ``x``. Runs of one architecture and N that differ only by seed and
    were evaluated at the same D are averaged (in ln L); each curve is then smoothed (see
    :func:`smoothed`). ``keep`` [number of runs]: runs to use (for deleting them)."""
    lx, ly = np.log(runs[x]), np.log(runs["loss"])
    ld = np.log(runs["d"]) if "d" in runs else np.full(len(lx), np.nan)
    order = np.lexsort((lx, runs.run))
    bounds = np.searchsorted(runs.run[order], np.arange(len(runs.run_names) + 1))
    members: dict[tuple[Any, ...], list[tuple[int, np.ndarray]]] = {}
    for r in range(len(runs.run_names)):
        index = order[bounds[r] : bounds[r + 1]]
        if len(index) == 0 or (keep is not None and not keep[r]):
            continue
        key: tuple[Any, ...] = (r,)
        if runs.seed is not None:
            clock = ld[index] if "d" in runs else lx[index]
            n = float(runs["n"][index[0]]) if "n" in runs else float("nan")
            key = (int(runs.group[index[0]]), n, *np.round(clock, 3).tolist())
        members.setdefault(key, []).append((r, index))
    out = []
    for alike in members.values():
        seeds = set() if runs.seed is None else {str(runs.seed[index[0]]) for _, index in alike}
        for together in [alike] if len(seeds) == len(alike) else [[one] for one in alike]:
            stack = np.stack([index for _, index in together])
            mx, my, md = (values[stack].mean(axis=0) for values in (lx, ly, ld))
            sy, fx, fy = smoothed(mx, my)
            n = float(runs["n"][stack[0, 0]]) if "n" in runs else float("nan")
            out.append(Curve(mx, sy, md, n, tuple(r for r, _ in together), fx, fy))
    return out


def pooled(found: list[Curve]) -> list[Curve]:
    """Curves as they are if runs are trajectories; where runs are single points, those of one N
    level form one curve."""
    if not found or np.median([len(curve.lx) for curve in found]) >= 3:
        return found
    sets: list[list[Curve]] = []
    for curve in sorted(found, key=lambda curve: curve.n):
        if sets and np.log(curve.n / sets[-1][0].n) <= ONE_CURVE:
            sets[-1].append(curve)
        else:
            sets.append([curve])
    out = []
    for members in sets:
        lx, ly, ld = (
            np.concatenate([getattr(curve, name) for curve in members])
            for name in ("lx", "ly", "ld")
        )
        by = np.argsort(lx)
        runs = tuple(r for curve in members for r in curve.runs)
        out.append(Curve(lx[by], ly[by], ld[by], members[0].n, runs, lx[by], ly[by]))
    return out


def envelope(runs: Runs, x: str = "c", count: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """x and the loss [K] of the lowest run-averaged curve up to each x (whoever has more compute
    may stop early): where a loss at equal compute is read off. Runs of one evaluation make one
    curve a size. Empty where no curve has two points."""
    found = [curve for curve in pooled(curves(runs, x)) if len(curve.lx) > 1]
    if not found:
        return np.array([]), np.array([])
    ends = [end for curve in found for end in (curve.lx[0], curve.lx[-1])]  # where it may jump
    low, high = min(curve.lx[0] for curve in found), max(curve.lx[-1] for curve in found)
    grid = np.unique(np.concatenate([np.linspace(low, high, count), ends]))
    there = [np.interp(grid, c.lx, c.ly, left=np.inf, right=np.inf) for c in found]
    lowest = np.exp(np.minimum.accumulate(np.stack(there).min(axis=0)))
    known = np.isfinite(lowest)
    return np.exp(grid)[known], lowest[known]


def smoothed(lx: np.ndarray, ly: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln loss at the points of a curve, and a dense version of it (ln x, ln loss), without the
    checkpoints' noise.

    At fixed N a surface leaves L = E' + B' x^-beta along a run, so that is what is fitted; a curve
    that is visibly not of that shape (a transient, a plateau) gets a quartic in ln x instead. Fewer
    than five points are left as they are.
    """
    if len(lx) < 5 or float(np.ptp(lx)) <= 0:
        return ly, lx, ly
    dense = np.linspace(lx[0], lx[-1], DENSE)
    centre = float(lx.mean())
    some: Any = slice(None)
    if len(lx) > MOST:
        some = np.unique(np.linspace(0, len(lx) - 1, MOST).astype(int))
    x, y = {"x": lx[some] - centre}, ly[some]
    begin, bounds = starts(_LAW, x, y, None, 1), _LAW.all_bounds(x, y)
    found = solve(
        _LAW, x, y, None, Objective("log"), begin, bounds=bounds, tolerance=1e-9, iterations=60
    )
    if len(y) >= 9:
        quartic = np.polyfit(x["x"], y, 4)
        free = np.sqrt(((y - np.polyval(quartic, x["x"])) ** 2).sum() / (len(y) - 5))
        stiff = np.sqrt(2 * found.value[0] / (len(y) - 3))
        if stiff > 0.005 and stiff > 1.5 * free:
            return np.polyval(quartic, lx - centre), dense, np.polyval(quartic, dense - centre)
    at_points, at_dense = (
        _LAW.residuals(found.theta, {"x": z - centre}, np.zeros(1), jacobian=False)[0][0]
        for z in (lx, dense)
    )
    return at_points, dense, at_dense


def lower_hull(lx: np.ndarray, ly: np.ndarray) -> np.ndarray:
    """Indices of the vertices of the lower convex hull, from left to right, down to the lowest
    point."""
    order = np.lexsort((ly, lx))
    hull: list[int] = []
    for i in order:
        if hull and lx[i] == lx[hull[-1]]:
            continue
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            if (ly[b] - ly[a]) * (lx[i] - lx[a]) >= (ly[i] - ly[a]) * (lx[b] - lx[a]):
                hull.pop()
            else:
                break
        hull.append(int(i))
    vertices = np.array(hull)
    return vertices[: int(np.argmin(ly[vertices])) + 1]
