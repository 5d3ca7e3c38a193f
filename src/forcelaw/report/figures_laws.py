"""Figures of what is fitted: frontiers, exponents, loss against size and data, the two terms, the
optimum."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from ..figures.spec import Figure, Panel, Series, interval_text, pretty
from ..figures.style import GREY, PAPER
from .results import Analysis, ArchitectureResult, Estimate
from .series import (
    FLOPS,
    HOURS,
    LOSS,
    frontier_series,
    loss_at_data,
    or_empty,
    refusals,
    refused,
    run_series,
    share_range,
    surface_line,
    thin,
    zoom,
)

NAMES = {"energy": "energy term (eV/atom)", "forces": "force term (eV/Å)"}


def frontier(analysis: Analysis) -> Figure:
    """Loss against FLOPs and against hours, with frontiers and fits."""
    panels = []
    for x, title, attribute in (("c", FLOPS, "frontier_c"), ("h", HOURS, "frontier_h")):
        panel = Panel(
            title,
            LOSS,
            title="against counted FLOPs" if x == "c" else "against measured device-hours",
        )
        for arch in analysis.architectures:
            panel.series += run_series(arch, x, "loss")
        for arch in analysis.architectures:
            panel.series += frontier_series(arch, getattr(arch, attribute))
        zoom(panel, [getattr(arch, attribute) for arch in analysis.architectures])
        panels.append(
            or_empty(
                panel,
                "no run has a positive loss yet" if x == "c" else "the table has no device-hours",
            )
        )
    return Figure(
        "frontier",
        "Loss against compute",
        "Each thin line is one training as it goes on; the marked points are the lowest loss that"
        " anything reached for that much compute, and the slope of the dashed line through them"
        " says how fast an architecture turns compute into accuracy: steeper is better.",
        panels,
        "thin: runs · marked: frontier · dashed: fitted law L = E + F·C⁻ᵞ",
        refusals(analysis, "frontier_c"),
    )


EXPONENTS = (
    ("gamma", "frontier_c", "γ, compute (FLOPs)", "gamma_c"),
    ("gamma", "frontier_h", "γ, device-hours", "gamma_h"),
    ("alpha", "surface", "α, parameters", "alpha"),
    ("beta", "surface", "β, data", "beta"),
)


def exponent(arch: ArchitectureResult, name: str, source: str) -> Estimate | None:
    """The estimate of one exponent of one architecture; None where its fit was refused."""
    fitted = arch.surface if source == "surface" else getattr(arch, source).fitted
    return fitted.get(name)


def exponents(analysis: Analysis) -> Figure:
    """Forest plot of the exponents beside the paper's."""
    panels = []
    labels = [arch.label for arch in analysis.architectures][::-1]
    for name, source, title, paper in EXPONENTS:
        panel = Panel(title, "", title=title, x_log=False, y_log=False, categories=labels)
        known: list[float] = []
        ends: list[float] = []
        for row, arch in enumerate(reversed(analysis.architectures)):
            value = exponent(arch, name, source)
            if value is not None:
                panel.series.append(_forest_mark(arch, value, row, title, is_trend(arch, source)))
                known.append(value.value)
                ends.append(min(value.high, 1.6 * value.value) if value.bounded else value.value)
            quoted = getattr(arch.paper, paper) if arch.paper is not None else None
            if quoted is not None:
                hover = f"{arch.paper.name} in the paper: {quoted}"
                tick = {"colour": PAPER, "symbol": "line-ns", "marker": "|", "size": 11}
                panel.series.append(
                    Series(
                        [quoted],
                        [row - 0.28],
                        "points",
                        name="paper",
                        group=arch.label,
                        hover=hover,
                        **tick,
                    )
                )
                known.append(quoted)
        # wide intervals would squash the rest: the axis shows the values, intervals may run off it
        if known:
            top = max(known + ends)
            panel.x_range = (min(0.0, min(known) - 0.1), 1.1 * top if top > 0 else 1.0)
            panel.y_range = (-0.7, len(labels) - 0.4)
        panels.append(or_empty(panel, "no fit"))
    return Figure(
        "exponents",
        "Exponents with their intervals",
        "An exponent is the slope on these double-logarithmic figures; the bar is the range that"
        " would cover the true value in 19 of 20 repetitions of the study, so two architectures"
        " differ for sure only where a direct comparison says so.",
        panels,
        "filled: holds · hollow: a trend, not an exponent · grey tick: the paper's value",
    )


