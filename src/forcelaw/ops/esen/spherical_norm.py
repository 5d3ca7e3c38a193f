"""eSEN's work on atoms, between its matrix products: norm, gates of the feed-forward, residual sum.
See models/so3.py.

    spherical_norm    SphericalNorm: y (n, S, C), and its scalars (n, C) once more, by themselves
    spherical_gate    v_0 = SiLU(u_0 + b), v_l = u_l sigmoid(SiLU(h_l)) for l > 0
    spherical_add     x + v^T, + b for l = 0
    by_degree         a matrix per degree -> one per coefficient

Legend: n atoms, S = (lmax + 1)^2 coefficients degree-major, C channels. x, y (n, S, C); u, v (S, n,
C), as the products of SO3Linear give them, so that nothing is copied between. Taken apart by torch,
slices and concatenations cost more traffic, in the backward pass above all, than the arithmetic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_message import at_least_float32, tile
from ..gated_message import wide as _wide  # kernels here have a ``WIDE`` of their own
from ..layer_norm import PROGRAMS
from ..linear import column_sums

TILES = {"gate": (4, 64, 4), "add": (4, 64, 4)}
EPSILON = tl.constexpr(1e-5)  # that of SphericalNorm


# ---- spherical_norm


@triton.jit
def _centred(x, weights, mask, s, C: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr):
    """Coefficients (SP, BC) of an atom less the mean of the scalars; weights (SP, 1); 1 / RMS."""
    v = tl.load(x, mask=mask, other=0.0).to(WIDE)
    first = (s == 0)[:, None]
    mean = tl.sum(tl.sum(tl.where(first, v, 0.0), axis=1), axis=0) / C
    v = tl.where(first & mask, v - mean, v)
    w = tl.load(weights + s, mask=s < S, other=0.0)[:, None]
    return v, w, 1.0 / tl.sqrt(tl.sum(tl.sum(v * v * w, axis=1), axis=0) + EPSILON)


@triton.jit
def _norm(
    x,
    gain,
    bias,
    weights,
    degree,
    y,
    scalars,
    C: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    SP: tl.constexpr,
    BC: tl.constexpr,
):
    """One atom."""
    i = tl.program_id(0).to(tl.int64)
    s, c = tl.arange(0, SP), tl.arange(0, BC)
    mask = (s < S)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    v, _, scale = _centred(x + i * S * C + at, weights, mask, s, C, S, WIDE)
    l = tl.load(degree + s, mask=s < S, other=0)
    g = tl.load(gain + l[:, None] * C + c[None, :], mask=mask, other=0.0)
    first = (s == 0)[:, None]
    out = v * scale * g + tl.where(first, tl.load(bias + c, mask=c < C, other=0.0)[None, :], 0.0)
    tl.store(y + i * S * C + at, out, mask=mask)
    tl.store(scalars + i * C + c, tl.sum(tl.where(first, out, 0.0), axis=0), mask=c < C)


@triton.jit(do_not_specialize=["n", "programs"])
def _norm_backward(
    x,
    gain,
    weights,
    degree,
    dy,
    atom_stride,
    row_stride,
    dscalars,
    dx,
    dvectors,
    n,
    programs,
    L: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    SP: tl.constexpr,
    BC: tl.constexpr,
):
    """Every ``programs``-th atom; dvectors (programs, lmax + 2, C) are its sums for gain and, last,
    bias. dy has strides of its own."""
    pid = tl.program_id(0)
    s, c = tl.arange(0, SP), tl.arange(0, BC)
    mask = (s < S)[:, None] & (c < C)[None, :]
    at = s[:, None] * C + c[None, :]
    first = (s == 0)[:, None]
    l = tl.load(degree + s, mask=s < S, other=0)
    gains = tl.load(gain + l[:, None] * C + c[None, :], mask=mask, other=0.0)
    sums, sum_bias = tl.zeros([SP, BC], WIDE), tl.zeros([SP, BC], WIDE)
    for k in range(pid, n, programs):
        i = tl.cast(k, tl.int64)
        v, w, scale = _centred(x + i * S * C + at, weights, mask, s, C, S, WIDE)
        g = tl.load(
            dy + i * atom_stride + s[:, None] * row_stride + c[None, :], mask=mask, other=0.0
        ).to(WIDE)
        g += tl.where(
            first, tl.load(dscalars + i * C + c, mask=c < C, other=0.0).to(WIDE)[None, :], 0.0
        )
        sums += g * v * scale
        sum_bias += tl.where(first, g, 0.0)
        g = g * gains
        g = (g - v * w * (scale * scale * tl.sum(tl.sum(g * v, axis=1), axis=0))) * scale
        mean = tl.sum(tl.sum(tl.where(first, g, 0.0), axis=1), axis=0) / C
        tl.store(dx + i * S * C + at, tl.where(first, g - mean, g), mask=mask)
    for k in tl.static_range(L + 1):
        tl.store(
            dvectors + (pid * (L + 2) + k) * C + c,
            tl.sum(tl.where((l == k)[:, None], sums, 0.0), axis=0),
            mask=c < C,
        )
    tl.store(dvectors + (pid * (L + 2) + L + 1) * C + c, tl.sum(sum_bias, axis=0), mask=c < C)


def _norm_tile(s: int, c: int) -> dict[str, int]:
    rows, columns = triton.next_power_of_2(s), max(16, triton.next_power_of_2(c))
    return {"SP": rows, "BC": columns, "num_warps": min(8, max(1, rows * columns // 512))}


@torch.library.custom_op("forcelaw::spherical_norm", mutates_args=())
def _spherical_norm(
    x: Tensor, gain: Tensor, bias: Tensor, weights: Tensor, degree: Tensor
) -> tuple[Tensor, Tensor]:
    (n, s, c), y = x.shape, torch.empty_like(x)
    scalars = x.new_empty(n, c)
    _norm[(n,)](x, gain, bias, weights, degree, y, scalars, c, s, WIDE=_wide(x), **_norm_tile(s, c))
    return y, scalars


@_spherical_norm.register_fake
def _(x, gain, bias, weights, degree):
    return torch.empty_like(x), x.new_empty(x.shape[0], x.shape[2])


@torch.library.custom_op("forcelaw::spherical_norm_backward", mutates_args=())
def _spherical_norm_backward(
    dy: Tensor, dscalars: Tensor, x: Tensor, gain: Tensor, weights: Tensor, degree: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of gain and bias one below the other."""
    (n, s, c), degrees = x.shape, len(gain)
    programs = max(1, min(PROGRAMS, n))
    dx, sums = torch.empty_like(x), x.new_empty(programs, degrees + 1, c)
    dy = dy if dy.stride(2) == 1 else dy.contiguous()
    _norm_backward[(programs,)](
        x,
        gain,
        weights,
        degree,
        dy,
        dy.stride(0),
        dy.stride(1),
        dscalars.contiguous(),
        dx,
        sums,
        n,
        programs,
        degrees - 1,
        c,
        s,
        WIDE=_wide(x),
        **_norm_tile(s, c),
    )
    return dx, sums.sum(0)


