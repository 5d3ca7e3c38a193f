"""Graphs against ASE's neighbour list and against loops over pairs: molecules, slabs, small cells,
single atoms."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list

from forcelaw import graph as graph_module
from forcelaw.graph import (
    ALL_PAIRS_MAX_ATOMS,
    GraphBatch,
    build_graph,
    cell_list_edges,
    molecule_edges,
    segment_sum,
)
from tests.molecules import CUTOFF, all_molecules, far_fragments, random_cluster, single_atom
from tests.reference.graph_slow import slow_edges

# Angstrom: keeps shells of perfect crystals away from the cutoff, where rounding would decide
RATTLE = 0.05


def periodic_structures() -> list[tuple[str, ase.Atoms, float]]:
    """(name, atoms, cutoff): slab, cells smaller than the cutoff, a skewed one, a chain, atoms
    outside the cell."""
    slab = fcc111("Pt", (2, 2, 3), vacuum=6.0)
    slab.pbc = (True, True, False)
    primitive = bulk("Cu")  # one atom, 2.55 Angstrom between images
    diamond = bulk("C", cubic=True)
    chain = ase.Atoms(
        "CH", [[0.0, 0.0, 0.0], [1.1, 0.2, 0.0]], cell=[2.5, 9.0, 9.0], pbc=(True, False, False)
    )
    skewed = ase.Atoms(
        "NaCl",
        [[0.1, 0.2, 0.3], [1.7, 1.5, 1.9]],
        pbc=True,
        cell=[[3.1, 0.0, 0.0], [1.4, 3.3, 0.0], [-0.9, 1.1, 3.6]],
    )
    outside = diamond.copy()
    outside.positions += np.array([7.3, -11.0, 0.4])
    cases = [
        ("slab", slab, 6.0),
        ("one atom, self images", primitive, 6.0),
        ("diamond", diamond, 5.0),
        ("chain", chain, 6.0),
        ("skewed", skewed, 5.0),
        ("atoms outside the cell", outside, 4.0),
    ]
    rng = np.random.default_rng(0)
    for _, atoms, _ in cases:
        atoms.positions += rng.normal(0.0, RATTLE, atoms.positions.shape)
    return cases


def as_graph(
    atoms_list: list[ase.Atoms], cutoff: float, dtype: torch.dtype = torch.float64
) -> GraphBatch:
    pos = torch.tensor(np.concatenate([a.positions for a in atoms_list]), dtype=dtype)
    natoms = torch.tensor([len(a) for a in atoms_list])
    species = torch.zeros(len(pos), dtype=torch.int64)
    return build_graph(
        pos,
        species,
        natoms,
        cutoff,
        cells=np.stack([np.array(a.cell) for a in atoms_list]),
        pbc=np.stack([a.pbc for a in atoms_list]),
    )


def ase_edges(atoms: ase.Atoms, cutoff: float) -> list[tuple[int, int, tuple[int, int, int]]]:
    i, j, images = neighbor_list("ijS", atoms, cutoff)
    return sorted((int(a), int(b), tuple(int(x) for x in s)) for a, b, s in zip(i, j, images))


def edges_of(
    graph: GraphBatch, cells: list[np.ndarray] | None = None
) -> list[tuple[int, int, tuple[int, int, int]]]:
    """(receiver, sender, image) of every edge; images are recovered from the shift in Angstrom."""
    if graph.shift is None:
        return sorted(
            (i, j, (0, 0, 0)) for i, j in zip(graph.receiver.tolist(), graph.sender.tolist())
        )
    out = []
    for i, j, shift in zip(
        graph.receiver.tolist(), graph.sender.tolist(), graph.shift.double().numpy()
    ):
        cell = cells[int(graph.batch[i])]
        image = np.linalg.solve(cell.T, shift) if np.abs(cell).sum() > 0 else np.zeros(3)
        assert np.abs(image - np.round(image)).max() < 1e-6
        out.append((i, j, tuple(int(x) for x in np.round(image))))
    return sorted(out)


def assert_sorted_and_symmetric(graph: GraphBatch) -> None:
    """Sorted by receiver, then sender; every edge has its reverse with the opposite vector."""
    key = graph.receiver * (len(graph.pos) + 1) + graph.sender
    assert bool((key[1:] >= key[:-1]).all())
    vec = graph.vectors().double().numpy()
    pairs = list(zip(graph.receiver.tolist(), graph.sender.tolist(), vec))
    forward = np.array(sorted((i, j, *np.round(v, 6)) for i, j, v in pairs), float)
    reverse = np.array(sorted((j, i, *np.round(0.0 - v, 6)) for i, j, v in pairs), float)
    np.testing.assert_allclose(forward, reverse, atol=2e-6)


def molecules_graph(mols: list, cutoff: float = CUTOFF) -> GraphBatch:
    pos = torch.tensor(np.concatenate([m.pos for m in mols]))
    species = torch.tensor(np.concatenate([m.species for m in mols]))
    return build_graph(pos, species, torch.tensor([len(m) for m in mols]), cutoff)


def expected_edges(
    mols: list, cutoff: float, method: str
) -> list[tuple[int, int, tuple[int, int, int]]]:
    out, start = [], 0
    for m in mols:
        found = (
            ase_edges(ase.Atoms(m.numbers, m.pos), cutoff)
            if method == "ase"
            else slow_edges(m.pos, cutoff)
        )
        out += [(i + start, j + start, s) for i, j, s in found]
        start += len(m)
    return sorted(out)


@pytest.mark.parametrize("method", ["ase", "slow"])
@pytest.mark.parametrize("cutoff", [1.7, 6.0])
def test_batch_of_molecules(method: str, cutoff: float) -> None:
    mols = all_molecules()
    graph = molecules_graph(mols, cutoff)
    assert edges_of(graph) == expected_edges(mols, cutoff, method)
    assert len(graph.sender) > 50
    assert_sorted_and_symmetric(graph)
    assert graph.shift is None
    assert graph.batch.tolist() == [k for k, m in enumerate(mols) for _ in range(len(m))]


@pytest.mark.parametrize("chunk", [1, 7, 50, 400])
def test_chunks_give_the_same_edges_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    mols = all_molecules()
    whole = molecules_graph(mols)
    monkeypatch.setattr(graph_module, "_PAIR_CHUNK", chunk)
    parts = molecules_graph(mols)
    assert torch.equal(whole.sender, parts.sender) and torch.equal(whole.receiver, parts.receiver)


def test_vectors_point_from_receiver_to_sender() -> None:
    mols = [random_cluster(9, 5), random_cluster(4, 6)]
    graph = molecules_graph(mols)
    pos = np.concatenate([m.pos for m in mols])
    for k, vec in enumerate(graph.vectors().numpy()):
        np.testing.assert_array_equal(vec, pos[graph.sender[k]] - pos[graph.receiver[k]])


def test_no_neighbour_is_dropped_in_a_dense_cluster() -> None:
    dense = random_cluster(80, 3, spacing=0.8, density=0.3)
    degrees = np.bincount([i for i, _, _ in slow_edges(dense.pos, CUTOFF)], minlength=80)
    assert degrees.max() >= 75  # far beyond usual caps of 30
    assert np.array_equal(
        np.bincount(molecules_graph([dense]).receiver.numpy(), minlength=80), degrees
    )


@pytest.mark.parametrize(
    "name,atoms,cutoff", periodic_structures(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_periodic_structures(name: str, atoms: ase.Atoms, cutoff: float) -> None:
    graph = as_graph([atoms], cutoff)
    found = edges_of(graph, [np.array(atoms.cell)])
    assert found == ase_edges(atoms, cutoff)
    assert found == slow_edges(atoms.positions, cutoff, np.array(atoms.cell), tuple(atoms.pbc))
    assert len(found) > 0
    assert_sorted_and_symmetric(graph)
    lengths = graph.vectors().norm(dim=-1)
    assert float(lengths.min()) > 0.5 and float(lengths.max()) < cutoff


def test_self_images_are_edges_of_small_cells() -> None:
    graph = as_graph([bulk("Cu")], 6.0)
    assert bool((graph.sender == graph.receiver).all())
    # fcc with a = 3.61 Angstrom: 12 + 6 + 24 + 12 + 24 neighbours in the five shells up to a
    # sqrt(5/2) = 5.71
    assert len(graph.sender) == 12 + 6 + 24 + 12 + 24


def test_batch_of_periodic_structures_and_molecules() -> None:
    cases = [atoms for _, atoms, _ in periodic_structures()]
    free = ase.Atoms(single_atom().numbers, single_atom().pos)
    water = ase.Atoms("OH2", [[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    batch = [cases[0], free, cases[4], water, cases[1]]
    graph = as_graph(batch, 4.5)
    expected, start = [], 0
    for atoms in batch:
        expected += [(i + start, j + start, s) for i, j, s in ase_edges(atoms, 4.5)]
        start += len(atoms)
    assert edges_of(graph, [np.array(a.cell) for a in batch]) == sorted(expected)
    assert_sorted_and_symmetric(graph)


def test_cell_without_periodic_flags_is_a_molecule() -> None:
    slab = fcc111("Pt", (1, 1, 3), vacuum=6.0)
    slab.pbc = False
    graph = as_graph([slab], 6.0)
    assert graph.shift is None
    assert edges_of(graph) == ase_edges(slab, 6.0)


def test_large_molecule_takes_the_cell_list_and_gives_all_pairs() -> None:
    large = random_cluster(ALL_PAIRS_MAX_ATOMS + 30, 4)
    mols = [random_cluster(5, 8), large, single_atom()]
    graph = molecules_graph(mols)
    sender, receiver = molecule_edges(graph.pos, graph.natoms, CUTOFF)
    assert torch.equal(graph.sender, sender) and torch.equal(graph.receiver, receiver)
    assert edges_of(molecules_graph([large])) == ase_edges(
        ase.Atoms(large.numbers, large.pos), CUTOFF
    )


def test_large_molecule_really_uses_the_cell_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("all pairs on a large structure")

    monkeypatch.setattr(graph_module, "molecule_edges", refuse)
    molecules_graph([random_cluster(ALL_PAIRS_MAX_ATOMS + 1, 4)])
    with pytest.raises(AssertionError, match="all pairs"):
        molecules_graph([random_cluster(20, 4)])


@pytest.mark.parametrize("periodic", [False, True])
def test_single_atoms_have_no_edges(periodic: bool) -> None:
    atoms = ase.Atoms("C", [[0.1, 0.2, 0.3]], cell=np.eye(3) * 20.0, pbc=periodic)
    graph = as_graph([atoms, atoms], CUTOFF)
    assert len(graph.sender) == len(graph.receiver) == 0
    assert graph.vectors().shape == (0, 3)
    assert graph.sender.dtype == graph.receiver.dtype == torch.int64
    assert graph.batch.tolist() == [0, 1]


def test_empty_batch() -> None:
    graph = build_graph(
        torch.zeros(0, 3),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
        CUTOFF,
    )
    assert graph.n_graphs == 0 and graph.vectors().shape == (0, 3) and graph.batch.shape == (0,)


def test_structures_without_atoms_are_padding_slots() -> None:
    m = random_cluster(4, 2)
    natoms = torch.tensor([0, 4, 0])
    graph = build_graph(torch.tensor(m.pos), torch.tensor(m.species), natoms, CUTOFF)
    assert graph.batch.tolist() == [1] * 4
    assert edges_of(graph) == slow_edges(m.pos, CUTOFF)


def test_far_fragments_share_no_edge() -> None:
    a, b, both = far_fragments()
    joined = edges_of(molecules_graph([both]))
    apart = slow_edges(a.pos, CUTOFF) + [
        (i + len(a), j + len(a), s) for i, j, s in slow_edges(b.pos, CUTOFF)
    ]
    assert joined == sorted(apart)


def test_cell_list_returns_int64_and_angstrom() -> None:
    cell, pbc = np.diag([2.0, 50.0, 50.0]), np.array([True, False, False])
    sender, receiver, shift = cell_list_edges(np.zeros((1, 3)), 3.0, cell, pbc)
    assert sender.dtype == receiver.dtype == np.int64
    np.testing.assert_allclose(np.sort(shift[:, 0]), [-2.0, 2.0])


def test_to_changes_the_precision_of_positions_and_shifts_only() -> None:
    graph = as_graph([bulk("Cu")], 3.0)
    half = graph.to(torch.float32)
    assert half.pos.dtype == half.shift.dtype == half.vectors().dtype == torch.float32
    assert half.sender.dtype == torch.int64 and graph.pos.dtype == torch.float64


def test_padding_edges_lie_outside_any_cutoff() -> None:
    m = random_cluster(5, 1)
    real = molecules_graph([m])
    n = len(m)
    pad = torch.full((3,), n, dtype=torch.int64)
    graph = GraphBatch(
        torch.cat([real.species, torch.zeros(1, dtype=torch.int64)]),
        torch.cat([real.batch, torch.ones(1, dtype=torch.int64)]),
        torch.cat([real.pos, torch.zeros(1, 3, dtype=torch.float64)]),
        torch.cat([real.sender, pad]),
        torch.cat([real.receiver, pad]),
        real.natoms,
        pad=True,
    )
    assert torch.equal(graph.vectors()[:-3], real.vectors())
    assert bool((graph.vectors()[-3:].norm(dim=-1) > 1e3).all())


def test_segment_sum_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    values, index = rng.normal(size=(50, 2, 3)), rng.integers(0, 7, 50)
    expected = np.zeros((8, 2, 3))
    for v, k in zip(values, index):
        expected[k] += v
    found = segment_sum(torch.tensor(values), torch.tensor(index), 8).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-13)
    assert np.array_equal(found[7], np.zeros((2, 3)))
