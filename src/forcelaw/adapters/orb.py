"""Orb v3 (Rhodes et al., arXiv 2504.06231) of the package orb-models: MoleculeGNS with random
weights and the shapes of its heads, sized by its latent states. It has no rotational symmetry.

Its energy is the number of atoms times a perceptron of the mean state of a structure: it is no sum
over atoms. Net forces and, for molecules, net torques are taken from direct forces. Its pair
repulsion and the normalisers of its heads are left out: units are those of our data. Its authors
begin with a model that was trained to denoise. Needs Python 3.12.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..graph import GraphBatch, segment_sum
from ..models import Architecture, ModelConfig
from .package import OfNumbers


class OrbConfig(ModelConfig):
    """width: latent states of atoms and edges; perceptrons have twice as many units."""

    cutoff: Literal[6.0] = 6.0  # the package's envelope ends there, whatever it is told
    lmax: int = Field(3, ge=1, le=11, description="degree of the spherical harmonics")
    bessel: int = Field(8, ge=1, description="radial functions")


def build(c: OrbConfig) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """The package's network, and its perceptrons for energies and direct forces."""
    with warnings.catch_warnings(action="ignore"):
        from orb_models.common.models import angular, gns, nn_util, rbf

    network = gns.MoleculeGNS(
        latent_dim=c.width,
        num_message_passing_steps=c.depth,
        num_mlp_layers=2,
        mlp_hidden_dim=2 * c.width,
        rbf_transform=rbf.BesselBasis(r_max=c.cutoff, num_bases=c.bessel),
        angular_transform=angular.SphericalHarmonics(c.lmax, True, "component"),
        outer_product_with_cutoff=True,
        use_embedding=True,
        interaction_params={"distance_cutoff": True, "attention_gate": "sigmoid"},
        activation="silu",
        mlp_norm="rms_norm",
    )

    def head(outputs: int) -> nn.Module:
        return nn_util.build_mlp(c.width, [c.width], outputs, activation="silu")

    return network, head(1), head(3) if c.forces == "direct" else None


class Orb(OfNumbers):
    config: OrbConfig

    def __init__(self, config: OrbConfig):
        super().__init__(config)
        self.network, self.energy, self.force_head = build(config)
        self.network._decoder = nn.Identity()

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        """States of the atoms (n, width), which :meth:`_total` makes an energy of, and forces."""
        batch = SimpleNamespace(
            node_features={"atomic_numbers": self.numbers[graph.species]},
            edge_features={"vectors": vec},
            senders=graph.receiver,  # theirs go out of the atom that they are written from
            receivers=graph.sender,
        )
        states = self.network(batch)["node_features"]
        if self.force_head is None:
            return states, None
        return states, self._forces(self.force_head(states), graph)

    def _forces(self, forces: Tensor, graph: GraphBatch) -> Tensor:
        from orb_models.forcefield.models import forcefield_utils as theirs

        natoms = graph.natoms[graph.natoms > 0]
        real = int(natoms.sum())  # not the atom that takes all padding
        batch: Any = SimpleNamespace(
            n_node=natoms,
            positions=graph.pos[:real],
            system_features={"cell": graph.pos.new_zeros(len(natoms), 3, 3)},
        )
        molecules = graph.shift is None
        kept = theirs.maybe_remove_net_force_and_torque(batch, forces[:real], True, molecules)
        return torch.cat([kept, forces[real:]])

    def _total(self, site: Tensor, graph: GraphBatch) -> Tensor:
        total = segment_sum(site, graph.batch, graph.n_graphs + graph.pad)[: graph.n_graphs]
        natoms = graph.natoms.to(site).unsqueeze(-1)
        energy = natoms * self.energy(total / natoms.clamp_min(1.0))
        return energy.squeeze(-1) * self.config.scale


ARCHITECTURE = Architecture(
    name="orb",
    title="Orb v3",
    config=OrbConfig,
    model=Orb,
    symmetry="none",
    depths=((float("inf"), 5),),
    smallest_width=4,
    learning_rate=1e-3,
    packages=("orb-models",),
    capture=False,
)
