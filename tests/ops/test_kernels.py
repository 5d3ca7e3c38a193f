"""The Triton kernels, interpreted on a CPU in float64, against plain autograd over obvious torch
code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module

import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from forcelaw import ops
from forcelaw.graph import GraphBatch, build_graph, molecule_edges
from forcelaw.models import ARCHITECTURES, build
from forcelaw.models.basis import EdgeFeatures, ExponentialBasis
from tests.ops.graphs import DEVICE, leaf, same, sums

# modules: their names in forcelaw.ops are those of functions
norm, affine, vectors = (
    import_module(f"forcelaw.ops.{name}") for name in ("layer_norm", "linear", "painn_message")
)
pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("d", [6, 40])
def test_gated(graph: GraphBatch, d: int) -> None:
    n, e = len(graph.pos), len(graph.sender)
    pair, w = leaf(n, 2 * d), leaf(e, d)
    mask = (
        graph.receiver != n - 1 if graph.pad else torch.ones(e, dtype=torch.bool, device=DEVICE)
    ).unsqueeze(1)
    s, t = pair.chunk(2, dim=1)
    slow = 0.3 * sums(
        torch.nn.functional.silu(s[graph.sender] + t[graph.receiver]) * w * mask, graph
    )
    fast = ops.gated_message(pair, w, graph, 0.3)
    same((fast,), (slow,), [pair, w], n - 1 if graph.pad else n)


def slow_message(
    graph: GraphBatch, h, v, x, g, weight, unit, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """By index_add, edges of the dummy left out."""
    real = (
        graph.receiver != len(graph.pos) - 1
        if graph.pad
        else torch.ones_like(graph.receiver, dtype=torch.bool)
    )
    a, b, c = (x[graph.sender] * (g @ weight.T) * real.unsqueeze(1)).chunk(3, dim=1)
    change = unit.unsqueeze(2) * c.unsqueeze(1)
    if v is not None:
        change = change + v[graph.sender] * b.unsqueeze(1)
    return h + scale * sums(a, graph), scale * sums(change, graph) + (0 if v is None else v)


@pytest.mark.parametrize("few", [1, 3, 11], ids=lambda few: f"{few} atoms")
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("d", [6, 40])
def test_painn_message(graph: GraphBatch, d: int, moving: bool, few: int, monkeypatch) -> None:
    """However many atoms a program has, and whether it has one group of them or all."""
    n, e, blocks = len(graph.pos), len(graph.sender), -(-d // 16)
    monkeypatch.setattr(vectors, "ENOUGH", n * blocks // few)
    monkeypatch.setattr(vectors, "PROGRAMS", 2 * blocks)
    h, x, v, weight, g = (
        leaf(n, d),
        leaf(n, 3 * d),
        leaf(n, 3, d),
        leaf(3 * d, 5),
        leaf(e, 5).detach(),
    )
    assert vectors._shape("vectors", x, g)[0] == min(16, n * blocks // (n * blocks // few)) >= few
    unit = torch.randn(e, 3, dtype=torch.float64, device=DEVICE)
    given = h, v if moving else None, x, g, weight, unit
    slow = slow_message(graph, *given, 0.3)
    fast = ops.painn_message(*given, graph, 0.3)
    same(fast, slow, [h, x, weight, v] if moving else [h, x, weight], n - 1 if graph.pad else n)


@pytest.fixture
def tf32() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


def messages(graph: GraphBatch, precision: str) -> list[tuple[float, float]]:
    """Of outputs and gradients: error over norm, and by what share they are too large; against
    float64."""
    torch.manual_seed(1)
    n, e, d, real = len(graph.pos), len(graph.sender), 40, len(graph.pos) - 2 * graph.pad
    shapes = (n, d), (n, 3, d), (n, 3 * d), (e, 20), (3 * d, 20), (e, 3)
    rounded = [leaf(*shape).detach().float() for shape in shapes]
    exact = [t.double() for t in rounded]
    moved = [
        t.requires_grad_(True)
        for t in (*(rounded[k] for k in (0, 1, 2, 4)), *(exact[k] for k in (0, 1, 2, 4)))
    ]
    slow = slow_message(graph, *exact, 0.3)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
        fast = ops.painn_message(*rounded, graph, 0.3)
    weights = [torch.randn_like(s[:real]) for s in slow]
    sum(
        (w.to(o.dtype) * o[:real]).sum()
        for outputs in (fast, slow)
        for w, o in zip(weights, outputs)
    ).backward()
    pairs = [*zip(fast, slow), *((f.grad, s.grad) for f, s in zip(moved[:4], moved[4:]))]
    pairs = [
        [t.detach().double()[:real] if len(t) == n else t.double() for t in pair] for pair in pairs
    ]
    return [
        (((f - s).norm() / s.norm()).item(), ((f * s).sum() / (s * s).sum()).item() - 1)
        for f, s in pairs
    ]


def test_painn_message_in_float32(graph: GraphBatch) -> None:
    assert all(error < 1e-6 for error, _ in messages(graph, "float32"))


def test_painn_message_in_tf32(graph: GraphBatch, tf32: None) -> None:
    """A GPU cuts off the digits that TF32 has not, so factors are rounded up before. The
    interpreter cuts nothing off."""
    for error, share in messages(graph, "tf32"):
        assert error < (6e-4 if DEVICE == "cuda" else 2e-3) and (
            DEVICE == "cpu" or abs(share) < 1e-4
        )


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no products of bf16")
def test_painn_message_in_bf16(graph: GraphBatch, tf32: None) -> None:
    assert all(error < 5e-3 for error, _ in messages(graph, "bf16"))


def test_painn_message_too_large() -> None:
    """Kernels count in 32 bits."""
    with pytest.raises(ValueError, match="take fewer atoms a step"):
        vectors._shape("vectors", torch.zeros(1).expand(1 << 24, 3 * 48), torch.zeros(5, 32))


@pytest.mark.parametrize("seed, step", [(0, 0), (3, 12345), (5 + 3 * (1 << 20), 7)])
def test_rotations(seed: int, step: int) -> None:
    """Against the hash written with Python's whole numbers."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    rows = [0, 5, 123_456_789, *range(70)]
    fast = ops.random_rotations(
        torch.tensor([*rows, -1], device=DEVICE),
        torch.tensor(step, device=DEVICE),
        seed,
        torch.float64,
    )
    fast = fast.cpu()
    key = mix(step * 0x1F123BB5 + seed * 0x5851F42D + 0x2545F491)
    for row, found in zip(rows, fast):
        u = [((mix(mix(row * 8 + k) ^ key) >> 11) + 0.5) / 2**53 for k in range(8)]
        normal = [
            math.sqrt(-2 * math.log(u[2 * k])) * math.cos(2 * math.pi * u[2 * k + 1])
            for k in range(4)
        ]
        w, x, y, z = (value / math.hypot(*normal) for value in normal)
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        torch.testing.assert_close(
            found,
            torch.eye(3, dtype=torch.float64) + 2 * w * skew + 2 * skew @ skew,
            rtol=0,
            atol=1e-14,
        )
    with ops.using("torch"):
        plain = ops.random_rotations(torch.tensor(rows), step, seed, torch.float64)
    torch.testing.assert_close(fast[:-1], plain, rtol=0, atol=1e-14)
    assert torch.equal(fast[-1], fast[0])


