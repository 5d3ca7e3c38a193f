"""GemNet-OC's dense side: matrix products by torch, and what stands between them in one pass each.
See radial_filter.py for the rest.

    scaled_silu       a(z) = SiLU(z) / 0.6
    residual          (x + a(W2 a(W1 x))) / sqrt 2
    scaled_linear     scale W x
    gathered          x_sender
    merge             skip + sum over three u = a(U x) of (u_ca + u_ac of the reverse edge) / sqrt 8
    join              a(s_sender + t_receiver + W x)
    unit_rms          x / RMS(x)
    blend             (x + y) * scale

Legend: n atoms, e edges, w channels. All of it is memory traffic. By kernels an op keeps its inputs
and recomputes the rest in its backward pass (KEEP_INNER: but for W1 x of ``residual``). Kernels
compute in float32, or in float64; matrix products have the dtype of their weights, which is that of
autocast where it is on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..register import Differentiable
from ..segment import _sum, _sum_both
from ..switch import constexpr, tl, triton, use_triton
from ..tiles import lowered
from ..tiles import wide as _wide  # kernels here have a ``wide`` of their own
from .index import EdgeIndex

# residual keeps W1 x: one matrix product less in its backward pass, w floats more for each row
KEEP_INNER = True
FEW = 1 << 14  # up to so many rows it keeps all: memory does not count there, and launches do

WHOLE = 1 << 20  # no limit to the channels of a program
FLAT = 1024  # numbers of a program where the shape does not matter
SILU_GAIN = 1 / 0.6
SQRT_HALF = 0.5**0.5
SMALL = 1e-6  # of unit_rms
GAIN = constexpr(SILU_GAIN)
HALF = constexpr(SQRT_HALF)
MERGE = constexpr(0.5**1.5 / 0.6)  # a(z) / sqrt 8
EPSILON = constexpr(SMALL)


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _slope(z):
    s = _sigmoid(z)
    return s * (1.0 + z * (1.0 - s))


# ---- numbers one by one; ``out`` may be an input


@triton.jit
def _act(z, out, n, scale: constexpr, WIDE: constexpr, FLAT: constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    x = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(out + i, (x * _sigmoid(x) * scale).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _act_backward(z, grad, out, n, scale: constexpr, WIDE: constexpr, FLAT: constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    g = tl.load(grad + i, mask=i < n, other=0.0).to(WIDE)
    x = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(out + i, (g * _slope(x) * scale).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _finish(x, z, out, n, WIDE: constexpr, FLAT: constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    v = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    y = (tl.load(x + i, mask=i < n, other=0.0).to(WIDE) + v * _sigmoid(v) * GAIN) * HALF
    tl.store(out + i, y.to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _finish_backward(z, grad, dz, dx, n, WIDE: constexpr, FLAT: constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    g = tl.load(grad + i, mask=i < n, other=0.0).to(WIDE) * HALF
    v = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(dz + i, (g * _slope(v) * GAIN).to(dz.dtype.element_ty), mask=i < n)
    tl.store(dx + i, g.to(dx.dtype.element_ty), mask=i < n)


@triton.jit
def _blend_numbers(x, y, out, n, scale: constexpr, WIDE: constexpr, FLAT: constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    v = tl.load(x + i, mask=i < n, other=0.0).to(WIDE)
    v += tl.load(y + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(out + i, (v * scale).to(out.dtype.element_ty), mask=i < n)


# ---- rows


@triton.jit(do_not_specialize=["rows"])
def _rms(x, out, inverse, rows, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    v = tl.load(x + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    scale = 1.0 / tl.sqrt(tl.sum(v * v, axis=1) / w + EPSILON)
    at = out + r[:, None] * w + c[None, :]
    tl.store(at, (v * scale[:, None]).to(out.dtype.element_ty), mask=mask)
    tl.store(inverse + r, scale, mask=r < rows)


@triton.jit(do_not_specialize=["rows"])
def _rms_backward(
    y, inverse, grad, dx, rows, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    at = r[:, None] * w + c[None, :]
    v = tl.load(y + at, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + at, mask=mask, other=0.0).to(WIDE)
    scale = tl.load(inverse + r, mask=r < rows, other=0.0)
    dv = (g - v * (tl.sum(g * v, axis=1) / w)[:, None]) * scale[:, None]
    tl.store(dx + at, dv.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _join(
    pair,
    z,
    grad,
    out,
    sender,
    receiver,
    rows,
    w: constexpr,
    WIDE: constexpr,
    BACKWARD: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """a(z + s + t), or grad times its derivative; in the place of z."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    j = tl.load(sender + r, mask=r < rows, other=0).to(tl.int64)
    i = tl.load(receiver + r, mask=r < rows, other=0).to(tl.int64)
    at = r[:, None] * w + c[None, :]
    v = tl.load(z + at, mask=mask, other=0.0).to(WIDE)
    v += tl.load(pair + j[:, None] * (2 * w) + c[None, :], mask=mask, other=0.0).to(WIDE)
    v += tl.load(pair + i[:, None] * (2 * w) + w + c[None, :], mask=mask, other=0.0).to(WIDE)
    if BACKWARD:
        y = tl.load(grad + at, mask=mask, other=0.0).to(WIDE) * _slope(v) * GAIN
    else:
        y = v * _sigmoid(v) * GAIN
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _pair_of(z, r, back, c, w: constexpr, mask, WIDE: constexpr):
    """SiLU of the first half of row r of z (e, 2w) and of the second half of the reverse row."""
    here = tl.load(z + r[:, None] * (2 * w) + c[None, :], mask=mask, other=0.0).to(WIDE)
    there = tl.load(z + back[:, None] * (2 * w) + w + c[None, :], mask=mask, other=0.0).to(WIDE)
    return here * _sigmoid(here) + there * _sigmoid(there)


