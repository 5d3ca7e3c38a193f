"""eSEN: frames against spherical harmonics, the model against a slow one, groups of its twins, N,
FLOPs, learning."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from forcelaw.models import ARCHITECTURES, build
from forcelaw.models.esen import ESEN, ESENConfig, flops, symmetry_of
from forcelaw.models.so3 import EdgeFrames, n_coefficients, order_major
from tests.models.configs import small_config
from tests.models.tools import (
    energy_error,
    evaluate,
    force_error,
    make_graph,
    moved,
    random_rotation,
    randomise,
    run,
)
from tests.molecules import all_molecules, named, random_cluster
from tests.reference import so3_slow

MOLS = [*all_molecules()[:6], random_cluster(6, 1), random_cluster(13, 2)]
ORDERS = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 2), (4, 4)]
orders = pytest.mark.parametrize("lmax, mmax", ORDERS)


def model_of(seed: int = 0, **options: object) -> ESEN:
    """A randomised model in float64, buffers included (a cast one has basis functions centred on
    float32 numbers)."""
    torch.set_default_dtype(torch.float64)
    try:
        model = build(small_config("esen", **options), seed=seed)
    finally:
        torch.set_default_dtype(torch.float32)
    randomise(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.mup_kind == "output":
                parameter.mul_(model.config.m)
    return model.eval()


def directions() -> torch.Tensor:
    """Random unit vectors, both poles, both sides of each, the axes and the equator."""
    rng = np.random.default_rng(0)
    tiny = 10.0 ** -np.arange(2.0, 18.0, 3.0)
    near = [
        [t * math.cos(a), sign, t * math.sin(a)]
        for t in tiny
        for a in (0.3, 2.0, 4.5)
        for sign in (1.0, -1.0)
    ]
    special = [
        [0, 1, 0],
        [0, -1, 0],
        [1, 0, 0],
        [-1, 0, 0],
        [0, 0, 1],
        [0, 0, -1],
        [-0.0, -1.0, -0.0],
    ]
    points = np.concatenate([rng.normal(size=(40, 3)), np.array(near), np.array(special, float)])
    return torch.tensor(points / np.linalg.norm(points, axis=1, keepdims=True))


@orders
@pytest.mark.parametrize("smooth", [False, True])
def test_frames_are_the_wigner_matrices_of_a_rotation_onto_the_pole(
    lmax: int, mmax: int, smooth: bool
) -> None:
    unit = directions()
    d = EdgeFrames(lmax, mmax)(unit, smooth=smooth).numpy()
    assert d.shape == (len(unit), n_coefficients(lmax, mmax), (lmax + 1) ** 2)
    rows = order_major(lmax, mmax)
    complete = EdgeFrames(1, 1)(unit, smooth=smooth).numpy()[:, np.argsort(order_major(1, 1))][
        :, 1:, 1:
    ]
    for k, rotation in enumerate(complete):  # the l = 1 block is the rotation itself
        np.testing.assert_allclose(rotation @ unit[k].numpy(), [0, 1, 0], atol=1e-14)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(rotation) == pytest.approx(1.0, abs=1e-13)
        np.testing.assert_allclose(d[k], so3_slow.wigner(rotation, lmax)[rows], atol=1e-12)


def test_order_of_rows() -> None:
    """m = 0 of every degree, then +1 and -1 of l = 1, 2, then +2 and -2 of l = 2."""
    assert order_major(2, 2) == [0, 2, 6, 3, 7, 1, 5, 8, 4]
    assert order_major(2, 1) == [0, 2, 6, 3, 7, 1, 5]
    assert [n_coefficients(l, 2) for l in (2, 3, 4)] == [9, 14, 19]


def test_frames_against_e3nn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        o3 = pytest.importorskip("e3nn.o3")
    unit = directions()
    lmax = 4
    frames = EdgeFrames(lmax, lmax)(unit)[:, np.argsort(order_major(lmax, lmax))]
    rotation = frames[:, 1:4, 1:4]
    probe = torch.tensor(np.random.default_rng(1).normal(size=(len(unit), 3)))
    degrees = list(range(lmax + 1))
    before = o3.spherical_harmonics(degrees, probe, normalize=True, normalization="norm")
    after = o3.spherical_harmonics(
        degrees, (rotation @ probe.unsqueeze(-1)).squeeze(-1), normalize=True, normalization="norm"
    )
    torch.testing.assert_close(
        (frames @ before.unsqueeze(-1)).squeeze(-1), after, rtol=0, atol=1e-13
    )
    for l in degrees:  # its Wigner matrices come from float32 generators
        block = slice(l * l, (l + 1) ** 2)
        expected = o3.wigner_D(l, *o3.matrix_to_angles(rotation[:30]))
        torch.testing.assert_close(frames[:30, block, block], expected.double(), rtol=0, atol=1e-5)


def test_the_roll_of_the_twins_is_the_shortest_arc() -> None:
    """Trace of the rotation = 1 + 2 cos(angle) with cos(angle) = y: no rotation onto the pole turns
    less."""
    unit = directions()
    rotation = EdgeFrames(1, 1)(unit)[:, np.argsort(order_major(1, 1))][:, 1:, 1:]
    trace = rotation.diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(trace, 1.0 + 2.0 * unit[:, 1], rtol=0, atol=1e-13)


def test_frames_keep_float64_tables_through_casts() -> None:
    frames = EdgeFrames(3, 2)
    expected = frames(directions())
    assert torch.equal(frames.float().half().double()(directions()), expected)
    single = frames.float()(directions().float())
    assert single.dtype == torch.float32 and float((single - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("lmax", [1, 2, 4])
def test_derivatives_of_frames_are_finite_and_exact_at_the_poles(lmax: int) -> None:
    frames, h = EdgeFrames(lmax, lmax), 1e-5
    weights = torch.tensor(np.random.default_rng(2).normal(size=frames.shape))

    def total(vec: torch.Tensor) -> torch.Tensor:  # a fixed random combination of all entries, (e,)
        return (frames(vec / vec.norm(dim=-1, keepdim=True), smooth=True) * weights).sum((1, 2))

    points = [
        [0.0, 1.0, 0.0],
        [0.0, -1.0, 0.0],
        [1e-9, -1.3, 0.0],
        [0.3, -0.2, 0.5],
        [1e-200, 1.0, 0.0],
    ]
    vec = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    (analytic,) = torch.autograd.grad(total(vec).sum(), vec)
    shifts = h * torch.eye(3, dtype=torch.float64)
    vec = vec.detach()
    numeric = torch.stack([(total(vec + s) - total(vec - s)) / (2 * h) for s in shifts], dim=1)
    assert float(numeric.abs().max()) > 0.1
    torch.testing.assert_close(analytic, numeric, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "lmax, mmax, options",
    [
        (2, 2, {}),
        (1, 1, {}),
        (3, 2, {}),
        (4, 4, {"depth": 1}),
        (3, 2, {"parity": True}),
        (3, 3, {"untied": True, "epsilon": 0.7}),
        (2, 2, {"width": 12, "base_width": 4, "radial": 20}),
        (2, 2, {"basis": "bessel", "radial": 8}),
    ],
)
def test_model_against_a_slow_one(lmax: int, mmax: int, options: dict) -> None:
    """One edge at a time, degree-major, least-squares Wigner matrices; its frames roll at random
    where that is free."""
    config = {"width": 4, "radial": 16, "basis": "gaussian"} | options
    model = model_of(lmax=lmax, mmax=mmax, **config)
    graph = make_graph([random_cluster(5, 3), named("H2O")])
    vec = graph.vectors()
    unit = vec / vec.norm(dim=-1, keepdim=True)
    rng = np.random.default_rng(7)
    if model.config.broken:
        rotations = EdgeFrames(1, 1)(unit)[:, np.argsort(order_major(1, 1))][:, 1:, 1:].numpy()
    else:
        rotations = [so3_slow.any_frame(u, rng) for u in unit.numpy()]
    state = {name: value.detach().numpy() for name, value in model.named_parameters()}
    edges = list(zip(graph.sender.tolist(), graph.receiver.tolist()))
    energy, forces = so3_slow.SlowESEN(state, model.config)(
        graph.species.numpy(), edges, vec.numpy(), rotations
    )
    with torch.no_grad():
        found_energy, found_forces = model.atomwise(graph, vec)
    np.testing.assert_allclose(
        found_energy.numpy(), energy, rtol=0, atol=1e-11 * np.abs(energy).max()
    )
    np.testing.assert_allclose(
        found_forces.numpy(), forces, rtol=0, atol=1e-11 * np.abs(forces).max()
    )


def symmetry_errors(model: ESEN) -> tuple[float, float]:
    """(proper rotation, inversion): the larger of energy and force error."""
    energy, forces = evaluate(model, MOLS)
    out = []
    for matrix in (random_rotation(3), -np.eye(3)):
        energy2, forces2 = evaluate(model, moved(MOLS, matrix))
        out.append(
            max(energy_error(energy2, energy), force_error(forces2, forces @ matrix.T, MOLS))
        )
    return out[0], out[1]


@orders
def test_exact_groups(lmax: int, mmax: int) -> None:
    """eSEN is SE(3) and not E(3); without W2 it is E(3); untied it is neither, and with epsilon 0
    eSEN again."""
    sizes = {"lmax": lmax, "mmax": mmax, "width": 6}
    rotation, inversion = symmetry_errors(model_of(**sizes))
    assert rotation < 1e-12 and inversion > 1e-3
    rotation, inversion = symmetry_errors(model_of(**sizes, parity=True))
    assert rotation < 1e-12 and inversion < 1e-12
    rotation, _ = symmetry_errors(model_of(**sizes, untied=True, epsilon=0.0))
    assert rotation < 1e-12
    rotation, _ = symmetry_errors(model_of(**sizes, untied=True, epsilon=1.0))
    assert rotation > 1e-2


def test_untied_with_epsilon_zero_is_esen() -> None:
    """The same weights from the same seed; with epsilon > 0 free parts come on top and nothing else
    changes."""
    plain, untied, freed = (
        build(small_config("esen", **o), seed=3)
        for o in ({}, {"untied": True, "epsilon": 0.0}, {"untied": True, "epsilon": 0.5})
    )
    tied = dict(plain.named_parameters())
    assert tied.keys() == dict(untied.named_parameters()).keys()
    for model in (untied, freed):
        rest = {name: p for name, p in model.named_parameters() if ".free." not in name}
        assert rest.keys() == tied.keys() and all(
            torch.equal(p, tied[name]) for name, p in rest.items()
        )
    for model in (plain, untied):
        randomise(model.energy)
        randomise(model.force)
    graph = make_graph(MOLS, torch.float32)
    for found, expected in zip(run(untied.eval(), graph), run(plain.eval(), graph)):
        assert np.array_equal(found, expected) and np.abs(found).max() > 0.1


def test_epsilon_is_a_continuous_knob() -> None:
    """Small breaks are linear in epsilon."""
    errors = []
    for epsilon in (1e-4, 1e-3, 1e-2):
        model = build(small_config("esen", untied=True, epsilon=epsilon), seed=1).double().eval()
        randomise(model.force)
        errors.append(symmetry_errors(model)[0])
    assert 8.0 < errors[1] / errors[0] < 12.0 and 8.0 < errors[2] / errors[1] < 12.0
    assert 1e-5 < errors[0] < 1e-2


@pytest.mark.parametrize(
    "options, free", [({}, True), ({"parity": True}, True), ({"untied": True}, False)]
)
@pytest.mark.parametrize("lmax", [2, 4])
def test_roll_of_the_frames(lmax: int, options: dict, free: bool) -> None:
    """A random roll of every edge changes nothing in eSEN (gauge invariance), and does change its
    untied twin."""
    model = model_of(lmax=lmax, width=6, **options)
    energy, forces = evaluate(model, MOLS)
    straight = model.turn
    degrees, angles = model.config.degrees, torch.Generator().manual_seed(0)

    def rolled(unit: torch.Tensor) -> torch.Tensor:
        d = straight(unit)
        gamma = 2 * math.pi * torch.rand(len(unit), generator=angles, dtype=torch.float64)
        rows, start = [d[:, : degrees[0]]], degrees[0]
        for m, count in enumerate(degrees[1:], start=1):
            plus, minus = d[:, start : start + count], d[:, start + count : start + 2 * count]
            c, s = torch.cos(m * gamma)[:, None, None], torch.sin(m * gamma)[:, None, None]
            rows += [c * plus - s * minus, s * plus + c * minus]
            start += 2 * count
        return torch.cat(rows, dim=1)

    model.turn = rolled
    energy2, forces2 = evaluate(model, MOLS)
    error = max(energy_error(energy2, energy), force_error(forces2, forces, MOLS))
    assert error < 1e-12 if free else error > 1e-2


def test_conservative_forces_with_edges_on_the_poles() -> None:
    """Atoms on the polar axis and very near it: gradients are finite and those of the energy."""
    model = model_of(forces="conservative", width=6)
    chain = named("H2O")
    pos = np.array([[0, 0, 0], [0, 1.1, 0], [1e-9, -1.2, 0.0]])
    molecule = type(chain)("chain on y", np.array([6, 8, 1]), pos)
    _, forces = evaluate(model, [molecule])
    h, displaced = 1e-5, []
    for k in range(9):
        for sign in (1.0, -1.0):
            step = np.zeros(9)
            step[k] = sign * h
            displaced.append(type(chain)("", molecule.numbers, pos + step.reshape(3, 3)))
    energy, _ = evaluate(model, displaced)
    numeric = -(energy[0::2] - energy[1::2]).reshape(3, 3) / (2 * h)
    assert np.abs(numeric).max() > 0.1
    np.testing.assert_allclose(forces, numeric, rtol=0, atol=1e-6)


def published_count(c: ESENConfig) -> int:
    """N in closed form, checked once against fairchem's code, with its heads."""
    width, basis, lmax, elements = c.width, c.radial, c.lmax, len(c.elements)
    n = [lmax - m + 1 for m in range(c.mmax + 1)]

    def radial(outputs: int) -> int:
        return (
            (basis + 2 * width) * width
            + width
            + width**2
            + width
            + 4 * width
            + width * outputs
            + outputs
        )

    conv1 = 2 * n[0] * width * (n[0] + lmax) * width + (n[0] + lmax) * width
    conv1 += sum(2 * (2 * k * width) * (k * width) for k in n[1:])
    conv2 = n[0] ** 2 * width**2 + n[0] * width + sum(2 * k**2 * width**2 for k in n[1:])
    norm = (lmax + 1) * width + width
    per_degree = (lmax + 1) * width**2 + width
    gates = width * lmax * width + lmax * width
    layer = radial(2 * width * sum(n)) + conv1 + conv2 + gates + 2 * per_degree + 2 * norm
    energy_head = 2 * (width**2 + width) + width + 1
    force_head = 2 * width + 1  # rows l = 0 and l = 1, and a bias
    return (
        c.depth * layer
        + radial(n[0] * width)
        + norm
        + elements * 3 * width
        + energy_head
        + force_head
    )


