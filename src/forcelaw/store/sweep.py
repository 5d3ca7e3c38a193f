"""Learning-rate sweeps, wherever their runs are read from: run directories while a study goes on, a
table afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable


def mean_losses(points: Iterable[tuple[float, float | None]]) -> dict[float, float]:
    """Learning rate -> mean final loss over seeds, infinite where a seed came to nothing (None).
    points: (rate, loss)."""
    losses: dict[float, list[float]] = {}
    for rate, loss in points:
        losses.setdefault(rate, []).append(math.inf if loss is None else loss)
    return {rate: sum(values) / len(values) for rate, values in losses.items()}


def best_rate(means: dict[float, float], within: float = 0.0) -> float | None:
    """The rate of lowest mean loss, or a smaller one that comes within that share of it; None where
    every one came to nothing."""
    least = min(means.values(), default=math.inf)
    return (
        None
        if math.isinf(least)
        else min(rate for rate, mean in means.items() if mean <= least * (1.0 + within))
    )
