"""Indices of GemNet: reverse edges, padded rows of edges per receiver, short edges; lists of triplets and quadruplets.

Names, as in the paper (arXiv 2204.02782): an edge c -> a has sender c and receiver a.

    triplet      b -> a <- c        input edge (b, a), output edge (c, a), b != c
    quadruplet   d -> b -> a <- c   input edge (d, b), short edge (b, a), output edge (c, a), d != a and b != c

The model itself never lists triplets or quadruplets: its sums over them factorise (gemnet_basis.py). The lists are the
definition of those sums; they are for tests, for parity with other codes and for counting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import GraphBatch


@dataclass(frozen=True)
class EdgeIndex:
    """Edges in canonical order, with rows: the edges into one atom, padded to ``width`` slots.

    order     (e,) int64  canonical edge -> edge of the graph
    sender, receiver (e,) int64, receiver ascending
    swap      (e,) int64  the reverse edge; an involution
    flat      (e,) int64  receiver * width + position among the edges of the receiver
    short     (q,) int64  edges shorter than the quadruplet cutoff, ascending; others that fill it up have a basis of 0
    """

    order: Tensor
    sender: Tensor
    receiver: Tensor
    swap: Tensor
    flat: Tensor
    short: Tensor
    atoms: int
    width: int

    def rows(self, values: Tensor) -> Tensor:
        """(e, c) -> (atoms, width, c), zero in empty slots. Edges beyond the width (of a padding atom) are dropped."""
        out = values.new_zeros(self.atoms * self.width + 1, values.shape[1])
        out = out.index_copy(0, self.flat.clamp_max(self.atoms * self.width), values)
        return out[:-1].view(self.atoms, self.width, values.shape[1])

    def edges(self, rows: Tensor) -> Tensor:
        """(atoms, width, c) -> (e, c): the inverse of :meth:`rows`."""
        last = self.atoms * self.width
        return rows.flatten(0, 1).index_select(0, self.flat.clamp_max(last - 1))


def _sort_by(columns: list[Tensor]) -> Tensor:
    """Permutation that sorts by the last column, ties by the one before it, and so on (stable, no host work)."""
    order = torch.argsort(columns[0], stable=True)
    for column in columns[1:]:
        order = order.index_select(0, torch.argsort(column.index_select(0, order), stable=True))
    return order


def build_index(graph: GraphBatch, vec: Tensor, quad_cutoff: float) -> EdgeIndex:
    """Indices of one batch; vec (e, 3) in Angstrom, quad_cutoff in Angstrom.

    Every edge needs its reverse, which a cutoff without a neighbour cap guarantees. ``graph.max_degree``, where it exists
    and is not None, gives the row width as a plain integer: then all shapes are fixed and nothing is read back from the
    device (CUDA graphs). The short edges are then the first ``graph.max_short_edges`` after sorting short ones to the
    front, or all edges if that is not given either. Without ``max_degree`` both are measured on this batch.
    """
    n, e = graph.species.shape[0], graph.sender.shape[0]
    shifts = [] if graph.shift is None else [graph.shift[:, axis] for axis in range(3)]
    order = _sort_by([*shifts, graph.receiver * n + graph.sender])
    sender, receiver = graph.sender.index_select(0, order), graph.receiver.index_select(0, order)
    # the reverse of edge k has the k-th smallest reverse key
    swap = _sort_by([*(-s.index_select(0, order) for s in shifts), sender * n + receiver])
    slot = torch.arange(e, device=order.device) - torch.searchsorted(receiver, receiver)
    width = getattr(graph, "max_degree", None)
    fixed = width is not None
    if width is None:
        width = int(slot.max()) + 1 if e else 1
    overflow = torch.full_like(slot, n * width)
    flat = torch.where(slot < width, receiver * width + slot, overflow)
    near = (vec.detach().square().sum(-1) < quad_cutoff * quad_cutoff).index_select(0, order)
    capacity = getattr(graph, "max_short_edges", None)
    if capacity is None and not fixed:
        short = near.nonzero().squeeze(-1)
    elif capacity is None or capacity >= e:
        short = torch.arange(e, device=order.device)
    else:
        short = torch.argsort(near.logical_not().to(torch.int8), stable=True)[:capacity]
    return EdgeIndex(order, sender, receiver, swap, flat, short, n, width)


def _expand(count: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """For each item k the range first[k] .. first[k] + count[k]: (item, member), both (sum of count,)."""
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
    """(input edge b -> a, output edge c -> a), each (t,) int64, output ascending, the edge itself left out."""
    count, first = _csr(index.receiver, index.atoms)
    out, inner = _expand(count[index.receiver], first[index.receiver])
    keep = out != inner
    return inner[keep], out[keep]


def quadruplets(index: EdgeIndex) -> tuple[Tensor, Tensor, Tensor]:
    """(input edge d -> b, place of b -> a in ``index.short``, output edge c -> a), each (p,) int64.

    d != a (as edges: the input edge is not the reverse of the short one) and b != c. The case d = c, a triangle, is
    kept: it carries three-body information and is smooth (the reference implementation drops it).
    """
    count, first = _csr(index.receiver, index.atoms)
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
    near, _ = _csr(index.receiver[index.short], index.atoms)
    b = index.sender[index.short]
    a = index.receiver[index.short]
    return {
        "edges": len(index.sender),
        "short_edges": len(index.short),
        "triplets": int((degree * (degree - 1)).sum()),
        "quadruplets": int(((degree[b] - 1) * (degree[a] - 1)).sum()),
        "atoms": index.atoms,
        "rows": index.atoms * index.width,
        "max_short": int(near.max()) if index.atoms else 0,
    }
