"""Learning-rate sweeps, wherever their runs are read from: run directories while a study goes on, a table afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable


def mean_losses(points: Iterable[tuple[float, float | None]]) -> dict[float, float]:
    """Learning rate -> mean final loss over seeds, infinite where a seed came to nothing (None). points: (rate, loss)."""
    losses: dict[float, list[float]] = {}
    for rate, loss in points:
        losses.setdefault(rate, []).append(math.inf if loss is None else loss)
    return {rate: sum(values) / len(values) for rate, values in losses.items()}


def best_rate(means: dict[float, float]) -> float | None:
    """The rate of lowest mean loss; None where every one came to nothing."""
    best = min(means, key=lambda rate: means[rate], default=None)
    return None if best is None or math.isinf(means[best]) else best
