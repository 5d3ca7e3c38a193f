"""Softmax attention between the atoms of a structure with rotary position embeddings (RoFormer,
arXiv 2104.09864, in three dimensions), smooth in a cutoff.

    s_ij = q_i . R(w . (x_j - x_i)) k_j / sqrt(d) - c r_ij
    a_ij = u(r_ij) exp(s_ij) / sum over l of u(r_il) exp(s_il),        u = 1 for an atom itself
    o_i  = sum over j of a_ij R(w . (x_j - x_i)) v_j                    (R left out where values do
                                                                        not turn)

R turns pairs of channels, each by its own angle; w (heads, d / 2, 3) are frequencies in rad per
Angstrom, u is the envelope, and c (heads,) a decay with the distance in 1 / Angstrom (ALiBi, arXiv
2108.12409, in three dimensions). Legend: n atoms, e edges, g structures, s atoms of the largest
one.

Three forms of the same sum. Over edges, in plain torch, for any structure, and differentiable by
positions. Over molecules padded to s atoms, where the turns of i and j come apart and torch's fused
kernel does the rest: four times as fast on a CPU (LABLOG.md), without arrays on edges. And on a
GPU, for molecules and heads of few channels, by kernels (molecule_attention.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..graph import ALL_PAIRS_MAX_ATOMS, GraphBatch, segment_sum
from .edge_features import envelope, safe_norm
from .molecule_attention import MOST_CHANNELS, MoleculePairs, molecule_attention
from .switch import plain, use_triton
from .tiles import LEAST

ALIGNED = 8  # slots: torch's fused kernel on a GPU would copy other masks

Pairs = "EdgePairs | PaddedPairs | MoleculePairs"


@dataclass
class EdgePairs:
    """Pairs by edges: vectors (e, 3) Angstrom, u (e, 1), decay c r (e, h or 1)."""

    graph: GraphBatch
    vec: Tensor
    u: Tensor
    decay: Tensor


@dataclass
class PaddedPairs:
    """Pairs in padded molecules. centred (n, 3): positions from the middle of the molecule,
    Angstrom; atom (g s,): the atom in each slot, held (g s, 1, 1) whether there is one; slot (n,):
    the slot of each atom, real (n, 1, 1) whether it is no padding; bias (g, h or 1, s, s): log u -
    c r, minus infinity where there is no pair."""

    centred: Tensor
    atom: Tensor
    held: Tensor
    slot: Tensor
    real: Tensor
    bias: Tensor


def attention_pairs(
    graph: GraphBatch, vec: Tensor, cutoff: float, decay: Tensor | None = None, channels: int = 0
) -> EdgePairs | PaddedPairs | MoleculePairs:
    """What :func:`rotary_attention` needs of a batch, once per forward pass; vec (e, 3) Angstrom,
    decay c (h,), none where it is None; channels of a head, where they may go by kernels. No
    synchronisation with the host on a GPU."""
    most, slopes = _largest(graph, vec), vec.new_zeros(1) if decay is None else decay.to(vec.dtype)
    few = 0 < channels <= MOST_CHANNELS and channels % 2 == 0
    if most is not None and few and use_triton(vec):
        return MoleculePairs.of(graph, cutoff, slopes)
    if most is not None:
        return _padded(graph, cutoff, most, slopes)
    r = safe_norm(vec).unsqueeze(-1)
    return EdgePairs(graph, vec, envelope(r / cutoff), slopes * r)


def _largest(graph: GraphBatch, vec: Tensor) -> int | None:
    """Atoms of the largest structure where pairs can be padded, else None: periodic images and
    gradients by positions need edges, as do structures too large for all their pairs."""
    if plain(vec) or graph.shift is not None or vec.requires_grad or not len(graph.pos):
        return None
    most = graph.max_atoms
    if most is None:
        if vec.is_cuda:  # nobody has said, and asking would wait for the device
            return None
        most = int(graph.natoms.max())
    return most if most <= ALL_PAIRS_MAX_ATOMS else None


def _padded(graph: GraphBatch, cutoff: float, most: int, slopes: Tensor) -> PaddedPairs:
    n, slots, device = len(graph.pos), graph.n_graphs, graph.pos.device
    most = padded_slots(most, device)
    first = torch.cumsum(graph.natoms, 0) - graph.natoms
    column = torch.arange(most, device=device)
    held = column < graph.natoms.unsqueeze(1)  # (g, s)
    atom = (first.unsqueeze(1) + column).clamp_max(n - 1).view(-1)
    owner = graph.batch.clamp_max(slots - 1)
    slot = owner * most + (torch.arange(n, device=device) - first.index_select(0, owner))
    slot = slot.clamp_max(slots * most - 1)  # padding: any
    places = graph.pos.index_select(0, atom).view(slots, most, 3)
    total = (places * held.unsqueeze(-1)).sum(1) / graph.natoms.clamp_min(1).unsqueeze(-1)
    r = safe_norm(places.unsqueeze(1) - places.unsqueeze(2))
    pair = held.unsqueeze(1) & held.unsqueeze(2) & (r < cutoff)
    bias = envelope(r / cutoff).clamp_min(LEAST).log().masked_fill(~pair, -math.inf)
    bias = bias.unsqueeze(1) - slopes.view(-1, 1, 1) * r.unsqueeze(1)
    # an atom sees itself; so does an empty slot, or its softmax would be of nothing
    bias = bias.masked_fill(column.unsqueeze(0) == column.unsqueeze(1), 0.0)
    centred = graph.pos - total.index_select(0, owner)
    real = graph.batch < slots
    return PaddedPairs(centred, atom, held.view(-1, 1, 1), slot, real.view(-1, 1, 1), bias)


def rotary_attention(
    qkv: Tensor,
    frequencies: Tensor,
    pairs: EdgePairs | PaddedPairs | MoleculePairs,
    turn_values: bool = True,
) -> Tensor:
    """o (n, h, d) of queries, keys and values (n, 3, h, d) and frequencies (h, d / 2, 3) in rad per
    Angstrom; see the module's docstring. The three stand in one tensor so that they turn, and go to
    their slots, together: a third of the launches."""
    if isinstance(pairs, MoleculePairs):
        return molecule_attention(qkv, frequencies, pairs, turn_values)
    if isinstance(pairs, EdgePairs):
        return _by_edges(*qkv.unbind(1), frequencies, pairs, turn_values)
    return _by_padding(qkv, frequencies, pairs, turn_values)


def phases(x: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (rows, h, d / 2) of w . x for x (rows, 3). Sums of products, not a matrix
    product: TF32 would lose the phase."""
    x0, x1, x2 = (c.view(-1, 1, 1) for c in x.unbind(-1))
    w0, w1, w2 = frequencies.unbind(-1)
    angle = x0 * w0 + x1 * w1 + x2 * w2
    return angle.cos(), angle.sin()


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """R x (..., h, d): channel c and c + d / 2 are a pair."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class _Turn(torch.autograd.Function):
    """:func:`turn` of copies x (rows, k, h, d) by one cosine and sine (rows, h, d / 2),
    written down both ways: half of autograd's launches. Once differentiable, as the padded form
    is."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(x, cos, sin)
        return _turned(x, cos.unsqueeze(1), sin.unsqueeze(1), 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, cos, sin = ctx.saved_tensors
        dx = _turned(grad, cos.unsqueeze(1), sin.unsqueeze(1), -1.0)
        (a, b), (da, db) = x.chunk(2, dim=-1), grad.chunk(2, dim=-1)
        dcos = torch.addcmul(a * da, b, db).sum(1)
        dsin = torch.addcmul(a * db, b, da, value=-1.0).sum(1)
        return dx.to(x.dtype), dcos.to(cos.dtype), dsin.to(sin.dtype)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """x turned by the angle of cosine and sine, or back where sign is -1."""
    a, b = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, cos.dtype), device=x.device)
    first, second = out.chunk(2, dim=-1)
    torch.mul(a, cos, out=first)
    torch.mul(b, cos, out=second)
    if x.dtype != out.dtype:
        a, b = a.to(out.dtype), b.to(out.dtype)
    first.addcmul_(b, sin, value=-sign)
    second.addcmul_(a, sin, value=sign)
    return out


