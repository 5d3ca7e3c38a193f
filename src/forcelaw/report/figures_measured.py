"""Figures of what is measured and not fitted: cost, learned symmetry, the learning-rate sweep."""

from __future__ import annotations

import polars as pl

from ..figures.spec import Figure, Panel, Series, pretty
from .paper import PUBLISHED
from .repeated_data import Repeated, repeated_runs
from .results import Analysis, ArchitectureResult, SweepResult
from .series import or_empty

ZERO = 1e-8


def cost(analysis: Analysis) -> Figure:
    """kappa and training speed against N."""
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
                value, text = (
                    PUBLISHED_KAPPA[arch.paper.name],
                    f"{arch.paper.name} in the paper: {arch.paper.kappa}",
                )
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
        "κ counts how much arithmetic each parameter does for each atom: two architectures of equal"
        " κ differ in symmetry alone, and two of unequal κ differ in compute per parameter as well;"
        " the speed on the right is what turns FLOPs into hours.",
        panels,
        "dotted: κ in the paper",
    )


PUBLISHED_KAPPA = {entry.name: entry.kappa for entry in PUBLISHED.values()}


def symmetry(analysis: Analysis) -> Figure:
    """Relative force error under rotation and inversion of every trained model."""
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
        "Turn a molecule and the forces should turn with it: architectures that have the symmetry"
        " built in are wrong by rounding alone (about 1e-6), the others must learn it, and the"
        " figure shows how far they came.",
        panels,
        "one mark for each trained model; an error of exactly zero is drawn at 1e-8",
    )


def _symmetry_series(panel: Panel, analysis: Analysis, x: str, kind: str) -> None:
    for arch in analysis.architectures:
        points = [
            p
            for p in analysis.symmetry
            if p.label == arch.label and getattr(p, kind) is not None and getattr(p, x) > 0
        ]
        if not points:
            continue
        values = [max(getattr(p, kind), ZERO) for p in points]  # a log axis has no zero
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


def repeats(analysis: Analysis) -> Figure:
    """What seeing the same atoms again costs, and what it is worth, beside the runs of equal N on
    the largest set."""
    seen = "times each atom was seen, D / U"
    cost = Panel(seen, "loss / loss on the largest training set", y_log=False)
    value = Panel(seen, "worth so many passes of new data")
    notes, most = [], 1.0
    for arch in analysis.architectures:
        marks = {"symbol": arch.look.symbol, "marker": arch.look.marker, "colour": arch.look.colour}
        ends: list[tuple[Repeated, str]] = []
        for last, course in repeated_runs(arch):
            passes = [point.passes for point in course]
            line = {"kind": "line", "group": arch.label, "colour": arch.look.colour, "opacity": 0.4}
            cost.series.append(Series(passes, [point.ratio for point in course], **line))
            value.series.append(Series(passes, [point.worth for point in course], **line))
            ends.append(
                (
                    course[-1],
                    (
                        f"{arch.label}, N = {pretty(last['n'])}, U = {pretty(last['u'])}, run"
                        f" {last['run']}"
                    ),
                )
            )
        if ends:
            xs, hovers = [end.passes for end, _ in ends], [hover for _, hover in ends]
            most = max(most, *xs)
            points = {"kind": "points", "group": arch.label, "hover": hovers, **marks}
            cost.series.append(
                Series(xs, [end.ratio for end, _ in ends], name=arch.label, **points)
            )
            value.series.append(Series(xs, [end.worth for end, _ in ends], **points))
        if arch.repeats is not None:
            notes.append(_repeats_note(arch))
    if value.series:
        value.series.append(
            Series(
                [1.0, most], [1.0, most], "line", width=1.0, dash="dot", hover="as good as new data"
            )
        )
    return Figure(
        "repeats",
        "What repeats cost",
        "Some runs went over a smaller training set several times: a ratio of one means that an"
        " atom seen again was as good as a new one, and above it that distinct data have run out.",
        [
            or_empty(panel, "no pair of runs of equal size and length on two training sets")
            for panel in (cost, value)
        ],
        "line: a run on a smaller training set, from its second pass on · mark: its end · right:"
        " passes of new data after which the same model had that loss; dotted: as good as new · R_D"
        " is fitted to all runs, the other laws without these",
        notes,
    )


