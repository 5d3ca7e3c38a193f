"""A metatomic file, asked through its own calculator for ASE."""

import numpy as np
import pytest
import torch
from ase import Atoms

import forcelaw
from forcelaw.errors import StudyError
from forcelaw.metatomic import Sites, edges, traced
from tests.packs import write_pack
from tests.trained import run_directory


@pytest.mark.parametrize("architecture", ["painn", "mpnn", "egnn"])
def test_traced_energies_and_their_gradients_are_the_models_own(tmp_path, architecture):
    """On numbers of atoms and edges that it was not traced with."""
    run = run_directory(tmp_path, write_pack(tmp_path / "pack"), architecture, depth=1)
    predictor = run.predictor(device="cpu", dtype="float64")
    made, plain, found = traced(predictor), Sites(predictor), []
    species, sender, receiver, vec = edges(predictor, 9, 40)
    for module in (made, plain):
        moving = vec.clone().requires_grad_(True)
        energy = module(species, sender, receiver, moving).sum()
        found.append((energy.detach(), *torch.autograd.grad(energy, moving)))
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12) and b.abs().max() > 1e-3


def test_the_file_gives_the_calculators_numbers(tmp_path):
    pytest.importorskip("metatomic.torch", reason="needs metatomic-torch")
    engine = pytest.importorskip("metatomic_ase", reason="needs metatomic-ase")
    run = run_directory(tmp_path, write_pack(tmp_path / "pack"), "painn", depth=1)
    run.export(tmp_path / "model.pt", dtype="float64")
    rng = np.random.default_rng(0)
    atoms = Atoms("CHOHC", rng.normal(size=(5, 3)), cell=np.diag([2.7, 4.0, 6.0]) + 0.2, pbc=True)
    other = atoms.copy()
    atoms.calc = engine.MetatomicCalculator(str(tmp_path / "model.pt"))
    other.calc = forcelaw.Calculator(run.path, dtype="float64")
    for name in ("get_potential_energy", "get_forces", "get_stress"):
        assert np.allclose(getattr(atoms, name)(), getattr(other, name)(), rtol=1e-9, atol=1e-10)


def test_direct_forces_are_refused(tmp_path):
    pytest.importorskip("metatomic.torch", reason="needs metatomic-torch")
    run = run_directory(tmp_path, write_pack(tmp_path / "pack"), "painn", "direct", depth=1)
    with pytest.raises(StudyError):
        run.export(tmp_path / "model.pt")
