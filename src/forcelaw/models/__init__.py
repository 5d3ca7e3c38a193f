"""All architectures, by name. One of ours is a file and a line here; one of yours needs no line:
give the import path of its class (``my_package.models:MyModel``) or declare an entry point in the
group ``forcelaw.architectures``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..errors import StudyError
from ..plugins import code_of, known, resolve
from . import attention, egnn, esen, gemnet_oc, mpnn, painn, platonic
from .base import Architecture, Flops, ForceField, ModelConfig
from .contract import look_at

GROUP = "forcelaw.architectures"
ARCHITECTURES: dict[str, Architecture] = {
    "mpnn": mpnn.ARCHITECTURE,
    "painn": painn.ARCHITECTURE,
    "egnn": egnn.ARCHITECTURE,
    "gemnet_oc": gemnet_oc.ARCHITECTURE,
    "esen": esen.ARCHITECTURE,
    "platonic": platonic.ARCHITECTURE,
    "attention": attention.ARCHITECTURE,
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Flops",
    "ForceField",
    "ModelConfig",
    "build",
    "code",
    "make_config",
    "names",
]


def architecture(name: str) -> Architecture:
    """The architecture called ``name``: one of ours, an import path ``module:NAME``, or the name of
    an entry point; a class is described by itself. StudyError if there is none."""
    found = resolve(name, ARCHITECTURES, GROUP, "architecture", StudyError)
    if isinstance(found, type) and issubclass(found, ForceField):
        found = _described(found)
    if not isinstance(found, Architecture):
        raise StudyError(
            f"{name!r} is not an architecture, but {_kind(found)}",
            where="architecture",
            remedy="make it a subclass of forcelaw.models.ForceField, or an instance of"
            " forcelaw.models.Architecture",
        )
    return found


def names() -> list[str]:
    """Ours, then those that installed packages declare."""
    return known(ARCHITECTURES, GROUP)


@lru_cache(maxsize=64)
def _described(model: type[ForceField]) -> Architecture:
    """A class as an architecture. StudyError where it lacks what the contract asks for."""
    where = f"{model.__module__}:{model.__qualname__}"
    if model.atomwise is ForceField.atomwise and model.forward is ForceField.forward:
        raise StudyError(
            "the class computes nothing",
            where=where,
            remedy="define atomwise(self, graph, vec), which returns energies of atoms (n,) and"
            " forces (n, 3); or forward(self, graph): energies (g,) and forces (n, 3)",
        )
    config = model.Config
    if not (isinstance(config, type) and issubclass(config, ModelConfig)):
        raise StudyError(
            f"Config is {_kind(config)}",
            where=where,
            remedy="make it a subclass of forcelaw.models.ModelConfig",
        )
    return Architecture(
        model.__name__.lower(),
        model.__name__,
        config,
        model,
        symmetry=model.symmetry,
        base_width=config.model_fields["base_width"].default,
        learning_rate=model.learning_rate,
    )


def _kind(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__


def code(name: str) -> dict[str, str] | None:
    """Which code an architecture from outside is: versions and hashes of the packages that it is
    written in and names (:func:`forcelaw.plugins.code_of`); None for one of ours."""
    if name in ARCHITECTURES:
        return None
    entry = architecture(name)
    classes = {getattr(found, "__module__", "") for found in (entry.model, entry.config)}
    path = {name.partition(":")[0]} if ":" in name else set()
    return code_of(classes | path - {""}, entry.packages) or None


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

    make = architecture(config.architecture).model
    if seed is None:
        model = make(config)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make(config)
    if config.architecture not in ARCHITECTURES:
        look_at(model, config.architecture)
    return model
