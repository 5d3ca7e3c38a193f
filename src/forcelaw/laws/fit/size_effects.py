"""What every run of a size has in common beyond the law: layers that a rule adds, a rate that does
not fit, a width that rounds badly. With few sizes a law takes such effects for a part of its
exponent in N, and neither residuals nor deleted runs show it: they say how much runs differ.

Where no column of the table says what else changes along N, each size is therefore allowed an
effect of its own on ln L, normal about zero. Its variance has a prior at :data:`SIZE_SD`, as strong
as :data:`SIZE_DF` sizes beyond what a law can adjust, and the misfit of the sizes' means updates it
(the posterior mean of an inverse gamma distribution): many sizes that follow the law closely
shorten what is added again. What it adds to an interval is how far the optimum moves when the
losses of one size move, summed in squares over the sizes.
"""

from __future__ import annotations

import numpy as np

from .problem import Problem, level_of

# a step of 7% between small and large models is 3.5% about their mean; penalties of learning rates
# of up to 4%, other from size to size, are 1.2%
SIZE_SD = 0.03
SIZE_DF = 4.0
ADJUSTED = 3  # what a law adjusts along N: coefficient, exponent, floor
ROWS = 2e7  # refits times rows at a time


def size_sd(residual: np.ndarray, size: np.ndarray) -> float:
    """Standard deviation of the sizes' effects on ln L, from the residuals [n] of a fit and the
    size of each row [n]."""
    count = np.bincount(size)
    mean = np.bincount(size, residual) / count
    square, df = float(mean @ mean), max(len(count) - ADJUSTED, 0)
    return float(np.sqrt((SIZE_DF * SIZE_SD**2 + square) / (SIZE_DF + df - 2)))


def moved_by_sizes(problem: Problem, theta: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Optima [2, S, P] with the losses of each of S sizes (of the rows' N [n]) one standard
    deviation higher, and lower."""
    size = level_of(n)
    sd = size_sd(problem.residuals(theta), size)
    moves = sd * np.concatenate([np.eye(size.max() + 1), -np.eye(size.max() + 1)])
    step = max(1, int(ROWS // len(size)))
    parts = [
        problem.solve(
            np.tile(theta, (len(some), 1)),
            y=problem.y + some[:, size],
            tolerance=1e-9,
            damping=1e-2,
        ).theta
        for some in (moves[first : first + step] for first in range(0, len(moves), step))
    ]
    return np.concatenate(parts).reshape(2, size.max() + 1, len(theta))


def reach(values: np.ndarray) -> np.ndarray:
    """Standard deviation [...] of a quantity from its values [2, S, ...] at those optima."""
    return np.sqrt((((values[0] - values[1]) / 2) ** 2).sum(axis=0))
