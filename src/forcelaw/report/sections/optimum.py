"""How to spend a budget: the best size and data by three routes, and what larger budgets should
reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...figures.laws import FLOPS
from ...figures.spec import Figure, Panel, Series, or_empty
from ...figures.text import pretty
from ...laws.fit.result import Estimate
from ..analysis import Analysis
from ..architecture import Architecture
from ..outcome import ends, finite, row_of
from ..section import (
    ARCHITECTURE,
    MISSING,
    Cell,
    Column,
    Command,
    Notes,
    Part,
    Prose,
    Section,
    by_reason,
    csv,
    entries,
    illustrated,
    number,
    table,
)
from ..series import refused, thin
from .commands import budget_command

WIDE = 100.0  # a loss that is known no better than by this factor is not shown
OTHER = {"a": "a: N* ~ C^a", "b": "b: D* ~ C^b"}


class Route(NamedTuple):
    """One way to the best size and data: its name, exponents a and b, points (x, n, d), and why
    there are none, or why they are a trend only."""

    name: str
    a: Estimate | None
    b: Estimate | None
    points: list[tuple[float, float, float]]
    reason: str


ROUTES = ("surface", "frontier", "iso-FLOP")


def routes(arch: Architecture) -> list[Route]:
    """The surface, the frontier, and the minima of iso-FLOP curves; none without a surface."""
    if not arch.surface.ok:
        return []
    best, lines = arch.allocation, arch.lines
    points = list(zip(*(lines[key].tolist() for key in "cnd"), strict=True)) if lines else []
    out = [Route("surface", best.get("a"), best.get("b"), points, best.reason)]
    if arch.isoflop is None:
        return out
    corners = arch.frontier_c.optimum
    edge = "read off the corners of the frontier" if arch.frontier_c.trend else ""
    reason = corners.reason or corners.trend or edge
    points = [(p["x"], float(p["n"]), float(p["d"])) for p in arch.frontier_c.points]
    out.append(Route("frontier", corners.get("a"), corners.get("b"), points, reason))
    iso, points = arch.isoflop, []
    if iso.result is not None:
        rows = np.column_stack([iso.result.budgets, iso.result.n_star, iso.result.d_star])
        points = [tuple(map(float, row)) for row in rows if np.isfinite(row[1])]
    out.append(Route("iso-FLOP", iso.get("a"), iso.get("b"), points, iso.message))
    return out


@dataclass(frozen=True)
class Prospect:
    """What the fitted surface of one architecture expects of a budget of ``flops``, spent at its
    best size and data. loss: with the interval of the law itself; new_run: with the one in which
    one more run should fall; decades: how far beyond this architecture's largest run."""

    label: str
    flops: float
    n: float
    d: float
    loss: Estimate
    new_run: Estimate | None
    decades: float

    @property
    def useful(self) -> bool:
        """Whether the law says anything: its interval spans less than a factor of WIDE."""
        low, high = self.loss.low, self.loss.high
        return low is None or high is None or 0 < high < WIDE * low


def prospects(analysis: Analysis) -> list[Prospect]:
    """Best size, data and loss at the largest compute of the study, at 10 and at 100 times as
    much."""
    able = {arch.label: arch for arch in analysis.fitted if arch.allocation.ok}
    if not able:
        return []
    reached = {label: float(arch.frame["c"].max()) for label, arch in able.items()}
    largest = max(reached.values())
    budgets = np.array([largest, 10 * largest, 100 * largest])
    out = []
    for label, arch in able.items():
        best = arch.allocation.result
        found = best.table(budgets)
        low, high = (found.get(f"loss_{end}", np.full(3, np.nan)) for end in ("low", "high"))
        for i, flops in enumerate(budgets.tolist()):
            loss = finite(Estimate(float(found["loss"][i]), None, float(low[i]), float(high[i])))
            if loss is not None:
                n, d = float(found["n"][i]), float(found["d"][i])
                beyond = math.log10(flops / reached[label])
                out.append(Prospect(label, flops, n, d, loss, best.new_run(loss), beyond))
    return out


