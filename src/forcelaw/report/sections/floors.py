"""The floor: what no size and no data would remove, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...figures.laws import floor_effect, floor_profile
from ...figures.spec import Figure
from ...figures.text import pretty
from ..analysis import Analysis
from ..architecture import Architecture
from ..section import ARCHITECTURE, Cell, Column, Section, csv, illustrated, p_value, table


def _of(name: str) -> Callable[[Architecture], Any]:
    return lambda arch: getattr(arch.profile, name)


def _floor(arch: Architecture) -> float | None:
    found = arch.surface.get("E")
    return found.value if found else None


def _interval(arch: Architecture) -> Cell:
    small = f"{pretty(arch.profile.low)} to {pretty(arch.profile.high)}"
    return Cell(pretty(_floor(arch)), (small,))


def _above_zero(arch: Architecture) -> Cell:
    small = f"p {p_value(arch.profile.p_zero)}"
    return Cell("yes" if arch.profile.excludes_zero else "no", (small,))


def _gamma(name: str, style: str = "") -> Callable[[Architecture], Cell]:
    return lambda arch: Cell(f"{getattr(arch.profile, name):.3f}", style=style)


COLUMNS = [
    ARCHITECTURE,
    Column("floor", "floor E", _floor, _interval),
    Column("low", value=_of("low")),
    Column("high", value=_of("high")),
    Column("p_zero", "above zero?", _of("p_zero"), _above_zero),
    Column("gamma_zero", "γ with floor 0", _of("gamma_zero"), _gamma("gamma_zero")),
    Column("gamma_free", "γ as fitted", _of("gamma_free"), _gamma("gamma_free", "strong")),
    Column("gamma_high", "γ with the largest floor", _of("gamma_high"), _gamma("gamma_high")),
]


def section(analysis: Analysis) -> Section:
    """The profile of every floor, drawn and in numbers."""
    rows = [arch for arch in analysis.architectures if arch.profile is not None]
    made = figure(rows)
    parts = illustrated(made)
    shown = [arch for arch in rows if arch.surface.get("E") is not None]
    if shown:
        parts.append(table(COLUMNS, shown, "floors-data"))
    return Section("floors", made.title, parts, [csv("floors", COLUMNS, rows)])


def figure(archs: list[Architecture]) -> Figure:
    """The profile of the floor of every architecture, and what the floor does to the exponent."""
    profiles = [(arch.look, arch.profile) for arch in archs]
    effects = [(arch.look, arch.profile, _floor(arch) or 0.0) for arch in archs]
    return Figure(
        "floors",
        "The floor: what no size and no data would remove",
        "Left, how much worse the law fits when its floor is held at another value: where a curve"
        " lies below the dotted line the data allow that floor, and one that is still below it at"
        " zero cannot say whether there is a floor; right, the exponent that goes with a floor of"
        " zero, the fitted one and the largest one allowed.",
        [floor_profile(profiles), floor_effect(effects)],
        "dotted: edge of the 95% interval · marks: floor zero, fitted, largest",
    )
