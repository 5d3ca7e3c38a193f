"""What few runs do to a jackknife: its variance has few degrees of freedom, and is too large.

G runs do not give G - 1 degrees of freedom to every quantity: with three sizes and two seeds each,
an exponent in N rests on two contrasts. Both corrections follow from the design alone (Bell &
McCaffrey 2002; Pustejovsky & Tipton 2018): the fit is linearised, so that the jackknife variance is
a quadratic form e'Me in the errors, and under a working model of the errors (each run off by its
own constant, checkpoints scattered about it) its mean and variance are known. Only the shape of the
working model matters, not its size, and that hardly: see benchmarks/law_coverage.py.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from .problem import Problem
from .result import spread

SD_RUN, SD_WITHIN = 1.0, 0.3  # of the working model; only their ratio counts
MOST_RUNS = 400  # beyond, G - 1 and no correction are as good
ENOUGH = 12.0  # degrees of freedom above which Student's t serves as well as the exact distribution
LEAST_SHARE = 1e-3  # of the largest expected square, below which a run's counts no more
# of the length of an interval, over the degrees of freedom: for the curvature that a linearised fit
# leaves out (without it ten runs of ten sizes cover 1 to 2 points less)
CURVATURE = 0.4
SPACING = 0.25  # of the nodes of a numerical integral, in ln u: exact to 1e-6 or so
NODES = np.exp(np.arange(-14.0, 16.0, SPACING))


class SmallSample:
    """The linearised fit at theta: sums over the rows of each of G runs of J'WJ and of the variance
    of J'We."""

    def __init__(self, problem: Problem, theta: np.ndarray):
        groups = problem.n_clusters
        self.free = problem.free
        jac = problem.law.residuals(theta[None], problem.x, problem.y)[1]
        assert jac is not None
        order = np.argsort(problem.cluster, kind="stable")
        first = np.searchsorted(problem.cluster[order], np.arange(groups))
        j = jac[0][self.free][:, order]
        wj = j if problem.weights is None else j * problem.weights[order]
        count = len(j)
        self.own, noise = np.empty((groups, count, count)), np.empty((groups, count, count))
        for a in range(count):
            for b in range(a + 1):
                self.own[:, a, b] = self.own[:, b, a] = np.add.reduceat(j[a] * wj[b], first)
                noise[:, a, b] = noise[:, b, a] = np.add.reduceat(wj[a] * wj[b], first)
        total = np.add.reduceat(wj, first, axis=1).T
        self.noise = SD_RUN**2 * total[:, :, None] * total[:, None, :] + SD_WITHIN**2 * noise
        everything = self.own.sum(axis=0)
        scale = 1.0 / np.sqrt(np.maximum(np.diag(everything), 1e-300))
        both = scale[:, None] * scale[None, :]
        self.inverse = both * np.linalg.pinv(everything * both, rcond=1e-12, hermitian=True)
        # [G, F, F]
        self.without = both * np.linalg.pinv(
            (everything - self.own) * both, rcond=1e-12, hermitian=True
        )

    def forms(self, gradient: np.ndarray) -> np.ndarray:
        """For a quantity with ``gradient`` [P] in theta: covariance [1 + G, 1 + G] of its error and
        of the terms whose squares add up to its jackknife variance (the changes that deleting each
        run makes), under the working model."""
        c = gradient[self.free]
        size = float(np.abs(c).max(initial=0.0))
        if not 0 < size < np.inf:
            return np.full((len(self.own) + 1,) * 2, np.nan)
        c = c / size  # only ratios matter
        # [G, F]: deleting run g moves the quantity by step_g' J_g'W (its residuals)
        step = -self.without @ c
        y = np.einsum("gij,gj->gi", self.noise, step)
        z = np.einsum("ij,gjk,gk->gi", self.inverse, self.own, step)
        shrink = np.sqrt((len(step) - 1) / len(step))
        step, y, z = step * shrink, y * shrink, z * shrink
        everything = self.noise.sum(axis=0)
        k = self.inverse @ c
        out = np.empty((len(step) + 1, len(step) + 1))
        out[0, 0] = k @ everything @ k
        out[0, 1:] = out[1:, 0] = y @ k - z @ everything @ k
        out[1:, 1:] = np.diag((step * y).sum(axis=1)) - y @ z.T - z @ y.T + z @ everything @ z.T
        return out


class Student:
    """Student's t, for what has no form: error / standard error on ``df`` degrees of freedom."""

    def __init__(self, df: float):
        self.df = max(float(df), 1.0)

    def p(self, t: float) -> float:
        """Two-sided p of error / standard error = t."""
        return float(2 * stats.t.sf(abs(t), self.df))

    def critical(self, level: float) -> float:
        """How many standard errors the interval of ``level`` reaches to either side."""
        return float(stats.t.ppf(0.5 + level / 2, self.df))

    def half_width(self, draws: np.ndarray, centre: float, level: float) -> float:
        """Of the interval of ``level`` about ``centre``, from the delete-one values [G]."""
        return self.critical(level) * float(spread(draws, centre, "jackknife"))


