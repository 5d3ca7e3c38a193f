"""TensorNet as a column. Skipped where matgl is not installed."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from forcelaw.models import ForceField
from tests.adapters.columns import CUTOFF, agrees, learns

pytest.importorskip("matgl")
pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "forcelaw.adapters.tensornet:ARCHITECTURE"


def of_the_package(model: ForceField, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by matgl's own converter, its neighbour list and a forward pass."""
    from matgl.ext.ase import Atoms2Graph

    converter = Atoms2Graph(model.package.element_types, CUTOFF)
    graph, lattice, _ = converter.get_graph(atoms)
    lattice = lattice.reshape(3, 3)
    graph.pbc_offshift = graph.pbc_offset @ lattice
    graph.pos = (graph.frac_coords @ lattice).requires_grad_(True)
    energy = model.package(graph)
    return float(energy.detach()), -torch.autograd.grad(energy, graph.pos)[0].numpy()


@pytest.mark.parametrize("options", [{}, {"group": "SO(3)"}])
def test_outputs_are_those_of_the_package(options: dict) -> None:
    agrees(NAME, options, of_the_package)


@pytest.mark.slow
def test_it_has_its_certificate_and_learns(tmp_path) -> None:
    """With Gaussians of an Angstrom, the package's, it hardly does in so few steps."""
    learns(NAME, tmp_path, falls=0.2, learning_rate=1e-2, options={"sharpness": 10.0})
