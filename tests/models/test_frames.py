"""Any architecture in the principal frame of a structure, and averaged over its frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from forcelaw.errors import StudyError
from forcelaw.models import ARCHITECTURES
from forcelaw.models.frames import averaged, in_frames, principal_axes, rotation_set
from tests.models.configs import Variant, small_config
from tests.models.test_contract import CELL, strained
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
from tests.molecules import Molecule, all_molecules, named, random_cluster, single_atom

MOLS = [random_cluster(7, k) for k in range(4)] + [random_cluster(12, 9)]
KINDS = ("principal", "average4", "average8")
EXACT, BROKEN = 1e-8, 1e-3


def variant(kind: str, name: str = "mpnn") -> Variant:
    return Variant(f"{name}-{kind}", name, {"canonical": kind})


@pytest.mark.parametrize("name", ["mpnn", "attention", "platonic"])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_where_moments_differ(name: str, kind: str) -> None:
    """Rotations, and reflections with all eight frames alone."""
    model = fresh_model(variant(kind, name))
    energy, forces = evaluate(model, MOLS)

    def error(matrix: np.ndarray) -> float:
        after, turned = evaluate(model, moved(MOLS, matrix))
        return max(energy_error(after, energy), force_error(turned, forces @ matrix.T, MOLS))

    assert max(error(random_rotation(k)) for k in range(3)) < EXACT
    assert (error(-np.eye(3)) < EXACT) == (kind == "average8")
    plain = fresh_model(Variant(name, name))
    assert energy_error(evaluate(plain, MOLS)[0], energy) > BROKEN


def test_axes_are_those_of_lapack() -> None:
    mols = [*MOLS, *all_molecules()]
    graph = make_graph(mols)
    centred, axes = principal_axes(graph, graph.batch)
    starts = np.cumsum([0, *(len(m) for m in mols)])
    for k, m in enumerate(mols):
        x = m.pos - m.pos.mean(0)
        np.testing.assert_allclose(centred[starts[k] : starts[k + 1]], x, atol=1e-12)
        found = axes[k].numpy()
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(found) == pytest.approx(1.0)
        values, vectors = np.linalg.eigh(x.T @ x / len(m))
        reached = np.diag(found @ (x.T @ x / len(m)) @ found.T)
        np.testing.assert_allclose(reached, values[::-1], atol=1e-7 * (1 + values[-1]))
        if np.diff(values).min() > 1e-3:
            overlap = np.abs(np.sum(found * vectors.T[::-1], axis=1))
            np.testing.assert_allclose(overlap, 1.0, atol=1e-9)


def test_averages_are_means_over_signs_of_axes() -> None:
    """One frame at a time, with LAPACK's axes."""
    plain, m = fresh_model(Variant("mpnn", "mpnn")), MOLS[4]
    x = m.pos - m.pos.mean(0)
    vectors = np.linalg.eigh(x.T @ x)[1].T[::-1]  # longest first
    for kind, choices in (("average4", 4), ("average8", 8)):
        energies, forces = [], []
        for signs in np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).T.reshape(-1, 3):
            frame = vectors * signs[:, None]
            if choices == 4 and np.linalg.det(frame) < 0:
                continue
            energy, force = evaluate(plain, [Molecule(m.name, m.numbers, x @ frame.T)])
            energies.append(energy[0])
            forces.append(force @ frame)
        assert len(energies) == choices
        energy, force = evaluate(fresh_model(variant(kind)), [m])
        assert energy[0] == pytest.approx(np.mean(energies), rel=1e-8)
        np.testing.assert_allclose(force, np.mean(forces, axis=0), atol=1e-8)


