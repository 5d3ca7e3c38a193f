"""The one dial: architecture and target N give width and depth, and the exact N comes back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from ..errors import StudyError
from . import architecture
from .base import Architecture, ModelConfig


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """(N, N without embeddings) of a configuration, exactly, without allocating any weight."""
    with torch.device("meta"):
        model = architecture(config.architecture).model(config)
    return model.n_parameters(), model.n_nonembedding()


def depth_for(entry: Architecture, target: float) -> int:
    """Layers at a target N, by the architecture's rule (ladders in reference/architectures.md, 1.5 and 3)."""
    return next(depth for limit, depth in entry.depths if target <= limit)


def _round_width(width: float, entry: Architecture) -> int:
    step = 8 if width > 64 and entry.step <= 8 else entry.step
    return max(entry.smallest_width, round(width / step) * step)


def size(name: str, target: float, *, depth: int | None = None, **options: Any) -> ModelConfig:
    """The configuration of architecture ``name`` whose N is nearest to ``target`` in ratio.

    depth: overrides the architecture's rule. options: anything else of its configuration (elements, cutoff, message, ...).
    Targets that no width reaches within a factor of 1.35 are an error that says what can be had.
    """
    entry = architecture(name)
    layers = depth or depth_for(entry, target)
    frozen = tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items()))
    low, high = 1, 8192
    while high - low > 1:  # N grows with width: bisect on the unrounded width, then look at its neighbours
        middle = (low + high) // 2
        if _parameters(name, middle, layers, frozen) <= target:
            low = middle
        else:
            high = middle
    candidates = {_round_width(low + shift, entry) for shift in (-8, -4, -2, 0, 1, 2, 4, 8)}
    best = min(candidates, key=lambda w: (abs(_log_ratio(_parameters(name, w, layers, frozen), target)), w))
    got = _parameters(name, best, layers, frozen)
    if abs(_log_ratio(got, target)) > 0.3:
        raise StudyError(f"{name} with {layers} layers cannot have about {target:,.0f} parameters; nearest is {got:,}",
                         remedy="choose another size or depth")
    return entry.config(architecture=name, width=best, depth=layers, **options)


def _log_ratio(a: float, b: float) -> float:
    import math

    return math.log(a / b)


@lru_cache(maxsize=4096)
def _parameters(name: str, width: int, depth: int, options: tuple[tuple[str, Any], ...]) -> int:
    entry = architecture(name)
    return count_parameters(entry.config(architecture=name, width=width, depth=depth, **dict(options)))[0]
