"""Loss against model size, at equal data."""

from __future__ import annotations

import math

import polars as pl

from ...figures.spec import Figure, Panel, Series
from ...figures.text import pretty
from ...progress import counted
from ..analysis import Analysis
from ..architecture import Architecture
from ..section import Section, illustrated
from ..series import loss_at_data, refused, surface_line


def section(analysis: Analysis) -> Section:
    """The figure."""
    made = figure(analysis)
    return Section("loss_vs_n", made.title, illustrated(made))


def figure(analysis: Analysis) -> Figure:
    """Loss against N at several D, read off between evaluations, with the fitted surface."""
    panels, words = [], analysis.words
    for d in reversed(_levels(analysis)):
        panel = Panel("parameters N", words.loss, title=f"at D = {pretty(d)} {words.data} seen")
        for arch in analysis.architectures:
            panel.series += _series(arch, d)
        if panel.series:
            panels.append(panel)
    return Figure(
        "loss_vs_n",
        "Loss against model size",
        f"Every model here saw the same {words.data}; where the curve still falls, larger models"
        " help, and where it flattens, data or training steps are what is missing.",
        panels or [Panel("parameters N", words.loss, empty="no finished run")],
        "points: mean over seeds, bars: smallest and largest · dashed: fitted surface L(N, D)",
        refused((arch.label, arch.surface) for arch in analysis.architectures),
    )


def _levels(analysis: Analysis) -> list[float]:
    """Up to three values of D, a factor 4 apart from the end backwards, inside the range that all
    architectures measured."""
    if not analysis.fitted:
        return []
    frames = [arch.frame for arch in analysis.fitted]
    high = min(float(frame["d"].max()) for frame in frames)
    low = max(float(_settled(frame, analysis.burn_in_steps)["d"].min()) for frame in frames)
    return [high / 4**k for k in range(3) if high / 4**k >= low] or [high]


def _settled(frame: pl.DataFrame, burn_in_steps: int) -> pl.DataFrame:
    """Evaluations after the burn-in; all of them where none would be left."""
    later = frame.filter((pl.col("step") >= burn_in_steps).fill_null(True))
    return later if len(later) else frame


def _series(arch: Architecture, d: float) -> list[Series]:
    found: dict[int, list[float]] = {}
    for _, rows in arch.frame.group_by(["run"], maintain_order=True):
        value = loss_at_data(rows.sort("d"), d)
        if value is not None:
            found.setdefault(rows["n"][0], []).append(value)
    if not found:
        return []
    ns, out = sorted(found), []
    predicted = surface_line(arch, ns, [d] * len(ns))
    if predicted:
        line = {"hover": f"{arch.label}: fitted surface", "dash": "dash", "width": 2.0}
        out.append(Series(ns, predicted, "line", **line, **arch.look.line))
    means = [math.exp(sum(map(math.log, found[n])) / len(found[n])) for n in ns]
    bars = {"low": [min(found[n]) for n in ns], "high": [max(found[n]) for n in ns]}
    hovers = [f"{arch.label}, {counted(len(found[n]))}" for n in ns]
    kind = "points" if predicted else "both"
    return [*out, Series(ns, means, kind, hover=hovers, **bars, **arch.look.marks)]