@_spherical_norm_backward.register_fake
def _(dy, dscalars, x, gain, weights, degree):
    return torch.empty_like(x), x.new_empty(gain.shape[0] + 1, x.shape[2])


def _norm_save(ctx, inputs, output):
    x, gain, _, weights, degree = inputs
    ctx.save_for_backward(x, gain, weights, degree)


def _norm_differentiate(ctx, dy, dscalars):
    dx, sums = _spherical_norm_backward(dy, dscalars, *ctx.saved_tensors)
    return dx, sums[:-1], sums[-1], None, None


_spherical_norm.register_autograd(_norm_differentiate, setup_context=_norm_save)


def spherical_norm(
    x: Tensor, gain: Tensor, bias: Tensor, weights: Tensor, degree: Tensor
) -> tuple[Tensor, Tensor]:
    """SphericalNorm of x (n, S, C) -> y (n, S, C) and y[:, 0] (n, C). gain (lmax + 1, C), bias
    (C,); weights and degree (S,) as the module has them."""
    return _spherical_norm(at_least_float32(x), gain, bias, weights, degree)


# ---- spherical_gate


@triton.jit
def _scalars(u, bias, n, C: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr):
    """Of a block of atoms: their numbers (BE, 1), channels (1, BC), which there are, offsets, u_0 +
    b."""
    i = (tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE))[:, None]
    c = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    mask = (i < n) & (c < C)
    at = i * C + c
    return (
        i,
        c,
        mask,
        at,
        tl.load(u + at, mask=mask, other=0.0).to(WIDE) + tl.load(bias + c, mask=c < C, other=0.0),
    )


