"""Panels of the laws' results, for the report and for the figures of single commands: each takes
(label, look, result) of every architecture that it shows."""

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
FLOOR_TOP = 4.0  # of the rise of the misfit: further up, a floor is excluded anyway


def floor_rise(profile: Profile) -> tuple[list[float], list[float]]:
    """Floors, and the rise of the misfit when the floor is held there, in units of the rise at the
    ends of the profile's interval."""
    rise = profile.rise
    keep = np.isfinite(rise) & (rise < 2 * FLOOR_TOP)
    return profile.floor[keep].tolist(), rise[keep].tolist()


def floor_profile(items: Iterable[tuple[str, Look, Profile]]) -> Panel:
    """How the misfit rises as the floor is held elsewhere; 1 at the ends of the 95% interval."""
    panel = Panel(
        "floor E of the loss", "misfit (1 = edge of the 95% interval)", x_log=False, y_log=False
    )
    panel.title = "how sure is the floor?"
    ends = []
    for label, look, profile in items:
        floors, rise = floor_rise(profile)
        hover = f"{label}: floor {pretty(profile.low)} to {pretty(profile.high)}"
        line = {"name": label, "group": label, "colour": look.colour, "hover": hover}
        panel.series.append(Series(floors, rise, "line", width=2.0, **line))
        ends.append(profile.high)
    if ends:
        panel.x_range, panel.y_range = (0.0, 1.3 * max(ends)), (0.0, FLOOR_TOP)
        edge = {"name": "95%", "dash": "dot", "hover": "95%"}
        panel.series.append(Series(list(panel.x_range), [1.0, 1.0], "line", **edge))
    return or_empty(panel, "no floor was fitted")


def floor_effect(items: Iterable[tuple[str, Look, Profile, float]]) -> Panel:
    """What the exponent is with the floor at zero, as fitted, and at its largest. items: label,
    look, profile, fitted floor."""
    panel = Panel("floor E of the loss", "exponent αβ/(α+β)", x_log=False, y_log=False)
    panel.title = "what the floor does to γ"
    ends = []
    for label, look, profile, floor in items:
        points = [
            (0.0, profile.gamma_zero),
            (floor, profile.gamma_free),
            (profile.high, profile.gamma_high),
        ]
        known = [point for point in points if math.isfinite(point[1])]
        xs, ys = [x for x, _ in known], [y for _, y in known]
        text = {"name": label, "group": label, "hover": f"{label}: γ at this floor"}
        panel.series.append(Series(xs, ys, "both", size=7, **text, **look.marks))
        ends.append(profile.high)
    if ends:
        panel.x_range = (0.0, 1.3 * max(ends))
    return or_empty(panel, "no floor was fitted")


def local_exponents(items: Iterable[tuple[str, Look, Check | None]]) -> Panel:
    """The slope of the frontier in windows, and that of the fitted law (dashed)."""
    panel = Panel(FLOPS, "local exponent −d ln L / d ln C", y_log=False)
    panel.title = "slope along the frontier"
    for label, look, check in items:
        if check is None or "exponent" not in check.data:
            continue
        data = {
            key: [float(v) for v in check.data[key]]
            for key in ("x", "exponent", "low", "high", "law")
        }
        xs, ys = data["x"], data["exponent"]
        own = {"group": label, "colour": look.colour}
        band = {"low": data["low"], "high": data["high"], "opacity": 0.12}
        panel.series.append(Series(xs, ys, "band", name=label, **band, **own))
        text = {"name": label, "group": label, "hover": f"{label}: local"}
        panel.series.append(Series(xs, ys, "both", **text, **look.marks))
        hover = f"{label}: slope of the fitted law"
        panel.series.append(
            Series(xs, data["law"], "line", name=hover, dash="dash", hover=hover, **own)
        )
    known = [v for s in panel.series if s.kind != "band" for v in s.y if v is not None]
    if known:  # a band of few points may be very wide
        panel.y_range = (min(0.0, min(known)), 1.5 * max(known))
    return or_empty(panel, "too few sizes on the frontier")


def held_out(items: Iterable[tuple[str, Look, Check | None, float | None]]) -> Panel:
    """Losses at budgets that the fit had not seen over those predicted from a tenth of the compute
    (or at the nearest cut there is). items: label, look, check, largest compute."""
    panel = Panel(FLOPS, "measured / predicted loss", y_log=False)
    panel.title = "largest budgets, from a tenth of the compute"
    for label, look, check, largest in items:
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
        hover = f"{label}: a run that the fit had not seen"
        text = {"name": hover, "group": label, "hover": hover}
        xs = [float(v) for v in row["x"]]
        panel.series.append(Series(xs, ratio, "points", low=low, high=high, **text, **look.marks))
    return or_empty(panel, "too few runs to hold any out")


