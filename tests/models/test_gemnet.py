"""GemNet-OC: indices, bases and the whole model against loops and trigonometry; size, FLOPs,
scales, fixed shapes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils.flop_counter import FlopCounterMode

from forcelaw.data.device_dataset import Shard
from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models import gemnet_oc
from forcelaw.models.gemnet_basis import (
    degrees,
    envelope_share,
    quad_layout,
    radial_norm,
    rotation_points,
)
from forcelaw.models.gemnet_config import GemNetOCConfig, flops, operations, published
from forcelaw.models.gemnet_index import EdgeIndex, build_index
from forcelaw.models.gemnet_oc import GemNetOC
from forcelaw.ops.gemnet.harmonics import frames, harmonics, rotations
from tests.models.gemnet_lists import counts, quadruplets, triplets
from tests.models.tools import make_graph, padded
from tests.molecules import named, pair, random_cluster, single_atom
from tests.packs import write_pack
from tests.reference import gemnet_slow as slow

ELEMENTS = (1, 6, 7, 8, 9, 16)


def small(**options: object) -> GemNetOCConfig:
    return GemNetOCConfig(**({"width": 8, "depth": 2, "elements": ELEMENTS} | options))


def model_of(config: GemNetOCConfig, seed: int = 0) -> GemNetOC:
    """Float64 from the start; the heads, which begin at zero, are random."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        model = GemNetOC(config)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("energy.weight", "force.weight"):
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


def index_of(graph: GraphBatch, quad_cutoff: float = 2.5) -> EdgeIndex:
    return build_index(graph, graph.vectors(), quad_cutoff)


MOLECULES = [
    named("CO2"),
    named("CH3OH"),
    single_atom(),
    random_cluster(9, 3),
    pair(),
    named("C2H2"),
]


# ---- indices


def test_reverse_edges_and_rows() -> None:
    graph = make_graph(MOLECULES, cutoff=2.6)
    index = index_of(graph)
    assert torch.equal(index.sender[index.swap], index.receiver)
    assert torch.equal(index.receiver[index.swap], index.sender)
    values = torch.randn(len(index.sender), 3, dtype=torch.float64)
    rows = index.rows(values)
    assert rows.shape == (len(graph.species), int(torch.bincount(index.receiver).max()), 3)
    assert torch.equal(index.edges(rows), values)
    for atom in range(index.atoms):
        mine = values[index.receiver == atom]
        assert torch.equal(rows[atom, : len(mine)], mine)
        assert float(rows[atom, len(mine) :].abs().sum()) == 0.0


def test_reverse_edges_of_a_small_periodic_cell() -> None:
    """Several edges between the same two atoms, and from an atom to its own image."""
    cell = np.array([[2.9, 0.0, 0.0], [0.4, 3.1, 0.0], [-0.3, 0.5, 3.4]])
    pos = torch.tensor([[0.1, 0.2, 0.3], [1.3, 0.9, 0.2], [0.4, 1.9, 1.7]])
    graph = build_graph(
        pos.double(),
        torch.tensor([0, 1, 2]),
        torch.tensor([3]),
        5.0,
        cells=cell[None],
        pbc=np.ones((1, 3), bool),
    )
    assert int((graph.sender == graph.receiver).sum()) > 6
    shuffle = torch.randperm(len(graph.sender), generator=torch.Generator().manual_seed(0))
    graph = replace(
        graph,
        sender=graph.sender[shuffle],
        receiver=graph.receiver[shuffle],
        shift=graph.shift[shuffle],
    )
    index = index_of(graph)
    vec = graph.vectors()[index.order]
    assert torch.equal(graph.receiver[index.order], index.receiver)
    torch.testing.assert_close(vec[index.swap], -vec, rtol=0, atol=1e-12)
    assert torch.equal(index.swap[index.swap], torch.arange(len(vec)))


@pytest.mark.parametrize("cutoff", [2.0, 3.2])
def test_triplets_and_quadruplets_are_those_of_the_loops(cutoff: float) -> None:
    for molecule in MOLECULES:
        graph = make_graph([molecule], cutoff=cutoff)
        index = index_of(graph, 1.8)
        name = list(zip(index.sender.tolist(), index.receiver.tolist()))
        expected = slow.edges_of(molecule.pos, cutoff)
        assert sorted(name) == sorted(expected)
        inner, outer = triplets(index)
        found = [(name[b], name[c]) for b, c in zip(inner.tolist(), outer.tolist())]
        assert len(found) == len(set(found)) and set(found) == slow.triplets(expected)
        inner, middle, outer = quadruplets(index)
        found3 = [
            (name[d], name[index.short[b]], name[c])
            for d, b, c in zip(inner.tolist(), middle.tolist(), outer.tolist())
        ]
        assert len(found3) == len(set(found3)) and set(found3) == slow.quadruplets(
            expected, molecule.pos, 1.8
        )
        number = counts(index)
        assert (number["triplets"], number["quadruplets"]) == (len(found), len(found3))


