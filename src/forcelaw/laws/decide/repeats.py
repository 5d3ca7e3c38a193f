"""Which runs measure what repeating costs, and would bend beta in one surface with the others; the
law of repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...table.runs import Runs
    from ..fit.result import FitResult

PASSES = 1.05  # over its training set, beyond which a run has repeated it
# of the largest training set of its architecture, below which a set is clearly smaller
SMALLER = 0.6


def repeats_smaller_set(passes: Any, unique: Any, largest: Any) -> Any:
    """Whether a run went more than once over a clearly smaller training set than others of its
    architecture: for numbers, arrays and polars expressions alike. unique: its distinct data;
    largest: the most that any run has."""
    return (passes > PASSES) & (unique < SMALLER * largest)


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
