"""Kernels of GemNet-OC's sums over triplets and quadruplets, interpreted on a CPU in float64,
against plain autograd; then the interaction and the whole model against their plain path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from torch import Tensor

from forcelaw import ops
from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models.gemnet_basis import degrees, harmonic_norms, quad_layout, rotation_points
from forcelaw.models.gemnet_index import EdgeIndex, build_index
from forcelaw.models.gemnet_oc import GemNetOC, GemNetOCConfig
from forcelaw.ops.gemnet import quadruplets
from forcelaw.ops.gemnet import triplets as moments
from forcelaw.ops.gemnet.harmonics import harmonics, rotations
from forcelaw.ops.gemnet.harmonics import turns as turns_by_kernel
from forcelaw.ops.gemnet.quadruplets import quad_read, short_sum
from forcelaw.ops.gemnet.triplets import cosines, outer_sum, triplets
from forcelaw.ops.switch import constexpr
from tests.models.tools import make_graph, padded
from tests.molecules import linear, random_cluster, single_atom

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MOLECULES = [linear(), single_atom(), random_cluster(4, 6)]
CUTOFF, NEAR, PADDING = 2.6, 1.7, 6


def on_device(graph: GraphBatch) -> GraphBatch:
    held = {f.name: getattr(graph, f.name) for f in fields(graph)}
    return GraphBatch(**{k: v.to(DEVICE) if isinstance(v, Tensor) else v for k, v in held.items()})


def graph_of(pad: bool) -> GraphBatch:
    graph = make_graph(MOLECULES, cutoff=CUTOFF)
    if pad:
        width = int(torch.bincount(graph.receiver).max())
        graph = replace(padded(graph, atoms=2, edges=PADDING, graphs=1), max_degree=width)
    return on_device(graph)


@pytest.fixture(autouse=True)
def small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels a program, so that 20 take two; few programs for padding, since the interpreter
    is slow."""
    monkeypatch.setattr(moments, "TILES", dict.fromkeys(moments.TILES, (16, 1)))
    for module in (moments, quadruplets):
        monkeypatch.setattr(module, "FILL_PROGRAMS", 2)
        monkeypatch.setattr(module, "FILL", constexpr(2))


@dataclass
class Edges:
    index: EdgeIndex
    unit: Tensor
    near: Tensor
    real: Tensor  # (e,) 1 for edges of an atom, 0 for padding

    @property
    def e(self) -> int:
        return len(self.real)

    def sums(self, values: Tensor) -> Tensor:
        """Edge values (e, ...) at their receivers, without padding edges."""
        real = self.real.view(-1, *[1] * (values.dim() - 1))
        return values.new_zeros(self.index.atoms, *values.shape[1:]).index_add(
            0, self.index.receiver, values * real
        )


@pytest.fixture(params=[False, True], ids=["exact", "padded"])
def edges(request: pytest.FixtureRequest) -> Edges:
    """Three molecules, one of them a single atom; padded: two dummy atoms and some edges more."""
    torch.manual_seed(0)
    graph = graph_of(request.param)
    vec = graph.vectors()
    index = build_index(graph, vec, NEAR)
    vec = vec[index.order]
    r = vec.norm(dim=1)
    real = (torch.arange(len(vec), device=DEVICE) < index.ptr[-1]).double()
    assert len(real) - int(real.sum()) == (PADDING if request.param else 0)
    assert 0 < int((r < NEAR).sum()) < int(real.sum())
    return Edges(index, vec / r.unsqueeze(1), r < NEAR, real)


padded_only = pytest.mark.parametrize("edges", [True], ids=["padded"], indirect=True)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=DEVICE).to(dtype).requires_grad_(True)


def check(
    fast: Callable, slow: Callable, leaves: list[Tensor], edges: Edges, tolerance: float = 1e-12
) -> None:
    """Outputs of both, where they mean something, and the gradients of a random projection of them;
    zeros for padding."""
    found = []
    for function in (fast, slow):
        torch.manual_seed(1)
        outputs = function()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs = tuple(masked(o, edges) for o in outputs) if function is slow else outputs
        loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
        found.append((*outputs, *torch.autograd.grad(loss, leaves)))
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        if len(a) == edges.e:
            assert not a[edges.real == 0].any()


def masked(x: Tensor, edges: Edges) -> Tensor:
    """Zero on padding edges."""
    return (
        x
        if len(x) != edges.e
        else torch.where(edges.real.view(-1, *[1] * (x.dim() - 1)) == 1, x, torch.zeros_like(x))
    )


