"""Repeated data in a law whose terms are coupled: D' of the data-constrained surface in the p-norm
of the two."""

from __future__ import annotations

import numpy as np

from .base import Arrays, mesh
from .coupled import LEAST_P, MOST_P, Coupled
from .data_constrained import LEAST_R, MOST_R, REPEATS, Repeats


class DataConstrainedCoupled(Repeats, Coupled):
    """L = E + ((A N^-alpha)^p + (B D'^-beta)^p)^(1/p) with U distinct data.

    D' = U (1 + R_D (1 - exp(-R/R_D))), R = D/U - 1 repeats, as in ``data_constrained``, without its
    saturation of N. p = 1 is an additive surface. For models whose fresh data follow ``coupled``
    and not ``surface``: a form that does not fit takes R_D for what is left over. R_D is one number
    for all N and U; where runs say otherwise it is a mean over theirs (results/ladder_2_repeats).
    """

    name = "data_constrained_coupled"
    formula = (
        "L = E + ((A N^-alpha)^p + (B D'^-beta)^p)^(1/p), D' = U (1 + R_D (1 - exp(-R/R_D))),"
        " R = D/U - 1"
    )
    shapes = ("alpha", "beta", "R_D", "p")
    logs = ("R_D", "p")
    soft = ("R_D", "p")
    one_optimum = False  # R_D has flat ends, where starts agree on nothing

    def grid(self, x: Arrays) -> np.ndarray:
        exponents = np.geomspace(0.03, 3.0, 12)
        return mesh(exponents, exponents, REPEATS, np.log([0.3, 0.6, 1.0, 2.0, 5.0]))

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        low = np.array([1e-3, 1e-3, LEAST_R, np.log(LEAST_P)])
        return low, np.array([20.0, 20.0, MOST_R, np.log(MOST_P)])
