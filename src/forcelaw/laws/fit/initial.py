"""Starts by variable projection: at each cell of a grid over the shape parameters the coefficients
and the floor follow from a small non-negative least-squares problem in relative error (weights
1/L^2), solved for all cells at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ..forms.base import Arrays, Law

MOST_POINTS = 2000  # a start needs no more; larger tables are thinned evenly


def starts(
    law: Law,
    x: Arrays,
    y: np.ndarray,
    weights: np.ndarray | None,
    count: int = 6,
    held: dict[int, float] | None = None,
) -> np.ndarray:
    """[count, P] starting points: the best cells that are not neighbours of a better one. ``held``:
    entries of theta that are fixed (index -> internal value); the grid and the projection then
    work on the others only."""
    held = held or {}
    n = len(y)
    if n > MOST_POINTS:
        pick = np.unique(np.linspace(0, n - 1, MOST_POINTS).astype(int))
        # even over the range, whatever the order of the rows
        order = np.lexsort((y, next(iter(x.values()))))
        pick = order[pick]
        x, y = {role: value[pick] for role, value in x.items()}, y[pick]
        weights = None if weights is None else weights[pick]
    psi = law.grid(x)
    low, high = law.bounds(x)
    psi = np.clip(psi, low, high)
    shapes = {k - law.n_columns: value for k, value in held.items() if k >= law.n_columns}
    if shapes:
        psi[:, list(shapes)] = list(shapes.values())
        psi = np.unique(psi, axis=0)
    theta, misfit = project(law, psi, x, y, weights, held)
    return theta[_apart(psi, misfit, count)]


def project(
    law: Law,
    psi: np.ndarray,
    x: Arrays,
    y: np.ndarray,
    weights: np.ndarray | None,
    held: dict[int, float],
) -> tuple[np.ndarray, np.ndarray]:
    """theta [S, P] with the best coefficients at each row of psi [S, Q], and its misfit [S]
    (squared relative error)."""
    root = None if weights is None else np.sqrt(weights / weights.mean())
    coefficients, misfit = [], []
    for part in np.array_split(psi, max(1, len(psi) * len(y) // 400_000)):
        c, f = _project(law, part, x, y, root, held)
        if not law.projects_exactly:
            with np.errstate(over="ignore", invalid="ignore"):
                error = np.expm1(
                    law.residuals(np.concatenate([c, part], axis=1), x, y, jacobian=False)[0]
                )
                f = np.nan_to_num(
                    ((error if root is None else error * root) ** 2).sum(axis=1), nan=np.inf
                )
        coefficients.append(c)
        misfit.append(f)
    return np.concatenate([np.concatenate(coefficients), psi], axis=1), np.concatenate(misfit)


def _project(
    law: Law,
    psi: np.ndarray,
    x: Arrays,
    y: np.ndarray,
    root: np.ndarray | None,
    held: dict[int, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Log-coefficients and floor [S, K] by non-negative least squares, and the misfit [S], at
    shapes psi [S, Q]."""
    gs, _ = law.terms(psi, x)
    with np.errstate(over="ignore"):
        parts = [np.exp(np.clip(g - y, -700, 300)) for g in gs]
    # a coefficient that comes out as zero starts as a small share of the loss
    least = [np.median(y) - 6.0 - g.mean(axis=1) for g in gs]
    if law.free_floor:
        parts.append(np.broadcast_to(np.exp(-y), parts[0].shape))
    target = np.ones(len(y))
    if law.log_floor is not None:
        target = np.maximum(1.0 - np.exp(law.log_floor - y), 0.0)
    moving = [k for k in range(len(parts)) if k not in held]
    head = np.empty((len(psi), len(parts)))
    target = np.broadcast_to(target, parts[0].shape)
    for k in range(len(parts)):
        if k in held:
            head[:, k] = held[k]
            target = target - parts[k] * (np.exp(held[k]) if k < law.n_coefficients else held[k])
    if root is not None:
        parts, target = [part * root for part in parts], target * root
    square = (target**2).sum(axis=1)
    if not moving:
        return head, square
    phi = np.stack([parts[k] for k in moving], axis=1)  # [S, moving, n]
    c, misfit = nonnegative(
        np.matmul(phi, phi.transpose(0, 2, 1)), np.matmul(phi, target[..., None])[..., 0], square
    )
    for i, k in enumerate(moving):
        head[:, k] = (
            np.log(np.maximum(c[:, i], np.exp(least[k]))) if k < law.n_coefficients else c[:, i]
        )
    return head, misfit


def nonnegative(
    gram: np.ndarray, right: np.ndarray, square: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """min |Phi' c - t|^2 over c >= 0 for a batch, by trying every set of columns: Gram matrices
    [S, K, K], Phi t [S, K], |t|^2 (one, or [S]). K is 1 to 4, so at most 15 sets. Returns c [S, K]
    and the misfit [S]."""
    s, k = right.shape
    best, misfit = np.zeros((s, k)), np.broadcast_to(np.asarray(square, float), (s,)).copy()
    scale = np.sqrt(np.maximum(np.einsum("skk->sk", gram), 1e-300))
    gram = gram / scale[:, :, None] / scale[:, None, :]
    right = right / scale
    for size in range(1, k + 1):
        for used in combinations(range(k), size):
            u = np.array(used)
            g = gram[:, u[:, None], u] + 1e-13 * np.eye(size)
            c = np.linalg.solve(g, right[:, u, None])[..., 0]
            value = square - (c * right[:, u]).sum(axis=1)
            take = (c >= 0).all(axis=1) & (value < misfit)
            best[take] = 0.0
            best[np.ix_(take, u)] = c[take]
            misfit = np.where(take, value, misfit)
    return best / scale, misfit


def _apart(psi: np.ndarray, misfit: np.ndarray, count: int) -> np.ndarray:
    """Indices of the best cells, no two of them closer than two grid steps."""
    levels = [np.unique(psi[:, q], return_inverse=True)[1].ravel() for q in range(psi.shape[1])]
    cell = np.stack(levels, axis=1)
    chosen: list[int] = []
    for i in np.argsort(misfit, kind="stable"):
        if all(np.abs(cell[i] - cell[j]).max() >= 2 for j in chosen):
            chosen.append(int(i))
            if len(chosen) == count:
                break
    return np.array(chosen)
