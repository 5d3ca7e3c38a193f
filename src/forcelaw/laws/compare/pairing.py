"""Which runs of two architectures are a pair: same size step, same seed, same data in the same
order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...table.runs import Runs
from ..fit.problem import SAME_LEVEL
from ..fit.result import spread

# sizes of a pair may differ by this in ln N: a size dial does not hit a target exactly
PAIRED_SIZE = 0.25


@dataclass
class Pairing:
    """first[i] and second[i] are the run labels (clusters) of pair i; every run of both tables is
    in one pair."""

    first: np.ndarray
    second: np.ndarray


def pair(first: Runs, second: Runs) -> tuple[Pairing | None, str]:
    """The pairing of two tables, or None with the reason. Runs are paired when each has exactly one
    partner of the same seed and size step that was evaluated at the same D."""
    if first.seed is None or second.seed is None:
        return None, "there is no seed column to pair runs by"
    keys_a, keys_b = _signatures(first), _signatures(second)
    if len(keys_a) != len(keys_b):
        return None, f"{len(keys_a)} runs against {len(keys_b)}"
    left, right = [], []
    free = set(range(len(keys_b)))
    for i, (seed, ln_n, clock) in enumerate(keys_a):
        fit = [
            j
            for j in free
            if keys_b[j][0] == seed
            and abs(keys_b[j][1] - ln_n) < PAIRED_SIZE
            and len(keys_b[j][2]) == len(clock)
            and np.allclose(keys_b[j][2], clock, atol=SAME_LEVEL)
        ]
        if not fit:
            return None, f"run {first.run_names[i]} has no partner of the same size, seed and data"
        best = min(fit, key=lambda j: abs(keys_b[j][1] - ln_n))
        free.discard(best)
        left.append(i)
        right.append(best)
    return Pairing(np.array(left), np.array(right)), ""


def difference_se(
    points: list[np.ndarray], draws: list[np.ndarray], pairing: Pairing | None
) -> np.ndarray:
    """Standard error of points[1] - points[0] [...] from the two jackknives [G, ...]; pairs of runs
    are deleted together where there are any."""
    if pairing is not None:
        jumps = draws[1][pairing.second] - draws[0][pairing.first]
        return spread(jumps, points[1] - points[0], "jackknife")
    return np.sqrt(sum(spread(d, p, "jackknife") ** 2 for d, p in zip(draws, points)))


def _signatures(runs: Runs) -> list[tuple[str, float, np.ndarray]]:
    """Seed, ln N and sorted ln D of every run."""
    out = []
    assert runs.seed is not None
    for r in range(len(runs.run_names)):
        rows = np.flatnonzero(runs.run == r)
        ln_n = float(np.log(runs["n"][rows[0]]))
        out.append((str(runs.seed[rows[0]]), ln_n, np.sort(np.log(runs["d"][rows]))))
    return out
