"""The stress of models with direct forces: a head of its own, beside the energy and the forces.

    s_ij = w . SiLU(A h_i + B h_j + R RBF(r_ij)) u(r_ij)
    W = scale / sqrt(k) sum_ij s_ij r_hat r_hat^T

h are the states of the atoms (n, width) that the energy is read from, and W is the virial in eV,
stress times volume. r_hat r_hat^T is a scalar and an l = 2 part, so W turns with the structure
where the states are invariant, and not where they are not (the MPNN). As direct forces, it is not
the derivative of the energy.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from .. import ops
from ..graph import GraphBatch, segment_sum
from .basis import ExponentialBasis, envelope, safe_norm
from .flops import Flops
from .mup import Linear

CHANNELS, RADIAL = 32, 32


class StressHead(nn.Module):
    """See the module's docstring; zero at the start, as all outputs are."""

    def __init__(self, width: int, m: float, cutoff: float, mean_degree: float):
        super().__init__()
        self.cutoff, self.sum_scale = cutoff, 1.0 / math.sqrt(mean_degree)
        self.basis = ExponentialBasis(RADIAL, cutoff)
        self.atoms = Linear(width, 2 * CHANNELS, "readout", m)  # A and B
        self.radial = Linear(RADIAL, CHANNELS, "input", m, bias=False)
        self.last = Linear(CHANNELS, 1, "output", 1.0, bias=False)  # its fan-in is fixed

    def forward(self, h: Tensor, vec: Tensor, graph: GraphBatch) -> Tensor:
        """Unscaled virials (g, 3, 3) of h (n, width) and edge vectors (e, 3)."""
        r = safe_norm(vec)
        a, b = self.atoms(h).chunk(2, dim=1)
        at_edge = a.index_select(0, graph.receiver) + b.index_select(0, graph.sender)
        strength = self.last(ops.silu(at_edge + self.radial(self.basis(r))))
        unit = vec / r.unsqueeze(-1)
        strength = strength * (envelope(r / self.cutoff) * self.sum_scale).unsqueeze(-1)
        return per_structure((strength * unit).unsqueeze(2) * unit.unsqueeze(1), graph)


def per_structure(of_edge: Tensor, graph: GraphBatch) -> Tensor:
    """(e, 3, 3) summed over the edges of each structure: (g, 3, 3); padding does not count."""
    owner = graph.batch.index_select(0, graph.receiver)
    extra = 1 if graph.pad else 0
    return segment_sum(of_edge, owner, graph.n_graphs + extra)[: graph.n_graphs]


def stress_flops(width: int) -> Flops:
    """Forward FLOPs of the head."""
    return Flops(per_edge=2.0 * (RADIAL * CHANNELS + CHANNELS), per_atom=2.0 * width * 2 * CHANNELS)
