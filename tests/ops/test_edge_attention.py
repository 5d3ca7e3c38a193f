"""Kernels of the PET-like transformer, interpreted on a CPU, against the plain path by torch:
float64 and float32, ragged and empty neighbour lists, gradients and gradients of gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton")  # conftest.py asks for its interpreter

from forcelaw import ops
from forcelaw.ops.edge_attention_kernels import Attend
from forcelaw.ops.gemnet.index import EdgeIndex

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PADDING = 5  # edges of the dummy atom
# degrees of atoms: below, at and above the sizes of tiles, and none
RAGGED = (0, 1, 15, 16, 40)
LISTS = {"ragged": RAGGED, "no edges": (0, 0), "one atom": (2,), "no atoms": ()}


@pytest.fixture(autouse=True)
def seed(few_programs_for_padding: None) -> None:
    torch.manual_seed(0)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device=DEVICE).requires_grad_(True)


def affine(out: int, width: int) -> ops.Affine:
    return ops.Affine(leaf(out, width), leaf(out))


def index_of(degrees: tuple[int, ...], pad: bool) -> EdgeIndex:
    """Edges into atoms of these degrees, with an involution of their own; padded: a dummy atom and
    some edges more. No real graph: senders play no part here."""
    receiver = torch.repeat_interleave(torch.arange(len(degrees)), torch.tensor(degrees).long())
    atoms = len(degrees) + pad
    if pad:
        receiver = torch.cat([receiver, torch.full((PADDING,), atoms - 1)])
    e = len(receiver)
    swap = torch.arange(e).flip(0)
    given = (x.to(DEVICE) for x in (torch.arange(e), receiver, receiver, swap))
    return EdgeIndex(*given, atoms, pad, None, max(degrees, default=0) if pad else None)


def envelopes(e: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Some of them zero, some nearly."""
    u = torch.rand(e, dtype=dtype, device=DEVICE)
    u[::7], u[3::7] = 0.0, 1e-9
    return u


