"""Lists of triplets and quadruplets, and how many there are: the definition of the sums that
GemNet-OC factorises, for tests."""

import torch
from torch import Tensor

from forcelaw.ops.gemnet.index import EdgeIndex


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
