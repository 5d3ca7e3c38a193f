"""What a model keeps in buffers is part of its checkpoint, its use and what starts from it."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import forcelaw
from examples.pairs import Pairs, PairsConfig
from forcelaw.training import checkpoint

NAME = f"{__name__}:Stateful"
SHORT = {"evaluations": 2, "validation_structures": 8, "batch_molecules": 4}


class Stateful(Pairs):
    """Draws features, and keeps a running mean and a count of its steps."""

    Config = PairsConfig

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("drawn", torch.randn(config.width))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def atomwise(self, graph, vec):
        energy, forces = super().atomwise(graph, vec)
        if self.training:
            self.steps += 1
            self.mean.lerp_(energy.detach().mean() + 1.0, 0.1)
        drawn = self.embedding(graph.species) * self.drawn
        return energy + drawn.sum(-1) + self.mean, forces


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("buffers")
    return forcelaw.train(NAME, size=2e3, atoms=2e3, seed=3, depth=1, out=out, **SHORT)


@pytest.mark.timeout(60)
def test_a_trained_model_is_loaded_with_its_buffers(run) -> None:
    model = run.model(device="cpu")
    held = load_file(run.path / "last.safetensors")
    assert int(model.steps) == run.result["steps"] and float(model.mean) != 0.0
    assert "model.scratch" not in held
    for name, buffer in checkpoint.kept_buffers(model).items():
        assert torch.equal(buffer, held[f"model.{name}"])


@pytest.mark.timeout(60)
def test_fine_tuning_with_another_seed_starts_from_the_same_model(run, tmp_path) -> None:
    """At a rate of nothing it stays that model, but for the references and the running mean."""
    tuned = forcelaw.train(start=run, seed=4, learning_rate=1e-12, atoms=5e2, out=tmp_path, **SHORT)
    a, b = run.model(device="cpu"), tuned.model(device="cpu")
    assert torch.equal(a.drawn, b.drawn) and int(b.steps) > int(a.steps)
    atoms = molecule("CH3CH2OH")
    found = [made.predict([atoms], dtype="float64").forces[0] for made in (run, tuned)]
    np.testing.assert_allclose(*found, atol=1e-7)


@pytest.mark.timeout(60)
def test_a_checkpoint_without_them_is_read_as_before(run) -> None:
    model = run.model(device="cpu")
    drawn, file = model.drawn.clone(), run.path / "last.safetensors"
    with torch.no_grad():
        model.mean.fill_(7.0)
    held = load_file(file)
    names = {f"model.{name}" for name in checkpoint.kept_buffers(model)}
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    content = file.read_bytes()
    try:
        save_file({k: v for k, v in held.items() if k not in names}, file, metadata=metadata)
        checkpoint.load_model(run.path, model)
    finally:
        file.write_bytes(content)
    assert float(model.mean) == 7.0 and torch.equal(model.drawn, drawn)
