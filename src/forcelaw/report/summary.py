"""The summary in plain language: what the study shows, what its scale can carry, and what it
cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..figures.spec import interval_text, names, pretty
from ..progress import duration
from .results import Analysis, ArchitectureResult, FrontierResult, SweepResult, mean_losses

PAPER_DECADES = "about four decades of compute"


def loss_at(result: FrontierResult, x: float) -> float | None:
    """Lowest loss of any run at compute x, log-log along the envelope; None outside of it."""
    points = result.envelope
    if not points or x < points[0][0] * (1 - 1e-9) or x > points[-1][0] * (1 + 1e-9):
        return None
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1 * (1 + 1e-9):
            share = math.log(x / x0) / math.log(x1 / x0)
            return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
    return points[-1][1]


def equal_compute(analysis: Analysis, attribute: str = "frontier_c") -> list[dict[str, Any]]:
    """Loss of every architecture at budgets that all of them cover: {x, losses: {label: loss}},
    small to large."""
    results = {
        arch.label: getattr(arch, attribute)
        for arch in analysis.architectures
        if getattr(arch, attribute).envelope
    }
    if not results:
        return []
    low = max(r.envelope[0][0] for r in results.values())
    high = min(r.envelope[-1][0] for r in results.values())
    if not high > low:
        return []
    count = 2 if math.log10(high / low) < 1 else 3
    xs = [low * (high / low) ** (k / (count - 1)) for k in range(count)]
    return [
        {"x": x, "losses": {label: loss_at(result, x) for label, result in results.items()}}
        for x in xs
    ]


def tiles(analysis: Analysis) -> list[tuple[str, str]]:
    """(number, what it is) for the top of the page."""
    fitted = [arch for arch in analysis.architectures if arch.runs]
    runs = sum(arch.runs for arch in fitted)
    counted = (
        "runs, some of them stopped early" if analysis.counts.get("stopped") else "finished runs"
    )
    out = [(str(runs), counted), (str(len(fitted)), "architecture" + "s" * (len(fitted) != 1))]
    sizes = sorted({n for arch in fitted for n in arch.sizes})
    if sizes:
        out.append((_range(sizes[0], sizes[-1]), "parameters N"))
        out.append(
            (
                pretty(max(float(arch.frame["d"].max()) for arch in fitted)),
                "atoms seen, at most (D)",
            )
        )
    compute = [p["x"] for arch in fitted for p in arch.frontier_c.points]
    if compute:
        out.append(
            (f"{math.log10(max(compute) / min(compute)):.1f}", "decades of FLOPs on the frontiers")
        )
    hours = [arch.hours for arch in fitted if arch.hours]
    if hours:
        out.append((duration(3600 * sum(hours)), "of training on " + _devices(analysis)))
    return out


def _devices(analysis: Analysis) -> str:
    names = [
        name
        for name in analysis.source.frame["device"].drop_nulls().unique().sort().to_list()
        if name
    ]
    return ", ".join(names[:3]) if names else "the devices"


def _range(low: float, high: float) -> str:
    return pretty(low) if low == high else f"{pretty(low)} – {pretty(high)}"


def headline(analysis: Analysis) -> str:
    """The one sentence that matters most."""
    fitted = [arch for arch in analysis.architectures if arch.runs]
    if not fitted:
        left = sum(count for status, count in analysis.counts.items() if status == "unfinished")
        bad = len(analysis.problems)
        text = "No run has finished yet, so there is nothing to fit."
        if left or bad:
            text += (
                f" {left} run(s) are under way or waiting and {bad} failed or diverged; they are"
                " listed below."
            )
        return text + " Let `forcelaw run` finish some runs, then make the report again."
    if len(fitted) == 1:
        arch = fitted[0]
        best = min(float(arch.frame["loss"].min()), math.inf)
        return (
            f"{arch.label} alone was trained; its best validation loss is {best:.3g}. A comparison"
            " needs a second architecture."
        )
    levels = equal_compute(analysis)
    if not levels:
        return (
            "The architectures share no compute budget, so they cannot be ranked at equal compute."
        )
    top = {label: loss for label, loss in levels[-1]["losses"].items() if loss is not None}
    order = sorted(top, key=top.get)
    best, worst = order[0], order[-1]
    text = (
        f"At {pretty(levels[-1]['x'])} FLOPs, the largest budget that every architecture reached,"
        f" {best} has the lowest loss: {top[best]:.3g}, against {top[worst]:.3g} for {worst}"
        f" ({top[worst] / top[best]:.1f} times as high)."
    )
    hours = equal_compute(analysis, "frontier_h")
    if hours:
        by_hours = {label: loss for label, loss in hours[-1]["losses"].items() if loss is not None}
        first = min(by_hours, key=by_hours.get)
        text += (
            f" At equal training time, {'it is also' if first == best else f'{first} is'} the best."
        )
    return text


def exponent_words(analysis: Analysis) -> list[str]:
    """What may be said about the exponents, the architectures grouped by verdict."""
    out = []
    groups: dict[str, list[ArchitectureResult]] = {"holds": [], "trend": [], "none": []}
    for arch in analysis.architectures:
        groups[arch.verdict].append(arch)
    if groups["holds"]:
        listed = [_gamma_words(arch) for arch in groups["holds"]]
        out.append(f"Exponents of compute that pass every check: {names(listed)}.")
    if groups["trend"]:
        listed = [_gamma_words(arch) for arch in groups["trend"]]
        out.append(
            f"A trend, not an exponent: {names(listed)}. These numbers describe the range that was"
            f" measured and should not be carried beyond it{_reasons(groups['trend'])}."
        )
    sound = [arch for arch in groups["trend"] if arch.surface.ok and not arch.surface.trend]
    if sound:
        listed = [_surface_words(arch) for arch in sound]
        out.append(
            f"Only the frontier fails; the surface L(N, D) passes its checks: {names(listed)}."
        )
    refused: dict[str, list[str]] = {}
    for arch in groups["none"]:
        refused.setdefault(arch.surface.reason or arch.frontier_c.fitted.reason, []).append(
            arch.label
        )
    out += [f"{names(labels)} cannot carry a fit: {reason}" for reason, labels in refused.items()]
    return out


def _reasons(archs: list[ArchitectureResult]) -> str:
    """Names of the checks that fail, each with its architectures."""
    failed: dict[str, list[str]] = {}
    for arch in archs:
        for check in arch.checks:
            if check.passed is False:
                failed.setdefault(check.name, []).append(arch.label)
    if not failed:
        return ""
    whose = {
        name: "all" if len(labels) == len(archs) > 1 else ", ".join(labels)
        for name, labels in failed.items()
    }
    return "; checks that fail: " + "; ".join(f"{name} ({who})" for name, who in whose.items())


def _surface_words(arch: ArchitectureResult) -> str:
    alpha, beta = arch.surface.get("alpha"), arch.surface.get("beta")
    if alpha is None or beta is None:
        return arch.label
    return f"{arch.label} α = {alpha.value:.2f}, β = {beta.value:.2f}"


def _gamma_words(arch: ArchitectureResult) -> str:
    gamma = arch.frontier_c.fitted.get("gamma")
    if gamma is None:
        return f"{arch.label} (no frontier: {arch.frontier_c.fitted.reason})"
    return f"{arch.label} γ = {interval_text(gamma, 2)}"


def paper_words(analysis: Analysis) -> str:
    """Does the order of the exponents follow the paper's?"""
    pairs = [
        (arch, arch.frontier_c.fitted.get("gamma"))
        for arch in analysis.architectures
        if arch.paper is not None
    ]
    pairs = [(arch, gamma) for arch, gamma in pairs if gamma is not None]
    if len(pairs) < 2:
        return ""
    ours = [arch.label for arch, gamma in sorted(pairs, key=lambda pair: pair[1].value)]
    theirs = [arch.label for arch, gamma in sorted(pairs, key=lambda pair: pair[0].paper.gamma_c)]
    text = f"The paper orders these by rising compute exponent: {', '.join(theirs)}. "
    if ours == theirs:
        text += "Here the point estimates come in the same order"
    else:
        text += f"Here the point estimates come as {', '.join(ours)}"
    ranked = sorted((gamma for _, gamma in pairs), key=lambda gamma: gamma.value)
    overlap = any(a.bounded and b.bounded and a.high > b.low for a, b in pairwise(ranked))
    return text + (", but neighbouring intervals overlap." if overlap else ".")


