"""Marks that several figures share: curves of runs, frontiers with their fits, the fitted
surface."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from ..figures.spec import Panel, Series, names, pretty
from .results import Analysis, ArchitectureResult, Fitted, FrontierResult

# points of one run drawn in a figure; a longer curve is thinned evenly in log D, its ends kept
LONG_RUN = 28
FLOPS, HOURS, LOSS = "training compute C (FLOPs)", "device-hours H", "loss (eV/atom + eV/Å)"


def thin(count: int, room: int = LONG_RUN) -> list[int]:
    """Indices of at most ``room`` of ``count`` points, evenly spread, both ends kept."""
    if count <= room:
        return list(range(count))
    return sorted({round(i * (count - 1) / (room - 1)) for i in range(room)})


def run_curves(
    frame: pl.DataFrame, x: str, y: str
) -> list[tuple[dict[str, float], list[float], list[float]]]:
    """One curve for each run: (n and seed, x, y), points without x or y left out."""
    part = frame.filter((pl.col(x) > 0) & (pl.col(y) > 0)).select(
        "run", "n", "seed", "d", x if x != "d" else "c", y
    )
    out = []
    for _, rows in part.group_by(["run"], maintain_order=True):
        rows = rows.sort("d")
        keep = thin(len(rows))
        head = {"n": rows["n"][0], "seed": rows["seed"][0]}
        out.append((head, rows[x].gather(keep).to_list(), rows[y].gather(keep).to_list()))
    return out


def run_series(arch: ArchitectureResult, x: str, y: str, *, opacity: float = 0.3) -> list[Series]:
    """Thin lines, all runs of one size in one series with gaps, so that a large study stays
    light."""
    out = []
    kinds = ((arch.frame, "solid", ""), (arch.repeated, "dash", " (smaller training set)"))
    for frame, dash, ending in (*kinds, (arch.unfinished, "dot", " (not finished)")):
        by_size: dict[int, tuple[list, list]] = {}
        for head, xs, ys in run_curves(frame, x, y):
            line = by_size.setdefault(head["n"], ([], []))
            line[0].extend([*xs, None])
            line[1].extend([*ys, None])
        for n, (xs, ys) in sorted(by_size.items()):
            out.append(
                Series(
                    xs[:-1],
                    ys[:-1],
                    "line",
                    name=f"{arch.label}, N = {pretty(n)}{ending}",
                    group=arch.label,
                    colour=arch.look.colour,
                    opacity=opacity,
                    width=1.1,
                    dash=dash,
                    hover=f"{arch.label}, N = {pretty(n)}{ending}",
                )
            )
    return out


def frontier_series(arch: ArchitectureResult, result: FrontierResult) -> list[Series]:
    """The lowest loss of any run (line), the corners of the frontier (marks) and the fitted law
    (dashed)."""
    look, out = arch.look, []
    common = {"group": arch.label, "colour": look.colour}
    if result.envelope:
        xs, ys = zip(*result.envelope, strict=True)
        text = f"{arch.label}: lowest loss of any run"
        out.append(Series(xs, ys, "line", name=text, width=1.8, opacity=0.8, hover=text, **common))
    points = [result.points[i] for i in thin(len(result.points), 24)]
    if points:
        hover = [
            f"{arch.label} frontier: N = {pretty(p['n'])}, D = {pretty(p['d'])}" for p in points
        ]
        xs, ys = [p["x"] for p in points], [p["loss"] for p in points]
        marks = {"symbol": look.symbol, "marker": look.marker, "size": 8}
        out.append(
            Series(xs, ys, "points", name=f"{arch.label} frontier", hover=hover, **marks, **common)
        )
    if result.fitted.ok and result.fitted.curve:
        gamma = result.fitted.get("gamma")
        text = f"{arch.label}: fit" + (f", exponent {gamma.value:.3f}" if gamma else "")
        xs, ys = zip(*result.fitted.curve, strict=True)
        out.append(Series(xs, ys, "line", name=text, width=2.2, dash="dash", hover=text, **common))
    return out


def zoom(panel: Panel, results: list[FrontierResult]) -> None:
    """Show what the frontiers cover; the transients above and before them run out of the frame."""
    points = [point for result in results for point in result.envelope]
    points += [(point["x"], point["loss"]) for result in results for point in result.points]
    if not points:
        return
    corners = [
        (point["x"], point["loss"]) for result in results for point in result.points
    ] or points
    xs, losses = [x for x, _ in points], [loss for _, loss in corners]
    panel.x_range = (min(xs) / 2, max(xs) * 2)
    panel.y_range = (min(losses) / 1.25, max(losses) * 1.8)


def or_empty(panel: Panel, why: str) -> Panel:
    """The panel; one without marks says why."""
    if not panel.series:
        panel.empty = why
    return panel


def refusals(analysis: Analysis, attribute: str) -> list[str]:
    """Why there is no fit, for the architectures that have none."""
    results = [(arch.label, getattr(arch, attribute)) for arch in analysis.architectures]
    return refused(
        [(label, r.fitted if isinstance(r, FrontierResult) else r) for label, r in results]
    )


def refused(fits: list[tuple[str, Fitted]], what: str = "cannot carry a fit") -> list[str]:
    """One line for each reason, with the architectures that it holds for."""
    reasons: dict[str, list[str]] = {}
    for label, fitted in fits:
        if not fitted.ok:
            reasons.setdefault(fitted.reason, []).append(label)
    return [f"{names(labels)} {what}: {reason}" for reason, labels in reasons.items()]


def loss_at_data(rows: pl.DataFrame, d: float) -> float | None:
    """Loss of one run at D = d: log-log between its two nearest evaluations; None outside of what
    it saw."""
    ds, losses = rows["d"].to_list(), rows["loss"].to_list()
    if not ds or d < ds[0] * 0.999 or d > ds[-1] * 1.001:
        return None
    for i in range(1, len(ds)):
        if d <= ds[i] * 1.001:
            if ds[i] == ds[i - 1]:
                return losses[i]
            share = math.log(d / ds[i - 1]) / math.log(ds[i] / ds[i - 1])
            return math.exp((1 - share) * math.log(losses[i - 1]) + share * math.log(losses[i]))
    return None


def surface_line(
    arch: ArchitectureResult, ns: Sequence[float], ds: Sequence[float]
) -> list[float] | None:
    """The fitted surface at (n, d), or None where there is no fit."""
    wanted = [arch.surface.get(name) for name in ("A", "alpha", "B", "beta")]
    if any(value is None for value in wanted):
        return None
    big_a, alpha, big_b, beta = (value.value for value in wanted)
    floor = arch.surface.get("E")
    floor = floor.value if floor else 0.0
    return [floor + big_a * n**-alpha + big_b * d**-beta for n, d in zip(ns, ds, strict=True)]


def share_range(panels: list[Panel]) -> None:
    """The same axes in every panel, so that architectures can be compared by eye."""
    for axis, attribute in (("x", "x_range"), ("y", "y_range")):
        values = [
            v for p in panels for s in p.series for v in getattr(s, axis) if v is not None and v > 0
        ]
        if values:
            low, high = min(values), max(values)
            room = (high / low) ** 0.04 if high > low else 1.2
            for panel in panels:
                setattr(panel, attribute, (low / room, high * room))
