"""Fused kernels for what surrounds the matrix products of a message: gather, weigh, rotate, sum
over neighbours.

Triton on a GPU. Every model keeps a plain torch path, which is what a CPU runs, what a gradient of
a gradient needs (conservative forces), and what the kernels are tested against. Sums run over edges
sorted by receiver, or through the ``transposed`` order by sender, one program per atom: no atomics,
so a step gives the same bits every time.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ..graph import GraphBatch, segment_sum

# on a CPU the interpreter of Triton runs them, for tests
AVAILABLE = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
if AVAILABLE:
    try:
        from .batch_assembly import assemble
        from .edge_features import edge_features
        from .egnn_vectors import edge_mix
        from .esen.so2_matrix import so2_block
        from .esen.so2_message import so2_message, spread
        from .esen.spherical_norm import by_degree, spherical_add, spherical_gate, spherical_norm
        from .esen.wigner import edge_frames
        from .gated_message import gated_sum
        from .gemnet.harmonics import harmonics, turns
        from .gemnet.quadruplets import quad_read, short_sum
        from .gemnet.radial_filter import filter_sum, filtered_linear, gathered_linear, read_edges
        from .gemnet.residual import blend, gathered, join, merge, residual, scaled_silu, unit_rms
        from .gemnet.triplets import cosines, outer_sum, triplets
        from .layer_norm import layer_norm, norm_silu
        from .linear import linear
        from .loss import loss
        from .optimizer import record, schedule_free
        from .painn_message import painn_message
        from .painn_update import painn_pair, painn_update
        from .random_rotation import rotations
        from .segment import edge_difference, edge_gate, edge_sum
    except ImportError:  # a torch without Triton
        AVAILABLE = False

Segments = tuple[Tensor, Tensor]  # of GraphBatch.segments


def gate(
    pair: Tensor, z: Tensor | None, w: Tensor, graph: GraphBatch, segments: Segments | None
) -> Tensor:
    """SiLU(s_j + t_i + z_ij) * w_ij (e, d) of pair (n, 2d) s | t, z (e, d) or None, w (e, d)."""
    if segments is not None:
        return edge_gate(pair, z, w, graph.sender, graph.receiver, *segments)
    s, t = pair.chunk(2, dim=-1)
    a = s.index_select(0, graph.sender) + t.index_select(0, graph.receiver)
    return torch.nn.functional.silu(a if z is None else a + z) * w


def row_sum(values: Tensor, graph: GraphBatch, segments: Segments | None) -> Tensor:
    """Edge rows (e, d) summed at their receivers: (n, d)."""
    if segments is not None:
        return edge_sum(values, graph.receiver, segments[0])
    return segment_sum(values, graph.receiver, graph.species.shape[0])


def differences(v: Tensor, graph: GraphBatch, segments: Segments | None) -> Tensor:
    """v_j - v_i (e, d) of v (n, d)."""
    if segments is not None:
        return edge_difference(v, graph.sender, graph.receiver, *segments)
    return v.index_select(0, graph.sender) - v.index_select(0, graph.receiver)


def fused(x: Tensor) -> bool:
    """Whether work on x can take the fused kernels: on a GPU, and without a gradient by x. For
    messages x is the edge vectors (e, 3): gradients by positions take the plain path."""
    return AVAILABLE and x.is_cuda and not x.requires_grad


__all__ = [
    "AVAILABLE",
    "assemble",
    "blend",
    "by_degree",
    "cosines",
    "differences",
    "edge_features",
    "edge_frames",
    "edge_mix",
    "filter_sum",
    "filtered_linear",
    "fused",
    "gate",
    "gated_sum",
    "gathered",
    "gathered_linear",
    "harmonics",
    "join",
    "layer_norm",
    "linear",
    "loss",
    "merge",
    "norm_silu",
    "outer_sum",
    "painn_message",
    "painn_pair",
    "painn_update",
    "quad_read",
    "read_edges",
    "record",
    "residual",
    "rotations",
    "row_sum",
    "scaled_silu",
    "schedule_free",
    "short_sum",
    "so2_block",
    "so2_message",
    "spherical_add",
    "spherical_gate",
    "spherical_norm",
    "spread",
    "triplets",
    "turns",
    "unit_rms",
]