def difference_words(analysis: Analysis) -> str:
    """Which exponents surely differ, in one sentence."""
    tested = [one for one in analysis.comparisons if "gamma" in one.tests]
    if not tested:
        return ""
    sure = [one for one in tested if one.tests["gamma"].sure]
    text = (
        f"Tested pair by pair, the compute exponents (from the surfaces) differ in {len(sure)} of"
        f" {len(tested)} pairs"
    )
    unsure = [f"{one.second} and {one.first}" for one in tested if not one.tests["gamma"].sure]
    if sure and unsure:
        text += f"; not told apart: {'; '.join(unsure[:4])}" + (" ..." if len(unsure) > 4 else "")
    return text + "."


def budget_words(analysis: Analysis) -> str:
    """One budget read aloud: which architecture, what size and data, what loss, and how far that is
    from the runs."""
    budgets = sorted({one.flops for one in analysis.prospects})
    if len(budgets) < 2:
        return ""
    there = sorted(
        (one for one in analysis.prospects if one.flops == budgets[1] and one.told),
        key=lambda one: one.loss.value,
    )
    if not there:
        return (
            "These runs cannot tell what a larger budget would buy. Any budget, in FLOPs or hours,"
            " with its interval:"
        )
    best = there[0]
    text = (
        f"For example, {pretty(best.flops, 2)} FLOPs: {best.label} with {pretty(best.n, 2)}"
        f" parameters and {pretty(best.d, 2)} atoms should reach {best.loss.value:.3g}"
    )
    if best.new_run and best.new_run.bounded:
        text += f" (a new run: {best.new_run.low:.3g} to {best.new_run.high:.3g})"
    text += f", {10**best.decades:.2g} times its largest run"
    if len(there) > 1:
        second = there[1]
        close = best.loss.bounded and second.loss.bounded and best.loss.high > second.loss.low
        text += f"; next is {second.label} with {second.loss.value:.3g}" + (
            ", and their intervals overlap" if close else ""
        )
    return text + ". Any other budget, in FLOPs or hours, with limited data or on one device:"


