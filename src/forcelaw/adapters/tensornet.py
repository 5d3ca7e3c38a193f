"""TensorNet (Simeon & De Fabritiis, arXiv 2306.06482) of the package matgl: TensorNet in plain
torch (``use_warp=False``) with random weights, sized by its units.

Given zero positions and our edge vectors as periodic offsets, the package's own forward pass is a
function of the vectors alone. Its Gaussians are an Angstrom wide whatever their number and the
cutoff, so that 32 of them are nearly the same function; ``sharpness: 10`` makes them as wide as
they are apart (at 6 Angstrom). Its authors train energies before forces count, with a rate that
falls as a cosine.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..elements import SYMBOLS
from ..graph import GraphBatch
from ..models import Architecture, ForceField, ModelConfig
from .package import frozen


class TensorNetConfig(ModelConfig):
    """width: units of scalars, vectors and tensors."""

    forces: Literal["conservative"] = "conservative"
    radial: int = Field(32, ge=1, description="radial functions, Gaussians")
    sharpness: float = Field(
        0.5, gt=0, description="1/Angstrom^2, s of a Gaussian exp(-s (r - center)^2)"
    )
    group: Literal["O(3)", "SO(3)"] = Field("O(3)", description="O(3): parity is kept")


def build(c: TensorNetConfig) -> nn.Module:
    """The package's model."""
    with warnings.catch_warnings(action="ignore"):
        from matgl.models import TensorNet as Theirs

    return Theirs(
        element_types=tuple(SYMBOLS[z] for z in c.elements),
        units=c.width,
        nblocks=c.depth,
        num_rbf=c.radial,
        width=c.sharpness,
        cutoff=c.cutoff,
        equivariance_invariance_group=c.group,
        is_intensive=False,
        use_warp=False,
    )


class TensorNet(ForceField):
    config: TensorNetConfig

    def __init__(self, config: TensorNetConfig):
        super().__init__(config)
        self.package = frozen(build(config))

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, None]:
        n = graph.species.shape[0]
        data = SimpleNamespace(
            node_type=graph.species,
            pos=vec.new_zeros(n, 3),
            pbc_offshift=vec,
            edge_index=torch.stack([graph.receiver, graph.sender]),
            batch=torch.arange(n, device=vec.device),  # energies of atoms, not of structures
            num_graphs=n,
        )
        site = self.package(data)
        self.package.feature_dict = {}  # it would keep the whole graph of the last step
        return site, None


ARCHITECTURE = Architecture(
    name="tensornet",
    title="TensorNet",
    config=TensorNetConfig,
    model=TensorNet,
    symmetry="E(3)",
    symmetry_of=lambda c: "E(3)" if c.group == "O(3)" else "SE(3)",
    depths=((float("inf"), 2),),
    smallest_width=4,
    learning_rate=2e-3,
    packages=("matgl",),
    capture=False,
)
