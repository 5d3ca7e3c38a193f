"""Figures of what is measured and not fitted: cost, learned symmetry, the learning-rate sweep."""

from __future__ import annotations

import polars as pl

from .marks import or_empty
from .paper import PUBLISHED
from .results import Analysis, SweepResult
from .spec import Figure, Panel, Series, pretty


def cost(analysis: Analysis) -> Figure:
    panels = []
    for column, title, y in (
        ("kappa", "κ = C / (3 N D)", "κ (FLOPs per parameter and atom)"),
        ("throughput", "training speed", "atoms per second"),
    ):
        panel = Panel("parameters N", y, title=title)
        for arch in analysis.architectures:
            ends = (
                arch.frame.filter(pl.col("final") & (pl.col(column) > 0))
                .group_by("n")
                .agg(pl.col(column).median())
                .sort("n")
            )
            if not len(ends):
                continue
            panel.series.append(
                Series(
                    ends["n"].to_list(),
                    ends[column].to_list(),
                    "both",
                    name=arch.label,
                    group=arch.label,
                    colour=arch.look.colour,
                    symbol=arch.look.symbol,
                    marker=arch.look.marker,
                    hover=arch.label,
                )
            )
            if column == "kappa" and arch.paper is not None:
                value, text = PUBLISHED_KAPPA[arch.paper.name], f"{arch.paper.name} in the paper: {arch.paper.kappa}"
                panel.series.append(
                    Series(
                        [ends["n"].min(), ends["n"].max()],
                        [value] * 2,
                        "line",
                        name=text,
                        group=arch.label,
                        colour=arch.look.colour,
                        dash="dot",
                        width=1.0,
                        opacity=0.7,
                        hover=text,
                    )
                )
        panels.append(or_empty(panel, "not in the table"))
    return Figure(
        "cost",
        "What a parameter costs",
        "κ counts how much arithmetic each parameter does for each atom: two architectures of equal κ differ in "
        "symmetry alone, and two of unequal κ differ in compute per parameter as well; the speed on the right is "
        "what turns FLOPs into hours.",
        panels,
        "dotted: κ in the paper",
    )


PUBLISHED_KAPPA = {entry.name: entry.kappa for entry in PUBLISHED.values()}


def symmetry(analysis: Analysis) -> Figure:
    panels = []
    for x, title in (("n", "parameters N"), ("d", "atoms seen D")):
        panel = Panel(title, "relative force error", title=f"rotation, against {x.upper()}")
        _symmetry_series(panel, analysis, x, "rotation")
        panels.append(or_empty(panel, "no trained model was tested"))
    panel = Panel("parameters N", "relative force error", title="inversion, against N")
    _symmetry_series(panel, analysis, "n", "inversion")
    panels.append(or_empty(panel, "no trained model was tested"))
    return Figure(
        "symmetry",
        "How symmetric the trained models are",
        "Turn a molecule and the forces should turn with it: architectures that have the symmetry built in are "
        "wrong by rounding alone (about 1e-6), the others must learn it, and the figure shows how far they came.",
        panels,
        "one mark for each trained model, log scale",
    )


def _symmetry_series(panel: Panel, analysis: Analysis, x: str, kind: str) -> None:
    for arch in analysis.architectures:
        points = [
            p for p in analysis.symmetry if p.label == arch.label and getattr(p, kind) is not None and getattr(p, x) > 0
        ]
        if not points:
            continue
        values = [max(getattr(p, kind), 1e-9) for p in points]  # an error of exactly zero still shows on a log axis
        hover = [f"{arch.label}, N = {pretty(p.n)}, D = {pretty(p.d)}" for p in points]
        panel.series.append(
            Series(
                [getattr(p, x) for p in points],
                values,
                "points",
                name=arch.label,
                group=arch.label,
                colour=arch.look.colour,
                symbol=arch.look.symbol,
                marker=arch.look.marker,
                opacity=0.8,
                hover=hover,
            )
        )


def sweep(analysis: Analysis) -> Figure:
    panel = Panel("learning rate at the base width", "final validation loss", title="sweep before the grid")
    notes = []
    for arch in analysis.architectures:
        result = next((s for s in analysis.sweeps if s.label == arch.label), None)
        if result is None:
            continue
        look = arch.look
        good = [p for p in result.points if p["loss"]]
        top = max((p["loss"] for p in good), default=1.0)
        if good:
            hover = [f"{arch.label}, N = {pretty(p['n'])}, lr = {p['lr']:g}" for p in good]
            panel.series.append(
                Series(
                    [p["lr"] for p in good],
                    [p["loss"] for p in good],
                    "both",
                    name=arch.label,
                    group=arch.label,
                    colour=look.colour,
                    symbol=look.symbol,
                    marker=look.marker,
                    hover=hover,
                )
            )
            best = min(good, key=lambda p: p["loss"])
            if result.best is not None:
                panel.series.append(
                    Series(
                        [best["lr"]],
                        [best["loss"]],
                        "points",
                        name=f"{arch.label} chosen",
                        group=arch.label,
                        colour=look.colour,
                        symbol="circle-open",
                        marker="o",
                        hollow=True,
                        size=17,
                        hover=f"{arch.label}: best of the sweep, lr = {best['lr']:g}",
                    )
                )
                notes.append(_sweep_note(arch.label, result, good))
        bad = [p for p in result.points if p["diverged"]]
        if bad:
            panel.series.append(
                Series(
                    [p["lr"] for p in bad],
                    [top * 1.06] * len(bad),
                    "points",
                    name=f"{arch.label} diverged",
                    group=arch.label,
                    colour=look.colour,
                    symbol="x-thin",
                    marker="x",
                    size=9,
                    hover=[f"{arch.label}: diverged at lr = {p['lr']:g}" for p in bad],
                )
            )
    return Figure(
        "lr_sweep",
        "Learning-rate sweep",
        "A law is only fair when every architecture runs at its own best learning rate: it is found here on one "
        "small size and carried to the others by muP.",
        [or_empty(panel, "this study has no learning-rate sweep")],
        "ringed: chosen · cross: diverged (its height means nothing)",
        notes,
    )


def _sweep_note(label: str, result: SweepResult, good: list[dict]) -> str:
    rates = sorted({p["lr"] for p in result.points})
    text = f"{label}: lowest loss at learning rate {result.best:g}"
    if result.used:
        text += f"; the grid ran at {', '.join(f'{lr:g}' for lr in result.used[:4])}"
    if len(rates) > 1 and result.best == rates[0]:
        text += " (the smallest tried: the true optimum may lie lower)"
    elif len(rates) > 1 and result.best == max(p["lr"] for p in good) and not any(p["diverged"] for p in result.points):
        text += " (the largest tried: the true optimum may lie higher)"
    return text