@triton.jit(do_not_specialize=["rows"])
def _merge_up(
    skip, z1, z2, z3, swap, out, rows, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    back = tl.load(swap + r, mask=r < rows, other=0).to(tl.int64)
    total = _pair_of(z1, r, back, c, w, mask, WIDE)
    total += _pair_of(z2, r, back, c, w, mask, WIDE)
    total += _pair_of(z3, r, back, c, w, mask, WIDE)
    at = r[:, None] * w + c[None, :]
    y = tl.load(skip + at, mask=mask, other=0.0).to(WIDE) + total * MERGE
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _merge_backward(
    grad, z, swap, rows, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    """The gradient of z (e, 2w), in its place. The second half of edge k was read by swap[k]: swap
    is its own inverse."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    back = tl.load(swap + r, mask=r < rows, other=0).to(tl.int64)
    at = r[:, None] * (2 * w) + c[None, :]
    v = tl.load(z + at, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(z + at, (g * _slope(v) * MERGE).to(z.dtype.element_ty), mask=mask)
    v = tl.load(z + at + w, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + back[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(z + at + w, (g * _slope(v) * MERGE).to(z.dtype.element_ty), mask=mask)


# ---- sizes and launches


def _each(kernel: Any, tensors: list[Tensor], **constants: Any) -> None:
    """A kernel on the numbers of contiguous tensors of one shape."""
    n = tensors[0].numel()
    constants |= {"WIDE": _wide(tensors[0]), "FLAT": FLAT, "num_warps": 4}
    kernel[(triton.cdiv(n, FLAT),)](*tensors, n, **constants)


def _tile(w: int, most: int = 128, numbers: int = 1024) -> dict[str, int]:
    """Rows, channels and warps of a program."""
    columns = min(most, max(16, triton.next_power_of_2(w)))
    return {"BE": max(1, numbers // columns), "BC": columns, "num_warps": 4}


def _grid(rows: int, w: int, tile: dict[str, int]) -> tuple[int, int]:
    return triton.cdiv(rows, tile["BE"]), triton.cdiv(w, tile["BC"])


def _plus_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a b; in the place of total if it has their dtype."""
    return total.addmm_(a, b) if total.dtype == a.dtype else total + torch.mm(a, b)


# ---- scaled_silu


def scaled_silu(z: Tensor) -> Tensor:
    """SiLU(z) / 0.6, any shape: about unit variance from unit variance."""
    if use_triton(z):
        return _ScaledSiLU.apply(z.contiguous())
    return nn.functional.silu(z) * SILU_GAIN


class _ScaledSiLU(Differentiable):
    def forward(ctx, z):
        ctx.save_for_backward(z)
        out = torch.empty_like(z)
        _each(_act, [z, out], scale=SILU_GAIN)
        return out

    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        out = torch.empty_like(z)
        _each(_act_backward, [z, grad.contiguous(), out], scale=SILU_GAIN)
        return out


# ---- residual


def residual(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """(x + a(W2 a(W1 x))) / sqrt 2: x (rows, w), matrices (w, w)."""
    if use_triton(x):
        keep = 3 if x.shape[0] <= FEW else int(KEEP_INNER)
        weights = lowered(w1).contiguous(), lowered(w2).contiguous()
        return _Residual.apply(x.contiguous(), *weights, keep)
    # the two factors 1 / 0.6 go into a matrix and into the sum: two passes less over the edges
    y = nn.functional.silu(nn.functional.linear(x, w1))
    y = nn.functional.silu(nn.functional.linear(y, w2 * SILU_GAIN))
    return torch.add(x, y, alpha=SILU_GAIN) * SQRT_HALF


class _Residual(Differentiable):
    def forward(ctx, x, w1, w2, keep):
        """Keeps the first ``keep`` (0, 1 or 3) of W1 x, y = a(W1 x) and W2 y."""
        out, inner = torch.empty_like(x), torch.mm(x.to(w1.dtype), w1.t())
        y = torch.empty_like(inner) if keep else inner
        _each(_act, [inner, y], scale=SILU_GAIN)
        z = torch.mm(y, w2.t())
        _each(_finish, [x, z, out])
        ctx.save_for_backward(x, w1, w2, *(inner, y, z)[:keep])
        return out

    def backward(ctx, grad):
        x, w1, w2, *kept = ctx.saved_tensors
        inner, y, z = [*kept, None, None, None][:3]
        low, grad, dx = x.to(w1.dtype), grad.contiguous(), torch.empty_like(x)
        inner = torch.mm(low, w1.t()) if inner is None else inner
        if y is None or z is None:
            y = dy = torch.empty_like(inner)
            _each(_act, [inner, y], scale=SILU_GAIN)
            z = dz = torch.mm(y, w2.t())
        else:  # what is kept stays
            dz, dy = torch.empty_like(z), torch.empty_like(y)
        _each(_finish_backward, [z, grad, dz, dx])
        dw2 = torch.mm(dz.t(), y)
        torch.mm(dz, w2, out=dy)
        _each(_act_backward, [inner, dy, dy], scale=SILU_GAIN)
        dw1 = torch.mm(dy.t(), low)
        return _plus_product(dx, dy, w1), dw1, dw2, None


# ---- scaled_linear


def scaled_linear(x: Tensor, weight: Tensor, scale: float) -> Tensor:
    """scale W x of x (rows, in), W (out, in). Where kernels are used the factor goes into the
    matrix, a pass less over the edges."""
    if use_triton(x):
        return nn.functional.linear(x, weight * scale)
    return nn.functional.linear(x, weight) * scale


# ---- gathered


def gathered(x: Tensor, index: EdgeIndex) -> Tensor:
    """x_sender (e, w) of x (n, w). By kernels padding edges give no gradient."""
    if use_triton(x):
        return _Gathered.apply(x, index)
    return x.index_select(0, index.sender)


class _Gathered(Differentiable):
    def forward(ctx, x, index):
        ctx.index = index
        return x.index_select(0, index.sender)

    def backward(ctx, grad):
        n, w, index = ctx.index.atoms, grad.shape[1], ctx.index
        out, tile = grad.new_empty(n, w), _tile(w) | {"BE": 16}
        given = grad.contiguous(), index.swap, index.ptr, out, w
        _sum[n, triton.cdiv(w, tile["BC"])](*given, ORDER=True, WIDE=_wide(grad), **tile)
        return out, None


# ---- merge


def merge(skip: Tensor, index: EdgeIndex, *inputs: tuple[Tensor, Tensor]) -> Tensor:
    """skip + sum over three u = a(U x), (e, 2w), of (u[:, :w] + u[swap, w:]) / sqrt 8.

    skip (e, w); inputs: x (e, any), U (2w, any).
    """
    if use_triton(skip):
        flat = [t for x, u in inputs for t in (x.contiguous(), lowered(u))]
        return _Merge.apply(skip.contiguous(), index.swap, *flat)
    both = sum(scaled_silu(nn.functional.linear(x, u)) for x, u in inputs)
    ca, ac = both.chunk(2, dim=-1)
    return skip + (ca + ac.index_select(0, index.swap)) * (0.5 * SQRT_HALF)


class _Merge(Differentiable):
    def forward(ctx, skip, swap, *inputs):
        ctx.save_for_backward(swap, *inputs)
        (rows, w), out, tile = skip.shape, torch.empty_like(skip), _tile(skip.shape[1])
        z = [torch.mm(x.to(u.dtype), u.t()) for x, u in zip(inputs[::2], inputs[1::2])]
        _merge_up[_grid(rows, w, tile)](skip, *z, swap, out, rows, w, WIDE=_wide(skip), **tile)
        return out

    def backward(ctx, grad):
        swap, *inputs = ctx.saved_tensors
        (rows, w), out, given, tile = grad.shape, [], grad.contiguous(), _tile(grad.shape[1])
        for x, u in zip(inputs[::2], inputs[1::2]):
            low = x.to(u.dtype)
            z = torch.mm(low, u.t())
            _merge_backward[_grid(rows, w, tile)](given, z, swap, rows, w, WIDE=_wide(grad), **tile)
            out.extend([torch.mm(z, u).to(x.dtype), torch.mm(z.t(), low)])
        return grad, None, *out


# ---- join


def join(pair: Tensor, x: Tensor, weight: Tensor, index: EdgeIndex) -> Tensor:
    """a(s_sender + t_receiver + W x) (e, w): pair (n, 2w) holds s | t, x (e, any), W (w, any)."""
    if use_triton(pair):
        return _Join.apply(pair.contiguous(), x.contiguous(), lowered(weight), index)
    s, t = pair.chunk(2, dim=-1)
    ends = s.index_select(0, index.sender) + t.index_select(0, index.receiver)
    return scaled_silu(ends + nn.functional.linear(x, weight))


class _Join(Differentiable):
    def forward(ctx, pair, x, weight, index):
        ctx.save_for_backward(pair, x, weight)
        ctx.index = index
        return _join_pass(pair, torch.mm(x.to(weight.dtype), weight.t()), None, index)

    def backward(ctx, grad):
        (pair, x, weight), index = ctx.saved_tensors, ctx.index
        low, dpair = x.to(weight.dtype), torch.empty_like(pair)
        z = _join_pass(pair, torch.mm(low, weight.t()), grad.contiguous(), index)
        w, tile = z.shape[1], _tile(z.shape[1])
        programs = pair.shape[0], triton.cdiv(w, tile["BC"])
        _sum_both[programs](z, index.swap, index.ptr, dpair, w, WIDE=_wide(z), **tile)
        return dpair, torch.mm(z, weight).to(x.dtype), torch.mm(z.t(), low), None


def _join_pass(pair: Tensor, z: Tensor, grad: Tensor | None, index: EdgeIndex) -> Tensor:
    """a(z + s + t), or grad times its derivative, in the place of z."""
    (rows, w), tile, backward = z.shape, _tile(z.shape[1]), grad is not None
    given = pair, z, grad if backward else z, z, index.sender, index.receiver, rows, w
    _join[_grid(rows, w, tile)](*given, WIDE=_wide(z), BACKWARD=backward, **tile)
    return z


# ---- unit_rms


def unit_rms(x: Tensor) -> Tensor:
    """x (rows, w) divided by its RMS over w."""
    if use_triton(x):
        return _UnitRMS.apply(x.contiguous())
    return nn.functional.rms_norm(x, x.shape[-1:], eps=SMALL)


class _UnitRMS(Differentiable):
    def forward(ctx, x):
        (rows, w), out, tile = x.shape, torch.empty_like(x), _tile(x.shape[1], most=WHOLE)
        inverse = x.new_empty(rows, dtype=torch.promote_types(x.dtype, torch.float32))
        programs = (triton.cdiv(rows, tile["BE"]),)
        _rms[programs](x, out, inverse, rows, w, WIDE=_wide(x), **tile)
        ctx.save_for_backward(out, inverse)  # out, which what reads it keeps, too, and not x
        return out

    def backward(ctx, grad):
        y, inverse = ctx.saved_tensors
        (rows, w), dx, tile = y.shape, torch.empty_like(y), _tile(y.shape[1], most=WHOLE)
        given = y, inverse, grad.contiguous(), dx, rows, w
        _rms_backward[(triton.cdiv(rows, tile["BE"]),)](*given, WIDE=_wide(y), **tile)
        return dx


# ---- blend


def blend(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """(x + y) * scale, of one shape."""
    if use_triton(x):
        return _Blend.apply(x.contiguous(), y.contiguous(), scale)
    return (x + y) * scale


class _Blend(Differentiable):
    def forward(ctx, x, y, scale):
        ctx.scale, ctx.kinds = scale, (x.dtype, y.dtype)
        out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, y.dtype))
        _each(_blend_numbers, [x, y, out], scale=scale)
        return out

    def backward(ctx, grad):
        grad = grad * ctx.scale
        return grad.to(ctx.kinds[0]), grad.to(ctx.kinds[1]), None