def regime_words(analysis: Analysis) -> list[str]:
    """What is known about steps against data (design.md, protocol 10;
    shared/reference/feasibility.md, 0.4 and 4)."""
    frames = [arch.frame for arch in analysis.architectures if arch.runs]
    out = []
    most = max(
        (float(ratio.max()) for f in frames if len(ratio := (f["d"] / f["u"]).drop_nulls())),
        default=1.0,
    )
    if most > 8.5:
        out.append(
            f"Atoms are repeated up to {most:.0f} times: distinct data begin to bind, and β is not"
            " an exponent of fresh data."
        )
    elif most > 1.05:
        out.append(
            f"Atoms are seen up to {most:.1f} times; up to 8 passes cost at most 5% of the loss"
            " where it was measured (results/data_limited)."
        )
    left_out = sum(arch.repeated["run"].n_unique() for arch in analysis.architectures)
    if left_out:
        out.append(
            f"{left_out} run(s) repeated a smaller training set; they measure repeats and take no"
            " part in the other fits."
        )
    batches = sorted({int(b) for f in frames for b in f["batch_atoms"].drop_nulls().to_list()})
    if (
        batches and batches[-1] < 1.1 * batches[0]
    ):  # batches of whole molecules differ by some atoms
        out.append(
            f"Every run takes about {pretty(batches[0])} atoms a step, so steps and atoms seen are"
            " one axis: β may be an exponent of optimiser steps as much as of data; only runs with"
            " another batch size could tell."
        )
    return out


