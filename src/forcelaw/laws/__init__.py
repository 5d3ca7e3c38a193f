"""Scaling laws of any table of runs: fit, intervals, frontier, comparison, diagnosis, budgets. Needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {"Runs": "table", "fit": "fitting", "FitResult": "result", "Estimate": "result", "LAWS": "forms", "Law": "forms",
          "frontier": "envelope", "Frontier": "envelope", "compute_optimal": "allocation", "Allocation": "allocation",
          "Cost": "allocation", "compare": "comparison", "Comparison": "comparison", "multiplier": "equal_loss",
          "Multiplier": "equal_loss", "diagnose": "diagnosis", "Diagnosis": "diagnosis", "profile_floor": "profile",
          "Profile": "profile", "isoflop": "isoflops", "side_by_side": "isoflops", "budget": "budgeting",
          "Budget": "budgeting", "design": "planning", "Design": "planning"}
__all__ = [  # noqa: RUF022  (ruff sorts by case)
    "Allocation", "Budget", "Comparison", "Cost", "Design", "Diagnosis", "Estimate", "FitResult",
    "Frontier", "LAWS", "Law", "Multiplier", "Profile", "Runs", "budget", "compare",
    "compute_optimal", "design", "diagnose", "fit", "frontier", "isoflop", "multiplier", "profile_floor",
    "side_by_side",
]

if TYPE_CHECKING:
    from .allocation import Allocation, Cost, compute_optimal
    from .budgeting import Budget, budget
    from .comparison import Comparison, compare
    from .diagnosis import Diagnosis, diagnose
    from .envelope import Frontier, frontier
    from .equal_loss import Multiplier, multiplier
    from .fitting import fit
    from .forms import LAWS, Law
    from .isoflops import isoflop, side_by_side
    from .planning import Design, design
    from .profile import Profile, profile_floor
    from .result import Estimate, FitResult
    from .table import Runs


def __getattr__(name: str) -> Any:
    """Import on first use: ``forcelaw --help`` must not wait for SciPy."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
