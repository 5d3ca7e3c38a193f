"""Panels of the laws' results, for the report and for the figures of single commands: each takes
(look, result) of every architecture that it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..laws.compare.multiplier import Multiplier
from ..laws.compare.ratios import Ratios
from ..laws.diagnose.check import Check
from ..laws.fit.floor_profile import Profile
from ..laws.fit.result import Estimate
from .spec import Panel, Series, or_empty
from .style import GREY, PAPER, Look
from .text import interval_text, pretty

FLOPS, HOURS = "training compute C (FLOPs)", "device-hours H"
FLOOR = "floor E of the loss"
FLOOR_TOP = 4.0  # of the rise of the misfit: further up, a floor is excluded anyway


def floor_rise(profile: Profile) -> tuple[list[float], list[float]]:
    """Floors, and the rise of the misfit when the floor is held there, in units of the rise at the
    ends of the profile's interval."""
    rise = profile.rise
    keep = np.isfinite(rise) & (rise < 2 * FLOOR_TOP)
    return profile.floor[keep].tolist(), rise[keep].tolist()


def floor_profile(items: Iterable[tuple[Look, Profile]]) -> Panel:
    """How the misfit rises as the floor is held elsewhere; 1 at the ends of the 95% interval."""
    panel = Panel(FLOOR, "misfit (1 = edge of the 95% interval)", x_log=False, y_log=False)
    panel.title = "how sure is the floor?"
    ends = []
    for look, profile in items:
        floors, rise = floor_rise(profile)
        hover = f"{look.label}: floor {pretty(profile.low)} to {pretty(profile.high)}"
        panel.series.append(Series(floors, rise, "line", width=2.0, hover=hover, **look.line))
        ends.append(profile.high)
    if ends:
        panel.x_range, panel.y_range = (0.0, 1.3 * max(ends)), (0.0, FLOOR_TOP)
        panel.series.append(Series(panel.x_range, [1.0, 1.0], "line", dash="dot", hover="95%"))
    return or_empty(panel, "no floor was fitted")


def floor_effect(items: Iterable[tuple[Look, Profile, float]]) -> Panel:
    """What the exponent is with the floor at zero, as fitted, and at its largest. items: look,
    profile, fitted floor."""
    panel = Panel(FLOOR, "exponent αβ/(α+β)", x_log=False, y_log=False)
    panel.title = "what the floor does to γ"
    ends = []
    for look, profile, floor in items:
        gammas = profile.gamma_zero, profile.gamma_free, profile.gamma_high
        points = zip((0.0, floor, profile.high), gammas, strict=True)
        known = [point for point in points if math.isfinite(point[1])]
        xs, ys = [x for x, _ in known], [y for _, y in known]
        hover = f"{look.label}: γ at this floor"
        panel.series.append(Series(xs, ys, "both", size=7, hover=hover, **look.marks))
        ends.append(profile.high)
    if ends:
        panel.x_range = (0.0, 1.3 * max(ends))
    return or_empty(panel, "no floor was fitted")


def local_exponents(items: Iterable[tuple[Look, Check | None]]) -> Panel:
    """The slope of the frontier in windows, and that of the fitted law (dashed)."""
    panel = Panel(FLOPS, "local exponent −d ln L / d ln C", y_log=False)
    panel.title = "slope along the frontier"
    for look, check in items:
        if check is None or "exponent" not in check.data:
            continue
        keys = ("x", "exponent", "low", "high", "law")
        xs, ys, low, high, law = ([float(v) for v in check.data[key]] for key in keys)
        local, fitted = f"{look.label}: local", f"{look.label}: slope of the fitted law"
        panel.series += [
            Series(xs, ys, "band", low=low, high=high, opacity=0.12, **look.line),
            Series(xs, ys, "both", hover=local, **look.marks),
            Series(xs, law, "line", dash="dash", hover=fitted, **look.line),
        ]
    known = [v for s in panel.series if s.kind != "band" for v in s.y if v is not None]
    if known:  # a band of few points may be very wide
        panel.y_range = (min(0.0, min(known)), 1.5 * max(known))
    return or_empty(panel, "too few sizes on the frontier")


def held_out(items: Iterable[tuple[Look, Check | None, float | None]]) -> Panel:
    """Losses at budgets that the fit had not seen over those predicted from a tenth of the compute
    (or at the nearest cut there is). items: look, check, largest compute."""
    panel = Panel(FLOPS, "measured / predicted loss", y_log=False)
    panel.title = "largest budgets, from a tenth of the compute"
    for look, check, largest in items:
        rows = [row for row in (check.data.get("rows", []) if check else []) if "predicted" in row]
        if not rows or largest is None:
            continue
        tenth = math.log(largest / 10)
        row = min(rows, key=lambda row, tenth=tenth: abs(math.log(row["cut"]) - tenth))
        true = [float(v) for v in row["true"]]
        ratio, low, high = (
            [t / float(v) for t, v in zip(true, row[key], strict=True)]
            for key in ("predicted", "high", "low")
        )
        ends = {"low": low, "high": high, "hover": f"{look.label}: a run that the fit had not seen"}
        xs = [float(v) for v in row["x"]]
        panel.series.append(Series(xs, ratio, "points", **ends, **look.marks))
    return or_empty(panel, "too few runs to hold any out")


