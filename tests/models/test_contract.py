"""The contract of every architecture, one suite: whatever ``forcelaw.models.ARCHITECTURES`` holds
goes through it.

Tolerances are those that rounding allows in float64 and float32. Each model has all its parameters
randomised first.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models import ARCHITECTURES, build
from tests.models.configs import (
    Variant,
    all_variants,
    conservative_variants,
    direct_variants,
    small_config,
    stress_variants,
)
from tests.models.tools import (
    energy_error,
    evaluate,
    force_error,
    fresh_model,
    make_graph,
    moved,
    padded,
    permuted,
    random_rotation,
    reverse_within_receivers,
    run,
    shared_model,
)
from tests.molecules import (
    CUTOFF,
    ELEMENTS,
    Molecule,
    all_molecules,
    far_fragments,
    random_cluster,
    single_atom,
)

MOLS = all_molecules()
BROKEN = 1e-3  # a symmetry that is absent must be off by more than this
# components of vectors apart: every rotation but half turns about x, y and z is broken, and signs
# are not
KEEPS_INVERSION = ("painn-untied",)
variants = pytest.mark.parametrize("variant", all_variants(), ids=lambda v: v.id)
conservative = pytest.mark.parametrize("variant", conservative_variants(), ids=lambda v: v.id)
stress_heads = pytest.mark.parametrize("variant", stress_variants(), ids=lambda v: v.id)
with_stress = pytest.mark.parametrize(
    "variant", [*conservative_variants(), *stress_variants()], ids=lambda v: v.id
)
direct = pytest.mark.parametrize("variant", direct_variants(), ids=lambda v: v.id)
precisions = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)


def force_tolerance(variant: Variant, dtype: torch.dtype, double: float, single: float) -> float:
    """Conservative forces in float32 get ten times more: a derivative of the energy amplifies its
    rounding."""
    return double if dtype == torch.float64 else single * (10.0 if variant.conservative else 1.0)


def compare(
    variant: Variant,
    dtype: torch.dtype,
    before: list[Molecule],
    after: list[Molecule],
    matrix: np.ndarray | None = None,
) -> tuple[float, float]:
    """Energy and force errors of f(after) against matrix f(before)."""
    model = shared_model(variant, dtype)
    energy, forces = evaluate(model, before)
    energy2, forces2 = evaluate(model, after)
    expected = forces if matrix is None else forces @ matrix.T
    return energy_error(energy2, energy), force_error(forces2, expected, before)


@variants
def test_outputs_have_the_right_shape_and_are_not_trivial(variant: Variant) -> None:
    graph = make_graph(MOLS)
    energy, forces = shared_model(variant)(graph)
    assert energy.shape == (len(MOLS),) and forces.shape == (len(graph.pos), 3)
    assert energy.dtype == forces.dtype == torch.float64
    assert bool(energy.isfinite().all()) and bool(forces.isfinite().all())
    assert (
        float(energy.detach().std()) > 0.1
        and 0.05 < float(forces.detach().square().mean().sqrt()) < 1e3
    )


@precisions
@variants
def test_rotation(variant: Variant, dtype: torch.dtype) -> None:
    """Exact for E(3) and SE(3); an unconstrained model must see the rotation, or the ladder has no
    lower end."""
    tolerance, loose = (
        1e-10 if dtype == torch.float64 else 1e-5,
        force_tolerance(variant, dtype, 1e-10, 1e-5),
    )
    errors = []
    for seed in range(2):
        rotation = random_rotation(seed)
        errors.append(compare(variant, dtype, MOLS, moved(MOLS, rotation), rotation))
    energy, forces = np.max(errors, axis=0)
    if variant.symmetry == "none":
        assert energy > BROKEN and forces > BROKEN
    else:
        assert energy < tolerance and forces < loose


@precisions
@variants
def test_inversion(variant: Variant, dtype: torch.dtype) -> None:
    """x -> -x: exact for E(3), and failing for SE(3) and for unconstrained models (clusters are
    chiral)."""
    tolerance, loose = (
        1e-10 if dtype == torch.float64 else 1e-5,
        force_tolerance(variant, dtype, 1e-10, 1e-5),
    )
    energy, forces = compare(variant, dtype, MOLS, moved(MOLS, -np.eye(3)), -np.eye(3))
    if variant.symmetry == "E(3)":
        assert energy < tolerance and forces < loose
    elif variant.id not in KEEPS_INVERSION:
        assert max(energy, forces) > BROKEN


@precisions
@variants
def test_translation(variant: Variant, dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    shift = np.array([100.0, -100.0, 100.0]) / np.sqrt(3.0)
    energy, forces = compare(variant, dtype, MOLS, moved(MOLS, shift=shift))
    assert energy < tolerance and forces < tolerance


@precisions
@variants
def test_permutation_of_atoms(variant: Variant, dtype: torch.dtype) -> None:
    tolerance, loose = (
        1e-12 if dtype == torch.float64 else 1e-5,
        force_tolerance(variant, dtype, 1e-12, 1e-5),
    )
    rng = np.random.default_rng(3)
    orders = [rng.permutation(len(m)) for m in MOLS]
    model = shared_model(variant, dtype)
    energy, forces = evaluate(model, MOLS)
    energy2, forces2 = evaluate(model, [permuted(m, order) for m, order in zip(MOLS, orders)])
    starts = np.cumsum([0] + [len(m) for m in MOLS[:-1]])
    expected = forces[np.concatenate([start + order for start, order in zip(starts, orders)])]
    assert energy_error(energy2, energy) < tolerance
    assert force_error(forces2, expected, MOLS) < loose


@variants
def test_order_of_edges(variant: Variant) -> None:
    model, graph = shared_model(variant), make_graph(MOLS)
    other = reverse_within_receivers(graph)
    assert not torch.equal(other.sender, graph.sender) and torch.equal(
        other.receiver, graph.receiver
    )
    energy, forces = run(model, graph)
    energy2, forces2 = run(model, other)
    assert energy_error(energy2, energy) < 1e-12 and force_error(forces2, forces, MOLS) < 1e-12


@precisions
@variants
def test_batching(variant: Variant, dtype: torch.dtype) -> None:
    """A molecule alone equals the same molecule in a batch of 64."""
    tolerance, loose = (
        1e-12 if dtype == torch.float64 else 1e-5,
        force_tolerance(variant, dtype, 1e-12, 1e-5),
    )
    model = shared_model(variant, dtype)
    batch = [*MOLS, *(random_cluster(2 + k % 7, 100 + k) for k in range(64 - len(MOLS)))]
    energy, forces = evaluate(model, batch)
    starts = np.cumsum([0] + [len(m) for m in batch])
    for k in (0, 4, 6, 8, 12, 40, 63):
        alone_energy, alone_forces = evaluate(model, [batch[k]])
        together = forces[starts[k] : starts[k + 1]]
        assert energy_error(energy[k : k + 1], alone_energy) < tolerance
        assert np.linalg.norm(together - alone_forces) < loose * np.sqrt(
            np.mean(forces**2) * alone_forces.size
        )


@precisions
@variants
def test_size_extensivity(variant: Variant, dtype: torch.dtype) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    a, b, both = far_fragments()
    model = shared_model(variant, dtype)
    (energy_a, forces_a), (energy_b, forces_b) = evaluate(model, [a]), evaluate(model, [b])
    energy, forces = evaluate(model, [both])
    assert min(abs(energy_a[0]), abs(energy_b[0])) > 1e-2
    assert energy_error(energy, energy_a + energy_b) < tolerance
    # float32: the far fragment is at 25 Angstrom, where positions are rounded to 2e-6 Angstrom
    loose = tolerance if dtype == torch.float64 else 1e-4
    assert force_error(forces, np.concatenate([forces_a, forces_b]), [a, b]) < loose


@variants
def test_supercell_is_twice_the_cell(variant: Variant) -> None:
    """Self images and lattice shifts: energy per cell and forces do not depend on how the crystal
    is cut."""
    cell = [[4.1, 0.0, 0.0], [0.7, 3.8, 0.0], [-0.3, 0.5, 4.4]]
    atoms = ase.Atoms("CO", [[0.1, 0.2, 0.3], [1.3, 0.9, 0.2]], cell=cell, pbc=True)
    model = shared_model(variant)
    results = []
    for crystal in (atoms, atoms.repeat((2, 1, 1))):
        species = torch.tensor(np.searchsorted(ELEMENTS, crystal.numbers))
        graph = build_graph(
            torch.tensor(crystal.positions),
            species,
            torch.tensor([len(crystal)]),
            5.0,
            cells=np.array(crystal.cell)[None],
            pbc=crystal.pbc[None],
        )
        results.append(run(model, graph))
    (energy, forces), (energy2, forces2) = results
    assert energy_error(energy2, 2.0 * energy) < 1e-10
    np.testing.assert_allclose(forces2, np.concatenate([forces, forces]), rtol=1e-9, atol=1e-10)


def probe_scan(distances: np.ndarray) -> list[Molecule]:
    """A bent C-N-O fragment and a hydrogen at the given distances from its carbon; all other pairs
    are near."""
    base = np.array([[0.0, 0.0, 0.0], [1.2, 0.4, 0.1], [1.9, 1.4, -0.3]])
    line = np.array([0.8, 0.5, 0.33])
    line /= np.linalg.norm(line)
    return [
        Molecule("probe", np.array([6, 7, 8, 1]), np.vstack([base, r * line])) for r in distances
    ]


@variants
def test_smooth_through_the_cutoff(variant: Variant) -> None:
    """Scan one distance through the cutoff in steps of 1e-4 Angstrom: energy and forces neither
    jump nor kink."""
    step = 1e-4
    offsets = np.arange(-150, 151) * step + 0.5 * step
    mols = probe_scan(CUTOFF + offsets)
    graph = make_graph(mols)
    degrees = np.bincount(graph.batch[graph.receiver].numpy())
    assert set(degrees) == {
        10,
        12,
    }  # the edge between probe and carbon goes, the other five pairs stay
    energy, forces = run(shared_model(variant), graph)
    values = np.concatenate([energy[:, None], forces.reshape(len(mols), 12)], axis=1)
    first = np.abs(np.diff(values, axis=0))
    assert first.max() < 50.0 * step
    assert first.max() > 1e-3 * step  # the scan does see the probe
    second = np.abs(np.diff(values, n=2, axis=0)).max(axis=1)
    crossing = int(np.argmax(offsets > 0))
    near = np.zeros(len(second), bool)
    near[crossing - 3 : crossing + 2] = True
    # no second difference at the crossing stands out from those of the smooth stretches around it
    assert second[near].max() < 2.0 * second[~near].max() + 1e-11


@precisions
@variants
def test_an_edge_at_the_cutoff_carries_nothing(variant: Variant, dtype: torch.dtype) -> None:
    """Taking away the edge that is 1e-5 Angstrom inside the cutoff changes nothing: zero jump.

    There the envelope is 2e-16 and its slope, which conservative forces see, 5e-11 per Angstrom.
    """
    graph = make_graph(probe_scan(np.array([CUTOFF - 1e-5])), dtype)
    keep = graph.vectors().norm(dim=-1) < CUTOFF - 0.01
    assert int(keep.sum()) == len(keep) - 2
    without = replace(graph, sender=graph.sender[keep], receiver=graph.receiver[keep])
    model = shared_model(variant, dtype)
    energy, forces = run(model, graph)
    energy2, forces2 = run(model, without)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert np.abs(energy2 - energy).max() < tolerance * (1.0 + np.abs(energy).max())
    assert np.abs(forces2 - forces).max() < tolerance * (1.0 + np.abs(forces).max())


@variants
def test_single_atoms_and_graphs_without_edges(variant: Variant) -> None:
    model = shared_model(variant)
    mols = [single_atom(1), single_atom(6), single_atom(9)]
    energy, forces = evaluate(model, mols)
    assert np.isfinite(energy).all() and len(set(energy.tolist())) == 3
    assert np.isfinite(forces).all()
    if variant.symmetry != "none" or variant.conservative:
        assert np.abs(forces).max() < 1e-12  # nothing points anywhere
    model = fresh_model(variant).train()
    total, force = model(make_graph(mols))
    (total.sum() + force.square().sum()).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@conservative
def test_conservative_forces_against_finite_differences(variant: Variant) -> None:
    molecule, h = random_cluster(6, 21), 1e-4
    model = shared_model(variant)
    _, forces = evaluate(model, [molecule])
    displaced = []
    for k in range(molecule.pos.size):
        for sign in (1.0, -1.0):
            pos = molecule.pos.copy()
            pos.flat[k] += sign * h
            displaced.append(replace(molecule, pos=pos))
    energy, _ = evaluate(model, displaced)
    numeric = -(energy[0::2] - energy[1::2]) / (2.0 * h)
    assert np.abs(numeric).max() > 0.01
    assert np.abs(numeric.reshape(-1, 3) - forces).max() < 1e-6 * (1.0 + np.abs(forces).max())


@conservative
def test_conservative_forces_sum_to_zero_and_exert_no_torque(variant: Variant) -> None:
    """Consequences of translation invariance, and of rotation invariance where there is any."""
    torque = 0.0
    for m in MOLS:
        _, forces = evaluate(shared_model(variant), [m])
        assert np.abs(forces.sum(0)).max() < 1e-10
        torque = max(torque, np.abs(np.cross(m.pos - m.pos.mean(0), forces).sum(0)).max())
    assert torque > BROKEN if variant.symmetry == "none" else torque < 1e-9


def strained(m: Molecule, cell: np.ndarray, strain: np.ndarray) -> GraphBatch:
    """A crystal of ``m`` in ``cell``, all of it under a strain."""
    turn = np.eye(3) + strain
    return build_graph(
        torch.from_numpy(m.pos @ turn),
        torch.from_numpy(m.species),
        torch.tensor([len(m)]),
        CUTOFF,
        cells=(cell @ turn)[None],
        pbc=np.ones((1, 3), bool),
    )


CELL = np.array([[5.1, 0.3, 0.0], [-0.4, 4.7, 0.2], [0.5, 0.1, 5.6]])  # smaller than the cutoff


@conservative
def test_virials_against_finite_differences(variant: Variant) -> None:
    model, m, h = shared_model(variant), random_cluster(6, 21), 1e-4
    with torch.no_grad():
        *plain, virial = model.with_virial(strained(m, CELL, np.zeros((3, 3))))
        for a, b in zip(plain, model(strained(m, CELL, np.zeros((3, 3))))):
            assert torch.equal(a, b)
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        ends = []
        for sign in (1.0, -1.0):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * sign * h
            strain[b, a] += 0.5 * sign * h
            ends.append(float(run(model, strained(m, CELL, strain))[0][0]))
        numeric = (ends[0] - ends[1]) / (2.0 * h)
        assert abs(numeric - float(virial[0, a, b])) < 1e-5 * (1.0 + float(virial.abs().max()))
    assert (virial == virial.transpose(1, 2)).all() and virial.abs().min() > 1e-4


@with_stress
def test_virials_turn_with_the_crystal(variant: Variant) -> None:
    """V -> R V R^T where there is symmetry; elsewhere not."""
    model, m, turn = shared_model(variant), random_cluster(6, 21), random_rotation(2)
    with torch.no_grad():
        before = model.with_virial(strained(m, CELL, np.zeros((3, 3))))[2][0].numpy()
        turned = model.with_virial(strained(m, CELL, turn.T - np.eye(3)))[2][0].numpy()
    error = np.abs(turned - turn @ before @ turn.T).max() / np.abs(before).max()
    assert error > BROKEN if variant.symmetry == "none" else error < 1e-9


@with_stress
def test_virials_of_a_padded_batch(variant: Variant) -> None:
    model = shared_model(variant)
    graph = make_graph([random_cluster(6, 21), single_atom(), random_cluster(9, 5)])
    with torch.no_grad():
        plain, full = (model.with_virial(g)[2] for g in (graph, padded(graph, 5, 17, 2)))
    assert torch.allclose(full[:3], plain, rtol=1e-10, atol=1e-12)
    assert (full[3:] == 0).all() and (plain[1] == 0).all()


@stress_heads
def test_a_stress_head_is_a_head_of_its_own(variant: Variant) -> None:
    """Energy and forces are what they are without it; all of its weights learn; its FLOPs are those
    that torch counts."""
    model, graph = shared_model(variant), make_graph(MOLS[:4])
    *plain, virial = model.with_virial(graph)
    for a, b in zip(plain, model(graph)):
        assert torch.equal(a, b)
    assert torch.allclose(virial, virial.transpose(1, 2), rtol=1e-12, atol=1e-14)
    gradients = torch.autograd.grad(virial.square().sum(), list(model.stress.parameters()))
    assert all(bool((g != 0).any()) for g in gradients)
    entry, (edges, atoms) = ARCHITECTURES[variant.name], (len(graph.sender), len(graph.pos))
    own = [f(model.config).forward(edges, atoms) for f in (entry.flops_for, entry.flops)]
    with FlopCounterMode(display=False) as counter:
        states = torch.randn(atoms, model.stress.atoms.weight.shape[1], dtype=torch.float64)
        model.stress(states, graph.vectors(), graph)
    assert own[0] - own[1] == pytest.approx(counter.get_total_flops())
    start = build(small_config(variant.name, **variant.options), seed=0).double()
    assert (start.with_virial(graph)[2] == 0).all()


@conservative
def test_conservative_model_under_no_grad_keeps_no_graph(variant: Variant) -> None:
    graph = make_graph(MOLS[:3])
    for model in (shared_model(variant), fresh_model(variant).train()):
        with torch.no_grad():
            energy, forces = model(graph)
        assert not energy.requires_grad and not forces.requires_grad
        assert not graph.pos.requires_grad


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_map_of_states_takes_no_part_in_predictions(name: str) -> None:
    """Nor does it change the weights that a seed gives to the rest."""
    graph = make_graph(MOLS[:2], dtype=torch.float32)
    n = len(graph.pos)
    plain, with_map = (build(small_config(name, latent=known), seed=0) for known in (False, True))
    shared = plain.state_dict()
    for key, value in with_map.state_dict().items():
        assert key.startswith("latent.") or torch.equal(value, shared[key]), key
    energy, forces, states = with_map.with_states(graph)
    assert states.shape == (n, with_map.config.embedding_width)
    assert torch.equal(energy, plain(graph)[0]) and torch.equal(forces, plain(graph)[1])
    assert with_map.latent(states, torch.eye(3).expand(n, 3, 3)).shape == states.shape


def scalar_loss(model: torch.nn.Module, graph: GraphBatch, real: int | None = None) -> torch.Tensor:
    """A smooth loss of energies and of the forces of the first ``real`` atoms, with fixed random
    weights."""
    energy, forces = model(graph)
    real = len(forces) if real is None else real
    generator = torch.Generator().manual_seed(7)
    w = torch.randn(64, generator=generator, dtype=energy.dtype)
    f = torch.randn(512, 3, generator=generator, dtype=energy.dtype)
    return (
        (energy * w[: len(energy)]).sum()
        + (forces[:real] * f[:real]).sum()
        + forces[:real].square().sum()
    )


@variants
def test_every_parameter_receives_a_gradient(variant: Variant) -> None:
    model = fresh_model(variant).train()
    scalar_loss(model, make_graph(MOLS)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 1e-6, name


@variants
def test_parameter_gradients_against_finite_differences(variant: Variant) -> None:
    """Directional derivative of a loss of energies and forces: also right for hand-written backward
    passes."""
    model = fresh_model(variant).train()
    graph = make_graph([random_cluster(7, 31), MOLS[0], MOLS[4]])
    scalar_loss(model, graph).backward()
    generator = torch.Generator().manual_seed(9)
    used = [p for p in model.parameters() if p.grad is not None]
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().square().mean().sqrt()
        for p in used
    ]
    analytic = sum(float((p.grad * d).sum()) for p, d in zip(used, directions))
    h, values = 1e-5, []
    for sign in (1.0, -1.0):
        other = copy.deepcopy(model)
        with torch.no_grad():
            grads = dict(model.named_parameters())
            moving = [p for name, p in other.named_parameters() if grads[name].grad is not None]
            for p, d in zip(moving, directions):
                p.add_(sign * h * d)
        values.append(float(scalar_loss(other, graph).detach()))
    numeric = (values[0] - values[1]) / (2.0 * h)
    assert abs(numeric) > 1e-3
    assert abs(numeric - analytic) < 1e-6 * (1.0 + abs(numeric))


@precisions
@variants
def test_padding_changes_nothing(variant: Variant, dtype: torch.dtype) -> None:
    """Energies and forces of real atoms, and gradients, are those of the batch without padding."""
    mols = [*MOLS[:5], single_atom(), random_cluster(9, 41)]
    graph = make_graph(mols, dtype)
    model = fresh_model(variant, dtype).train()
    results = []
    for batch in (
        graph,
        padded(graph, atoms=5, edges=13, graphs=3),
        padded(graph, atoms=1, edges=0, graphs=0),
    ):
        model.zero_grad()
        energy, forces = (x.detach() for x in model(batch))
        scalar_loss(model, batch, real=len(graph.pos)).backward()
        assert bool(energy.isfinite().all()) and bool(forces.isfinite().all())
        assert energy.shape == (batch.n_graphs,) and forces.shape == (len(batch.pos), 3)
        assert float(energy[len(mols) :].abs().sum()) == 0.0
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((energy[: len(mols)], forces[: len(graph.pos)], *gradients))
    tolerance = 1e-11 if dtype == torch.float64 else 1e-3
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert found.shape == expected.shape
            assert float((found - expected).abs().max()) < tolerance * (
                1.0 + float(expected.abs().max())
            )


@direct
def test_scale_multiplies_both_outputs(variant: Variant) -> None:
    outputs = [
        evaluate(
            shared_model(
                Variant(f"{variant.id}-{s}", variant.name, variant.options | {"scale": s})
            ),
            MOLS,
        )
        for s in (1.0, 2.5)
    ]
    np.testing.assert_allclose(outputs[1][0], 2.5 * outputs[0][0], rtol=1e-12)
    np.testing.assert_allclose(outputs[1][1], 2.5 * outputs[0][1], rtol=1e-12)


@direct
def test_elements_are_told_apart(variant: Variant) -> None:
    """Exchanging any element for any other changes the energy."""
    base = random_cluster(6, 51)
    mols = [replace(base, numbers=np.full(6, number)) for number in ELEMENTS]
    energies = evaluate(shared_model(variant), mols)[0]
    assert min(abs(a - b) for k, a in enumerate(energies) for b in energies[:k]) > 1e-4


@variants
def test_state_round_trip_through_safetensors(variant: Variant, tmp_path) -> None:
    model = fresh_model(variant, seed=1)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = build(model.config, seed=99).double().eval()
    before = evaluate(other, MOLS)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    expected, found = evaluate(model, MOLS), evaluate(other, MOLS)
    assert not np.array_equal(before[0], expected[0])
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


@variants
def test_resume_is_exact(variant: Variant, tmp_path) -> None:
    """Two steps, saved and restored, two more: the same weights to the last bit as four in one
    go."""
    graph = make_graph([MOLS[0], MOLS[4], random_cluster(8, 61)], torch.float32)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            scalar_loss(model, graph).backward()
            optimizer.step()

    def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = build(small_config(variant.name, **variant.options), seed=4).train()
        return model, torch.optim.Adam(model.parameters(), lr=1e-3)

    straight, optimizer = start()
    train(straight, optimizer, 4)
    first, optimizer = start()
    train(first, optimizer, 2)
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    resumed, other = start()
    resumed.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(resumed, other, 2)
    untrained = start()[0].state_dict()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert any(
        not torch.equal(value, untrained[name]) for name, value in straight.state_dict().items()
    )


@variants
def test_same_seed_same_weights_and_the_global_state_is_left_alone(variant: Variant) -> None:
    config = small_config(variant.name, **variant.options)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    a, b, c = build(config, seed=5), build(config, seed=5), build(config, seed=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))


@direct
def test_outputs_are_zero_at_the_start(variant: Variant) -> None:
    """Output layers start at zero (muP): the first loss is that of the zero predictor."""
    model = build(small_config(variant.name, **variant.options), seed=0)
    energy, forces = model(make_graph(MOLS, torch.float32))
    assert float(energy.detach().abs().max()) == 0.0 and float(forces.detach().abs().max()) == 0.0


def test_unknown_architecture_and_unknown_option_are_errors() -> None:
    from pydantic import ValidationError

    from forcelaw.errors import StudyError
    from forcelaw.models import architecture

    with pytest.raises(StudyError, match="mpnn"):
        architecture("transformer")
    for name in ARCHITECTURES:
        assert architecture(name) is ARCHITECTURES[name]
        with pytest.raises(ValidationError, match="widht"):
            small_config(name, widht=3)
