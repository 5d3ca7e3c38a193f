"""PET, the point edge transformer (Pozdnyakov & Ceriotti, arXiv 2305.19302), of the package
metatrain: PETBackend with random weights, sized by the width of its edge tokens. It has no
rotational symmetry; direct forces are its output ``non_conservative_forces``, others the gradient.

The backend takes positions, a cell and shifts of the neighbours by whole cells. Given no positions
and a cell of a sixteenth of an Angstrom, our edge vectors are such shifts, exactly. Its authors
train with random rotations (``augment: true`` here) and a rate that falls.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from ..graph import GraphBatch
from ..models import Architecture, ModelConfig
from .package import OfNumbers

ENERGY, FORCES = "energy", "non_conservative_forces"
FINE = 16.0  # shifts in an Angstrom: what tells two images of a neighbour apart


class PETConfig(ModelConfig):
    """width: of the tokens of edges and of the heads; those of atoms, and the units of the
    perceptrons, are twice as many."""

    heads: int = Field(8, ge=1, description="attention heads")
    attention_layers: int = Field(2, ge=1, description="layers of attention in each of the depth")
    cutoff_width: float = Field(0.5, gt=0, description="Angstrom over which messages end")


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """With torch's own ``select`` and ``index_select``: torch_geometric, which matgl imports, puts
    others in their place, and TorchScript, which metatrain's modules are compiled by when they are
    imported, cannot compile those."""
    names = ("select", "index_select")
    replaced = {name: getattr(torch, name) for name in names}
    for name in names:
        setattr(torch, name, getattr(torch._C._VariableFunctions, name))
    try:
        yield
    finally:
        for name in names:
            setattr(torch, name, replaced[name])


def build(c: PETConfig) -> nn.Module:
    """The package's backend, with outputs for energies and, where they are direct, forces."""
    with warnings.catch_warnings(action="ignore"), plain_torch():
        from metatrain.pet.modules.backend import PETBackend

    hypers = {
        "cutoff": c.cutoff,
        "cutoff_function": "Bump",
        "cutoff_width": c.cutoff_width,
        "num_neighbors_adaptive": None,
        "adaptive_cutoff_method": "solver",
        "d_pet": c.width,
        "d_node": 2 * c.width,
        "d_head": c.width,
        "d_feedforward": 2 * c.width,
        "num_heads": c.heads,
        "num_gnn_layers": c.depth,
        "num_attention_layers": c.attention_layers,
        "normalization": "RMSNorm",
        "activation": "SwiGLU",
        "attention_temperature": 1.0,
        "transformer_type": "PreLN",
        "featurizer_type": "feedforward",
        "system_conditioning": False,
        "long_range": {"enable": False},
    }
    backend = PETBackend(hypers, list(c.elements))
    backend.add_output(ENERGY, {ENERGY: [1]})
    if c.forces == "direct":
        backend.add_output(FORCES, {FORCES: [3, 1]})
    return backend


class PET(OfNumbers):
    config: PETConfig

    def __init__(self, config: PETConfig):
        super().__init__(config)
        self.backend = build(config)

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        cells = torch.eye(3, dtype=vec.dtype, device=vec.device)[None] / FINE
        one = torch.zeros_like(graph.batch)
        batch = self.backend.preprocess(
            vec.new_zeros(graph.species.shape[0], 3),
            graph.receiver,
            graph.sender,
            self.numbers[graph.species],
            cells,
            FINE * vec,
            one,
            1.0,
        )
        names = [ENERGY] if self.config.forces == "conservative" else [ENERGY, FORCES]
        nodes, edges = self.backend.calculate_features(batch)
        found, _, _ = self.backend.predict(nodes, edges, batch, cells, one, names)
        forces = found[FORCES][0] if FORCES in names else None
        return found[ENERGY][0].squeeze(-1), forces


ARCHITECTURE = Architecture(
    name="pet",
    title="PET",
    config=PETConfig,
    model=PET,
    symmetry="none",
    depths=((float("inf"), 2),),
    step=8,
    smallest_width=8,
    learning_rate=1e-3,
    packages=("metatrain",),
    capture=False,
)
