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

from ..forms.base import Law
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
    x: dict[str, np.ndarray],
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
        _solve_chunk(
            law, x, part_y, w, objective, bounds, free, tolerance, iterations, damping, out, part
        )
    return out


def evaluate(
    law: Law,
    x: dict[str, np.ndarray],
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
        cosine = np.abs(slope) / np.sqrt(
            np.maximum(diagonal, 1e-300) * np.maximum(value, 1e-300)[:, None]
        )
    bad = ~(
        np.isfinite(value) & np.isfinite(slope).all(axis=1) & np.isfinite(h_safe).all(axis=(1, 2))
    )
    value[bad] = np.inf
    return Local(value, slope, h_safe, h_newton, cosine)


def _solve_chunk(
    law, x, y, weights, objective, bounds, free, tolerance, iterations, damping, out: Solution, part
) -> None:
    index = np.arange(part.start, part.stop)
    low, high = bounds[0][free], bounds[1][free]
    theta = np.array(out.theta[part])
    w = weights
    now = evaluate(law, x, y, w, objective, theta, free)
    mu = np.full(len(theta), damping)
    quiet = np.zeros(len(theta), int)
    for iteration in range(iterations + 1):
        step, predicted = _step(now, mu, theta[:, free], low, high)
        small = (
            predicted <= tolerance * now.value + 1e-28 * y.shape[-1]
        )  # the second for data without noise
        done = (small & (mu < 0.05)) | (mu > 1e12) | (quiet >= 4) | ~np.isfinite(now.value)
        if iteration == iterations:
            ended = np.ones(len(theta), bool)
        else:
            ended = done
        if ended.any():
            cosine = np.where(_pressed(now, theta[:, free], low, high), 0.0, now.cosine).max(
                axis=1, initial=0.0
            )
            out.theta[index[ended]] = theta[ended]
            out.value[index[ended]] = now.value[ended]
            out.gradient[index[ended]] = cosine[ended]
            out.converged[index[ended]] = (
                done[ended]
                & np.isfinite(now.value[ended])
                & (small[ended] | (cosine[ended] < 1e-6))
            )
            out.iterations[index[ended]] = iteration
            if ended.all():
                return
            keep = ~ended
            index, theta, mu, quiet, step, predicted = (
                a[keep] for a in (index, theta, mu, quiet, step, predicted)
            )
            now = _take(now, keep)
            if w is not None and w.ndim == 2:
                w = w[keep]
            if y.ndim == 2:
                y = y[keep]
        trial = theta.copy()
        trial[:, free] = np.clip(theta[:, free] + step, low, high)
        new = evaluate(law, x, y, w, objective, trial, free)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = (now.value - new.value) / np.maximum(predicted, 1e-300)
        better = new.value < now.value
        level = np.abs(now.value - new.value) <= 1e-15 * np.abs(now.value)
        quiet = np.where(level, quiet + 1, 0)
        theta = np.where(better[:, None], trial, theta)
        now = _merge(now, new, better)
        mu = np.where(
            better,
            np.where(gain > 0.7, mu * 0.1, np.where(gain < 0.25, mu * 2.0, mu * 0.5)),
            mu * 6.0,
        )
        mu = np.maximum(mu, 1e-9)


def _step(
    now: Local, mu: np.ndarray, theta: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Step [B, P] and the decrease it promises; parameters that press against a bound stay
    there."""
    diagonal = np.einsum("bii->bi", now.safe)
    h = now.newton + mu[:, None, None] * now.safe
    ridge = (mu[:, None] + 1e-12) * np.where(
        diagonal > 0, diagonal, 1.0
    )  # a column of zeros must not be singular
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
