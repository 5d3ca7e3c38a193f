"""Lack of fit: do sizes miss the law by more than repeated seeds of one size differ?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.result import FitResult
from .check import Check, judge
from .score import residual_of, run_means


def lack_of_fit(runs: Runs, result: FitResult) -> Check:
    """F test on run-mean residuals: the scatter of the sizes' means about the law against that
    between seeds of a size. A size, its coefficient, its exponent and the floor are what the law
    can adjust between sizes (3 parameters)."""
    mean = run_means(runs, residual_of(runs, result))
    own = np.zeros(len(mean), int)
    own[runs.clusters("run")] = runs.clusters("config" if "n" in runs else "run")
    used, config = np.unique(own, return_inverse=True)
    repeats = np.bincount(config)
    df_pure = int((repeats - 1).sum())
    df_lack = len(used) - 3
    if runs.seed is None or df_pure < 2 or df_lack < 1:
        return Check(
            "lack of fit",
            None,
            "there are too few repeated seeds to tell misfit from noise",
            "repeat two or three sizes with two or three seeds each",
        )
    middle = np.bincount(config, mean) / repeats
    pure = float(((mean - middle[config]) ** 2).sum()) / df_pure
    lack = float((repeats * middle**2).sum()) / df_lack
    f = lack / max(pure, 1e-300)
    return judge(
        "lack of fit",
        float(stats.f.sf(f, df_lack, df_pure)),
        f"sizes miss the law by more than seeds differ: F({df_lack}, {df_pure}) = {f:.1f}, {{p}}",
        f"sizes miss the law no more than seeds differ (F = {f:.1f}, {{p}})",
        remedy="the sizes do not follow one law: check the learning rate and the shape (depth"
        " against width) of each",
        data={"F": f, "df_lack": df_lack, "df_pure": df_pure, "sd_seeds": float(np.sqrt(pure))},
    )
