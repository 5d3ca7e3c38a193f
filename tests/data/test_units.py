"""Conversion factors against the constants of scipy, which come from another table (CODATA)."""

from __future__ import annotations

import pytest
from scipy import constants

from forcelaw import units
from forcelaw.errors import DataError

EV, MOL, ANGSTROM = constants.e, constants.N_A, constants.angstrom
HARTREE = constants.physical_constants["Hartree energy"][0]
BOHR = constants.physical_constants["Bohr radius"][0]
ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": HARTREE / EV,
    "rydberg": HARTREE / 2 / EV,
    "kJ/mol": 1000 / MOL / EV,
    "kcal/mol": 4184 / MOL / EV,
}
LENGTH = {"Angstrom": 1.0, "bohr": BOHR / ANGSTROM, "nm": 10.0, "pm": 0.01}


def test_every_factor():
    # 4e-7 covers kcal/mol, whose factor is kept; all others agree to 1e-9
    assert {
        u: pytest.approx(v, rel=4e-7 if u == "kcal/mol" else 1e-9) for u, v in ENERGY.items()
    } == {u: units.energy_factor(u) for u in units.ENERGY}
    assert {u: pytest.approx(v, rel=1e-9) for u, v in LENGTH.items()} == {
        u: units.length_factor(u) for u in units.LENGTH
    }


@pytest.mark.parametrize(("energy", "length"), [("kcal/mol", "Angstrom"), ("hartree", "bohr")])
def test_forces_are_energy_over_length(energy, length):
    expected = ENERGY[energy] / LENGTH[length]
    assert units.force_factor(f"{energy}/{length}") == pytest.approx(expected, rel=4e-7)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [(" Ha", "hartree"), ("KCAL/MOL", "kcal/mol"), ("ang", "Angstrom"), ("a0", "bohr")],
)
def test_spellings(spelling, name):
    assert units.canonical(spelling) == name


@pytest.mark.parametrize(
    ("convert", "unit"),
    [
        (units.energy_factor, "bohr"),
        (units.length_factor, "eV"),
        (units.force_factor, "eV"),
        (units.force_factor, "bohr/eV"),
        (units.energy_factor, "kcal/mole"),
    ],
)
def test_other_units_are_refused_with_those_that_are_known(convert, unit):
    with pytest.raises(DataError) as error:
        convert(unit)
    assert unit.split("/")[0] in error.value.what and error.value.remedy
