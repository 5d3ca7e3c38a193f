"""The learning-rate sweeps of every architecture, at one size or at several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from ...figures.spec import Figure, Panel, Series, or_empty
from ...figures.text import names, pretty
from ...progress import counted
from ...store import sweep as rule
from ...store.runs import COUNTED
from ..analysis import SWEEP, Analysis
from ..architecture import Architecture
from ..section import Section, csv, entries, illustrated

COLUMNS = entries("architecture", "n", "seed", "lr", "loss", "diverged", "chosen", "run")


@dataclass
class Sweep:
    """The runs of one sweep. points: run, lr, n, seed, status, diverged, left (what it has left of
    the parts of its loss), loss (None where it diverged). used: the rates of the grid,
    at this size where there are several. within: the study takes the smallest rate whose loss is
    within this share of the lowest. several: whether the architecture has sweeps at other sizes
    too."""

    label: str
    points: list[dict[str, Any]]
    used: list[float]
    within: float = 0.0
    several: bool = False

    @property
    def n(self) -> int:
        """Parameters of the swept model."""
        return int(self.points[0]["n"] or 0)

    @property
    def name(self) -> str:
        """The architecture, with N where it has several sweeps."""
        return f"{self.label} at N = {pretty(self.n)}" if self.several else self.label

    @property
    def means(self) -> dict[float, float]:
        """Rate -> mean final loss over seeds, without the rates at which a seed diverged, did not
        end, or has not learned a part of the loss while another has."""
        known = (
            (p["lr"], p["loss"] if p["status"] == "finished" else None, p["left"])
            for p in self.points
        )
        return {lr: mean for lr, mean in rule.mean_losses(known).items() if math.isfinite(mean)}

    @property
    def best(self) -> float | None:
        """The rate of lowest mean loss."""
        return rule.best_rate(self.means)

    @property
    def chosen(self) -> float | None:
        """The rate that the study takes."""
        return rule.best_rate(self.means, self.within)


def sweeps(analysis: Analysis) -> list[Sweep]:
    """The sweeps that the study has, in its order."""
    out = []
    within = tolerance(analysis.source.study)
    rows = analysis.frame.filter((pl.col("kind") == SWEEP) & pl.col("lr").is_not_null())
    for arch in analysis.architectures:
        points = []
        mine = rows.filter(pl.col("architecture") == arch.label)
        for _, run in mine.group_by(["run"], maintain_order=True):
            last = run.sort("d", nulls_last=False).row(-1, named=True)
            failed = last["status"] in ("diverged", "failed")
            loss, left = None if failed else last["loss"], analysis.left.get(last["run"], {})
            points.append(last | {"diverged": failed, "left": left, "loss": loss})
        points.sort(key=lambda point: (point["n"] or 0, point["lr"]))
        ran = analysis.grid.filter(
            (pl.col("architecture") == arch.label) & pl.col("status").is_in(COUNTED)
        )
        sizes = sorted({point["n"] or 0 for point in points})
        for n in sizes:
            here = ran.filter(pl.col("n") == n) if len(sizes) > 1 else ran
            used = here["lr"].drop_nulls().unique().sort().to_list()
            mine = [point for point in points if (point["n"] or 0) == n]
            out.append(Sweep(arch.label, mine, used, within, len(sizes) > 1))
    return out


def tolerance(study: dict[str, Any]) -> float:
    """``learning_rate.sweep.within`` of the study file; 0 where there is none."""
    found: Any = study
    for key in ("study", "learning_rate", "sweep"):
        found = (found.get(key) if isinstance(found, dict) else None) or {}
    return float(found.get("within") or 0.0) if isinstance(found, dict) else 0.0


def section(analysis: Analysis) -> Section:
    """The figure, and every run of the sweeps as a file."""
    found = sweeps(analysis)
    made = figure(analysis, found)
    rows = [
        point | {"architecture": one.label, "chosen": one.chosen == point["lr"]}
        for one in found
        for point in one.points
    ]
    return Section("lr_sweep", made.title, illustrated(made), [csv("lr_sweep", COLUMNS, rows)])


def figure(analysis: Analysis, found: list[Sweep]) -> Figure:
    """Final loss against the learning rate, the chosen one ringed."""
    panel = Panel("learning rate at the base width", "final validation loss")
    for one in found:
        panel.series += _series(analysis.labelled(one.label), one)
    panels = [or_empty(panel, "this study has no learning-rate sweep")]
    if any(one.several for one in found):
        panels.append(_rates(analysis, found))
    return Figure(
        "lr_sweep",
        "Learning-rate sweep",
        "A comparison is only fair when every architecture runs at its own best learning rate: it"
        " is found here on one small size and carried to the others by muP, or on several sizes"
        " where the best rate depends on the size.",
        panels,
        "line: mean over seeds · ringed: chosen · cross: diverged (its height means nothing)",
        [_note(one) for one in found if one.best is not None],
    )


def _rates(analysis: Analysis, found: list[Sweep]) -> Panel:
    """The chosen rates against N, and the rates of the grid."""
    panel = Panel("parameters N", "learning rate")
    for label in dict.fromkeys(one.label for one in found):
        arch = analysis.labelled(label)
        chosen = [(one.n, one.chosen) for one in found if one.label == label and one.chosen]
        if chosen:
            hovers = [f"{label}: best of the sweep at N = {n:,}: {lr:g}" for n, lr in chosen]
            ns, rates = zip(*chosen)
            panel.series.append(
                Series(list(ns), list(rates), "both", hover=hovers, **arch.look.marks)
            )
        ran = analysis.grid.filter(
            (pl.col("architecture") == label) & pl.col("status").is_in(COUNTED)
        )
        pairs = sorted(set(ran.select("n", "lr").drop_nulls().rows()))
        if pairs:
            ring = {"symbol": "circle-open", "marker": "o", "hollow": True, "size": 13}
            hovers = [f"{label}: runs of N = {n:,} at {lr:g}" for n, lr in pairs]
            ns, rates = zip(*pairs)
            series = Series(list(ns), list(rates), "points", hover=hovers, **ring, **arch.look.line)
            panel.series.append(series)
    return panel


def _series(arch: Architecture, found: Sweep) -> list[Series]:
    out = []
    losses: dict[float, list[float]] = {}
    for point in found.points:
        if point["loss"]:
            losses.setdefault(point["lr"], []).append(point["loss"])
    rates = sorted(losses)
    means = {lr: sum(losses[lr]) / len(losses[lr]) for lr in rates}
    if rates:
        hovers = [f"{found.name}, lr = {lr:g}, {counted(len(losses[lr]))}" for lr in rates]
        out.append(Series(rates, list(means.values()), "both", hover=hovers, **arch.look.marks))
    own = arch.look.line
    if found.chosen in means:
        hover = f"{found.name}: chosen by the sweep, lr = {found.chosen:g}"
        ring = {"symbol": "circle-open", "marker": "o", "hollow": True, "size": 17}
        xs, ys = [found.chosen], [means[found.chosen]]
        out.append(Series(xs, ys, "points", hover=hover, **ring, **own))
    bad = sorted({point["lr"] for point in found.points if point["diverged"]})
    if bad:
        height = [max(means.values(), default=1.0) * 1.06] * len(bad)
        hovers = [f"{found.name}: diverged at lr = {lr:g}" for lr in bad]
        cross = {"symbol": "x-thin", "marker": "x", "size": 9}
        out.append(Series(bad, height, "points", hover=hovers, **cross, **own))
    return out


def _note(found: Sweep) -> str:
    rates = sorted({point["lr"] for point in found.points})
    text = f"{found.name}: lowest loss at learning rate {found.best:g}"
    if found.chosen != found.best:
        text += f", {found.chosen:g} within {100 * found.within:g}% of it"
    if found.used:
        text += f"; the grid ran at {', '.join(f'{lr:g}' for lr in found.used[:4])}"
    if len(rates) > 1 and found.best == rates[0]:
        text += " (the smallest tried: the true optimum may lie lower)"
    elif len(rates) > 1 and found.best == rates[-1]:
        text += " (the largest tried: the true optimum may lie higher)"
    return text


def short_sweeps(analysis: Analysis, found: list[Sweep]) -> list[str]:
    """Sweeps of runs that are much shorter than those that took their rate."""
    swept: dict[str, float] = {}
    for one in found:
        seen = [point["d"] for point in one.points if point["loss"] and point["d"]]
        swept[one.label] = max([swept.get(one.label, 0.0), *seen])
    times = {}
    for label, d in swept.items():
        ran = analysis.grid.filter(pl.col("architecture") == label)["d"].max()
        if d and isinstance(ran, (int, float)) and ran / d >= rule.TIMES_LONGER:
            times[label] = ran / d
    if not times:
        return []
    low, high = (f"{f(times.values()):.0f}" for f in (min, max))
    return [
        f"The runs of {names(list(times))} see {low if low == high else f'{low} to {high}'} times"
        " the atoms of the swept ones. The best learning rate falls with the length of a run: one"
        " that is too high in the end bends a law in D as a floor does."
    ]


def end_of_sweep(found: list[Sweep]) -> list[str]:
    """Sweeps whose best learning rate is the largest or the smallest of those that trained: a
    better one may lie beyond."""
    gains: dict[str, float] = {}
    for one in found:
        losses = one.means
        rates = sorted(losses)
        if one.best is None or len(rates) < 2 or one.best not in (rates[0], rates[-1]):
            continue
        if one.best == rates[-1] and any(point["lr"] > rates[-1] for point in one.points):
            continue  # what lies beyond was tried and diverged
        next_best = losses[rates[1] if one.best == rates[0] else rates[-2]]
        gains[one.name] = 1 - losses[one.best] / next_best
    if not gains:
        return []
    low, high = (100 * f(gains.values()) for f in (min, max))
    gained = f"{low:.0f}%" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f}%"
    return [
        f"The best learning rate of {names(list(gains))} is at the end of the sweep, where the last"
        f" step still gained {gained} of the loss: a better one may lie beyond."
    ]