def equal_loss(
    items: Sequence[tuple[str, Look, Multiplier]],
    first: str,
    y_title: str,
    x_title: str,
    *,
    compute: bool,
) -> Panel:
    """Compute at equal loss (compute) or loss at equal compute, in units of ``first``.
    items: label, look, and the multiplier of each against ``first``."""
    panel = Panel(x_title, y_title)
    panel.title = "compute for the same loss" if compute else "loss at the same compute"
    what = "times the compute" if compute else "times the loss"
    for label, look, found in items:
        rows = [
            tuple(row[key] for key in ("at", "value", "low", "high"))
            for row in found.rows("multiplier" if compute else "ratio")
            if row["value"] is not None
        ]
        if not rows:
            continue
        xs, ys, low, high = (list(column) for column in zip(*rows, strict=True))
        text = {"name": f"{label} against {first}", "group": label}
        if None not in (*low, *high):
            band = {"low": low, "high": high, "opacity": 0.15, "colour": look.colour}
            panel.series.append(Series(xs, ys, "band", **band, **text))
        hover = [f"{label}: {pretty(y)} {what}" for y in ys]
        panel.series.append(
            Series(xs, ys, "both", width=2.0, size=5, hover=hover, **text, **look.marks)
        )
    _add_unit(panel, first)
    return or_empty(panel, "fewer than two frontiers to compare")


def _add_unit(panel: Panel, first: str) -> None:
    """The line at one."""
    xs = [x for series in panel.series for x in series.x if x is not None]
    if xs:
        one = {"name": first, "colour": GREY, "dash": "dot", "hover": f"{first} itself"}
        panel.series.append(Series([min(xs), max(xs)], [1.0, 1.0], "line", **one))


def loss_ratios(
    items: Sequence[tuple[str, Look, Ratios]], first: str, x: str, x_title: str
) -> Panel:
    """Ratio of losses against ``first`` without a law: x "d", one line for each size at equal N and
    D; "c" or "h", the frontiers at equal cost with their interval."""
    panel = Panel(x_title, f"loss in units of {first}'s")
    panel.title = {"d": "equal N and D", "c": "equal FLOPs", "h": "equal device-hours"}[x]
    for label, look, found in items:
        own = {"group": label, "colour": look.colour}
        for i, size in enumerate(found.sizes if x == "d" else []):
            text = f"{label} / {first}, N = {pretty(size.n)}"
            strength = 0.3 + 0.7 * (i + 1) / len(found.sizes)
            line = {"opacity": strength, "name": text, "hover": text, **own}
            panel.series.append(Series(size.d.tolist(), size.ratio.tolist(), "line", **line))
        if (cost := found.costs.get(x)) is not None:
            at, ratio = cost.at.tolist(), cost.ratio.tolist()
            band = {"low": cost.low.tolist(), "high": cost.high.tolist(), "opacity": 0.12}
            panel.series.append(Series(at, ratio, "band", name=label, **band, **own))
            hover = [f"{label}: {pretty(y)} times the loss" for y in ratio]
            panel.series.append(
                Series(at, ratio, "line", width=2.0, hover=hover, name=label, **own)
            )
    known = [y for series in panel.series for y in series.y if y]
    if known:  # a band of few sizes may be very wide
        panel.y_range = (min(known) / 1.3, max(1.0, *known) * 1.3)
    _add_unit(panel, first)
    return or_empty(panel, "no two architectures with sizes and a range in common")


def forest(
    title: str,
    items: Sequence[tuple[str, Look, Estimate | None, bool]],
    quoted: Sequence[tuple[str, float] | None] = (),
) -> Panel:
    """One exponent of every architecture with its interval, from the top down. items: label, look,
    estimate, whether it is a trend only (hollow). quoted: a value from elsewhere for each (hover,
    value), a tick below."""
    labels = [label for label, *_ in items][::-1]
    panel = Panel(title, "", title=title, x_log=False, y_log=False, categories=labels)
    known, ends = [], []
    for row, (label, look, value, trend) in enumerate(reversed(items)):
        if value is not None:
            text = f"{label}: {title} = {interval_text(value, 3)}" + (" (a trend)" if trend else "")
            has_ends = value.bounded
            bar: Any = {"low": [value.low], "high": [value.high]} if has_ends else {}
            bar |= {"hollow": trend, "horizontal": True, "size": 9}
            text_of = {"name": text, "group": label, "hover": text}
            panel.series.append(
                Series([value.value], [row], "points", **text_of, **bar, **look.marks)
            )
            known.append(value.value)
            ends.append(min(value.high, 1.6 * value.value) if has_ends else value.value)
        tick = quoted[len(items) - 1 - row] if quoted else None
        if tick is not None:
            mark = {"colour": PAPER, "symbol": "line-ns", "marker": "|", "size": 11}
            own = {"name": "paper", "group": label, "hover": tick[0]}
            panel.series.append(Series([tick[1]], [row - 0.28], "points", **own, **mark))
            known.append(tick[1])
    # wide intervals would squash the rest: the axis shows the values, intervals may run off it
    if known:
        top = max(known + ends)
        panel.x_range = (min(0.0, min(known) - 0.1), 1.1 * top if top > 0 else 1.0)
        panel.y_range = (-0.7, len(labels) - 0.4)
    return or_empty(panel, "no fit")
