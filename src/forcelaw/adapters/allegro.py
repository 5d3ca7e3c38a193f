"""Allegro (Musaelian et al., arXiv 2204.05249) of the package nequip-allegro: AllegroModel with
random weights, sized by its scalar features. Built on NequIP's package, and taken from it as NequIP
is (:mod:`.nequip`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import nn

from ..models import Architecture, ModelConfig
from .nequip import NequIP, energies, isolated


class AllegroConfig(ModelConfig):
    """width: scalar features; tensor features and units of the perceptrons follow from it."""

    forces: Literal["conservative"] = "conservative"
    lmax: int = Field(2, ge=1, le=3, description="degree of the spherical harmonics")
    parity: bool = Field(True, description="tensor features of odd parity too")
    bessel: int = Field(8, ge=1, description="radial functions")


class Allegro(NequIP):
    @staticmethod
    def build(c: Any) -> nn.Module:
        with isolated():
            from allegro.model import AllegroModel

        embed = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": c.bessel}
        return energies(
            AllegroModel,
            c,
            l_max=c.lmax,
            parity=c.parity,
            radial_chemical_embed=embed,
            num_scalar_features=c.width,
            num_tensor_features=max(1, c.width // 2),
            allegro_mlp_hidden_layers_width=c.width,
            readout_mlp_hidden_layers_width=c.width,
        )


ARCHITECTURE = Architecture(
    name="allegro",
    title="Allegro",
    config=AllegroConfig,
    model=Allegro,
    symmetry="E(3)",
    depths=((float("inf"), 2),),
    smallest_width=4,
    learning_rate=1e-2,
    packages=("nequip-allegro", "nequip", "e3nn"),
    capture=False,
)
