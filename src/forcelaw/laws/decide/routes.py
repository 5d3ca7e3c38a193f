"""Three ways to the best size and data for a budget, which should agree: the fitted surface, the
frontier of what was measured, and the minima of iso-FLOP curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FitError
from ..fit.fit import fit
from ..fit.result import Estimate, FitResult, Result
from ..frontier.frontier import Frontier, frontier
from ..frontier.isoflop import isoflop
from ..inputs import one_architecture
from .allocation import Cost, compute_optimal

POINTS = 32  # budgets at which the surface is read off


@dataclass
class Route(Result):
    """Exponents of N* ~ C^a, D* ~ C^b and L* - E ~ C^-gamma by one method, None where it gives
    none; points: rows of x (FLOPs or hours), n, d; message: why there is nothing, or a reservation.
    """

    method: str
    a: Estimate | None = None
    b: Estimate | None = None
    gamma: Estimate | None = None
    points: list[dict[str, float]] = field(default_factory=list)
    message: str = ""


def routes(
    runs: Any,
    x: str = "c",
    *,
    surface: FitResult | None = None,
    found: Frontier | None = None,
    level: float = 0.95,
) -> list[Route]:
    """The three routes of a table of one architecture: "surface", "frontier" (by tangents or hull),
    "iso-FLOP". surface and found: fits that are there already."""
    runs = one_architecture(runs, "routes", "the best size and data")
    surface = surface or fit(runs, "surface", level=level)
    out = [Route("surface", message=surface.message)]
    if surface.ok:
        best = compute_optimal(surface, Cost.measured(runs, x))
        budgets = np.geomspace(runs[x].min(), runs[x].max(), POINTS)
        n, d = best.n(budgets), best.d(budgets)
        points = [{"x": c, "n": a, "d": b} for c, a, b in np.stack([budgets, n, d], 1).tolist()]
        out[0] = Route("surface", best.a, best.b, best.gamma, points, best.cost.source)
    found = found or frontier(runs, x, level=level)
    best_size = found.optimum
    out.append(
        Route(
            f"frontier ({found.method})",
            best_size.a,
            best_size.b,
            found.fit.parameters.get("gamma"),
            [{name: row[name] for name in ("x", "n", "d")} for row in found.rows()],
            found.message or best_size.message,
        )
    )
    try:
        iso = isoflop(runs, x, level=level)
    except FitError as error:
        return [*out, Route("iso-FLOP", message=error.what)]
    points = [{name: row[name] for name in ("x", "n", "d")} for row in iso.rows()]
    return [*out, Route("iso-FLOP", iso.a, iso.b, None, points, iso.message)]
