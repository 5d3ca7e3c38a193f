"""Labels: GFN2-xTB single points by tblite (Bannwarth, Ehlert & Grimme, J. Chem. Theory Comput.
2019, 15, 1652).

Neutral closed shell, 300 K electronic temperature (tblite's default), SCC accuracy 0.1: forces
differ from those at accuracy 1e-4 by less than 5e-5 eV/Angstrom, well under the quantum in which
they are stored, for 17% more time than at the default of 1.0 (3e-4 eV/Angstrom).
"""

from __future__ import annotations

import numpy as np
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

from ...units import energy_factor, force_factor, length_factor

METHOD, ACCURACY = "GFN2-xTB", 0.1


def label(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Total energy in eV and forces (n, 3) in eV/Angstrom at positions (n, 3) in Angstrom; None
    when the SCF fails."""
    calculator = Calculator(
        METHOD, numbers.astype(np.int32), positions / length_factor("bohr"), charge=0.0, uhf=0
    )
    calculator.set("verbosity", 0)
    calculator.set("accuracy", ACCURACY)
    try:
        result = calculator.singlepoint()
    except TBLiteRuntimeError:
        return None
    energy = float(result.get("energy")) * energy_factor("hartree")
    forces = -np.asarray(result.get("gradient"), np.float64) * force_factor("hartree/bohr")
    return energy, forces
