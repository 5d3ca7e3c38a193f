"""The head that turns states of atoms into outputs."""

from __future__ import annotations

from torch import Tensor, nn

from .. import ops
from .mup import Linear


class Head(nn.Module):
    """MLP d -> d -> outputs, the last layer of kind output (zero at the start)."""

    def __init__(self, d: int, outputs: int, m: float):
        super().__init__()
        self.hidden = Linear(d, d, "hidden", m)
        self.last = Linear(d, outputs, "output", m)

    def forward(self, h: Tensor) -> Tensor:
        return self.last(ops.silu(self.hidden(h)))