@pytest.mark.parametrize(
    "width, depth, lmax, mmax, radial, elements",
    [
        (128, 4, 2, 2, 64, 100),
        (128, 10, 4, 2, 128, 90),
        (256, 2, 6, 2, 64, 90),
        (6, 2, 2, 2, 64, 90),
        (36, 4, 3, 3, 32, 8),
        (16, 3, 4, 4, 16, 8),
        (10, 1, 1, 1, 8, 3),
    ],
)
def test_number_of_parameters(
    width: int, depth: int, lmax: int, mmax: int, radial: int, elements: int
) -> None:
    config = ESENConfig(
        width=width,
        depth=depth,
        lmax=lmax,
        mmax=mmax,
        radial=radial,
        elements=tuple(range(elements)),
        reference_heads=True,
    )
    with torch.device("meta"):
        model, lean = ESEN(config), ESEN(config.model_copy(update={"reference_heads": False}))
    assert model.n_parameters() == published_count(config)
    assert lean.n_parameters() == published_count(config) - (
        width + 1
    )  # the l = 0 row and the bias reach no output
    assert model.n_parameters() - model.n_nonembedding() == elements * 3 * width
    if (width, depth, lmax, elements) == (128, 4, 2, 100):
        assert model.n_parameters() == 6_261_506  # fairchem's eSEN-sm


