"""GemNet-OC's products with filters V rbf: of R radial functions an edge, by kernels made where
they are used and never written.

    read_edges        z = W m in four parts: a(z_0) / 2, and for three the D_i (a(z_i) * V_i rbf_i)
    gathered_linear   D (x_sender * V rbf)
    filtered_linear   D (x * V rbf)
    filter_sum        scale * sum over the edges into an atom of x * V rbf

Legend, dtypes and what is kept: as in residual.py; R radial functions, a(z) = SiLU(z) / 0.6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...graph import segment_sum
from ..register import Differentiable
from ..switch import constexpr, tl, triton, use_triton
from ..tiles import PROGRAMS, lowered
from ..tiles import wide as _wide  # kernels here have a ``wide`` of their own
from .index import EdgeIndex
from .residual import GAIN, _grid, _sigmoid, _slope, _tile, scaled_silu

SKIP = constexpr(0.5 / 0.6)  # a(z) / 2

Filter = tuple[Tensor, Tensor, Tensor]  # rbf (e, R), V (w, R), D (any, w)


def read_edges(
    m: Tensor, weight: Tensor, *filters: Filter
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z = W m in four parts of w columns: a(z_0) / 2 (e, w), and for the three others D (a(z) * V
    rbf). m (e, w), W (4w, w)."""
    if use_triton(m):
        flat = [t for rbf, v, d in filters for t in (rbf, v, lowered(d))]
        return _ReadEdges.apply(m.contiguous(), lowered(weight), *flat)
    skip, *parts = scaled_silu(nn.functional.linear(m, weight)).chunk(4, dim=-1)
    read = [filtered_linear(x, *given) for x, given in zip(parts, filters)]
    return skip * 0.5, *read


def gathered_linear(x: Tensor, rbf: Tensor, v: Tensor, d: Tensor, index: EdgeIndex) -> Tensor:
    """D (x_sender * V rbf): x (n, w), rbf (e, R), V (w, R), D (any, w) -> (e, any)."""
    if use_triton(x):
        return _GatheredLinear.apply(x.contiguous(), rbf, v, lowered(d), index)
    return filtered_linear(x.index_select(0, index.sender), rbf, v, d)


