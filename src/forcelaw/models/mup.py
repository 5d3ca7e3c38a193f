"""muP: the width-independent parametrisation (Tensor Programs V, arXiv 2203.03466, table 8), for
Adam-like optimisers.

m = width / base width. Every layer of every architecture is one of five kinds:

    kind     example                              init std        forward    Adam learning rate
    input    embedding, basis -> width            1/sqrt(fan_in)  1          lr
    hidden   width -> width                       1/sqrt(fan_in)  1          lr / m
    output   width -> fixed (energy, force)       0               1 / m      lr
    readout  width -> fixed, feeds later layers   sqrt(m/fan_in)  1 / m      lr
    vector   bias, LayerNorm gain                 0 or 1          1          lr

An input layer has a fixed fan-in, so 1/sqrt(fan_in) is constant in width. A readout is an output
that must not be zero at the start (MC-EGNN's vector channels): its output vanishes like
1/sqrt(width) there, as it must. As "hidden", its random weights W of size 1/sqrt(width) would be
followed by the features it reads, whose gradient is W^T times something, and the change of its
output would grow like sqrt(width): measured slopes +0.4 to +0.5 (benchmarks/mup_check.py).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ops

Kind = Literal["input", "hidden", "output", "readout", "vector"]


def mark(parameter: nn.Parameter, kind: Kind, m: float) -> nn.Parameter:
    """Note kind and learning-rate factor on a parameter."""
    parameter.mup_kind = kind  # type: ignore[attr-defined]
    parameter.lr_scale = 1.0 / m if kind == "hidden" else 1.0  # type: ignore[attr-defined]
    return parameter


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Numbers from N(0, std^2); of a model without weights only the shape, since on device "meta"
    torch works in slow Python."""
    return torch.empty(*shape) if weightless() else torch.randn(*shape) * std


def weightless() -> bool:
    """Whether a model is being built only for its shapes
    (:func:`forcelaw.models.sizing.count_parameters`)."""
    return torch.get_default_device().type == "meta"


class Linear(nn.Module):
    """x (..., fan_in) -> (..., fan_out), initialised and scaled by its muP kind; m is the width
    multiplier."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kind: Kind,
        m: float,
        *,
        bias: bool = True,
        gain: float = 1.0,
    ):
        super().__init__()
        self.multiplier = 1.0 / m if kind in ("output", "readout") else 1.0
        std = 0.0 if kind == "output" else gain / math.sqrt(fan_in)
        if kind == "readout":
            std *= math.sqrt(m)
        self.weight = mark(nn.Parameter(normal(fan_out, fan_in, std=std)), kind, m)
        self.bias = mark(nn.Parameter(torch.zeros(fan_out)), "vector", m) if bias else None

    def affine(self) -> ops.Affine:
        """Weight and bias as they act."""
        # the weight is scaled, not x: it is small where x has a row for each edge
        weight = self.weight if self.multiplier == 1.0 else self.weight * self.multiplier
        return ops.Affine(weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, *self.affine())


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with marked gain and bias."""

    def __init__(self, width: int, m: float):
        super().__init__()
        self.weight = mark(nn.Parameter(torch.ones(width)), "vector", m)
        self.bias = mark(nn.Parameter(torch.zeros(width)), "vector", m)

    def affine(self) -> ops.Affine:
        """Gain and bias."""
        return ops.Affine(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, width)."""
        return ops.layer_norm(x, self.weight, self.bias)


class Embedding(nn.Module):
    """index (n,) -> (n, width); rows are N(0, 1)."""

    def __init__(self, count: int, width: int, m: float):
        super().__init__()
        self.weight = mark(nn.Parameter(normal(count, width)), "input", m)
        self.weight.is_embedding = True  # type: ignore[attr-defined]

    def forward(self, index: Tensor) -> Tensor:
        return self.weight.index_select(0, index)


def is_standard(model: nn.Module) -> bool:
    """Whether a model is in the standard parametrisation: none of its weights is marked as hidden,
    output or readout. All of its parameters then have the learning rate as it is given."""
    kinds = {getattr(p, "mup_kind", None) for p in model.parameters()}
    return not kinds & {"hidden", "output", "readout"}


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups {kind, lr_scale, params, count} of a model; their counts sum to its number of
    parameters (checked). Kind "standard": the parameters without a mark of a model that is in the
    standard parametrisation; in any other all have one, else TypeError."""
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    standard = is_standard(model)
    for name, parameter in model.named_parameters():
        if not hasattr(parameter, "mup_kind"):
            if not standard:
                raise TypeError(
                    f"parameter {name} has no muP kind, and others have: build all or none from"
                    " forcelaw.models.mup"
                )
            parameter.mup_kind, parameter.lr_scale = "standard", 1.0  # type: ignore[attr-defined]
        key = (parameter.mup_kind, parameter.lr_scale)  # type: ignore[attr-defined]
        groups.setdefault(key, []).append(parameter)
    out = [
        {"kind": kind, "lr_scale": scale, "params": params, "count": sum(p.numel() for p in params)}
        for (kind, scale), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    if sum(g["count"] for g in out) != sum(p.numel() for p in model.parameters()):
        raise AssertionError("muP groups do not sum to N")
    return out
