"""The sections of a report, in the order of the page.

Each is a function of the :class:`~forcelaw.report.analysis.Analysis` that returns a
:class:`~forcelaw.report.section.Section`, or None where there is nothing to say. Another section
is one more function in SECTIONS; another number is one more column of a section's table.
"""

from __future__ import annotations

from collections.abc import Callable

from ..analysis import SWEEP, Analysis
from ..section import Section
from . import (
    burn_in,
    certificates,
    checks,
    cost,
    data,
    exponents,
    floors,
    frontier,
    optimum,
    problems,
    provenance,
    ratios,
    repeats,
    size,
    sweep,
    symmetry,
    terms,
)

SECTIONS: list[Callable[[Analysis], Section | None]] = [
    frontier.section,
    ratios.section,
    exponents.section,
    floors.section,
    size.section,
    data.section,
    repeats.section,
    terms.section,
    optimum.section,
    cost.section,
    symmetry.section,
    sweep.section,
    checks.section,
    burn_in.section,
    problems.section,
    certificates.section,
    provenance.section,
]


# section -> the columns without which it has nothing to show of a table that we did not write
MEASURED_BY_US = {
    "terms": ["loss_energy"],
    "symmetry": ["rotation_error"],
    "certificates": ["variant"],
    "cost": ["kappa", "throughput"],
}


def sections(analysis: Analysis) -> list[Section]:
    """Every section that has something to say."""
    out = [made for make in SECTIONS if (made := make(analysis)) is not None]
    if analysis.source.ours:
        return out
    known = analysis.source.frame
    empty = {
        name
        for name, columns in MEASURED_BY_US.items()
        if all(known[column].is_null().all() for column in columns)
    }
    if SWEEP not in known["kind"].to_list():
        empty.add("lr_sweep")
    return [made for made in out if made.name not in empty]
