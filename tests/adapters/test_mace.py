"""MACE as a column: what the package itself says of the same structures, and a run that learns.
Skipped where mace-torch is not installed."""

from __future__ import annotations

import ase
import ase.build
import numpy as np
import pytest
import torch

import forcelaw
from forcelaw.certify.lines import _measured
from forcelaw.certify.structures import randomise
from forcelaw.certify.subject import Subject
from forcelaw.data.pack import Pack, sample_path
from forcelaw.graph import build_graph
from forcelaw.models import build, make_config

pytest.importorskip("mace")
pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "forcelaw.adapters.mace:ARCHITECTURE"
ELEMENTS = (1, 6, 8)


def structures() -> list[ase.Atoms]:
    """A molecule and a crystal whose cell is smaller than the cutoff, both displaced."""
    crystal = ase.Atoms("CO", [[0.1, 0.2, 0.3], [1.3, 0.9, 0.2]], pbc=True)
    crystal.set_cell([[4.1, 0.0, 0.0], [0.7, 3.8, 0.0], [-0.3, 0.5, 4.4]])
    found = [ase.build.molecule("CH3CH2OH"), crystal]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    return found


def of_the_package(model: torch.nn.Module, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by MACE's own neighbour list, batches and forward pass."""
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    config = data.config_from_atoms(atoms)
    given = data.AtomicData.from_config(config, AtomicNumberTable(ELEMENTS), cutoff=4.0)
    loader = torch_geometric.dataloader.DataLoader([given], batch_size=1, shuffle=False)
    found = model(next(iter(loader)).to_dict())
    return float(found["energy"]), found["forces"].detach().numpy()


@pytest.mark.parametrize("options", [{}, {"lmax": 2, "correlation": 2}])
def test_outputs_are_those_of_the_package(options: dict) -> None:
    config = make_config(
        {"architecture": NAME, "width": 8, "depth": 2, "elements": ELEMENTS, "cutoff": 4.0}
        | {"mean_degree": 9.0, "scale": 1.5}
        | options
    )
    model = build(config, seed=0).eval()
    randomise(model)
    for atoms in structures():
        graph = build_graph(
            torch.tensor(atoms.positions),
            torch.tensor(np.searchsorted(ELEMENTS, atoms.numbers)),
            torch.tensor([len(atoms)]),
            4.0,
            cells=np.array(atoms.cell)[None],
            pbc=atoms.pbc[None],
        ).to(torch.float32)
        energy, forces = (x.detach().numpy() for x in model(graph))
        expected, theirs = of_the_package(model.mace, atoms)
        assert abs(expected) > 1e-3 and np.abs(theirs).max() > 1e-3
        assert energy[0] == pytest.approx(1.5 * expected, rel=1e-5)
        np.testing.assert_allclose(forces, 1.5 * theirs, atol=1e-5 * np.abs(forces).max())


@pytest.mark.slow
def test_it_has_its_certificate_and_learns(tmp_path) -> None:
    subject = Subject(NAME, Pack(sample_path()), options={"forces": "conservative"})
    for which in ("symmetry", "translation", "batches", "padding", "extensivity", "cutoff"):
        found = _measured(which, subject)
        assert found.verdict in ("holds", "skipped", "note"), (which, found.found)
    run = forcelaw.train(
        NAME,
        size=2e4,
        atoms=3e3,
        batch_molecules=2,
        learning_rate=3e-2,
        forces="conservative",
        evaluations=3,
        first_evaluation=1,
        validation_structures=20,
        out=tmp_path,
    )
    losses = run.metrics["loss"].to_list()
    assert losses[-1] < 0.9 * losses[0] and run.spec["code"]["mace-torch"]
