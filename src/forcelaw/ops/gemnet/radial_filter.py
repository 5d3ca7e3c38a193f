"""GemNet-OC's products with filters V rbf: of R radial functions an edge, made where they are used
and never written.

    read_edges        z = W m in four parts: a(z_0) / 2, and for three parts the D_i (a(z_i) * V_i rbf_i)
    gathered_linear   D (x_sender * V rbf)
    filtered_linear   W (x * V rbf)
    filter_sum        scale * sum over the edges into an atom of x * V rbf

Legend, dtypes and what is kept: as in dense.py; R radial functions, a(z) = SiLU(z) / 0.6.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_message import wide as _wide  # kernels here have a ``wide`` of their own
from ..layer_norm import PROGRAMS
from .residual import GAIN, _grid, _save_all, _sigmoid, _slope, _tile, lowered

SKIP = tl.constexpr(0.5 / 0.6)  # a(z) / 2


@triton.jit
def _filter_of(
    rbf,
    e,
    me,
    stride,
    v,
    c,
    mc,
    w: tl.constexpr,
    R: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
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
    w: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    GATHER: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    """out (e, w) = x * V rbf, or a(x) * V rbf (ACT), of x at row at[e] (GATHER)."""
    e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    me, mc = e < rows, c < w
    mask = me[:, None] & mc[None, :]
    row = e
    if GATHER:
        row = tl.load(at + e, mask=me, other=0).to(tl.int64)
    y = tl.load(x + row[:, None] * x_stride + c[None, :], mask=mask, other=0.0).to(
        v.dtype.element_ty
    )
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
    w: tl.constexpr,
    scale: tl.constexpr,
    R: tl.constexpr,
    ORDER: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
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
        y = tl.load(x + e[:, None] * w + c[None, :], mask=me[:, None] & mc[None, :], other=0.0).to(
            total.dtype
        )
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
    w: tl.constexpr,
    scale: tl.constexpr,
    R: tl.constexpr,
    RP: tl.constexpr,
    ACT: tl.constexpr,
    GATHER_X: tl.constexpr,
    GATHER_GRAD: tl.constexpr,
    PRODUCT: tl.constexpr,
    DX: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
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
            tl.store(
                product + e[:, None] * w + c[None, :],
                (y * f).to(product.dtype.element_ty),
                mask=mask,
            )
        if DX:
            tl.store(
                dx + e[:, None] * dx_stride + c[None, :], dz.to(dx.dtype.element_ty), mask=mask
            )
        few = tl.zeros([BE, RP], wide)
        for k in tl.static_range(R):
            along = tl.sum(df * tl.load(v + k * w + c, mask=mc, other=0.0)[None, :], axis=1)
            few += tl.where(number == k, 1.0, 0.0).to(wide)[None, :] * along[:, None]
            across = tl.sum(
                df * tl.load(rbf + e * rbf_stride + k, mask=me, other=0.0).to(wide)[:, None], axis=0
            )
            sums += tl.where(number == k, 1.0, 0.0).to(wide)[:, None] * across[None, :]
        place = (tl.program_id(1) * rows + e)[:, None] * R + number[None, :]
        tl.store(
            drbf + place, few.to(drbf.dtype.element_ty), mask=me[:, None] & (number < R)[None, :]
        )
    at = dv + pid.to(tl.int64) * R * w + number[:, None] * w + c[None, :]
    tl.store(at, sums, mask=mc[None, :] & (number < R)[:, None])


@triton.jit(do_not_specialize=["rows"])
def _skip_rows(
    z, out, rows, width, w: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    """out (e, w) = a(z) / 2 of the first w of the ``width`` columns of z."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    v = tl.load(z + r[:, None] * width + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(
        out + r[:, None] * w + c[None, :],
        (v * _sigmoid(v) * SKIP).to(out.dtype.element_ty),
        mask=mask,
    )


