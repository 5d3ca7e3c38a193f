"""What the kernels of PaiNN's message share: factors of products on the tensor cores, sums of
products, and how they end. See painn_message.py.
"""

from __future__ import annotations

from .switch import constexpr, tl, triton
from .tiles import three

MOST = 16  # atoms of a program: rows of the smallest product
GROUP = constexpr(MOST)


@triton.jit
def _factor(x, kind: constexpr, PRECISION: constexpr):
    """x as a factor of a product of type ``kind``."""
    if PRECISION == "tf32" and kind == tl.float32:  # 13 digits will be cut off
        return (x.to(tl.int32, bitcast=True) + 0x1000).to(tl.float32, bitcast=True)
    return x.to(kind)


@triton.jit
def _weight(weight, part: constexpr, k, c, d: constexpr, R: constexpr, PRECISION: constexpr):
    """W of part a, b or c, transposed: (RP, BC)."""
    mask = (k < R)[:, None] & (c < d)[None, :]
    w = tl.load(weight + part * d * R + c[None, :] * R + k[:, None], mask=mask, other=0.0)
    return _factor(w, weight.dtype.element_ty, PRECISION)


@triton.jit
def _radial(g, e, me, k, R: constexpr, PRECISION: constexpr):
    """g of some edges (BE, RP)."""
    rows = tl.load(g + e[:, None] * R + k[None, :], mask=me[:, None] & (k < R)[None, :], other=0.0)
    return _factor(rows, g.dtype.element_ty, PRECISION)


@triton.jit
def _product(a, b, WIDE: constexpr, PRECISION: constexpr):
    """a b, of factors."""
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=WIDE)


@triton.jit
def _plus(total, a, b, kind: constexpr, WIDE: constexpr, PRECISION: constexpr):
    """total + a b, where b is no factor yet."""
    factor = _factor(b, kind, PRECISION)
    return tl.dot(a, factor, acc=total, input_precision=PRECISION, out_dtype=WIDE)


@triton.jit
def _put_sums(
    h,
    v,
    out_h,
    out_v,
    s,
    s0,
    s1,
    s2,
    atoms,
    c,
    mask,
    d: constexpr,
    scale: constexpr,
    HAS_V: constexpr,
    WIDE: constexpr,
):
    """h and v of some atoms with the sums over their edges."""
    own = atoms[:, None] * d + c[None, :]
    own3 = atoms[:, None] * (3 * d) + c[None, :]
    s0, s1, s2 = s0 * scale, s1 * scale, s2 * scale
    if HAS_V:
        v0, v1, v2 = three(v + own3, d, mask, WIDE)
        s0 += v0
        s1 += v1
        s2 += v2
    tl.store(out_h + own, s * scale + tl.load(h + own, mask=mask, other=0.0), mask=mask)
    tl.store(out_v + own3, s0, mask=mask)
    tl.store(out_v + own3 + d, s1, mask=mask)
    tl.store(out_v + own3 + 2 * d, s2, mask=mask)


@triton.jit
def _put_gradients(
    v,
    x,
    grad_v,
    dx,
    dv,
    da,
    dc,
    s0,
    s1,
    s2,
    own,
    mask,
    d: constexpr,
    scale: constexpr,
    HAS_V: constexpr,
    WIDE: constexpr,
):
    """dx and dv of some atoms, dv with the residual's."""
    tl.store(dx + own, da * scale, mask=mask)
    tl.store(dx + own + 2 * d, dc * scale, mask=mask)
    if HAS_V:
        v0, v1, v2 = three(v + own, d, mask, WIDE)
        tl.store(dx + own + d, (s0 * v0 + s1 * v1 + s2 * v2) * scale, mask=mask)
        xb = tl.load(x + own + d, mask=mask, other=0.0) * scale
        g0, g1, g2 = three(grad_v + own, d, mask, WIDE)
        tl.store(dv + own, g0 + s0 * xb, mask=mask)
        tl.store(dv + own + d, g1 + s1 * xb, mask=mask)
        tl.store(dv + own + 2 * d, g2 + s2 * xb, mask=mask)
    else:
        tl.store(dx + own + d, tl.zeros_like(da), mask=mask)


@triton.jit
def _put_weight(dw, sum_a, sum_b, sum_c, k, c, d: constexpr, R: constexpr, scale: constexpr):
    """A program's part of the gradient of W (3d, R)."""
    put = dw + tl.program_id(0).to(tl.int64) * 3 * d * R + c[None, :] * R + k[:, None]
    mask = (k < R)[:, None] & (c < d)[None, :]
    tl.store(put, sum_a * scale, mask=mask)
    tl.store(put + d * R, sum_b * scale, mask=mask)
    tl.store(put + 2 * d * R, sum_c * scale, mask=mask)
