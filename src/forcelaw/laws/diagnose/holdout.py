"""Rolling hold-out: fit the small budgets, predict the large ones, and compare with what was
measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import FitResult, spread
from .check import SIGNIFICANT, Check, t_test

CUTS = (3.0, 10.0, 30.0)  # the budgets above c_max / cut are held out
# is the mean off, and, asked apart, are too few inside? The cuts share their runs
EACH = SIGNIFICANT / len(CUTS)
SIMULATIONS = 20_000  # simulated hold-outs behind the probability of so few inside
MOST_HELD = 400  # held-out runs that are simulated; more are thinned evenly


def holdout(
    runs: Runs, result: FitResult, x: str = "c", settings: dict[str, Any] | None = None
) -> Check:
    """For each cut the law is fitted to the checkpoints below it and the last checkpoint of every
    run above it is predicted. The mean log error is judged with the variance of the law (deleted
    runs) and of new runs, and so is the number of runs inside their prediction intervals
    (:func:`few_inside`); a run whose early part was fitted shares its own error with it, which
    makes the judgement a little lenient."""
    name = "held-out budgets"
    clock, _ = clock_of(runs, result, x)
    last = np.zeros(len(runs.run_names))
    np.maximum.at(last, runs.run, clock)
    rows: list[dict[str, Any]] = []
    for cut in CUTS:
        limit = float(clock.max() / cut)
        below = clock <= limit
        above = (clock == last[runs.run]) & ~below
        if below.sum() >= 10 and above.sum() >= 2:
            other = fit(runs.take(below), result.law, interval="jackknife", **(settings or {}))
            rows.append(_predicted(other, limit, runs.take(above), clock[above]))
    judged = [row for row in rows if "p" in row]
    data = {"rows": rows}
    if not judged:
        return Check(
            name,
            None,
            "the budgets span too little to hold out the largest",
            "train over a wider range of budgets",
            None,
            data,
        )
    smallest = min(min(row["p"], row["p_inside"]) for row in judged)
    failed = [reason for row in judged for reason in _failures(row)]
    if failed:
        return Check(
            name,
            False,
            min(failed)[1],
            "the law found below does not hold above: it is not asymptotic yet, or runs "
            "scatter more there; extend the largest budgets and fit those",
            smallest,
            data,
        )
    return Check(name, True, _passed(judged), "", smallest, data)


def clock_of(runs: Runs, result: FitResult, x: str) -> tuple[np.ndarray, str]:
    """What budgets are counted in [n], and its name: the cost x, else N D, else the law's own
    variable."""
    if len(result.law.roles) == 1:
        return runs[result.law.roles[0]], result.law.roles[0]
    if x in runs:
        return runs[x], x
    return runs["n"] * runs["d"], "N D"


def _predicted(law: FitResult, limit: float, held: Runs, clock: np.ndarray) -> dict[str, Any]:
    """How the law fitted below ``limit`` predicts the runs that were held out; x: their compute."""
    row: dict[str, Any] = {"cut": limit, "status": law.status}
    if not law.ok or law.replicates is None:
        return row | {"message": law.message}
    here: dict[str, Any] = {role: held[role] for role in law.law.roles}
    band = law.interval("new run", **here)
    error = np.log(held["loss"]) - np.log(band.value)
    draws = law.law.predict_log(law.replicates, here, law.centre).mean(axis=1)
    law_sd = float(spread(draws, np.log(band.value).mean(), law.method))
    se = float(np.sqrt(law_sd**2 + law.noise**2 / len(error)))
    inside = int(((held["loss"] >= band.low) & (held["loss"] <= band.high)).sum())
    return row | {
        "held_out_runs": len(error),
        "mean_log_error": float(error.mean()),
        "se": se,
        "p": t_test(float(error.mean()), se, max(law.n_runs - 1, 1)),
        "inside_interval": inside / len(error),
        "inside": inside,
        "p_inside": few_inside(law, here, inside),
        "level": band.level,
        "predicted": band.value,
        "low": band.low,
        "high": band.high,
        "true": held["loss"],
        "x": clock,
        "n": held["n"] if "n" in held else None,  # noqa: SIM401  (a table has no get)
    }


def _failures(row: dict[str, Any]) -> list[tuple[float, str]]:
    """p and reason of what is wrong with one cut."""
    out = []
    limit, error, level = row["cut"], row["mean_log_error"], row["level"]
    if row["p"] < EACH:
        out.append(
            (
                row["p"],
                f"budgets above {limit:.3g} are {abs(np.expm1(error)):.1%}"
                f" {'higher' if error > 0 else 'lower'} than predicted from below"
                f" (p = {row['p']:.2g})",
            )
        )
    if row["p_inside"] < EACH:
        out.append(
            (
                row["p_inside"],
                f"of {row['held_out_runs']} runs with budgets above {limit:.3g} only"
                f" {row['inside']} ({row['inside_interval']:.0%}) fell inside the {level:.0%}"
                f" interval predicted from below (p {_at_least(row['p_inside'])}, the law's error"
                " being common to them)",
            )
        )
    return out


def _passed(judged: list[dict[str, Any]]) -> str:
    shown = max(judged, key=lambda row: row["cut"])
    detail = (
        f"budgets above {shown['cut']:.3g} were predicted to {shown['mean_log_error']:+.1%} on"
        f" average; {shown['inside']} of {shown['held_out_runs']} runs fell inside their"
        f" {shown['level']:.0%} interval"
    )
    few = min(judged, key=lambda row: row["p_inside"])
    if few["p_inside"] < 0.05:  # said of some 3% of sound studies
        where = f" (above {few['cut']:.3g}: {few['inside']} of {few['held_out_runs']})"
        detail += (
            f"{'' if few is shown else where}: few, yet not so few that chance is ruled out"
            f" (p = {few['p_inside']:.2g})"
        )
    return detail


def _at_least(p: float) -> str:
    """A probability from :data:`SIMULATIONS`, which cannot resolve less than a few of them."""
    return f"= {p:.2g}" if p > 5 / SIMULATIONS else f"< {5 / SIMULATIONS:.1g}"


def few_inside(law: FitResult, at: dict[str, np.ndarray], inside: int, seed: int = 0) -> float:
    """Probability that no more than ``inside`` of the held-out runs at ``at`` fall inside their
    prediction intervals, where the law is right: not binomial, because the error of the law is
    common to the runs, and so is that of the estimated noise. Simulated: law errors with the
    covariance of the refits, noise of each run, and one chi-squared for the variance."""
    count = len(next(iter(at.values())))
    pick = np.unique(np.linspace(0, count - 1, min(count, MOST_HELD)).astype(int))
    at = {role: value[pick] for role, value in at.items()}
    centre = law.law.predict_log(law.best(), at, law.centre)[0]
    moves = law.law.predict_log(law.refits(), at, law.centre) - centre
    moves *= np.sqrt((len(moves) - 1) / len(moves))  # the jackknife's covariance is moves' moves
    _, size, directions = np.linalg.svd(moves, full_matrices=False)
    size = size[size > 1e-4 * size[0]] if size[0] > 0 else size[:0]
    noise = law.noise
    sd = np.sqrt((moves**2).sum(axis=0) + noise**2)
    df = max(law.n_runs - 1, 1)
    half = stats.t.ppf(0.5 + law.level / 2, df) * sd
    rng = np.random.default_rng(seed)
    few = 0
    for _ in range(10):
        draws = SIMULATIONS // 10
        error = rng.normal(size=(draws, len(size))) * size @ directions[: len(size)]
        error += rng.normal(size=(draws, len(pick))) * noise
        error *= np.sqrt(df / rng.chisquare(df, draws))[:, None]
        few += int(((np.abs(error) <= half).mean(axis=1) <= inside / count + 1e-12).sum())
    return (few + 1) / (SIMULATIONS + 1)
