"""eSEN (Fu et al., arXiv 2502.12147) of the package fairchem-core: eSCNMDBackbone with its energy
block and, for direct forces, its linear head, with random weights, sized by its channels.

Given zero positions and our edge vectors as offsets of a unit cell, the package's own forward pass
is a function of the vectors alone. Charge, spin and data set, which it embeds, are the same for
all. Its authors train direct forces first and fine-tune to gradient forces.

The package draws the roll of each edge's frame anew in every pass, from torch's global generator:
outputs are the same within rounding, and a run resumes to that, not to the last bit.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..graph import GraphBatch
from ..models import Architecture, ModelConfig
from .package import OfNumbers, frozen


class FairchemESENConfig(ModelConfig):
    """width: channels of spheres, hidden layers and edges alike."""

    lmax: int = Field(2, ge=1, le=6, description="degree of the features")
    mmax: int = Field(2, ge=0, description="order of the products")
    radial: int = Field(64, ge=1, description="radial functions, Gaussians")


class Batch(dict):
    """Fields of a batch by key, by attribute and by ``get``, as the package reads them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default)


def build(c: FairchemESENConfig) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """The package's backbone, its energy head and its head of direct forces."""
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([slice]):
        from fairchem.core.models.uma import escn_md

    backbone = escn_md.eSCNMDBackbone(
        max_num_elements=max(c.elements) + 1,
        sphere_channels=c.width,
        hidden_channels=c.width,
        edge_channels=c.width,
        lmax=c.lmax,
        mmax=min(c.mmax, c.lmax),
        num_layers=c.depth,
        cutoff=c.cutoff,
        num_distance_basis=c.radial,
        # energies of atoms are read, and forces derived here: nothing is to be derived inside
        direct_forces=True,
        regress_forces=True,
        otf_graph=False,
        norm_type="rms_norm_sh",
        act_type="gate",
        ff_type="spectral",
        chg_spin_emb_type="rand_emb",
        use_dataset_embedding=False,
    )
    energy = escn_md.MLP_EFS_Head(backbone)
    return backbone, energy, escn_md.Linear_Force_Head(backbone) if c.forces == "direct" else None


class FairchemESEN(OfNumbers):
    config: FairchemESENConfig

    def __init__(self, config: FairchemESENConfig):
        super().__init__(config)
        self.backbone, self.energy, self.force_head = build(config)
        frozen(self.backbone)  # what it embeds charge and spin with

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        n, none = graph.species.shape[0], torch.zeros(1, dtype=torch.long, device=vec.device)
        data = Batch(
            pos=vec.new_zeros(n, 3),
            atomic_numbers=self.numbers[graph.species],
            batch=torch.zeros_like(graph.batch),
            natoms=none + n,
            edge_index=torch.stack([graph.sender, graph.receiver]),
            cell=torch.eye(3, dtype=vec.dtype, device=vec.device)[None],
            cell_offsets=vec,
            charge=none,
            spin=none,
        )
        found = self.backbone(data)
        site = self.energy.energy_block(found["node_embedding"][:, 0]).squeeze(-1)
        if self.force_head is None:
            return site, None
        return site, self.force_head(data, found)["forces"]


ARCHITECTURE = Architecture(
    name="fairchem_esen",
    title="eSEN of fairchem",
    config=FairchemESENConfig,
    model=FairchemESEN,
    symmetry="SE(3)",
    depths=((float("inf"), 4),),
    smallest_width=4,
    learning_rate=2e-3,
    packages=("fairchem-core", "e3nn"),
    capture=False,
)
