"""Which runs measure what repeating costs, and would bend beta in one surface with the others."""

from __future__ import annotations

from typing import Any

PASSES = 1.05  # over its training set, beyond which a run has repeated it
SMALLER = 0.6  # of the largest training set of its architecture, below which a set is clearly smaller


def repeats_smaller_set(passes: Any, unique: Any, largest: Any) -> Any:
    """Whether a run went more than once over a clearly smaller training set than others of its architecture: for numbers,
    arrays and polars expressions alike. unique: its distinct data; largest: the most that any run has."""
    return (passes > PASSES) & (unique < SMALLER * largest)
