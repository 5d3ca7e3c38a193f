"""Every call of the laws that a report makes. A fit that is refused becomes a Fitted with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from ..errors import FitError
from .results import AllocationResult, Check, Comparison, Estimate, Fitted, FrontierResult

COLUMNS = ("run", "architecture", "seed", "step", "n", "d", "u", "c", "h", "loss")
CURVE_POINTS = 32
ENVELOPE_POINTS = 48
DIGITS = 60  # a refusal longer than this many words would not fit a table; none of the laws' is


def runs_of(frame: pl.DataFrame, burn_in_steps: int) -> Any:
    """The evaluations of ``frame`` (one architecture or several) as laws.Runs, after the burn-in.

    Raises FitError where nothing is left. A table without steps has no burn-in to leave out.
    """
    from ..laws import Runs

    columns = [name for name in COLUMNS if name in frame.columns and frame[name].null_count() < len(frame)]
    part = frame.select(columns)
    if "step" in columns:
        part = part.filter(pl.col("step").is_null() | (pl.col("step") >= burn_in_steps))
    # a hole in an optional column would cost the whole column: fits in FLOPs must not suffer from a missing hour
    whole = [name for name in part.columns if name not in ("u", "c", "h", "step") or part[name].null_count() == 0]
    part = part.select(whole)
    if not len(frame):
        raise FitError("no finished run")
    if not len(part):
        raise FitError(f"no evaluation is left after the burn-in of {burn_in_steps} steps")
    return Runs.from_frame(part)


def _estimate(value: Any) -> Estimate | None:
    if value is None or value.value is None or not math.isfinite(value.value):
        return None
    ends = (value.low, value.high)
    if any(end is None or not math.isfinite(end) for end in ends):
        return Estimate(float(value.value))
    return Estimate(float(value.value), float(ends[0]), float(ends[1]))


def _estimates(result: Any) -> dict[str, Estimate]:
    both = {**result.parameters, **result.derived}
    return {name: made for name, value in both.items() if (made := _estimate(value)) is not None}


def _words(message: str) -> str:
    """A message of the laws on one line."""
    return " ".join(str(message).split()) or "the laws gave no reason"


def surface(frame: pl.DataFrame, burn_in_steps: int) -> tuple[Fitted, AllocationResult]:
    """L(N, D) of one architecture: A, B, E, alpha, beta and a, b, gamma = alpha beta/(alpha + beta); and the best size
    and data on it for the measured cost C = k N^p D^q."""
    from ..laws import fit

    try:
        runs = runs_of(frame, burn_in_steps)
        result = fit(runs, law="surface")
    except FitError as error:
        return Fitted(False, _words(error.what)), AllocationResult(Fitted(False, _words(error.what)))
    if not result.ok:
        reason = _words(result.message or result.status)
        return Fitted(False, reason), AllocationResult(Fitted(False, f"no surface: {reason}"))
    fitted = Fitted(True, _words(result.message) if result.message else "", _estimates(result))
    return fitted, _allocation(runs, result)


def _allocation(runs: Any, result: Any) -> AllocationResult:
    """N*(C), D*(C) with bands over the measured range of C."""
    from ..laws import compute_optimal

    try:
        if "c" not in runs:
            raise FitError("the table has no FLOPs")
        best = compute_optimal(result, runs)
        flops = np.asarray(runs["c"], float)
        table = best.table(np.geomspace(flops.min(), flops.max(), CURVE_POINTS))
    except FitError as error:
        return AllocationResult(Fitted(False, _words(error.what)))
    made = {name: value for name in ("a", "b", "gamma") if (value := _estimate(getattr(best, name))) is not None}
    lines = {name: [float(v) for v in values] for name, values in table.items()}
    return AllocationResult(Fitted(True, "", made), lines)


def frontier_of(frame: pl.DataFrame, burn_in_steps: int, x: str, *, quick: bool = False) -> FrontierResult:
    """Frontier of one architecture against FLOPs ("c") or device-hours ("h"). ``quick``: no optimum, no curve."""
    from ..laws import frontier

    if x not in frame.columns or not len(frame.filter(pl.col(x) > 0)):
        if not len(frame):
            return FrontierResult(Fitted(False, "no finished run"))
        return FrontierResult(Fitted(False, f"the table has no {'FLOPs' if x == 'c' else 'device-hours'}"))
    try:
        runs = runs_of(frame.filter(pl.col(x) > 0), burn_in_steps)
        found = frontier(runs, x)
    except FitError as error:
        return FrontierResult(Fitted(False, _words(error.what)))
    return FrontierResult(_frontier_fit(found), _points(found), *_optimum(found), _envelope(runs, x))


def _frontier_fit(found: Any) -> Fitted:
    result = found.fit
    # too few tangents: the laws fit the hull and say that it describes a trend; the number is shown as one
    trend = _words(found.message) if found.method == "hull" and result.parameters else ""
    if not (result.ok or trend):
        return Fitted(False, _words(result.message or result.status))
    xs = np.asarray(found.points["x"], float)
    if len(xs) < 2:
        return Fitted(False, "one point is not a frontier")
    grid = np.geomspace(xs.min(), xs.max(), CURVE_POINTS)
    losses = np.asarray(result.predict(**{found.x: grid}), float)
    curve = [(float(a), float(b)) for a, b in zip(grid, losses, strict=True) if math.isfinite(b)]
    return Fitted(
        True, "" if trend else _words(result.message) if result.message else "", _estimates(result), curve, trend
    )


def _points(found: Any) -> list[dict[str, Any]]:
    points = found.points
    return [
        {
            "x": float(points["x"][i]),
            "loss": float(points["loss"][i]),
            "n": int(round(float(points["n"][i]))),
            "d": int(round(float(points["d"][i]))),
            "run": str(points["run"][i]),
        }
        for i in range(len(points["x"]))
    ]


def _optimum(found: Any) -> tuple[Fitted, list[tuple[float, float]], list[tuple[float, float]]]:
    best = found.optimum
    made = {name: _estimate(getattr(best, name)) for name in ("a", "b")}
    made = {name: value for name, value in made.items() if value is not None}
    if not made:
        return Fitted(False, _words(best.message)), [], []
    table = best.table
    lines = [[(float(x), float(y)) for x, y in zip(table["x"], table[key], strict=True)] for key in ("n", "d")]
    trend = _words(best.message) if best.edge else ""
    return Fitted(True, "", made, trend=trend), lines[0], lines[1]


def _envelope(runs: Any, x: str) -> list[tuple[float, float]]:
    """(x, loss): the lowest of the run-averaged curves at each x; where a loss at equal compute is read off."""
    from ..laws.curves import curves

    found = [curve for curve in curves(runs, x) if len(curve.lx) > 1]
    if not found:
        return []
    low, high = min(curve.lx[0] for curve in found), max(curve.lx[-1] for curve in found)
    grid = np.linspace(low, high, ENVELOPE_POINTS)
    inside = np.stack([np.interp(grid, c.lx, c.ly, left=np.inf, right=np.inf) for c in found]).min(axis=0)
    return [(float(a), float(b)) for a, b in zip(np.exp(grid), np.exp(inside), strict=True) if math.isfinite(b)]


def diagnose_all(frame, burn_in_steps, surface, frontier):
    return [], [text for text in (frontier.fitted.trend,) if text]


def compare_pairs(frames, burn_in_steps):
    return [], []