def section(analysis: Analysis) -> Section:
    """The figure, the three routes, and larger budgets."""
    made = figure(analysis)
    found = {arch.label: routes(arch) for arch in analysis.architectures}
    budgets = prospects(analysis)
    parts = illustrated(made) + _route_parts(analysis, found)
    if budgets:
        parts += _budget_parts(analysis, budgets)
    rows = [
        {"architecture": label, "route": route.name, "exponent": name, "reason": route.reason}
        | row_of(value)
        for label, several in found.items()
        for route in several
        for name, value in (("a", route.a), ("b", route.b))
    ]
    columns = entries("architecture", "route", "exponent", "value", "low", "high", "reason")
    files = [csv("routes", columns, rows), csv("budgets", BUDGETS, budgets)]
    return Section("compute_optimal", made.title, parts, files)


def _route_parts(analysis: Analysis, found: dict[str, list[Route]]) -> list[Part]:
    archs = [arch for arch in analysis.architectures if found[arch.label]]
    if not archs:
        return []

    def cell(name: str, exponent: str, arch: Architecture) -> Cell:
        route = next((one for one in found[arch.label] if one.name == name), None)
        if route is None:
            return Cell(style="missing", hint="no FLOPs")
        value = getattr(route, exponent)
        shown = number(value, 2, trend=bool(route.reason))
        return Cell(shown.text, shown.small, shown.style, hint=route.reason)

    columns = [ARCHITECTURE] + [
        Column("", name, cell=partial(cell, name, exponent), over=text)
        for exponent, text in OTHER.items()
        for name in ROUTES
    ]
    caption = (
        "Three routes to the same exponents. The surface uses every evaluation; the other two look"
        " only at the best sizes, need more of them, and are a check."
    )
    parts: list[Part] = [table(columns, archs, "routes", caption)]
    every = ((label, one) for label, several in found.items() for one in several)
    reasons = [(label, f"{one.name}: {one.reason}") for label, one in every if one.reason]
    return [*parts, Notes(by_reason(reasons))] if reasons else parts


# -- larger budgets --------------------------------------------------------------------------------

BUDGETS = [
    Column("architecture", value=lambda one: one.label),
    Column("flops", value=lambda one: one.flops),
    Column("n", value=lambda one: one.n),
    Column("d", value=lambda one: one.d),
    Column("loss", value=lambda one: one.loss.value),
    Column("low", value=lambda one: one.loss.low),
    Column("high", value=lambda one: one.loss.high),
    Column("new_run_low", value=lambda one: ends(one.new_run)[1]),
    Column("new_run_high", value=lambda one: ends(one.new_run)[2]),
    Column("decades_beyond", value=lambda one: one.decades),
]


def _budget_parts(analysis: Analysis, found: list[Prospect]) -> list[Part]:
    budgets = sorted({one.flops for one in found})
    by = {(one.label, one.flops): one for one in found}
    least: dict[float, float] = {}
    for one in found:
        if one.useful:
            least[one.flops] = min(one.loss.value, least.get(one.flops, one.loss.value))

    def cell(flops: float) -> Callable[[Architecture], Cell]:
        return lambda arch: _prospect(by.get((arch.label, flops)), least.get(flops))

    small = ("the largest run here", "10 times that", "100 times that")
    columns = [ARCHITECTURE] + [
        Column("", f"{pretty(flops, 2)} FLOPs", cell=cell(flops), small=text)
        for flops, text in zip(budgets, small, strict=True)
    ]
    able = {one.label for one in found}
    archs = [arch for arch in analysis.architectures if arch.label in able]
    caption = (
        "What to expect of a larger budget: the loss at the best size and data, with the 95%"
        " interval of the law itself and the one in which a new run should fall. Each factor of ten"
        " beyond the measured range assumes that nothing bends; the lowest loss of each budget in"
        " bold."
    )
    return [
        table(columns, archs, "prospects", caption),
        Prose(budget_words(found, analysis.words.data), "key"),
        Command(budget_command(analysis, budgets[1])),
    ]


def _prospect(one: Prospect | None, least: float | None) -> Cell:
    if one is None:
        return MISSING
    if not one.useful:
        return Cell(small=("interval wider than a factor of 100",), style="missing")
    small = []
    if one.loss.bounded:
        small.append(f"{one.loss.low:.3g} to {one.loss.high:.3g}")
    if one.new_run is not None:
        small.append(f"a new run {one.new_run.low:.3g} to {one.new_run.high:.3g}")
    small.append(f"N {pretty(one.n, 2)}, D {pretty(one.d, 2)}")
    return Cell(f"{one.loss.value:.3g}", small, "strong" if one.loss.value == least else "")


