"""What kernels share: device functions, sizes of programs, dtypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .switch import constexpr, tl, triton

FILL_PROGRAMS = 128  # that zero the rows of padding edges
FILL = constexpr(FILL_PROGRAMS)
LEAST = 1e-30  # of an envelope in a logarithm
SMALLEST = constexpr(LEAST)
PROGRAMS = 1056  # of kernels that loop over rows, at most: eight a multiprocessor of an H200


@triton.jit
def three(x, step: constexpr, mask, WIDE: constexpr):
    """Numbers at x, x + step and x + 2 step: three components, or three parts of a row."""
    return (
        tl.load(x, mask=mask, other=0.0).to(WIDE),
        tl.load(x + step, mask=mask, other=0.0).to(WIDE),
        tl.load(x + 2 * step, mask=mask, other=0.0).to(WIDE),
    )


@triton.jit
def envelope_at(s):
    """edge_features.envelope at s, a distance over the cutoff."""
    s2 = s * s
    return tl.where(s < 1.0, 1.0 + s2 * s2 * s * (-21.0 + s * (35.0 - 15.0 * s)), 0.0)


@triton.jit
def zeros(COUNT: constexpr, BC: constexpr, dtype: constexpr):
    """A tuple of vectors of BC zeros."""
    total = ()
    for _ in tl.static_range(COUNT):
        total = total + (tl.zeros([BC], dtype),)
    return total


@triton.jit
def added(total, values, first: constexpr, COUNT: constexpr, ALL: constexpr):
    """A tuple of ALL numbers with the COUNT of ``values`` added from position ``first`` on."""
    out = ()
    for k in tl.static_range(ALL):
        if k >= first and k < first + COUNT:
            out = out + (total[k] + values[k - first],)
        else:
            out = out + (total[k],)
    return out


@triton.jit
def rows(x, first, c, mask, COUNT: constexpr, C: constexpr):
    """A tuple: channels c of COUNT rows of x (any, C) from row ``first`` on."""
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (tl.load(x + (first + k) * C + c, mask=mask, other=0.0),)
    return out


@triton.jit
def put_rows(x, first, c, mask, values, COUNT: constexpr, C: constexpr):
    """Stores what :func:`rows` loads."""
    for k in tl.static_range(COUNT):
        tl.store(x + (first + k) * C + c, values[k], mask=mask)


@triton.jit
def _silu(x):
    s = 1.0 / (1.0 + tl.exp(-x))
    return x * s, s * (1.0 + x * (1.0 - s))


def tile(tiles: dict[str, tuple[int, int, int]], kernel: str, channels: int) -> dict[str, int]:
    """BE, BC, num_warps of a kernel; no more lanes than the channels need."""
    edges, most, warps = tiles[kernel]
    columns = min(most, max(16, triton.next_power_of_2(channels)))
    return {"BE": edges, "BC": columns, "num_warps": warps}


def grid(rows: int, channels: int, size: dict[str, int]) -> tuple[int, int]:
    """Programs for blocks of rows and of channels."""
    return max(1, triton.cdiv(rows, size["BE"])), triton.cdiv(channels, size["BC"])


def wide(x: Tensor) -> Any:
    """What kernels compute in for numbers like x."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def at_least_float32(x: Tensor) -> Tensor:
    """Contiguous, and no bf16: sums over neighbours keep their digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def lowered(weight: Tensor) -> Tensor:
    """A weight in the dtype that torch's own matrix products would have here."""
    kind = weight.device.type
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return weight
    return weight.to(torch.get_autocast_dtype(kind))
