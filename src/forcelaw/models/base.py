"""The contract of every force field, and the description of an architecture.

A model maps a :class:`~forcelaw.graph.GraphBatch` to energies (g,) in eV, without reference
energies, and forces (n, 3) in eV/Angstrom. It computes per-atom energies and direct forces in
:meth:`ForceField.atomwise`; with ``forces="conservative"`` the forces are minus the gradient of the
energy instead. Both outputs carry one common scale, so that the ratio of energy to force is that of
physics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor, nn

from .. import ops
from ..errors import StudyError
from ..graph import GraphBatch, segment_sum
from ..settings import Recorded
from .flops import Flops, counted, counter
from .frames import PASSES, in_frames
from .latent import LatentMap
from .mup import Embedding
from .stress import StressHead, per_structure, stress_flops

Symmetry = Literal["E(3)", "SE(3)", "none", "undeclared"]


class ModelConfig(Recorded):
    """What every architecture needs to know. Extra keys are errors."""

    architecture: str
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    elements: tuple[int, ...] = Field(min_length=1)
    """atomic numbers, ascending; one embedding row each"""
    cutoff: float = Field(6.0, gt=0, description="Angstrom")
    mean_degree: float = Field(20.0, gt=0)
    """sums over neighbours are divided by the root of it"""
    scale: float = Field(1.0, gt=0)
    """force RMS of the data, eV/Angstrom; multiplies both outputs"""
    forces: Literal["direct", "conservative"] = "direct"
    base_width: int = Field(128, gt=0)
    """muP: the width at which learning rates are stated"""
    charges: tuple[int, ...] = ()
    """total charges that are told apart, ascending; one embedding row each"""
    spins: tuple[int, ...] = ()
    """spin multiplicities that are told apart, likewise"""
    stress: bool = False
    """direct forces: a head for the stress"""

    canonical: Literal["none", "principal", "average4", "average8"] = "none"
    """direct forces of molecules: the model sees them in their principal frame, or outputs are
    averaged over its frames (:mod:`.frames`)"""

    latent: bool = False
    """a network that turns states, which the latent symmetry loss trains and predictions do without
    (:mod:`.latent`); direct forces"""

    LATER: ClassVar[tuple[str, ...]] = ("charges", "spins", "stress", "canonical", "latent")

    @model_validator(mode="after")
    def _latent_of_direct_forces(self) -> ModelConfig:
        if self.latent and (self.canonical != "none" or self.forces == "conservative"):
            raise ValueError("latent is for models with direct forces and without canonical")
        return self

    @model_validator(mode="after")
    def _frames_of_direct_forces(self) -> ModelConfig:
        if self.canonical != "none" and (self.stress or self.forces == "conservative"):
            raise ValueError("canonical is for models with direct forces and no stress")
        return self

    @property
    def passes(self) -> int:
        """Forward passes of one prediction."""
        return PASSES[self.canonical]

    @property
    def has_stress(self) -> bool:
        """Whether the model gives a stress."""
        return self.stress or self.forces == "conservative"

    @property
    def embedding_width(self) -> int:
        """Channels of a row of an embedding."""
        return self.width

    @property
    def m(self) -> float:
        """muP width multiplier."""
        return self.width / self.base_width


class ForceField(nn.Module):
    """Base class of all architectures; see the module's docstring for the contract.

    A subclass defines :meth:`atomwise`, and gets both kinds of forces, the stress, padding and the
    scale; or :meth:`forward`, and does all of it itself. Config, symmetry and learning_rate
    describe a subclass that is named itself (``my_package.models:MyModel``); everything else an
    :class:`Architecture` can say.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    symmetry: ClassVar[Symmetry] = "undeclared"
    learning_rate: ClassVar[float] = 1e-3
    kernels_give_forces: bool = False
    """whether all operations of :meth:`atomwise` that have kernels are of
    :class:`forcelaw.ops.register.Twice`: gradient forces take plain torch else"""

    config: ModelConfig

    embedding: Embedding  # of elements, which :meth:`embed` reads

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.charges = self.spins = None
        if config.charges:
            self.charges = Embedding(len(config.charges), config.embedding_width, config.m)
        if config.spins:
            self.spins = Embedding(len(config.spins), config.embedding_width, config.m)
        self.stress: StressHead | None = None
        if config.stress and config.forces == "direct":
            c = config
            self.stress = StressHead(c.embedding_width, c.m, c.cutoff, c.mean_degree)
        self.latent: LatentMap | None = None
        if config.latent:
            with torch.random.fork_rng(devices=[]):  # the other weights of a seed stay
                self.latent = LatentMap(config.embedding_width, config.m)
        self._states: Tensor | None = None
        self._keeping = False

    def embed(self, graph: GraphBatch) -> Tensor:
        """States of the atoms to start with, (n, embedding_width): rows of their element and, where
        the model has them, of the total charge and spin multiplicity of their structure. Scalars,
        so that no symmetry is lost, and no matrix product."""
        h = self.embedding(graph.species)
        for table, index in ((self.charges, graph.charge), (self.spins, graph.spin)):
            if table is not None:
                if index is None:
                    raise ValueError("the model knows charge or spin, and the batch has none")
                owner = graph.batch.clamp_max(graph.n_graphs - 1)  # padding: any
                h = h + table(index).index_select(0, owner)
        return h

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unscaled per-atom energies (n,) and direct forces (n, 3) from edge vectors (e, 3); no
        forces, and no weights for them, in a conservative model."""
        raise NotImplementedError(f"{type(self).__name__} has no per-atom energies: no stress")

    def forward(self, graph: GraphBatch) -> tuple[Tensor, Tensor]:
        """Energies (g,) eV, relative to the reference energies, and forces (n, 3) eV/Angstrom."""
        if self.config.forces == "conservative":
            return self._conservative(graph)
        if self.config.canonical != "none":
            return in_frames(self._direct, graph, self.config.canonical)
        return self._direct(graph)

    def _direct(self, graph: GraphBatch) -> tuple[Tensor, Tensor]:
        vec = graph.vectors()
        # whoever wants a gradient by positions of a model with direct forces has it by plain torch
        with ops.using("torch") if vec.requires_grad else contextlib.nullcontext():
            site, forces = self.atomwise(graph, vec)
        return self._total(site, graph), forces * self.config.scale

    def _total(self, site: Tensor, graph: GraphBatch) -> Tensor:
        # padding atoms carry the index n_graphs: one extra row takes them and is cut off
        extra = 1 if graph.pad else 0
        return (
            segment_sum(site, graph.batch, graph.n_graphs + extra)[: graph.n_graphs]
            * self.config.scale
        )

    def remember(self, h: Tensor) -> Tensor:
        """States (n, embedding_width) that the energy is read from, as they are: :meth:`atomwise`
        calls it, so that the stress head and the latent symmetry loss can read them too. Invariant
        where the model is."""
        if self._keeping:
            self._states = h
        return h

    def _remembered(self, call: Callable[[], Any]) -> tuple[Any, Tensor | None]:
        """What ``call`` returns, and the states that it had remembered."""
        self._keeping = True
        try:
            found = call()
            return found, self._states
        finally:
            # nothing may hold on to the batch
            self._keeping, self._states = False, None

    def with_states(self, graph: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Energies and forces as :meth:`forward` gives them, and the states (n, embedding_width)
        that the energy was read from. StudyError for models that show none."""
        (energy, forces), states = self._remembered(lambda: self(graph))
        if states is None:
            raise StudyError(
                f"{self.config.architecture} shows no states for the latent symmetry loss",
                remedy="use symmetry_penalty: square, or let its atomwise call remember()",
            )
        return energy, forces, states

    def with_virial(self, graph: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Energies and forces as :meth:`forward` gives them, and virials (g, 3, 3) in eV; the
        stress is the virial over the volume. With gradient forces it is the derivative of the
        energy by a symmetric strain of positions and cell, with direct forces the output of a head
        of its own (:mod:`.stress`). StudyError for models that have neither."""
        if self.config.forces == "conservative":
            return self._conservative(graph, virial=True)
        if self.stress is None:
            raise StudyError(
                "this model has no stress: its forces are direct, and it was trained without one",
                remedy="train it with stress_weight above 0, or with forces: conservative",
            )
        vec = graph.vectors()
        (site, forces), states = self._remembered(lambda: self.atomwise(graph, vec))
        if states is None:
            raise StudyError(
                f"{self.config.architecture} has no stress head",
                remedy="train it with forces: conservative, or let its atomwise call remember()",
            )
        virial = self.stress(states, vec, graph) * self.config.scale
        return self._total(site, graph), forces * self.config.scale, virial

    def _conservative(self, graph: GraphBatch, virial: bool = False) -> tuple[Tensor, ...]:
        # asked before enable_grad: under no_grad nothing may hold on to the graph
        wanted = torch.is_grad_enabled()
        again = self.training and wanted
        if self.kernels_give_forces and ops.use_triton(graph.pos):
            way = ops.by_positions(again)
        else:
            way = ops.using("twice" if self.training else "torch")
        with torch.enable_grad(), way:
            pos = graph.pos.detach().clone().requires_grad_(True)
            vec = graph.completed(ops.edge_difference(pos, graph))
            site, _ = self.atomwise(graph, vec)
            energy = self._total(site, graph)
            inputs = (pos, vec) if virial else (pos,)
            # zeros where nothing is read: a model may return at once where there are no edges
            gradient, *by_vector = (
                torch.autograd.grad(
                    energy.sum(), inputs, create_graph=again, materialize_grads=True
                )
                if energy.requires_grad
                else map(torch.zeros_like, inputs)
            )
            more = [_virials(vec, *by_vector, graph)] if virial else []
        if not wanted:
            energy, more = energy.detach(), [x.detach() for x in more]
        return (energy, -gradient, *more)

    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def n_nonembedding(self) -> int:
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        return sum(
            p.numel()
            for p in self.parameters()
            if not (getattr(p, "is_embedding", False) or id(p) in tables)
        )

    def count_flops(self, graph: GraphBatch) -> float:
        """Forward FLOPs on a batch as torch counts them, for models without a closed form.

        Of the energy alone where the forces are its gradient: that training takes six such passes
        then is known (``cost_factor``). Where a model makes its gradient itself, a sixth of what
        a step of training takes.
        """
        whole = type(self).atomwise is ForceField.atomwise
        conservative = self.config.forces == "conservative"
        with counter() as found:
            if conservative and not whole:
                self.atomwise(graph, graph.vectors())
            else:
                energy, forces = self(graph)
                if conservative:
                    (energy.sum() + forces.square().sum()).backward()
        return found.get_total_flops() / (6.0 if conservative and whole else 1.0)


def _virials(vec: Tensor, gradient: Tensor, graph: GraphBatch) -> Tensor:
    """(g, 3, 3) eV from edge vectors (e, 3) and the derivative of the energy by them: a strain eps
    turns every edge vector r into r + eps r, and the energy depends on nothing else."""
    total = per_structure(vec.unsqueeze(2) * gradient.unsqueeze(1), graph)
    return 0.5 * (total + total.transpose(1, 2))


def typed_options(config: type[ModelConfig], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options, texts of a command line among them, as what a configuration makes of them; what it
    does not know or take is left, for it to refuse."""

    def typed(name: str, value: Any) -> Any:
        try:
            return TypeAdapter(config.model_fields[name].annotation).validate_python(value)
        except (KeyError, ValidationError):
            return value

    return {name: typed(name, value) for name, value in options.items()}


@dataclass(frozen=True)
class Architecture:
    """What the laboratory knows of an architecture; all but name, title, config and model may be
    left out.

    flops: closed form of a configuration (default: counted by torch). symmetry: the group for which
    direct forces are exactly equivariant ("E(3)", "SE(3)" or "none": translations and permutations
    only). base_width: muP base, about one million parameters at depth 4. depths: (N up to, depth)
    pairs. step: widths are multiples of it (above 64, of 8). symmetry_of: that group for one
    configuration, where flags change it (eSEN's twins); ask it through :meth:`symmetry_for`, which
    falls back to ``symmetry``. packages: distributions whose versions are part of what it computes;
    with any, sizes are counted with weights, since they may keep tensors for the next model.
    capture: whether a step can be a CUDA graph; without, it runs eagerly on a GPU. step_of: the
    step of the widths for some options, where they decide it. narrowest: width from which every
    stream has channels enough for the law of large numbers that muP rests on, or what gives it for
    some options.
    """

    name: str
    title: str
    config: type[ModelConfig]
    model: Callable[[Any], ForceField]
    flops: Callable[[Any], Flops] = None  # type: ignore[assignment]  # never, once it is made
    symmetry: Symmetry = "undeclared"
    base_width: int = 128
    depths: tuple[tuple[float, int], ...] = ((4e4, 2), (1.8e5, 3), (6e6, 4), (float("inf"), 6))
    step: int = 2
    smallest_width: int = 4
    learning_rate: float = (
        4e-3  # at the base width, 16 to 64 molecules a step; a study sweeps around it
    )
    symmetry_of: Callable[[Any], Symmetry] | None = None
    packages: tuple[str, ...] = ()
    capture: bool = True
    step_of: Callable[[dict[str, Any]], int] | None = None
    narrowest: int | Callable[[dict[str, Any]], int] = 16

    def __post_init__(self) -> None:
        if self.flops is None:
            object.__setattr__(self, "flops", partial(counted, self.model))

    def symmetry_for(self, config: ModelConfig) -> Symmetry:
        """The group for which the direct forces of ``config`` are exactly equivariant."""
        return self.symmetry_of(config) if self.symmetry_of is not None else self.symmetry

    def flops_for(self, config: ModelConfig) -> Flops:
        """FLOPs of ``config``, its stress head and all its passes included."""
        found = self.flops(config)
        if not config.stress:
            return Flops(found.per_edge * config.passes, found.per_atom * config.passes)
        head = stress_flops(config.embedding_width)
        return Flops(found.per_edge + head.per_edge, found.per_atom + head.per_atom)
