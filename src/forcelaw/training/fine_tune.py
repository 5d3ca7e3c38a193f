"""Training that goes on from the weights of another run, on other data.

    RUN/start.safetensors   the averaged weights to start from, under their names

The model is that of the other run, elements and force scale included. Reference energies are those
of the other run plus a shift for each element, fitted by least squares to what the model leaves on
the new training structures: two levels of theory differ mostly by such shifts, and where the
compositions do not determine one it stays small.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from ..data.device_dataset import Shard
from ..data.pack import Pack
from ..data.reference import composition
from ..elements import SYMBOLS
from ..errors import DataError, StoreError
from ..files import read_json
from ..models import ForceField, build, make_config
from ..store.runs import RunDirectory
from .checkpoint import kept_buffers, load_model
from .evaluate import chunks
from .spec import RunSpec, Start, read_spec, shard_options

FITTED = 1000  # training structures that the shifts are fitted to


def starting_point(path: str | Path) -> tuple[Start, dict[str, Any]]:
    """What a run would start from, and the model's configuration. StoreError for a run without
    weights or reference energies."""
    run = RunDirectory(path)
    spec = read_spec(run)
    if run.references() is None:
        raise StoreError(
            "the run did not keep its reference energies, so nothing can start from it",
            where=str(path),
            remedy="train it again with this version",
        )
    digest = hashlib.sha256(weights_of(run, spec)).hexdigest()[:16]
    before = spec.start
    rows = run.metrics()
    last = rows[-1] if rows else {"c": 0.0, "d": 0}
    start = Start(
        run=run.id,
        weights=digest,
        flops=last["c"] + (before.flops if before else 0.0),
        atoms=last["d"] + (before.atoms if before else 0),
    )
    return start, spec.model


def weights_of(run: RunDirectory, spec: RunSpec) -> bytes:
    """The averaged weights of a run, and its buffers, as a safetensors file."""
    model = load_model(run.path, build(spec.config(), seed=spec.seed))
    return save({name: x.detach().contiguous() for name, x in _stated(model).items()})


def _stated(model: ForceField) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **kept_buffers(model)}


def keep_start(run: RunDirectory, source: str | Path, spec: RunSpec) -> None:
    """Copy weights and reference energies of ``source`` into ``run``, unless they are there."""
    if (run.path / "start.safetensors").exists():
        return
    other = RunDirectory(source)
    content = weights_of(other, read_spec(other))
    if spec.start is None or hashlib.sha256(content).hexdigest()[:16] != spec.start.weights:
        raise StoreError("the run to start from has changed meanwhile", where=str(source))
    with run.writing("start.json") as temporary:
        temporary.write_bytes((other.path / "references.json").read_bytes())
    with run.writing("start.safetensors") as temporary:
        temporary.write_bytes(content)


def begin(run: RunDirectory, model: ForceField, pack: Pack, rows: np.ndarray) -> None:
    """Put the weights to start from into ``model``, and fit the reference energies unless the run
    has them. rows: training structures of the pack."""
    file = run.path / "start.safetensors"
    if not file.exists():
        raise StoreError(
            "the run has lost the weights that it starts from",
            where=str(file),
            remedy="give the same command with --from again",
        )
    stored = load_file(file)
    with torch.no_grad():
        for name, tensor in _stated(model).items():
            # files of before 2026-11-30 hold no buffers
            if name in stored or isinstance(tensor, torch.nn.Parameter):
                tensor.copy_(stored[name])
    if run.references() is None:
        old = read_json(run.path / "start.json")["energies"]
        old = {int(z): float(energy) for z, energy in old.items()}
        run.keep_references(_shifted(old, model, pack, np.sort(rows[:FITTED])))


def _shifted(
    old: dict[int, float], model: ForceField, pack: Pack, rows: np.ndarray
) -> dict[str, float]:
    """Reference energies by atomic number, as a run keeps them."""
    table = np.zeros(119)
    table[list(old)] = list(old.values())
    parameter = next(model.parameters())
    shard = Shard(
        pack,
        rows,
        **shard_options(model.config),
        device=parameter.device,
        dtype=torch.float64,
        references=tuple(table),
    )
    # eager, without kernels or gradients kept: it is done once
    left, was = [], model.training
    model.eval()
    with torch.no_grad():
        for batch, atoms, edges in chunks(shard, len(shard)):
            graph, target = shard.batch(torch.from_numpy(batch).to(shard.device), atoms, edges)
            energy, _ = model(graph.to(parameter.dtype))
            left.append((target.energy - energy.double()).cpu().numpy())
    model.train(was)
    counts, elements = shard.host_natoms, np.array(sorted(old))
    numbers = np.array(model.config.elements)[shard.species.cpu().numpy()]
    a = composition(counts, numbers)[:, elements]
    weight = 1.0 / counts[:, None]
    shift, *_ = np.linalg.lstsq(a * weight, np.concatenate(left) * weight[:, 0], rcond=1e-8)
    return {str(z): old[z] + float(s) for z, s in zip(elements.tolist(), shift)}


def check_elements(config: dict[str, Any], pack: Pack, path: str | Path) -> None:
    """DataError where the pack holds what the model to start from has not seen."""
    known = make_config(config)
    strange = set(pack.elements) - set(known.elements)
    if strange:
        raise DataError(
            f"the pack holds {', '.join(SYMBOLS[z] for z in sorted(strange))}, which the model of"
            f" {path} does not know",
            where=str(pack.path),
            remedy="prepare it with --elements, or start from a run that has seen them",
        )
