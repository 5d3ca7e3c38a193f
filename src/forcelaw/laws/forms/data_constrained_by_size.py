"""Repeated data wear out sooner for larger models: R_D of the data-constrained surface as a power
of N."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Arrays, Terms, mesh
from .data_constrained import LEAST_R, MOST_R, REPEATS, Repeats, saturated

if TYPE_CHECKING:
    from ...table.runs import Runs


class DataConstrainedBySize(Repeats):
    """L = E + A N^-alpha + B D'^-beta with U distinct data.

    D' = U (1 + R (1 - exp(-(D/U - 1)/R))), R = R_D (N/N_0)^-rho: the repeats after which more of
    them add nothing. N_0 is the geometric mean of N over the rows of the table, so R_D is that of a
    model in the middle of it; its values at the smallest and the largest N are among the derived
    quantities. rho = 0 is ``data_constrained`` without its saturation of N (which stands for the
    same thing, that an oversized model gets less from few data, in another form). Where the table
    has one size, or repeats cost nothing, rho is not determined: look at its interval. Found in
    results/README.md, "Few data".
    """

    name = "data_constrained_by_size"
    formula = (
        "L = E + A N^-alpha + B D'^-beta, D' = U (1 + R (1 - exp(-(D/U - 1)/R))), R = R_D (N/mean"
        " N)^-rho"
    )
    shapes = ("alpha", "beta", "R_D", "rho")
    logs = ("R_D",)
    soft = ("R_D", "rho")

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        n, beta, rho = x["n"], psi[:, 1:2], psi[:, 3:4]
        d, slope, _ = saturated(x["u"], x["d"], psi[:, 2:3] - rho * n)
        return [-psi[:, :1] * n, -beta * d], [
            (0, 0, -n),
            (1, 1, -d),
            (1, 2, -beta * slope),
            (1, 3, beta * slope * n),
        ]

    def grid(self, x: Arrays) -> np.ndarray:
        axis = np.geomspace(0.03, 2.0, 12)
        return mesh(axis, axis, REPEATS, [0.0, 0.3, 0.8])

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        return np.array([1e-3, 1e-3, LEAST_R, -5.0]), np.array([20.0, 20.0, MOST_R, 5.0])

    def context(self, runs: Runs, cluster: np.ndarray | None = None) -> dict[str, Any]:
        """Smallest and largest ln N over their mean."""
        n = np.log(runs["n"])
        return {"smallest": float(n.min() - n.mean()), "largest": float(n.max() - n.mean())}

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        with np.errstate(over="ignore"):
            ends = {
                f"R_D_{end}": values["R_D"] * np.exp(-values["rho"] * context[end])
                for end in ("smallest", "largest")
            }
        return super().derived(values, context) | ends