@pytest.mark.parametrize("rows, width", [(7, 12), (300, 52)])
@pytest.mark.parametrize("programs", [3, 1056])
def test_layer_norm(rows: int, width: int, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "PROGRAMS", programs)
    x, gain, bias, shift = leaf(rows, width), leaf(width), leaf(width), leaf(width)
    slow = [torch.nn.functional.layer_norm(v, (width,), gain, bias) for v in (x, x + shift)]
    slow = slow[0], torch.nn.functional.silu(slow[1])
    one = torch.eye(width, dtype=torch.float64, device=DEVICE)
    fast = ops.layer_norm(x, gain, bias), ops.linear_norm_silu(x, one, shift, gain, bias)
    same(fast, slow, [x, gain, bias, shift], rows)


@pytest.mark.parametrize("few", [0, 1024])
@pytest.mark.parametrize(
    "rows, fan_in, fan_out, programs", [(1, 3, 1, 64), (37, 6, 5, 64), (300, 4, 130, 3)]
)
def test_linear(
    rows: int, fan_in: int, fan_out: int, programs: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(affine, "PROGRAMS", programs)
    monkeypatch.setattr(affine, "FEW", few)
    x, weight, bias = leaf(rows, fan_in), leaf(fan_out, fan_in), leaf(fan_out)
    same(
        (ops.linear(x, weight, bias),),
        (torch.nn.functional.linear(x, weight, bias),),
        [x, weight, bias],
        rows,
    )


@pytest.mark.parametrize("n, d", [(1, 3), (13, 20), (6, 70)])
def test_painn_update(n: int, d: int) -> None:
    """The pair is used twice, and its gradient summed in the kernel."""
    a, h, v, weight, mixed = leaf(n, d), leaf(n, d), leaf(n, 3, d), leaf(2 * d, d), leaf(n, 3 * d)
    u, w = v @ weight[:d].T, v @ weight[d:].T
    p, q, gate = mixed.split(d, dim=1)
    slow = (
        torch.cat([a, (w.square().sum(1) + 1e-4).sqrt()], dim=1),
        h + p + q * (u * w).sum(1),
        v + gate[:, None] * u,
    )
    pair, read = ops.painn_pair(a, v, weight)
    same((read, *ops.painn_update(h, v, pair, mixed)), slow, [a, h, v, weight, mixed], n)


@pytest.mark.parametrize("edges, channels", [(1, 8), (37, 8), (21, 5), (5, 1)])
def test_edge_mix(edges: int, channels: int) -> None:
    dv, phi, radial = (
        leaf(edges, 3, channels),
        leaf(edges, channels, channels),
        leaf(edges, channels),
    )
    unit = torch.nn.functional.normalize(
        torch.randn(edges, 3, dtype=torch.float64, device=DEVICE), dim=1
    )
    turned = torch.einsum("eka,eab->ekb", dv / (1 + dv.square().sum(1, keepdim=True)).sqrt(), phi)
    slow = turned + torch.einsum("ek,eb->ekb", unit, radial)
    fast = ops.egnn_vectors(unit, radial, dv, dv.square().sum(1), phi)
    same((fast,), (slow,), [dv, phi, radial], edges)


@pytest.mark.parametrize(
    "edges, radial, angular, vectors", [(1, 5, None, False), (37, 32, 32, True), (11, 4, 6, False)]
)
def test_edge_features(edges: int, radial: int, angular: int | None, vectors: bool) -> None:
    """Against the formulas of PhysNet and DimeNet; some edges end beyond the cutoff, one is of
    length zero."""
    vec = torch.randn(edges, 3, dtype=torch.float64, device=DEVICE) * 4
    vec[-1] = 0
    r = vec.norm(dim=1, keepdim=True).clamp_min(1e-7)
    x = r / 6.0
    envelope = (1 - 21 * x**5 + 35 * x**6 - 15 * x**7) * (x < 1)
    columns = [vec / 6.0] if vectors else []
    bases = []
    for count in [radial] if angular is None else [radial, angular]:
        low = torch.tensor(-5.0, dtype=torch.float64).exp()
        centres = torch.linspace(float(low), 1.0, count, dtype=torch.float64, device=DEVICE)
        bases.append(
            torch.exp(
                (
                    -((count / (2 * (1 - float(low)))) ** 2) * ((-5 * x).exp() - centres) ** 2
                ).clamp_min(-50)
            )
        )
    columns += [
        bases[0],
        *(vec[:, k : k + 1] / r * bases[1] for k in range(3) if angular),
        torch.zeros(edges, 2, device=DEVICE),
    ]
    torch.set_default_dtype(torch.float64)
    try:
        made = [ExponentialBasis(count, 6.0) for count in (radial, angular) if count]
    finally:
        torch.set_default_dtype(torch.float32)
    features = EdgeFeatures(*made, vectors=vectors, padding=2).to(DEVICE)
    torch.testing.assert_close(
        features(vec), torch.cat(columns, dim=1) * envelope, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(
    "name, options",
    [
        ("mpnn", {}),
        ("mpnn", {"feed_forward": "edges"}),
        ("mpnn", {"message": "additive"}),
        ("egnn", {}),
        ("painn", {}),
        ("esen", {"depth": 1}),
        ("esen", {"depth": 1, "lmax": 3, "parity": True}),
        ("esen", {"lmax": 1, "untied": True}),
    ],
)
def test_models(name: str, options: dict) -> None:
    """Outputs and all gradients of a model are those of its plain path."""
    config = ARCHITECTURES[name].config(
        **{"width": 8, "depth": 2, "elements": (1, 6, 8), "mean_degree": 4.0} | options
    )
    model = build(config, seed=0).double().to(DEVICE)
    torch.manual_seed(0)
    for parameter in model.parameters():  # the heads start at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    graph = build_graph(
        torch.randn(7, 3, dtype=torch.float64, device=DEVICE) * 1.5,
        torch.randint(0, 3, (7,), device=DEVICE),
        torch.tensor([4, 3], device=DEVICE),
        6.0,
    )
    found = []
    for mode in ("triton", "torch"):
        with ops.using(mode):
            energy, forces = model(graph)
        gradients = torch.autograd.grad(
            energy.square().sum() + forces.square().sum(), list(model.parameters())
        )
        found.append((energy, forces, *gradients))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_same_bits_twice() -> None:
    """No atomics: a backward pass repeated gives the same bits."""
    torch.manual_seed(1)
    pos = torch.randn(20, 3, dtype=torch.float64, device=DEVICE)
    natoms = torch.tensor([20], device=DEVICE)
    sender, receiver = molecule_edges(pos, natoms, 3.0)
    graph = GraphBatch(natoms, natoms, pos, sender, receiver, natoms)
    pair, w = (
        leaf(20, 80).detach().float().requires_grad_(),
        leaf(len(sender), 40).detach().float().requires_grad_(),
    )
    runs = []
    for _ in range(2):
        out = ops.gated_message(pair, w, graph, 1.0)
        runs.append([out.detach(), *torch.autograd.grad(out.square().sum(), [pair, w])])
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def real_edges(graph: GraphBatch) -> torch.Tensor:
    n, e = len(graph.pos), len(graph.sender)
    return (
        graph.receiver != n - 1 if graph.pad else torch.ones(e, dtype=torch.bool, device=DEVICE)
    ).unsqueeze(1)


@pytest.mark.parametrize("d", [6, 72])
@pytest.mark.parametrize("added", [False, True])
def test_gate(graph: GraphBatch, d: int, added: bool) -> None:
    n, e = len(graph.pos), len(graph.sender)
    pair, z, w = leaf(n, 2 * d), leaf(e, d), leaf(e, d)
    s, t = pair.chunk(2, dim=1)
    a = s[graph.sender] + t[graph.receiver] + (z if added else 0)
    slow = torch.nn.functional.silu(a) * w * real_edges(graph)
    fast = ops.edge_gate(pair, z if added else None, w, graph)
    same((fast,), (slow,), [pair, z, w] if added else [pair, w], e)


def test_gate_in_bf16_is_float32_rounded_once(graph: GraphBatch) -> None:
    n, e = len(graph.pos), len(graph.sender)
    pair, z, w = (
        torch.randn(*shape, device=DEVICE).bfloat16() for shape in ((n, 12), (e, 6), (e, 6))
    )
    fast = ops.edge_gate(pair, z, w, graph)
    slow = ops.edge_gate(pair.float(), z.float(), w.float(), graph)
    assert fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast, slow.bfloat16())


@pytest.mark.parametrize("d", [3, 72])
def test_row_sum_and_differences(graph: GraphBatch, d: int) -> None:
    n, e = len(graph.pos), len(graph.sender)
    values, v = leaf(e, d), leaf(n, d)
    real = n - 1 if graph.pad else n
    same(
        (ops.edge_sum(values, graph),),
        (sums(values * real_edges(graph), graph),),
        [values],
        real,
    )
    slow = (v[graph.sender] - v[graph.receiver]) * real_edges(graph)
    same((ops.edge_difference(v, graph),), (slow,), [v], e)


def test_padding_edges_get_a_gradient_of_zero(graph: GraphBatch) -> None:
    """Also where the dummy atom has a gradient, which the plain path would send to them."""
    values = leaf(len(graph.sender), 4)
    ops.edge_sum(values, graph).sum().backward()
    assert torch.equal(values.grad, real_edges(graph).expand_as(values).to(values))


def test_bf16_rows_are_summed_in_float32(graph: GraphBatch) -> None:
    values = torch.randn(len(graph.sender), 5, device=DEVICE).bfloat16()
    total = ops.edge_sum(values, graph)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, ops.edge_sum(values.double(), graph).float())
