"""MACE as a column. Skipped where mace-torch is not installed."""

from __future__ import annotations

import ase
import numpy as np
import pytest

from forcelaw.models import ForceField
from tests.adapters.columns import CUTOFF, ELEMENTS, agrees, learns

pytest.importorskip("mace")
pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "forcelaw.adapters.mace:ARCHITECTURE"


def of_the_package(model: ForceField, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by MACE's own neighbour list, batches and forward pass."""
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    config = data.config_from_atoms(atoms)
    given = data.AtomicData.from_config(config, AtomicNumberTable(ELEMENTS), cutoff=CUTOFF)
    loader = torch_geometric.dataloader.DataLoader([given], batch_size=1, shuffle=False)
    found = model.mace(next(iter(loader)).to_dict())
    return float(found["energy"]), found["forces"].detach().numpy()


@pytest.mark.parametrize("options", [{"depth": 2}, {"depth": 2, "lmax": 2, "correlation": 2}])
def test_outputs_are_those_of_the_package(options: dict) -> None:
    agrees(NAME, options, of_the_package)


@pytest.mark.slow
def test_it_has_its_certificate_and_learns(tmp_path) -> None:
    learns(NAME, tmp_path)
