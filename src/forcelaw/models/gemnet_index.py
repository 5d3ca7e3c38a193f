"""Indices of GemNet: reverse edges, padded rows of edges per receiver, short edges; lists of
triplets and quadruplets.

Names, as in the paper (arXiv 2204.02782): an edge c -> a has sender c and receiver a.

    triplet      b -> a <- c        input edge (b, a), output edge (c, a), b != c
    quadruplet   d -> b -> a <- c   input edge (d, b), short edge (b, a), output edge (c, a),
                                    d != a and b != c

The model itself never lists triplets or quadruplets: its sums over them factorise
(gemnet_basis.py). The lists are the definition of those sums; they are for tests, for parity with
other codes and for counting.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import GraphBatch
from ..ops.gemnet.index import EdgeIndex

__all__ = ["EdgeIndex", "build_index", "counts", "quadruplets", "triplets"]


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
    return EdgeIndex(order, sender, receiver, swap, n, graph.pad, near, graph.max_degree)


def _expand(count: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """For each item k the range first[k] .. first[k] + count[k]: (item, member), both (sum of
    count,)."""
    item = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    start = torch.cumsum(count, 0) - count
    member = torch.arange(len(item), device=count.device) - start[item] + first[item]
    return item, member


def _csr(receiver: Tensor, atoms: int) -> tuple[Tensor, Tensor]:
    """(count, first) of the edges into each atom, from an ascending receiver."""
    atom = torch.arange(atoms, device=receiver.device)
    first = torch.searchsorted(receiver, atom)
    return torch.searchsorted(receiver, atom, right=True) - first, first


def triplets(index: EdgeIndex) -> tuple[Tensor, Tensor]:
    """(input edge b -> a, output edge c -> a), each (t,) int64, output ascending, the edge itself
    left out."""
    count, first = _csr(index.receiver, index.atoms)
    out, inner = _expand(count[index.receiver], first[index.receiver])
    keep = out != inner
    return inner[keep], out[keep]


def quadruplets(index: EdgeIndex) -> tuple[Tensor, Tensor, Tensor]:
    """(input edge d -> b, place of b -> a in ``index.short``, output edge c -> a), each (p,) int64.

    d != a (as edges: the input edge is not the reverse of the short one) and b != c. The case d =
    c, a triangle, is kept: it carries three-body information and is smooth (the reference
    implementation drops it).
    """
    count, first = _csr(index.receiver, index.atoms)
    assert index.short is not None  # lists are made without fixed shapes
    short_count, short_first = _csr(index.receiver[index.short], index.atoms)
    out, middle = _expand(short_count[index.receiver], short_first[index.receiver])
    keep = index.short[middle] != out
    out, middle = out[keep], middle[keep]
    joint = index.sender[index.short[middle]]  # atom b
    item, inner = _expand(count[joint], first[joint])
    keep = inner != index.swap[index.short[middle[item]]]
    item, inner = item[keep], inner[keep]
    return inner, middle[item], out[item]


def counts(index: EdgeIndex) -> dict[str, int]:
    """Edges, short edges, triplets and quadruplets of a batch, without listing them."""
    degree, _ = _csr(index.receiver, index.atoms)
    b, a = index.shorter(index.sender), index.shorter(index.receiver)
    near, _ = _csr(a, index.atoms)
    return {
        "edges": len(index.sender),
        "short_edges": len(a),
        "triplets": int((degree * (degree - 1)).sum()),
        "quadruplets": int(((degree[b] - 1) * (degree[a] - 1)).sum()),
        "atoms": index.atoms,
        "rows": index.atoms * index.width,
        "max_short": int(near.max()) if index.atoms else 0,
    }
