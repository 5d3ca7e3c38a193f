"""Random rotations of molecules in one launch: what data/feed.py makes in some sixty, a fixed
function of (seed, step, row).

At 16 molecules a step a small model takes as long as its launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64  # of a program


def _signed(value: int) -> int:
    """64 bits as a signed number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


GAMMA = tl.constexpr(_signed(0x9E3779B97F4A7C15))
FIRST = tl.constexpr(_signed(0xBF58476D1CE4E5B9))
SECOND = tl.constexpr(_signed(0x94D049BB133111EB))
STEP = tl.constexpr(0x1F123BB5)
TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def _mix(x):
    """splitmix64's finaliser; shifts are logical."""
    x += tl.full([], GAMMA, tl.int64)
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * tl.full([], FIRST, tl.int64)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * tl.full([], SECOND, tl.int64)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


@triton.jit
def _normal(counter, key, k: tl.constexpr):
    """A normal deviate of two uniform ones, by Box and Muller."""
    a = ((_mix(_mix(counter + 2 * k) ^ key) >> 11) & ((1 << 53) - 1)).to(tl.float64)
    b = ((_mix(_mix(counter + 2 * k + 1) ^ key) >> 11) & ((1 << 53) - 1)).to(tl.float64)
    unit = tl.full([], 1.0 / (1 << 53), tl.float64)
    return tl.sqrt(-2.0 * tl.log((a + 0.5) * unit)) * tl.cos(
        (b + 0.5) * unit * tl.full([], TWO_PI, tl.float64)
    )


@triton.jit(do_not_specialize=["n", "offset"])
def _rotations(rows, step, out, n, offset, R: tl.constexpr):
    i = tl.program_id(0) * R + tl.arange(0, R)
    mask = i < n
    counter = tl.maximum(tl.load(rows + i, mask=mask, other=0), 0) * 8
    key = _mix(tl.load(step) * STEP + offset)
    w, x = _normal(counter, key, 0), _normal(counter, key, 1)
    y, z = _normal(counter, key, 2), _normal(counter, key, 3)
    inverse = 1.0 / tl.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    at = out + i * 9
    kind = out.dtype.element_ty
    tl.store(at, (1.0 - 2.0 * (y * y + z * z)).to(kind), mask=mask)
    tl.store(at + 1, (2.0 * (x * y - w * z)).to(kind), mask=mask)
    tl.store(at + 2, (2.0 * (x * z + w * y)).to(kind), mask=mask)
    tl.store(at + 3, (2.0 * (x * y + w * z)).to(kind), mask=mask)
    tl.store(at + 4, (1.0 - 2.0 * (x * x + z * z)).to(kind), mask=mask)
    tl.store(at + 5, (2.0 * (y * z - w * x)).to(kind), mask=mask)
    tl.store(at + 6, (2.0 * (x * z - w * y)).to(kind), mask=mask)
    tl.store(at + 7, (2.0 * (y * z + w * x)).to(kind), mask=mask)
    tl.store(at + 8, (1.0 - 2.0 * (x * x + y * y)).to(kind), mask=mask)


def rotations(rows: Tensor, step: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
    """rows (g,) int64, those below zero taken as zero; step () int64 -> (g, 3, 3)."""
    out = torch.empty(len(rows), 3, 3, dtype=dtype, device=rows.device)
    offset = _signed(seed * 0x5851F42D + 0x2545F491)
    _rotations[(triton.cdiv(len(rows), ROWS),)](
        rows.contiguous(), step, out, len(rows), offset, R=ROWS, num_warps=2
    )
    return out
