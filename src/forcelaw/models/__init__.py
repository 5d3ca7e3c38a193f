"""All architectures, in one explicit dictionary: a new one is a file and a line here."""

from __future__ import annotations

from . import egnn, esen, gemnet_oc, mpnn, painn
from .base import Architecture, Flops, ForceField, ModelConfig

ARCHITECTURES: dict[str, Architecture] = {
    "mpnn": mpnn.ARCHITECTURE,
    "painn": painn.ARCHITECTURE,
    "egnn": egnn.ARCHITECTURE,
    "gemnet_oc": gemnet_oc.ARCHITECTURE,
    "esen": esen.ARCHITECTURE,
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Flops",
    "ForceField",
    "ModelConfig",
    "build",
    "make_config",
]


def architecture(name: str) -> Architecture:
    """The entry of ``name``; an unknown name is an error that lists the known ones."""
    from ..errors import StudyError

    if name not in ARCHITECTURES:
        raise StudyError(
            f"unknown architecture {name!r}", remedy=f"use one of: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def make_config(spec: dict) -> ModelConfig:
    """A validated model configuration from a plain dictionary with the key "architecture"; JSON's
    lists become tuples."""
    return architecture(spec["architecture"]).config(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
    )


def build(config: ModelConfig, seed: int | None = None) -> ForceField:
    """A model with fresh weights; the same seed gives the same weights. The global random state is
    left as it was."""
    import torch

    entry = architecture(config.architecture)
    if seed is None:
        return entry.model(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.model(config)
