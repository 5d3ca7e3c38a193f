"""One figure for each command of the laws: fit, compare, diagnose, budget, design."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ..laws.compare.compare import Comparison
from ..laws.decide.budget import Budget
from ..laws.decide.design import Design
from ..laws.diagnose.diagnose import Diagnosis
from ..laws.fit.result import Estimate, FitResult
from ..progress import counted
from ..table.runs import Runs
from .laws import (
    FLOPS,
    HOURS,
    equal_loss,
    floor_profile,
    forest,
    held_out,
    local_exponents,
    loss_ratios,
)
from .spec import Figure, Panel, Series, or_empty
from .style import GREY, Look, looks
from .text import pretty

LABELS = {
    "n": "parameters N",
    "d": "data D (atoms or tokens)",
    "u": "distinct data U",
    "c": FLOPS,
    "h": HOURS,
}
SYMBOLS = {
    "alpha": "α, loss against N",
    "beta": "β, loss against D",
    "a": "a, best N against compute",
    "gamma": "γ, loss against compute",
}
MOST_POINTS = 5000  # drawn at most; a million points say no more
LEVELS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c8b400")  # viridis, small to large
CHOSEN = Look("chosen first", "#c8460a", "#ff8a4c", "circle-open", "o")


def _looks(labels: Iterable[str]) -> dict[str, Look]:
    return looks([(label, label) for label in labels])


def _some(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))


# -- fit -------------------------------------------------------------------------------------------


def fit_figure(runs: Runs, result: FitResult) -> Figure:
    """Loss against each variable of the law, with the law and its band, and the residuals."""
    roles = [role for role in result.law.roles if role != "u"]
    panels = [_against(runs, result, role, [r for r in roles if r != role]) for role in roles]
    shown = [
        f"{name} = {result.parameters[name]}"
        for name in result.law.shapes
        if name in result.parameters
    ]
    title = "\n".join([result.law.formula, *([", ".join(shown)] if shown else [])])
    if not result.ok:
        title += f"\nNOT USABLE, {result.status}: {result.message}"[:200]
    band = f", shading its {result.level:.0%} interval" if result.replicates is not None else ""
    colour = " Colour is the other variable." if len(roles) > 1 else ""
    return Figure(
        "fit",
        title,
        f"Left: each point is one evaluation of one run; lines are the fitted law{band} (deleting"
        f" whole runs, since checkpoints of one run are not independent).{colour} Right: how far"
        " each loss is from the law; a slope or a bend there means that the law does not describe"
        " the runs.",
        [*panels, _residuals(runs, result)],
    )


def _against(runs: Runs, result: FitResult, role: str, others: list[str]) -> Panel:
    """Loss against ``role``; points and lines are coloured by a few levels of another variable."""
    panel = Panel(LABELS.get(role, role), "loss")
    x, loss, some = runs[role], runs["loss"], _some(len(runs))
    if not others:
        panel.series = [
            _points(x[some], loss[some], LEVELS[1]),
            *_law(result, {role: _grid(x)}, role, LEVELS[1]),
            *_floor(runs, result, x),
        ]
        return panel
    other, values = others[0], runs[others[0]]
    levels = np.unique(np.quantile(values, [0.05, 0.3, 0.5, 0.7, 0.95], method="nearest"))
    nearest = np.abs(np.log(values[:, None] / levels)).argmin(axis=1)
    for k, level in enumerate(levels):
        colour, mine = LEVELS[k * 4 // max(len(levels) - 1, 1)], some[nearest[some] == k]
        name = f"{other.upper()} near {pretty(float(level))}" if role == "n" else ""
        panel.series.append(_points(x[mine], loss[mine], colour, group=name, opacity=0.8))
        inside = x[np.abs(np.log(values / level)) < 0.7]  # where such runs are, with some room
        grid = _grid(inside if len(inside) > 1 else x)
        panel.series += _law(result, {role: grid, other: np.full_like(grid, level)}, role, colour)
    panel.series += _floor(runs, result, x)
    return panel


def _points(x: np.ndarray, y: np.ndarray, colour: str, **options: Any) -> Series:
    """Evaluations."""
    small = {"size": 5, "opacity": 0.6, "colour": colour}
    return Series(x.tolist(), y.tolist(), "points", **{**small, **options})


def _grid(x: np.ndarray) -> np.ndarray:
    return np.geomspace(x.min(), x.max(), 80)


def _law(result: FitResult, at: dict[str, np.ndarray], role: str, colour: str) -> list[Series]:
    """The law and its band at given values; data that are not repeated are all distinct."""
    if "u" in result.law.roles:
        at.setdefault("u", at.get("d", at[role]))
    band = result.interval("mean", **{name: at[name] for name in result.law.roles})
    xs, line = at[role].tolist(), Series(at[role].tolist(), band.value.tolist(), colour=colour)
    if not np.isfinite(band.low).all():
        return [line]
    ends = {"low": band.low.tolist(), "high": band.high.tolist()}
    return [Series(xs, band.value.tolist(), "band", colour=colour, opacity=0.2, **ends), line]


def _floor(runs: Runs, result: FitResult, x: np.ndarray) -> list[Series]:
    """The floor and its interval, if it is near enough not to squash the points."""
    floor, least = result.parameters.get(result.law.floor_name), 0.3 * runs["loss"].min()
    if floor is None or floor.value <= least:
        return []
    ends = [float(x.min()), float(x.max())]
    line = Series(ends, [floor.value] * 2, "line", group="floor", colour=GREY, dash="dot")
    if floor.low is None or floor.high is None:
        return [line]
    band = {"low": [max(floor.low, least)] * 2, "high": [floor.high] * 2, "opacity": 0.12}
    return [Series(ends, ends, "band", colour=GREY, **band), line]


def _residuals(runs: Runs, result: FitResult) -> Panel:
    fitted = result.predict(**{role: runs[role] for role in result.law.roles})
    some, off = _some(len(runs)), 100 * (runs["loss"] / fitted - 1)
    panel = Panel("fitted loss", "measured above fitted (%)", y_log=False)
    panel.series = [
        _points(fitted[some], off[some], LEVELS[1], size=4),
        Series([float(fitted.min()), float(fitted.max())], [0.0, 0.0], "line", colour=GREY),
    ]
    wild = np.abs(off) > 800 * max(result.diagnostics.get("residual_mad_sd") or np.inf, 1e-4)
    if wild.any() and not wild.mean() > 0.05:  # a few outliers must not hide the rest
        edge = 1.15 * np.abs(off[~wild]).max()
        panel.y_range = (-edge, edge)
        panel.title = f"{counted(int(wild.sum()), 'point')} outside, up to {np.abs(off).max():.3g}%"
    return panel


# -- compare and diagnose --------------------------------------------------------------------------


def compare_figure(comparison: Comparison) -> Figure:
    """Ratios of losses, exponents side by side with intervals, and compute at equal loss of the
    pairs."""
    usable = {name: one for name, one in comparison.fits.items() if one.ok}
    look = _looks(comparison.fits)
    panels = []
    if ratios := comparison.ratios:
        first = ratios[0].first
        of_first = [(look[one.second], one) for one in ratios if one.first == first]
        panels.append(loss_ratios(of_first, first, "d", LABELS["d"]))
        if any(one.costs.get("c") for *_, one in of_first):
            panels.append(loss_ratios(of_first, first, "c", LABELS["c"]))
    for name, title in SYMBOLS.items():
        items = [(look[group], one.get(name), False) for group, one in usable.items()]
        if any(value for _, value, _ in items):
            panels.append(forest(title, items))
    named = {f"{one.second} / {one.first}": one.multiplier for one in comparison.pairs}
    multipliers = {label: found for label, found in named.items() if found is not None}
    if multipliers:
        items = list(zip(_looks(multipliers).values(), multipliers.values(), strict=True))
        compute = "compute for the same loss,\nfirst named / second named"
        panels.append(equal_loss(items, "one", compute, "loss"))
    return Figure(
        "compare",
        "",
        "First the losses without a law, in units of the first architecture's: a flat line is a"
        f" constant factor. Then exponents with their {comparison.level:.0%} intervals; overlap is"
        " not the test, the p values in the table are. Last: how many times the compute of the"
        " second named architecture the first needs for the same loss, above one more and below one"
        " less, with its interval.",
        panels or [Panel("", "", empty="no architecture has a usable fit")],
    )


def diagnose_figure(diagnosis: Diagnosis) -> Figure:
    """Local exponents, stability of the exponent, held-out losses, and the profile of the floor."""
    checks = {check.name: check for check in diagnosis.checks}
    label = diagnosis.group or "all runs"
    look = _looks([label])[label]
    largest = None
    if (found := diagnosis.frontier) is not None:
        largest = float(max(found.points["x"]))
    panels = [
        local_exponents([(look, checks.get("local exponents"))]),
        _stable(diagnosis, look),
        held_out([(look, checks.get("held-out budgets"), largest)]),
        floor_profile([(look, diagnosis.profile)] if diagnosis.profile is not None else []),
    ]
    words = {True: "passed", False: "FAILED", None: "cannot say"}
    for panel, name in ((panels[0], "local exponents"), (panels[2], "held-out budgets")):
        if name in checks:
            panel.title += f": {words[checks[name].passed]}"
    group = f"{diagnosis.group}: " if diagnosis.group else ""
    return Figure(
        "diagnosis",
        "\n".join([f"{group}{diagnosis.verdict}", *diagnosis.reasons[:3]]),
        "Top: the slope of the frontier in windows should follow the dashed law, and the exponent"
        " should not move when small sizes or early checkpoints are left out (hollow: moved, p <"
        " 0.01). Bottom: losses at held-out large budgets should be as predicted, and the floor is"
        " known as well as its profile is narrow (below the dotted line).",
        panels,
        columns=2,
    )


def _stable(diagnosis: Diagnosis, look: Look) -> Panel:
    """The exponent with everything, and with parts left out."""
    named = ("smallest sizes", "early checkpoints")
    checks = [check for check in diagnosis.checks if check.name in named]
    rows = [
        row for check in checks for row in check.data.get("rows", []) if row["value"] is not None
    ]
    rows = [row for i, row in enumerate(rows) if i == 0 or row["what"] != "everything"]
    items = []
    for i, row in enumerate(rows):
        value = Estimate(float(row["value"]))
        if i == 0:
            quantity = next(check.data["quantity"] for check in checks if "quantity" in check.data)
            value = diagnosis.surface.get(quantity) or value
        moved = row["p"] is not None and row["p"] <= 0.01
        items.append((replace(look, label=str(row["what"])), value, moved))
    return forest("the exponent with parts left out", items)


# -- budget and design -----------------------------------------------------------------------------


def budget_figure(budget: Budget, runs: Runs | None = None) -> Figure:
    """Predicted loss of every architecture with both intervals, and its N and D among the runs of
    the table."""
    usable = [one for one in budget.choices if one.ok]
    labels = [f"{one.group or 'all'}, P(best) {one.p_best:.2f}" for one in usable]
    look = _looks([one.group or "this budget" for one in usable])
    loss = Panel("", "", title="predicted loss", x_log=False, y_log=False, categories=labels[::-1])
    plan = Panel(LABELS["n"], LABELS["d"], title="size and data")
    for row, one in enumerate(reversed(usable)):
        own, mean = look[one.group or "this budget"], [one.loss_mean_low, one.loss_mean_high]
        loss.series += [
            Series([one.loss_low, one.loss_high], [row, row], **own.line),
            Series(mean, [row, row], width=8, opacity=0.4, **own.line),
            Series([one.loss], [row], "points", **own.marks),
        ]
        plan.series.append(Series([one.n], [one.d], "points", size=14, **own.marks))
        if runs is not None and "d" in runs and "n" in runs:
            known = one.group in runs.group_names
            mine = runs.take(runs.group == runs.group_names.index(one.group)) if known else runs
            last = mine.select(last=True)
            some = _some(len(last))
            small = {"opacity": 0.35, **own.marks}
            plan.series.append(_points(last["n"][some], last["d"][some], **small))
    if usable:  # one wide interval would squash the rest
        loss.x_range = (0.0, 1.1 * max(min(one.loss_high, 2 * one.loss) for one in usable))
    beyond = max((one.extrapolation.get("budget", 0.0) for one in usable), default=0.0)
    far = "within what was measured"
    if beyond > 1.05:
        far = f"up to {beyond:.3g} times the largest measured"
    return Figure(
        "budget",
        f"budget: {budget.amount:.3g} {budget.unit}, {far}",
        "Left: the loss each architecture should reach with this budget; thick is how well the law"
        f" is known, thin is where one new run should fall ({budget.level:.0%}). Right: the size"
        " and the data that reach it (large) and where the runs of the table ended (small): the"
        " further away, the more it extrapolates.",
        [or_empty(loss, "no architecture has a usable fit"), or_empty(plan, "no choice")],
    )


def design_figure(design: Design) -> Figure:
    """What candidate runs would do for the interval, against their cost."""
    gains = Panel(f"cost of the run ({design.unit})", "interval shorter by (%)", y_log=False)
    kinds = sorted({one.kind.split(",")[0] for one in design.candidates})
    for kind, look in _looks(kinds).items():
        mine = [one for one in design.candidates if one.kind.split(",")[0] == kind]
        xs, ys = [one.cost for one in mine], [100 * one.gain for one in mine]
        gains.series.append(Series(xs, ys, "points", **look.marks))
    for one in design.additions[:1]:
        ring = {"size": 18, "hollow": True, **CHOSEN.marks}
        gains.series.append(Series([one.cost], [100 * one.gain], "points", **ring))
    widths = [design.half_width, *(one.half_width for one in design.additions)]
    half = f"half-width of the interval of {design.quantity}"
    left = Panel("runs added", half, x_log=False, y_log=False)
    left.series = [Series(list(range(len(widths))), widths, "both", colour=CHOSEN.colour)]
    left.y_range = (0, 1.35 * max(widths)) if math.isfinite(max(widths)) else None
    first = design.additions[:1]
    left.title = f"first: N = {first[0].n:.2g}, D = {first[0].d:.2g}" if first else "no run helps"
    most = "most for its cost" if design.rank == "per-cost" else "most, whatever it costs"
    group = f"{design.group}: " if design.group else ""
    return Figure(
        "design",
        f"{group}which runs would determine {design.quantity} better?",
        "Left: each point is a run that could be added; the ring is the one that shortens the"
        f" interval {most} (points just below zero are noise of the simulation). Right: what is"
        " left of the interval as the chosen runs are added one by one.",
        [or_empty(gains, "no candidate"), left],
    )
