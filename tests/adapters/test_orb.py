"""Orb v3 as a column. Skipped where orb-models is not installed (it needs Python 3.12)."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch

from forcelaw.models import ForceField
from tests.adapters.columns import agrees, learns

pytest.importorskip("orb_models")
pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "forcelaw.adapters.orb:ARCHITECTURE"


def of_the_package(model: ForceField, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by Orb's own edges, batches, network and heads, without the constants of
    the data that its heads know (means, deviations, reference energies)."""
    from orb_models.forcefield.forcefield_adapter import ForcefieldAtomsAdapter
    from orb_models.forcefield.models.forcefield_heads import EnergyHead, ForceHead

    width = model.config.width
    sizes: dict[str, Any] = {
        "latent_dim": width,
        "num_mlp_layers": 1,
        "mlp_hidden_dim": width,
        "activation": "silu",
    }
    adapter = ForcefieldAtomsAdapter(radius=6.0, max_num_neighbors=1000)
    graph = adapter.from_ase_atoms(atoms, wrap=False)
    direct = model.force_head is not None
    if not direct:
        graph.edge_features["vectors"].requires_grad_(True)
    states = model.network(graph)["node_features"]
    energy = EnergyHead(**sizes)
    energy.mlp.load_state_dict(model.energy.state_dict())
    energy.normalizer.bn.running_mean, energy.normalizer.bn.running_var = (
        torch.zeros(1),
        torch.ones(1),
    )
    total = energy(states, graph).sum()  # its heads are for energies above the reference ones
    if direct:
        head = ForceHead(**sizes)
        head.mlp.load_state_dict(model.force_head.state_dict())
        return float(total.detach()), head.eval()(states, graph).detach().numpy()
    by = torch.autograd.grad(total, graph.edge_features["vectors"])[0]
    forces = torch.zeros(len(atoms), 3).index_add(0, graph.senders, by)
    forces = forces.index_add(0, graph.receivers, -by)
    return float(total.detach()), forces.numpy()


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_outputs_are_those_of_the_package(forces: str) -> None:
    agrees(NAME, {"depth": 2, "cutoff": 6.0, "forces": forces}, of_the_package)


@pytest.mark.slow
def test_it_has_its_certificate_and_learns(tmp_path) -> None:
    """Slowly: at the start all edges have nearly the same states, whatever their vectors (after the
    package's encoder they vary by 5% of their size); results/field/README.md."""
    given = {"size": 1e5, "depth": 2, "atoms": 3e4, "batch_molecules": 4, "learning_rate": 5e-3}
    learns(NAME, tmp_path, ("extensivity",), falls=0.07, forces="direct", **given)
