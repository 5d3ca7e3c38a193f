"""Small configurations of every architecture, and the variants that the contract suite runs on.

A new architecture is picked up from ``forcelaw.models.ARCHITECTURES`` by itself; a line in SMALL
gives it smaller options, a line in EXTRA adds a variant of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from forcelaw.models import ARCHITECTURES, ModelConfig, make_config
from tests.molecules import CUTOFF, ELEMENTS

SMALL: dict[str, dict[str, Any]] = {
    "mpnn": {"width": 16, "depth": 2},
    "painn": {"width": 16, "depth": 2},
    "egnn": {"width": 16, "depth": 2, "channels": 4},
    "esen": {"width": 8, "depth": 2},
    "gemnet_oc": {"width": 8, "depth": 2},
    "platonic": {"width": 16, "depth": 2},
    "attention": {"width": 16, "depth": 2},
}


@dataclass(frozen=True)
class Variant:
    """One case of the contract suite: an architecture with options. coordinates: also in the muP
    coordinate check."""

    id: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    coordinates: bool = False

    @property
    def symmetry(self) -> str:
        """The group for which it must be exact, as the architecture declares it for this
        configuration."""
        return ARCHITECTURES[self.name].symmetry_for(small_config(self.name, **self.options))

    @property
    def conservative(self) -> bool:
        return self.options.get("forces") == "conservative"

    def __hash__(self) -> int:
        return hash(self.id)


EXTRA: list[Variant] = [
    Variant("mpnn-additive", "mpnn", {"message": "additive"}, coordinates=True),
    Variant("mpnn-edges", "mpnn", {"feed_forward": "edges"}, coordinates=True),
    Variant("mpnn-additive-edges", "mpnn", {"message": "additive", "feed_forward": "edges"}),
    Variant("mpnn-no-angular", "mpnn", {"angular": 0}),
    Variant("egnn-one-layer", "egnn", {"depth": 1, "channels": 3}),
    Variant("esen-lmax1", "esen", {"lmax": 1}, coordinates=True),
    Variant("esen-lmax3", "esen", {"lmax": 3}, coordinates=True),
    Variant("esen-lmax4", "esen", {"lmax": 4}, coordinates=True),
    Variant("esen-parity", "esen", {"parity": True}, coordinates=True),
    Variant("esen-untied", "esen", {"untied": True, "epsilon": 0.5}, coordinates=True),
    Variant("esen-rolled", "esen", {"untied": True, "epsilon": 0.5, "roll": "random"}),
    Variant("esen-global", "esen", {"frames": "global"}, coordinates=True),
    Variant("esen-rms", "esen", {"norm": "rms"}),
    Variant("esen-grid", "esen", {"feed_forward": "grid"}, coordinates=True),
    Variant("esen-free-head", "esen", {"head": "free"}, coordinates=True),
    Variant("esen-last", "esen", {"frames": "global", "broken_layers": 1}),
    Variant("painn-untied", "painn", {"untied": True, "epsilon": 0.5}, coordinates=True),
    Variant("painn-bessel", "painn", {"basis": "bessel", "radial": 8}),
    Variant("painn-pair", "painn", {"filter": "pair", "norm": "rms"}),
    Variant("painn-gate", "painn", {"gate": True}),
    Variant("painn-all", "painn", {"filter": "pair", "ends": "both", "gate": True}),
    Variant("painn-both", "painn", {"ends": "both"}),
    Variant("platonic-t", "platonic", {"group": "T", "width": 48}, coordinates=True),
    Variant("platonic-o", "platonic", {"group": "O", "width": 96}),
    Variant("attention-pet", "attention", {"radial": 0, "angular": 0, "attention_layers": 2}),
]


def small_config(name: str, **options: Any) -> ModelConfig:
    """A small configuration of architecture ``name`` for the molecules of ``molecules.py``; options
    override."""
    default = {"width": max(8, ARCHITECTURES[name].smallest_width), "depth": 2}
    common = {"architecture": name, "elements": ELEMENTS, "cutoff": CUTOFF, "scale": 1.7}
    return make_config(common | SMALL.get(name, default) | options)


def direct_variants() -> list[Variant]:
    return [
        *(Variant(name, name) for name in ARCHITECTURES),
        *(v for v in EXTRA if v.name in ARCHITECTURES),
    ]


def conservative_variants() -> list[Variant]:
    return [
        Variant(f"{name}-conservative", name, {"forces": "conservative"}) for name in ARCHITECTURES
    ]


def stress_variants() -> list[Variant]:
    """Direct forces with a head for the stress."""
    return [Variant(f"{name}-stress", name, {"stress": True}) for name in ARCHITECTURES]


def all_variants() -> list[Variant]:
    return direct_variants() + conservative_variants()
