"""SiLU(x) = x sigmoid(x): torch's own, unless it will be differentiated twice."""

from __future__ import annotations

from torch import Tensor, nn

from . import twice
from .switch import use_twice


def silu(x: Tensor) -> Tensor:
    return twice.silu(x) if use_twice() else nn.functional.silu(x)