def test_where_outputs_jump() -> None:
    """Along a path on which a sum of cubes changes sign, the canonical frame flips and the energy
    jumps; the average over signs does not. Measured as the largest step over the median one."""
    base, move = random_cluster(6, 3), random_cluster(6, 4)
    path = [
        Molecule("path", base.numbers, base.pos + t * (move.pos - base.pos))
        for t in np.linspace(0.0, 1.0, 801)
    ]
    jumps = {}
    for kind in ("none", *KINDS):
        energy, _ = evaluate(fresh_model(variant(kind)), path)
        steps = np.abs(np.diff(energy))
        jumps[kind] = steps.max() / np.median(steps)
    assert jumps["none"] < 20 and jumps["average4"] < 0.2 * jumps["principal"]
    assert jumps["principal"] > 30


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_degenerate_structures(kind: str) -> None:
    mols = [*MOLS[:2], single_atom(), named("CO2"), named("CH4"), named("C6H6")]
    model, graph = fresh_model(variant(kind)).train(), make_graph(mols)
    energy, forces = run(model, graph)
    assert np.isfinite(energy).all() and np.isfinite(forces).all()
    energy2, forces2 = run(model, padded(graph, 5, 13, 2))
    np.testing.assert_allclose(energy2[: len(mols)], energy, rtol=1e-10)
    np.testing.assert_allclose(forces2[: len(forces)], forces, atol=1e-9)
    assert (energy2[len(mols) :] == 0).all()
    e, f = model(graph)
    (e.sum() + f.square().sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_passes_cost_what_they_cost() -> None:
    entry = ARCHITECTURES["mpnn"]
    plain, average = (small_config("mpnn", canonical=k) for k in ("none", "average8"))
    assert entry.flops_for(average).per_edge == 8 * entry.flops_for(plain).per_edge
    assert entry.flops_for(average).per_atom == 8 * entry.flops_for(plain).per_atom
    assert "canonical" not in plain.model_dump() and average.model_dump()["canonical"] == "average8"


def test_what_has_no_frame_is_refused() -> None:
    with pytest.raises(ValidationError, match="direct forces"):
        small_config("mpnn", canonical="principal", forces="conservative")
    crystal = strained(random_cluster(6, 21), CELL, np.zeros((3, 3)))
    with pytest.raises(StudyError, match="no principal frame"):
        in_frames(fresh_model(Variant("mpnn", "mpnn")), crystal, "principal")
    with torch.no_grad(), pytest.raises(StudyError, match="no principal frame"):
        fresh_model(variant("average4"))(crystal)


def averaged_over(model, count: int, mols: list[Molecule]) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = averaged(model, make_graph(mols), rotation_set(count))
    return tuple(x.numpy() for x in found)


@pytest.mark.parametrize("count", [12, 24, 60, 5])
def test_an_average_over_rotations_is_their_mean_and_exact_for_a_group(count: int) -> None:
    """Turned by hand and built anew for each rotation; then turned by one of the rotations."""
    model = fresh_model(Variant("mpnn", "mpnn"))
    rotations = rotation_set(count).numpy()
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(np.linalg.det(rotations), 1.0)
    assert len(np.unique(rotations.reshape(count, 9).round(6), axis=0)) == count
    energy, forces = averaged_over(model, count, MOLS)
    parts = [evaluate(model, moved(MOLS, r)) for r in rotations]
    np.testing.assert_allclose(energy, np.mean([e for e, _ in parts], axis=0), rtol=1e-10)
    by_hand = np.mean([f @ r for (_, f), r in zip(parts, rotations)], axis=0)
    np.testing.assert_allclose(forces, by_hand, atol=1e-10)

    def error(matrix: np.ndarray) -> float:
        after, turned = averaged_over(model, count, moved(MOLS, matrix))
        return max(energy_error(after, energy), force_error(turned, forces @ matrix.T, MOLS))

    assert (error(rotations[3]) < EXACT) == (count != 5)
    assert error(random_rotation(3)) > EXACT


def test_larger_groups_leave_less_asymmetry() -> None:
    """The icosahedron's rotations average out all degrees below six."""
    model = fresh_model(Variant("mpnn", "mpnn"))

    def error(count: int) -> float:
        turn, (_, forces) = random_rotation(1), averaged_over(model, count, MOLS)
        turned = averaged_over(model, count, moved(MOLS, turn))[1]
        return force_error(turned, forces @ turn.T, MOLS)

    none, t, i = error(1), error(12), error(60)
    assert i < 0.5 * t < 0.5 * none


def test_virials_of_crystals_are_averaged_too() -> None:
    """A model that is equivariant with its crystal gives the same as without an average."""
    model = fresh_model(Variant("painn", "painn", {"forces": "conservative"})).eval()
    graph = strained(random_cluster(4, 2), CELL, np.zeros((3, 3)))
    plain = model.with_virial(graph)
    turned = averaged(model.with_virial, graph, rotation_set(3))
    for one, other in zip(plain, turned):
        torch.testing.assert_close(other.detach(), one.detach(), rtol=1e-8, atol=1e-9)
