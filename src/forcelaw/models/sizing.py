"""The one dial: architecture and target N give width and depth, and the exact N comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import StudyError
from . import architecture
from .base import Architecture, Flops, ForceField, ModelConfig, typed_options
from .remembered import remembered


@lru_cache(maxsize=4096)
def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """(N, N without embeddings) of a configuration, exactly, without allocating any weight, unless
    a model from outside cannot be built without, or is one of a package."""

    def find() -> tuple[int, int]:
        entry = architecture(config.architecture)
        model = _with_weights(entry, config) if entry.packages else _without_weights(entry, config)
        return model.n_parameters(), model.n_nonembedding()

    n, nonembedding = remembered("parameters", config, find)
    return int(n), int(nonembedding)


def count_flops(config: ModelConfig) -> Flops:
    """Forward FLOPs of a configuration (:meth:`Architecture.flops_for`)."""

    def find() -> tuple[float, float]:
        found = architecture(config.architecture).flops_for(config)
        return found.per_edge, found.per_atom

    return Flops(*remembered("flops", config, find))


def _without_weights(entry: Architecture, config: ModelConfig) -> ForceField:
    try:
        with torch.device("meta"), _NoNormalNumbers():
            return entry.model(config)
    except Exception:  # whatever it is: with weights it does not happen, or is raised again
        return _with_weights(entry, config)


class _NoNormalNumbers(TorchFunctionMode):
    """A weight without memory is not filled with any, as nn.Embedding does: on device "meta" torch
    imports its compiler for that, which takes seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":
            return args[0] if args else kwargs["tensor"]  # as torch.nn.init names it
        return function(*args, **kwargs)


def _with_weights(entry: Architecture, config: ModelConfig) -> ForceField:
    """The model as it trains. Packages keep tensors from one model for the next (e3nn those of
    Clebsch-Gordan): made on device "meta", these have no values, and no later model can be built
    in this process."""
    with torch.random.fork_rng(devices=[]):
        return entry.model(config)


def depth_for(entry: Architecture, target: float) -> int:
    """Layers at a target N, by the architecture's rule."""
    return next(depth for limit, depth in entry.depths if target <= limit)


LARGEST_WIDTH, DEEPEST = 8192, 256


def size(name: str, target: float, *, depth: int | None = None, **options: Any) -> ModelConfig:
    """The configuration of architecture ``name`` whose N is nearest to ``target`` in ratio.

    depth: overrides the architecture's rule. options: anything else of its configuration (elements,
    cutoff, message, ...). Targets that no width reaches within a factor of 1.35 are an error that
    says what can be had.
    """
    entry = architecture(name)
    layers = depth or depth_for(entry, target)
    if isinstance(layers, int) and layers > DEEPEST:
        raise StudyError(
            f"{name} with {layers:,} layers", remedy=f"choose a depth of at most {DEEPEST}"
        )

    def configured(width: int) -> ModelConfig:
        return entry.config(architecture=name, width=width, depth=layers, **options)

    def miss(width: int) -> float:
        return math.log(count_parameters(configured(width))[0] / target)

    # N is about quadratic in the width, so a few steps in the square root come close; each costs a
    # model without weights
    widths = _Widths.of(entry, options)
    width, visited = widths.nearest(entry.base_width), set()
    while width not in visited:
        visited.add(width)
        width = widths.nearest(min(LARGEST_WIDTH, width * math.exp(-0.5 * miss(width))))
    while miss(width) > 0 and widths.beside(width, -1) < width:
        width = widths.beside(width, -1)
    while miss(width) < 0 and width < LARGEST_WIDTH:
        width = widths.beside(width, +1)
    best = min(
        (widths.beside(width, -1), width), key=lambda w: abs(miss(w))
    )  # N grows with width: the two around the target
    if abs(miss(best)) > 0.3:
        got = count_parameters(configured(best))[0]
        choose = "another size or depth"
        if got > target and widths.beside(best, -1) == best:
            choose = f"sizes of {got:,} or more, or another depth"
        elif got < target and best >= LARGEST_WIDTH:
            choose = f"sizes of {got:,} or less, or another depth"
        raise StudyError(
            f"{name} with {layers} layers cannot have about {target:,.0f} parameters; nearest is"
            f" {got:,}",
            remedy=f"choose {choose}",
        )
    return configured(best)


@dataclass(frozen=True)
class _Widths:
    """The widths that are used: multiples of a step, above 64 of 8 at least."""

    step: int
    smallest: int

    @classmethod
    def of(cls, entry: Architecture, options: dict[str, Any]) -> _Widths:
        step = entry.step
        if entry.step_of is not None:
            step = entry.step_of(typed_options(entry.config, options))
        return cls(step, max(entry.smallest_width, step))

    def nearest(self, width: float) -> int:
        step = max(8, self.step) if width > 64 else self.step
        return max(self.smallest, round(width / step) * step)

    def beside(self, width: int, direction: int) -> int:
        """The width above (+1) or below (-1) one that is used; the smallest has none below."""
        wide = width > 64 or (width == 64 and direction > 0)
        return max(self.smallest, width + direction * (max(8, self.step) if wide else self.step))
