"""What else changes along a column: depth, learning rate, atoms a step. Where one of them goes with
N or D its effect is part of the exponent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..compare.slopes import Slope
from ..fit.problem import level_of
from ..fit.result import FitResult
from ..forms.stepped import along
from .check import Check, judge
from .score import effect, jacobian_of, residual_of

MANY = 8  # values beyond which a factor is no factor
SAME_RATE = 0.01  # learning rates and batches closer than this, in ln, are one
ROUNDED = 0.03  # in ln, what rates rounded to two digits may be off the power law that made them


def factors(
    runs: Runs, result: FitResult, names: Sequence[str] | None, level: float = 0.95
) -> list[Check]:
    """Each column of ``names`` as a factor (default: depth, where the table has it): does the loss
    step where the factor changes? FitError for a column that the table lacks."""
    out = []
    for name in ["depth"] if names is None else names:
        values = runs.labels(name)
        if values is not None:
            out.append(_factor(runs, result, name, values, level))
        elif names is not None:
            raise FitError(
                f"there is no column {name!r} without gaps to take as a factor",
                where="diagnose",
                remedy="name a column of the table",
            )
    return out


def _factor(runs: Runs, result: FitResult, name: str, values: np.ndarray, level: float) -> Check:
    """Each step of a factor, its values ordered by their mean N: runs beyond the step against those
    before it, Bonferroni over the steps."""
    kinds = np.unique(values)
    if len(kinds) == 1:
        return Check(name, True, f"one {name} ({kinds[0]})")
    if len(kinds) > MANY:
        return Check(name, None, f"{len(kinds)} values of {name}: no factor")
    order, place = along(values, np.log(runs["n"]) if "n" in runs else None)
    found: dict[int, Slope] = {}
    for k in range(1, len(kinds)):
        slope = effect(runs, result, (place >= k).astype(float), level)
        if slope is not None and slope.p is not None:
            found[k] = slope
    remedy = f"train the column at one {name}, or change {name} alone at two sizes"
    if not found:
        detail = f"{name} changes along N, and its effect cannot be separated from that of N"
        return Check(name, None, detail, remedy)
    worst = min(found, key=lambda k: found[k].p or 0.0)
    moved = _without(runs, result, (place >= worst).astype(float))
    changes = ", ".join(f"{q} {a:.3f} becomes {b:.3f}" for q, (a, b) in moved.items())
    text = (
        f"from {name} {order[worst - 1]} to {order[worst]} the loss steps by"
        f" {np.expm1(found[worst].value):+.1%} beyond the law"
    )
    return judge(
        name,
        min(1.0, float(found[worst].p or 0.0) * len(found)),
        f"{text} ({{p}}); with that step taken out {changes}",
        f"{text} ({{p}})",
        remedy=remedy,
        data={"steps": {f"{order[k]}": slope for k, slope in found.items()}, "exponents": moved},
    )


def _without(runs: Runs, result: FitResult, step: np.ndarray) -> dict[str, tuple[float, float]]:
    """The exponents, and what they become when the law is fitted together with a step [n] of a
    factor (one Gauss-Newton step)."""
    jac = jacobian_of(runs, result)
    both = np.concatenate([jac, step[None]])
    scale = np.maximum(np.abs(both).max(axis=1), 1e-300)
    residual = residual_of(runs, result)
    change = np.linalg.lstsq((both / scale[:, None]).T, residual, rcond=1e-10)[0] / scale
    theta = result.best()
    out = {}
    for name in result.law.shapes:
        i = result.law.names.index(name)
        if name not in result.law.logs:
            out[name] = float(theta[i]), float(theta[i] + change[i])
    return out


def learning_rates(runs: Runs, result: FitResult, level: float = 0.95) -> Check | None:
    """Do runs at other learning rates have other losses than the law of N and D says? None where
    the table has no learning rates."""
    name = "learning rates"
    rates = runs.numbers("lr")
    if rates is None:
        return None
    log = np.log(np.where(rates > 0, rates, np.nan))
    if not np.isfinite(log).all():
        return Check(name, None, "the learning rate of some runs is not known")
    if np.ptp(log) < SAME_RATE:
        return Check(name, True, f"one learning rate ({rates[0]:.3g})")
    span = f"learning rates from {rates.min():.3g} to {rates.max():.3g}"
    remedy = "train the column at one rate, or by one rule that sweeps at several sizes support"
    if powers := _power_law(runs, log):
        detail = f"{span} follow {powers}: what they change cannot be told from a misfit of the law"
        return Check(name, None, detail, "vary the rate alone at two sizes")
    slope = effect(runs, result, log, level)
    if slope is None or slope.p is None:
        detail = f"{span} change with N or D, and their effect cannot be separated from theirs"
        return Check(name, None, detail, remedy)
    change = float(np.expm1(slope.value * np.log(2.0)))
    return judge(
        name,
        slope.p,
        f"{span}: twice the rate has {change:+.1%} of loss beyond the law ({{p}})",
        f"{span}, with no effect beyond the law seen (twice the rate {change:+.1%}, {{p}})",
        remedy=remedy,
        data={"slope": slope},
    )


def _power_law(runs: Runs, log: np.ndarray) -> str:
    """ "N^a D^b" where ln of the rates is a line in ln N and ln D of the ends of runs, as rates by
    a law are; empty otherwise, and where there are so few N and D that any rates would be."""
    last = _last_rows(runs)
    roles = [role for role in ("n", "d") if role in runs and np.ptp(np.log(runs[role][last])) > 0]
    if not roles:
        return ""
    basis = np.stack([np.ones(last.sum()), *(np.log(runs[role][last]) for role in roles)], axis=1)
    found, _, rank, _ = np.linalg.lstsq(basis, log[last], rcond=None)
    levels = len(np.unique(basis[:, 1:].round(6), axis=0))
    if rank < basis.shape[1] or levels <= basis.shape[1]:
        return ""
    if np.abs(basis @ found - log[last]).max() > ROUNDED:
        return ""
    powers = zip(roles, found[1:])
    return " ".join(f"{r.upper()}^{power:.2f}" for r, power in powers if abs(power) >= 0.005)


def sweep_ends(sweep: Runs | None, noise: float) -> Check | None:
    """Is the best learning rate of each sweep inside it? sweep: runs at several rates of one size;
    noise: standard deviation of ln L between runs. Judged by the gain of the last step. None where
    there is no sweep."""
    name = "sweep of learning rates"
    if sweep is None or (rates := sweep.numbers("lr")) is None:
        return None
    last = _last_rows(sweep)
    sizes = level_of(sweep["n"]) if "n" in sweep else np.zeros(len(sweep), int)
    found, checked = [], 0
    for size in np.unique(sizes[last]):
        rows = last & (sizes == size)
        tried = np.unique(rates[rows])
        if len(tried) < 3:
            continue
        checked += 1
        mean = [np.log(sweep["loss"][rows & (rates == lr)]).mean() for lr in tried]
        count = [int((rows & (rates == lr)).sum()) for lr in tried]
        best = int(np.argmin(mean))
        if best in (0, len(tried) - 1):
            inner = 1 if best == 0 else -2
            gain = float(mean[inner] - mean[best])
            error = noise * float(np.sqrt(1 / count[best] + 1 / count[inner]))
            n = float(sweep["n"][rows][0]) if "n" in sweep else float("nan")
            found.append({"n": n, "lr": float(tried[best]), "gain": gain, "se": error})
    if not checked:
        return Check(name, None, "no size has three learning rates", "sweep at two or more sizes")
    if not found:
        return Check(name, True, f"the best rate lies inside {checked} of {checked} sweeps")
    sure = [one for one in found if one["gain"] > 2 * one["se"]]
    text = "; ".join(
        f"at N = {one['n']:.3g} the best is the last tried ({one['lr']:.3g}), {one['gain']:.1%}"
        " better than the next"
        for one in sure or found
    )
    remedy = "extend the sweep by two steps of two, at the run's own length"
    return Check(name, False if sure else None, text, remedy, data={"sweeps": found})


def _last_rows(runs: Runs) -> np.ndarray:
    """The last evaluation of each run."""
    clock = runs["d"] if "d" in runs else np.arange(len(runs), dtype=float)
    end = np.full(len(runs.run_names), -np.inf)
    np.maximum.at(end, runs.run, clock)
    return clock == end[runs.run]


def batches(runs: Runs, result: FitResult, level: float = 0.95) -> Check | None:
    """Are data and steps one axis? D is steps times atoms a step: where these never change, an
    exponent in D is one of steps too. None where the table has no steps."""
    name = "batch size"
    if "d" not in runs or "step" not in runs or (runs["step"] <= 0).any():
        return None
    per_step = np.log(runs["d"] / runs["step"])
    last = _last_rows(runs)
    ends = per_step[last]
    if np.ptp(ends) < 0.1:
        return Check(
            name,
            None,
            f"every run takes {np.exp(ends.mean()):.3g} data a step: steps and data are one axis,"
            " and an exponent in D may be one of steps",
            "train two sizes at half and at twice the batch",
        )
    own = np.zeros(len(runs.run_names))
    own[runs.run[last]] = ends
    slope = effect(runs, result, own[runs.run], level)
    if slope is None or slope.p is None:
        return Check(
            name,
            None,
            "the batch changes with N or D, and its effect cannot be separated from theirs",
            "train two sizes at two batches each",
        )
    change = float(np.expm1(slope.value * np.log(2.0)))
    return judge(
        name,
        slope.p,
        f"at equal N and D twice the batch has {change:+.1%} of loss ({{p}}): steps count, not data"
        " only",
        f"twice the batch has {change:+.1%} of loss at equal N and D ({{p}})",
        remedy="compare runs of one batch size, or small enough batches",
        data={"slope": slope},
    )
