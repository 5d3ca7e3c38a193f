"""GemNet-OC's dense side: matrix products by torch, and what stands between them in one pass each.
See filters.py for the rest.

    scaled_silu       a(z) = SiLU(z) / 0.6
    residual          (x + a(W2 a(W1 x))) / sqrt 2
    gathered          x_sender
    merge             skip + sum over three u = a(U x) of (u_ca + u_ac of the reverse edge) / sqrt 8
    join              a(s_sender + t_receiver + W x)
    unit_rms          x / RMS(x)
    blend             (x + y) * scale

Legend: n atoms, e edges, w channels. All of it is memory traffic. An op keeps its inputs and
recomputes the rest in its backward pass (KEEP_INNER: but for W1 x of ``residual``). Kernels compute
in float32, or in float64; matrix products have the dtype of their weights, which is that of
autocast where it is on.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gated_message import wide as _wide  # kernels here have a ``wide`` of their own
from ..segment import _sum, _sum_both

# residual keeps W1 x: one matrix product less in its backward pass, w floats more for each row
KEEP_INNER = True
FEW = 1 << 14  # up to so many rows it keeps all: memory does not count there, and launches do

WHOLE = 1 << 20  # no limit to the channels of a program
FLAT = 1024  # numbers of a program where the shape does not matter
GAIN = tl.constexpr(1 / 0.6)
HALF = tl.constexpr(0.5**0.5)
MERGE = tl.constexpr(0.5**1.5 / 0.6)  # a(z) / sqrt 8
EPSILON = tl.constexpr(1e-6)  # of unit_rms


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _slope(z):
    s = _sigmoid(z)
    return s * (1.0 + z * (1.0 - s))


# ---- numbers one by one; ``out`` may be an input


@triton.jit
def _act(z, out, n, scale: tl.constexpr, WIDE: tl.constexpr, FLAT: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    x = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(out + i, (x * _sigmoid(x) * scale).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _act_backward(z, grad, out, n, scale: tl.constexpr, WIDE: tl.constexpr, FLAT: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    g = tl.load(grad + i, mask=i < n, other=0.0).to(WIDE)
    x = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(out + i, (g * _slope(x) * scale).to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _finish(x, z, out, n, WIDE: tl.constexpr, FLAT: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    v = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    y = (tl.load(x + i, mask=i < n, other=0.0).to(WIDE) + v * _sigmoid(v) * GAIN) * HALF
    tl.store(out + i, y.to(out.dtype.element_ty), mask=i < n)


@triton.jit
def _finish_backward(z, grad, dz, dx, n, WIDE: tl.constexpr, FLAT: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    g = tl.load(grad + i, mask=i < n, other=0.0).to(WIDE) * HALF
    v = tl.load(z + i, mask=i < n, other=0.0).to(WIDE)
    tl.store(dz + i, (g * _slope(v) * GAIN).to(dz.dtype.element_ty), mask=i < n)
    tl.store(dx + i, g.to(dx.dtype.element_ty), mask=i < n)


@triton.jit
def _blend_numbers(x, y, out, n, scale: tl.constexpr, WIDE: tl.constexpr, FLAT: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * FLAT + tl.arange(0, FLAT)
    v = tl.load(x + i, mask=i < n, other=0.0).to(WIDE) + tl.load(y + i, mask=i < n, other=0.0).to(
        WIDE
    )
    tl.store(out + i, (v * scale).to(out.dtype.element_ty), mask=i < n)


# ---- rows


@triton.jit(do_not_specialize=["rows"])
def _rms(
    x, out, inverse, rows, w: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    v = tl.load(x + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    scale = 1.0 / tl.sqrt(tl.sum(v * v, axis=1) / w + EPSILON)
    tl.store(
        out + r[:, None] * w + c[None, :], (v * scale[:, None]).to(out.dtype.element_ty), mask=mask
    )
    tl.store(inverse + r, scale, mask=r < rows)


@triton.jit(do_not_specialize=["rows"])
def _rms_backward(
    y,
    inverse,
    grad,
    dx,
    rows,
    w: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    at = r[:, None] * w + c[None, :]
    v = tl.load(y + at, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + at, mask=mask, other=0.0).to(WIDE)
    scale = tl.load(inverse + r, mask=r < rows, other=0.0)
    dv = (g - v * (tl.sum(g * v, axis=1) / w)[:, None]) * scale[:, None]
    tl.store(dx + at, dv.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _join(
    pair,
    z,
    grad,
    out,
    sender,
    receiver,
    rows,
    w: tl.constexpr,
    WIDE: tl.constexpr,
    BACKWARD: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    """a(z + s + t), or grad times its derivative; in the place of z."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    j = tl.load(sender + r, mask=r < rows, other=0).to(tl.int64)
    i = tl.load(receiver + r, mask=r < rows, other=0).to(tl.int64)
    at = r[:, None] * w + c[None, :]
    v = tl.load(z + at, mask=mask, other=0.0).to(WIDE)
    v += tl.load(pair + j[:, None] * (2 * w) + c[None, :], mask=mask, other=0.0).to(WIDE)
    v += tl.load(pair + i[:, None] * (2 * w) + w + c[None, :], mask=mask, other=0.0).to(WIDE)
    if BACKWARD:
        y = tl.load(grad + at, mask=mask, other=0.0).to(WIDE) * _slope(v) * GAIN
    else:
        y = v * _sigmoid(v) * GAIN
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _pair_of(z, r, back, c, w: tl.constexpr, mask, WIDE: tl.constexpr):
    """SiLU of the first half of row r of z (e, 2w) and of the second half of the reverse row."""
    here = tl.load(z + r[:, None] * (2 * w) + c[None, :], mask=mask, other=0.0).to(WIDE)
    there = tl.load(z + back[:, None] * (2 * w) + w + c[None, :], mask=mask, other=0.0).to(WIDE)
    return here * _sigmoid(here) + there * _sigmoid(there)