def filtered_linear(x: Tensor, rbf: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """D (x * V rbf): x (e, w), rbf (e, R), V (w, R), D (any, w) -> (e, any)."""
    if use_triton(x):
        return _FilteredLinear.apply(x.contiguous(), rbf, v, lowered(d))
    return nn.functional.linear(x * nn.functional.linear(rbf, v), d)


def filter_sum(x: Tensor, rbf: Tensor, v: Tensor, index: EdgeIndex, scale: float) -> Tensor:
    """scale * sum over the edges into an atom of x * V rbf: (n, w), by kernels in the dtype of V.

    x (e, w), rbf (e, R), V (w, R). By kernels padding edges add nothing, but get a gradient; their
    rbf is zero.
    """
    if use_triton(x):
        return _FilterSum.apply(x.contiguous(), rbf, v, index, scale)
    return segment_sum(x * nn.functional.linear(rbf, v), index.receiver, index.atoms) * scale


@triton.jit
def _filter_of(
    rbf, e, me, stride, v, c, mc, w: constexpr, R: constexpr, BE: constexpr, BC: constexpr
):
    """V rbf of some edges (BE, BC); v (R, w) is V transposed."""
    f = tl.zeros([BE, BC], v.dtype.element_ty)
    for k in tl.static_range(R):
        g = tl.load(rbf + e * stride + k, mask=me, other=0.0).to(f.dtype)
        f += g[:, None] * tl.load(v + k * w + c, mask=mc, other=0.0)[None, :]
    return f


@triton.jit(do_not_specialize=["rows"])
def _product(
    x,
    x_stride,
    at,
    rbf,
    rbf_stride,
    v,
    out,
    rows,
    w: constexpr,
    R: constexpr,
    ACT: constexpr,
    GATHER: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """out (e, w) = x * V rbf, or a(x) * V rbf (ACT), of x at row at[e] (GATHER)."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    me, mc = e < rows, c < w
    mask = me[:, None] & mc[None, :]
    row = e
    if GATHER:
        row = tl.load(at + e, mask=me, other=0).to(tl.int64)
    y = tl.load(x + row[:, None] * x_stride + c[None, :], mask=mask, other=0.0)
    y = y.to(v.dtype.element_ty)
    f = _filter_of(rbf, e, me, rbf_stride, v, c, mc, w, R, BE, BC)
    if ACT:
        y = y * _sigmoid(y) * GAIN
    tl.store(out + e[:, None] * w + c[None, :], (y * f).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _product_sum(
    x,
    order,
    ptr,
    rbf,
    rbf_stride,
    v,
    out,
    w: constexpr,
    scale: constexpr,
    R: constexpr,
    ORDER: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """out (n, w) = scale * sum of x * V rbf over the edges ptr[i]:ptr[i + 1] (ORDER: over
    order[ptr[i]:ptr[i + 1]])."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    total = tl.zeros([BE, BC], v.dtype.element_ty)  # summed over BE once: a sum waits for all warps
    low, high = tl.load(ptr + i), tl.load(ptr + i + 1)
    for k in range(low, high, BE):
        e = (k + tl.arange(0, BE)).to(tl.int64)
        me = e < high
        if ORDER:
            e = tl.load(order + e, mask=me, other=0).to(tl.int64)
        mask = me[:, None] & mc[None, :]
        y = tl.load(x + e[:, None] * w + c[None, :], mask=mask, other=0.0).to(total.dtype)
        total += y * _filter_of(rbf, e, me, rbf_stride, v, c, mc, w, R, BE, BC)
    tl.store(out + i * w + c, (tl.sum(total, axis=0) * scale).to(out.dtype.element_ty), mask=mc)


@triton.jit(do_not_specialize=["rows", "programs"])
def _product_backward(
    x,
    x_stride,
    x_at,
    grad,
    grad_at,
    rbf,
    rbf_stride,
    v,
    product,
    dx,
    dx_stride,
    drbf,
    dv,
    rows,
    programs,
    w: constexpr,
    scale: constexpr,
    R: constexpr,
    RP: constexpr,
    ACT: constexpr,
    GATHER_X: constexpr,
    GATHER_GRAD: constexpr,
    PRODUCT: constexpr,
    DX: constexpr,
    BE: constexpr,
    BC: constexpr,
):
    """Of scale * x * V rbf: product (e, w) once more, dx (e, w), drbf (blocks of channels, e, R),
    dv (programs, R, w)."""
    pid = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mc = c < w
    number = tl.arange(0, RP)
    wide = v.dtype.element_ty
    sums = tl.zeros([RP, BC], wide)
    for low in range(pid * BE, rows, programs * BE):
        e = (low + tl.arange(0, BE)).to(tl.int64)
        me = e < rows
        mask = me[:, None] & mc[None, :]
        row, source = e, e
        if GATHER_X:
            row = tl.load(x_at + e, mask=me, other=0).to(tl.int64)
        if GATHER_GRAD:
            source = tl.load(grad_at + e, mask=me, other=0).to(tl.int64)
        z = tl.load(x + row[:, None] * x_stride + c[None, :], mask=mask, other=0.0).to(wide)
        g = tl.load(grad + source[:, None] * w + c[None, :], mask=mask, other=0.0).to(wide) * scale
        f = _filter_of(rbf, e, me, rbf_stride, v, c, mc, w, R, BE, BC)
        if ACT:
            s = _sigmoid(z)
            y = z * s * GAIN
            df = g * y
            dz = g * f * (s * (1.0 + z * (1.0 - s))) * GAIN
        else:
            y = z
            df = g * y
            dz = g * f
        if PRODUCT:
            row = product + e[:, None] * w + c[None, :]
            tl.store(row, (y * f).to(product.dtype.element_ty), mask=mask)
        if DX:
            row = dx + e[:, None] * dx_stride + c[None, :]
            tl.store(row, dz.to(dx.dtype.element_ty), mask=mask)
        few = tl.zeros([BE, RP], wide)
        for k in tl.static_range(R):
            along = tl.sum(df * tl.load(v + k * w + c, mask=mc, other=0.0)[None, :], axis=1)
            few += tl.where(number == k, 1.0, 0.0).to(wide)[None, :] * along[:, None]
            radial = tl.load(rbf + e * rbf_stride + k, mask=me, other=0.0).to(wide)
            across = tl.sum(df * radial[:, None], axis=0)
            sums += tl.where(number == k, 1.0, 0.0).to(wide)[:, None] * across[None, :]
        place = (tl.program_id(1) * rows + e)[:, None] * R + number[None, :]
        mask = me[:, None] & (number < R)[None, :]
        tl.store(drbf + place, few.to(drbf.dtype.element_ty), mask=mask)
    at = dv + pid.to(tl.int64) * R * w + number[:, None] * w + c[None, :]
    tl.store(at, sums, mask=mc[None, :] & (number < R)[:, None])


@triton.jit(do_not_specialize=["rows"])
def _skip_rows(z, out, rows, width, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr):
    """out (e, w) = a(z) / 2 of the first w of the ``width`` columns of z."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    v = tl.load(z + r[:, None] * width + c[None, :], mask=mask, other=0.0).to(WIDE)
    at = out + r[:, None] * w + c[None, :]
    tl.store(at, (v * _sigmoid(v) * SKIP).to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _skip_backward(
    z, grad, rows, width, w: constexpr, WIDE: constexpr, BE: constexpr, BC: constexpr
):
    """The gradient in the place of z."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    at = r[:, None] * width + c[None, :]
    v = tl.load(z + at, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(z + at, (g * _slope(v) * SKIP).to(z.dtype.element_ty), mask=mask)


# ---- launches


def _transposed(v: Tensor) -> Tensor:
    """Rows and columns exchanged in memory."""
    return v.t().contiguous()


def _few(rbf: Tensor) -> Tensor:
    """Columns of a wider array stay there."""
    return rbf if rbf.stride(1) == 1 else rbf.contiguous()


def _times_filter(
    x: Tensor, rbf: Tensor, v: Tensor, at: Tensor | None = None, act: bool = False
) -> Tensor:
    """(e, w) = x * V rbf."""
    rows, w = rbf.shape[0], x.shape[1]
    rbf, out, tile = _few(rbf), x.new_empty(rows, w), _tile(w, numbers=2048)
    given = x, x.stride(0), x if at is None else at, rbf, rbf.stride(0), _transposed(v), out
    constants = {"R": rbf.shape[1], "ACT": act, "GATHER": at is not None}
    _product[_grid(rows, w, tile)](*given, rows, w, **constants, **tile)
    return out


def _sum_filter(
    x: Tensor,
    rbf: Tensor,
    v: Tensor,
    ptr: Tensor,
    out: Tensor,
    scale: float = 1.0,
    order: Tensor | None = None,
) -> Tensor:
    """out (n, w), filled."""
    (n, w), rbf = out.shape, _few(rbf)
    tile = _tile(w) | {"BE": 16}  # about the number of edges of an atom
    given = x, ptr if order is None else order, ptr, rbf, rbf.stride(0), _transposed(v), out
    constants = {"R": rbf.shape[1], "ORDER": order is not None}
    _product_sum[n, triton.cdiv(w, tile["BC"])](*given, w, scale, **constants, **tile)
    return out


def _filter_gradients(
    x: Tensor,
    rbf: Tensor,
    v: Tensor,
    grad: Tensor,
    *,
    dx: Tensor | None,
    product: Tensor | None,
    scale: float = 1.0,
    act: bool = False,
    x_at: Tensor | None = None,
    grad_at: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """drbf (e, R), dv (w, R); fills dx and product (e, w), which may be None. dx may be x."""
    (rows, count), w, rbf = rbf.shape, x.shape[1], _few(rbf)
    tile = _tile(w, numbers=2048)
    steps, blocks = _grid(rows, w, tile)
    programs = min(PROGRAMS, steps)
    drbf, dv = rbf.new_empty(blocks, rows, count), v.new_empty(programs, count, w)
    given = x, x.stride(0), x if x_at is None else x_at, grad, grad if grad_at is None else grad_at
    made = x if product is None else product, x if dx is None else dx
    constants = {"R": count, "RP": max(2, triton.next_power_of_2(count)), "ACT": act}
    constants |= {"GATHER_X": x_at is not None, "GATHER_GRAD": grad_at is not None}
    constants |= {"PRODUCT": product is not None, "DX": dx is not None}
    _product_backward[programs, blocks](
        *(*given, rbf, rbf.stride(0), _transposed(v), *made, 0 if dx is None else dx.stride(0)),
        *(drbf, dv, rows, programs, w, scale),
        **constants,
        **tile,
    )
    return drbf[0] if blocks == 1 else drbf.sum(0), _transposed(dv.sum(0))


class _ReadEdges(Differentiable):
    def forward(ctx, m, weight, *filters):
        ctx.save_for_backward(m, weight, *filters)
        rows, w = m.shape[0], filters[1].shape[0]
        z = torch.mm(m.to(weight.dtype), weight.t())
        skip, tile, read = z.new_empty(rows, w), _tile(w), []
        _skip_rows[_grid(rows, w, tile)](z, skip, rows, 4 * w, w, WIDE=_wide(z), **tile)
        for k in range(3):
            rbf, v, d = filters[3 * k : 3 * k + 3]
            part = z[:, (k + 1) * w : (k + 2) * w]
            read.append(torch.mm(_times_filter(part, rbf, v, act=True), d.t()))
        return skip, *read

    def backward(ctx, dskip, *dy):
        m, weight, *filters = ctx.saved_tensors
        rows, w = m.shape[0], filters[1].shape[0]
        low, tile = m.to(weight.dtype), _tile(w)
        z = torch.mm(low, weight.t())
        given = z, dskip.contiguous(), rows, 4 * w, w
        _skip_backward[_grid(rows, w, tile)](*given, WIDE=_wide(z), **tile)
        product, few = z.new_empty(rows, w), []
        for k in range(3):
            rbf, v, d = filters[3 * k : 3 * k + 3]
            part, grad = z[:, (k + 1) * w : (k + 2) * w], torch.mm(dy[k], d)
            few.extend(_filter_gradients(part, rbf, v, grad, dx=part, product=product, act=True))
            few.append(torch.mm(dy[k].t(), product))
        return torch.mm(z, weight).to(m.dtype), torch.mm(z.t(), low), *few


class _GatheredLinear(Differentiable):
    def forward(ctx, x, rbf, v, d, index):
        ctx.save_for_backward(x, rbf, v, d)
        ctx.index = index
        return torch.mm(_times_filter(x.to(d.dtype), rbf, v, at=index.sender), d.t())

    def backward(ctx, grad):
        (x, rbf, v, d), index = ctx.saved_tensors, ctx.index
        dp = torch.mm(grad, d)
        product = torch.empty_like(dp)
        drbf, dv = _filter_gradients(x, rbf, v, dp, dx=None, product=product, x_at=index.sender)
        dx = _sum_filter(dp, rbf, v, index.ptr, torch.empty_like(x), order=index.swap)
        return dx, drbf, dv, torch.mm(grad.t(), product), None


class _FilteredLinear(Differentiable):
    def forward(ctx, x, rbf, v, d):
        ctx.save_for_backward(x, rbf, v, d)
        return torch.mm(_times_filter(x, rbf, v).to(d.dtype), d.t())

    def backward(ctx, grad):
        x, rbf, v, d = ctx.saved_tensors
        dp = torch.mm(grad, d)
        product, dx = torch.empty_like(dp), torch.empty_like(x)
        drbf, dv = _filter_gradients(x, rbf, v, dp, dx=dx, product=product)
        return dx, drbf, dv, torch.mm(grad.t(), product)


class _FilterSum(Differentiable):
    def forward(ctx, x, rbf, v, index, scale):
        ctx.save_for_backward(x, rbf, v)
        ctx.index, ctx.scale = index, scale
        return _sum_filter(x, rbf, v, index.ptr, v.new_empty(index.atoms, x.shape[1]), scale)

    def backward(ctx, grad):
        x, rbf, v = ctx.saved_tensors
        dx, at = torch.empty_like(x), ctx.index.receiver
        given = {"dx": dx, "product": None, "scale": ctx.scale, "grad_at": at}
        return dx, *_filter_gradients(x, rbf, v, grad.contiguous(), **given), None, None
