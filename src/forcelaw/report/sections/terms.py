"""The energy and the force term of the loss, each with its own laws."""

from __future__ import annotations

from functools import partial

from ...figures.laws import FLOPS
from ...figures.spec import Figure, Panel, or_empty
from ...figures.text import pretty
from ..analysis import Analysis
from ..architecture import TERMS, Architecture
from ..section import ARCHITECTURE, Cell, Column, Notes, Section, illustrated, number, table
from ..series import frontier_series, run_series, zoom

UNITS = {"energy": "energy term (eV/atom)", "forces": "force term (eV/Å)"}
# beside the errors, where the study knows them
BESIDE = {"no_model": "Reference energies alone, zero forces", "label_noise": "Noise of the labels"}
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
        data = analysis.source.study.get("data") or {}
        known = {name: data[name] for name in BESIDE if data.get(name)}
        parts.append(table(_columns(known), analysis.fitted, caption=caption))
        if known:
            parts.append(Notes([(BESIDE[name], _errors(known[name])) for name in known]))
    return Section("terms", made.title, parts)


def _errors(values: dict[str, float]) -> str:
    """Errors of energies and forces in words."""
    energy, force = (pretty(values[name]) for name in ("energy_mae", "force_mae"))
    return f"{energy} meV/atom, {force} meV/Å a component"


def _columns(known: dict[str, dict[str, float]]) -> list[Column]:
    """known: errors without a model, and the noise of the labels, as far as they are known."""
    none = known.get("no_model")
    return [
        ARCHITECTURE,
        *(
            Column("", text, cell=partial(_exponent, term, name), over=UNITS[term].split(" (")[0])
            for term in TERMS
            for name, text in SYMBOLS.items()
        ),
        Column("", "energy error", partial(_best, "energy_mae"), small="meV/atom"),
        Column("", "force error", partial(_best, "force_mae"), small="meV/Å a component"),
        *(
            Column("", name, cell=partial(_share, column, none[column]), over="of no model")
            for name, column in (("energy", "energy_mae"), ("forces", "force_mae"))
            if none
        ),
    ]


def _share(column: str, none: float, arch: Architecture) -> Cell:
    """The error of the best run as a share of the one without a model."""
    best = _best(column, arch)
    return Cell(f"{100 * best / none:.1f}%") if best is not None and none > 0 else Cell()


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
