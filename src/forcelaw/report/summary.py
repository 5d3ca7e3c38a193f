"""The summary in plain language: what the study shows, what its scale can carry, and what it
cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ..figures.text import interval_text, names, pretty
from ..laws.compare.ratios import TOO_FEW
from ..progress import counted, duration
from .analysis import Analysis
from .architecture import Architecture
from .load import UNNAMED
from .section import by_reason
from .sections import certificates
from .sections.data import regime_notes
from .sections.frontier import equal_compute
from .sections.problems import outlying_words, risen_words, timing_words, unlearned_words
from .sections.ratios import slope_words
from .sections.sweep import end_of_sweep, short_sweeps, sweeps


def tiles(analysis: Analysis) -> list[tuple[str, str]]:
    """(number, what it is) for the top of the page."""
    fitted = analysis.fitted
    runs = sum(arch.runs for arch in fitted)
    stopped = analysis.counts.get("stopped")
    counted = "runs, some of them stopped early" if stopped else "finished runs"
    out = [(str(runs), counted), (str(len(fitted)), "architecture" + "s" * (len(fitted) != 1))]
    if sizes := sorted({n for arch in fitted for n in arch.sizes}):
        ends = [pretty(sizes[0]), pretty(sizes[-1])]
        most = max(float(arch.frame["d"].max()) for arch in fitted)
        out.append((" – ".join(dict.fromkeys(ends)), "parameters N"))
        out.append((pretty(most), f"{analysis.words.data} seen, at most (D)"))
    if compute := [point["x"] for arch in fitted for point in arch.frontier_c.points]:
        decades = math.log10(max(compute) / min(compute))
        out.append((f"{decades:.1f}", "decades of FLOPs on the frontiers"))
    if hours := [arch.hours for arch in fitted if arch.hours]:
        out.append((duration(3600 * sum(hours)), "of training on " + _devices(analysis)))
    return out


def _devices(analysis: Analysis) -> str:
    devices = analysis.source.frame["device"].drop_nulls().unique().sort().to_list()
    return ", ".join([name for name in devices if name][:3]) or "the devices"


def headline(analysis: Analysis) -> str:
    """The one sentence that matters most."""
    fitted = analysis.fitted
    if not fitted:
        return _nothing_finished(analysis)
    if len(fitted) == 1:
        best = float(fitted[0].frame["loss"].min())
        if fitted[0].label == UNNAMED:
            return (
                f"The lowest loss is {best:.3g}. No column says which architecture a run has, so"
                " all are taken as one."
            )
        return (
            f"Only {fitted[0].label} was trained; its best validation loss is {best:.3g}. A"
            " comparison needs a second architecture."
        )
    levels = equal_compute(analysis)
    if not levels:
        none = "No compute budget is covered by every architecture"
        none = none if analysis.has_compute else "The table has no compute of its runs"
        text = f"{none}, so they are not ranked at equal compute here"
        if any(one.costs.get("c") is not None for one in analysis.comparison.ratios):
            return text + "; pairs that share one are compared below."
        return text + "; losses at equal N and D are below."
    order = _ranked(levels[-1]["losses"])
    (best, low), (worst, high) = order[0], order[-1]
    text = (
        f"At {pretty(levels[-1]['x'])} FLOPs, the largest budget that every architecture reached,"
        f" {best} has the lowest loss: {low:.3g}, against {high:.3g} for {worst}"
        f" ({high / low:.{1 if high > 2 * low else 2}f} times as high)."
    )
    if hours := equal_compute(analysis, "frontier_h"):
        first = _ranked(hours[-1]["losses"])[0][0]
        who = "it is also" if first == best else f"{first} is"
        text += f" At equal training time, {who} the best."
    return text


def _ranked(losses: dict[str, float | None]) -> list[tuple[str, float]]:
    known = [(label, loss) for label, loss in losses.items() if loss is not None]
    return sorted(known, key=lambda pair: pair[1])


def _nothing_finished(analysis: Analysis) -> str:
    left, bad = analysis.counts.get("unfinished", 0), len(analysis.problems)
    text = "No run has finished yet, so there is nothing to fit."
    if left or bad:
        text += f" Listed below: {counted(left)} under way or waiting, {bad:,} failed or diverged."
    return text + " Let `forcelaw run` finish some runs, then make the report again."


def findings(analysis: Analysis) -> list[str]:
    """What the numbers can carry: ratios of losses, exponents by verdict, differences, the order of
    the paper."""
    out = [*ratio_words(analysis), *exponent_words(analysis)]
    return [*out, *(text for text in (difference_words(analysis), paper_words(analysis)) if text)]


def ratio_words(analysis: Analysis) -> list[str]:
    """How losses compare with those of the first architecture at equal N and D, without a law."""
    found = analysis.comparison.ratios
    own = [one for one in found if one.first == found[0].first and one.verdict != TOO_FEW]
    if not own:
        return []
    listed = names([f"{one.second} {pretty(one.factor, 2)} ({slope_words(one)})" for one in own])
    text = f"Loss at equal N and D in units of {own[0].first}'s, and extra slopes: {listed}."
    return [text]


def exponent_words(analysis: Analysis) -> list[str]:
    """What may be said about the exponents, the architectures grouped by verdict."""
    out = []
    groups: dict[str, list[Architecture]] = {"holds": [], "trend": [], "none": []}
    for arch in analysis.architectures:
        groups[arch.verdict].append(arch)
    if groups["holds"]:
        listed = names([_gamma_words(arch) for arch in groups["holds"]])
        out.append(f"Exponents of compute that pass every check: {listed}.")
    if groups["trend"]:
        listed = names([_gamma_words(arch) for arch in groups["trend"]])
        out.append(
            f"A trend, not an exponent: {listed}. These numbers describe the range that was"
            f" measured and should not be used beyond it{_failed_checks(groups['trend'])}."
        )
    sound = [arch for arch in groups["trend"] if arch.surface.ok and not arch.surface.trend]
    if sound:
        listed = names([_surface_words(arch) for arch in sound])
        out.append(f"Only the frontier fails; the surface L(N, D) passes its checks: {listed}.")
    refused = by_reason(
        (arch.label, arch.surface.reason or arch.frontier_c.reason) for arch in groups["none"]
    )
    return out + [f"{labels} cannot carry a fit: {reason}" for labels, reason in refused]


def _failed_checks(archs: Sequence[Architecture]) -> str:
    """Names of the checks that fail, each with its architectures."""
    failed: dict[str, list[str]] = {}
    for arch in archs:
        for check in arch.failed:
            failed.setdefault(check.name, []).append(arch.label)
    each = [
        f"{name} ({'all' if len(labels) == len(archs) > 1 else ', '.join(labels)})"
        for name, labels in failed.items()
    ]
    return f"; checks that fail: {'; '.join(each)}" if each else ""


def _surface_words(arch: Architecture) -> str:
    alpha, beta = arch.surface.get("alpha"), arch.surface.get("beta")
    if alpha is None or beta is None:
        return arch.label
    return f"{arch.label} α = {alpha.value:.2f}, β = {beta.value:.2f}"


def _gamma_words(arch: Architecture) -> str:
    gamma = arch.frontier_c.get("gamma")
    if gamma is None:
        return f"{arch.label} (no frontier: {arch.frontier_c.reason})"
    return f"{arch.label} γ = {interval_text(gamma, 2)}"


def paper_words(analysis: Analysis) -> str:
    """Does the order of the exponents follow the paper's?"""
    found = [
        (arch.label, arch.paper.gamma_c, gamma)
        for arch in analysis.architectures
        if arch.paper is not None and (gamma := arch.frontier_c.get("gamma")) is not None
    ]
    if len(found) < 2:
        return ""
    ours = [label for label, *_ in sorted(found, key=lambda one: one[2].value)]
    theirs = [label for label, *_ in sorted(found, key=lambda one: one[1])]
    order = "in the same order" if ours == theirs else f"as {', '.join(ours)}"
    ranked = sorted((gamma for *_, gamma in found), key=lambda gamma: gamma.value)
    pairs = [(a, b) for a, b in pairwise(ranked) if a.bounded and b.bounded]
    overlap = any(a.high > b.low for a, b in pairs)  # type: ignore[operator]
    return (
        f"The paper orders these by rising compute exponent: {', '.join(theirs)}. Here the point"
        f" estimates come {order}" + (", but neighbouring intervals overlap." if overlap else ".")
    )