def test_reference_heads_change_no_output() -> None:
    plain, carrying = (
        build(small_config("esen"), seed=0),
        build(small_config("esen", reference_heads=True), seed=0),
    )
    randomise(plain)
    state = plain.state_dict()
    weight = torch.randn(2, 1, plain.config.width)
    weight[1] = state.pop("force.weight")
    carrying.load_state_dict(state | {"force.weight": weight, "force.bias": torch.randn(1)})
    for found, expected in zip(evaluate(carrying.eval(), MOLS), evaluate(plain.eval(), MOLS)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"lmax": 1},
        {"lmax": 3},
        {"lmax": 3, "mmax": 3},
        {"lmax": 4},
        {"parity": True},
        {"parity": True, "lmax": 4},
        {"untied": True},
        {"untied": True, "lmax": 3, "mmax": 1},
        {"reference_heads": True, "depth": 3},
    ],
)
def test_flops_of_the_variants(options: dict) -> None:
    """The counter sees the closed form and, once per batch, the products of both element tables."""
    config = small_config("esen", width=10, **options)
    model, graph = build(config, seed=0), make_graph(MOLS, torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(graph)
    tables = 4 * (config.depth + 1) * len(config.elements) * config.width**2
    assert (
        counter.get_total_flops()
        == flops(config).forward(len(graph.sender), len(graph.pos)) + tables
    )


def test_flops_against_the_reference_formula() -> None:
    """Section 2.4 at K4L2, MFLOP per edge and layer: conv1 2.29, conv2 0.95, radial 0.51 less
    tables, rotation 0.06."""
    config = ESENConfig(width=128, depth=4, radial=64, elements=tuple(range(90)))
    deeper = config.model_copy(update={"depth": 5})
    layer = (flops(deeper).per_edge - flops(config).per_edge) / 1e6
    tables = 2 * (2 * 128 - 2 * 90) * 128 / 1e6  # their 2 Ce columns are our 2 Z
    assert layer + tables == pytest.approx(2.29 + 0.95 + 0.51 + 0.062, abs=0.015)
    node = (flops(deeper).per_atom - flops(config).per_atom) / 128**2
    assert node == 2 * (2 + 2 * 9)


def test_twins_cost_the_same_or_half() -> None:
    """Untied blocks run the same products as tied ones (their N grows instead); parity halves those
    of m > 0."""
    plain, untied, parity = (
        small_config("esen", width=16, **o) for o in ({}, {"untied": True}, {"parity": True})
    )
    assert flops(plain) == flops(untied)
    counts = [build(c).n_parameters() for c in (plain, untied, parity)]
    w, depth = 16, 2
    blocks = (
        sum(2 * k * k for k in (2, 1)) * (2 + 1) * w * w * depth
    )  # conv1 has twice the columns of conv2
    assert counts[1] - counts[0] == blocks and counts[0] - counts[2] == blocks // 2
    assert flops(plain).per_edge - flops(parity).per_edge == 2.0 * blocks


def test_configuration() -> None:
    base = {"width": 8, "depth": 2, "elements": (1, 6)}
    assert [ESENConfig(**base, lmax=l).mmax for l in (1, 2, 3, 4)] == [1, 2, 2, 2]
    assert ESENConfig(**base).lmax == ESENConfig(**base).mmax == 2
    assert ESENConfig(**ESENConfig(**base, lmax=4).model_dump()) == ESENConfig(**base, lmax=4)
    with pytest.raises(ValidationError, match=r"mmax \(3\) is larger than lmax \(2\)"):
        ESENConfig(**base, mmax=3)
    with pytest.raises(ValidationError, match="choose one"):
        ESENConfig(**base, parity=True, untied=True)
    groups = [
        symmetry_of(ESENConfig(**base, **o))
        for o in ({}, {"parity": True}, {"untied": True}, {"untied": True, "epsilon": 0.0})
    ]
    assert groups == ["SE(3)", "E(3)", "none", "SE(3)"]
    assert ARCHITECTURES["esen"].symmetry_for(ESENConfig(**base, parity=True)) == "E(3)"


def test_direct_forces_record_no_gradient_through_frames() -> None:
    model = model_of()
    graph = make_graph(MOLS[:2])
    vec = graph.vectors()
    assert not model.turn(vec / vec.norm(dim=-1, keepdim=True)).requires_grad
    energy, _ = model.atomwise(
        graph, vec.requires_grad_(True)
    )  # and when a gradient is asked for, it is there
    assert float(torch.autograd.grad(energy.sum(), vec)[0].abs().max()) > 1e-3


def test_forward_is_one_graph_without_host_synchronisation() -> None:
    """torch.compile with fullgraph refuses any read of a tensor's value: what CUDA graphs need."""
    model, graph = model_of(depth=1), make_graph(MOLS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.compile itself
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            energy, forces = compiled(graph)
    torch._dynamo.reset()
    expected_energy, expected_forces = run(model, graph)
    np.testing.assert_allclose(energy.numpy(), expected_energy, rtol=1e-12)
    np.testing.assert_allclose(forces.numpy(), expected_forces, rtol=1e-10, atol=1e-12)


def test_it_learns_and_faster_than_painn() -> None:
    """Forty steps of Adam on six frames with made-up labels that turn with the molecule: pair
    forces along bonds."""
    from forcelaw.models.sizing import size

    mols = [random_cluster(8 + k, 60 + k) for k in range(6)]
    graph = make_graph(mols, torch.float32)
    vec = graph.vectors()
    r = vec.norm(dim=-1, keepdim=True)
    strength = (
        6.0
        * torch.exp(-2.0 * (r - 1.2))
        * (1.0 + 0.3 * (graph.species[graph.sender] == 0)[:, None])
    )
    forces = torch.zeros_like(graph.pos).index_add(0, graph.receiver, -strength * vec / r)
    energy = torch.zeros(len(mols)).index_add(0, graph.batch[graph.receiver], 0.2 * strength[:, 0])
    losses = {}
    for name in ("painn", "esen"):
        config = size(
            name,
            12_000,
            elements=small_config(name).elements,
            scale=float(forces.square().mean().sqrt()),
        )
        model = build(config, seed=0)
        groups = [{"params": [p], "lr": 4e-3 * p.lr_scale} for p in model.parameters()]
        optimizer = torch.optim.Adam(groups)
        for step in range(41):
            e, f = model(graph)
            loss = ((e - energy).abs() / graph.natoms).mean() + (f - forces).norm(dim=-1).mean()
            if step == 0:
                start = float(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[name] = float(loss.detach()) / start
    assert losses["esen"] < 0.2 and losses["esen"] < losses["painn"], losses