@triton.jit(do_not_specialize=["n"])
def _gate(
    h,
    u,
    bias,
    v,
    n,
    C: tl.constexpr,
    L: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    i, c, mask, at, x = _scalars(u, bias, n, C, WIDE, BE, BC)
    step = tl.program_id(0).to(tl.int64) * 0 + n * C  # of a coefficient; 64 bits
    tl.store(v + at, (x / (1.0 + tl.exp(-x))).to(v.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        z = tl.load(h + i * L * C + (l - 1) * C + c, mask=mask, other=0.0).to(WIDE)
        gate = 1.0 / (1.0 + tl.exp(-z / (1.0 + tl.exp(-z))))
        for j in tl.static_range(2 * l + 1):
            row = at + (l * l + j) * step
            tl.store(
                v + row,
                (tl.load(u + row, mask=mask, other=0.0).to(WIDE) * gate).to(v.dtype.element_ty),
                mask=mask,
            )


@triton.jit(do_not_specialize=["n"])
def _gate_backward(
    h,
    u,
    bias,
    grad,
    dh,
    du,
    n,
    C: tl.constexpr,
    L: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    i, c, mask, at, x = _scalars(u, bias, n, C, WIDE, BE, BC)
    step = tl.program_id(0).to(tl.int64) * 0 + n * C  # of a coefficient; 64 bits
    s = 1.0 / (1.0 + tl.exp(-x))
    g = tl.load(grad + at, mask=mask, other=0.0).to(WIDE)
    tl.store(du + at, (g * s * (1.0 + x * (1.0 - s))).to(du.dtype.element_ty), mask=mask)
    for l in tl.static_range(1, L + 1):
        hidden = i * L * C + (l - 1) * C + c
        z = tl.load(h + hidden, mask=mask, other=0.0).to(WIDE)
        s = 1.0 / (1.0 + tl.exp(-z))
        gate = 1.0 / (1.0 + tl.exp(-z * s))
        dgate = tl.zeros([BE, BC], WIDE)
        for j in tl.static_range(2 * l + 1):
            row = at + (l * l + j) * step
            g = tl.load(grad + row, mask=mask, other=0.0).to(WIDE)
            dgate += g * tl.load(u + row, mask=mask, other=0.0).to(WIDE)
            tl.store(du + row, (g * gate).to(du.dtype.element_ty), mask=mask)
        dz = dgate * gate * (1.0 - gate) * s * (1.0 + z * (1.0 - s))
        tl.store(dh + hidden, dz.to(dh.dtype.element_ty), mask=mask)


def _grid(n: int, c: int, size: dict[str, int]) -> tuple[int, int]:
    return triton.cdiv(n, size["BE"]), triton.cdiv(c, size["BC"])


@torch.library.custom_op("forcelaw::spherical_gate", mutates_args=())
def _spherical_gate(h: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    (_, n, c), v = u.shape, torch.empty_like(u)
    size = tile(TILES, "gate", c)
    _gate[_grid(n, c, size)](h, u, bias, v, n, c, L=h.shape[1] // c, WIDE=_wide(u), **size)
    return v


@_spherical_gate.register_fake
def _(h, u, bias):
    return torch.empty_like(u)


@torch.library.custom_op("forcelaw::spherical_gate_backward", mutates_args=())
def _spherical_gate_backward(
    grad: Tensor, h: Tensor, u: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (_, n, c), dh, du = u.shape, torch.empty_like(h), torch.empty_like(u)
    size = tile(TILES, "gate", c)
    _gate_backward[_grid(n, c, size)](
        h, u, bias, grad.contiguous(), dh, du, n, c, L=h.shape[1] // c, WIDE=_wide(u), **size
    )
    return dh, du, column_sums(du[0], bias.dtype)


@_spherical_gate_backward.register_fake
def _(grad, h, u, bias):
    return torch.empty_like(h), torch.empty_like(u), torch.empty_like(bias)


def _gate_save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gate_differentiate(ctx, grad):
    return _spherical_gate_backward(grad, *ctx.saved_tensors)


_spherical_gate.register_autograd(_gate_differentiate, setup_context=_gate_save)


def spherical_gate(h: Tensor, u: Tensor, bias: Tensor) -> Tensor:
    """u (S, n, C), gates h (n, lmax C) of l = 1, 2, ..., bias (C,) -> v (S, n, C) in the dtype of
    u."""
    return _spherical_gate(h.contiguous(), u.contiguous(), bias)


# ---- spherical_add


@triton.jit(do_not_specialize=["n"])
def _add(
    x,
    v,
    bias,
    out,
    n,
    C: tl.constexpr,
    S: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (i < n)[:, None] & (c < C)[None, :]
    step = tl.program_id(0).to(tl.int64) * 0 + n * C
    for s in tl.static_range(S):
        at = i[:, None] * S * C + s * C + c[None, :]
        y = tl.load(v + s * step + i[:, None] * C + c[None, :], mask=mask, other=0.0).to(WIDE)
        if s == 0:
            y += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
        tl.store(out + at, tl.load(x + at, mask=mask, other=0.0) + y, mask=mask)


@torch.library.custom_op("forcelaw::spherical_add", mutates_args=())
def _spherical_add(x: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    (n, s, c), out = x.shape, torch.empty_like(x)
    size = tile(TILES, "add", c)
    _add[_grid(n, c, size)](x, v, bias, out, n, c, s, WIDE=_wide(x), **size)
    return out


@_spherical_add.register_fake
def _(x, v, bias):
    return torch.empty_like(x)


def _add_save(ctx, inputs, output):
    ctx.kind = inputs[1].dtype


_spherical_add.register_autograd(
    lambda ctx, grad: (grad, grad.transpose(0, 1).to(ctx.kind), grad[:, 0].sum(0)),
    setup_context=_add_save,
)


def spherical_add(x: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """x (n, S, C), at least in float32; v (S, n, C); bias (C,) of l = 0 -> (n, S, C)."""
    return _spherical_add(at_least_float32(x), v.contiguous(), bias)


# ---- by_degree


@triton.jit
def _degree_sums(x, out, numbers, FLAT: tl.constexpr):
    """Sums of rows of x ((lmax + 1)^2, numbers) over the orders of a degree: out (lmax + 1,
    numbers)."""
    l = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    total = tl.zeros([FLAT], x.dtype.element_ty)
    for s in range(l * l, (l + 1) * (l + 1)):
        total += tl.load(x + s * numbers + i, mask=i < numbers, other=0.0)
    tl.store(out + l * numbers + i, total, mask=i < numbers)


@torch.library.custom_op("forcelaw::by_degree", mutates_args=())
def _by_degree(weight: Tensor, degree: Tensor) -> Tensor:
    return weight.index_select(0, degree)


@_by_degree.register_fake
def _(weight, degree):
    return weight.new_empty(degree.shape[0], *weight.shape[1:])


@torch.library.custom_op("forcelaw::by_degree_backward", mutates_args=())
def _by_degree_backward(grad: Tensor, degrees: int) -> Tensor:
    out = grad.new_empty(degrees, *grad.shape[1:])
    numbers = out[0].numel()
    _degree_sums[triton.cdiv(numbers, 1024), degrees](
        grad.contiguous(), out, numbers, FLAT=1024, num_warps=4
    )
    return out


@_by_degree_backward.register_fake
def _(grad, degrees):
    return grad.new_empty(degrees, *grad.shape[1:])


def _degree_save(ctx, inputs, output):
    ctx.degrees = len(inputs[0])


_by_degree.register_autograd(
    lambda ctx, grad: (_by_degree_backward(grad, ctx.degrees), None), setup_context=_degree_save
)


def by_degree(weight: Tensor, degree: Tensor) -> Tensor:
    """weight (lmax + 1, ...), degree (S,) of each coefficient -> (S, ...), with a gradient that is
    the same every time."""
    return _by_degree(weight.contiguous(), degree)
