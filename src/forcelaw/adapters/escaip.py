"""EScAIP (Qu & Krishnapriyan, arXiv 2410.24169) of the package fairchem-core: EScAIPBackbone with
its energy head and, for direct forces, its head of those, with random weights, sized by its hidden
states. Direct forces have no rotational symmetry.

The package finds the nearest neighbours of each atom, both ways, in a loop over structures; here it
is given all edges within the cutoff instead, padded to the most that an atom has, each atom being a
neighbour of itself as it is there. What follows from the vectors is the package's own. Its sums
over neighbours have no envelope, so that energies jump at the cutoff.
"""

from __future__ import annotations

import itertools
import types
import warnings
from functools import partial
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..graph import GraphBatch, segment_bounds
from ..models import Architecture, ModelConfig
from .package import OfNumbers

DEGREES = (20, 10, 4, 10, 20)  # the package's shares of l = 0 to 4 in the keys of a head


class EScAIPConfig(ModelConfig):
    """width: hidden states; all embeddings have as many or half as many."""

    heads: int = Field(8, ge=1, description="attention heads; they divide the width")
    radial: int = Field(64, ge=2, description="radial functions, Gaussians")

    @model_validator(mode="after")
    def _heads_divide(self) -> EScAIPConfig:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even, and heads {self.heads} divide it")
        return self


def settings(c: EScAIPConfig) -> dict[str, Any]:
    """The package's settings of a configuration."""
    each = c.width // c.heads
    ends = [round(each * sum(DEGREES[:k]) / sum(DEGREES)) for k in range(len(DEGREES) + 1)]
    return {
        "regress_forces": True,
        "direct_forces": c.forces == "direct",
        "hidden_size": c.width,
        "num_layers": c.depth,
        "use_compile": False,
        "use_padding": False,
        "use_pbc": True,
        "max_num_elements": max(c.elements) + 1,
        "max_atoms": 0,  # of padding, which is off
        "max_batch_size": 0,
        "max_radius": c.cutoff,
        "knn_k": 10**9,  # no cap: the envelope is one of distance alone
        "knn_soft": False,
        "knn_sigmoid_scale": 0.2,
        "knn_lse_scale": 0.1,
        "knn_use_low_mem": False,
        "knn_pad_size": 0,
        "atten_name": "memory_efficient" if c.forces == "direct" else "math",
        "atten_num_heads": c.heads,
        "atom_embedding_size": c.width,
        "node_direction_embedding_size": c.width // 2,
        "edge_distance_expansion_size": c.radial,
        "edge_distance_embedding_size": c.width,
        "freequency_list": [b - a for a, b in itertools.pairwise(ends)],
    }


def build(c: EScAIPConfig) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """The package's backbone, its energy head and its head of direct forces."""
    with warnings.catch_warnings(action="ignore"):
        from fairchem.core.models.escaip import EScAIP as theirs
        from fairchem.core.models.escaip.utils import data_preprocess

    backbone = theirs.EScAIPBackbone(**settings(c))
    torch._logging.set_logs()  # it turns on torch's log of recompilations
    # the package's own preparation of a batch, but for its search for neighbours
    whole = data_preprocess.data_preprocess_radius_graph
    found = {**vars(data_preprocess), "biknn_radius_graph": lambda data, *_: data.found}
    backbone.data_preprocess = partial(
        types.FunctionType(whole.__code__, found), **backbone.data_preprocess.keywords
    )
    if c.forces == "direct":
        return backbone, theirs.EScAIPEnergyHead(backbone), theirs.EScAIPDirectForceHead(backbone)
    energy = theirs.EScAIPGradientEnergyForceStressHead(backbone)
    energy.node_norm = nn.Identity()  # which it does not use
    return backbone, energy, None


class EScAIP(OfNumbers):
    config: EScAIPConfig

    def __init__(self, config: EScAIPConfig):
        super().__init__(config)
        self.backbone, self.energy, self.force_head = build(config)

    def _apply(self, fn: Any, recurse: bool = True) -> EScAIP:
        """Modules of the package remember the type that they were built for."""
        super()._apply(fn, recurse)
        for module in self.backbone.modules():
            if hasattr(module, "backbone_dtype"):
                module.backbone_dtype = next(self.parameters()).dtype
        return self

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        batch = types.SimpleNamespace(
            atomic_numbers=self.numbers[graph.species],
            pos=graph.pos,
            batch=torch.zeros_like(graph.batch),
            num_graphs=1,
            found=neighbours(graph, vec, self.config.cutoff),
        )
        found = self.backbone.compiled_forward(self.backbone.data_preprocess(batch))
        nodes = found["node_features"].to(vec)
        site = self.energy.energy_layer(self.energy.node_norm(nodes)).squeeze(-1)
        if self.force_head is None:
            return site, None
        edges = found["edge_features"].to(vec)
        return site, self.force_head.compiled_forward(edges, nodes, found["data"])


def neighbours(graph: GraphBatch, vec: Tensor, cutoff: float) -> tuple[Any, ...]:
    """What the package's search returns, of our edges: vectors (n, k, 3), distance over the cutoff
    (n, k), inf in empty slots, three fields that nobody reads, and atoms (2, n, k). The first slot
    of an atom is the atom itself."""
    n = graph.species.shape[0]
    inside = vec.square().sum(1) < cutoff**2
    receiver, sender, vec = graph.receiver[inside], graph.sender[inside], vec[inside]
    start = segment_bounds(receiver, n, False)[:-1]
    slot = 1 + torch.arange(len(vec), device=vec.device) - start[receiver]
    k = 1 + int(slot.max()) if len(slot) else 1
    atoms = torch.arange(n, device=vec.device)
    vectors = vec.new_zeros(n, k, 3).index_put((receiver, slot), vec)
    env = vec.new_full((n, k), torch.inf)
    env = env.index_put((receiver, slot), vec.norm(dim=1) / cutoff)
    env = env.index_put((atoms, torch.zeros_like(atoms)), vec.new_zeros(()))
    index = torch.zeros(2, n, k, dtype=torch.long, device=vec.device)
    index[:, atoms, 0] = atoms
    index[:, receiver, slot] = torch.stack([receiver, sender])
    return vectors, env, None, None, None, index


ARCHITECTURE = Architecture(
    name="escaip",
    title="EScAIP",
    config=EScAIPConfig,
    model=EScAIP,
    symmetry="none",
    depths=((float("inf"), 4),),
    step=8,
    smallest_width=8,
    learning_rate=1e-3,
    packages=("fairchem-core",),
    capture=False,
)
