"""Local exponents -d ln L / d ln C along the frontier, and whether the law's own bend explains how
they drift."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ..fit.result import spread
from ..frontier.frontier import Frontier
from .check import Check, judge, t_test

TANGENT_COUNT = 4  # points of tangency in a sliding window


def local_exponents(found: Frontier, level: float = 0.95) -> Check:
    """Slopes of ln L against ln x over sliding windows of tangents, with bands, compared with those
    of the fitted law; fails if the difference of the two has a trend, that is, if the law bends
    otherwise than the losses do."""
    name = "local exponents"
    x, loss = (np.log(np.asarray(found.tangents[key])) for key in ("x", "loss"))
    if found.method != "tangents" or len(x) < TANGENT_COUNT + 2:
        return Check(
            name,
            None,
            f"only {len(x)} sizes touch the frontier: no local exponents",
            "add sizes, so that at least six touch the frontier",
        )
    law = np.log(found.fit.predict(**{found.x: np.exp(x)}))
    everything = _windows(x, loss, law, np.ones(len(x), bool))
    draws = np.stack([_windows(x, loss, law, np.arange(len(x)) != i) for i in range(len(x))])
    se = spread(draws[:, :, 1], everything[:, 1], "jackknife")
    drift = _trend(everything)
    # each residual enters three or four windows, so the trend's error is that of deleting points,
    # not of a line fit
    drift_se = float(spread(np.array([_trend(rows) for rows in draws]), drift, "jackknife"))
    df = len(x) - 1
    half = stats.t.ppf(0.5 + level / 2, df) * se
    way = "falls faster" if drift < 0 else "falls more slowly"
    first, last = everything[0, 1], everything[-1, 1]
    return judge(
        name,
        t_test(drift, drift_se, df),
        f"the local exponent {way} along the frontier than the law says ({{p}})",
        f"local exponents go from {first:.3f} to {last:.3f}, as the law bends ({{p}})",
        remedy="extend the frontier: larger sizes trained longer, until the local exponents settle"
        " on the law",
        data={
            "x": np.exp(everything[:, 0]),
            "exponent": everything[:, 1],
            "low": everything[:, 1] - half,
            "high": everything[:, 1] + half,
            "law": everything[:, 2],
            "drift_per_e_fold": drift,
        },
    )


def _windows(x: np.ndarray, loss: np.ndarray, law: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """[windows, 3]: middle, slope of the losses, slope of the law (all in logs); a window that lost
    a point uses the rest."""
    out = []
    for start in range(len(x) - TANGENT_COUNT + 1):
        part = [i for i in range(start, start + TANGENT_COUNT) if keep[i]]
        t = x[part] - x[part].mean()
        slopes = [-(t @ y[part]) / (t @ t) for y in (loss, law)]
        out.append((x[start : start + TANGENT_COUNT].mean(), *slopes))
    return np.array(out)


def _trend(rows: np.ndarray) -> float:
    return float(np.polyfit(rows[:, 0], rows[:, 1] - rows[:, 2], 1)[0])
