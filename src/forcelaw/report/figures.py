"""The figures of a report, as panels: one pure function from the analysis to each figure."""

from __future__ import annotations

from .figures_laws import exponents, frontier, loss_against_data, loss_against_size, optimum, terms
from .figures_measured import cost, sweep, symmetry
from .results import Analysis
from .spec import Figure

ALL = (frontier, exponents, loss_against_size, loss_against_data, terms, optimum, cost, symmetry, sweep)


def figures(analysis: Analysis) -> list[Figure]:
    """All figures, in the order of the page."""
    return [make(analysis) for make in ALL]