def plain_triplets(b: Tensor, y: Tensor, x: Tensor, edges: Edges) -> Tensor:
    """For every degree."""
    total = 0
    for l in range(round(y.shape[1] ** 0.5)):
        block = y[:, l * l : (l + 1) ** 2]
        seen = torch.einsum(
            "em,emc->ec",
            block,
            edges.sums(block.unsqueeze(2) * x.unsqueeze(1))[edges.index.receiver],
        )
        total = total + b[..., l].unsqueeze(2) * (
            seen - block.square().sum(1, keepdim=True) * x
        ).unsqueeze(1)
    return total


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("k, c", [(5, 7), (16, 20)])
def test_outer_sum(edges: Edges, k: int, c: int, weights: bool) -> None:
    w, x = leaf(edges.e, k).requires_grad_(weights), leaf(edges.e, c)
    check(
        lambda: outer_sum(w, x, edges.index.ptr),
        lambda: edges.sums(w.unsqueeze(2) * x.unsqueeze(1)),
        [w, x] if weights else [x],
        edges,
    )


@pytest.mark.parametrize("s, f, c", [(4, 3, 20), (3, 8, 6), (1, 1, 3), (5, 2, 4)])
def test_triplets(edges: Edges, s: int, f: int, c: int) -> None:
    y, b, x = harmonics(edges.unit, s), leaf(edges.e, f, s), leaf(edges.e, c)
    check(
        lambda: triplets(b, y, x, edges.index.ptr),
        lambda: plain_triplets(b, y, x, edges),
        [b, x],
        edges,
    )


@pytest.mark.parametrize("s, f", [(4, 3), (2, 20)])
def test_cosines(edges: Edges, s: int, f: int) -> None:
    y, b = harmonics(edges.unit, s), leaf(edges.e, f, s)
    one = torch.eye(s, dtype=torch.float64, device=DEVICE).expand(edges.e, s, s)  # degree by degree
    check(
        lambda: cosines(b, y, edges.index.ptr),
        lambda: sum(plain_triplets(one, y, b[..., l], edges)[:, l] for l in range(s)),
        [b],
        edges,
    )