def difference_words(analysis: Analysis) -> str:
    """Which exponents surely differ, in one sentence."""
    tested = [pair for pair in analysis.comparison.pairs if "gamma" in pair.tests]
    if not tested:
        return ""
    unsure = [pair for pair in tested if not pair.tests["gamma"].sure]
    differ = len(tested) - len(unsure)
    text = (
        f"Tested pair by pair, the compute exponents (from the surfaces) differ in {differ} of"
        f" {len(tested)} pairs"
    )
    if differ and unsure:
        listed = "; ".join(f"{pair.second} and {pair.first}" for pair in unsure[:4])
        text += f"; no difference is shown between {listed}" + (" ..." if len(unsure) > 4 else "")
    return text + "."


def limits(analysis: Analysis) -> list[str]:
    """What the numbers cannot carry: scale, burn-in, seeds, regime, what was left out."""
    fitted = analysis.fitted
    out = _scale(analysis)
    if analysis.burn_in_steps:
        out.append(
            f"Evaluations before step {analysis.burn_in_steps} are left out of every fit: models"
            " are still in their transient there. The effect of that choice is tabulated below."
        )
    if single := [arch.label for arch in fitted if arch.seeds < 2]:
        out.append(
            f"One seed only for {names(single)}: noise between runs cannot be separated from lack"
            " of fit."
        )
    if few := [arch.label for arch in fitted if arch.runs < 8]:
        out.append(
            f"Fewer than 8 runs for {names(few)}: intervals rest on very few independent trainings."
        )
    out += regime_notes(analysis)
    out += _protocols(analysis)
    out += _kinds_of_forces(analysis)
    out += certificates.limits(analysis)
    found = sweeps(analysis)
    out += [*end_of_sweep(found), *short_sweeps(analysis, found)]
    if analysis.problems:
        out.append(
            f"{counted(len(analysis.problems))} diverged or failed: listed below, and no part of"
            " the fits."
        )
    out += risen_words(analysis)
    out += outlying_words(analysis)
    out += unlearned_words(analysis)
    out += timing_words(analysis)
    if stopped := analysis.counts.get("stopped", 0):
        out.append(
            f"{counted(stopped)} stopped before the planned length: each counts as the shorter run"
            " that it is."
        )
    if (unfinished := analysis.counts.get("unfinished", 0)) and fitted:
        out.append(
            f"{counted(unfinished)} not finished: drawn as dotted lines, left out of the fits."
        )
    return out


