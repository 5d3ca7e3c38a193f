"""The rules of a learning-rate sweep, on losses alone: for run directories while a study is
trained, for a table of runs afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .unlearned import unlearned

WELL = 0.5  # a part of which no more is left is learned
# Runs that see this many times the atoms of the swept ones or more: eSEN's best rate for 8M atoms
# costs 2 to 6% of the loss after 1e8, a third of what passed for a floor (results/ladder_2_long)
TIMES_LONGER = 10.0


def mean_losses(
    points: Iterable[tuple[float, float | None, Mapping[str, float]]],
) -> dict[float, float]:
    """Learning rate -> mean final loss over seeds, infinite where a seed diverged or failed, or
    has not learned a part of the loss while at another rate all have, by half or more.

    points: (rate, loss, left), loss None for a seed that diverged or failed, left: what it has left
    of energies and forces (:func:`.unlearned.left`), empty where that is not known. Forces are most
    of the loss: a rate that kills the energies can have the lowest. In a sweep that is too short
    for either at any rate, chance would decide, so there the loss does.
    """
    known = list(points)
    most = _means((rate, max(left.values())) for rate, _, left in known if left)
    if any(share <= WELL for share in most.values()):
        known = [(rate, None if unlearned(left) else loss, left) for rate, loss, left in known]
    return _means((rate, loss) for rate, loss, _ in known)


def _means(points: Iterable[tuple[float, float | None]]) -> dict[float, float]:
    losses: dict[float, list[float]] = {}
    for rate, loss in points:
        losses.setdefault(rate, []).append(math.inf if loss is None else loss)
    return {rate: sum(values) / len(values) for rate, values in losses.items()}


def best_rate(means: dict[float, float], within: float = 0.0) -> float | None:
    """The rate with the lowest mean loss, or the smallest whose loss is at most ``within`` (a
    share) above it; None where every rate diverged or failed."""
    least = min(means.values(), default=math.inf)
    if math.isinf(least):
        return None
    return min(rate for rate, mean in means.items() if mean <= least * (1.0 + within))


def next_factor(factors: list[float], losses: list[float]) -> float | None:
    """The factor to try beyond a sweep whose best one is its first or last; None where the best one
    lies inside, or every one diverged.

    factors: ascending. losses: of the same, infinite where training diverged.
    """
    best = min(range(len(losses)), key=losses.__getitem__)
    if math.isinf(losses[best]) or 0 < best < len(losses) - 1:
        return None
    end, inner = (factors[0], factors[1]) if best == 0 else (factors[-1], factors[-2])
    return float(f"{end * end / inner:.3g}")


def vertex(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float, str]:
    """Best rate between those of a sweep, curvature of log loss by (log rate)^2, and "" or why the
    best is not inside (its curvature is nan then).

    The vertex of a parabola of log loss in log rate through the lowest loss and at most two
    neighbours on each side; one on each side where the vertex would leave the interval between
    these. rates: ascending. losses: of the same, finite.
    """
    import numpy as np

    x, y = np.log(rates), np.log(losses)
    k = int(np.argmin(y))
    if k in (0, len(x) - 1):
        return float(rates[k]), math.nan, "low end" if k == 0 else "high end"
    for reach in (2, 1):
        near = slice(max(0, k - reach), k + reach + 1)
        c2, c1, _ = np.polyfit(x[near], y[near], 2)
        if c2 > 0 and rates[k - 1] < (best := float(np.exp(-c1 / (2 * c2)))) < rates[k + 1]:
            return best, float(c2), ""
    return float(rates[k]), math.nan, "no minimum"
