"""The contract of one labelled structure. Units are eV, Angstrom, eV/Angstrom everywhere past the
readers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_Z = 118
SYMBOLS = [
    "X",
    "H",
    "He",
    "Li",
    "Be",
    "B",
    "C",
    "N",
    "O",
    "F",
    "Ne",
    "Na",
    "Mg",
    "Al",
    "Si",
    "P",
    "S",
    "Cl",
    "Ar",
    "K",
    "Ca",
    "Sc",
    "Ti",
    "V",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Zn",
    "Ga",
    "Ge",
    "As",
    "Se",
    "Br",
    "Kr",
    "Rb",
    "Sr",
    "Y",
    "Zr",
    "Nb",
    "Mo",
    "Tc",
    "Ru",
    "Rh",
    "Pd",
    "Ag",
    "Cd",
    "In",
    "Sn",
    "Sb",
    "Te",
    "I",
    "Xe",
    "Cs",
    "Ba",
    "La",
    "Ce",
    "Pr",
    "Nd",
    "Pm",
    "Sm",
    "Eu",
    "Gd",
    "Tb",
    "Dy",
    "Ho",
    "Er",
    "Tm",
    "Yb",
    "Lu",
    "Hf",
    "Ta",
    "W",
    "Re",
    "Os",
    "Ir",
    "Pt",
    "Au",
    "Hg",
    "Tl",
    "Pb",
    "Bi",
    "Po",
    "At",
    "Rn",
    "Fr",
    "Ra",
    "Ac",
    "Th",
    "Pa",
    "U",
    "Np",
    "Pu",
    "Am",
    "Cm",
    "Bk",
    "Cf",
    "Es",
    "Fm",
    "Md",
    "No",
    "Lr",
    "Rf",
    "Db",
    "Sg",
    "Bh",
    "Hs",
    "Mt",
    "Ds",
    "Rg",
    "Cn",
    "Nh",
    "Fl",
    "Mc",
    "Lv",
    "Ts",
    "Og",
]


@dataclass(slots=True)
class Structure:
    """One frame with its labels (n atoms).

    numbers   (n,)   uint8    atomic numbers
    positions (n, 3) float64  Angstrom
    energy    float64         total energy of the structure, eV
    forces    (n, 3) float64  eV/Angstrom, minus the gradient
    cell      (3, 3) float64  rows are lattice vectors, Angstrom; None for a molecule
    pbc       (3,)   bool     periodic directions; None for a molecule
    charge    total charge in e; None when the source does not say
    spin      multiplicity 2S+1; None when the source does not say
    group     label of the molecule (or material); frames of one group never straddle a split
    where     file and frame, for messages
    """

    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None
    charge: int | None = None
    spin: int | None = None
    group: str = ""
    where: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def formula(numbers: np.ndarray) -> str:
    """Hill formula (C, H, then alphabetical), the fallback group label: conformers of a molecule
    always share it."""
    symbols, counts = np.unique([SYMBOLS[z] for z in numbers], return_counts=True)
    order = {str(s): int(c) for s, c in zip(symbols, counts)}
    first = [s for s in ("C", "H") if s in order] if "C" in order else []
    return "".join(
        f"{s}{order[s] if order[s] > 1 else ''}" for s in [*first, *sorted(set(order) - set(first))]
    )
