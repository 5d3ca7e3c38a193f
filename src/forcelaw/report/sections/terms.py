"""The energy and the force term of the loss, each with its own laws."""

from __future__ import annotations

from functools import partial

from ...figures.laws import FLOPS
from ...figures.spec import Figure, Panel, or_empty
from ..analysis import Analysis
from ..architecture import TERMS, Architecture
from ..section import ARCHITECTURE, Cell, Column, Section, illustrated, number, table
from ..series import frontier_series, run_series, zoom

UNITS = {"energy": "energy term (eV/atom)", "forces": "force term (eV/Å)"}
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "αβ/(α+β)"}


def section(analysis: Analysis) -> Section:
    """The figure, the exponents of each term, and the smallest errors."""
    made = figure(analysis)
    parts = illustrated(made)
    if analysis.fitted:
        caption = (
            "Exponents of each term, from its own surface L(N, D), and the errors of the run with"
            " the lowest loss."
        )
        parts.append(table(_columns(), analysis.fitted, caption=caption))
    return Section("terms", made.title, parts)


def _columns() -> list[Column]:
    return [
        ARCHITECTURE,
        *(
            Column("", text, cell=partial(_exponent, term, name), over=UNITS[term].split(" (")[0])
            for term in TERMS
            for name, text in SYMBOLS.items()
        ),
        Column("", "energy error", partial(_best, "energy_mae"), small="meV/atom"),
        Column("", "force error", partial(_best, "force_mae"), small="meV/Å a component"),
    ]


def _exponent(term: str, name: str, arch: Architecture) -> Cell:
    return number(arch.term_surfaces[term].get(name), 3)


def _best(column: str, arch: Architecture) -> float | None:
    return arch.frame.sort("loss")[column][0]


def figure(analysis: Analysis) -> Figure:
    """Energy and force terms apart, against FLOPs."""
    panels = []
    for term, title in UNITS.items():
        panel = Panel(FLOPS, title, title=title.split(" (")[0])
        for arch in analysis.architectures:
            panel.series += run_series(arch, "c", f"loss_{term}", opacity=0.22)
        for arch in analysis.architectures:
            panel.series += frontier_series(arch, arch.terms[term])
        zoom(panel, [arch.terms[term] for arch in analysis.architectures])
        panels.append(or_empty(panel, f"the table has no {term} term"))
    return Figure(
        "terms",
        "Energy and forces apart",
        "The loss is the sum of these two and nearly all of it is the force term, so the energy is"
        " shown by itself: it may follow another law.",
        panels,
        "thin: runs · marked: frontier of this term · dashed: its fit",
    )
