"""Rolling hold-out: fit the small budgets, predict the large ones, and compare with what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ..fitting import fit
from ..result import FitResult, spread
from ..table import Runs
from . import SIGNIFICANT, Check

CUTS = (3.0, 10.0, 30.0)  # the budgets above c_max / cut are held out


def holdout(runs: Runs, result: FitResult, x: str = "c", settings: dict[str, Any] | None = None) -> Check:
    """For each cut the law is fitted to the checkpoints below it and the last checkpoint of every run above it is
    predicted. The mean log error is judged with the variance of the law (deleted runs) and of new runs; a run whose
    early part was fitted shares its own error with it, which makes the judgement a little lenient."""
    name = "held-out budgets"
    settings = settings or {}
    clock = runs[x] if x in runs else runs["n"] * runs["d"]
    rows, failed, smallest = [], "", 1.0
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
        smallest = min(smallest, p)
        inside = float(((held["loss"] >= band.low) & (held["loss"] <= band.high)).mean())
        rows.append({"cut": float(limit), "status": other.status, "held_out_runs": int(above.sum()),
                     "mean_log_error": float(error.mean()), "se": se, "p": p, "inside_interval": inside,
                     "predicted": band.value, "low": band.low, "high": band.high, "true": held["loss"],
                     "x": clock[above], "n": held["n"] if "n" in held else None})  # noqa: SIM401  Runs is no dict
        if p < SIGNIFICANT / len(CUTS):
            way = "higher" if error.mean() > 0 else "lower"
            failed = failed or (f"budgets above {limit:.3g} are {abs(np.expm1(error.mean())):.1%} {way} than predicted from "
                                f"below (p = {p:.2g})")
    data = {"rows": rows}
    if not used:
        return Check(name, None, "the budgets span too little to hold out the largest", "train over a wider range of budgets",
                     None, data)
    if failed:
        return Check(name, False, failed, "the law found below does not hold above: it is not asymptotic yet; extend the "
                     "largest budgets and fit those", smallest, data)
    shown = max((row for row in rows if "p" in row), key=lambda row: row["cut"])
    return Check(name, True, f"budgets above {shown['cut']:.3g} were predicted to {shown['mean_log_error']:+.1%} on average; "
                             f"{shown['inside_interval']:.0%} of the runs fell inside their 95% interval", "", smallest, data)
