"""LayerNorm and SiLU for models that are differentiated twice, as gradient forces are in training:
their second derivatives written down. torch composes those of many small operations (60 for a
LayerNorm, 17 here), and at 100 atoms a step launches are what a step costs.

LayerNorm of a row of w numbers, with z = (x - mean) s, s = 1 / sqrt(var + eps), and P u = u -
mean(u) - z mean(u z): the gradient by x for g is s P(g gain). For a cotangent u of that gradient,

    by g       gain s P u
    by gain    sum over rows of g s P u
    by x       -s (s P(m u + a h) + z mean(u s P h)),   h = g gain, m = mean(h z), a = mean(u z)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

EPSILON = 1e-5


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm(x) gain + bias over the last axis of x (rows, w)."""
    return _Norm.apply(x, gain, bias)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return _Silu.apply(x)


def _by_input(u: Tensor, x: Tensor, mean: Tensor, s: Tensor, gain: Tensor | None) -> Tensor:
    """s P(u gain), one launch."""
    mask = [True, False, False]
    shape = x.shape[-1:]
    return torch.ops.aten.native_layer_norm_backward(u, x, shape, mean, s, gain, None, mask)[0]


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        y, mean, s = torch.native_layer_norm(x, x.shape[-1:], gain, bias, EPSILON)
        ctx.save_for_backward(x, gain, bias, mean, s)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, mean, s = ctx.saved_tensors
        by_gain = by_bias = None
        if torch.is_grad_enabled():  # for the forces: those by gain and bias are not asked for
            return _NormGrad.apply(g, x, gain, mean, s), None, None
        shape, mask = x.shape[-1:], [True, True, True]
        by_x, by_gain, by_bias = torch.ops.aten.native_layer_norm_backward(
            g.contiguous(), x, shape, mean, s, gain, bias, mask
        )
        return by_x, by_gain, by_bias


class _NormGrad(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, gain: Tensor, mean: Tensor, s: Tensor) -> Tensor:
        g = g.contiguous()
        by_x = _by_input(g, x, mean, s, gain)
        ctx.save_for_backward(g, x, gain, mean, s, by_x)
        return by_x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        g, x, gain, mean, s, by_x = ctx.saved_tensors
        u = u.contiguous()
        z, h = (x - mean) * s, g * gain
        turned = _by_input(u, x, mean, s, None)
        m, a = ((part * z).mean(-1, keepdim=True) for part in (h, u))
        inner = _by_input(m * u + a * h, x, mean, s, None)
        by_input = -s * torch.addcmul(inner, z, (u * by_x).mean(-1, keepdim=True))
        return gain * turned, by_input, (g * turned).sum(0), None, None


class _Silu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _SiluGrad.apply(g, x) if torch.is_grad_enabled() else _slope(g, x)


def _slope(g: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(g, x)


class _SiluGrad(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return _slope(g, x)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        # SiLU'' = s (1 - s) (2 + x (1 - 2 s)), and 1 - 2 s = -tanh(x / 2)
        s = torch.sigmoid(x)
        bend = 2.0 - x * torch.tanh(0.5 * x)
        return _slope(u, x), torch.ops.aten.sigmoid_backward(u * g, s) * bend
