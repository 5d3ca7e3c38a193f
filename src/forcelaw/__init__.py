"""forcelaw: a laboratory for the scaling laws of neural force fields.

Importing this package imports neither torch nor numpy, so that ``forcelaw --help`` is instant; each
public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Run": "api.run",
    "Runs": "table.runs",
    "Study": "api.study",
    "average": "laws.fit.averaging",
    "budget": "laws.decide.budget",
    "compare": "laws.compare.compare",
    "compute_optimal": "laws.decide.allocation",
    "design": "laws.decide.design",
    "diagnose": "laws.diagnose.diagnose",
    "fit": "laws.fit.fit",
    "forecast": "laws.decide.forecast",
    "frontier": "laws.frontier.frontier",
    "isoflop": "laws.frontier.isoflop",
    "load_run": "api.run",
    "ratios": "laws.compare.ratios",
    "train": "api.run",
}
__all__ = [
    "Run",
    "Runs",
    "Study",
    "__version__",
    "average",
    "budget",
    "compare",
    "compute_optimal",
    "design",
    "diagnose",
    "fit",
    "forecast",
    "frontier",
    "isoflop",
    "load_run",
    "ratios",
    "train",
]

if TYPE_CHECKING:
    from .api.run import Run, load_run, train
    from .api.study import Study
    from .laws.compare.compare import compare
    from .laws.compare.ratios import ratios
    from .laws.decide.allocation import compute_optimal
    from .laws.decide.budget import budget
    from .laws.decide.design import design
    from .laws.decide.forecast import forecast
    from .laws.diagnose.diagnose import diagnose
    from .laws.fit.averaging import average
    from .laws.fit.fit import fit
    from .laws.frontier.frontier import frontier
    from .laws.frontier.isoflop import isoflop
    from .table.runs import Runs


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