def equal_loss(
    items: Sequence[tuple[Look, Multiplier]], first: str, y_title: str, x_title: str
) -> Panel:
    """Compute at equal loss in units of ``first``. items: look, and the multiplier of each against
    ``first``."""
    panel = Panel(x_title, y_title, title="compute for the same loss")
    for look, found in items:
        rows = [
            tuple(row[key] for key in ("at", "value", "low", "high"))
            for row in found.rows("multiplier")
            if row["value"] is not None
        ]
        if not rows:
            continue
        xs, ys, low, high = (list(column) for column in zip(*rows, strict=True))
        if None not in (*low, *high):
            band = Series(xs, ys, "band", low=low, high=high, opacity=0.15, **look.line)
            panel.series.append(band)
        hover = [f"{look.label}: {pretty(y)} times the compute" for y in ys]
        line = {"width": 2.0, "size": 5, "hover": hover}
        panel.series.append(Series(xs, ys, "both", **line, **look.marks))
    _add_unit(panel, first)
    return or_empty(panel, "fewer than two frontiers to compare")


def _add_unit(panel: Panel, first: str) -> None:
    """The line at one."""
    xs = [x for series in panel.series for x in series.x if x is not None]
    if xs:
        one = {"colour": GREY, "dash": "dot", "hover": f"{first} itself"}
        panel.series.append(Series([min(xs), max(xs)], [1.0, 1.0], "line", **one))


def loss_ratios(items: Sequence[tuple[Look, Ratios]], first: str, x: str, x_title: str) -> Panel:
    """Ratio of losses against ``first`` without a law: x "d", one line for each size at equal N and
    D; "c" or "h", the frontiers at equal cost with their interval."""
    panel = Panel(x_title, f"loss in units of {first}'s")
    panel.title = {"d": "equal N and D", "c": "equal FLOPs", "h": "equal device-hours"}[x]
    for look, found in items:
        for i, size in enumerate(found.sizes if x == "d" else []):
            line = {"opacity": 0.3 + 0.7 * (i + 1) / len(found.sizes), **look.line}
            hover = f"{look.label} / {first}, N = {pretty(size.n)}"
            xs, ys = size.d.tolist(), size.ratio.tolist()
            panel.series.append(Series(xs, ys, "line", hover=hover, **line))
        if (cost := found.costs.get(x)) is not None:
            at, ratio = cost.at.tolist(), cost.ratio.tolist()
            band = {"low": cost.low.tolist(), "high": cost.high.tolist(), "opacity": 0.12}
            panel.series.append(Series(at, ratio, "band", **band, **look.line))
            hover = [f"{look.label}: {pretty(y)} times the loss" for y in ratio]
            panel.series.append(Series(at, ratio, "line", width=2.0, hover=hover, **look.line))
    known = [y for series in panel.series for y in series.y if y]
    if known:  # a band of few sizes may be very wide
        panel.y_range = (min(known) / 1.3, max(1.0, *known) * 1.3)
    _add_unit(panel, first)
    empty = "no two architectures with a size and a range of D in common"
    if x != "d":
        empty = "no cost at which two architectures have two sizes each"
    return or_empty(panel, empty)


def forest(
    title: str,
    items: Sequence[tuple[Look, Estimate | None, bool]],
    quoted: Sequence[tuple[str, float] | None] = (),
) -> Panel:
    """One exponent of every architecture with its interval, from the top down. items: look,
    estimate, whether it is a trend only (hollow). quoted: a value from elsewhere for each (hover,
    value), a tick below."""
    labels = [look.label for look, *_ in items][::-1]
    panel = Panel(title, "", title=title, x_log=False, y_log=False, categories=labels)
    known, ends = [], []
    for row, (look, value, trend) in enumerate(reversed(items)):
        if value is not None:
            text = f"{title} = {interval_text(value, 3)}" + (" (a trend)" if trend else "")
            bar: Any = {"low": [value.low], "high": [value.high]} if value.bounded else {}
            bar |= {"hollow": trend, "horizontal": True, "size": 9}
            bar["hover"] = f"{look.label}: {text}"
            panel.series.append(Series([value.value], [row], "points", **bar, **look.marks))
            known.append(value.value)
            ends.append(min(value.high, 1.6 * value.value) if value.bounded else value.value)
        tick = quoted[len(items) - 1 - row] if quoted else None
        if tick is not None:
            hover, at = tick
            mark = {"colour": PAPER, "symbol": "line-ns", "marker": "|", "size": 11}
            own = {"group": look.label, "hover": hover}
            panel.series.append(Series([at], [row - 0.28], "points", **own, **mark))
            known.append(at)
    # wide intervals would squash the rest: the axis shows the values, intervals may run off it
    if known:
        top = max(known + ends)
        panel.x_range = (min(0.0, min(known) - 0.1), 1.1 * top if top > 0 else 1.0)
        panel.y_range = (-0.7, len(labels) - 0.4)
    return or_empty(panel, "no fit")