def is_trend(arch: ArchitectureResult, source: str) -> bool:
    """Whether the numbers of this source ("surface", "optimum", "frontier_c", "frontier_h")
    describe a trend only."""
    if source in ("surface", "optimum"):
        return bool(arch.surface.trend)
    return bool(getattr(arch, source).fitted.trend)


def _forest_mark(
    arch: ArchitectureResult, value: Estimate, row: int, title: str, trend: bool
) -> Series:
    text = f"{arch.label}: {title} = {interval_text(value, 3)}" + (" (a trend)" if trend else "")
    ends = {"low": [value.low], "high": [value.high]} if value.bounded else {}
    marks = {
        "symbol": arch.look.symbol,
        "marker": arch.look.marker,
        "size": 9,
        "hollow": trend,
        "horizontal": True,
    }
    return Series(
        [value.value],
        [row],
        "points",
        name=text,
        group=arch.label,
        colour=arch.look.colour,
        hover=text,
        **marks,
        **ends,
    )


def _settled(frame: pl.DataFrame, burn_in_steps: int) -> pl.DataFrame:
    """Evaluations after the burn-in; all of them where none would be left."""
    later = frame.filter((pl.col("step") >= burn_in_steps).fill_null(True))
    return later if len(later) else frame


def _levels(low: float, high: float, count: int = 3) -> list[float]:
    """``count`` values of D from the end backwards, a factor 4 apart, inside the measured range."""
    return [high / 4**k for k in range(count) if high / 4**k >= low]


def loss_against_size(analysis: Analysis) -> Figure:
    """Loss against N at several D, read off between evaluations, with the fitted surface."""
    panels = []
    frames = [arch.frame for arch in analysis.architectures if arch.runs]
    ends = [float(f.group_by("run").agg(pl.col("d").max())["d"].max()) for f in frames]
    starts = [
        float(_settled(arch.frame, analysis.burn_in_steps)["d"].min())
        for arch in analysis.architectures
        if arch.runs
    ]
    levels = _levels(max(starts), min(ends)) or [min(ends)] if ends else []
    for d in reversed(levels):
        panel = Panel("parameters N", LOSS, title=f"at D = {pretty(d)} atoms seen")
        for arch in analysis.architectures:
            _size_series(panel, arch, d)
        panels.append(panel)
    panels = [panel for panel in panels if panel.series] or [
        Panel("parameters N", LOSS, empty="no finished run")
    ]
    return Figure(
        "loss_vs_n",
        "Loss against model size",
        "Every model here saw the same number of atoms; where the curve still falls, larger models"
        " pay, and where it flattens, data or training steps are what is missing.",
        panels,
        "points: mean over seeds, bars: smallest and largest · dashed: fitted surface L(N, D)",
        refusals(analysis, "surface"),
    )


def _size_series(panel: Panel, arch: ArchitectureResult, d: float) -> None:
    found: dict[int, list[float]] = {}
    for _, rows in arch.frame.group_by(["run"], maintain_order=True):
        value = loss_at_data(rows.sort("d"), d)
        if value is not None:
            found.setdefault(rows["n"][0], []).append(value)
    if not found:
        return
    ns = sorted(found)
    means = [math.exp(sum(map(math.log, found[n])) / len(found[n])) for n in ns]
    look = arch.look
    predicted = surface_line(arch, ns, [d] * len(ns))
    if predicted:
        panel.series.append(
            Series(
                ns,
                predicted,
                "line",
                name=f"{arch.label}: surface",
                group=arch.label,
                dash="dash",
                colour=look.colour,
                width=2.0,
                hover=f"{arch.label}: fitted surface",
            )
        )
    panel.series.append(
        Series(
            ns,
            means,
            "points" if predicted else "both",
            name=arch.label,
            group=arch.label,
            colour=look.colour,
            symbol=look.symbol,
            marker=look.marker,
            low=[min(found[n]) for n in ns],
            high=[max(found[n]) for n in ns],
            hover=[f"{arch.label}, {len(found[n])} run(s)" for n in ns],
        )
    )


