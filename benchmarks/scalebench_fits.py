"""Fits of ScaleBench's laws (Li et al. 2026, arXiv 2604.22753) from many starts at once: least
squares of the losses by the solver of the package, and the routine that it was published with."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import _lbfgsb

from forcelaw.laws.decide.selection import (
    LEAST_SD,
    Belief,
    covariance,
    misfit_variance,
    noise_variance,
)
from forcelaw.laws.fit.objective import Objective
from forcelaw.laws.fit.solver import solve

STARTS, AGAIN = 64, 16  # random starts of the first fit of a law, and of later ones
PUBLISHED_STARTS = 64
BEST = 6  # optima that are kept, and started from again
SAME = 1e-3  # predictions of one optimum differ by no more
LEAST_WEIGHT = 1e-3
LOGS = 4.0  # a positive variable that varies by more is taken as its logarithm
MOST = 1e6  # of a slope: some of the laws overflow within their bounds
ELEMENTS = 4_000_000  # of a Jacobian that is made at once


class Residuals:
    """A law as the package's solver sees it: residuals [B, n] of the losses themselves, and their
    slopes [B, P, n]. Parameters with positive bounds are taken as logarithms."""

    def __init__(self, law: Callable, bounds: np.ndarray):
        self.law, self.size, self.logs = law, len(bounds), bounds[:, 0] > 0
        self.low, self.high = (self.inner(end) for end in bounds.T)

    def inner(self, theta: np.ndarray) -> np.ndarray:
        return np.where(self.logs, np.log(np.where(self.logs, theta, 1.0)), theta)

    def outer(self, inner: np.ndarray) -> np.ndarray:
        return np.where(self.logs, np.exp(np.where(self.logs, inner, 0.0)), inner)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count, P], even within the bounds."""
        return self.low + (self.high - self.low) * rng.random((count, self.size))

    def predict(self, inner: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses [B, K, O] and their slopes [B, K, O, P] at ``inner`` [B, P]."""
        theta = self.outer(inner)
        with np.errstate(all="ignore"):  # some of the laws overflow within their bounds
            said, slopes = self.law(theta, x, backend="numpy")
            slopes = slopes.reshape(len(theta), len(x), -1, self.size)
            slopes = slopes * np.where(self.logs, theta, 1.0)[:, None, None]
        return clipped(said.reshape(slopes.shape[:3]), MOST), clipped(slopes, 0.0)

    def residuals(
        self, theta: np.ndarray, x: np.ndarray, y: np.ndarray, jacobian: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        said, slopes = self.predict(theta, x)
        left = said.reshape(len(theta), -1) - y
        return left, slopes.reshape(*left.shape, -1).transpose(0, 2, 1)

    def blocks(self, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(parameters, outputs) that share nothing with the others, by the slopes at random places.
        A start of one of them need not be good in all."""
        touched = (self.predict(self.random(np.random.default_rng(0), 32), x)[1] != 0).any((0, 1))
        left, out = set(range(len(touched))), []
        while left:
            outputs = {left.pop()}
            while joined := {k for k in left if (touched[[*outputs]].any(0) & touched[k]).any()}:
                outputs |= joined
                left -= joined
            used = np.array(sorted(outputs))
            out.append((np.flatnonzero(touched[used].any(0)), used))
        return out


class Block(Residuals):
    """The ``outputs`` of a law that depend on the parameters ``used`` alone."""

    def __init__(self, whole: Residuals, used: np.ndarray, outputs: np.ndarray):
        self.whole, self.used, self.outputs, self.size = whole, used, outputs, len(used)
        self.low, self.high = whole.low[used], whole.high[used]

    def predict(self, inner: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middle = (self.whole.low + self.whole.high) / 2
        theta = np.tile(middle, (len(inner), 1))
        theta[:, self.used] = inner
        said, slopes = self.whole.predict(theta, x)
        return said[:, :, self.outputs], slopes[:, :, self.outputs][..., self.used]


def clipped(values: np.ndarray, missing: float) -> np.ndarray:
    return np.clip(np.nan_to_num(values, nan=missing, posinf=MOST, neginf=-MOST), -MOST, MOST)


class Fitter:
    """One of ScaleBench's laws on one group of a task: least squares of the losses Y [K, O] at X
    within its bounds, from random starts and the optima found before."""

    def __init__(self, law: Callable, bounds: list, x: np.ndarray, y: np.ndarray, at: np.ndarray):
        self.law, self.x, self.y, self.at = law, x, y, at
        self.bounds = np.array(bounds, float)
        self.form = Residuals(law, self.bounds)
        self.sd = (self.form.high - self.form.low) / 4
        self.parts = self.form.blocks(x)
        self.found: list[tuple[float, np.ndarray]] = []  # squared residuals, internal parameters

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the pool [K, d] and the targets, in ranges of the pool; of logarithms where a variable
        is positive and varies by more than a factor of :data:`LOGS`."""
        out = []
        for here, there in zip(self.x.T, self.at.T):
            if min(here.min(), there.min()) > 0 and here.max() > LOGS * here.min():
                here, there = np.log(here), np.log(there)
            unit = np.ptp(here) or 1.0
            out.append([(one - here.min()) / unit for one in (here, there)])
        here, there = zip(*out)
        return np.stack(here, axis=1), np.stack(there, axis=1)

    def fit(self, rows: list[int], rng: np.random.Generator, starts: int) -> None:
        begin = [*(inner for _, inner in self.found), *self.form.random(rng, starts)]
        squares, whole = self.ends(rows, np.array(begin))
        self.found = []
        for square, inner, there in zip(squares, whole, self.predict_there(whole)):
            others = np.array([self.predict_there(other[None])[0] for _, other in self.found])
            if not len(others) or (np.abs(there - others).max(axis=1) > SAME).all():
                self.found.append((float(square), inner))
            if len(self.found) == BEST:
                break

    def ends(self, rows: list[int], begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared residuals [B] and internal parameters [B, P] where starts [B, P] end, best first:
        of each block apart, the best of all together, and so on."""
        ends = [self._part(rows, begin, *part) for part in self.parts]
        whole = np.empty_like(begin)
        for (_, theta), (used, _) in zip(ends, self.parts):
            whole[:, used] = theta
        return np.sum([square for square, _ in ends], axis=0), whole

    def _part(
        self, rows: list[int], begin: np.ndarray, used: np.ndarray, outputs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Squared residuals and parameters of one block where the starts end, best first."""
        form = self.form if len(self.parts) == 1 else Block(self.form, used, outputs)
        done = solve(
            form,  # type: ignore[arg-type]
            self.x[rows],  # type: ignore[arg-type]
            self.y[np.ix_(rows, outputs)].ravel(),
            None,
            Objective("log"),  # half the square of the residual, whatever it is of
            np.clip(begin[:, used], form.low, form.high),
            bounds=(form.low, form.high),
            tolerance=1e-10,
            iterations=150,
        )
        order = np.argsort(done.value)
        return 2 * done.value[order], done.theta[order]

    def predict_there(self, inner: np.ndarray) -> np.ndarray:
        """Predictions [B, T] of the targets."""
        return self.form.predict(inner, self.at)[0].reshape(len(inner), -1)

    def best_there(self) -> np.ndarray:
        return self.predict_there(self.found[0][1][None])[0]

    def shrunk_there(self, rows: list[int]) -> np.ndarray:
        """Predictions [T] of the targets by the best optimum, drawn to the mean of the measured
        losses of its output as far as the runs leave it open: by its variance, the law taken as
        linear about the optimum, beside that of the losses."""
        inner = self.found[0][1]
        (_, slopes), (there, slopes_there) = (
            self.form.predict(inner[None], x) for x in (self.x[rows], self.at)
        )
        y, count = self.y[rows], len(self.sd)
        made = slopes[0].reshape(-1, count)
        squares = max(self.found[0][0], 1e-30)
        noise = squares / max(y.size - count, 1) + (LEAST_SD * y.mean()) ** 2
        left, new = covariance(made, noise, self.sd), slopes_there[0]
        variance = np.einsum("top,pq,toq->to", new, left, new)
        middle = y.mean(axis=0)
        spread = y.var(axis=0, ddof=min(1, len(rows) - 1))
        share = spread / (spread + variance + 1e-30)
        return (middle + share * (there[0] - middle)).ravel()

    def published_fit(self, rows: list[int], rng: np.random.Generator, starts: int) -> np.ndarray:
        """Predictions [T] of the targets by the routine of the paper (mspe.py): L-BFGS-B of the
        mean square in the parameters as they are, from random starts, logarithmic where bounds are
        positive; the best."""
        begin = self.form.outer(self.form.random(rng, starts))
        theta, value = lbfgsb(self.law, self.x[rows], self.y[rows], begin, self.bounds)
        best = theta[np.argmin(value)]
        return np.asarray(self.law(best[None], self.at, backend="numpy")[0]).ravel()

    def believe(self, rows: list[int], rng: np.random.Generator) -> list[Belief]:
        self.fit(rows, rng, AGAIN if self.found else STARTS)
        squares = np.array([one[0] for one in self.found])
        weights = ((squares + 1e-12) / (squares[0] + 1e-12)) ** (-0.5 * self.y[rows].size)
        inner = np.array([one[1] for one in self.found])
        (here, slopes), (there, slopes_there) = (
            self.form.predict(inner, x) for x in (self.x, self.at)
        )
        noise = noise_variance(float(squares[0]), len(rows), here[0])
        wrong = misfit_variance(float(squares[0]), self.y[rows].size, here[0], noise)
        return [
            Belief(
                slopes[k],
                slopes_there[k].reshape(-1, len(self.sd)),
                noise,
                float(weights[k] / weights.sum()),
                here[k],
                there[k].ravel(),
                wrong,
                self.y[rows] - here[k][rows],
            )
            for k in range(len(inner))
            if weights[k] / weights.sum() > LEAST_WEIGHT
        ]


def lbfgsb(
    law: Callable, x: np.ndarray, y: np.ndarray, starts: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where L-BFGS-B ends from each of ``starts`` [S, P], and the mean squares there [S]: SciPy's
    minimize() with the options of the paper, all starts step by step together, so that the law is
    evaluated for all at once (ten times faster). It talks to the private core of SciPy (1.15 or
    later)."""
    # Private, because minimize() itself takes 70 us an evaluation: called from a thread for each
    # start, the law still evaluated for all at once, it gives the same to the last bit (64 of 64
    # ends, three laws each of parallel and sparsity) and takes 4 to 7 times as long.
    low, high = (np.ascontiguousarray(end, float) for end in bounds.T)
    runs = [_Run(start, low, high) for start in starts]
    active = runs
    chunk = max(1, ELEMENTS // (y.size * len(low)))
    while active:
        active = [run for run in active if run.advance()]
        for k in range(0, len(active), chunk):
            part = active[k : k + chunk]
            theta = np.array([run.theta for run in part])
            with np.errstate(all="ignore"):
                said, slopes = law(theta, x, backend="numpy")
                left = said.reshape(len(part), -1) - y.ravel()
                slopes = slopes.reshape(*left.shape, -1)
                value = (left**2).sum(axis=1) / len(x)
                slope = 2 / len(x) * np.matmul(left[:, None], slopes)[:, 0]
            for run, f, g in zip(part, value, slope):
                run.value[...], run.slope = f, np.ascontiguousarray(g)
                run.evaluations += 1
    return np.array([run.theta for run in runs]), np.array([float(run.value) for run in runs])


class _Run:
    """The state of one L-BFGS-B minimisation."""

    KEPT, TOLERANCE, GRADIENT, ITERATIONS, EVALUATIONS = 10, 1e-15, 1e-10, 2000, 15000
    NEW_X, EVALUATE = 1, 3  # what the core asks for

    def __init__(self, start: np.ndarray, low: np.ndarray, high: np.ndarray):
        m, p = self.KEPT, len(start)
        self.theta, self.low, self.high = np.clip(start, low, high), low, high
        self.value, self.slope = np.array(0.0), np.zeros(p)
        self.kinds = np.full(p, 2, np.int32)  # bounded on both sides
        self.floats = np.zeros(2 * m * p + 5 * p + 11 * m * m + 8 * m)
        self.integers, self.task = np.zeros(3 * p, np.int32), np.zeros(2, np.int32)
        self.search, self.logicals = np.zeros(2, np.int32), np.zeros(4, np.int32)
        self.kept, self.kept_floats = np.zeros(44, np.int32), np.zeros(29)
        self.steps = self.evaluations = 0

    def advance(self) -> bool:
        """To where the next evaluation is needed; False at the end."""
        while True:
            _lbfgsb.setulb(
                self.KEPT,
                self.theta,
                self.low,
                self.high,
                self.kinds,
                self.value,
                self.slope,
                self.TOLERANCE / np.finfo(float).eps,
                self.GRADIENT,
                self.floats,
                self.integers,
                self.task,
                self.logicals,
                self.kept,
                self.kept_floats,
                20,  # steps of a line search
                self.search,
            )
            if self.task[0] != self.NEW_X:
                return bool(self.task[0] == self.EVALUATE)
            self.steps += 1
            if self.steps >= self.ITERATIONS or self.evaluations > self.EVALUATIONS:
                return False