@triton.jit(do_not_specialize=["rows"])
def _skip_backward(
    z, grad, rows, width, w: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
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
    _product[_grid(rows, w, tile)](
        x,
        x.stride(0),
        x if at is None else at,
        rbf,
        rbf.stride(0),
        _transposed(v),
        out,
        rows,
        w,
        R=rbf.shape[1],
        ACT=act,
        GATHER=at is not None,
        **tile,
    )
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
    _product_sum[n, triton.cdiv(w, tile["BC"])](
        x,
        ptr if order is None else order,
        ptr,
        rbf,
        rbf.stride(0),
        _transposed(v),
        out,
        w,
        scale,
        R=rbf.shape[1],
        ORDER=order is not None,
        **tile,
    )
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
    _product_backward[programs, blocks](
        x,
        x.stride(0),
        x if x_at is None else x_at,
        grad,
        grad if grad_at is None else grad_at,
        rbf,
        rbf.stride(0),
        _transposed(v),
        x if product is None else product,
        x if dx is None else dx,
        0 if dx is None else dx.stride(0),
        drbf,
        dv,
        rows,
        programs,
        w,
        scale,
        R=count,
        RP=max(2, triton.next_power_of_2(count)),
        ACT=act,
        GATHER_X=x_at is not None,
        GATHER_GRAD=grad_at is not None,
        PRODUCT=product is not None,
        DX=dx is not None,
        **tile,
    )
    return drbf[0] if blocks == 1 else drbf.sum(0), _transposed(dv.sum(0))


# ---- read_edges


@torch.library.custom_op("forcelaw::read_edges", mutates_args=())
def _read_edges(
    m: Tensor,
    weight: Tensor,
    rbf1: Tensor,
    v1: Tensor,
    d1: Tensor,
    rbf2: Tensor,
    v2: Tensor,
    d2: Tensor,
    rbf3: Tensor,
    v3: Tensor,
    d3: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, w = m.shape[0], v1.shape[0]
    z = torch.mm(m.to(weight.dtype), weight.t())
    skip, tile = z.new_empty(rows, w), _tile(w)
    _skip_rows[_grid(rows, w, tile)](z, skip, rows, 4 * w, w, WIDE=_wide(z), **tile)
    parts = ((rbf1, v1, d1), (rbf2, v2, d2), (rbf3, v3, d3))
    return skip, *(
        torch.mm(_times_filter(z[:, k * w : (k + 1) * w], rbf, v, act=True), d.t())
        for k, (rbf, v, d) in enumerate(parts, 1)
    )


@_read_edges.register_fake
def _(m, weight, rbf1, v1, d1, rbf2, v2, d2, rbf3, v3, d3):
    return tuple(
        weight.new_empty(m.shape[0], columns)
        for columns in (v1.shape[0], d1.shape[0], d2.shape[0], d3.shape[0])
    )


@torch.library.custom_op("forcelaw::read_edges_backward", mutates_args=())
def _read_edges_backward(
    dskip: Tensor,
    dy1: Tensor,
    dy2: Tensor,
    dy3: Tensor,
    m: Tensor,
    weight: Tensor,
    rbf1: Tensor,
    v1: Tensor,
    d1: Tensor,
    rbf2: Tensor,
    v2: Tensor,
    d2: Tensor,
    rbf3: Tensor,
    v3: Tensor,
    d3: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, w = m.shape[0], v1.shape[0]
    low = m.to(weight.dtype)
    z = torch.mm(low, weight.t())
    tile = _tile(w)
    _skip_backward[_grid(rows, w, tile)](
        z, dskip.contiguous(), rows, 4 * w, w, WIDE=_wide(z), **tile
    )
    product, few = z.new_empty(rows, w), []
    parts = ((rbf1, v1, d1, dy1), (rbf2, v2, d2, dy2), (rbf3, v3, d3, dy3))
    for k, (rbf, v, d, dy) in enumerate(parts, 1):
        part = z[:, k * w : (k + 1) * w]
        few.extend(
            _filter_gradients(part, rbf, v, torch.mm(dy, d), dx=part, product=product, act=True)
        )
        few.append(torch.mm(dy.t(), product))
    return torch.mm(z, weight).to(m.dtype), torch.mm(z.t(), low), *few


@_read_edges_backward.register_fake
def _(dskip, dy1, dy2, dy3, m, weight, *few):
    return torch.empty_like(m), torch.empty_like(weight), *(f.new_empty(f.shape) for f in few)


_read_edges.register_autograd(
    lambda ctx, *grads: _read_edges_backward(*grads, *ctx.saved_tensors), setup_context=_save_all
)

Filter = tuple[Tensor, Tensor, Tensor]  # rbf (e, R), V (w, R), D (any, w)


def read_edges(
    m: Tensor, weight: Tensor, *filters: Filter
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z = W m in four parts of w columns: a(z_0) / 2 (e, w), and for the three others D (a(z) * V
    rbf).

    m (e, w), W (4w, w).
    """
    return _read_edges(
        m.contiguous(), lowered(weight), *(t for rbf, v, d in filters for t in (rbf, v, lowered(d)))
    )


# ---- gathered_linear


@torch.library.custom_op("forcelaw::gathered_linear", mutates_args=())
def _gathered_linear(
    x: Tensor, rbf: Tensor, v: Tensor, d: Tensor, sender: Tensor, ptr: Tensor, swap: Tensor
) -> Tensor:
    return torch.mm(_times_filter(x.to(d.dtype), rbf, v, at=sender), d.t())


@_gathered_linear.register_fake
def _(x, rbf, v, d, sender, ptr, swap):
    return d.new_empty(rbf.shape[0], d.shape[0])


@torch.library.custom_op("forcelaw::gathered_linear_backward", mutates_args=())
def _gathered_linear_backward(
    grad: Tensor,
    x: Tensor,
    rbf: Tensor,
    v: Tensor,
    d: Tensor,
    sender: Tensor,
    ptr: Tensor,
    swap: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dp = torch.mm(grad, d)
    product = torch.empty_like(dp)
    drbf, dv = _filter_gradients(x, rbf, v, dp, dx=None, product=product, x_at=sender)
    dx = _sum_filter(dp, rbf, v, ptr, torch.empty_like(x), order=swap)
    return dx, drbf, dv, torch.mm(grad.t(), product)


@_gathered_linear_backward.register_fake
def _(grad, x, rbf, v, d, sender, ptr, swap):
    return torch.empty_like(x), rbf.new_empty(rbf.shape), torch.empty_like(v), torch.empty_like(d)


_gathered_linear.register_autograd(
    lambda ctx, grad: (*_gathered_linear_backward(grad, *ctx.saved_tensors), None, None, None),
    setup_context=_save_all,
)


def gathered_linear(
    x: Tensor, rbf: Tensor, v: Tensor, d: Tensor, sender: Tensor, ptr: Tensor, swap: Tensor
) -> Tensor:
    """D (x_sender * V rbf): x (n, w), rbf (e, R), V (w, R), D (any, w) -> (e, any).

    Edges ptr[i]:ptr[i + 1] are those into atom i, and swap of them those out of it.
    """
    return _gathered_linear(x.contiguous(), rbf, v, lowered(d), sender, ptr, swap)


# ---- filtered_linear


@torch.library.custom_op("forcelaw::filtered_linear", mutates_args=())
def _filtered_linear(x: Tensor, rbf: Tensor, v: Tensor, d: Tensor) -> Tensor:
    return torch.mm(_times_filter(x, rbf, v).to(d.dtype), d.t())


@_filtered_linear.register_fake
def _(x, rbf, v, d):
    return d.new_empty(x.shape[0], d.shape[0])


@torch.library.custom_op("forcelaw::filtered_linear_backward", mutates_args=())
def _filtered_linear_backward(
    grad: Tensor, x: Tensor, rbf: Tensor, v: Tensor, d: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dp = torch.mm(grad, d)
    product, dx = torch.empty_like(dp), torch.empty_like(x)
    drbf, dv = _filter_gradients(x, rbf, v, dp, dx=dx, product=product)
    return dx, drbf, dv, torch.mm(grad.t(), product)


@_filtered_linear_backward.register_fake
def _(grad, x, rbf, v, d):
    return torch.empty_like(x), rbf.new_empty(rbf.shape), torch.empty_like(v), torch.empty_like(d)


_filtered_linear.register_autograd(
    lambda ctx, grad: _filtered_linear_backward(grad, *ctx.saved_tensors), setup_context=_save_all
)


def filtered_linear(x: Tensor, rbf: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """D (x * V rbf): x (e, w), rbf (e, R), V (w, R), D (any, w) -> (e, any)."""
    return _filtered_linear(x.contiguous(), rbf, v, lowered(d))


# ---- filter_sum


@torch.library.custom_op("forcelaw::filter_sum", mutates_args=())
def _filter_sum(
    x: Tensor, rbf: Tensor, v: Tensor, receiver: Tensor, ptr: Tensor, scale: float
) -> Tensor:
    return _sum_filter(x, rbf, v, ptr, v.new_empty(ptr.shape[0] - 1, x.shape[1]), scale)


@_filter_sum.register_fake
def _(x, rbf, v, receiver, ptr, scale):
    return v.new_empty(ptr.shape[0] - 1, x.shape[1])


@torch.library.custom_op("forcelaw::filter_sum_backward", mutates_args=())
def _filter_sum_backward(
    grad: Tensor, x: Tensor, rbf: Tensor, v: Tensor, receiver: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x)
    return dx, *_filter_gradients(
        x, rbf, v, grad.contiguous(), dx=dx, product=None, scale=scale, grad_at=receiver
    )


@_filter_sum_backward.register_fake
def _(grad, x, rbf, v, receiver, scale):
    return torch.empty_like(x), rbf.new_empty(rbf.shape), torch.empty_like(v)


def _filter_sum_save(ctx, inputs, output):
    *rest, _, ctx.scale = inputs
    ctx.save_for_backward(*rest)


_filter_sum.register_autograd(
    lambda ctx, grad: (
        *_filter_sum_backward(grad, *ctx.saved_tensors, ctx.scale),
        None,
        None,
        None,
    ),
    setup_context=_filter_sum_save,
)


def filter_sum(
    x: Tensor, rbf: Tensor, v: Tensor, receiver: Tensor, ptr: Tensor, scale: float
) -> Tensor:
    """scale * sum over the edges ptr[i]:ptr[i + 1] into atom i of x * V rbf: (n, w), in the dtype
    of V.

    x (e, w), rbf (e, R), V (w, R). Edges that ptr leaves out (padding) add nothing, but get a
    gradient; their rbf is zero.
    """
    return _filter_sum(x.contiguous(), rbf, v, receiver, ptr, scale)