def loss_against_data(analysis: Analysis) -> Figure:
    """Loss against D, one panel for each architecture, one line for each run."""
    panels = []
    for arch in analysis.architectures:
        panel = Panel("atoms seen D", LOSS, title=arch.label)
        sizes = sorted(set(arch.frame["n"].to_list()) | set(arch.unfinished["n"].to_list()))
        for series in run_series(arch, "d", "loss", opacity=1.0):
            panel.series.append(series)
        for series in panel.series:  # shade by size: the larger the model, the stronger the line
            rank = [i for i, n in enumerate(sizes) if f"N = {pretty(n)}" in series.name]
            series.opacity = 0.3 + 0.7 * (rank[0] + 1) / len(sizes) if rank else 1.0
        if arch.runs:
            panel.series += _surface_data_lines(arch, analysis.burn_in_steps)
        if panel.series:
            panels.append(panel)
    share_range(panels)
    return Figure(
        "loss_vs_d",
        "Loss against data",
        "Each line is one training from its first steps to its end, stronger for larger models;"
        " straight and parallel means a power law in data, and a line that bends off early has run"
        " out of parameters.",
        panels or [Panel("atoms seen D", LOSS, empty="no run has been evaluated")],
        "lines: runs, strong: large N · dotted: fitted surface L(N, D) after burn-in",
    )


def _surface_data_lines(arch: ArchitectureResult, burn_in_steps: int) -> list[Series]:
    out = []
    later = arch.frame.filter((pl.col("step") >= burn_in_steps).fill_null(True))
    for n in arch.sizes:
        ds = later.filter(pl.col("n") == n)["d"]
        if not len(ds):
            continue
        low, high = float(ds.min()), float(ds.max())
        grid = [low * (high / low) ** (k / 11) for k in range(12)]
        line = surface_line(arch, [n] * 12, grid)
        if line:
            out.append(
                Series(
                    grid,
                    line,
                    "line",
                    name=f"{arch.label}: surface at N = {pretty(n)}",
                    group=arch.label,
                    colour=GREY,
                    dash="dot",
                    width=1.4,
                    hover=f"surface at N = {pretty(n)}",
                )
            )
    return out


def terms(analysis: Analysis) -> Figure:
    """Energy and force terms apart, against FLOPs."""
    panels = []
    for term, title in NAMES.items():
        panel = Panel(FLOPS, title, title=f"{term} alone")
        for arch in analysis.architectures:
            panel.series += run_series(arch, "c", f"loss_{term}", opacity=0.22)
        for arch in analysis.architectures:
            panel.series += frontier_series(arch, arch.terms[term])
        zoom(panel, [arch.terms[term] for arch in analysis.architectures])
        panels.append(or_empty(panel, f"the table has no {term} term"))
    return Figure(
        "terms",
        "Energy and forces apart",
        "The loss is the sum of these two and nearly all of it is the force term, so the energy is"
        " shown by itself: it may follow another law.",
        panels,
        "thin: runs · marked: frontier of the term alone · dashed: its fit",
    )


def optimum(analysis: Analysis) -> Figure:
    """Compute-optimal N and D: corners of the frontier, and the optimum on the surface."""
    panels = []
    for key, title in (("n", "compute-optimal parameters N*"), ("d", "compute-optimal atoms D*")):
        panel = Panel(FLOPS, title)
        for arch in analysis.architectures:
            panel.series += _allocation_series(arch, key)
        for arch in analysis.architectures:
            panel.series += _route_marks(arch, key)
        panels.append(or_empty(panel, "no frontier"))
    return Figure(
        "compute_optimal",
        "How to spend a budget: size against data",
        "For each budget, three answers to how large the model should be and how many atoms it"
        " should see, which should agree: the fitted surface, the frontier of what was measured,"
        " and the lowest point of loss against size at equal compute; a slope of one half in both"
        " (the paper's finding) means that size and data should grow together.",
        panels,
        "dashed: optimum on the fitted surface, with its 95% band · filled: corners of the frontier"
        " · hollow: minima of iso-FLOP curves",
        _refusals_optimum(analysis),
    )


def _route_marks(arch: ArchitectureResult, key: str) -> list[Series]:
    """N or D at the corners of the frontier (filled) and at the minima of iso-FLOP curves
    (hollow)."""
    iso = next((route.points for route in arch.routes if route.method == "iso-FLOP"), [])
    corners = [(p["x"], p["n"], p["d"]) for p in arch.frontier_c.points]
    out, look = [], arch.look
    for points, hollow, text in (
        (corners, False, "on the frontier"),
        (iso, True, "minimum of an iso-FLOP curve"),
    ):
        points = [points[i] for i in thin(len(points), 40)]
        if points:
            xs, ys = [p[0] for p in points], [p[1 if key == "n" else 2] for p in points]
            hover = f"{arch.label}: {text}"
            marks = {
                "symbol": look.symbol,
                "marker": look.marker,
                "size": 9 if hollow else 7,
                "hollow": hollow,
            }
            out.append(
                Series(
                    xs,
                    ys,
                    "points",
                    group=arch.label,
                    colour=look.colour,
                    hover=hover,
                    name=hover,
                    **marks,
                )
            )
    return out