def layouts(unit: Tensor, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (e, sum (2l+1)^2); enter (e, S w, s) and leave (e, P, w) made of them."""
    points, fit = (torch.as_tensor(v, device=DEVICE) for v in rotation_points(s))
    turns = rotations(unit, points, fit, s)
    more = torch.cat([turns, turns.new_zeros(len(turns), 1)], dim=1)
    enter, leave = (more[:, torch.as_tensor(v, device=DEVICE)] for v in quad_layout(s)[:2])
    return turns, enter.view(len(turns), -1, s * s), leave.view(len(turns), -1, 2 * s - 1)


@pytest.mark.parametrize("s", [1, 2, 4, 5])
def test_turns(s: int) -> None:
    """More edges than a program has, poles among them."""
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(150, 3, dtype=torch.float64), dim=1)
    unit[:2] = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    points, fit = (torch.as_tensor(v, device=DEVICE) for v in rotation_points(s))
    unit, norms = unit.to(DEVICE), torch.as_tensor(harmonic_norms(s), device=DEVICE)
    torch.testing.assert_close(
        turns_by_kernel(unit, points, fit, norms),
        rotations(unit, points, fit, s),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("s", [1, 2, 4, 7])
def test_harmonics(s: int) -> None:
    unit = torch.nn.functional.normalize(torch.randn(150, 3, dtype=torch.float64), dim=1)
    unit[:2] = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    unit, norms = unit.to(DEVICE), torch.as_tensor(harmonic_norms(s), device=DEVICE)
    with ops.using("triton"):
        fast = ops.harmonics(unit, s, norms)
    torch.testing.assert_close(fast, harmonics(unit, s), rtol=1e-12, atol=1e-12)


def short_inputs(
    edges: Edges, s: int, f: int, c: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    return (
        leaf(edges.index.atoms, s * s, c),
        leaf(edges.e, c, dtype=dtype),
        leaf(edges.e, s, f),
        leaf(c, f),
    )


def plain_short(
    m: Tensor, x: Tensor, b: Tensor, w: Tensor, edges: Edges, s: int
) -> tuple[Tensor, Tensor]:
    _, enter, leave = layouts(edges.unit, s)
    index = edges.index
    incoming = m[index.sender] - harmonics(-edges.unit, s).unsqueeze(2) * x[index.swap].unsqueeze(1)
    turned = (enter @ incoming).unflatten(1, (s, 2 * s - 1)) * (b @ w.T).unsqueeze(2)
    message = turned.sum(1) * (edges.near & (edges.real == 1)).view(-1, 1, 1)
    return message[:, s - 1], edges.sums(leave @ message)


@pytest.mark.parametrize("s, f, c", [(4, 3, 5), (3, 8, 19), (1, 1, 2), (2, 5, 16)])
def test_short_sum(edges: Edges, s: int, f: int, c: int) -> None:
    m, x, b, w = short_inputs(edges, s, f, c)
    i = edges.index

    def fast() -> tuple[Tensor, Tensor]:
        return short_sum(
            m,
            x,
            harmonics(edges.unit, s),
            layouts(edges.unit, s)[0],
            b,
            w,
            edges.near.int(),
            i,
        )

    check(fast, lambda: plain_short(m, x, b, w, edges, s), [m, x, b, w], edges)


def plain_read(
    b: Tensor, own: Tensor, y: Tensor, returned: Tensor, message: Tensor, edges: Edges
) -> Tensor:
    s, place, pair = round(y.shape[1] ** 0.5), 0, 0
    total = -own.unsqueeze(2) * message.unsqueeze(1)
    for p in range(s):
        for _ in range(p + 1):
            part = returned[edges.index.receiver, place : place + 2 * p + 1]
            seen = torch.einsum("em,emc->ec", y[:, p * p : (p + 1) ** 2], part)
            total = total + b[:, :, pair].unsqueeze(2) * seen.unsqueeze(1)
            place, pair = place + 2 * p + 1, pair + 1
    assert (place, pair) == (returned.shape[1], b.shape[2])
    return total


@pytest.mark.parametrize("s, f, c", [(4, 3, 5), (3, 5, 20), (1, 1, 2)])
def test_quad_read(edges: Edges, s: int, f: int, c: int) -> None:
    y, b, own, message = (
        harmonics(edges.unit, s),
        leaf(edges.e, f, s * (s + 1) // 2),
        leaf(edges.e, f),
        leaf(edges.e, c),
    )
    returned = leaf(edges.index.atoms, s * (s + 1) * (4 * s - 1) // 6, c)
    check(
        lambda: quad_read(b, own, y, returned, message, edges.index.ptr, torch.float64),
        lambda: plain_read(b, own, y, returned, message, edges),
        [b, own, returned, message],
        edges,
    )


@padded_only
def test_bfloat16_messages_and_weights_are_summed_in_float32(edges: Edges) -> None:
    """As under autocast: geometry in float32, messages in bf16. Results are those of the rounded
    inputs, rounded once."""
    s, f, c, low = 3, 3, 5, torch.bfloat16
    y, ptr, index = harmonics(edges.unit, s).float(), edges.index.ptr, edges.index
    turns = layouts(edges.unit, s)[0].float()
    b, x, w = leaf(edges.e, f, s).float(), leaf(edges.e, c, dtype=low), leaf(edges.e, f).float()
    m, quad, r, v = short_inputs(edges, s, f, c, low)
    q = leaf(edges.e, f, s * (s + 1) // 2).float()
    m, r, v, b, w, q = (k.detach().float().requires_grad_() for k in (m, r, v, b, w, q))

    def fast() -> list[Tensor]:
        message, returned = short_sum(m, quad, y, turns, r, v, edges.near.int(), index)
        return [
            triplets(b, y, x, ptr),
            outer_sum(w, x, ptr),
            message,
            returned,
            quad_read(q, w, y, returned, message, ptr, low),
        ]

    def slow() -> list[Tensor]:
        message, returned = plain_short(m.double(), quad.double(), r.double(), v.double(), edges, s)
        outer = edges.sums(w.double().unsqueeze(2) * x.double().unsqueeze(1))
        return [
            plain_triplets(b.double(), y.double(), x.double(), edges),
            outer,
            message,
            returned,
            plain_read(q.double(), w.double(), y.double(), returned, message, edges),
        ]

    results = []
    for function in (fast, slow):
        torch.manual_seed(2)
        outputs = function()
        loss = sum(
            (
                masked(o, edges).double() * torch.randn(o.shape, dtype=torch.float64, device=DEVICE)
            ).sum()
            for o in outputs
        )
        results.append((outputs, torch.autograd.grad(loss, [quad, x, m, r, v, b, w, q])))
    assert [o.dtype for o in results[0][0]] == [
        low,
        torch.float32,
        torch.float32,
        torch.float32,
        low,
    ]
    assert [g.dtype for g in results[0][1]] == [low, low] + [torch.float32] * 6
    for name in range(2):
        for found, expected in zip(results[0][name], results[1][name]):
            expected = masked(expected.detach(), edges).double()
            error = (masked(found.detach(), edges).double() - expected).norm() / expected.norm()
            assert float(error) < 0.01, (name, float(error))


@padded_only
def test_the_same_bits_twice(edges: Edges) -> None:
    m, x, b, w = (v.detach().float().requires_grad_() for v in short_inputs(edges, 3, 4, 6))
    y, turns, i = harmonics(edges.unit, 3).float(), layouts(edges.unit, 3)[0].float(), edges.index
    runs = []
    for _ in range(2):
        message, returned = short_sum(m, x, y, turns, b, w, edges.near.int(), i)
        loss = (
            message.square().sum()
            + returned.square().sum()
            + triplets(b.transpose(1, 2), y, x, i.ptr).square().sum()
        )
        runs.append([message.detach(), returned.detach(), *torch.autograd.grad(loss, [m, x, b, w])])
    assert all(torch.equal(a, b) for a, b in zip(*runs))


# ---- the interaction; the whole model is in test_dense.py


def model_of(**options: object) -> GemNetOC:
    """Float64 from the start; heads, which begin at zero, are random."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        model = GemNetOC(
            GemNetOCConfig(
                **(
                    {
                        "width": 8,
                        "depth": 2,
                        "elements": (1, 6, 7, 8, 9, 16),
                        "cutoff": CUTOFF,
                        "quad_cutoff": NEAR,
                        "radial": 6,
                        "cbf": 3,
                        "sbf": 5,
                        "rbf": 3,
                    }
                    | options
                )
            )
        )
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        if name in ("energy.weight", "force.weight"):
            parameter.data.normal_(std=parameter.shape[1] ** -0.5)
    return model.to(DEVICE)


