"""Chemical elements: symbols, atomic numbers, formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

MAX_Z = 118
# by atomic number; X stands at 0, which is no element
_SYMBOLS = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb
Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf
Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = _SYMBOLS.split()
Z_OF = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}


def formula(numbers: Iterable[int]) -> str:
    """Hill formula (C, H, then alphabetical) of atomic numbers: C2H6O for ethanol."""
    counts = Counter(numbers)
    (found,) = formulas(list(counts), [list(counts.values())])
    return found


def formulas(elements: Sequence[int], rows: Sequence[Sequence[int]]) -> list[str]:
    """Hill formulas of many structures: rows of atoms of each of the elements (atomic numbers)."""
    names = {SYMBOLS[z]: column for column, z in enumerate(elements)}
    alphabetical = [(s, names[s]) for s in sorted(names)]
    first = [(s, names[s]) for s in ("C", "H") if s in names]
    hill = first + [pair for pair in alphabetical if pair not in first]
    out, carbon = [], names.get("C")
    for row in rows:
        order = hill if carbon is not None and row[carbon] else alphabetical
        out.append("".join([f"{s}{row[k]}" if row[k] > 1 else s for s, k in order if row[k]]))
    return out
