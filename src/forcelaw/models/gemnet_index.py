"""Indices of GemNet: reverse edges, padded rows of edges per receiver, short edges.

Names, as in the paper (arXiv 2204.02782): an edge c -> a has sender c and receiver a.

    triplet      b -> a <- c        input edge (b, a), output edge (c, a), b != c
    quadruplet   d -> b -> a <- c   input edge (d, b), short edge (b, a), output edge (c, a),
                                    d != a and b != c

Neither is ever listed: sums over them factorise (gemnet_basis.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import GraphBatch
from ..ops.gemnet.index import EdgeIndex


def _sort_by(columns: list[Tensor]) -> Tensor:
    """Permutation that sorts by the last column, ties by the one before it, and so on (stable, no
    host work)."""
    order = torch.argsort(columns[0], stable=True)
    for column in columns[1:]:
        order = order.index_select(0, torch.argsort(column.index_select(0, order), stable=True))
    return order


def _canonical(graph: GraphBatch) -> tuple[Tensor, Tensor]:
    """(order, swap) of :class:`EdgeIndex`. Every edge needs its reverse: a cutoff without a
    neighbour cap gives it."""
    n, e = graph.species.shape[0], graph.sender.shape[0]
    if graph.transposed is not None and graph.shift is None:
        # a batch of a shard: sorted already, and the k-th edge by sender is the reverse of the k-th
        # by receiver
        return torch.arange(e, device=graph.sender.device), graph.transposed
    shifts = [] if graph.shift is None else [graph.shift[:, axis] for axis in range(3)]
    order = _sort_by([*shifts, graph.receiver * n + graph.sender])
    sender, receiver = graph.sender.index_select(0, order), graph.receiver.index_select(0, order)
    # the reverse of edge k has the k-th smallest reverse key
    return order, _sort_by([*(-s.index_select(0, order) for s in shifts), sender * n + receiver])


def build_index(graph: GraphBatch, vec: Tensor, quad_cutoff: float) -> EdgeIndex:
    """Indices of one batch; vec (e, 3) in Angstrom, quad_cutoff in Angstrom.

    ``graph.max_degree`` gives the row width as a plain integer: then all shapes are fixed and
    nothing is read back from the device (CUDA graphs), all edges count as short, and an atom with
    more neighbours is an error that the device raises. Without it rows are as wide as this batch
    needs.
    """
    order, swap = _canonical(graph)
    sender, receiver = graph.sender.index_select(0, order), graph.receiver.index_select(0, order)
    near = None
    if graph.max_degree is None:
        near = vec.detach().square().sum(-1) < quad_cutoff * quad_cutoff
        near = near.index_select(0, order)
    n = graph.species.shape[0]
    # of edges that were in this order already
    ptr = graph.ptr if graph.transposed is not None and graph.shift is None else None
    given = order, sender, receiver, swap, n, graph.pad, near, graph.max_degree
    return EdgeIndex(*given, _ptr=ptr)