@pytest.mark.parametrize(
    "options, pad",
    [({}, True), ({"width": 10, "spherical": 3}, False), ({"spherical": 1}, True)],
)
def test_interaction(options: dict, pad: bool) -> None:
    """All five sums of a block, with gradients by messages and by the weights that make the bases,
    are the plain ones."""
    model, graph = model_of(depth=1, **options), graph_of(pad)
    c, vec = model.config, graph.vectors()
    index = build_index(graph, vec, c.near)
    vec, real = vec[index.order], graph.receiver[index.order] != (len(graph.pos) - 1 if pad else -1)
    torch.manual_seed(3)
    shapes = [c.trip, c.trip, c.quad, c.trip, c.trip]  # e2e, a2e, quad, e2a, a2a
    messages = [leaf(len(vec), k) for k in shapes]
    block, atoms = model.blocks[0].interaction, len(graph.pos) - pad
    leaves = [*messages, *(p for p in model.bases.parameters()), block.cbf_quad.weight]
    found = []
    for mode, kind in (("torch", ops.Rows), ("triton", ops.AngularEdges)):
        torch.manual_seed(4)
        with ops.using(mode):
            b = model.bases(vec, index)
            assert isinstance(b.angular, kind)
            outputs = ops.triplet_quadruplet_sums(
                *messages, b.angular, block.cbf_quad.weight, index
            )
        outputs = [o.flatten(1) for o in outputs]
        outputs = [*(o[real] for o in outputs[:3]), *(o[:atoms] for o in outputs[3:])]
        loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
        loss = loss + sum(
            x[real].square().sum() for x in b.rbf
        )  # so that every weight has a gradient
        found.append((*outputs, *torch.autograd.grad(loss, leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(
            b, a, rtol=1e-12, atol=1e-12 * max(1.0, float(a.detach().abs().max()))
        )


def test_periodic_and_shuffled_edges() -> None:
    """Several edges between two atoms, edges from an atom to its own image, in any order."""
    pos = torch.tensor([[0.1, 0.2, 0.3], [1.3, 0.9, 0.2], [0.4, 1.9, 1.7]]).double()
    cell = np.array([[2.9, 0.0, 0.0], [0.4, 3.1, 0.0], [-0.3, 0.5, 3.4]])
    graph = build_graph(
        pos,
        torch.tensor([0, 1, 2]),
        torch.tensor([3]),
        3.3,
        cells=cell[None],
        pbc=np.ones((1, 3), bool),
    )
    shuffle = torch.randperm(len(graph.sender), generator=torch.Generator().manual_seed(0))
    graph = on_device(
        replace(
            graph,
            sender=graph.sender[shuffle],
            receiver=graph.receiver[shuffle],
            shift=graph.shift[shuffle],
        )
    )
    assert int((graph.sender == graph.receiver).sum()) > 3
    model, found = model_of(cutoff=3.3, quad_cutoff=2.5, depth=1, spherical=4), []
    for mode in ("triton", "torch"):
        with ops.using(mode):
            found.append(model(graph))
    for a, b in zip(*found):
        torch.testing.assert_close(
            a, b, rtol=1e-10, atol=1e-10 * max(1.0, float(b.detach().abs().max()))
        )


def test_rows_are_where_the_kernels_look() -> None:
    """The closed forms in the kernels: first row of degree p in ``returned``, first element of
    degree l in the rotations."""
    for s in range(1, 8):
        place = [sum((k + 1) * (2 * k + 1) for k in range(p)) for p in range(s + 1)]
        assert place == [quadruplets._row(p) for p in range(s + 1)]
        first = [sum((2 * k + 1) ** 2 for k in range(l)) for l in range(s + 1)]
        assert first == [quadruplets._element(l) for l in range(s + 1)]
        assert len(degrees(s)) == s * s and math.isqrt(s * s) == s
