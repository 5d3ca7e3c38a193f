"""Closed-form FLOPs against ``torch.utils.flop_counter`` on real graphs: equal to the last FLOP.

The counter sees matrix products (mm, addmm, bmm, linear), as the closed forms do; pointwise
products, norms, gathers and segment sums are in neither.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from forcelaw.graph import GraphBatch
from forcelaw.models import ARCHITECTURES, Flops, ForceField, ModelConfig, build
from forcelaw.models.attention import AttentionConfig
from forcelaw.models.flops import counted as counted_flops
from forcelaw.models.flops import counter
from forcelaw.models.gemnet_config import GemNetOCConfig, operations
from forcelaw.models.gemnet_index import build_index
from forcelaw.models.platonic import PlatonicConfig
from tests.models.configs import Variant, direct_variants, small_config
from tests.models.gemnet_lists import counts
from tests.models.tools import make_graph
from tests.molecules import all_molecules, random_cluster

GRAPH = make_graph(all_molecules(), torch.float32)
SMALL_GRAPH = make_graph([random_cluster(20, 3), random_cluster(17, 4)], torch.float32)
SPARSE_GRAPH = make_graph([random_cluster(9, 5, density=0.01), random_cluster(5, 6)], torch.float32)
GRAPHS = (GRAPH, SMALL_GRAPH, SPARSE_GRAPH)
variants = pytest.mark.parametrize("variant", direct_variants(), ids=lambda v: v.id)
LINEAR = ("mpnn", "painn", "egnn", "platonic")  # products of edges and of atoms alone
# attention has rows of tokens too, with empty slots
WITHOUT_TABLES = (*LINEAR, "attention")  # nothing is computed once per batch

# FLOPs per edge and per unit of width of products whose input needs no gradient (geometry times W):
# their backward pass computes the gradient of the weight only, one product instead of two
CONSTANT_INPUT = {
    "mpnn": lambda c: 2.0 * c.depth * c.geometry * c.width,
    "painn": lambda c: 2.0 * c.depth * c.radial * 3 * c.width,
    "egnn": lambda c: 2.0 * c.depth * c.radial * c.width,
}


def counted(config: ModelConfig, graph: GraphBatch, *, backward: bool) -> int:
    model = build(config, seed=0)
    with counter() as found:
        energy, forces = model(graph)
        if backward:
            (energy.sum() + forces.sum()).backward()
    return found.get_total_flops()


def closed_form(config: ModelConfig) -> Flops:
    return ARCHITECTURES[config.architecture].flops(config)


def attention_form(config: ModelConfig, graph: GraphBatch) -> float:
    """Forward FLOPs of attention in padded molecules, or in rows of the edges into an atom; none in
    other architectures."""
    if isinstance(config, PlatonicConfig):
        return closed_form(config).per_edge * graph.n_graphs * int(graph.natoms.max()) ** 2
    if isinstance(config, AttentionConfig):
        slots = -(-(1 + int(torch.bincount(graph.receiver).max())) // 8) * 8
        layers = config.depth * config.attention_layers
        return 4.0 * layers * config.width * len(graph.pos) * slots**2
    return 0.0


def forward_form(config: ModelConfig, graph: GraphBatch) -> float:
    """The closed form at the statistics of one graph.

    GemNet-OC: its configuration says how many neighbours have a middle edge of quadruplets; and
    products over padded rows run over empty slots too, which are no part of the definition.
    """
    edges, atoms = len(graph.sender), len(graph.pos)
    if isinstance(config, PlatonicConfig):  # and pairs of empty slots in padded molecules
        form = closed_form(config)
        rest = form.forward(edges, atoms) - (edges + atoms) * form.per_edge
        return rest + attention_form(config, graph)
    if isinstance(config, AttentionConfig):
        alone = closed_form(config.model_copy(update={"mean_degree": -1.0}))  # sees no tokens
        return alone.forward(edges, atoms) + attention_form(config, graph)
    if not isinstance(config, GemNetOCConfig):
        return closed_form(config).forward(edges, atoms)
    number = counts(build_index(graph, graph.vectors(), config.near))
    here = config.model_copy(update={"quad_degree": number["short_edges"] / atoms})
    return closed_form(here).forward(edges, atoms) + 2.0 * operations(config).row * (
        number["rows"] - edges
    )


def sizes(variant: Variant) -> list[dict[str, Any]]:
    """Three widths and depths, not growing together: no term may stand for another."""
    width = small_config(variant.name, **variant.options).width
    return [{"width": k * width, "depth": depth} for k, depth in ((1, 3), (2, 1), (3, 2))]


@variants
def test_forward_flops_are_exact(variant: Variant) -> None:
    """Counter minus closed form is the same on graphs with unlike numbers of neighbours: both
    coefficients hold.

    What is left is work per batch (eSEN multiplies its table of elements by weights once): small,
    and nothing at all for architectures without such tables.
    """
    for size in sizes(variant):
        config = small_config(variant.name, **variant.options | size)
        form = closed_form(config)
        # two unknowns, and a third one where there are tables
        graphs = GRAPHS[::2] if variant.name in WITHOUT_TABLES else GRAPHS
        forms = [round(forward_form(config, graph)) for graph in graphs]
        rest = [counted(config, graph, backward=False) - f for graph, f in zip(graphs, forms)]
        assert form.per_edge > 0 and form.per_atom > 0
        assert form.training(10.0, 3.0) == 3.0 * (10.0 * form.per_edge + 3.0 * form.per_atom)
        assert len(set(rest)) == 1, size
        assert rest[0] == 0 or (
            variant.name not in WITHOUT_TABLES and 0 < rest[0] < 0.01 * forms[0]
        ), size


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize("name", LINEAR)
def test_flops_without_a_closed_form_are_counted(name: str, forces: str) -> None:
    config = small_config(name, forces=forces, mean_degree=9.0)
    found, form = counted_flops(ARCHITECTURES[name].model, config), closed_form(config)
    assert found.forward(9.0, 1.0) == form.forward(9.0, 1.0)
    # attention is over all pairs of a molecule, whatever the edges
    assert found == form or name == "platonic"


class Own(ForceField):
    """A model that makes its forces itself."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.inner = build(config.model_copy(update={"forces": "direct"}), seed=0)

    def forward(self, graph: GraphBatch) -> tuple[torch.Tensor, torch.Tensor]:
        pos = graph.pos.clone().requires_grad_()
        energy = self.inner._total(self.inner.atomwise(graph, graph.vectors(pos))[0], graph)
        return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=True)[0]


