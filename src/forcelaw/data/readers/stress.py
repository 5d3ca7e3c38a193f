"""Stress as it stands in files, and as it is inside: the symmetric tensor sigma = (1/V)
dE/d(strain) in eV/Angstrom^3, positive under tension, as in ASE.

Sign, order of the six Voigt components and unit differ between programs:

    ase      xx yy zz yz xz xy, positive under tension, eV/Angstrom^3 (mace, fairchem and metatrain
             read the same)
    vasp     xx yy zz xy yz zx, positive under compression, kbar (the line "in kB" of an OUTCAR)
    lammps   xx yy zz xy xz yz, positive under compression, bar ("pressure" in units metal)

A virial is -V sigma in eV: positive under compression (QUIP, mace, deepmd).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ... import units
from ...errors import DataError
from .base import SourceOptions

# names under which files keep it; a virial is only looked for where there is no stress
STRESS_KEYS = ("stress", "REF_stress")
VIRIAL_KEYS = ("virial", "virials", "REF_virial", "REF_virials")
NONE = np.full((3, 3), np.nan)  # of a structure whose source gives no stress


@dataclass(frozen=True)
class Convention:
    """order: which component each of the six Voigt numbers is. sign: times this, tension is
    positive. unit: of the numbers."""

    order: str
    sign: float
    unit: str

    def tensors(self, values: np.ndarray) -> np.ndarray:
        """(s, 6) or (s, 3, 3) or (s, 9) to (s, 3, 3) in eV/Angstrom^3, tension positive."""
        if values.shape[1:] == (6,):
            out = np.empty((len(values), 3, 3))
            for k, pair in enumerate(self.order.split()):
                i, j = "xyz".index(pair[0]), "xyz".index(pair[1])
                out[:, i, j] = out[:, j, i] = values[:, k]
        else:
            out = values.reshape(-1, 3, 3)
            out = (out + out.transpose(0, 2, 1)) / 2
        return out * (self.sign * units.stress_factor(self.unit))


CONVENTIONS = {
    "ase": Convention("xx yy zz yz xz xy", 1.0, "eV/Angstrom^3"),
    "vasp": Convention("xx yy zz xy yz zx", -1.0, "kbar"),
    "lammps": Convention("xx yy zz xy xz yz", -1.0, "bar"),
}


@dataclass(frozen=True)
class StressRule:
    """Where the stress of a source is and how it is written. key: its name there. energy: factor of
    a virial to eV."""

    key: str
    virial: bool
    convention: Convention
    energy: float = 1.0

    def __call__(
        self, value: object, cell: np.ndarray | None, place: Callable[[], str]
    ) -> np.ndarray:
        """One structure's value in the file (None: not given) as (3, 3) eV/Angstrom^3. cell: (3, 3)
        Angstrom, which a virial needs."""
        if value is None:
            return NONE
        try:
            numbers = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            numbers = np.zeros(0)
        if numbers.size not in (6, 9):
            raise DataError(
                f"{self.key} holds {str(value)[:60]!r}, expected 6 (Voigt) or 9 numbers",
                where=place(),
                remedy="correct the structure, or name the stress with --stress-key (or pass"
                " --no-stress)",
            )
        flat = numbers.reshape(1, 6) if numbers.size == 6 else numbers.reshape(1, 3, 3)
        tensor: np.ndarray = self.convention.tensors(flat)[0]
        if not self.virial:
            return tensor
        volume = 0.0 if cell is None else abs(float(np.linalg.det(cell)))
        if volume < 1e-9:
            return NONE  # without a volume there is no stress
        return -tensor * self.energy / volume

    def stacked(
        self, values: Iterable[object], cells: np.ndarray | None, place: Callable[[int], str]
    ) -> np.ndarray:
        """Those of s structures: (s, 3, 3). values: of each; cells (s, 3, 3) Angstrom; place: of
        structure k."""
        return np.stack(
            [
                self(value, None if cells is None else cells[k], partial(place, k))
                for k, value in enumerate(values)
            ]
        )

    @property
    def text(self) -> str:
        """As :attr:`Source.keys` says it."""
        if self.virial:
            return f"minus {self.key} over the volume"
        sign = "tension" if self.convention.sign > 0 else "compression"
        return f"{self.key}, {self.convention.unit}, {sign} positive"


def stress_rule(options: SourceOptions, seen: list[str], energy: float = 1.0) -> StressRule | None:
    """How the stress of a source is read: by the key that the user names, else by one of the usual
    names among ``seen``; None where there is none, or where the user wants none.

    energy: factor of the source's energy unit to eV, for virials.
    """
    if options.no_stress:
        return None
    convention = CONVENTIONS[options.stress_convention or "ase"]
    if options.stress_unit:
        convention = replace(convention, unit=options.stress_unit)
    units.stress_factor(convention.unit)
    key, virial = options.stress_key or options.virial_key, bool(options.virial_key)
    if key is None:
        key = next((k for k in STRESS_KEYS if k in seen), None)
        if key is None:
            key = next((k for k in VIRIAL_KEYS if k in seen), None)
            virial = key is not None
    if key is None:
        return None
    if key not in seen:
        raise DataError(
            f"no key {key!r} for the stress; keys seen: {', '.join(seen) or 'none'}",
            remedy=f"pass {'--virial-key' if virial else '--stress-key'} with one of these",
        )
    if virial:  # the numbers are energies: only their order and sign are a convention
        return StressRule(key, True, Convention(convention.order, 1.0, "eV/Angstrom^3"), energy)
    return StressRule(key, False, convention)
