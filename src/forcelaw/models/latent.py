"""The network of the latent symmetry loss (TransIP, arXiv 2510.00027): it says what a rotation does
to the states of an unconstrained model, so that the model may learn any representation of rotations
instead of being asked for outputs alone.

    T(z, R) = y + V SiLU(W y + U R + b),    y = LN(z), R as nine numbers

z are the states of the atoms (n, width) that the energy is read from. V is zero at the start: T
then says that states do not turn. It takes no part in predictions. Of the paper this has the loss
and that T is learned; the form of T, the norms and what is penalised (mean squares) are ours.
"""

from __future__ import annotations

from torch import Tensor, nn

from .. import ops
from .mup import Linear


def normalised(z: Tensor) -> Tensor:
    """States (n, width) without their size, so that small states are no way out."""
    return nn.functional.layer_norm(z, z.shape[-1:])


class LatentMap(nn.Module):
    """T of the module's docstring."""

    def __init__(self, width: int, m: float):
        super().__init__()
        self.rotation = Linear(9, width, "input", m)
        self.states = Linear(width, width, "hidden", m, bias=False)
        self.out = Linear(width, width, "hidden", m, bias=False, gain=0.0)

    def forward(self, z: Tensor, rotation: Tensor) -> Tensor:
        """z (n, width), rotation (n, 3, 3) of each atom -> (n, width)."""
        y = normalised(z)
        turned = self.states(y) + self.rotation(rotation.flatten(1).to(y.dtype))
        return y + self.out(ops.silu(turned))


def latent_flops(width: int) -> float:
    """Forward FLOPs an atom of one use of the map."""
    return 2.0 * (2 * width * width + 9 * width)