def test_a_gradient_that_a_model_makes_itself_is_not_counted_twice() -> None:
    """Six forward passes of the energy are a step, whoever differentiates; a few products less,
    for what depends on no parameter or no position."""
    config = small_config("painn", forces="conservative", depth=3, width=32)
    own, ours = counted_flops(Own, config), closed_form(config)
    assert 0.75 < own.forward(20, 1) / ours.forward(20, 1) < 1.0


class Spread(ForceField):
    """A model that makes a matrix of its weights in every step."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.inner = build(config, seed=0)
        self.weights = torch.nn.Parameter(torch.ones(2, 64, 64))

    def atomwise(self, graph: GraphBatch, vec: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner.atomwise(graph, vec * (self.weights[0] @ self.weights[1]).mean())


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_what_is_made_of_weights_once_a_step_is_no_work_of_the_atoms(forces: str) -> None:
    config = small_config("mpnn", forces=forces, mean_degree=9.0)
    assert counted_flops(Spread, config) == counted_flops(ARCHITECTURES["mpnn"].model, config)


def test_the_three_graphs_tell_edges_from_atoms() -> None:
    degrees = [len(graph.sender) / len(graph.pos) for graph in GRAPHS]
    assert degrees[2] < 0.7 * degrees[0] and degrees[0] < 0.7 * degrees[1]


@variants
def test_forward_and_backward(variant: Variant) -> None:
    """Three forward passes, less the gradients of geometry, which nobody asks for with direct
    forces."""
    config = small_config(variant.name, **variant.options)
    forward = forward_form(config, GRAPH)
    total = counted(config, GRAPH, backward=True)
    # fused attention computes its weights once more on the way back
    most = 3.01 * forward + 0.5 * attention_form(config, GRAPH)
    assert 2.0 * forward <= total <= most
    if variant.name in CONSTANT_INPUT and not getattr(config, "on_edges", False):
        assert total == 3.0 * forward - CONSTANT_INPUT[variant.name](config) * len(GRAPH.sender)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_is_three_forward_passes_at_the_base_width(name: str) -> None:
    """C = 3 kappa N D overstates the products really computed, by at most a fifth at a million
    parameters."""
    entry = ARCHITECTURES[name]
    config = entry.config(
        architecture=name, width=entry.base_width, depth=4, elements=(1, 6, 7, 8, 9, 16)
    )
    form = closed_form(config)
    ratio = counted(config, SMALL_GRAPH, backward=True) / form.training(
        len(SMALL_GRAPH.sender), len(SMALL_GRAPH.pos)
    )
    assert 0.8 < ratio < 1.01


def test_additive_mpnn_at_the_ladder_of_the_reference() -> None:
    """Reference 2.1: F_node = 2K 11 d^2 + 4 d^2 (+ heads' last rows), F_edge = 2K (3 + B) d."""
    d, depth, radial = 144, 4, 8
    config = small_config("mpnn", message="additive", width=d, depth=depth, radial=radial)
    form = closed_form(config)
    assert form.per_edge == 2 * depth * (3 + radial) * d
    assert form.per_atom == 2 * depth * 11 * d * d + 4 * d * d + 2 * 4 * d


def test_padding_is_computed_and_the_closed_form_says_so() -> None:
    """The closed form takes what is on the device: with padding, edges and atoms are those of the
    padded batch."""
    from tests.models.tools import padded

    for name in ("mpnn", "painn", "egnn"):
        config = small_config(name)
        graph = padded(GRAPH, atoms=6, edges=40, graphs=1)
        assert counted(config, graph, backward=False) == closed_form(config).forward(
            len(GRAPH.sender) + 40, len(GRAPH.pos) + 6
        )
