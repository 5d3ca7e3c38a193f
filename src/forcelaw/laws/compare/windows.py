"""The ranges of N, D and costs that two architectures have in common: an exponent changes with the
window that it is read in, so what is compared is read in one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...table.runs import Runs
from ..fit.problem import SAME_LEVEL
from .size_pairs import COMPARED_SIZE

Window = dict[str, tuple[float, float]]  # lowest and highest value of a role
# values this much outside, in ln, still count: sizes are matched to no better
SLACK = {"n": COMPARED_SIZE, "d": SAME_LEVEL, "c": SAME_LEVEL, "h": SAME_LEVEL}


def common_window(parts: Iterable[Runs], roles: Iterable[str]) -> Window:
    """What all tables cover of each of ``roles``; nothing for roles that are not matched (distinct
    data u, ...)."""
    parts = list(parts)
    return {
        role: (
            float(max(part[role].min() for part in parts)),
            float(min(part[role].max() for part in parts)),
        )
        for role in roles
        if role in SLACK and all(role in part for part in parts)
    }


def inside(runs: Runs, window: Window) -> Runs:
    """The rows inside the window; the table itself where that is all of them."""
    mask = np.ones(len(runs), bool)
    for role, (low, high) in window.items():
        slack = np.exp(SLACK[role])
        mask &= (runs[role] >= low / slack) & (runs[role] <= high * slack)
    return runs if mask.all() else runs.take(mask)


def window_words(window: Window) -> str:
    """The window in a line."""
    return ", ".join(
        f"{role.upper()} from {low:.3g} to {high:.3g}" for role, (low, high) in window.items()
    )
