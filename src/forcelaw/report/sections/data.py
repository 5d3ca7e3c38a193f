"""Loss against data, and what limits the loss: size, steps or data."""

from __future__ import annotations

import numpy as np
import polars as pl

from ...figures.spec import Figure, Panel, Series
from ...figures.style import GREY
from ...figures.text import pretty
from ...laws.fit.result import FitResult
from ...progress import counted
from ..analysis import Analysis
from ..architecture import Architecture
from ..outcome import Outcome
from ..section import Heading, Notes, Section, illustrated
from ..series import run_series, share_range, surface_line


def section(analysis: Analysis) -> Section:
    """The figure, and a sentence for each architecture."""
    made = figure(analysis)
    parts = illustrated(made)
    limits = [
        (arch.label, regime(arch.frame, arch.surface, analysis.words.data))
        for arch in analysis.architectures
    ]
    limits = [(label, text) for label, text in limits if text]
    if limits:
        notes = [("", text) for text in regime_notes(analysis)]
        parts += [Heading("What limits the loss"), Notes([*limits, *notes])]
    return Section("loss_vs_d", made.title, parts)


def figure(analysis: Analysis) -> Figure:
    """Loss against D, one panel for each architecture, one line for each run."""
    panels, words = [], analysis.words
    axes = f"{words.data} seen D", words.loss
    for arch in analysis.architectures:
        panel = Panel(*axes, title=arch.label)
        sizes = sorted(set(arch.frame["n"].to_list()) | set(arch.unfinished["n"].to_list()))
        panel.series = run_series(arch, "d", "loss", opacity=1.0)
        for series in panel.series:  # shade by size: the larger the model, the stronger the line
            rank = [i for i, n in enumerate(sizes) if f"N = {pretty(n)}" in series.hover]
            series.opacity = 0.3 + 0.7 * (rank[0] + 1) / len(sizes) if rank else 1.0
        panel.series += _surface_lines(arch, analysis.burn_in_steps)
        if panel.series:
            panels.append(panel)
    share_range(panels)
    return Figure(
        "loss_vs_d",
        "Loss against data",
        "Each line is one training run from its first steps to its end, stronger for larger models;"
        " straight and parallel means a power law in data, and a line that bends off early has run"
        " out of parameters.",
        panels or [Panel(*axes, empty="no run has been evaluated")],
        "lines: runs, strong: large N · dotted: fitted surface L(N, D) after burn-in",
    )


def _surface_lines(arch: Architecture, burn_in_steps: int) -> list[Series]:
    out = []
    later = arch.frame.filter((pl.col("step") >= burn_in_steps).fill_null(True))
    for n in arch.sizes:
        ds = later.filter(pl.col("n") == n)["d"]
        if not len(ds):
            continue
        grid = np.geomspace(float(ds.min()), float(ds.max()), 12).tolist()
        line = surface_line(arch, [n] * 12, grid)
        if line:
            own = {"hover": f"surface at N = {pretty(n)}", "group": arch.label, "colour": GREY}
            out.append(Series(grid, line, "line", dash="dot", width=1.4, **own))
    return out


def regime(frame: pl.DataFrame, surface: Outcome[FitResult], data: str) -> str:
    """What limits the loss: size, or steps and data."""
    terms = [surface.get(name) for name in ("alpha", "beta", "A", "B")]
    known = [term.value for term in terms if term is not None]
    if not len(frame) or len(known) < len(terms):
        return ""
    alpha, beta, big_a, big_b = known
    d_max, sizes = float(frame["d"].max()), sorted(frame["n"].unique().to_list())

    def share(n: float) -> float:
        by_size, by_data = big_a * n**-alpha, big_b * d_max**-beta
        return by_size / (by_size + by_data) if by_size + by_data > 0 else 0.5

    small, large = share(sizes[0]), share(sizes[-1])
    if small > 0.5 > large:
        limit = "the small ones are limited by size, the large ones by steps or data."
    elif large >= 0.5:
        limit = "size limits the whole ladder."
    else:
        limit = "steps or data limit the whole ladder, larger models would gain little."
    return (
        f"At {pretty(d_max)} {data} the size of the model accounts for {100 * small:.0f}% of the"
        f" reducible loss of the smallest model and {100 * large:.0f}% of the largest: {limit}"
    )


def regime_notes(analysis: Analysis) -> list[str]:
    """What is known about steps against data."""
    frames, data = [arch.frame for arch in analysis.fitted], analysis.words.data
    out = []
    passes = [ratio.max() for f in frames if len(ratio := (f["d"] / f["u"]).drop_nulls())]
    most = max(map(float, passes), default=1.0)
    if most > 8.5:
        out.append(
            f"{data.capitalize()} are repeated up to {most:.0f} times: distinct data begin to limit"
            " the loss, and β is not an exponent of fresh data."
        )
    elif most > 1.05:
        out.append(
            f"{data.capitalize()} are seen up to {most:.1f} times; where it was measured"
            " (results/ladder_2_repeats) 4 passes cost up to 3% of the loss and 8 up to 7%, more"
            " the better the model."
        )
    left_out = sum(arch.repeated["run"].n_unique() for arch in analysis.architectures)
    if left_out:
        out.append(
            f"{counted(left_out)} repeated a smaller training set, to measure what repeats cost,"
            " and took no part in the other fits."
        )
    batches = sorted({int(b) for f in frames for b in f["batch_atoms"].drop_nulls().to_list()})
    # batches of whole molecules differ by some atoms
    if batches and batches[-1] < 1.1 * batches[0]:
        out.append(
            f"Every run takes about {pretty(batches[0])} {data} a step, so steps and {data} seen"
            " are one axis: β may be an exponent of optimiser steps as much as of data; only runs"
            " with another batch size could tell."
        )
    return out
