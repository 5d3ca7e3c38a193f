"""What a certificate is about: an architecture with options, on the data of a pack."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..data.device_dataset import Shard
from ..data.pack import Pack
from ..errors import StudyError
from ..models import Architecture, ForceField, ModelConfig, architecture, build
from ..models.mup import is_standard
from ..models.sizing import size
from ..training.spec import data_options, training_set
from .structures import Structure, cluster, of_pack, randomise, scatter

TARGETS = (1e4, 1e5, 1e6)


@dataclass
class Subject:
    """An architecture under test. options: of its configuration, ``forces`` among them. degree:
    neighbours of an atom, by default those of the data. parameters: of the model that lines about
    one model measure; by default the fewest of some sizes that it can have."""

    name: str
    pack: Pack
    cutoff: float = 6.0
    options: dict[str, Any] = field(default_factory=dict)
    depth: int = 2
    parameters: float | None = None

    @cached_property
    def entry(self) -> Architecture:
        return architecture(self.name)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What a configuration takes from the data."""
        return data_options(self.pack, cutoff=self.cutoff)

    def sized(self, target: float, **more: Any) -> ModelConfig:
        """The configuration of about ``target`` parameters, as a study would have it."""
        given = {**self.data, **self.options, **more}
        return size(self.name, target, depth=given.pop("depth", None), **given)

    def of_width(self, width: int, **more: Any) -> ModelConfig:
        """The configuration of a width."""
        given = {**self.data, "depth": self.depth, **self.options, **more}
        return self.entry.config(architecture=self.name, width=width, **given)

    @cached_property
    def small(self) -> ModelConfig:
        """A small configuration: the first of some sizes that it can have."""
        sizes = (1e4, 3e4, 1e5, 3e5) if self.parameters is None else (self.parameters,)
        for target in sizes:
            try:
                return self.sized(target, depth=self.options.get("depth", self.depth))
            except StudyError as error:
                last = error
        raise last

    def model(self, **changes: Any) -> ForceField:
        """The small model in float64, with random weights everywhere."""
        config = self.small.model_validate({**self.small.model_dump(), **changes})
        model = build(config, seed=0).double()
        randomise(model)
        # muP divides the input of a head by width / base width, which is below one here: undo what
        # that does to random heads
        with torch.no_grad():
            for parameter in model.parameters():
                if getattr(parameter, "mup_kind", "") == "output":
                    parameter.mul_(model.config.m)
        return model.eval()

    @cached_property
    def fixed(self) -> ForceField:
        """The same, for lines that do not change it."""
        return self.model()

    @cached_property
    def scatter(self) -> float:
        """Error of a second call of the model on the structures against the first."""
        return scatter(self.structures, self.fixed)

    @cached_property
    def standard(self) -> bool:
        """Whether it is in the standard parametrisation."""
        return is_standard(build(self.small, seed=0))

    @cached_property
    def structures(self) -> list[Structure]:
        """Structures of the data, and random clusters that hold every element."""
        n = len(self.pack.elements)
        return [*of_pack(self.pack), cluster(max(6, min(n, 20)), n, 1), cluster(13, n, 2)]

    @cached_property
    def crystals(self) -> list[Structure]:
        """The periodic ones of them."""
        return [s for s in self.structures if s.cell is not None]

    @cached_property
    def shard(self) -> Shard:
        """The smallest of some training structures, with their labels."""
        rows = training_set(self.pack, 256)
        sizes = self.pack.offsets[rows + 1] - self.pack.offsets[rows]
        rows = rows[sizes.argsort(kind="stable")[: 64 + 8]][8:]
        rows = rows if len(rows) else training_set(self.pack, 16)
        return Shard(self.pack, rows, cutoff=self.cutoff, elements=tuple(self.pack.elements))

    def batch(self, first: int, count: int) -> tuple[Any, Any]:
        """A batch of the shard with its targets, in float32."""
        rows = torch.arange(first, first + count) % len(self.shard)
        host = rows.numpy()
        atoms, edges = (x[host].sum() for x in (self.shard.host_natoms, self.shard.host_nedges))
        return self.shard.batch(rows, int(atoms), int(edges))
