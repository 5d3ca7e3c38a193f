"""Checkpoints: one safetensors file, written by rename, holds weights, optimiser and position, so
that a run resumes to the same numbers. No pickle anywhere.

    last.safetensors   y, z, v (flat, see optimizer.py), the averaged weights and what else the
                       model keeps (persistent buffers) under their names;
                       metadata: state as JSON; checksums of the state and of each tensor
    last.json          the same state, for people

The checksums are in the file that they are of: two files cannot be renamed at once, and a kill
between them would make a sound checkpoint look damaged.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import StoreError
from ..files import check_regular
from ..models import ForceField
from ..store.runs import RETRAIN, RunDirectory
from .optimizer import ScheduleFreeAdamW

CHECKSUMS = "crc32"  # key of the metadata; checkpoints of older versions have none
_NAMES = {  # of types, as safetensors spells them
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def kept_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Persistent buffers by name: what a model keeps beside its weights, and a checkpoint with it.
    Random features that it drew, running means; ours have none."""
    wanted = set(model.state_dict(keep_vars=True))
    return {name: buffer for name, buffer in model.named_buffers() if name in wanted}


def save(
    run: RunDirectory, model: ForceField, optimizer: ScheduleFreeAdamW, state: dict[str, Any]
) -> None:
    """Write the checkpoint of a run. state: JSON-able, with at least "step"."""
    # a few large copies instead of one for each parameter: the host serves other runs too
    averaged = optimizer.averaged().cpu()
    offsets = dict(zip(map(id, optimizer.params), optimizer.offsets))
    tensors = {
        f"model.{name}": averaged[offsets[id(p)] :][: p.numel()].view(p.shape).clone()
        for name, p in model.named_parameters()
    }
    tensors |= {
        f"model.{name}": buffer.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, buffer in kept_buffers(model).items()
    }
    tensors |= {name: getattr(optimizer, name).detach().cpu().clone() for name in ("y", "z", "v")}
    text = json.dumps(state, allow_nan=False)
    metadata = {"state": text, CHECKSUMS: json.dumps(_checksums(text, tensors))}
    with run.writing("last.safetensors") as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # all that can go wrong here is the disk
            raise OSError(str(error)) from error
    run.write("last.json", state, durable=False)


def load(path: Path, optimizer: ScheduleFreeAdamW, model: torch.nn.Module) -> dict[str, Any] | None:
    """Restore the optimiser, and with it the model, from a run directory; None if there is no
    checkpoint. StoreError, before anything is changed, for one that is not of this run."""
    file = path / "last.safetensors"
    if not file.exists():
        return None
    with _opened(file) as stored:
        wanted = {name: getattr(optimizer, name) for name in ("y", "z", "v")}
        wanted |= _stored_buffers(stored, model)
        found = {name: _tensor(stored, name, like) for name, like in wanted.items()}
        text = (stored.metadata() or {})["state"]
        _verify(stored, text, found)
        state = json.loads(text)
        step = state["step"]
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"step is {step!r}")
    for name, like in wanted.items():
        like.copy_(found[name])
    return state


def load_model(path: Path, model: ForceField) -> ForceField:
    """Put the averaged weights of a run directory into ``model``, and its buffers. StoreError for a
    checkpoint that is damaged, or of another model."""
    file = path / "last.safetensors"
    if not file.exists():
        raise StoreError("the run has no checkpoint", where=str(path), remedy="train it first")
    wanted = {f"model.{name}": p for name, p in model.named_parameters()}
    with _opened(file) as stored:
        kept = {name for name in stored.keys() if name.startswith("model.")}  # noqa: SIM118
    if other := sorted(wanted.keys() - kept):
        more = sorted(kept - wanted.keys() - {f"model.{n}" for n, _ in model.named_buffers()})
        raise StoreError(
            f"the model has weights that the run does not have ({_few(other)})"
            + (f", the run others ({_few(more)})" if more else ""),
            where=str(file),
            remedy="its source is not that of the run: restore the source that it was trained with",
        )
    with _opened(file) as stored:
        wanted |= _stored_buffers(stored, model)
        found = {name: _tensor(stored, name, like) for name, like in wanted.items()}
        _verify(stored, (stored.metadata() or {}).get("state", ""), found)
    with torch.no_grad():
        for name, like in wanted.items():
            like.copy_(found[name])
    return model


def _few(names: list[str]) -> str:
    listed = ", ".join(name.removeprefix("model.") for name in names[:3])
    return f"{listed}, ..." if len(names) > 3 else listed


def _stored_buffers(stored: Any, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers of ``model`` that the checkpoint holds, by the name there; those of before 2026-11-30
    hold none, and the seed has made them."""
    there = set(stored.keys())
    named = {f"model.{name}": buffer for name, buffer in kept_buffers(model).items()}
    return {name: buffer for name, buffer in named.items() if name in there}


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The checkpoint in ``file``; whatever fails while it is read is a StoreError."""
    try:
        check_regular(file, StoreError)
        with safe_open(file, framework="pt") as stored:
            yield stored
    # SafetensorError, KeyError, TypeError, OSError, ...: the file is what is wrong in each case
    except Exception as error:
        raise StoreError(
            f"the checkpoint cannot be read: {type(error).__name__}: {error}",
            where=str(file),
            remedy=RETRAIN,
        ) from error


def _tensor(stored: Any, name: str, like: torch.Tensor) -> torch.Tensor:
    """A tensor of the checkpoint, of the shape and type of ``like``: copying would turn one number
    into many, and other types into this one."""
    described = stored.get_slice(name)
    shape, kind = tuple(described.get_shape()), described.get_dtype()
    if shape != tuple(like.shape) or kind != _NAMES.get(like.dtype):
        raise ValueError(
            f"{name} is {kind} of shape {shape}, the run has {_NAMES.get(like.dtype)} of shape"
            f" {tuple(like.shape)}"
        )
    return stored.get_tensor(name)


def _checksums(state: str, tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """CRC-32 of the state and of the bytes of each tensor, by name. It misses no single flipped
    bit, nor any in a row of 32; a cryptographic hash would be a large share of a save."""
    found = {"state": zlib.crc32(state.encode())}
    for name, tensor in tensors.items():
        found[name] = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy())
    return found


def _verify(stored: Any, state: str, tensors: dict[str, torch.Tensor]) -> None:
    """ValueError where the state or a tensor that was read is not what was written."""
    written = (stored.metadata() or {}).get(CHECKSUMS)
    if written is None:
        return
    kept = json.loads(written)
    for name, checksum in _checksums(state, tensors).items():
        if kept[name] != checksum:
            raise ValueError(f"checksum mismatch: {name} is not what was written")
