"""Batched Levenberg-Marquardt: many fits of one law to the same points with different weights, at
once.

A bootstrap draw, a deleted run or a start is a row of the batch. Each iteration costs one
evaluation of residuals and exact Jacobian for the rows that have not converged; rows are worked in
chunks that stay in the cache.

Huber's loss with a small delta is nearly an absolute value. Reweighting alone (the majoriser) needs
some 150 passes then; the Gauss-Newton matrix of the points inside delta alone is the right
curvature near the optimum but may be singular far from it. The step solves (H_newton + mu (H_safe +
diag H_safe)) s = -g with mu adapted to the gain, so it begins as the one and ends as the other: 15
to 40 passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..forms.base import Arrays, Law
from .objective import Objective

# residuals worked on at once: the arrays of a chunk fit in a second-level cache of 1 MiB or so
CHUNK = 24_000


@dataclass
class Solution:
    """theta [B, P]; value [B], the objective; gradient [B], the largest cosine between a column of
    the Jacobian and the slopes (0 at an optimum, scale-free); converged [B]; iterations [B]."""

    theta: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray


@dataclass
class Local:
    """The objective around each row of a batch."""

    value: np.ndarray  # [B]
    slope: np.ndarray  # [B, P]
    safe: np.ndarray  # [B, P, P]
    newton: np.ndarray  # [B, P, P], the same object as safe where they do not differ
    cosine: np.ndarray  # [B, P], of each column of the Jacobian with the slopes


def solve(
    law: Law,
    x: Arrays,
    y: np.ndarray,
    weights: np.ndarray | None,
    objective: Objective,
    theta: np.ndarray,
    *,
    bounds: tuple[np.ndarray, np.ndarray],
    free: np.ndarray | None = None,
    tolerance: float = 1e-14,
    iterations: int = 300,
    damping: float = 0.1,
) -> Solution:
    """Minimise sum_i w_i rho(r_i) from each row of ``theta`` [B, P].

    x, y: prepared logs [n] and ln L [n] or [B, n]; weights None, [n] or [B, n]; ``free`` marks the
    parameters that move; ``tolerance``: stop when the decrease still to be had is below this
    fraction of the objective. ``damping``: of the first step; small where the start is close.
    """
    batch, n = len(theta), y.shape[-1]
    free = np.ones(law.size, bool) if free is None else free
    rows = max(1, CHUNK // max(n, 1))
    out = Solution(
        np.array(theta, float),
        np.empty(batch),
        np.empty(batch),
        np.zeros(batch, bool),
        np.zeros(batch, int),
    )
    for start in range(0, batch, rows):
        part = slice(start, min(start + rows, batch))
        w = weights[part] if weights is not None and weights.ndim == 2 else weights
        part_y = y[part] if y.ndim == 2 else y
        chunk = _Chunk(law, x, part_y, w, objective, bounds, free, tolerance, damping, out, part)
        chunk.run(iterations)
    return out


def evaluate(
    law: Law,
    x: Arrays,
    y: np.ndarray,
    weights: np.ndarray | None,
    objective: Objective,
    theta: np.ndarray,
    free: np.ndarray,
) -> Local:
    """Objective, slope and both curvatures at theta [B, P]; weights None, [n] or [B, n]."""
    r, jac = law.residuals(theta, x, y)
    assert jac is not None
    if not free.all():
        jac = jac[:, free]
    with np.errstate(over="ignore", invalid="ignore"):
        rho = objective.rho(r)
        psi, safe, newton = objective.slopes(r)
        if weights is not None:
            rho, psi, safe = rho * weights, psi * weights, safe * weights
            newton = newton * weights if newton is not None else None
        value = rho.sum(axis=-1)
        slope = np.matmul(jac, psi[..., None])[..., 0]
        transposed = jac.transpose(0, 2, 1)
        h_safe = np.matmul(jac * safe[:, None], transposed)
        h_newton = h_safe if newton is None else np.matmul(jac * newton[:, None], transposed)
        diagonal = np.einsum("bii->bi", h_safe)
        # roots apart: the product of two tiny numbers is zero
        cosine = np.abs(slope) / np.sqrt(np.maximum(diagonal, 1e-300))
        cosine /= np.sqrt(np.maximum(value, 1e-300))[:, None]
    bad = ~(
        np.isfinite(value) & np.isfinite(slope).all(axis=1) & np.isfinite(h_safe).all(axis=(1, 2))
    )
    value[bad] = np.inf
    return Local(value, slope, h_safe, h_newton, cosine)


class _Chunk:
    """The rows of a chunk that have not ended yet: index in the batch, theta, damping mu, and
    how often the objective did not change (quiet)."""

    def __init__(
        self,
        law: Law,
        x: Arrays,
        y: np.ndarray,
        weights: np.ndarray | None,
        objective: Objective,
        bounds: tuple[np.ndarray, np.ndarray],
        free: np.ndarray,
        tolerance: float,
        damping: float,
        out: Solution,
        part: slice,
    ):
        self.law, self.x, self.y, self.weights, self.objective = law, x, y, weights, objective
        self.free, self.low, self.high = free, bounds[0][free], bounds[1][free]
        self.tolerance, self.out = tolerance, out
        self.index = np.arange(part.start, part.stop)
        self.theta = np.array(out.theta[part])
        self.mu = np.full(len(self.theta), damping)
        self.quiet = np.zeros(len(self.theta), int)
        self.now = self._evaluate(self.theta)

    def _evaluate(self, theta: np.ndarray) -> Local:
        return evaluate(self.law, self.x, self.y, self.weights, self.objective, theta, self.free)

    def run(self, iterations: int) -> None:
        """Iterate until every row has ended."""
        for iteration in range(iterations + 1):
            now, inner = self.now, self.theta[:, self.free]
            step, predicted = _step(now, self.mu, inner, self.low, self.high)
            # the second for data without noise
            small = predicted <= self.tolerance * now.value + 1e-28 * self.y.shape[-1]
            stopped = (self.mu > 1e12) | (self.quiet >= 4) | ~np.isfinite(now.value)
            done = (small & (self.mu < 0.05)) | stopped
            ended = np.ones(len(done), bool) if iteration == iterations else done
            if ended.any():
                self._record(ended, done, small, iteration)
                if ended.all():
                    return
                self._keep(~ended)
                step, predicted = step[~ended], predicted[~ended]
            self._advance(step, predicted)

    def _record(
        self, ended: np.ndarray, done: np.ndarray, small: np.ndarray, iteration: int
    ) -> None:
        out, rows, value = self.out, self.index[ended], self.now.value[ended]
        pressed = _pressed(self.now, self.theta[:, self.free], self.low, self.high)
        cosine = np.where(pressed, 0.0, self.now.cosine).max(axis=1, initial=0.0)[ended]
        out.theta[rows], out.value[rows], out.gradient[rows] = self.theta[ended], value, cosine
        at_optimum = small[ended] | (cosine < 1e-6)
        out.converged[rows] = done[ended] & np.isfinite(value) & at_optimum
        out.iterations[rows] = iteration

    def _keep(self, keep: np.ndarray) -> None:
        self.index, self.theta = self.index[keep], self.theta[keep]
        self.mu, self.quiet, self.now = self.mu[keep], self.quiet[keep], _take(self.now, keep)
        if self.weights is not None and self.weights.ndim == 2:
            self.weights = self.weights[keep]
        if self.y.ndim == 2:
            self.y = self.y[keep]

    def _advance(self, step: np.ndarray, predicted: np.ndarray) -> None:
        """Take the step in the rows where it lowers the objective, and adapt the damping."""
        now, trial = self.now, self.theta.copy()
        trial[:, self.free] = np.clip(self.theta[:, self.free] + step, self.low, self.high)
        new = self._evaluate(trial)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = (now.value - new.value) / np.maximum(predicted, 1e-300)
        better = new.value < now.value
        level = np.abs(now.value - new.value) <= 1e-15 * np.abs(now.value)
        self.quiet = np.where(level, self.quiet + 1, 0)
        self.theta = np.where(better[:, None], trial, self.theta)
        self.now = _merge(now, new, better)
        factor = np.where(gain > 0.7, 0.1, np.where(gain < 0.25, 2.0, 0.5))
        self.mu = np.maximum(self.mu * np.where(better, factor, 6.0), 1e-9)


def _step(
    now: Local, mu: np.ndarray, theta: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Step [B, P] and the decrease it promises; parameters that press against a bound stay
    there."""
    diagonal = np.einsum("bii->bi", now.safe)
    h = now.newton + mu[:, None, None] * now.safe
    # a column of zeros must not be singular
    ridge = (mu[:, None] + 1e-12) * np.where(diagonal > 0, diagonal, 1.0)
    np.einsum("bii->bi", h)[...] += ridge
    stuck = _pressed(now, theta, low, high)
    slope = np.where(stuck, 0.0, now.slope)
    if stuck.any():
        h = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, h)
        np.einsum("bii->bi", h)[...] += stuck
    good = np.isfinite(h).all(axis=(1, 2)) & np.isfinite(slope).all(axis=1)
    h[~good] = np.eye(h.shape[1])
    slope = np.where(good[:, None], slope, 0.0)
    scale = 1.0 / np.sqrt(np.maximum(np.einsum("bii->bi", h), 1e-300))
    scaled = h * scale[:, :, None] * scale[:, None, :]
    step = -scale * np.linalg.solve(scaled, (scale * slope)[..., None])[..., 0]
    predicted = -(slope * step).sum(axis=1) - 0.5 * np.einsum(
        "bi,bij,bj->b", step, now.newton, step
    )
    return step, predicted


def _pressed(now: Local, theta: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[B, P]: at a bound, with the objective falling beyond it."""
    return ((theta <= low) & (now.slope > 0)) | ((theta >= high) & (now.slope < 0))


def _take(now: Local, keep: np.ndarray) -> Local:
    safe = now.safe[keep]
    newton = safe if now.newton is now.safe else now.newton[keep]
    return Local(now.value[keep], now.slope[keep], safe, newton, now.cosine[keep])


def _merge(old: Local, new: Local, better: np.ndarray) -> Local:
    if better.all():
        return new
    b1, b2, b3 = better, better[:, None], better[:, None, None]
    safe = np.where(b3, new.safe, old.safe)
    newton = safe if old.newton is old.safe else np.where(b3, new.newton, old.newton)
    return Local(
        np.where(b1, new.value, old.value),
        np.where(b2, new.slope, old.slope),
        safe,
        newton,
        np.where(b2, new.cosine, old.cosine),
    )