def _allocation_series(arch: ArchitectureResult, key: str) -> list[Series]:
    """N*(C) or D*(C) on the fitted surface, with its band where the laws give one."""
    lines, out = arch.allocation.lines, []
    if not arch.allocation.fitted.ok or key not in lines:
        return out
    value = arch.allocation.fitted.get("a" if key == "n" else "b")
    text = f"{arch.label}: {key.upper()}* ~ C^{value.value:.2f}" if value else arch.label
    low, high = lines.get(f"{key}_low"), lines.get(f"{key}_high")
    common = {"name": text, "group": arch.label, "colour": arch.look.colour}
    if low and high:
        out.append(
            Series(lines["c"], lines[key], "band", low=low, high=high, opacity=0.12, **common)
        )
    out.append(Series(lines["c"], lines[key], "line", width=2.0, dash="dash", hover=text, **common))
    return out


def _refusals_optimum(analysis: Analysis) -> list[str]:
    failed = [(arch.label, arch.allocation.fitted) for arch in analysis.architectures]
    return refused(failed, "cannot carry a fit of the optimum")


def diagnosis(analysis: Analysis) -> Figure:
    """What two of the checks saw: the slope along the frontier, and large budgets predicted from
    small ones."""
    slopes = Panel(
        FLOPS, "local exponent −d ln L / d ln C", title="slope along the frontier", y_log=False
    )
    held = Panel(
        FLOPS,
        "measured / predicted loss",
        title="largest budgets, from a tenth of the compute",
        y_log=False,
    )
    for arch in analysis.architectures:
        look = arch.look
        common = {"group": arch.label, "colour": look.colour}
        marks = {"symbol": look.symbol, "marker": look.marker}
        data = next(
            (c.data for c in arch.checks if c.name == "local exponents" and "exponent" in c.data),
            None,
        )
        if data is not None:
            xs, ys, low, high = (
                [float(v) for v in data[key]] for key in ("x", "exponent", "low", "high")
            )
            slopes.series.append(
                Series(xs, ys, "band", low=low, high=high, opacity=0.12, name=arch.label, **common)
            )
            slopes.series.append(
                Series(
                    xs, ys, "both", name=arch.label, hover=f"{arch.label}: local", **marks, **common
                )
            )
            law = [float(v) for v in data["law"]]
            hover = f"{arch.label}: slope of the fitted law"
            slopes.series.append(
                Series(xs, law, "line", name=hover, dash="dash", hover=hover, **common)
            )
        row = _held_out(arch)
        if row is not None:
            ratio = [
                float(t) / float(p) for t, p in zip(row["true"], row["predicted"], strict=True)
            ]
            low = [float(t) / float(h) for t, h in zip(row["true"], row["high"], strict=True)]
            high = [float(t) / float(lo) for t, lo in zip(row["true"], row["low"], strict=True)]
            xs, hover = (
                [float(v) for v in row["x"]],
                f"{arch.label}: a run that the fit had not seen",
            )
            held.series.append(
                Series(
                    xs,
                    ratio,
                    "points",
                    low=low,
                    high=high,
                    name=hover,
                    hover=hover,
                    **marks,
                    **common,
                )
            )
    known = [v for s in slopes.series if s.kind != "band" for v in s.y if v is not None]
    if known:  # a band of few points may be very wide
        slopes.y_range = (min(0.0, min(known)), 1.5 * max(known))
    return Figure(
        "diagnosis",
        "Two of the checks, drawn",
        "Left, the slope of the frontier piece by piece: an exponent keeps the slope of its law"
        " (dashed). Right, the law is fitted without the largest budgets and predicts them: points"
        " at one were predicted exactly.",
        [
            or_empty(slopes, "too few sizes on the frontier"),
            or_empty(held, "too few runs to hold any out"),
        ],
        "bars: 95% prediction interval of a new run",
    )


def _held_out(arch: ArchitectureResult) -> dict[str, Any] | None:
    """The rows of the hold-out check at a tenth of the compute, or at the nearest cut there is."""
    data = next((c.data for c in arch.checks if c.name == "held-out budgets"), {})
    rows = [row for row in data.get("rows", []) if "predicted" in row]
    if not rows or arch.frame["c"].max() is None:
        return None
    tenth = float(arch.frame["c"].max()) / 10
    return min(rows, key=lambda row: abs(math.log(row["cut"] / tenth)))
