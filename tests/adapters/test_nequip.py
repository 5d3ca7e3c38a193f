"""NequIP and Allegro as columns. Skipped where nequip, or nequip-allegro, is not installed."""

from __future__ import annotations

import ase
import numpy as np
import pytest

from forcelaw.models import ForceField
from tests.adapters.columns import CUTOFF, agrees, learns

pytest.importorskip("nequip")
pytestmark = pytest.mark.filterwarnings("ignore")
NEQUIP, ALLEGRO = (f"forcelaw.adapters.{name}:ARCHITECTURE" for name in ("nequip", "allegro"))


def of_the_package(model: ForceField, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by NequIP's own neighbour list, batches and derivative."""
    from nequip.data import from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.nn import ForceStressOutput, GraphModel

    data = ChemicalSpeciesToAtomTypeMapper(["H", "C", "O"])(from_ase(atoms))
    data = NeighborListTransform(r_max=CUTOFF)(data)
    found = GraphModel(ForceStressOutput(model.package.model))(data)
    return float(found["total_energy"]), found["forces"].detach().numpy()


@pytest.mark.parametrize("options", [{}, {"lmax": 1, "parity": True}])
def test_outputs_of_nequip_are_those_of_the_package(options: dict) -> None:
    agrees(NEQUIP, options, of_the_package)


def test_outputs_of_allegro_are_those_of_the_package() -> None:
    pytest.importorskip("allegro")
    agrees(ALLEGRO, {"depth": 2, "lmax": 1}, of_the_package)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NEQUIP, ALLEGRO])
def test_they_have_their_certificates_and_learn(name: str, tmp_path) -> None:
    pytest.importorskip("allegro" if name == ALLEGRO else "nequip")
    learns(name, tmp_path)