@triton.jit(do_not_specialize=["rows"])
def _merge_up(
    skip,
    z1,
    z2,
    z3,
    swap,
    out,
    rows,
    w: tl.constexpr,
    WIDE: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    back = tl.load(swap + r, mask=r < rows, other=0).to(tl.int64)
    total = _pair_of(z1, r, back, c, w, mask, WIDE)
    total += _pair_of(z2, r, back, c, w, mask, WIDE)
    total += _pair_of(z3, r, back, c, w, mask, WIDE)
    at = r[:, None] * w + c[None, :]
    y = tl.load(skip + at, mask=mask, other=0.0).to(WIDE) + total * MERGE
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _merge_backward(
    grad, z, swap, rows, w: tl.constexpr, WIDE: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr
):
    """The gradient of z (e, 2w), in its place. The second half of edge k was read by swap[k]: swap
    is its own inverse."""
    r = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    mask = (r < rows)[:, None] & (c < w)[None, :]
    back = tl.load(swap + r, mask=r < rows, other=0).to(tl.int64)
    at = r[:, None] * (2 * w) + c[None, :]
    v = tl.load(z + at, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + r[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(z + at, (g * _slope(v) * MERGE).to(z.dtype.element_ty), mask=mask)
    v = tl.load(z + at + w, mask=mask, other=0.0).to(WIDE)
    g = tl.load(grad + back[:, None] * w + c[None, :], mask=mask, other=0.0).to(WIDE)
    tl.store(z + at + w, (g * _slope(v) * MERGE).to(z.dtype.element_ty), mask=mask)


# ---- sizes and launches


def _each(kernel, tensors: list[Tensor], **constants) -> None:
    """A kernel on the numbers of contiguous tensors of one shape."""
    n = tensors[0].numel()
    kernel[(triton.cdiv(n, FLAT),)](
        *tensors, n, **constants, WIDE=_wide(tensors[0]), FLAT=FLAT, num_warps=4
    )


def _tile(w: int, most: int = 128, numbers: int = 1024) -> dict[str, int]:
    """Rows, channels and warps of a program."""
    columns = min(most, max(16, triton.next_power_of_2(w)))
    return {"BE": max(1, numbers // columns), "BC": columns, "num_warps": 4}


def _grid(rows: int, w: int, tile: dict[str, int]) -> tuple[int, int]:
    return triton.cdiv(rows, tile["BE"]), triton.cdiv(w, tile["BC"])


def lowered(weight: Tensor) -> Tensor:
    """A weight in the dtype that torch's own matrix products would have here."""
    kind = weight.device.type
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return weight
    return weight.to(torch.get_autocast_dtype(kind))


def _plus_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a b; in the place of total if it has their dtype."""
    return total.addmm_(a, b) if total.dtype == a.dtype else total + torch.mm(a, b)


# ---- scaled_silu


@torch.library.custom_op("forcelaw::scaled_silu", mutates_args=())
def _scaled_silu(z: Tensor) -> Tensor:
    out = torch.empty_like(z)
    _each(_act, [z, out], scale=GAIN.value)
    return out


@_scaled_silu.register_fake
def _(z):
    return torch.empty_like(z)


@torch.library.custom_op("forcelaw::scaled_silu_backward", mutates_args=())
def _scaled_silu_backward(grad: Tensor, z: Tensor) -> Tensor:
    out = torch.empty_like(z)
    _each(_act_backward, [z, grad.contiguous(), out], scale=GAIN.value)
    return out


@_scaled_silu_backward.register_fake
def _(grad, z):
    return torch.empty_like(z)


def _save_all(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


_scaled_silu.register_autograd(
    lambda ctx, grad: _scaled_silu_backward(grad, *ctx.saved_tensors), setup_context=_save_all
)


def scaled_silu(z: Tensor) -> Tensor:
    """SiLU(z) / 0.6, any shape."""
    return _scaled_silu(z.contiguous())


# ---- residual


@torch.library.custom_op("forcelaw::residual", mutates_args=())
def _residual(
    x: Tensor, w1: Tensor, w2: Tensor, keep: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum, and the first ``keep`` (0, 1 or 3) of W1 x, y = a(W1 x) and W2 y; the others have no
    elements."""
    out = torch.empty_like(x)
    inner = torch.mm(x.to(w1.dtype), w1.t())
    y = torch.empty_like(inner) if keep else inner
    _each(_act, [inner, y], scale=GAIN.value)
    z = torch.mm(y, w2.t())
    _each(_finish, [x, z, out])
    return out, *(v if k < keep else v.new_empty(0) for k, v in enumerate((inner, y, z)))


@_residual.register_fake
def _(x, w1, w2, keep):
    return torch.empty_like(x), *(
        w1.new_empty((x.shape[0], w1.shape[0]) if k < keep else 0) for k in range(3)
    )


@torch.library.custom_op("forcelaw::residual_backward", mutates_args=())
def _residual_backward(
    grad: Tensor,
    x: Tensor,
    inner: Tensor | None,
    y: Tensor | None,
    z: Tensor | None,
    w1: Tensor,
    w2: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    low, grad, dx = x.to(w1.dtype), grad.contiguous(), torch.empty_like(x)
    inner = torch.mm(low, w1.t()) if inner is None else inner
    if y is None or z is None:
        y = dy = torch.empty_like(inner)
        _each(_act, [inner, y], scale=GAIN.value)
        z = dz = torch.mm(y, w2.t())
    else:  # what is kept stays
        dz, dy = torch.empty_like(z), torch.empty_like(y)
    _each(_finish_backward, [z, grad, dz, dx])
    dw2 = torch.mm(dz.t(), y)
    torch.mm(dz, w2, out=dy)
    _each(_act_backward, [inner, dy, dy], scale=GAIN.value)
    dw1 = torch.mm(dy.t(), low)
    return _plus_product(dx, dy, w1), dw1, dw2


@_residual_backward.register_fake
def _(grad, x, inner, y, z, w1, w2):
    return torch.empty_like(x), torch.empty_like(w1), torch.empty_like(w2)


def _residual_save(ctx, inputs, output):
    x, w1, w2, *_ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else torch fills arrays of their size with zeros
    ctx.save_for_backward(x, w1, w2, *(kept for kept in output[1:] if kept.dim() == 2))


def _residual_differentiate(ctx, grad, *_):
    x, w1, w2, *rest = ctx.saved_tensors
    kept = [*rest, None, None, None][:3]
    return *_residual_backward(grad, x, *kept, w1, w2), None


_residual.register_autograd(_residual_differentiate, setup_context=_residual_save)


def residual(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """(x + a(W2 a(W1 x))) / sqrt 2: x (rows, w), matrices (w, w)."""
    keep = 3 if x.shape[0] <= FEW else int(KEEP_INNER)
    return _residual(x.contiguous(), lowered(w1).contiguous(), lowered(w2).contiguous(), keep)[0]


# ---- gathered


@torch.library.custom_op("forcelaw::gathered", mutates_args=())
def _gathered(x: Tensor, sender: Tensor, ptr: Tensor, swap: Tensor) -> Tensor:
    return x.index_select(0, sender)


@_gathered.register_fake
def _(x, sender, ptr, swap):
    return x.new_empty(sender.shape[0], x.shape[1])


@torch.library.custom_op("forcelaw::gathered_backward", mutates_args=())
def _gathered_backward(grad: Tensor, ptr: Tensor, swap: Tensor) -> Tensor:
    n, w = ptr.shape[0] - 1, grad.shape[1]
    out, tile = grad.new_empty(n, w), _tile(w) | {"BE": 16}
    _sum[n, triton.cdiv(w, tile["BC"])](
        grad.contiguous(), swap, ptr, out, w, ORDER=True, WIDE=_wide(grad), **tile
    )
    return out


@_gathered_backward.register_fake
def _(grad, ptr, swap):
    return grad.new_empty(ptr.shape[0] - 1, grad.shape[1])


def _gathered_save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[2:])


_gathered.register_autograd(
    lambda ctx, grad: (_gathered_backward(grad, *ctx.saved_tensors), None, None, None),
    setup_context=_gathered_save,
)


def gathered(x: Tensor, sender: Tensor, ptr: Tensor, swap: Tensor) -> Tensor:
    """x_sender (e, w) of x (n, w); ptr and swap as for :func:`gathered_linear`. Padding edges give
    no gradient."""
    return _gathered(x, sender, ptr, swap)


# ---- merge


@torch.library.custom_op("forcelaw::merge", mutates_args=())
def _merge(
    skip: Tensor,
    swap: Tensor,
    x1: Tensor,
    u1: Tensor,
    x2: Tensor,
    u2: Tensor,
    x3: Tensor,
    u3: Tensor,
) -> Tensor:
    rows, w = skip.shape
    z = [torch.mm(x.to(u.dtype), u.t()) for x, u in ((x1, u1), (x2, u2), (x3, u3))]
    out, tile = torch.empty_like(skip), _tile(w)
    _merge_up[_grid(rows, w, tile)](skip, *z, swap, out, rows, w, WIDE=_wide(skip), **tile)
    return out


@_merge.register_fake
def _(skip, swap, x1, u1, x2, u2, x3, u3):
    return torch.empty_like(skip)


@torch.library.custom_op("forcelaw::merge_backward", mutates_args=())
def _merge_gradients(
    grad: Tensor,
    swap: Tensor,
    x1: Tensor,
    u1: Tensor,
    x2: Tensor,
    u2: Tensor,
    x3: Tensor,
    u3: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (rows, w), out, grad = grad.shape, [], grad.contiguous()
    tile = _tile(w)
    for x, u in ((x1, u1), (x2, u2), (x3, u3)):
        low = x.to(u.dtype)
        z = torch.mm(low, u.t())
        _merge_backward[_grid(rows, w, tile)](grad, z, swap, rows, w, WIDE=_wide(grad), **tile)
        out.extend([torch.mm(z, u).to(x.dtype), torch.mm(z.t(), low)])
    return tuple(out)


@_merge_gradients.register_fake
def _(grad, swap, *inputs):
    return tuple(torch.empty_like(t) for t in inputs)


def _merge_save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


_merge.register_autograd(
    lambda ctx, grad: (grad, None, *_merge_gradients(grad, *ctx.saved_tensors)),
    setup_context=_merge_save,
)


def merge(skip: Tensor, swap: Tensor, *inputs: tuple[Tensor, Tensor]) -> Tensor:
    """skip + sum over three u = a(U x), (e, 2w), of (u[:, :w] + u[swap, w:]) / sqrt 8.

    skip (e, w); inputs: x (e, any), U (2w, any).
    """
    return _merge(
        skip.contiguous(), swap, *(t for x, u in inputs for t in (x.contiguous(), lowered(u)))
    )


# ---- join


@torch.library.custom_op("forcelaw::join", mutates_args=())
def _join_edges(
    pair: Tensor,
    x: Tensor,
    weight: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    swap: Tensor,
) -> Tensor:
    z = torch.mm(x.to(weight.dtype), weight.t())
    (rows, w), tile = z.shape, _tile(z.shape[1])
    _join[_grid(rows, w, tile)](
        pair, z, z, z, sender, receiver, rows, w, WIDE=_wide(z), BACKWARD=False, **tile
    )
    return z


@_join_edges.register_fake
def _(pair, x, weight, sender, receiver, ptr, swap):
    return weight.new_empty(x.shape[0], weight.shape[0])


@torch.library.custom_op("forcelaw::join_backward", mutates_args=())
def _join_backward(
    grad: Tensor,
    pair: Tensor,
    x: Tensor,
    weight: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    swap: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    low = x.to(weight.dtype)
    z = torch.mm(low, weight.t())
    (rows, w), tile, dpair = z.shape, _tile(z.shape[1]), torch.empty_like(pair)
    _join[_grid(rows, w, tile)](
        pair,
        z,
        grad.contiguous(),
        z,
        sender,
        receiver,
        rows,
        w,
        WIDE=_wide(z),
        BACKWARD=True,
        **tile,
    )
    _sum_both[pair.shape[0], triton.cdiv(w, tile["BC"])](
        z, swap, ptr, dpair, w, WIDE=_wide(z), **tile
    )
    return dpair, torch.mm(z, weight).to(x.dtype), torch.mm(z.t(), low)


@_join_backward.register_fake
def _(grad, pair, x, weight, sender, receiver, ptr, swap):
    return torch.empty_like(pair), torch.empty_like(x), torch.empty_like(weight)


_join_edges.register_autograd(
    lambda ctx, grad: (*_join_backward(grad, *ctx.saved_tensors), None, None, None, None),
    setup_context=_save_all,
)


def join(
    pair: Tensor,
    x: Tensor,
    weight: Tensor,
    sender: Tensor,
    receiver: Tensor,
    ptr: Tensor,
    swap: Tensor,
) -> Tensor:
    """a(s_sender + t_receiver + W x): pair (n, 2w) holds s | t, x (e, any), W (w, any) -> (e, w);
    ptr and swap as above."""
    return _join_edges(
        pair.contiguous(), x.contiguous(), lowered(weight), sender, receiver, ptr, swap
    )


# ---- unit_rms


@torch.library.custom_op("forcelaw::unit_rms", mutates_args=())
def _unit_rms(x: Tensor) -> tuple[Tensor, Tensor]:
    (rows, w), out = x.shape, torch.empty_like(x)
    inverse = x.new_empty(rows, dtype=torch.promote_types(x.dtype, torch.float32))
    tile = _tile(w, most=WHOLE)
    _rms[(triton.cdiv(rows, tile["BE"]),)](x, out, inverse, rows, w, WIDE=_wide(x), **tile)
    return out, inverse


@_unit_rms.register_fake
def _(x):
    return torch.empty_like(x), x.new_empty(
        x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32)
    )


@torch.library.custom_op("forcelaw::unit_rms_backward", mutates_args=())
def _unit_rms_backward(grad: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    (rows, w), dx = y.shape, torch.empty_like(y)
    tile = _tile(w, most=WHOLE)
    _rms_backward[(triton.cdiv(rows, tile["BE"]),)](
        y, inverse, grad.contiguous(), dx, rows, w, WIDE=_wide(y), **tile
    )
    return dx


@_unit_rms_backward.register_fake
def _(grad, y, inverse):
    return torch.empty_like(y)


def _unit_rms_save(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else torch fills an array of its size with zeros
    ctx.save_for_backward(*output)  # y, which what reads it keeps, too, and not x


_unit_rms.register_autograd(
    lambda ctx, grad, _: _unit_rms_backward(grad, *ctx.saved_tensors), setup_context=_unit_rms_save
)


def unit_rms(x: Tensor) -> Tensor:
    """x (rows, w) divided by its RMS over w, as torch's rms_norm with eps 1e-6."""
    return _unit_rms(x.contiguous())[0]


# ---- blend


@torch.library.custom_op("forcelaw::blend", mutates_args=())
def _blend(x: Tensor, y: Tensor, scale: float) -> Tensor:
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, y.dtype))
    _each(_blend_numbers, [x, y, out], scale=scale)
    return out


@_blend.register_fake
def _(x, y, scale):
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, y.dtype))


def _blend_save(ctx, inputs, output):
    x, y, ctx.scale = inputs
    ctx.kinds = x.dtype, y.dtype


def _blend_differentiate(ctx, grad):
    grad = grad * ctx.scale
    return grad.to(ctx.kinds[0]), grad.to(ctx.kinds[1]), None


_blend.register_autograd(_blend_differentiate, setup_context=_blend_save)


def blend(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """(x + y) * scale, of one shape."""
    return _blend(x.contiguous(), y.contiguous(), scale)