# ---- bases


def random_units(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),
        dim=1,
    )


def test_harmonics_are_scipys() -> None:
    unit = random_units(40)
    theta, phi = np.arccos(unit[:, 2].numpy()), np.arctan2(unit[:, 1].numpy(), unit[:, 0].numpy())
    found = harmonics(unit, 7).numpy()
    for l in range(7):
        for m in range(-l, l + 1):
            y = (
                sph_harm_y(l, abs(m), theta, phi)
                * math.sqrt(4 * math.pi)
                * (1 if m == 0 else math.sqrt(2) * (-1) ** m)
            )
            np.testing.assert_allclose(
                found[:, l * l + l + m], y.imag if m < 0 else y.real, atol=1e-12
            )


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_rotations_turn_harmonics_into_the_frame(count: int) -> None:
    unit, other = random_units(30), random_units(30, 1)
    unit = torch.cat([unit, torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    other = torch.cat([other, random_units(6, 2)])
    turn = frames(unit)
    torch.testing.assert_close(
        turn @ turn.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand_as(turn)
    )
    assert float((torch.linalg.det(turn) - 1).abs().max()) < 1e-12
    torch.testing.assert_close(turn[:, 2], unit)
    points, fit = (torch.from_numpy(a) for a in rotation_points(count))
    blocks = rotations(unit, points, fit, count)
    expected = harmonics((turn @ other.unsqueeze(-1)).squeeze(-1), count)
    start = 0
    for l in range(count):
        size = 2 * l + 1
        d = blocks[:, start : start + size * size].view(-1, size, size)
        found = (d @ harmonics(other, count)[:, l * l : (l + 1) ** 2].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(found, expected[:, l * l : (l + 1) ** 2], rtol=0, atol=1e-12)
        start += size * size
    assert start == blocks.shape[1]


def test_factorised_product_is_the_function_of_the_dihedral() -> None:
    """leave^T . enter over one short edge is sum_j of P_p^j P_l^j cos(j dihedral), by
    trigonometry."""
    count = 4
    s, w = count * count, 2 * count - 1
    rng = np.random.default_rng(0)
    b, c, d = (v / np.linalg.norm(v) for v in rng.normal(size=(3, 3)))
    points, fit = (torch.from_numpy(a) for a in rotation_points(count))
    blocks = rotations(torch.tensor(b)[None], points, fit, count)[0].numpy()
    enter, leave, share = quad_layout(count)
    blocks = np.append(blocks, 0.0)
    inward = (
        blocks[enter].reshape(count, w, s) @ harmonics(torch.tensor(d), count).numpy()
    )  # (l, j)
    outward = blocks[leave].reshape(-1, w)
    y_c = harmonics(torch.tensor(c), count).numpy()
    theta_c, theta_d = slow.angle(c, b), slow.angle(d, b)
    dihedral = slow.angle(np.cross(c, b), np.cross(d, b))
    number = place = 0
    for p in range(count):
        for j in range(p + 1):
            column = share[number] * y_c[p * p : (p + 1) ** 2] @ outward[place : place + 2 * p + 1]
            place += 2 * p + 1
            for l in range(count):
                expected = (
                    slow.quad_function(p, l, j, theta_c, theta_d, dihedral) if j <= l else 0.0
                )
                assert abs(column @ inward[l] - expected) < 1e-12
            number += 1


def test_norm_of_radial_functions_does_not_depend_on_the_default_precision() -> None:
    """It is kept for all models of a process, whatever the first of them was."""
    found = []
    for precision in (torch.float32, torch.float64):
        radial_norm.cache_clear()
        torch.set_default_dtype(precision)
        found.append(radial_norm("exponential", 12, 5.0))
        torch.set_default_dtype(torch.float32)
    assert found[0] == found[1]


def test_radial_functions_and_envelope_have_the_stated_size() -> None:
    r = np.linspace(0.9, 5.0, 4001)
    for basis in ("gaussian", "exponential"):
        slowly = slow.Slow(model_of(small(basis=basis, radial=12)))
        values = np.array([slowly.functions(d, 5.0) for d in r]) * radial_norm(basis, 12, 5.0)
        assert abs(np.mean(values**2) - 1) < 1e-3
    assert abs(envelope_share(5.0) - np.mean([slow.cut(x / 5.0) ** 2 for x in r])) < 1e-3


# ---- the whole model against loops


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "spherical": 3,
            "rbf": 5,
            "cbf": 6,
            "sbf": 7,
            "radial": 9,
            "depth": 1,
            "basis": "gaussian",
        },
        {
            "spherical": 2,
            "before_skip": 1,
            "concat": 0,
            "update_layers": 1,
            "after_atom": 1,
            "norm": False,
        },
    ],
)
def test_whole_model_is_the_loops(options: dict) -> None:
    config = small(
        **(
            {"width": 4, "depth": 2, "cutoff": 3.5, "quad_cutoff": 2.4, "mean_degree": 6.0}
            | options
        )
    )
    model = model_of(config)
    molecule = random_cluster(6, 4)
    graph = make_graph([molecule], cutoff=config.cutoff)
    assert counts(index_of(graph, config.quad_cutoff))["quadruplets"] > 15
    site, forces = model.atomwise(graph, graph.vectors())
    expected_site, expected_forces = slow.Slow(model).run(molecule.species, molecule.pos)
    np.testing.assert_allclose(
        site.detach().numpy(), expected_site, rtol=1e-9, atol=1e-9 * np.abs(expected_site).max()
    )
    np.testing.assert_allclose(
        forces.detach().numpy(),
        expected_forces,
        rtol=1e-9,
        atol=1e-9 * np.abs(expected_forces).max(),
    )
    assert np.abs(expected_forces).max() > 1e-3


