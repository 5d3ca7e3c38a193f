"""Units: eV, Angstrom and eV/Angstrom inside; this module is the only place that converts.

Constants are CODATA 2018, but for kcal/mol.
"""

from __future__ import annotations

from .errors import DataError

# one unit of the key, in eV
ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": 27.211386245988,
    # 2.6e-7 above 4184 J / (N_A e): the older value that many packages carry, kept so that packs
    # prepared before keep their hashes
    "kcal/mol": 0.0433641153087705,
    "kJ/mol": 0.010364269656262175,
    "rydberg": 13.605693122994,
}
# one unit of the key, in Angstrom
LENGTH = {"Angstrom": 1.0, "bohr": 0.529177210903, "nm": 10.0, "pm": 0.01}
_GPA = 1.0 / 160.2176634  # eV/Angstrom^3; exact since 2019
# one unit of the key, in eV/Angstrom^3
STRESS = {"eV/Angstrom^3": 1.0, "meV/Angstrom^3": 1e-3, "GPa": _GPA, "MPa": 1e-3 * _GPA}
STRESS |= {"kbar": 0.1 * _GPA, "bar": 1e-4 * _GPA, "Pa": 1e-9 * _GPA}
STRESS |= {"hartree/bohr^3": ENERGY["hartree"] / LENGTH["bohr"] ** 3}

_ALIASES = {
    "ev": "eV",
    "mev": "meV",
    "ha": "hartree",
    "hartree": "hartree",
    "eh": "hartree",
    "kcal/mol": "kcal/mol",
    "kcal mol-1": "kcal/mol",
    "kcal": "kcal/mol",
    "kj/mol": "kJ/mol",
    "kj": "kJ/mol",
    "ry": "rydberg",
    "rydberg": "rydberg",
    "ang": "Angstrom",
    "angstrom": "Angstrom",
    "angstroms": "Angstrom",
    "a": "Angstrom",
    "å": "Angstrom",
    "bohr": "bohr",
    "a0": "bohr",
    "nm": "nm",
    "nanometer": "nm",
    "pm": "pm",
}


def canonical(name: str) -> str:
    """The canonical spelling of a unit name; unknown names are an error that lists the known
    ones."""
    found = _ALIASES.get(name.strip().lower())
    if found is None:
        raise DataError(
            f"unknown unit {name!r}",
            remedy=f"use one of: {', '.join([*ENERGY, *LENGTH])} (forces as energy/length)",
        )
    return found


def energy_factor(unit: str) -> float:
    """Multiply an energy in ``unit`` by this to get eV."""
    name = canonical(unit)
    if name not in ENERGY:
        raise DataError(
            f"{unit!r} is not an energy unit", remedy=f"use one of: {', '.join(ENERGY)}"
        )
    return ENERGY[name]


def length_factor(unit: str) -> float:
    """Multiply a length in ``unit`` by this to get Angstrom."""
    name = canonical(unit)
    if name not in LENGTH:
        raise DataError(f"{unit!r} is not a length unit", remedy=f"use one of: {', '.join(LENGTH)}")
    return LENGTH[name]


def force_factor(unit: str) -> float:
    """Multiply a force in ``unit`` ("energy/length", for example "kcal/mol/Angstrom") by this to
    get eV/Angstrom."""
    energy, slash, length = unit.rpartition("/")
    if not slash:
        raise DataError(
            f"{unit!r} is not a force unit",
            remedy="write it as energy/length, for example eV/Angstrom",
        )
    return energy_factor(energy) / length_factor(length)


def stress_factor(unit: str) -> float:
    """Multiply a stress in ``unit`` by this to get eV/Angstrom^3."""
    known = {name.lower(): factor for name, factor in STRESS.items()}
    found = known.get(unit.strip().lower())
    if found is None:
        raise DataError(f"{unit!r} is not a stress unit", remedy=f"use one of: {', '.join(STRESS)}")
    return found
