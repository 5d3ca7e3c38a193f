"""What a run will cost in seconds, before it is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..files import read_json, write_json
from ..store.runs import planned_flops
from ..training.device import cpu_threads, device_name
from .config import label_of

if TYPE_CHECKING:
    from ..data.device_dataset import Shard
    from ..models.base import ModelConfig
    from ..training.config import TrainOptions
    from .record import StudyDirectory


class Times(NamedTuple):
    """Estimated seconds of a run: on a device of its own, and of a device that runs side by side
    fill."""

    alone: float
    beside: float


class Rate(NamedTuple):
    """What a training step takes: seconds whatever the model, per FLOP, and for each layer."""

    step: float
    flop: float
    layer: float = 0.0


# Of a run that has a card for itself, as CUDA graphs of kernels in TF32: architecture -> kind of
# forces -> Rate, of an H200; an H100 takes 6% less in the middle, and up to 27% (results/
# planned_times.txt). Fitted to committed runs and speed tables by benchmarks/planned_times.py.
# Timing eager steps before a study would take a minute of a GPU that has nothing to do meanwhile,
# and say little of steps that are CUDA graphs.
STEP_TIMES = Path(__file__).with_name("step_times.json")
# Of the time of a step that does not grow with its arithmetic (launches, latencies, kernels too
# small for the device) what other runs cannot have: fitted to hours that H200s were held by
# benchmarks/planned_times.py
NOT_SHARED = 0.5


def gpu_rate(architecture: str, forces: str) -> Rate:
    """From :data:`STEP_TIMES`. What was not measured is as slow as the slowest that was; gradient
    forces take three times the arithmetic of direct ones then, and three times the launches."""
    table = read_json(STEP_TIMES)
    rates = table.get(architecture) or max(table.values(), key=lambda of: of["direct"][2])
    if forces in rates:
        return Rate(*rates[forces])
    return Rate(*(3.0 * x for x in rates["direct"]))


def rates_of(directory: StudyDirectory, device: str, *, remember: bool = True) -> dict[str, Rate]:
    """Rates for each label. On a GPU those of :func:`gpu_rate`; on a CPU a few steps are timed, and
    remembered in OUT/rates.json, so that a study that runs in pieces does it once."""
    study = directory.study
    labels = [label_of(a) for a in study.architectures]
    if device == "cuda":
        forces = {label_of(a): (a.name, a.forces or study.forces) for a in study.architectures}
        return {label: gpu_rate(*of) for label, of in forces.items()}
    if not remember:
        return measure_rates(directory)
    path, name = directory.out / "rates.json", device_name(device)
    measured = read_json(path) if path.exists() else {}
    if set(measured.get(name, {})) != set(labels):
        measured[name] = measure_rates(directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measured)
    return {label: Rate(*rate) for label, rate in measured[name].items()}


@cpu_threads(1)  # as a worker where every core has one
def measure_rates(directory: StudyDirectory) -> dict[str, Rate]:
    """Rates on the CPU for each label, from a few training steps of its smallest and largest
    model."""
    from ..data.device_dataset import Shard
    from ..training.spec import training_set
    from .plan import model_config

    study, data, found = directory.study, directory.data, {}
    rows = training_set(directory.pack, 512)
    known = {name: data.options.get(name, ()) for name in ("elements", "charges", "spins")}
    shard = Shard(directory.pack, rows, cutoff=study.cutoff, **known)
    for entry in study.architectures:
        sizes = study.sizes_of(entry)
        points = [
            _time_step(shard, model_config(study, data, entry, n), study.train_options(entry))
            for n in sorted({min(sizes), max(sizes)})
        ]
        (f0, t0), (f1, t1) = points[0], points[-1]
        slope = max(0.0, (t1 - t0) / (f1 - f0)) if f1 > f0 else 0.8 * t0 / f0
        found[label_of(entry)] = Rate(max(t0 - slope * f0, 0.2 * t0), slope)
    return found


def _time_step(shard: Shard, config: ModelConfig, options: TrainOptions) -> tuple[float, float]:
    """FLOPs and seconds of one training step on the CPU: the fastest of four."""
    import numpy as np
    import torch

    from ..models import architecture, build
    from ..training.config import cost_factor
    from ..training.loss import loss_terms

    molecules = options.batch_molecules or max(
        1, round((options.batch_atoms or 0) / shard.host_natoms.mean())
    )
    rows = np.arange(min(molecules, len(shard)))
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    model = build(config, 0)
    params = list(model.parameters())
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        graph, target = shard.batch(torch.from_numpy(rows), atoms, edges)
        energy, forces = model(graph)
        terms = loss_terms(energy, forces, target)
        torch.autograd.grad(terms[0] + terms[1], params, allow_unused=True)
        best = min(best, time.perf_counter() - began)
    factor = cost_factor(config.forces, options.symmetry_rotations)
    flops = factor * architecture(config.architecture).flops_for(config).training(edges, atoms)
    return flops, (1 + options.symmetry_rotations) * best


def seconds_of(spec: dict[str, Any], rates: dict[str, Rate]) -> float:
    """Estimated seconds of a run on a device of its own."""
    return times_of(spec, rates).alone


def times_of(spec: dict[str, Any], rates: dict[str, Rate], *, shared: bool = False) -> Times:
    """Estimated seconds of a run. An evaluation is a forward pass in large batches: for each atom a
    third of the arithmetic of a step, and little else. shared: whether runs are trained side by
    side on a device, which then waits less."""
    rate = rates[spec["label"]]
    step = rate.step + rate.layer * spec["model"]["depth"]
    arithmetic = planned_flops(spec) * rate.flop
    evaluated = spec["train"]["evaluations"] * spec["train"]["validation_structures"] * 20.0
    evaluated *= spec["train"].get("evaluation_rotations") or 1
    share = evaluated / (3.0 * spec["steps"] * spec["batch_atoms"])
    waiting, arithmetic = spec["steps"] * step, arithmetic * (1.0 + share)
    return Times(waiting + arithmetic, (NOT_SHARED if shared else 1.0) * waiting + arithmetic)


def wall_seconds(each: Sequence[Times], at_once: int, gpus: int = 1) -> float:
    """Estimated seconds until all runs have ended. at_once: devices, or processes of a CPU, that
    train at the same time; gpus: devices of each run, taken to be that many times as fast. The
    longest run is a bound, however many are trained at once."""
    longest = max((times.alone for times in each), default=0.0)
    return max(sum(times.beside for times in each) / at_once, longest) / gpus
