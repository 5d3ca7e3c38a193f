"""Run-averaged, smoothed curves of loss against compute: what a frontier is taken from, instead of
noisy minima."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...table.runs import Runs
from ..fit.initial import starts
from ..fit.objective import Objective
from ..fit.solver import solve
from ..forms.power import PowerFloor

DENSE = 33  # points of the dense version of a curve
MOST = 200  # checkpoints of a curve that its smooth version is fitted to
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


def curves(
    runs: Runs, x: str = "c", smooth: bool = True, keep: np.ndarray | None = None
) -> list[Curve]:
    """Curves of ``runs`` against ``x``. Runs of one architecture and N that differ only by seed and
    were evaluated at the same D are averaged (in ln L); each curve is then smoothed (see
    :func:`smoothed`). ``keep`` [number of runs]: runs to use (for deleting them)."""
    lx, ly = np.log(runs[x]), np.log(runs["loss"])
    ld = np.log(runs["d"]) if "d" in runs else np.full(len(lx), np.nan)
    order = np.lexsort((lx, runs.run))
    bounds = np.searchsorted(runs.run[order], np.arange(len(runs.run_names) + 1))
    parts: dict[tuple, list[tuple[int, np.ndarray]]] = {}
    for r in range(len(runs.run_names)):
        index = order[bounds[r] : bounds[r + 1]]
        if len(index) == 0 or (keep is not None and not keep[r]):
            continue
        first = index[0]
        n = float(runs["n"][first]) if "n" in runs else float("nan")
        key: tuple = (r,)
        if runs.seed is not None:
            clock = ld[index] if "d" in runs else lx[index]
            key = (int(runs.group[first]), n, *np.round(clock, 3).tolist())
        parts.setdefault(key, []).append((r, index))
    out = []
    for members in parts.values():
        seeds = (
            {str(runs.seed[index[0]]) for _, index in members} if runs.seed is not None else set()
        )
        split = [members] if len(seeds) == len(members) else [[member] for member in members]
        for together in split:
            stack = np.stack([index for _, index in together])
            first = stack[0, 0]
            mx, my = lx[stack].mean(axis=0), ly[stack].mean(axis=0)
            sy, fx, fy = smoothed(mx, my) if smooth else (my, mx, my)
            out.append(
                Curve(
                    mx,
                    sy,
                    ld[stack].mean(axis=0),
                    float(runs["n"][first]) if "n" in runs else float("nan"),
                    tuple(r for r, _ in together),
                    fx,
                    fy,
                )
            )
    return out


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
    thin = (
        np.unique(np.linspace(0, len(lx) - 1, MOST).astype(int)) if len(lx) > MOST else slice(None)
    )
    x = {"x": lx[thin] - centre}
    y = ly[thin]
    bounds = _LAW.all_bounds(x, y)
    solution = solve(
        _LAW,
        x,
        y,
        None,
        Objective("log"),
        starts(_LAW, x, y, None, 1),
        bounds=bounds,
        tolerance=1e-9,
        iterations=60,
    )

    def power(z: np.ndarray) -> np.ndarray:
        return _LAW.residuals(solution.theta, {"x": z - centre}, np.zeros(1), jacobian=False)[0][0]

    if len(y) >= 9:
        coefficients = np.polyfit(x["x"], y, 4)
        free = np.sqrt(((y - np.polyval(coefficients, x["x"])) ** 2).sum() / (len(y) - 5))
        stiff = np.sqrt(2 * solution.value[0] / (len(y) - 3))
        if stiff > 0.005 and stiff > 1.5 * free:
            return (
                np.polyval(coefficients, lx - centre),
                dense,
                np.polyval(coefficients, dense - centre),
            )
    return power(lx), dense, power(dense)


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