def _by_edges(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, pairs: EdgePairs, turn_values: bool
) -> Tensor:
    sender, receiver, n = pairs.graph.sender, pairs.graph.receiver, len(q)
    cos, sin = phases(pairs.vec, w)
    scale = 1.0 / math.sqrt(q.shape[-1])
    there = turn(k.index_select(0, sender), cos, sin)
    logit = (q.index_select(0, receiver) * there).sum(-1) * scale - pairs.decay  # (e, h)
    own = (q * k).sum(-1) * scale
    top = own.detach().scatter_reduce(
        0, receiver.unsqueeze(-1).expand_as(logit), logit.detach(), "amax"
    )
    weight = pairs.u * torch.exp(logit - top.index_select(0, receiver))
    own = torch.exp(own - top)
    total = segment_sum(weight, receiver, n) + own
    values = v.index_select(0, sender)
    if turn_values:
        values = turn(values, cos, sin)
    summed = segment_sum(weight.unsqueeze(-1) * values, receiver, n) + own.unsqueeze(-1) * v
    return summed / total.unsqueeze(-1)


class _Exchange(torch.autograd.Function):
    """Rows of x by ``index``; ``back`` holds the row that each row of x went to and ``went`` (rows
    of x, 1, 1) whether it did: both ways a gather, and never an atomic sum."""

    @staticmethod
    def forward(ctx, x, index, back, went):
        ctx.save_for_backward(back, went)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad):
        back, went = ctx.saved_tensors
        return grad.index_select(0, back) * went.to(grad.dtype), None, None, None


