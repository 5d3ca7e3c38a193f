"""Which runs measure what repeating costs, and would bend beta in one surface with the others; the
law of repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ...table.runs import Runs
    from ..fit.result import FitResult

PASSES = 1.05  # over its training set, beyond which a run has repeated it
# of another training set, below which a set is clearly smaller
SMALLER = 0.6
NEAR = 2.0  # a factor in D within which two evaluations are of one length


def repeats_smaller_set(
    run: np.ndarray, group: np.ndarray, seen: np.ndarray, unique: np.ndarray
) -> np.ndarray:
    """Which runs went more than once over a clearly smaller training set than another run of their
    architecture had when it had seen as much: a bool for each run. What a run on few data says of a
    length that no other has is not about repeats.

    run: rows (n,), 0 to R - 1. group: architecture of each run (R,). seen, unique: D and distinct
    data of each row (n,).
    """
    end, most, passes = np.zeros((3, len(group)))
    np.fmax.at(end, run, seen)
    np.fmax.at(most, run, unique)
    np.fmax.at(passes, run, seen / unique)
    small = np.zeros(len(group), bool)
    for k in np.flatnonzero(passes > PASSES):
        larger = (group == group[k]) & (SMALLER * most > most[k])
        near = np.abs(np.log(seen / end[k])) < np.log(NEAR)
        small[k] = bool((larger[run] & near).any())
    return small


def fit_repeats(runs: Runs, **settings: Any) -> FitResult:
    """The law of repeated data that ``runs`` ask for: ``data_constrained``, or
    ``data_constrained_by_size`` where repeats clearly wear out sooner for larger models (the
    interval of rho lies above zero) and that law is nearer to the losses; both have equally many
    parameters. settings: those of :func:`forcelaw.laws.fit.fit.fit`."""
    from ..fit.fit import fit

    plain = fit(runs, "data_constrained", **settings)
    # objectives can be compared only at one delta
    same = {"delta": plain.delta} if plain.delta is not None else {}
    sized = fit(runs, "data_constrained_by_size", **(settings | same))
    rho = sized.parameters.get("rho")
    nearer = sized.ok and (not plain.ok or sized.objective < plain.objective)
    return sized if nearer and rho is not None and rho.low is not None and rho.low > 0 else plain
