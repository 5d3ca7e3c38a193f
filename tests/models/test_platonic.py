"""The Platonic transformer: its groups, its exact symmetry, the dial at constant cost, and the
equations taken literally (tests/reference/platonic_slow.py)."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from forcelaw import ops
from forcelaw.models.platonic import ARCHITECTURE, flops
from forcelaw.models.point_groups import ORDERS, PointGroupName, point_group
from forcelaw.models.sizing import count_parameters, size
from forcelaw.ops import attention
from tests.models.configs import Variant, small_config
from tests.models.tools import (
    energy_error,
    evaluate,
    force_error,
    fresh_model,
    make_graph,
    moved,
    padded,
    random_rotation,
    run,
)
from tests.molecules import ELEMENTS, all_molecules, named, random_cluster, single_atom
from tests.reference.platonic_slow import Slow, rotations

MOLS = all_molecules()
WIDTHS = {"C1": 16, "Ci": 16, "T": 48, "O": 96, "Th": 96, "Td": 96, "Oh": 192, "I": 240, "Ih": 480}
EXACT = 1e-12
groups = pytest.mark.parametrize("name", get_args(PointGroupName))


def variant(name: str, **options: object) -> Variant:
    return Variant(
        f"{name}{options}", "platonic", {"group": name, "width": WIDTHS[name], **options}
    )


@groups
def test_group_is_the_one_of_its_name(name: str) -> None:
    group = point_group(name)
    found = group.matrices
    assert len(group) == ORDERS[name] and np.array_equal(found[0], np.eye(3))
    np.testing.assert_allclose(
        found @ found.transpose(0, 2, 1), np.broadcast_to(np.eye(3), found.shape), atol=1e-14
    )
    for g, row in enumerate(group.between):  # g (g^-1 h) = h
        np.testing.assert_allclose(found[g] @ found[row], found, atol=1e-14)
    proper = int((np.linalg.det(found) > 0).sum())
    has_inversion = bool((np.abs(found + np.eye(3)).max((1, 2)) < 1e-12).any())
    assert proper == len(group) // (1 if name in ("C1", "T", "O", "I") else 2)
    assert has_inversion == (name in ("Ci", "Th", "Oh", "Ih"))


@pytest.mark.parametrize("name", ["C1", "T", "O", "I", "Th", "Td", "Oh"])
def test_elements_are_those_of_the_solid(name: str) -> None:
    """Signed permutations for the cube's groups, maps between edges of an icosahedron for I."""
    expected = rotations(name)
    found = point_group(name).matrices
    assert len(expected) == len(found)
    for matrix in expected:
        assert np.abs(found - matrix).max((1, 2)).min() < 1e-12


