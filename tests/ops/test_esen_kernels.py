"""The Triton kernels of eSEN, interpreted on a CPU in float64, against plain autograd over obvious
torch code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from forcelaw import ops
from forcelaw.graph import GraphBatch
from forcelaw.models.so3 import EdgeFrames, degree_index, order_major
from forcelaw.ops.esen import so2_message, so2_turn
from forcelaw.ops.esen import spherical_norm as spherical
from forcelaw.ops.esen.so2_message import Shape, so2_edges
from tests.ops.graphs import DEVICE, leaf, molecules, same, sums

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 8), (40, 33)])
def test_so2_matrix(rows: int, columns: int) -> None:
    tied = leaf(2, rows, columns)
    a, b = tied
    same(
        (ops.so2_matrix(tied),),
        (torch.cat([torch.cat([a, -b], dim=1), torch.cat([b, a], dim=1)]),),
        [tied],
        2 * rows,
    )


def plain(x: torch.Tensor, bias: torch.Tensor) -> SimpleNamespace:
    """A layer that adds a bias to x."""
    return SimpleNamespace(weight=torch.eye(x.shape[1], dtype=x.dtype, device=x.device), bias=bias)


@pytest.mark.parametrize(
    "lmax, mmax, width, programs, many, pad",
    [
        *((1, 1, 4, 3, many, pad) for many in (0, 30_000) for pad in (False, True)),
        *((2, 2, 6, 2, many, pad) for many in (0, 30_000) for pad in (False, True)),
        (2, 2, 6, 1056, 0, False),
        (2, 2, 6, 1056, 30_000, True),
        (3, 2, 4, 3, 0, True),
        (4, 2, 4, 1056, 30_000, True),
    ],
)
def test_so2_message(
    lmax: int,
    mmax: int,
    width: int,
    programs: int,
    many: int,
    pad: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against dense frames, split orders and index_add. More edges than a program takes."""
    graph = molecules(4, 1, 3, pad=pad, spread=1.0)
    assert len(graph.sender) > 3 * so2_turn.TILES["turn"][0]
    monkeypatch.setattr(so2_message, "MANY", many)
    monkeypatch.setattr(so2_turn, "PROGRAMS", programs)
    shape, n, e = Shape(lmax, mmax), len(graph.pos), len(graph.sender)
    frames = EdgeFrames(lmax, mmax).to(DEVICE)
    vec = graph.vectors()
    unit = vec / vec.norm(dim=1, keepdim=True)
    dense, packed = frames(unit), frames.packed(unit)
    scale = torch.rand(e, dtype=torch.float64, device=DEVICE)
    if graph.pad:
        scale = scale * (graph.receiver != n - 1)
    y, rad = leaf(n, shape.s, width), leaf(e, shape.r * 2 * width)
    counts = [c * (1 if m == 0 else 2) for m, c in enumerate(shape.degrees)]
    weights1 = [
        leaf(c * width + (lmax * width if m == 0 else 0), c * 2 * width)
        for m, c in enumerate(counts)
    ]
    weights2 = [leaf(c * width, c * width) for c in counts]
    bias1, bias2, shift = leaf(len(weights1[0])), leaf(len(weights2[0])), leaf(shape.r * 2 * width)

    z = torch.cat([dense @ y[graph.sender], dense @ y[graph.receiver]], dim=2)  # (e, S_m, 2C)
    split = [
        part.flatten(1)
        for part in (rad + shift).split([2 * width * c for c in shape.degrees], dim=1)
    ]
    parts = []
    for m, block in enumerate(z.split(counts, dim=1)):
        factor = split[m].view(e, shape.degrees[m], 2 * width)
        parts.append(
            (block * (factor if m == 0 else torch.cat([factor, factor], dim=1))).flatten(1)
            @ weights1[m].T
        )
    parts[0] = parts[0] + bias1
    gates, parts[0] = torch.sigmoid(parts[0][:, : lmax * width]), parts[0][:, lmax * width :]
    gates = torch.cat(
        [torch.ones(e, 1, width, dtype=y.dtype, device=DEVICE), gates.view(e, lmax, width)], dim=1
    )
    degree = [math_degree for math_degree in (p**0.5 // 1 for p in order_major(lmax, mmax))]
    a = torch.cat(parts, dim=1).view(e, shape.sm, width)
    g = a * gates[:, [int(l) for l in degree]]
    g = torch.cat([torch.nn.functional.silu(a[:, :1]), g[:, 1:]], dim=1)
    q = [block.flatten(1) @ weights2[m].T for m, block in enumerate(g.split(counts, dim=1))]
    q[0] = q[0] + bias2
    q = torch.cat(q, dim=1).view(e, shape.sm, width)
    slow = sums(dense.transpose(1, 2) @ q * scale[:, None, None], graph)

    edges = so2_edges(graph, unit, scale, lmax, mmax, frames, lambda unit: packed)
    fast = ops.so2_message(y, rad, plain(rad, shift), edges, (weights1, bias1), (weights2, bias2))
    same(
        (fast,),
        (slow,),
        [y, rad, shift, bias1, bias2, *weights1, *weights2],
        n - 1 if graph.pad else n,
    )


@pytest.mark.parametrize("lmax, mmax", [(2, 2), (4, 2)])
def test_spread(graph: GraphBatch, lmax: int, mmax: int) -> None:
    """m = 0 rows alone, turned back and summed."""
    n, e, width = len(graph.pos), len(graph.sender), 6
    frames = EdgeFrames(lmax, mmax).to(DEVICE)
    unit = torch.nn.functional.normalize(
        torch.randn(e, 3, dtype=torch.float64, device=DEVICE), dim=1
    )
    scale = torch.rand(e, dtype=torch.float64, device=DEVICE)
    if graph.pad:
        scale = scale * (graph.receiver != n - 1)
    z, bias = leaf(e, (lmax + 1) * width), leaf((lmax + 1) * width)
    slow = (z + bias).view(e, lmax + 1, width)
    slow = sums(frames(unit)[:, : lmax + 1].transpose(1, 2) @ slow * scale[:, None, None], graph)
    fast = ops.spread(
        z, plain(z, bias), so2_edges(graph, unit, scale, lmax, mmax, frames, frames.packed)
    )
    same((fast,), (slow,), [z, bias], n - 1 if graph.pad else n)


@pytest.mark.parametrize("n, lmax, width", [(1, 2, 6), (13, 1, 5), (70, 4, 20)])
@pytest.mark.parametrize("programs", [3, 1056])
def test_spherical_norm(
    n: int, lmax: int, width: int, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against degrees one by one; y as SO3Linear takes it, coefficients first."""
    monkeypatch.setattr(spherical, "PROGRAMS", programs)
    shape = n, (lmax + 1) ** 2, width
    x, gain, bias = leaf(*shape), leaf(lmax + 1, width), leaf(width)
    degrees = [slice(l * l, (l + 1) ** 2) for l in range(lmax + 1)]
    v = torch.cat([x[:, :1] - x[:, :1].mean(2, keepdim=True), x[:, 1:]], dim=1)
    mean_square = sum(v[:, d].square().mean((1, 2)) for d in degrees) / (lmax + 1)
    slow = (
        torch.cat([v[:, d] * g for d, g in zip(degrees, gain)], dim=1)
        / (mean_square + 1e-5).sqrt()[:, None, None]
    )
    slow = torch.cat([slow[:, :1] + bias, slow[:, 1:]], dim=1)
    degree = degree_index(lmax).to(DEVICE)
    y, scalars = ops.spherical_norm(
        x, gain, bias, 1 / ((lmax + 1) * (2 * degree.double() + 1) * width), degree
    )
    same(
        (y, y.transpose(0, 1), scalars),
        (slow, slow.transpose(0, 1), slow[:, 0]),
        [x, gain, bias],
        max(shape),
    )


@pytest.mark.parametrize("lmax, mmax", [(1, 1), (2, 2), (4, 2)])
def test_edge_frames(lmax: int, mmax: int) -> None:
    """Against the dense frames; near the poles and at them, too."""
    unit = torch.nn.functional.normalize(
        torch.randn(70, 3, dtype=torch.float64, device=DEVICE), dim=1
    )
    unit[:6] = torch.tensor(
        [[0, 1, 0], [0, -1, 0], [1e-9, -1, 0], [0, -1, -1e-20], [1, 0, 0], [0, 0, -1]],
        dtype=torch.float64,
    )
    frames = EdgeFrames(lmax, mmax).to(DEVICE)
    with ops.using("torch"):
        dense, slow = frames(unit), frames.packed(unit)
    fast = frames.packed(unit)
    torch.testing.assert_close(fast, slow, rtol=1e-13, atol=1e-14)
    entry, row_of = 0, {p: k for k, p in enumerate(order_major(lmax, mmax))}
    for l in range(lmax + 1):
        for m in [0] + [s * m for m in range(1, min(l, mmax) + 1) for s in (1, -1)]:
            block = dense[:, row_of[l * l + l + m], l * l : (l + 1) ** 2]
            torch.testing.assert_close(
                fast[:, entry : entry + 2 * l + 1], block, rtol=1e-13, atol=1e-14
            )
            entry += 2 * l + 1
    assert entry == fast.shape[1]


@pytest.mark.parametrize("lmax, shape", [(0, (3,)), (2, (5, 6)), (4, (40, 41))])
def test_by_degree(lmax: int, shape: tuple[int, ...]) -> None:
    weight = leaf(lmax + 1, *shape)
    slow = torch.stack([weight[l] for l in range(lmax + 1) for _ in range(2 * l + 1)])
    same((ops.by_degree(weight, degree_index(lmax).to(DEVICE)),), (slow,), [weight], len(slow))


@pytest.mark.parametrize("n, lmax, width", [(1, 2, 6), (13, 1, 5), (30, 4, 70)])
def test_spherical_gate_and_sum(n: int, lmax: int, width: int) -> None:
    s = (lmax + 1) ** 2
    x, u, h, bias, last = (
        leaf(n, s, width),
        leaf(s, n, width),
        leaf(n, lmax * width),
        leaf(width),
        leaf(width),
    )
    gates = torch.sigmoid(torch.nn.functional.silu(h)).view(n, lmax, width)
    v = [
        torch.nn.functional.silu(u[0] + bias),
        *(u[k] * gates[:, int(k**0.5) - 1] for k in range(1, len(u))),
    ]
    slow = x + torch.stack(v, dim=1)
    slow = torch.cat([slow[:, :1] + last, slow[:, 1:]], dim=1)
    fast = ops.spherical_gate(h, u, bias, degree_index(lmax).to(DEVICE))
    same(
        (fast, ops.spherical_add(x, fast, last)),
        (torch.stack(v), slow),
        [x, u, h, bias, last],
        max(x.shape),
    )