def budget_words(found: list[Prospect], data: str) -> str:
    """One budget in a sentence: which architecture, what size and data, what loss, and how far that
    is from the runs."""
    budgets = sorted({one.flops for one in found})
    there = [one for one in found if one.flops == budgets[1] and one.useful]
    there.sort(key=lambda one: one.loss.value)
    if not there:
        return (
            "These runs cannot say what a larger budget would reach. Any budget, in FLOPs or hours,"
            " with its interval:"
        )
    best = there[0]
    text = (
        f"For example, {pretty(best.flops, 2)} FLOPs: {best.label} with {pretty(best.n, 2)}"
        f" parameters and {pretty(best.d, 2)} {data} should reach {best.loss.value:.3g}"
    )
    if best.new_run is not None:
        text += f" (a new run: {best.new_run.low:.3g} to {best.new_run.high:.3g})"
    text += f", {10**best.decades:.2g} times its largest run"
    if len(there) > 1:
        second = there[1]
        both = best.loss.high is not None and second.loss.low is not None
        close = both and best.loss.high > second.loss.low
        text += f"; next is {second.label} with {second.loss.value:.3g}"
        text += ", and their intervals overlap" if close else ""
    return text + ". Any other budget, in FLOPs or hours, with limited data or on one device:"


# -- the figure ------------------------------------------------------------------------------------


def figure(analysis: Analysis) -> Figure:
    """Compute-optimal N and D: corners of the frontier, minima of iso-FLOP curves, and the optimum
    on the surface."""
    panels, data = [], analysis.words.data
    for key, title in (("n", "compute-optimal parameters N*"), ("d", f"compute-optimal {data} D*")):
        panel = Panel(FLOPS, title)
        for arch in analysis.architectures:
            panel.series += _line(arch, key)
        for arch in analysis.architectures:
            panel.series += _marks(arch, key)
        panels.append(or_empty(panel, "no frontier"))
    return Figure(
        "compute_optimal",
        "How to spend a budget: size against data",
        f"For each budget, three answers to how large the model should be and how much of the"
        f" {data} it should see, which should agree: the fitted surface, the frontier of what was"
        " measured, and the lowest point of loss against size at equal compute; a slope of one half"
        " in both (the paper's finding) means that size and data should grow together.",
        panels,
        "dashed: optimum on the fitted surface, with its 95% band · filled: corners of the frontier"
        " · hollow: minima of iso-FLOP curves",
        refused(
            ((arch.label, arch.allocation) for arch in analysis.architectures),
            "cannot carry a fit of the optimum",
        ),
    )


def _line(arch: Architecture, key: str) -> list[Series]:
    """N*(C) or D*(C) on the fitted surface, with its band where the laws give one."""
    if not arch.allocation.ok:
        return []
    lines: dict[str, Any] = {name: values.tolist() for name, values in arch.lines.items()}
    value = arch.allocation.get("a" if key == "n" else "b")
    hover = f"{arch.label}: {key.upper()}* ~ C^{value.value:.2f}" if value else arch.label
    xs, ys, own = lines["c"], lines[key], arch.look.line
    line = Series(xs, ys, "line", width=2.0, dash="dash", hover=hover, **own)
    if f"{key}_low" not in lines:
        return [line]
    band = {"low": lines[f"{key}_low"], "high": lines[f"{key}_high"], "opacity": 0.12}
    return [Series(xs, ys, "band", **band, **own), line]


def _marks(arch: Architecture, key: str) -> list[Series]:
    """N or D at the corners of the frontier (filled) and at the minima of iso-FLOP curves
    (hollow)."""
    iso = next((route.points for route in routes(arch) if route.name == "iso-FLOP"), [])
    corners = [(p["x"], p["n"], p["d"]) for p in arch.frontier_c.points]
    out = []
    for points, hollow, text in (
        (corners, False, "on the frontier"),
        (iso, True, "minimum of an iso-FLOP curve"),
    ):
        if points := [points[i] for i in thin(len(points), 40)]:
            xs, ys = [p[0] for p in points], [p[1 if key == "n" else 2] for p in points]
            own = {"hover": f"{arch.label}: {text}", "size": 9 if hollow else 7}
            out.append(Series(xs, ys, "points", hollow=hollow, **own, **arch.look.marks))
    return out
