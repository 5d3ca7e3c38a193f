"""The surface with the cost that was measured: C = k N^p D^q instead of C = 6 N D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Arrays
from .surface import Surface, optimal_exponents

if TYPE_CHECKING:
    from ...table.runs import Runs


class SurfaceCost(Surface):
    """L(N, D) = E + A N^-alpha + B D^-beta, with ln C = ln k + p ln N + q ln D by least squares
    over the same rows.

    For force fields C depends on edges, tensor order and the pass for the forces; minimising the
    loss at given C then gives a = beta/(beta p + alpha q), b = alpha/(beta p + alpha q) and gamma =
    alpha beta/(beta p + alpha q). Needs the column c (option ``cost``: "c" FLOPs or "h" hours). k,
    p and q are among the derived quantities.
    """

    name = "surface_cost"
    formula = "L = E + A N^-alpha + B D^-beta, C = k N^p D^q"

    def __init__(self, floor: Any = None, cost: str = "c", **options: Any):
        super().__init__(floor, **options)
        self.cost = cost

    def context(self, runs: Runs, cluster: np.ndarray | None = None) -> dict[str, Any]:
        """Cost parameters [1], or [G] without each cluster in turn."""
        basis = np.stack([np.ones(len(runs)), np.log(runs["n"]), np.log(runs["d"])], axis=1)
        centre = basis.mean(axis=0)
        centre[0] = 0.0
        basis = basis - centre
        y = np.log(runs[self.cost])
        weight = np.ones((1, len(y)))
        if cluster is not None:
            groups = int(cluster.max()) + 1
            gram = np.zeros((groups, 3, 3))
            right = np.zeros((groups, 3))
            np.add.at(gram, cluster, basis[:, :, None] * basis[:, None, :])
            np.add.at(right, cluster, basis * y[:, None])
            gram, right = gram.sum(axis=0) - gram, right.sum(axis=0) - right
        else:
            gram, right = (
                (weight @ (basis[:, :, None] * basis[:, None, :]).reshape(-1, 9)).reshape(1, 3, 3),
                weight @ (basis * y[:, None]),
            )
        w = np.linalg.solve(gram + 1e-12 * np.eye(3), right[..., None])[..., 0]
        return {
            "k": np.exp(w[:, 0] - w[:, 1] * centre[1] - w[:, 2] * centre[2]),
            "p": w[:, 1],
            "q": w[:, 2],
        }

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        cost = {
            name: np.broadcast_to(context[name], values["alpha"].shape) for name in ("k", "p", "q")
        }
        return optimal_exponents(values, context["p"], context["q"]) | cost
