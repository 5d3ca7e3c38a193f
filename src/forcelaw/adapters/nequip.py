"""NequIP (Batzner et al., arXiv 2101.03164) of the package nequip: NequIPGNNModel with random
weights, sized by its features.

The package takes edge vectors as an input, so that its energies of atoms are a function of ours
alone; forces and stress are derived from them here. Its authors train on the squares of errors per
atom, with an exponential average of the weights.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..elements import SYMBOLS
from ..graph import GraphBatch
from ..models import Architecture, ForceField, ModelConfig


class NequIPConfig(ModelConfig):
    """width: features of degree 0; those of higher degrees are half as many."""

    forces: Literal["conservative"] = "conservative"
    lmax: int = Field(2, ge=1, le=4, description="degree of features and spherical harmonics")
    parity: bool = Field(False, description="features of odd parity too")
    bessel: int = Field(8, ge=1, description="radial functions")
    radial_width: int = Field(128, ge=1, description="hidden units of the radial functions")


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Without the package's warnings, and with default type and random state as they were: it sets
    both for the whole process."""
    kind = torch.get_default_dtype()
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_default_dtype(kind)


def energies(builder: Callable[..., nn.Module], c: ModelConfig, **options: Any) -> nn.Module:
    """A model of the package for energies alone, by one of its builders; the seed is drawn from
    torch's."""
    from nequip.utils.global_state import set_global_state

    seed = int(torch.randint(2**31, (), device="cpu"))
    with isolated():
        set_global_state()
        return builder(
            seed=seed,
            model_dtype="float32",
            r_max=c.cutoff,
            type_names=[SYMBOLS[z] for z in c.elements],
            num_layers=c.depth,
            avg_num_neighbors=c.mean_degree,
            per_type_energy_scales=1.0,
            per_type_energy_shifts=0.0,
            do_derivatives=False,
            **options,
        )


class NequIP(ForceField):
    config: NequIPConfig

    def __init__(self, config: NequIPConfig):
        super().__init__(config)
        self.package = self.build(config)

    @staticmethod
    def build(c: Any) -> nn.Module:
        """The package's model."""
        with isolated():
            from nequip.model import NequIPGNNModel

        return energies(
            NequIPGNNModel,
            c,
            l_max=c.lmax,
            parity=c.parity,
            num_features=[c.width, *[max(1, c.width // 2)] * c.lmax],
            radial_mlp_width=c.radial_width,
            num_bessels=c.bessel,
        )

    def _apply(self, fn: Any, recurse: bool = True) -> NequIP:
        """Modules of the package remember the type that they were built for."""
        super()._apply(fn, recurse)
        kind = next(self.parameters()).dtype
        for module in self.package.modules():
            for name in ("_output_dtype", "model_dtype"):
                if hasattr(module, name):
                    setattr(module, name, kind)
        return self

    def atomwise(self, graph: GraphBatch, vec: Tensor) -> tuple[Tensor, None]:
        data = {
            "pos": graph.pos,
            "edge_index": torch.stack([graph.receiver, graph.sender]),
            "edge_vectors": vec,
            "atom_types": graph.species,
            "batch": torch.zeros_like(graph.batch),
            "num_atoms": torch.full((1,), graph.pos.shape[0], device=vec.device),
        }
        return self.package(data)["atomic_energy"].squeeze(-1).to(vec), None


ARCHITECTURE = Architecture(
    name="nequip",
    title="NequIP",
    config=NequIPConfig,
    model=NequIP,
    symmetry="E(3)",
    depths=((float("inf"), 4),),
    smallest_width=4,
    learning_rate=1e-2,
    packages=("nequip", "e3nn"),
    capture=False,
)
