"""Random rotations of molecules, a fixed function of (seed, step, row): one launch by a kernel,
some sixty by torch. At 16 molecules a step a small model takes as long as its launches.

Four normal deviates make a random unit quaternion; the bits come from a splitmix64 hash.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .switch import constexpr, tl, triton, use_triton

ROWS = 64  # of a program


def _signed(value: int) -> int:
    """64 bits as a signed number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


CONSTANTS = tuple(
    _signed(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
GAMMA, FIRST, SECOND = (constexpr(value) for value in CONSTANTS)
STEP_FACTOR = 0x1F123BB5
STEP = constexpr(STEP_FACTOR)
TWO_PI = constexpr(6.283185307179586)


def random_rotations(rows: Tensor, step: Tensor | int, seed: int, dtype: torch.dtype) -> Tensor:
    """Uniform rotations (g, 3, 3) of rows (g,): the same on every device, resumable, and free of
    host work (the step may be a tensor inside a CUDA graph). Rows below zero, empty slots, count as
    zero."""
    rows, step = rows.to(torch.int64), torch.as_tensor(step, device=rows.device, dtype=torch.int64)
    offset = seed * 0x5851F42D + 0x2545F491
    if use_triton(rows):
        out, count = torch.empty(len(rows), 3, 3, dtype=dtype, device=rows.device), len(rows)
        _rotations[(triton.cdiv(count, ROWS),)](
            rows.contiguous(), step, out, count, _signed(offset), R=ROWS, num_warps=2
        )
        return out
    counter = rows.clamp_min(0).unsqueeze(-1) * 8 + torch.arange(8, device=rows.device)
    key = _hashed(step * STEP_FACTOR + offset)
    bits = _hashed(_hashed(counter) ^ key)  # (g, 8)
    uniform = (((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) + 0.5) / (1 << 53)
    q = torch.sqrt(-2 * torch.log(uniform[:, ::2])) * torch.cos(2 * torch.pi * uniform[:, 1::2])
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows_ = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows_, -1).view(-1, 3, 3).to(dtype)


def _hashed(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 tensors (wrap-around arithmetic, logical shifts)."""

    def shift(value: Tensor, by: int) -> Tensor:
        return (value >> by) & ((1 << (64 - by)) - 1)

    x = x + CONSTANTS[0]
    x = (x ^ shift(x, 30)) * CONSTANTS[1]
    x = (x ^ shift(x, 27)) * CONSTANTS[2]
    return x ^ shift(x, 31)


@triton.jit
def _mix(x):
    """splitmix64's finaliser; shifts are logical."""
    x += tl.full([], GAMMA, tl.int64)
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * tl.full([], FIRST, tl.int64)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * tl.full([], SECOND, tl.int64)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


@triton.jit
def _normal(counter, key, k: constexpr):
    """A normal deviate of two uniform ones, by Box and Muller."""
    a = ((_mix(_mix(counter + 2 * k) ^ key) >> 11) & ((1 << 53) - 1)).to(tl.float64)
    b = ((_mix(_mix(counter + 2 * k + 1) ^ key) >> 11) & ((1 << 53) - 1)).to(tl.float64)
    unit = tl.full([], 1.0 / (1 << 53), tl.float64)
    return tl.sqrt(-2.0 * tl.log((a + 0.5) * unit)) * tl.cos(
        (b + 0.5) * unit * tl.full([], TWO_PI, tl.float64)
    )


@triton.jit(do_not_specialize=["n", "offset"])
def _rotations(rows, step, out, n, offset, R: constexpr):
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
