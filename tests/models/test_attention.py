"""The PET-like transformer: the equations taken literally, both forms of its attention, and rows of
fixed width. benchmarks/pet_parity.py compares it with metatrain's own code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from forcelaw.ops import edge_attention
from tests.models.configs import Variant, small_config
from tests.models.tools import evaluate, fresh_model, make_graph, padded, run
from tests.molecules import Molecule, named, random_cluster, single_atom
from tests.reference.attention_slow import Slow

OPTIONS = [
    {},
    {"radial": 0, "angular": 0, "attention_layers": 2},
    {"depth": 1, "head_width": 16, "radial": 5, "angular": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_against_the_equations(options: dict) -> None:
    model = fresh_model(Variant(f"attention{options}", "attention", options))
    for molecule in (random_cluster(5, 3, density=0.01), named("H2O"), single_atom(8)):
        energy, forces = evaluate(model, [molecule])
        slow_energy, slow_forces = Slow(model)(molecule)
        assert abs(energy[0] - slow_energy) < 1e-10 * (1.0 + abs(slow_energy))
        np.testing.assert_allclose(forces, slow_forces, atol=1e-10 * np.abs(slow_forces).max())


def test_rows_of_fixed_width_change_nothing() -> None:
    """As in a CUDA graph: a largest number of neighbours that is told, padding atoms and edges."""
    model = fresh_model(Variant("attention", "attention"))
    graph = make_graph([random_cluster(9, 4), named("CH3OH"), single_atom()])
    energy, forces = run(model, graph)
    for width in (8, 9, 20):
        full = replace(padded(graph, 6, 40, 2), max_degree=width)
        energy2, forces2 = run(model, full)
        np.testing.assert_allclose(energy2[:3], energy, rtol=1e-11)
        np.testing.assert_allclose(forces2[: len(forces)], forces, rtol=1e-10, atol=1e-12)


def test_both_forms_of_the_attention_agree(monkeypatch) -> None:
    """torch's fused kernel, and plain products that can be differentiated twice."""
    model = fresh_model(Variant("attention", "attention")).train()
    graph = make_graph([random_cluster(9, 4), named("CH3OH")])

    def outputs() -> list[torch.Tensor]:
        model.zero_grad()
        energy, forces = model(graph)
        (energy.square().sum() + forces.square().sum()).backward()
        return [energy, forces, *(p.grad.clone() for p in model.parameters())]

    fused = outputs()
    monkeypatch.setattr(
        "forcelaw.ops.edge_attention",
        lambda *given: edge_attention(*given[:-1], True),
    )
    for found, expected in zip(outputs(), fused, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_a_layer_sees_two_bonds_far() -> None:
    """One by attention, one by the exchange between the directions of a pair: in a chain of four
    the force on the first atom knows the last one from the second layer on."""
    line = np.array([[5.0 * k, 0.0, 0.0] for k in range(4)])
    mols = [Molecule("chain", np.array([6, 8, 6, z]), line) for z in (8, 16)]
    for depth, sees in ((1, False), (2, True)):
        model = fresh_model(Variant(f"attention{depth}", "attention", {"depth": depth}))
        _, forces = evaluate(model, mols)
        assert np.abs(forces[2] - forces[6]).max() > 1e-9  # the last atom but one
        assert (np.abs(forces[0] - forces[4]).max() > 1e-9) == sees


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="no multiple of head_width 8"):
        small_config("attention", width=20)
    with pytest.raises(ValidationError, match="angular needs radial"):
        small_config("attention", radial=0)