@groups
def test_exact_for_the_group_and_for_nothing_else(name: str) -> None:
    model = fresh_model(variant(name))
    energy, forces = evaluate(model, MOLS)

    def error(matrix: np.ndarray) -> float:
        after, turned = evaluate(model, moved(MOLS, matrix))
        return max(energy_error(after, energy), force_error(turned, forces @ matrix.T, MOLS))

    elements = point_group(name).matrices
    assert max(error(m) for m in elements[:: max(1, len(elements) // 12)]) < EXACT
    assert error(random_rotation(3)) > 1e-2
    if name in ("T", "O", "I"):  # of the same solid, but no rotation
        assert error(-np.eye(3)) > 1e-2
    if name in ("T", "Th", "Td"):  # of the cube, not of the tetrahedron
        quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        assert error(quarter) > 1e-2


@pytest.mark.parametrize("name", ["C1", "T", "Td", "I"])
def test_against_the_equations(name: str) -> None:
    """With values that turn and a decay, and without."""
    for turn_values, decay in ((True, 2.0), (False, 0.0)):
        options = {"depth": 1, "turn_values": turn_values, "decay": decay}
        model = fresh_model(variant(name, **options))
        molecule = random_cluster(3 if name == "I" else 4, 3, density=0.01)
        energy, forces = evaluate(model, [molecule])
        slow_energy, slow_forces = Slow(model)(molecule)
        assert abs(energy[0] - slow_energy) < 1e-10 * (1.0 + abs(slow_energy))
        np.testing.assert_allclose(forces, slow_forces, atol=1e-10 * np.abs(slow_forces).max())


def outputs(model: torch.nn.Module, graph: object) -> list[torch.Tensor]:
    model.zero_grad()
    energy, forces = model(graph)
    real = 30
    (energy.square().sum() + forces[:real].square().sum()).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    return [energy.detach(), forces[:real].detach(), *gradients]


@pytest.mark.parametrize("name", ["C1", "T"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("aligned", [False, True])
def test_padded_molecules_are_the_sum_over_edges(
    name: str, dtype: torch.dtype, aligned: bool, monkeypatch
) -> None:
    """Both forms of the attention: outputs and gradients, with padding atoms and empty slots.
    aligned: slots and channels of a head filled up as on a GPU."""
    if aligned:
        monkeypatch.setattr(attention, "padded_width", lambda x, d: -(-d // 8) * 8)
        monkeypatch.setattr(attention, "padded_slots", lambda most, device: most + 5)
    mols = [
        random_cluster(16, 1, density=0.01),
        single_atom(),
        named("CH3OH"),
        random_cluster(7, 5),
    ]
    model, graph = fresh_model(variant(name), dtype), make_graph(mols, dtype)
    assert sum(map(len, mols)) == 30
    exact = 1e-11 if dtype == torch.float64 else 2e-3
    with ops.using("torch"):
        expected = outputs(model, graph)
    for batch in (graph, padded(graph, 5, 17, 2)):
        for found, wanted in zip(outputs(model, batch), expected, strict=True):
            found = found[: len(wanted)]
            assert float((found - wanted).abs().max()) < exact * (1.0 + float(wanted.abs().max()))


@pytest.mark.parametrize("copies", [1, 3])
def test_turns_written_down_are_those_of_autograd(copies: int) -> None:
    """Values beside complex numbers, derivatives beside finite differences."""
    generator = torch.Generator().manual_seed(copies)
    x = torch.randn(4, copies, 2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    angle = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    cos, sin = angle.cos().requires_grad_(), angle.sin().requires_grad_()
    found = attention._Turn.apply(x, cos, sin).detach()
    wanted = torch.complex(*x.detach().chunk(2, dim=-1)) * torch.exp(1j * angle).unsqueeze(1)
    torch.testing.assert_close(found, torch.cat([wanted.real, wanted.imag], dim=-1))
    assert torch.autograd.gradcheck(attention._Turn.apply, (x, cos, sin))


def test_width_and_flops_stay_along_the_dial() -> None:
    """At one width FLOPs do not know the group, and N falls like 1 / G."""
    configs = [
        small_config("platonic", group=name, width=960, depth=4, elements=(6,))
        for name in ("C1", "T", "O", "I")
    ]
    assert len({(flops(c).per_edge, flops(c).per_atom) for c in configs}) == 1
    counts = [count_parameters(c)[0] for c in configs]
    for config, count in zip(configs, counts):
        assert count == pytest.approx(counts[0] / config.order, rel=0.01)


@pytest.mark.parametrize("name", ["C1", "T", "O", "I"])
def test_sizes_of_every_group(name: str) -> None:
    options = {"elements": ELEMENTS, "group": name}
    for target in (2e5, 4.3e5, 8e5, 3e6):
        config = size("platonic", target, depth=4, **options)
        assert config.width % (4 * ORDERS[name]) == 0
        assert count_parameters(config)[0] == pytest.approx(target, rel=0.35)


def test_width_that_fits_no_frame_is_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 12 frames x 4 channels"):
        small_config("platonic", group="T", width=50)
    with pytest.raises(ValidationError, match="even"):
        small_config("platonic", width=36, head_width=3)


def test_single_atoms_have_no_force_in_a_group_without_a_fixed_vector() -> None:
    for name, zero in (("C1", False), ("T", True), ("I", True)):
        _, forces = evaluate(fresh_model(variant(name)), [single_atom(6)])
        assert (np.abs(forces).max() < 1e-12) == zero


def test_values_that_turn_tell_where_neighbours_are() -> None:
    model = fresh_model(variant("T"))
    other = fresh_model(variant("T", turn_values=False))
    other.load_state_dict(model.state_dict())
    a, b = (run(m, make_graph(MOLS[:3])) for m in (model, other))
    assert np.abs(a[1] - b[1]).max() > 1e-2 and ARCHITECTURE.symmetry == "none"