def _repeats_note(arch: ArchitectureResult) -> str:
    """How often data can be seen again with use."""
    label, fitted = arch.label, arch.repeats
    found, rho = fitted.get("R_D"), fitted.get("rho")
    if not fitted.ok:
        return f"{label}: R_D, how often repeating helps, cannot be fitted: {fitted.reason}"
    if found is None or not found.bounded:
        return (
            f"{label}: repeats hardly cost anything here, so R_D (how often repeating helps) is not"
            " bounded"
        )
    words = (
        f"{label}: R_D = {pretty(found.value)} [{pretty(found.low)}, {pretty(found.high)}]: after"
        " so many repeats one more pass is worth 1/e of as many fresh data"
    )
    if rho is None:
        return words
    small, large = (pretty(fitted.get(f"R_D_{end}").value) for end in ("smallest", "largest"))
    return (
        f"{words}; so for a model in the middle of the sizes, and sooner for larger ones, as"
        f" N^-{pretty(rho.value)} [{pretty(rho.low)}, {pretty(rho.high)}]: {small} at N ="
        f" {pretty(arch.sizes[0])}, {large} at {pretty(arch.sizes[-1])}"
    )


def sweep(analysis: Analysis) -> Figure:
    """Final loss against the learning rate, the chosen one ringed."""
    panel = Panel("learning rate at the base width", "final validation loss")
    notes = []
    for arch in analysis.architectures:
        result = next((s for s in analysis.sweeps if s.label == arch.label), None)
        if result is not None:
            panel.series += _sweep_series(arch, result)
            if result.best is not None:
                notes.append(_sweep_note(result))
    return Figure(
        "lr_sweep",
        "Learning-rate sweep",
        "A law is only fair when every architecture runs at its own best learning rate: it is found"
        " here on one small size and carried to the others by muP.",
        [or_empty(panel, "this study has no learning-rate sweep")],
        "line: mean over seeds · ringed: chosen · cross: diverged (its height means nothing)",
        notes,
    )


def _sweep_series(arch: ArchitectureResult, result: SweepResult) -> list[Series]:
    look, out = arch.look, []
    common = {"group": arch.label, "colour": look.colour}
    losses: dict[float, list[float]] = {}
    for point in result.points:
        if point["loss"]:
            losses.setdefault(point["lr"], []).append(point["loss"])
    rates = sorted(losses)
    means = {lr: sum(losses[lr]) / len(losses[lr]) for lr in rates}
    if rates:
        hover = [f"{arch.label}, lr = {lr:g}, {len(losses[lr])} run(s)" for lr in rates]
        marks = {"symbol": look.symbol, "marker": look.marker}
        ys = [means[lr] for lr in rates]
        out.append(Series(rates, ys, "both", name=arch.label, hover=hover, **marks, **common))
    if result.chosen in means:
        hover = f"{arch.label}: chosen by the sweep, lr = {result.chosen:g}"
        ring = {"symbol": "circle-open", "marker": "o", "hollow": True, "size": 17}
        out.append(
            Series(
                [result.chosen],
                [means[result.chosen]],
                "points",
                name=hover,
                hover=hover,
                **ring,
                **common,
            )
        )
    bad = sorted({point["lr"] for point in result.points if point["diverged"]})
    if bad:
        height = [max(means.values(), default=1.0) * 1.06] * len(bad)
        hover = [f"{arch.label}: diverged at lr = {lr:g}" for lr in bad]
        cross = {"symbol": "x-thin", "marker": "x", "size": 9}
        out.append(
            Series(
                bad, height, "points", name=f"{arch.label} diverged", hover=hover, **cross, **common
            )
        )
    return out


def _sweep_note(result: SweepResult) -> str:
    rates = sorted({point["lr"] for point in result.points})
    text = f"{result.label}: lowest loss at learning rate {result.best:g}"
    if result.chosen != result.best:
        text += f", {result.chosen:g} within {100 * result.within:g}% of it"
    if result.used:
        text += f"; the grid ran at {', '.join(f'{lr:g}' for lr in result.used[:4])}"
    if len(rates) > 1 and result.best == rates[0]:
        text += " (the smallest tried: the true optimum may lie lower)"
    elif len(rates) > 1 and result.best == rates[-1]:
        text += " (the largest tried: the true optimum may lie higher)"
    return text
