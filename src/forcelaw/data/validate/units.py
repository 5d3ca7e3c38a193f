"""Do the numbers look like the units they are said to be in? Two yardsticks that every chemist
carries."""

from __future__ import annotations

import numpy as np

from ... import units
from ...elements import MAX_Z
from ..filters import starts

# Total energies of free atoms, -hartree (Hartree-Fock limit, Clementi & Roetti 1974, At. Data Nucl.
# Data Tables 14, 177). All-electron energies of molecules lie within 2% of their sum, so a wrong
# energy unit stands out; energies with pseudopotentials, or relative to atoms, match nothing here
# and are left alone.
_FREE_ATOM = {
    **{
        1: 0.5,
        3: 7.433,
        5: 24.529,
        6: 37.689,
        7: 54.401,
        8: 74.809,
        9: 99.409,
        11: 161.859,
        12: 199.615,
    },
    **{13: 241.877, 14: 288.854, 15: 340.719, 16: 397.505, 17: 459.482, 35: 2572.441},
}
# Covalent radii in Angstrom (Cordero et al. 2008, Dalton Trans. 2832) of the elements that make
# most molecules
_RADIUS = {
    1: 0.31,
    5: 0.84,
    6: 0.76,
    7: 0.71,
    8: 0.66,
    9: 0.57,
    14: 1.11,
    15: 1.07,
    16: 1.05,
    17: 1.02,
    35: 1.2,
    53: 1.39,
}
_RADII = np.full(MAX_Z + 1, np.nan)  # by atomic number; NaN where unknown
_RADII[list(_RADIUS)] = list(_RADIUS.values())
_PAIRS = 1 << 18  # distances that are held at once
_BONDS = (0.7, 1.45)  # sensible medians of nearest-neighbour distance over sum of radii


def free_atom_energies(elements: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Free-atom energies summed over each structure, eV, (s,); NaN where unknown. table (s, k):
    atoms of each of the elements (k,)."""
    energies = np.array([-_FREE_ATOM.get(z, np.nan) for z in elements.tolist()])
    energies, known = energies * units.ENERGY["hartree"], np.isfinite(energies)
    out: np.ndarray = table[:, known] @ energies[known]
    out[table[:, ~known].any(axis=1)] = np.nan
    return out


def bond_ratios(counts: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Nearest-neighbour distance of each atom over the sum of covalent radii, in structures all of
    whose radii are known: float64 (n,), in no order. counts (s,), numbers (a,), positions (a, 3).
    Of a structure beyond 512 atoms as many atoms are looked at as have _PAIRS distances."""
    first, out = starts(counts), [np.zeros(0)]
    known = (counts > 1) & np.logical_and.reduceat(np.isfinite(_RADII[numbers]), first)
    for count in np.unique(counts[known]).tolist():
        of_size = first[known & (counts == count)]
        looked = np.arange(min(count, max(1, _PAIRS // count)))
        at_once = max(1, _PAIRS // (count * len(looked)))
        for k in range(0, len(of_size), at_once):
            atoms = of_size[k : k + at_once, None] + np.arange(count)
            radius, place = _RADII[numbers[atoms]], positions[atoms]
            square = np.zeros((len(place), len(looked), count))
            for x in np.moveaxis(place, 2, 0):  # whole rows at a time: three numbers are too few
                step = x[:, looked, None] - x[:, None]
                square += step * step
            square[:, looked, looked] = np.inf
            ratio = np.sqrt(square) / (radius[:, looked, None] + radius[:, None])
            out.append(ratio.min(axis=2).reshape(-1))
    return np.concatenate(out)


def energy_doubt(ratio: float | None, unit: str) -> tuple[str, str] | None:
    """(what, remedy) if energies look like another unit than the one they are read in; None if
    all is well.

    ratio: energies, converted from ``unit`` to eV, over the energies of the free atoms.
    """
    for name, factor in units.ENERGY.items():
        if (
            ratio is not None
            and name != unit
            and abs(ratio * factor / units.energy_factor(unit) - 1) < 0.02
        ):
            what = (
                f"energies look like {name}, not {unit}: they are {ratio:.4g} times those of the"
                " free atoms"
            )
            return (
                what,
                f"pass --energy-unit {name} (and --force-unit, if forces are in yet another unit)",
            )
    return None


def length_doubt(ratio: float | None) -> tuple[str, str] | None:
    """(what, remedy) if the median of :func:`bond_ratios` is none of a molecule."""
    if ratio is None or _BONDS[0] < ratio < _BONDS[1]:
        return None
    what = (
        f"the length unit looks wrong: nearest neighbours lie at {ratio:.2f} times a bond length"
        " (median)"
    )
    return what, "pass --length-unit with the unit that positions really are in"
