"""How the numbers of eSEN's edges lie in memory; see so2_message.py for the legend."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...graph import GraphBatch
from ..switch import triton
from ..tiles import tile

# as in gated_message.py; the kernels that sum over the edges of an atom take one edge at a time
TILES = {
    "turn": (4, 64, 4),
    "turn_one": (4, 64, 4),
    "turn_grad": (1, 64, 1),
    "turn_sum": (1, 64, 1),
    "gate": (4, 64, 4),
    "gate_grad": (4, 64, 4),
    "gate_second": (2, 64, 4),
}


class Shape:
    """Sizes that follow from lmax and mmax. frame_mmax: orders held by the frames, which may be
    more than are used."""

    def __init__(self, lmax: int, mmax: int, frame_mmax: int | None = None):
        self.l, self.m, self.fm = lmax, mmax, mmax if frame_mmax is None else frame_mmax
        self.degrees = [lmax - m + 1 for m in range(mmax + 1)]
        self.s, self.r = (lmax + 1) ** 2, sum(self.degrees)
        self.sm = self.degrees[0] + 2 * sum(self.degrees[1:])
        self.p = sum((2 * min(l, self.fm) + 1) * (2 * l + 1) for l in range(lmax + 1))


@dataclass
class Edges:
    """What all layers share about the edges of a batch; see :func:`so2_edges`.

    frames: by kernels (e, P), scale (e,); in plain torch (e, S_m, S), back (e, S, S_m) inverse
    frames times scale, both (2e,) sender and receiver of each edge, in turn.
    """

    graph: GraphBatch
    shape: Shape
    scale: Tensor
    frames: Tensor
    back: Tensor | None = None
    both: Tensor | None = None


@triton.constexpr_function
def _place(l, m, sign, lmax):
    """Position among the S_m coefficients: m = 0, then for each m > 0 first +m (sign 0), then -m;
    degrees ascending."""
    return l if m == 0 else (lmax + 1) * (2 * m - 1) - m * (m - 1) + sign * (lmax - m + 1) + l - m


@triton.constexpr_function
def _factor(l, m, lmax):
    """Position among the R radial factors: order by order, degrees ascending."""
    return m * (lmax + 1) - m * (m - 1) // 2 + l - m


@triton.constexpr_function
def _block(l, top):
    """Where the block of degree l begins in frames that hold orders up to top."""
    return sum((2 * min(k, top) + 1) * (2 * k + 1) for k in range(l))


@triton.constexpr_function
def _row(m, sign):
    """Row of a block."""
    return 0 if m == 0 else 2 * m - 1 + sign


def _constants(shape: Shape, which: str) -> dict[str, int]:
    """Constants of a kernel: P, SM and L, and of S, R, M and FM (F) those that it has."""
    more = {"S": ("S", shape.s), "R": ("R", shape.r), "M": ("M", shape.m), "F": ("FM", shape.fm)}
    return {"P": shape.p, "SM": shape.sm, "L": shape.l, **dict(more[k] for k in which)}


def _one_edge(kernel: str, c: int) -> dict[str, int]:
    """The tile of a kernel without BE."""
    size = tile(TILES, kernel, c)
    return {"BC": size["BC"], "num_warps": size["num_warps"]}
