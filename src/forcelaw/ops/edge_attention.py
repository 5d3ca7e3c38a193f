"""Softmax attention between an atom and the edges into it, smooth in the cutoff: the tokens of atom
i are the atom itself and its edges, and each of them sees all of them.

    a_qt = u_t exp(q . k_t / sqrt(d)) / sum over s of u_s exp(q . k_s / sqrt(d))

u is the envelope of an edge and 1 for the atom. Legend: n atoms, e edges, tokens (n + e, c), atoms
first; rows of s slots hold the tokens of one atom, whose first slot is the atom. Kernels go through
the tokens as they lie (edge_attention_kernels.py); plain torch makes rows of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .attention import ALIGNED, exchange
from .edge_attention_kernels import Attend
from .gemnet.index import EdgeIndex
from .linear import linear
from .switch import use_triton_at
from .tiles import LEAST, lowered


@dataclass
class TokenRows:
    """token (n s,): the token in each slot, held (n s, 1, 1) whether there is one; slot (n + e,):
    the slot of each token, seated (n + e, 1, 1) whether it has one; u (n, 1, 1, s)."""

    token: Tensor
    held: Tensor
    slot: Tensor
    seated: Tensor
    u: Tensor


@dataclass
class TokenRanges:
    """For kernels: the edges into atom i are ptr[i]:ptr[i + 1] of ptr (n + 1,); u (e,)."""

    ptr: Tensor
    u: Tensor


Tokens = TokenRows | TokenRanges


def token_rows(index: EdgeIndex, u: Tensor) -> Tokens:
    """Where the tokens of a batch are, once per forward pass; u (e,) of the edges in the order of
    ``index``."""
    if use_triton_at(u):
        return TokenRanges(index.ptr, u.contiguous())
    n, e, device = index.atoms, len(index.receiver), u.device
    s = -(-(1 + index.width) // ALIGNED) * ALIGNED
    ptr = index.ptr.to(torch.int64)
    column = torch.arange(s, device=device)
    held = column <= (ptr[1:] - ptr[:-1]).unsqueeze(1)  # (n, s)
    edge = (n + ptr[:-1].unsqueeze(1) + column - 1).clamp_max(n + e - 1)
    token = torch.where(column == 0, torch.arange(n, device=device).unsqueeze(1), edge)
    place = torch.arange(e, device=device) - ptr.index_select(0, index.receiver)
    owned = (index.receiver + 1 < n) if index.pad else torch.ones_like(index.receiver, dtype=bool)
    slot = (index.receiver * s + 1 + place).clamp(0, max(0, n * s - 1))
    slot = torch.cat([torch.arange(n, device=device) * s, slot])
    seated = torch.cat([torch.ones(n, dtype=torch.bool, device=device), owned & (place + 1 < s)])
    every = torch.cat([u.new_ones(n), u])
    rows = every.index_select(0, token.view(-1)).view(n, s) * held.to(u.dtype)
    shape = (n, 1, 1, s)
    return TokenRows(
        token.view(-1), held.view(-1, 1, 1), slot, seated.view(-1, 1, 1), rows.view(shape)
    )


def edge_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    rows: Tokens,
    heads: int,
    differentiable: bool,
) -> Tensor:
    """Attention of tokens x (n + e, in): queries, keys and values are x W^T side by side, W (3 c,
    in), and bias (2, c) is added to queries and values; one of keys would shift all logits of a
    query alike. -> (n + e, c); anything for tokens without a slot. differentiable: twice, and by
    u, as gradient forces ask for."""
    if isinstance(rows, TokenRanges):
        qkv = nn.functional.linear(x, lowered(weight))
        return Attend.apply(qkv, bias, rows.u, rows.ptr, heads)
    query, value = bias.unbind(0)
    qkv = linear(x, weight, torch.cat([query, torch.zeros_like(query), value]))
    return _by_rows(qkv, rows, heads, differentiable)


def _by_rows(qkv: Tensor, rows: TokenRows, heads: int, differentiable: bool) -> Tensor:
    width, (n, _, _, s) = qkv.shape[1] // 3, rows.u.shape
    d = width // heads
    picked = exchange(qkv.view(len(qkv), 3 * heads, d), rows.token, rows.slot, rows.seated)
    q, k, v = picked.view(n, s, 3, heads, d).permute(2, 0, 3, 1, 4)
    if differentiable:
        logit = q @ k.transpose(-1, -2) / math.sqrt(d)
        weight = rows.u * torch.exp(logit - logit.detach().amax(-1, keepdim=True))
        out = (weight @ v) / weight.sum(-1, keepdim=True)
    else:
        bias = rows.u.clamp_min(LEAST).log().masked_fill(rows.u == 0, -math.inf)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    out = out.transpose(1, 2).reshape(n * s, heads, d)
    return exchange(out, rows.slot, rows.token, rows.held).view(len(qkv), width)
