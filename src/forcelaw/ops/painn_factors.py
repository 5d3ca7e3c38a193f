"""What the kernels of PaiNN's message share: factors of products on the tensor cores, and sums of
products. See painn_message.py.
"""

from __future__ import annotations

from .switch import constexpr, tl, triton

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