def risen_words(analysis: Analysis) -> list[str]:
    """Runs that went wrong late and count all the same."""
    if not analysis.risen:
        return []
    most = max(row["last_loss"] / row["lowest_loss"] for row in analysis.risen) - 1
    who = names(list(dict.fromkeys(row["architecture"] for row in analysis.risen)))
    return [
        f"{len(analysis.risen)} run(s) of {who} end above their own lowest loss, by up to"
        f" {100 * most:.0f}%: unstable at their learning rate (a sweep with `within` chooses a"
        " smaller one), or data learnt by heart. They count in every fit; they are listed below."
    ]


def sweep_words(sweeps: Sequence[SweepResult]) -> list[str]:
    """Sweeps whose best learning rate is the largest or the smallest of those that trained: a
    better one may lie beyond."""
    gains: dict[str, float] = {}
    for sweep in sweeps:
        losses = mean_losses(sweep.points)
        rates = sorted(losses)
        if sweep.best is None or len(rates) < 2 or sweep.best not in (rates[0], rates[-1]):
            continue
        if any(point["lr"] > rates[-1] for point in sweep.points) and sweep.best == rates[-1]:
            continue  # what lies beyond was tried and diverged
        next_best = losses[rates[1] if sweep.best == rates[0] else rates[-2]]
        gains[sweep.label] = 1 - losses[sweep.best] / next_best
    if not gains:
        return []
    low, high = (100 * f(gains.values()) for f in (min, max))
    gained = f"{low:.0f}%" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f}%"
    return [
        f"The best learning rate of {names(list(gains))} is at the end of the sweep, where the last"
        f" step still gained {gained} of the loss: a better one may lie beyond."
    ]


def scope_words(analysis: Analysis) -> list[str]:
    """Scale, burn-in, what was left out."""
    fitted = [arch for arch in analysis.architectures if arch.runs]
    out = []
    decades = {arch.label: arch.frontier_c.decades for arch in fitted if arch.frontier_c.points}
    if decades:
        low, high = min(decades.values()), max(decades.values())
        span = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
        text = f"Each frontier covers {span} decades of compute"
        hours = sum(arch.hours or 0 for arch in fitted)
        if hours:
            text += (
                f", {duration(3600 * hours)} of training in all; the paper's runs took up to 30"
                " GPU-hours each"
            )
        out.append(text + ". Numbers beyond that range are extrapolation.")
    out.append(
        f"Evaluations before step {analysis.burn_in_steps} are left out of every fit: models are"
        " still in their transient there. The effect of that choice is tabulated below."
    )
    single = [arch.label for arch in fitted if arch.seeds < 2]
    if single:
        out.append(
            f"One seed only for {names(single)}: run-to-run noise cannot be told from lack of fit."
        )
    few = [arch.label for arch in fitted if arch.runs < 8]
    if few:
        out.append(
            f"Fewer than 8 runs for {names(few)}: intervals rest on very few independent trainings."
        )
    out += regime_words(analysis)
    out += sweep_words(analysis.sweeps)
    if analysis.problems:
        out.append(
            f"{len(analysis.problems)} run(s) diverged or failed; they are listed below and take no"
            " part in the fits."
        )
    out += risen_words(analysis)
    stopped = analysis.counts.get("stopped", 0)
    if stopped:
        out.append(
            f"{stopped} run(s) were stopped before their planned length: they count as the shorter"
            " runs that they are."
        )
    unfinished = analysis.counts.get("unfinished", 0)
    if unfinished and fitted:
        out.append(
            f"{unfinished} run(s) are not finished: drawn as dotted lines, left out of the fits."
        )
    return out
