"""Do the sizes whose seeds differ most have seeds enough?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.problem import level_of
from ..fit.result import FitResult
from .check import Check, judge
from .score import residual_of, run_means

NAME = "seeds"
TOO_UNEVEN = 2.0  # a size may be known this many times worse than the others
LEAST_SIZES = 2  # with repeated seeds


def seeds(runs: Runs, result: FitResult) -> Check | None:
    """F test of the variance between seeds of each repeated size against that of the others
    together (Bonferroni); it fails where the size is then also known more than twice as badly as
    the others. None where the table has no N or no seeds."""
    if runs.seed is None or "n" not in runs:
        return None
    mean = run_means(runs, residual_of(runs, result))
    n = np.exp(run_means(runs, np.log(runs["n"])))
    index = level_of(n)
    count = np.bincount(index)
    remedy = "three seeds at the smallest, a middle and the largest size"
    repeated = np.flatnonzero(count > 1)
    if len(repeated) < LEAST_SIZES:
        return Check(NAME, None, "fewer than two sizes have several seeds", remedy)
    square = np.array([((mean[index == k] - mean[index == k].mean()) ** 2).sum() for k in repeated])
    df = count[repeated] - 1
    variance = square / df
    rest = (square.sum() - square) / (df.sum() - df)
    ratio = variance / np.maximum(rest, 1e-300)
    p = np.minimum(1.0, stats.f.sf(ratio, df, df.sum() - df) * len(repeated))
    known = np.sqrt(ratio * np.median(count[repeated]) / count[repeated])
    worst = int(np.argmin(p))
    here, at = int(count[repeated[worst]]), float(n[index == repeated[worst]].mean())
    sd, others = np.sqrt(variance[worst]), np.sqrt(rest[worst])
    single = sorted(n[index == k][0] for k in np.flatnonzero(count < 2))
    text = (
        f"seeds of N = {at:.3g} differ by {sd:.1%}, those of other sizes by {others:.1%}; {here}"
        " seeds there"
    )
    more = f"; one seed at N = {', '.join(f'{size:.3g}' for size in single[:4])}" if single else ""
    wanted = max(int(np.ceil(here * (known[worst] / TOO_UNEVEN) ** 2)), here + 1)
    return judge(
        NAME,
        float(p[worst]) if known[worst] > TOO_UNEVEN else 1.0,
        f"{text} (p = {p[worst]:.2g}){more}",
        f"{text} (p = {p[worst]:.2f}){more}",
        remedy=f"{wanted} seeds at N = {at:.3g}, or leave that size out",
        data={"n": at, "sd": float(sd), "sd_others": float(others), "seeds": here},
    )
