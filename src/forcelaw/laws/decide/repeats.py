"""Which runs measure what repeating costs, and would bend beta in one surface with the others; the
law of repeats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ...table.runs import Runs
    from ..fit.result import FitResult

PASSES = 1.05  # over its training set, beyond which a run has repeated it
# of another training set, below which a set is clearly smaller
SMALLER = 0.6
SAME_SIZE, SAME_LENGTH = 1.1, 2.0  # factors in N and in D


def repeats_smaller_set(
    run: np.ndarray, group: np.ndarray, n: np.ndarray, seen: np.ndarray, unique: np.ndarray
) -> np.ndarray:
    """Which runs went more than once over a clearly smaller training set than another run of their
    architecture and size had when it had seen as much: a bool for each run. What a run on few data
    says of a size or a length that no other has is not about repeats.

    run: rows (n,), 0 to R - 1. group: architecture of each run (R,). n, seen, unique: N, D and
    distinct data of each row (n,).
    """
    size, end, most, passes = np.zeros((4, len(group)))
    for most_of, values in ((size, n), (end, seen), (most, unique), (passes, seen / unique)):
        np.fmax.at(most_of, run, values)
    small = np.zeros(len(group), bool)
    for k in np.flatnonzero(passes > PASSES):
        larger = (group == group[k]) & (SMALLER * most > most[k])
        larger &= np.abs(np.log(size / size[k])) < np.log(SAME_SIZE)
        near = np.abs(np.log(seen / end[k])) < np.log(SAME_LENGTH)
        small[k] = bool((larger[run] & near).any())
    return small


def fit_repeats(runs: Runs, **settings: Any) -> FitResult:
    """The law of repeated data that ``runs`` ask for: ``data_constrained``; or, where it is nearer
    to the losses and they clearly show what it adds, ``data_constrained_by_size`` (repeats wear out
    sooner for larger models: the interval of rho lies above zero) or ``data_constrained_coupled``
    (that of p leaves out 1). All have equally many parameters. settings: those of
    :func:`forcelaw.laws.fit.fit.fit`."""
    from ..fit.fit import fit

    best = fit(runs, "data_constrained", **settings)
    # objectives can be compared only at one delta
    same = {"delta": best.delta} if best.delta is not None else {}
    for law, name, without in (
        ("data_constrained_by_size", "rho", (-math.inf, 0.0)),
        ("data_constrained_coupled", "p", (1.0, 1.0)),
    ):
        found = fit(runs, law, **(settings | same))
        nearer = found.ok and (not best.ok or found.objective < best.objective)
        low, high = _interval(found, name)
        if nearer and (low > without[1] or high < without[0]):
            best = found
    return best


def _interval(found: FitResult, name: str) -> tuple[float, float]:
    """Of a parameter; without bounds where it has none."""
    one = found.parameters.get(name)
    if one is None or one.low is None or one.high is None:
        return -math.inf, math.inf
    return one.low, one.high
