"""The one dial: architecture and target N give width and depth, and the exact N comes back."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch

from ..errors import StudyError
from . import architecture
from .base import Architecture, ModelConfig


@lru_cache(maxsize=4096)
def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """(N, N without embeddings) of a configuration, exactly, without allocating any weight, unless
    a model from outside cannot be built without."""
    build = architecture(config.architecture).model
    try:
        with torch.device("meta"):
            model = build(config)
    except Exception:  # whatever it is: with weights it does not happen, or is raised again
        with torch.random.fork_rng(devices=[]):
            model = build(config)
    return model.n_parameters(), model.n_nonembedding()


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
    width, visited = _grid(entry.base_width, entry), set()
    while width not in visited:
        visited.add(width)
        width = _grid(min(LARGEST_WIDTH, width * math.exp(-0.5 * miss(width))), entry)
    while miss(width) > 0 and _next(width, -1, entry) < width:
        width = _next(width, -1, entry)
    while miss(width) < 0 and width < LARGEST_WIDTH:
        width = _next(width, +1, entry)
    best = min(
        (_next(width, -1, entry), width), key=lambda w: abs(miss(w))
    )  # N grows with width: the two around the target
    if abs(miss(best)) > 0.3:
        got = count_parameters(configured(best))[0]
        raise StudyError(
            f"{name} with {layers} layers cannot have about {target:,.0f} parameters; nearest is"
            f" {got:,}",
            remedy="choose another size or depth",
        )
    return configured(best)


def _grid(width: float, entry: Architecture) -> int:
    """The nearest width that is used: multiples of the architecture's step, above 64 of 8."""
    step = max(8, entry.step) if width > 64 else entry.step
    return max(entry.smallest_width, round(width / step) * step)


def _next(width: int, direction: int, entry: Architecture) -> int:
    """The width that is used above (+1) or below (-1) one that is; the smallest has none below."""
    step = max(8, entry.step) if width > 64 or (width == 64 and direction > 0) else entry.step
    return max(entry.smallest_width, width + direction * step)
