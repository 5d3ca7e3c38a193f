"""The figures of a report, as panels: one pure function from the analysis to each figure."""

from __future__ import annotations

from ..figures.spec import Figure
from .figures_compare import equal_terms, floors
from .figures_laws import (
    diagnosis,
    exponents,
    frontier,
    loss_against_data,
    loss_against_size,
    optimum,
    terms,
)
from .figures_measured import cost, repeats, sweep, symmetry
from .results import Analysis

ALL = (
    frontier,
    exponents,
    equal_terms,
    floors,
    loss_against_size,
    loss_against_data,
    terms,
    optimum,
    cost,
    symmetry,
    sweep,
)


def figures(analysis: Analysis) -> list[Figure]:
    """All figures, in the order of the page; checks and repeats only where there are any."""
    made = [make(analysis) for make in ALL]
    if any(arch.checks for arch in analysis.architectures):
        made.append(diagnosis(analysis))
    if any(len(arch.repeated) for arch in analysis.architectures):
        made.append(repeats(analysis))
    return made
