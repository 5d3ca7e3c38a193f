"""forcelaw: a laboratory for the scaling laws of neural force fields.

Importing this package imports neither torch nor numpy, so that ``forcelaw --help`` is instant; each
public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Calculator": "calculator",
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
    "rates": "laws.decide.rates",
    "ratios": "laws.compare.ratios",
    "train": "api.run",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from .api.run import Run as Run
    from .api.run import load_run as load_run
    from .api.run import train as train
    from .api.study import Study as Study
    from .calculator import Calculator as Calculator
    from .laws.compare.compare import compare as compare
    from .laws.compare.ratios import ratios as ratios
    from .laws.decide.allocation import compute_optimal as compute_optimal
    from .laws.decide.budget import budget as budget
    from .laws.decide.design import design as design
    from .laws.decide.forecast import forecast as forecast
    from .laws.decide.rates import rates as rates
    from .laws.diagnose.diagnose import diagnose as diagnose
    from .laws.fit.averaging import average as average
    from .laws.fit.fit import fit as fit
    from .laws.frontier.frontier import frontier as frontier
    from .laws.frontier.isoflop import isoflop as isoflop
    from .table.runs import Runs as Runs


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
