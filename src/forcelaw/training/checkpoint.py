"""Checkpoints: one safetensors file, written by rename, holds weights, optimiser and position, so
that a run resumes to the same numbers. No pickle anywhere.

    last.safetensors   y, z, v (flat, see optimizer.py) and the averaged weights under their names;
                       metadata: state as JSON
    last.json          the same state, for people
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import StoreError
from ..files import write_json
from ..models import ForceField
from .optimizer import ScheduleFreeAdamW


def save(
    path: Path, model: ForceField, optimizer: ScheduleFreeAdamW, state: dict[str, Any]
) -> None:
    """Write the checkpoint of a run directory. state: JSON-able, with at least "step"."""
    # a few large copies instead of one for each parameter: the host serves other runs too
    averaged = optimizer.averaged().cpu()
    offsets = dict(zip(map(id, optimizer.params), optimizer.offsets))
    tensors = {
        f"model.{name}": averaged[offsets[id(p)] :][: p.numel()].view(p.shape).clone()
        for name, p in model.named_parameters()
    }
    tensors |= {name: getattr(optimizer, name).detach().cpu().clone() for name in ("y", "z", "v")}
    temporary = path / f".last.{secrets.token_hex(4)}"
    save_file(tensors, temporary, metadata={"state": json.dumps(state, allow_nan=False)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path / "last.safetensors")
    write_json(path / "last.json", state)


def load(path: Path, optimizer: ScheduleFreeAdamW) -> dict[str, Any] | None:
    """Restore the optimiser (and with it the model) from a run directory; None if there is no
    checkpoint."""
    file = path / "last.safetensors"
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            state = json.loads(stored.metadata()["state"])
            for name in ("y", "z", "v"):
                getattr(optimizer, name).copy_(stored.get_tensor(name))
    except (SafetensorError, KeyError, json.JSONDecodeError, RuntimeError) as error:
        raise StoreError(
            f"the checkpoint cannot be read: {error}",
            where=str(file),
            remedy="delete this run directory to train it again",
        ) from error
    return state


def load_model(path: Path, model: ForceField) -> ForceField:
    """Put the averaged weights of a run directory into ``model``."""
    file = path / "last.safetensors"
    if not file.exists():
        raise StoreError("the run has no checkpoint", where=str(path), remedy="train it first")
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored.get_tensor(f"model.{name}"))
    return model
