"""Runs that finished and learned one part of their loss only.

Forces are most of the loss, so a model whose energies died in its first steps (activations that are
zero for every atom, and with them their gradients) passes for one that is somewhat worse. GemNet-OC
at too high a rate did so in results/ladder_2_columns_slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ForcelawError
from ..files import read_json

PARTS = {"loss_energy": "energies", "loss_forces": "forces"}  # terms of the loss
WEIGHTS = {"energies": "energy_weight", "forces": "forces_weight"}  # keys of `train`
LEARNED = 0.98  # a part that ends above this share of what it began with is not learned
EVALUATIONS = 3


def left(
    evaluations: Sequence[Mapping[str, Any]], no_model: Mapping[str, float] | None = None
) -> dict[str, float]:
    """What is left of each part of the loss, "energies" and "forces", at the last evaluation: its
    share of what it is without a model (``no_model``, in the same columns), or of what the first
    evaluation has, whichever is lower; a part for which neither is known is left out.

    evaluations: of one run that began from nothing, in the order of their steps. The first one
    counts where there are three and it is within the first third of the steps; later ones may be on
    the plateau that a small model ends on.
    """
    if not evaluations:
        return {}
    first, last = evaluations[0], evaluations[-1]
    early = len(evaluations) >= EVALUATIONS and 3 * _step(first) <= _step(last)
    out = {}
    for column, name in PARTS.items():
        began = [first.get(column)] if early else []
        bars = [bar for bar in [*began, (no_model or {}).get(column)] if bar]
        ended = last.get(column)
        if ended is not None and bars:
            out[name] = ended / min(bars)
    return out


def unlearned(shares: Mapping[str, float]) -> list[str]:
    """The parts of which all is left (:func:`left`)."""
    return [part for part, share in shares.items() if share > LEARNED]


def trained(shares: Mapping[str, float], train: Mapping[str, Any]) -> dict[str, float]:
    """Those of ``shares`` whose part settings ``train`` give a weight at some time of the run."""
    return {
        part: share
        for part, share in shares.items()
        if train.get(WEIGHTS[part], 1.0) or train.get(f"{WEIGHTS[part]}_end", 0.0)
    }


def no_model(out: Path) -> dict[str, float]:
    """Errors on the validation set without a model, as study.json in ``out`` has them; empty where
    it has none."""
    try:
        return dict(read_json(out / "study.json")["data"]["no_model"])
    except (OSError, ForcelawError, KeyError, TypeError, ValueError):
        return {}


def _step(evaluation: Mapping[str, Any]) -> float:
    step = evaluation.get("step")
    return math.inf if step is None else step