def exchange(x: Tensor, index: Tensor, back: Tensor, went: Tensor) -> Tensor:
    """Rows of x (any, h, d) by ``index``; see :class:`_Exchange`."""
    return _Exchange.apply(x, index, back, went)


def padded_slots(most: int, device: torch.device) -> int:
    """Slots of a molecule of ``most`` atoms, with a mask that the fused kernel need not copy."""
    return -(-most // ALIGNED) * ALIGNED if device.type == "cuda" else most


def padded_width(x: Tensor, d: int) -> int:
    """Channels of a head as torch's fused kernel on a GPU takes them, multiples of 16 bytes: else
    it writes down the weights of all pairs."""
    unit = 16 // x.element_size() if x.is_cuda else 1
    return -(-d // unit) * unit


def _by_padding(qkv: Tensor, w: Tensor, pairs: PaddedPairs, turn_values: bool) -> Tensor:
    (n, _, h, d), (slots, _, most, _) = qkv.shape, pairs.bias.shape
    cos, sin = phases(pairs.centred, w)
    turned = 3 if turn_values else 2
    rows = _Turn.apply(qkv[:, :turned], cos, sin).to(qkv.dtype)
    if not turn_values:
        rows = torch.cat([rows, qkv[:, 2:]], dim=1)
    rows, wide = rows.view(n, 3 * h, d), padded_width(qkv, d)
    if wide > d:
        rows = torch.nn.functional.pad(rows, (0, wide - d))
    rows = exchange(rows, pairs.atom, pairs.slot, pairs.real)
    parts = rows.view(slots, most, 3, h, wide).permute(2, 0, 3, 1, 4).unbind()
    bias = pairs.bias.to(qkv.dtype)
    out = scaled_dot_product_attention(*parts, attn_mask=bias, scale=1.0 / math.sqrt(d))
    out = out.transpose(1, 2).reshape(slots * most, h, wide)[..., :d]
    out = exchange(out, pairs.slot, pairs.atom, pairs.held)
    if not turn_values:
        return out
    return _Turn.apply(out.unsqueeze(1), cos, -sin).squeeze(1)
