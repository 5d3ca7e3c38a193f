"""Rolling hold-out: fit the small budgets, predict the large ones, and compare with what was
measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import FitResult, spread
from .check import SIGNIFICANT, Check

CUTS = (3.0, 10.0, 30.0)  # the budgets above c_max / cut are held out
EACH = SIGNIFICANT / len(
    CUTS
)  # is the mean off, and, asked apart, are too few inside? The cuts share their runs
DRAWS = 20_000  # simulated hold-outs behind the probability of so few inside
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
    settings = settings or {}
    clock = runs[x] if x in runs else runs["n"] * runs["d"]
    rows, failed = [], []
    used = 0
    for cut in CUTS:
        limit = clock.max() / cut
        below = clock <= limit
        last = np.zeros(len(runs.run_names))
        np.maximum.at(last, runs.run, clock)
        above = (clock == last[runs.run]) & ~below
        if below.sum() < 10 or above.sum() < 2:
            continue
        part, held = runs.take(below), runs.take(above)
        other = fit(part, result.law, interval="jackknife", **settings)
        if not other.ok or other.replicates is None:
            rows.append({"cut": float(limit), "status": other.status, "message": other.message})
            continue
        used += 1
        here = {role: held[role] for role in result.law.roles}
        band = other.interval("new run", **here)
        error = np.log(held["loss"]) - np.log(band.value)
        draws = other.law.predict_log(other.replicates, here, other.centre).mean(axis=1)
        law_sd = float(spread(draws, np.asarray(np.log(band.value).mean()), other.method))
        noise = np.hypot(other.diagnostics["sd_between_runs"], other.diagnostics["sd_within_runs"])
        se = float(np.sqrt(law_sd**2 + noise**2 / len(error)))
        t = float(error.mean()) / max(se, 1e-300)
        p = float(2 * stats.t.sf(abs(t), max(other.n_runs - 1, 1)))
        inside = int(((held["loss"] >= band.low) & (held["loss"] <= band.high)).sum())
        p_inside = few_inside(other, here, inside)
        rows.append(
            {
                "cut": float(limit),
                "status": other.status,
                "held_out_runs": len(error),
                "mean_log_error": float(error.mean()),
                "se": se,
                "p": p,
                "inside_interval": inside / len(error),
                "inside": inside,
                "p_inside": p_inside,
                "level": band.level,
                "predicted": band.value,
                "low": band.low,
                "high": band.high,
                "true": held["loss"],
                "x": clock[above],
                "n": held["n"] if "n" in held else None,  # noqa: SIM401  (no dict)
            }
        )
        if p < EACH:
            way = "higher" if error.mean() > 0 else "lower"
            failed.append(
                (
                    p,
                    (
                        f"budgets above {limit:.3g} are {abs(np.expm1(error.mean())):.1%} {way}"
                        f" than predicted from below (p = {p:.2g})"
                    ),
                )
            )
        if p_inside < EACH:
            failed.append(
                (
                    p_inside,
                    (
                        f"of {len(error)} runs with budgets above {limit:.3g} only {inside}"
                        f" ({inside / len(error):.0%}) fell inside the {band.level:.0%} interval"
                        f" predicted from below (p {_at_least(p_inside)}, the law's error being"
                        " common to them)"
                    ),
                )
            )
    data = {"rows": rows}
    if not used:
        return Check(
            name,
            None,
            "the budgets span too little to hold out the largest",
            "train over a wider range of budgets",
            None,
            data,
        )
    judged = [row for row in rows if "p" in row]
    smallest = min(min(row["p"], row["p_inside"]) for row in judged)
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
    shown = max(judged, key=lambda row: row["cut"])
    detail = (
        f"budgets above {shown['cut']:.3g} were predicted to {shown['mean_log_error']:+.1%} on"
        f" average; {shown['inside']} of {shown['held_out_runs']} runs fell inside their"
        f" {shown['level']:.0%} interval"
    )
    few = min(judged, key=lambda row: row["p_inside"])
    if few["p_inside"] < 0.05:  # said of some 3% of sound studies
        where = (
            ""
            if few is shown
            else f" (above {few['cut']:.3g}: {few['inside']} of {few['held_out_runs']})"
        )
        detail += (
            f"{where}: few, yet not so few that chance is ruled out (p = {few['p_inside']:.2g})"
        )
    return Check(name, True, detail, "", smallest, data)


def _at_least(p: float) -> str:
    """A probability from :data:`DRAWS` draws, which cannot be told from zero below a few of
    them."""
    return f"= {p:.2g}" if p > 5 / DRAWS else f"< {5 / DRAWS:.1g}"


def few_inside(law: FitResult, at: dict[str, np.ndarray], inside: int, seed: int = 0) -> float:
    """Probability that no more than ``inside`` of the held-out runs at ``at`` fall inside their
    prediction intervals, where the law is right: not binomial, because the error of the law is
    common to the runs, and so is that of the estimated noise. Simulated: law errors with the
    covariance of the refits, noise of each run, and one chi-squared for the variance."""
    count = len(next(iter(at.values())))
    pick = np.unique(np.linspace(0, count - 1, min(count, MOST_HELD)).astype(int))
    at = {role: value[pick] for role, value in at.items()}
    centre = law.law.predict_log(law.theta, at, law.centre)[0]
    moves = law.law.predict_log(law.replicates, at, law.centre) - centre
    moves *= np.sqrt((len(moves) - 1) / len(moves))  # the jackknife's covariance is moves' moves
    _, size, directions = np.linalg.svd(moves, full_matrices=False)
    size = size[size > 1e-4 * size[0]] if size[0] > 0 else size[:0]
    noise = float(np.hypot(law.diagnostics["sd_between_runs"], law.diagnostics["sd_within_runs"]))
    sd = np.sqrt((moves**2).sum(axis=0) + noise**2)
    df = max(law.n_runs - 1, 1)
    half = stats.t.ppf(0.5 + law.level / 2, df) * sd
    rng = np.random.default_rng(seed)
    few = 0
    for _ in range(10):
        draws = DRAWS // 10
        error = rng.normal(size=(draws, len(size))) * size @ directions[: len(size)]
        error += rng.normal(size=(draws, len(pick))) * noise
        error *= np.sqrt(df / rng.chisquare(df, draws))[:, None]
        few += int(((np.abs(error) <= half).mean(axis=1) <= inside / count + 1e-12).sum())
    return (few + 1) / (DRAWS + 1)
