"""Local exponents -d ln L / d ln C along the frontier, and whether the law's own bend explains how
they drift."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ..fit.result import spread
from ..frontier.frontier import Frontier
from .check import SIGNIFICANT, Check

WINDOW = 4  # points of tangency in a sliding window


def local_exponents(found: Frontier, level: float = 0.95) -> Check:
    """Slopes of ln L against ln x over sliding windows of tangents, with bands, beside those of the
    fitted law; fails if the difference of the two has a trend, that is, if the law bends otherwise
    than the losses do."""
    name = "local exponents"
    x, loss = np.log(np.asarray(found.tangents["x"])), np.log(np.asarray(found.tangents["loss"]))
    if found.method != "tangents" or len(x) < WINDOW + 2:
        return Check(
            name,
            None,
            f"only {len(x)} sizes touch the frontier: no local exponents",
            "add sizes, so that at least six touch the frontier",
        )
    law = np.log(found.fit.predict(**{found.x: np.exp(x)}))

    def windows(keep: np.ndarray) -> np.ndarray:
        """[windows, 3]: middle, slope of the losses, slope of the law; a window that lost a point
        uses the rest."""
        out = []
        for start in range(len(x) - WINDOW + 1):
            part = [i for i in range(start, start + WINDOW) if keep[i]]
            t = x[part] - x[part].mean()
            out.append(
                (
                    x[start : start + WINDOW].mean(),
                    -(t @ loss[part]) / (t @ t),
                    -(t @ law[part]) / (t @ t),
                )
            )
        return np.array(out)

    def trend(rows: np.ndarray) -> float:
        return float(np.polyfit(rows[:, 0], rows[:, 1] - rows[:, 2], 1)[0])

    everything = windows(np.ones(len(x), bool))
    draws = np.stack([windows(np.arange(len(x)) != i) for i in range(len(x))])
    se = spread(draws[:, :, 1], everything[:, 1], "jackknife")
    drift = trend(everything)
    # each residual enters three or four windows, so the trend's error is that of deleting points,
    # not of a line fit
    drift_se = float(
        spread(np.array([trend(rows) for rows in draws]), np.asarray(drift), "jackknife")
    )
    df = len(x) - 1
    p = float(2 * stats.t.sf(abs(drift) / max(drift_se, 1e-300), df))
    half = stats.t.ppf(0.5 + level / 2, df) * se
    data = {
        "x": np.exp(everything[:, 0]),
        "exponent": everything[:, 1],
        "low": everything[:, 1] - half,
        "high": everything[:, 1] + half,
        "law": everything[:, 2],
        "drift_per_e_fold": drift,
    }
    if p < SIGNIFICANT:
        way = "falls faster" if drift < 0 else "falls more slowly"
        return Check(
            name,
            False,
            f"the local exponent {way} along the frontier than the law says (p = {p:.2g})",
            "extend the frontier: larger sizes trained longer, until the local exponents settle on"
            " the law",
            p,
            data,
        )
    return Check(
        name,
        True,
        f"local exponents go from {everything[0, 1]:.3f} to {everything[-1, 1]:.3f}, as the law"
        f" bends (p = {p:.2f})",
        "",
        p,
        data,
    )
