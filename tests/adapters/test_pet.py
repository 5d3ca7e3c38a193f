"""PET as a column. Skipped where metatrain is not installed."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list

from forcelaw.models import ForceField
from tests.adapters.columns import CUTOFF, agrees, learns

pytest.importorskip("metatrain")
pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "forcelaw.adapters.pet:ARCHITECTURE"


def of_the_package(model: ForceField, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by the backend from positions, cell and whole shifts of ASE's neighbour
    list."""
    centers, neighbors, shifts = (torch.tensor(x) for x in neighbor_list("ijS", atoms, CUTOFF))
    pos = torch.tensor(atoms.positions, dtype=torch.float32, requires_grad=True)
    cell = torch.tensor(np.array(atoms.cell), dtype=torch.float32)[None]
    index = torch.zeros(len(atoms), dtype=torch.int64)
    types, backend = torch.tensor(atoms.numbers), model.backend
    batch = backend.preprocess(pos, centers, neighbors, types, cell, shifts, index, 1.0)
    names = list(backend.node_heads)
    nodes, edges = backend.calculate_features(batch)
    found, _, _ = backend.predict(nodes, edges, batch, cell, index, names)
    total = found["energy"][0].sum()
    if "non_conservative_forces" in names:
        return float(total.detach()), found["non_conservative_forces"][0].detach().numpy()
    return float(total.detach()), -torch.autograd.grad(total, pos)[0].numpy()


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_outputs_are_those_of_the_package(forces: str) -> None:
    agrees(NAME, {"depth": 2, "forces": forces}, of_the_package)


@pytest.mark.slow
def test_it_has_its_certificate_and_learns(tmp_path) -> None:
    """It begins at three times the loss without a model, and is there after 150 steps."""
    learns(NAME, tmp_path, falls=0.5, helps=False, size=1.3e4, learning_rate=3e-3)
