"""FlashCart (Zaverkin et al., arXiv 2610.06409) of the package flashcart: FlashCartPotential with
random weights, sized by its channels.

The package takes edge vectors as an input, so that its energies of atoms are a function of ours
alone. Its authors train with Muon and a rate that falls.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..elements import SYMBOLS
from ..graph import GraphBatch
from ..models import Architecture, ForceField, ModelConfig


class FlashCartConfig(ModelConfig):
    """width: channels of every rank; perceptrons have half as many units. Other sizes and layers
    are those of the package's own file of settings."""

    forces: Literal["conservative"] = "conservative"
    lmax: int = Field(2, ge=0, le=3, description="rank of the features between layers")
    max_ell: int = Field(3, ge=0, description="rank of the edges")
    correlation: int = Field(3, ge=1, description="degree of the products")
    radial: int = Field(8, ge=1, description="radial functions")
    kernels: bool = Field(True, description="the package's Triton kernels, on a GPU")


def build(c: FlashCartConfig) -> nn.Module:
    """The package's model."""
    with warnings.catch_warnings(action="ignore"):
        from flashcart.model.flashcart import FlashCartPotential

    return FlashCartPotential(
        [SYMBOLS[z] for z in c.elements],
        c.cutoff,
        n_hidden_feats=c.width,
        l_max_hidden_feats=c.lmax,
        l_max_edge_attrs=c.max_ell,
        n_radial=c.radial,
        n_interactions=c.depth,
        correlation=c.correlation,
        path_reduced_product=False,
        nonlinearity=True,
        gate_activation="sigmoid",
        layer_norm=True,
        element_agnostic_product=True,
        radial_mapping="cosine",
        hidden_radial=[max(4, c.width // 2)] * 2,
        hidden_readout=[max(4, c.width // 2)] * 2,
        avg_neighbors=c.mean_degree,
        use_triton=c.kernels,
    )


class FlashCart(ForceField):
    config: FlashCartConfig

    def __init__(self, config: FlashCartConfig):
        super().__init__(config)
        self.package = build(config)

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, None]:
        edges = torch.stack([graph.receiver, graph.sender])
        if not vec.shape[0]:  # which it cannot do; one far beyond the cutoff adds nothing
            vec, edges = torch.cat([vec, vec.new_full((1, 3), 1e3)]), edges.new_zeros(2, 1)
        data = {
            "vectors": vec,
            "edge_index": edges,
            "atom_types": graph.species,
            "batch": graph.batch,
        }
        return self.package(data), None


ARCHITECTURE = Architecture(
    name="flashcart",
    title="FlashCart",
    config=FlashCartConfig,
    model=FlashCart,
    symmetry="E(3)",
    depths=((float("inf"), 2),),
    smallest_width=4,
    learning_rate=1e-2,
    packages=("flashcart",),
    capture=False,
)