@pytest.mark.parametrize("interaction", ["e2e", "quad", "a2e", "e2a", "a2a"])
def test_every_interaction_matters(interaction: str) -> None:
    model = model_of(small())
    graph = make_graph([random_cluster(8, 5)])
    before = model.atomwise(graph, graph.vectors())[0].detach()
    with torch.no_grad():
        getattr(model.blocks[0].interaction, f"bilinear_{interaction}").weight.zero_()
    after = model.atomwise(graph, graph.vectors())[0].detach()
    assert float((after - before).abs().max()) > 1e-6


def test_dihedral_is_seen() -> None:
    """A chain of four atoms where the cutoff leaves the three bonds alone: turned about the middle
    one, only a dihedral changes, and only quadruplets can tell."""

    def chain(turn: float) -> np.ndarray:
        ends = np.array([[-0.6, 1.2, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
        return np.vstack(
            [
                ends,
                np.array([1.5, 0, 0]) + Rotation.from_rotvec([turn, 0, 0]).apply([0.6, 1.2, 0.0]),
            ]
        )

    def energies(config: GemNetOCConfig) -> tuple[float, float]:
        model, out = model_of(config), []
        for turn in (1.9, 2.9):
            pos = torch.tensor(chain(turn))
            graph = build_graph(pos, torch.tensor([0, 1, 1, 0]), torch.tensor([4]), config.cutoff)
            assert len(graph.sender) == 6
            out.append(float(model(graph)[0].detach()))
        return out[0], out[1]

    seen = energies(small(cutoff=2.1, quad_cutoff=2.0))
    blind = energies(small(cutoff=2.1, quad_cutoff=1.0))  # no short edges, so no quadruplets
    assert abs(seen[0] - seen[1]) > 1e-6
    assert abs(blind[0] - blind[1]) < 1e-12


def test_conservative_forces_are_smooth_where_three_atoms_are_in_line() -> None:
    """Gradients and second derivatives stay finite and continuous through a collinear
    arrangement."""
    model = model_of(small(forces="conservative"))
    base = named("C2H2")
    forces = []
    for bend in (-1e-4, 0.0, 1e-4):
        pos = base.pos.copy()
        pos[0, 0] += bend
        graph = make_graph([replace(base, pos=pos)])
        _, force = model(graph)
        loss = force.square().sum()
        model.zero_grad()
        loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        forces.append(force.detach().numpy())
    assert np.isfinite(forces).all()
    second = forces[0] - 2 * forces[1] + forces[2]
    assert np.abs(second).max() < 1e-5 * max(1.0, np.abs(forces[1]).max())
    assert np.abs(forces[2] - forces[0]).max() > 1e-8


# ---- fixed shapes, padding


@pytest.mark.parametrize("wider", [0, 1, 7])
@pytest.mark.parametrize("padding", [0, 1, 40])
def test_fixed_shapes_give_the_same_numbers(wider: int, padding: int) -> None:
    """A given row width, all edges taken as short and any padding change energies, forces and
    gradients by rounding only."""
    model = model_of(small(quad_cutoff=2.5))
    graph = make_graph([named("CH3OH"), random_cluster(7, 6)])
    width = int(torch.bincount(graph.receiver).max())
    batch = padded(graph, atoms=3, edges=padding, graphs=1) if padding else replace(graph)
    batch.max_degree = width + wider
    index = index_of(batch)
    assert (
        index.width == width + wider and index.short is None and index_of(graph).short is not None
    )
    results = []
    for g in (graph, batch):
        energy, forces = model(g)
        loss = energy[:2].square().sum() + forces[: len(graph.pos)].square().sum()
        results.append(
            (
                energy[:2],
                forces[: len(graph.pos)],
                *torch.autograd.grad(loss, list(model.parameters())),
            )
        )
    for found, expected in zip(results[1], results[0]):
        torch.testing.assert_close(
            found, expected, rtol=1e-12, atol=1e-12 * max(1.0, float(expected.detach().abs().max()))
        )


def test_too_small_a_row_width_is_an_error_and_not_a_wrong_result() -> None:
    model = model_of(small())
    graph = make_graph([named("CH3OH"), random_cluster(7, 6)])
    width = int(torch.bincount(graph.receiver).max())
    for batch in (replace(graph), padded(graph, atoms=3, edges=40, graphs=1)):
        batch.max_degree = width - 1
        with pytest.raises(RuntimeError, match="more neighbours than the rows"):
            model(batch)


def test_batches_of_a_shard_need_no_sorting_and_carry_their_row_width(tmp_path: Path) -> None:
    """What training on a GPU sees: padded batches of a shard give the numbers of each molecule
    alone."""
    pack = write_pack(tmp_path / "pack")
    model = model_of(small(elements=tuple(pack.elements), cutoff=3.0, quad_cutoff=2.0))
    shard = Shard(
        pack, np.arange(len(pack)), cutoff=3.0, elements=tuple(pack.elements), dtype=torch.float64
    )
    rows = torch.tensor([2, 0, 5])
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    exact, _ = shard.batch(rows, atoms, edges)
    fixed, _ = shard.batch(torch.cat([rows, torch.tensor([-1])]), atoms + 5, edges + 33, pad=True)
    assert exact.max_degree is None and fixed.max_degree == shard.max_degree
    assert shard.max_degree >= int(torch.bincount(exact.receiver).max())
    for graph in (exact, fixed):
        sorting = replace(graph, transposed=None)
        for name in ("order", "swap", "flat"):
            assert torch.equal(
                getattr(index_of(graph, 2.0), name), getattr(index_of(sorting, 2.0), name)
            )
    (energy, forces), (energy2, forces2) = model(exact), model(fixed)
    torch.testing.assert_close(energy2[:3], energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces2[:atoms], forces, rtol=1e-12, atol=1e-12)


def test_fixed_shapes_need_nothing_from_the_device() -> None:
    """With fake tensors, which have shapes but no values, a step goes through: so does CUDA graph
    capture."""
    graph = make_graph([named("CH3OH")], torch.float32)
    for given in (9, None):
        with FakeTensorMode(allow_non_fake_inputs=True):
            fake = {
                f: torch.empty_strided(v.shape, v.stride(), dtype=v.dtype)
                for f in ("species", "batch", "pos", "sender", "receiver", "natoms")
                for v in [getattr(graph, f)]
            }
            batch = GraphBatch(**fake, max_degree=given)
            model = GemNetOC(small())
            if given is None:
                with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                    model(batch)
                continue
            energy, forces = model(batch)
            (energy.sum() + forces.sum()).backward()
            assert forces.shape == graph.pos.shape


def test_middle_edges_never_reach_beyond_the_cutoff() -> None:
    """Whatever quad_cutoff says: an edge just inside the cutoff carries nothing."""
    model = model_of(small(cutoff=2.5, quad_cutoff=4.0))
    pos = torch.tensor(
        [[0.0, 0.0, 0.0], [1.2, 0.4, 0.1], [1.9, 1.4, -0.3], [-0.5, 1.0, 0.6], [-0.2, -2.4919, 0.0]]
    ).double()
    pos[4] *= (2.5 - 1e-5) / pos[4].norm()
    graph = build_graph(pos, torch.tensor([1, 2, 3, 0, 0]), torch.tensor([5]), 2.5)
    keep = graph.vectors().norm(dim=-1) < 2.499
    assert int(keep.sum()) == len(keep) - 2
    without = replace(graph, sender=graph.sender[keep], receiver=graph.receiver[keep])
    for found, expected in zip(model(graph), model(without)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_roll_of_the_frames_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(small())
    graph = make_graph([random_cluster(9, 7)])
    site, forces = model.atomwise(graph, graph.vectors())
    plain = frames

    def rolled(unit: torch.Tensor) -> torch.Tensor:
        angle = torch.linspace(0, 6, len(unit), dtype=unit.dtype)
        c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        turn = torch.stack([c, s, zero, -s, c, zero, zero, zero, one], dim=-1).view(-1, 3, 3)
        return turn @ plain(unit)

    monkeypatch.setattr("forcelaw.ops.gemnet.harmonics.frames", rolled)
    site2, forces2 = model.atomwise(graph, graph.vectors())
    torch.testing.assert_close(site2, site, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(forces2, forces, rtol=1e-11, atol=1e-12)


# ---- sizes


def parameters(config: GemNetOCConfig) -> int:
    with torch.device("meta"):
        return GemNetOC(config).n_parameters()


def test_parameter_count_at_the_published_sizes() -> None:
    """38,864,384 in the reference, with S^2 columns per spherical function where this one has S (S
    + 1) / 2."""
    c = published()
    missing = c.radial * c.sbf * (c.spherical**2 - c.spherical * (c.spherical + 1) // 2)
    assert parameters(c) + missing == 38_864_384


def test_small_models_are_possible() -> None:
    assert parameters(small(width=4)) < 16_000
    assert 25_000 < parameters(small(width=8)) < 34_000
    assert 0.85e6 < parameters(small(width=40, depth=4)) < 1.1e6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 16, "spherical": 5, "sbf": 6, "rbf": 7, "cbf": 9, "radial": 11},
        {"edge_ratio": 1, "depth": 1},
        {"forces": "conservative"},
    ],
)
def test_operations_against_the_counter(options: dict) -> None:
    config = small(**options)
    torch.manual_seed(0)
    model = GemNetOC(config)
    graph = make_graph([named("CH3OH"), random_cluster(12, 8)], torch.float32)
    number = counts(build_index(graph, graph.vectors(), config.quad_cutoff))
    assert number["rows"] > number["edges"] > number["short_edges"] > 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.atomwise(graph, graph.vectors())
    exact = operations(config)
    assert counter.get_total_flops() == exact.flops(
        *(number[k] for k in ("edges", "rows", "atoms", "short_edges"))
    )
    # the linear form is the same without padding, at the stated number of short edges per atom
    linear = flops(
        config.model_copy(update={"quad_degree": number["short_edges"] / number["atoms"]})
    )
    expected = exact.flops(number["edges"], number["edges"], number["atoms"], number["short_edges"])
    assert linear.forward(number["edges"], number["atoms"]) == pytest.approx(expected, rel=1e-12)


def test_variance_of_messages_is_flat_in_width_and_near_one() -> None:
    """Scale factors do not know the width: sizes of all messages and states stay put from width 32
    to 128."""
    mols = [random_cluster(18, k) for k in range(2)]
    graph = make_graph(mols, torch.float32)
    widths = (32, 128)  # the middle of three would have no weight in a slope
    sizes: dict[str, list[float]] = {}
    for width in widths:
        logs: dict[str, list[float]] = {}
        for seed in range(8):
            torch.manual_seed(seed)
            model = GemNetOC(small(width=width, mean_degree=15.0))

            def watch(name: str, out: dict[str, list[float]] = logs) -> object:
                def hook(_: object, __: object, value: object) -> None:
                    for k, tensor in enumerate(value if isinstance(value, tuple) else (value,)):
                        out.setdefault(f"{name}[{k}]", []).append(
                            math.log(float(tensor.square().mean()))
                        )

                return hook

            for k, block in enumerate(model.blocks):
                block.register_forward_hook(watch(f"block {k}"))
                block.interaction.register_forward_hook(watch(f"messages {k}"))
            with torch.no_grad():
                model(graph)
        for name, values in logs.items():
            sizes.setdefault(name, []).append(float(np.mean(values)))
    assert len(sizes) == 8
    for name, values in sizes.items():
        slope = np.polyfit(np.log(widths), values, 1)[0] / 2  # of the RMS
        assert abs(slope) < 0.2, (name, slope, values)
        assert all(-4.0 < v < 2.0 for v in values), (name, values)


def test_degrees() -> None:
    assert degrees(3).tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert gemnet_oc.ARCHITECTURE.symmetry == "E(3)"
