"""MACE (Batatia et al., arXiv 2206.07697) of the package mace-torch: ScaleShiftMACE with random
weights, sized by its channels.

Given zero positions and our edge vectors as lattice shifts, the package's own forward pass is a
function of the vectors alone, and its energies of atoms are what forces and stress are derived
from here. Its authors train with energies of isolated atoms, weights of 100 to 1 between energies
and forces, and an exponential average of the weights.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..graph import GraphBatch
from ..models import Architecture, ForceField, ModelConfig


class MACEConfig(ModelConfig):
    """width: channels of every degree."""

    forces: Literal["conservative"] = "conservative"
    lmax: int = Field(1, ge=0, le=3, description="degree of the messages")
    max_ell: int = Field(3, ge=0, description="degree of the spherical harmonics")
    correlation: int = Field(3, ge=1, description="order of the products, less one")
    bessel: int = Field(8, ge=1, description="radial functions")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of the package and of torch about it; e3nn's constants are read by
    pickle, which torch allows for what is named: from the installed package, no file of a user."""
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([slice]):
        yield


def build(c: MACEConfig) -> nn.Module:
    """The package's model, as plain torch: TorchScript takes twice as long to build."""
    with quietly():
        import e3nn
        from mace import modules

        before = e3nn.get_optimization_defaults()
        e3nn.set_optimization_defaults(jit_script_fx=False)
        try:
            return modules.ScaleShiftMACE(
                atomic_inter_scale=1.0,
                atomic_inter_shift=0.0,
                r_max=c.cutoff,
                num_bessel=c.bessel,
                num_polynomial_cutoff=5,
                max_ell=c.max_ell,
                interaction_cls=modules.RealAgnosticResidualInteractionBlock,
                interaction_cls_first=modules.RealAgnosticInteractionBlock,
                num_interactions=c.depth,
                num_elements=len(c.elements),
                hidden_irreps=e3nn.o3.Irreps(
                    [(c.width, (k, (-1) ** k)) for k in range(c.lmax + 1)]
                ),
                MLP_irreps=e3nn.o3.Irreps("16x0e"),
                atomic_energies=np.zeros(len(c.elements)),
                avg_num_neighbors=c.mean_degree,
                atomic_numbers=list(c.elements),
                correlation=c.correlation,
                gate=nn.functional.silu,
            )
        finally:
            e3nn.set_optimization_defaults(**before)


class MACE(ForceField):
    config: MACEConfig

    def __init__(self, config: MACEConfig):
        super().__init__(config)
        self.mace = build(config)

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, None]:
        n, e = graph.species.shape[0], vec.shape[0]
        data = {
            "positions": vec.new_zeros(n, 3),
            "shifts": -vec,  # theirs go from sender to receiver
            "unit_shifts": vec.new_zeros(e, 3),
            "cell": vec.new_zeros(3, 3),
            "edge_index": torch.stack([graph.sender, graph.receiver]),
            "node_attrs": nn.functional.one_hot(graph.species, len(self.config.elements)).to(vec),
            "batch": torch.zeros_like(graph.batch),
            "ptr": torch.arange(2, device=vec.device) * n,
        }
        found = self.mace(data, training=self.training, compute_force=False)
        return found["node_energy"].to(vec), None


ARCHITECTURE = Architecture(
    name="mace",
    title="MACE",
    config=MACEConfig,
    model=MACE,
    symmetry="E(3)",
    depths=((float("inf"), 2),),
    smallest_width=4,
    learning_rate=2e-2,
    packages=("mace-torch", "e3nn"),
    capture=False,
)