def both(
    function: Callable, leaves: list[torch.Tensor], real: int | None = None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Outputs by kernels and by plain torch, and gradients of a random projection of them (of the
    rows below ``real``)."""
    found = []
    for mode in ("triton", "torch"):
        torch.manual_seed(1)
        with ops.using(mode):
            outputs = function()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs = tuple(o[:real] for o in outputs)
        loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        found.append([*outputs, *gradients])
    return found[0], found[1]


def check(function: Callable, leaves: list[torch.Tensor], real: int | None = None) -> None:
    for fast, slow in zip(*both(function, leaves, real), strict=True):
        assert fast.shape == slow.shape and fast.dtype == slow.dtype
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


def attention(
    index: EdgeIndex, u: torch.Tensor, x: torch.Tensor, *weights: torch.Tensor, heads: int
) -> torch.Tensor:
    """Rows of padding edges left out: nobody asks for them."""
    rows = ops.token_rows(index, u)
    out = ops.edge_attention(x, *weights, rows, heads, u.requires_grad)
    return out[: index.atoms + int(index.ptr[-1])]


@pytest.mark.parametrize("pad", [False, True], ids=["exact", "padded"])
@pytest.mark.parametrize("degrees", LISTS.values(), ids=LISTS)
def test_attention(degrees: tuple[int, ...], pad: bool) -> None:
    index, heads, c = index_of(degrees, pad), 2, 8
    e = len(index.receiver)
    x, weight, bias = leaf(index.atoms + e, 5), leaf(3 * c, 5), leaf(2, c)
    u = envelopes(e)
    if not index.atoms:  # the plain path has no rows to make
        with ops.using("triton"):
            assert attention(index, u, x, weight, bias, heads=heads).shape == (0, c)
        return
    check(lambda: attention(index, u, x, weight, bias, heads=heads), [x, weight, bias])


@pytest.mark.parametrize("heads, d", [(1, 3), (3, 20)])
def test_widths_of_heads(heads: int, d: int) -> None:
    index, c = index_of((18, 2), True), heads * d
    e = len(index.receiver)
    x, weight, bias, u = leaf(index.atoms + e, 5), leaf(3 * c, 5), leaf(2, c), envelopes(e)
    check(lambda: attention(index, u, x, weight, bias, heads=heads), [x, weight, bias])


def test_padding_edges_are_zero() -> None:
    """Both ways: what has no slot is read by nobody, but it goes through matrix products."""
    index, heads, c = index_of(RAGGED, True), 2, 8
    e, real = len(index.receiver), index.atoms + sum(RAGGED)
    qkv, bias, u = leaf(index.atoms + e, 3 * c), leaf(2, c), envelopes(e)
    out = Attend.apply(qkv, bias, u, index.ptr, heads)
    (grad,) = torch.autograd.grad(out.sum(), qkv)
    assert not out[real:].any() and not grad[real:].any()
    assert out[:real].abs().sum(1).min() > 0


def test_attention_in_float32() -> None:
    index, heads, c = index_of(RAGGED[:5], True), 2, 8
    n, e = index.atoms, len(index.receiver)
    x, weight, bias, u = leaf(n + e, 5), leaf(3 * c, 5), leaf(2, c), envelopes(e)
    with ops.using("torch"):
        exact = attention(index, u, x, weight, bias, heads=heads)
    low = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    fast, slow = both(lambda: attention(index, u.float(), *low, heads=heads), low)
    assert fast[0].dtype == torch.float32
    torch.testing.assert_close(fast[0].double(), exact, rtol=1e-5, atol=1e-5)
    for f, s in zip(fast, slow, strict=True):
        torch.testing.assert_close(f, s, rtol=2e-5, atol=2e-5 * float(s.detach().abs().max()))


def test_large_logits_and_envelopes_of_zero() -> None:
    """A neighbour at the cutoff whose logit is by far the largest weighs nothing, and is no NaN."""
    index = index_of((3,), False)
    qkv = torch.zeros(4, 6, dtype=torch.float64, device=DEVICE)
    qkv[:, 0], qkv[1, 2], qkv[:, 4] = 1.0, 900.0, torch.arange(4.0)
    qkv.requires_grad_()
    bias, u = torch.zeros(2, 2, dtype=torch.float64, device=DEVICE), torch.ones(3).double()
    u[0] = 0.0
    out = Attend.apply(qkv, bias, u.to(DEVICE), index.ptr, 1)
    (grad,) = torch.autograd.grad(out.square().sum(), qkv)
    assert torch.isfinite(grad).all() and grad.abs().max() > 0
    torch.testing.assert_close(out[:, 0], torch.full_like(out[:, 0], 5 / 3))


@pytest.mark.parametrize("degrees, pad", [(RAGGED, True), ((4, 0, 3), False)])
def test_attention_under_gradient_forces(degrees: tuple[int, ...], pad: bool) -> None:
    """The gradient by envelopes and tokens, and what a loss of both gives weights."""
    index, heads, c = index_of(degrees, pad), 2, 8
    n, e = index.atoms, len(index.receiver)
    x, weight, bias = leaf(n + e, 5), leaf(3 * c, 5), leaf(2, c)
    place, found = leaf(e), []
    mask = torch.arange(e, device=DEVICE) < index.ptr[-1]
    for mode in ("triton", "torch"):
        torch.manual_seed(1)
        with ops.using(mode), ops.by_positions(True):
            u = place.square() * torch.where(envelopes(e) > 0, 1.0, 0.0) * mask
            moved = torch.cat([x[:n], x[n:] * place.unsqueeze(1) * mask.unsqueeze(1)])
            out = attention(index, u, moved, weight, bias, heads=heads)
            energy = (out * torch.randn_like(out)).sum()
            (force,) = torch.autograd.grad(energy, place, create_graph=True)
        loss = (force * torch.randn_like(force)).sum() + (out * torch.randn_like(out)).sum()
        found.append([out, force, *torch.autograd.grad(loss, [weight, bias, x])])
    for fast, slow in zip(*found, strict=True):
        assert slow.abs().max() > 1e-3
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


def test_attention_by_finite_differences() -> None:
    index = index_of((2,), False)
    u = torch.tensor([0.3, 1.0], dtype=torch.float64, device=DEVICE)
    qkv, bias = leaf(3, 6), leaf(2, 2)
    assert torch.autograd.gradcheck(lambda q, b: Attend.apply(q, b, u, index.ptr, 1), (qkv, bias))


def test_envelope() -> None:
    """Of no length, of a padding edge's, at the cutoff and between."""
    vec = torch.randn(300, 3, dtype=torch.float64, device=DEVICE)
    vec[0], vec[1] = 0.0, 1e3
    vec[2] = torch.tensor([2.0, 0.0, 0.0])
    with ops.using("torch"):
        slow = ops.edge_envelope(vec, 2.0)
    with ops.using("triton"):
        fast = ops.edge_envelope(vec, 2.0)
    assert slow[0] == 1 and not slow[1:3].any() and len(slow.unique()) > 100
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows, width, w", [(0, 3, 4), (1, 3, 8), (37, 5, 72)])
@pytest.mark.parametrize("layer", ["linear_silu", "linear_glu"])
def test_feed_forward(layer: str, rows: int, width: int, w: int) -> None:
    function = getattr(ops, layer)
    x, (weight, bias) = leaf(rows, width), affine(2 * w if layer == "linear_glu" else w, width)
    check(lambda: function(x, weight, bias), [x, weight, bias])
    found = []
    for mode in ("triton", "torch"):
        torch.manual_seed(1)
        with ops.using(mode), ops.by_positions(True):
            y = function(x, weight, bias)
            (first,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x, create_graph=True)
        loss = (first * torch.randn_like(first)).sum() + (y * torch.randn_like(y)).sum()
        found.append([first, *torch.autograd.grad(loss, [x, weight, bias])])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n, e, d", [(3, 37, 8), (2, 0, 8), (0, 0, 4), (1, 9, 20)])
def test_around_the_attention(n: int, e: int, d: int) -> None:
    a, z, norm = leaf(n, 2 * d), leaf(e, 5), ops.Affine(leaf(d), leaf(d))
    contract, last = affine(d, 2 * d), affine(d, 5)
    leaves = [a, z, *contract, *last, *norm]
    for output in (0, 1):  # each by itself: rows of atoms have only one of the two
        check(lambda k=output: ops.token_norm(a, contract, z, last, norm)[k], leaves)
    check(lambda: ops.token_norm(a, contract, z, last, norm), leaves)
    o, z, out, expand = leaf(n + e, d), leaf(e, d), affine(d, d), affine(2 * d, d)
    wide, narrow = ops.Affine(leaf(2 * d), leaf(2 * d)), ops.Affine(leaf(d), leaf(d))
    check(
        lambda: ops.attended(o, a, z, out, expand, wide, narrow),
        [o, a, z, *out, *expand, *wide, *narrow],
    )


@pytest.mark.parametrize("e, d", [(0, 4), (1, 8), (50, 20)])
def test_exchange(e: int, d: int) -> None:
    swap = torch.randperm(e)
    swap = swap.argsort()[torch.arange(e).flip(0)][swap].to(DEVICE)  # an involution at random
    assert (swap[swap] == torch.arange(e, device=DEVICE)).all()
    skip, x, layer, norm = (
        leaf(e, d),
        leaf(e, 5),
        affine(d, 5),
        ops.Affine(leaf(2 * d), leaf(2 * d)),
    )
    check(
        lambda: ops.pair_norm(skip, x, *layer, swap, norm),
        [skip, x, *layer, *norm],
    )
    first, second = leaf(e, d), leaf(e, d)
    check(lambda: ops.linear_add(x, *layer, first, second), [x, *layer, first, second])


@pytest.mark.parametrize("e, columns, elements, d", [(0, 4, 2, 4), (37, 13, 5, 8), (9, 8, 9, 20)])
@pytest.mark.parametrize("has_table", [False, True])
def test_input_of_edges(e: int, columns: int, elements: int, d: int, has_table: bool) -> None:
    g = torch.randn(e, columns, dtype=torch.float64, device=DEVICE)
    species = torch.randint(elements, (e,), device=DEVICE)
    layer, table, t, message = affine(d, columns), leaf(elements, d), leaf(e, d), leaf(d, d)

    def function() -> torch.Tensor:
        known = ops.edge_columns(g, species, elements)
        start = ops.edge_table(table, known)
        return ops.edge_input(known, *layer, table if has_table else None, t + start, message)

    check(function, [*layer, table, t, message])


@pytest.mark.parametrize("degrees", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("pad", [False, True], ids=["exact", "padded"])
def test_readout(degrees: tuple[int, ...], pad: bool) -> None:
    index = index_of(degrees, pad)
    e, real = len(index.receiver), len(degrees)
    mask = (torch.arange(e, device=DEVICE) < index.ptr[-1]).double().unsqueeze(1)
    t, layer, place = leaf(e, 6), affine(3, 6), leaf(e, 1)
    u = envelopes(e).unsqueeze(1) * mask
    check(lambda: ops.edge_readout(t, u, *layer, index), [t, *layer], real)
    found = []
    for mode in ("triton", "torch"):
        torch.manual_seed(1)
        with ops.using(mode), ops.by_positions(True):
            y = ops.edge_readout(t * place, place.square() * mask, *layer, index)[:real]
            (first,) = torch.autograd.grad(
                (y * torch.randn_like(y)).sum(), place, create_graph=True
            )
        loss = (first * torch.randn_like(first)).sum() + (y * torch.randn_like(y)).sum()
        found.append([first, *torch.autograd.grad(loss, [t, *layer])])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)
