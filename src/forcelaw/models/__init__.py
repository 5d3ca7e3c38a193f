"""All architectures, by name. One of ours is a file and a line here; one of yours needs no line:
give its import path (``my_package.models:ARCHITECTURE``) or declare an entry point in the group
``forcelaw.architectures``."""

from __future__ import annotations

from ..errors import StudyError
from ..plugins import resolve
from . import egnn, esen, gemnet_oc, mpnn, painn
from .base import Architecture, Flops, ForceField, ModelConfig

GROUP = "forcelaw.architectures"
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
    """The architecture called ``name``: one of ours, an import path ``module:NAME``, or the name of
    an entry point. StudyError if there is none."""
    found = resolve(name, ARCHITECTURES, GROUP, "architecture", StudyError)
    if not isinstance(found, Architecture):
        raise StudyError(
            f"{name!r} is not an architecture",
            where="architecture",
            remedy="make it an instance of forcelaw.models.base.Architecture",
        )
    return found


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