class Reference(Student):
    """Distribution of error / jackknife standard error where the two have the covariance ``form``
    (see SmallSample): Student's t with Satterthwaite's degrees of freedom, on the standard error
    less its bias. ``exact``: not this approximation, which is a little too wide below some 12
    degrees of freedom, but the distribution itself. Tests of differences take it, and have the
    right size with it.

    The interval of one quantity weighs the runs otherwise (``weights`` [G]). In the jackknife's sum
    of squares the one or two runs at the ends of the ladder can have nearly all of the weight, so
    that it has one or two degrees of freedom and the interval is twice as long as need be. Counting
    every run's square in units of what is expected of it would have the most degrees of freedom,
    and be wrong where the errors of those runs are larger than those of others. Half way, squares
    over the root of what is expected, covers as it should in both cases
    (benchmarks/law_competition.py)."""

    def __init__(self, form: np.ndarray, exact: bool = False):
        super().__init__(len(form) - 2)
        self.exact, self.shrink = False, 1.0
        self.weights: np.ndarray | None = None
        if not (np.isfinite(form).all() and form[0, 0] > 0):
            return
        form = form / form[0, 0]
        b = form[1:, 1:]
        own = np.diag(b)
        mean = float(own.sum())
        if not 0 < mean < 1e100:  # without some run the quantity is not determined at all
            return
        weights = 1.0 / np.sqrt(np.maximum(own, LEAST_SHARE * own.max()))
        self.weights = weights / float(weights @ own)
        self.weighted_df = 1.0 / float(self.weights @ (b * b) @ self.weights)
        square = float((b * b).sum())
        self.df = float(np.clip(mean**2 / square, 1.0, self.df))
        self.shrink = float(np.sqrt(min(1.0 / mean, 1.0)))
        self.exact = exact and self.df < ENOUGH
        if self.exact:
            values, vectors = np.linalg.eigh(form)
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            spread, turn = np.linalg.eigh(root[1:].T @ root[1:])
            self._error, self._spread = (root[0] @ turn) ** 2, np.maximum(spread, 0.0)

    def p(self, t: float) -> float:
        if not self.exact or not np.isfinite(t):
            return super().p(t / self.shrink)
        return float(self._tail(np.array([abs(t)]))[0])

    def critical(self, level: float) -> float:
        if not self.exact:
            return super().critical(level) * self.shrink
        low, high = 0.0, 2 * float(stats.t.ppf(0.5 + level / 2, 1.0))
        for _ in range(4):
            grid = np.linspace(low, high, 16)
            above = int((self._tail(grid) > 1 - level).sum())
            low, high = grid[max(above - 1, 0)], grid[min(above, 15)]
        return 0.5 * (low + high)

    def half_width(self, draws: np.ndarray, centre: float, level: float) -> float:
        if self.weights is None:
            return super().half_width(draws, centre, level)
        df = float(np.clip(self.weighted_df, 1.0, len(draws) - 1))
        square = self.weights @ (draws - centre) ** 2 * (len(draws) - 1) / len(draws)
        allowance = 1 + CURVATURE / df
        return float(stats.t.ppf(0.5 + level / 2, df) * np.sqrt(square)) * allowance

    def _tail(self, t: np.ndarray) -> np.ndarray:
        """P(error^2 > t^2 variance) [T], a quadratic form in normal errors, by its characteristic
        function (Imhof 1961)."""
        square = t[:, None] ** 2
        u = NODES / (1.0 + square * self._spread.sum())  # [T, nodes]
        inner = 1.0 + 2j * (u * square)[:, None] * self._spread[:, None]  # [T, 1 + G, nodes]
        last = 1.0 - 2j * u * (self._error[:, None] / inner).sum(axis=1)
        value = np.exp(-0.5 * np.log(inner).sum(axis=1)) / np.sqrt(last)
        return np.clip(0.5 + value.imag.sum(axis=1) * SPACING / np.pi, 0.0, 1.0)


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Form of the difference of two independent quantities, each with runs of its own. (Where runs
    are deleted in pairs, it is the sum of their forms.)"""
    split = len(first)
    out = np.zeros((split + len(second) - 1,) * 2)
    out[:split, :split] = first
    out[split:, split:] = second[1:, 1:]
    out[0, split:] = out[split:, 0] = second[0, 1:]
    out[0, 0] += second[0, 0]
    return out
