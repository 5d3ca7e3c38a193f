"""Marks that several figures of the report share: curves of runs, frontiers, the fitted surface."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import polars as pl

from ..figures.spec import Panel, Series
from ..figures.text import pretty
from .architecture import Architecture
from .frontiers import FrontierOutcome
from .outcome import Outcome
from .section import by_reason

# points of one run drawn in a figure; a longer curve is thinned evenly in log D, its ends kept
LONG_RUN = 28


def thin(count: int, room: int = LONG_RUN) -> list[int]:
    """Indices of at most ``room`` of ``count`` points, evenly spread, both ends kept."""
    if count <= room:
        return list(range(count))
    return sorted({round(i * (count - 1) / (room - 1)) for i in range(room)})


def run_series(arch: Architecture, x: str, y: str, *, opacity: float = 0.3) -> list[Series]:
    """Thin lines, all runs of one size in one series with gaps, so that a large study stays
    light."""
    out = []
    smaller, unfinished = " (smaller training set)", " (not finished)"
    kinds = (
        (arch.frame, "solid", ""),
        (arch.repeated, "dash", smaller),
        (arch.unfinished, "dot", unfinished),
    )
    for frame, dash, ending in kinds:
        for n, (xs, ys) in _by_size(frame, x, y):
            line = {"hover": f"{arch.label}, N = {pretty(n)}{ending}", **arch.look.line}
            out.append(Series(xs, ys, "line", opacity=opacity, width=1.1, dash=dash, **line))
    return out


def _by_size(frame: pl.DataFrame, x: str, y: str) -> list[tuple[int, tuple[list, list]]]:
    """(N, (x, y)) with a gap between two runs; points without x or y are left out."""
    lines: dict[int, tuple[list, list]] = {}
    part = frame.filter((pl.col(x) > 0) & (pl.col(y) > 0)).select("run", "n", "d", at=x, loss=y)
    for _, rows in part.group_by(["run"], maintain_order=True):
        rows = rows.sort("d")
        keep = thin(len(rows))
        xs, ys = lines.setdefault(rows["n"][0], ([], []))
        if xs:
            xs.append(None)
            ys.append(None)
        xs.extend(rows["at"].gather(keep).to_list())
        ys.extend(rows["loss"].gather(keep).to_list())
    return sorted(lines.items())


def frontier_series(arch: Architecture, found: FrontierOutcome) -> list[Series]:
    """The lowest loss of any run (line), the corners of the frontier (marks) and the fitted law
    (dashed)."""
    out, own = [], arch.look.line
    if found.envelope:
        xs, ys = zip(*found.envelope, strict=True)
        hover = f"{arch.label}: lowest loss of any run"
        out.append(Series(xs, ys, "line", width=1.8, opacity=0.8, hover=hover, **own))
    points = found.points
    if points := [points[i] for i in thin(len(points), 24)]:
        own_size = [f"N = {pretty(p['n'])}, D = {pretty(p['d'])}" for p in points]
        hovers = [f"{arch.label} frontier: {text}" for text in own_size]
        xs, ys = [p["x"] for p in points], [p["loss"] for p in points]
        out.append(Series(xs, ys, "points", size=8, hover=hovers, **arch.look.marks))
    if curve := found.curve():
        gamma = found.get("gamma")
        hover = f"{arch.label}: fit" + (f", exponent {gamma.value:.3f}" if gamma else "")
        xs, ys = zip(*curve, strict=True)
        out.append(Series(xs, ys, "line", width=2.2, dash="dash", hover=hover, **own))
    return out


def zoom(panel: Panel, results: Sequence[FrontierOutcome]) -> None:
    """Show what the frontiers cover; the transients above and before them run out of the frame."""
    corners = [(point["x"], point["loss"]) for found in results for point in found.points]
    points = [point for found in results for point in found.envelope] + corners
    if points:
        xs, losses = [x for x, _ in points], [loss for _, loss in corners or points]
        panel.x_range = (min(xs) / 2, max(xs) * 2)
        panel.y_range = (min(losses) / 1.25, max(losses) * 1.8)


def refused(found: Iterable[tuple[str, Outcome]], what: str = "cannot carry a fit") -> list[str]:
    """One line for each reason why there is no fit, with the architectures that it holds for."""
    reasons = by_reason((label, one.reason) for label, one in found if one.reason)
    return [f"{labels} {what}: {reason}" for labels, reason in reasons]


def loss_at_data(rows: pl.DataFrame, d: float) -> float | None:
    """Loss of one run at D = d: log-log between its two nearest evaluations; None outside of what
    it saw."""
    ds, losses = rows["d"].to_list(), rows["loss"].to_list()
    if not ds or d < ds[0] * 0.999 or d > ds[-1] * 1.001:
        return None
    if d <= ds[0] * 1.001:  # also where a run has one evaluation
        return losses[0]
    for i in range(1, len(ds)):
        if d <= ds[i] * 1.001:
            if ds[i] == ds[i - 1]:
                return losses[i]
            share = math.log(d / ds[i - 1]) / math.log(ds[i] / ds[i - 1])
            return math.exp((1 - share) * math.log(losses[i - 1]) + share * math.log(losses[i]))
    return None


def surface_line(arch: Architecture, ns: Sequence[float], ds: Sequence[float]) -> list[float]:
    """The fitted surface at (n, d); nothing where there is no fit."""
    if not arch.surface.ok or arch.surface.result is None:
        return []
    return [float(v) for v in arch.surface.result.predict(n=list(ns), d=list(ds))]


def share_range(panels: list[Panel]) -> None:
    """The same axes in every panel, so that architectures can be compared by eye."""
    for axis in ("x", "y"):
        values = [
            v for p in panels for s in p.series for v in getattr(s, axis) if v is not None and v > 0
        ]
        if values:
            low, high = min(values), max(values)
            room = (high / low) ** 0.04 if high > low else 1.2
            for panel in panels:
                setattr(panel, f"{axis}_range", (low / room, high * room))