def _protocols(analysis: Analysis) -> list[str]:
    """Architectures that were not trained by schedule-free AdamW at a constant rate."""
    by_words: dict[str, list[str]] = {}
    for arch in analysis.architectures:
        named = arch.frame.select("optimizer", "decay").unique().drop_nulls("decay").rows()
        named = named or arch.frame.select("optimizer", "decay").unique().rows()
        for optimizer, decay in sorted(named, key=str):
            if optimizer or decay:
                words = str(optimizer or "schedule-free AdamW")
                if decay:
                    words += f", the learning rate falling over the last {100 * decay:g}% of a run"
                by_words.setdefault(words, []).append(arch.label)
    return [
        f"{names(labels)}: not under the protocol of the others, but with {words}. A run whose rate"
        " falls counts with its last evaluation only."
        for words, labels in by_words.items()
    ]


def _kinds_of_forces(analysis: Analysis) -> list[str]:
    """Columns with gradient forces beside columns with direct ones."""
    of = {
        arch.label: set(arch.frame["forces"].drop_nulls().unique().to_list())
        for arch in analysis.architectures
        if "forces" in arch.frame.columns
    }
    gradient = [label for label, kinds in of.items() if kinds == {"conservative"}]
    direct = [label for label, kinds in of.items() if kinds == {"direct"}]
    if not (gradient and direct):
        return []
    return [
        f"Forces of {names(gradient)} are the gradient of the energy, those of {names(direct)} an"
        " output of their own: what differs between them is not the architecture alone."
    ]


def _scale(analysis: Analysis) -> list[str]:
    decades = [arch.frontier_c.decades for arch in analysis.fitted if arch.frontier_c.points]
    if not decades:
        return []
    low, high = min(decades), max(decades)
    span = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
    text = f"Each frontier covers {span} decades of compute"
    hours = sum(arch.hours or 0 for arch in analysis.fitted)
    if hours:
        text += (
            f", {duration(3600 * hours)} of training in all; the paper's runs took up to 30"
            " GPU-hours each"
        )
    return [text + ". Numbers beyond that range are extrapolation."]
