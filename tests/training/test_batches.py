"""Batches assembled on the device against batches put together by hand, one structure at a time."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from forcelaw import ops
from forcelaw.data import splits
from forcelaw.data.device_dataset import Shard, plan_epoch
from forcelaw.data.pack import Pack, PackWriter
from forcelaw.data.schedule import Feed, Shards, plan
from forcelaw.errors import DataError
from forcelaw.graph import build_graph
from forcelaw.training.spec import training_set
from tests.interpreter import needs_interpreter
from tests.packs import write_pack


@pytest.fixture(params=[False, True], ids=["molecules", "periodic"])
def pack(request, tmp_path):
    return write_pack(tmp_path / "pack", periodic=request.param)


def shard_of(pack, indices, dtype=torch.float64):
    return Shard(pack, indices, cutoff=3.0, elements=(1, 6, 8), dtype=dtype)


def test_a_batch_is_the_structures_side_by_side(pack) -> None:
    shard = shard_of(pack, np.arange(len(pack)))
    chosen = np.array([7, 0, 31, 7])
    atoms, edges = shard.host_natoms[chosen].sum(), shard.host_nedges[chosen].sum()
    graph, target = shard.batch(torch.from_numpy(chosen), int(atoms), int(edges))
    references = pack.reference_energies()
    periodic = pack.manifest["periodic"]
    start = edge = 0
    for k, s in enumerate(chosen):
        rows = slice(pack.offsets[s], pack.offsets[s + 1])
        numbers, n = pack.numbers[rows], pack.offsets[s + 1] - pack.offsets[s]
        np.testing.assert_array_equal(
            graph.species[start : start + n], np.searchsorted([1, 6, 8], numbers)
        )
        np.testing.assert_allclose(graph.pos[start : start + n], pack.positions[rows].astype(float))
        np.testing.assert_allclose(
            target.forces[start : start + n], pack.forces[rows].astype(float)
        )
        assert float(target.energy[k]) == pytest.approx(
            pack.energies[s] - references[numbers].sum(), abs=1e-12
        )
        assert (graph.batch[start : start + n] == k).all()
        alone = build_graph(
            torch.from_numpy(pack.positions[rows].astype(float)),
            torch.zeros(n, dtype=torch.int64),
            torch.tensor([n]),
            3.0,
            cells=pack.cells[s : s + 1] if periodic else None,
            pbc=pack.pbc[s : s + 1] if periodic else None,
        )
        m = len(alone.sender)
        np.testing.assert_array_equal(graph.sender[edge : edge + m] - start, alone.sender)
        np.testing.assert_array_equal(graph.receiver[edge : edge + m] - start, alone.receiver)
        np.testing.assert_allclose(graph.vectors()[edge : edge + m], alone.vectors(), atol=1e-12)
        start, edge = start + n, edge + m
    assert start == atoms and edge == edges


def test_padding_adds_only_dummies(pack) -> None:
    shard = shard_of(pack, np.arange(len(pack)))
    chosen = torch.tensor([3, 9, -1, 12, -1])
    held = np.array([3, 9, 12])
    atoms, edges = int(shard.host_natoms[held].sum()), int(shard.host_nedges[held].sum())
    graph, target = shard.batch(chosen, atoms + 5, edges + 11, pad=True)
    exact, wanted = shard.batch(torch.from_numpy(held), atoms, edges)
    torch.testing.assert_close(graph.pos[:atoms], exact.pos)
    torch.testing.assert_close(graph.vectors()[:edges], exact.vectors())
    assert (graph.vectors()[edges:].norm(dim=-1) > 100).all()
    assert (graph.sender[edges:] == atoms + 4).all() and (graph.receiver[edges:] == atoms + 4).all()
    assert graph.natoms.tolist() == [
        shard.host_natoms[3],
        shard.host_natoms[9],
        0,
        shard.host_natoms[12],
        0,
    ]
    assert (graph.batch[atoms:] == 5).all()
    torch.testing.assert_close(target.real, torch.cat([torch.ones(atoms), torch.zeros(5)]).double())
    torch.testing.assert_close(target.energy[[0, 1, 3]], wanted.energy)


@needs_interpreter
@pytest.mark.parametrize("chosen", [[3], [3, 9, -1, 12, -1], [-1, 0], list(range(35))])
@pytest.mark.parametrize("turn", [False, True])
def test_the_kernels_assemble_the_same_batch(tmp_path, chosen: list[int], turn: bool) -> None:
    shard = shard_of(pack := write_pack(tmp_path / "pack"), np.arange(len(pack)))
    held = np.array([c for c in chosen if c >= 0])
    sizes = int(shard.host_natoms[held].sum()) + 3, int(shard.host_nedges[held].sum()) + 300
    rows = torch.tensor(chosen)
    rotation = ops.random_rotations(rows, 3, 9, torch.float64) if turn else None
    with ops.using("torch"):
        slow, target = shard.batch(rows, *sizes, pad=True, rotation=rotation)
    ptr, order = slow.segments
    with ops.using("triton"):
        fast, found = shard.batch(rows, *sizes, pad=True, rotation=rotation)
    assert fast.ptr is not None and fast.pad and fast.max_degree == slow.max_degree
    for name in ("species", "batch", "natoms"):
        assert torch.equal(getattr(fast, name), getattr(slow, name)), name
    for name in ("sender", "receiver", "transposed"):
        assert torch.equal(getattr(fast, name), getattr(slow, name)), name
    assert torch.equal(fast.segments[0], ptr) and torch.equal(fast.segments[1], order)
    assert torch.equal(found.energy, target.energy) and torch.equal(found.natoms, target.natoms)
    torch.testing.assert_close(fast.pos, slow.pos, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found.forces, target.forces, rtol=1e-14, atol=1e-14)
    assert torch.equal(found.real, target.real)


def test_rotation_turns_positions_forces_and_shifts_alike(pack) -> None:
    shard = shard_of(pack, np.arange(len(pack)))
    rows = torch.tensor([4, 5])
    atoms, edges = int(shard.host_natoms[4:6].sum()), int(shard.host_nedges[4:6].sum())
    turns = ops.random_rotations(rows, 3, 9, torch.float64)
    graph, target = shard.batch(rows, atoms, edges)
    turned, target2 = shard.batch(rows, atoms, edges, rotation=turns)
    for k in range(atoms):
        torch.testing.assert_close(turned.pos[k], turns[graph.batch[k]] @ graph.pos[k])
        torch.testing.assert_close(target2.forces[k], turns[graph.batch[k]] @ target.forces[k])
    torch.testing.assert_close(turned.vectors().norm(dim=-1), graph.vectors().norm(dim=-1))


def test_random_rotations_are_rotations_uniform_and_functions_of_seed_step_and_row() -> None:
    rows = torch.arange(20_000)
    r = ops.random_rotations(rows, 5, 1, torch.float64)
    torch.testing.assert_close(
        r @ r.transpose(1, 2), torch.eye(3).double().expand_as(r), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(len(r)).double())
    # uniform on SO(3): each entry has mean 0 and variance 1/3; five sigma of the mean is about 0.02
    assert r.mean(0).abs().max() < 0.02 and (r.square().mean(0) - 1 / 3).abs().max() < 0.02
    # the angle has density (1 - cos t) / pi: mean of cos t is -1/2
    cosine = (r.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    assert abs(float(cosine.mean()) + 0.5) < 0.02
    torch.testing.assert_close(
        ops.random_rotations(rows[7:9], torch.tensor(5), 1, torch.float64), r[7:9], rtol=0, atol=0
    )
    assert (ops.random_rotations(rows[:9], 6, 1, torch.float64) - r[:9]).abs().amax(
        (1, 2)
    ).min() > 1e-3
    assert (ops.random_rotations(rows[:9], 5, 2, torch.float64) - r[:9]).abs().amax(
        (1, 2)
    ).min() > 1e-3


def test_the_plan_covers_each_epoch_once_and_stops_at_the_target() -> None:
    natoms = np.random.default_rng(0).integers(3, 30, 101)
    for rule in ({"molecules": 8, "atoms": None}, {"molecules": None, "atoms": 90}):
        p = plan(natoms, atoms_total=2.5 * natoms.sum(), seed=3, **rule)
        assert p.atoms.sum() >= 2.5 * natoms.sum() > p.atoms[:-1].sum()
        np.testing.assert_array_equal(
            p.atoms, [natoms[p.order[a:b]].sum() for a, b in zip(p.ptr[:-1], p.ptr[1:])]
        )
        first = p.order[: p.ptr[(p.epoch == 0).sum()]]
        assert sorted(first) == list(range(101))
        if rule["atoms"]:
            assert p.atoms.max() <= 90
    assert (
        plan(natoms, atoms_total=100, seed=3, molecules=8, atoms=None).order[:8]
        != plan(natoms, atoms_total=100, seed=4, molecules=8, atoms=None).order[:8]
    ).any()


def test_a_structure_larger_than_the_budget_is_a_batch_of_its_own() -> None:
    assert plan_epoch(np.array([5, 50, 5, 5]), np.array([0, 1, 2, 3]), atoms=12).tolist() == [
        0,
        1,
        2,
        4,
    ]


def test_windows_hold_the_same_batches_as_the_resident_shard(pack) -> None:
    indices = np.arange(len(pack))
    natoms = np.diff(pack.offsets)
    schedule = plan(natoms, atoms_total=1.7 * natoms.sum(), seed=0, molecules=3, atoms=None)
    options = {
        "cutoff": 3.0,
        "elements": (1, 6, 8),
        "device": torch.device("cpu"),
        "dtype": torch.float64,
    }
    whole = Feed(pack, indices, schedule, **options).whole()
    with pytest.raises(ValueError, match="not one window of 60 atoms"):
        Feed(pack, indices, schedule, capacity=60, **options).whole()
    count, held = 0, []
    for window in Feed(pack, indices, schedule, capacity=60, **options).windows(start=2):
        held.append(int(window.shard.natoms.sum()))
        for step in range(window.low, window.high):
            mine, theirs = window.rows(schedule, step), whole.rows(schedule, step)
            np.testing.assert_array_equal(window.shard.indices[mine], whole.shard.indices[theirs])
            count += 1
    assert count == schedule.steps - 2
    # the next window is read while this one is used: two live on the device at once
    assert len(held) > 4 and all(a + b <= 60 for a, b in itertools.pairwise(held))


def test_a_short_plan_reads_no_more_than_it_comes_to(pack) -> None:
    """Alone, or a small part; where runs share shards, all is read once else. The batches are the
    same."""
    natoms = np.diff(pack.offsets)
    schedule = plan(natoms, atoms_total=0.4 * natoms.sum(), seed=0, molecules=3, atoms=None)
    options = {
        "cutoff": 3.0,
        "elements": (1, 6, 8),
        "device": torch.device("cpu"),
        "dtype": torch.float64,
    }
    indices = np.arange(len(pack))[::-1]
    whole = Feed(pack, indices, schedule, shards=Shards(), **options).whole()
    assert len(whole.shard) == len(pack)
    few = plan(natoms, atoms_total=0.1 * natoms.sum(), seed=0, molecules=1, atoms=None)
    assert 0 < few.steps < len(pack) / 4
    (own,) = Feed(pack, indices, few, shards=Shards(), **options).windows(0)
    assert len(own.shard) == few.steps
    for start in (0, 1):
        (part,) = Feed(pack, indices, schedule, **options).windows(start)
        assert len(part.shard) == 3 * (schedule.steps - start)
        for step in range(start, schedule.steps):
            rows, same = part.rows(schedule, step), whole.rows(schedule, step)
            np.testing.assert_array_equal(part.shard.indices[rows], whole.shard.indices[same])
            graphs = []
            for shard, chosen in ((part.shard, rows), (whole.shard, same)):
                sizes = int(shard.host_natoms[chosen].sum()), int(shard.host_nedges[chosen].sum())
                graphs.append(shard.batch(torch.from_numpy(chosen), *sizes)[0])
            for name in ("species", "pos", "sender", "receiver"):
                assert torch.equal(*(getattr(graph, name) for graph in graphs))


def test_what_is_held_of_a_training_set_is_a_few_bytes_a_structure(tmp_path) -> None:
    """Order, sizes and plan, against the same in 64 bits and one go; 200,000 structures."""
    rng, count = np.random.default_rng(0), 200_000
    sizes, split = rng.integers(1, 4, count), (rng.random(count) < 0.1).astype(np.uint8)
    atoms = int(sizes.sum())
    with PackWriter(tmp_path / "pack") as writer:
        vectors = dict.fromkeys(("positions", "forces"), np.zeros((atoms, 3)))
        numbers, groups = np.ones(atoms, np.uint8), np.zeros(count, np.uint64)
        labels = {"energies": np.zeros(count), "groups": groups, "split": split}
        writer.append(sizes, numbers=numbers, **vectors, **labels)
        references = {"energies": {"1": 0.0}}
        writer.finish({"elements": [1], "references": references, "statistics": {}})
    pack = Pack(tmp_path / "pack")
    tracemalloc.start()
    indices = training_set(pack)
    natoms = pack.sizes(indices)
    made = plan(natoms, atoms_total=float(natoms.sum()), seed=0, molecules=16, atoms=None)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 15 * len(indices) and peak < 50 * len(indices)
    members = np.flatnonzero(split == 0)
    expected = members[np.argsort(splits.keyed(members.astype(np.uint64), 0), kind="stable")]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(natoms, sizes[expected])
    order = np.random.Generator(np.random.PCG64([0, 0])).permutation(len(indices))
    np.testing.assert_array_equal(made.order, order)
    steps = [sizes[expected[order[k : k + 16]]].sum() for k in range(0, len(order), 16)]
    assert made.atoms.tolist() == steps


def test_an_unknown_element_is_named(pack) -> None:
    with pytest.raises(DataError, match=r"the pack holds O, which"):
        Shard(pack, np.arange(len(pack)), cutoff=3.0, elements=(1, 6))


def test_nested_training_sets_share_one_shard(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    options = {
        "cutoff": 3.0,
        "elements": tuple(pack.elements),
        "device": torch.device("cpu"),
        "dtype": torch.float64,
    }
    order = np.random.default_rng(0).permutation(len(pack))
    shards = Shards()
    small = shards.get(pack, order[:5], **options)
    large = shards.get(pack, order, **options)
    assert len(small) == 5 and len(large) == len(pack)
    assert (
        shards.get(pack, order[:5], **options) is large
        and shards.get(pack, order[:7], **options) is large
    )
    assert shards.get(pack, order[1:4], **options) is not large  # other rows
    assert shards.get(pack, order[:5], **{**options, "dtype": torch.float32}) is not large
    rows = torch.tensor([3, 0, 4])
    sizes = int(small.host_natoms[rows].sum()), int(small.host_nedges[rows].sum())
    (a, ta), (b, tb) = small.batch(rows, *sizes), large.batch(rows, *sizes)
    for x, y in (
        (a.pos, b.pos),
        (a.sender, b.sender),
        (a.receiver, b.receiver),
        (ta.energy, tb.energy),
        (ta.forces, tb.forces),
    ):
        assert torch.equal(x, y)


@pytest.mark.parametrize("steps", [1, 2, 3, 50, 997])
def test_size_classes_hold_their_steps_with_little_room_to_spare(steps) -> None:
    from forcelaw.training.step import CLASSES, size_classes

    rng = np.random.default_rng(steps)
    atoms = rng.integers(200, 500, steps)
    edges = atoms * rng.integers(10, 25, steps)
    sizes, member = size_classes(atoms, edges, CLASSES)
    held = np.array(sizes)[member]
    assert (held[:, 0] > atoms).all() and (held[:, 1] >= edges).all()  # one atom is the dummy
    assert set(member) == set(range(len(sizes))) and len(sizes) <= len(CLASSES)
    assert (np.array(sizes) % [16, 64] == 0).all()
    one, _ = size_classes(atoms, edges, (1.0,))
    assert len(one) == 1 and held[:, 1].sum() <= steps * one[0][1]
