"""What a run will cost in seconds, before it is trained."""

from __future__ import annotations

import time
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


class Rate(NamedTuple):
    """What a training step takes: seconds whatever the model, per FLOP, and for each layer."""

    step: float
    flop: float
    layer: float = 0.0


# A step of 16 molecules of one run on one H100, apart from its arithmetic (no torch.compile): fixed
# seconds, and seconds of a layer. MPNN, PaiNN and eSEN from results/depth and results/data_limited,
# whose 115 finished runs took .72 to 1.03 times as long; MC-EGNN and GemNet-OC by their launches
# (benchmarks/launches.py). Timing eager steps before a study would take a minute of a GPU that has
# nothing to do meanwhile, and say little of steps that are CUDA graphs.
GPU_STEP = {
    "mpnn": (2.0e-4, 1.1e-4),
    "painn": (2.1e-4, 1.6e-4),
    "egnn": (3e-4, 2.7e-4),
    "esen": (5e-4, 4.3e-4),
    "gemnet_oc": (1e-3, 1.9e-3),
}
GPU_FLOP = 1 / 2e13


def rates_of(directory: StudyDirectory, device: str, *, remember: bool = True) -> dict[str, Rate]:
    """Rates for each label. On a GPU those of :data:`GPU_STEP`; on a CPU a few steps are timed, and
    remembered in OUT/rates.json, so that a study that runs in pieces does it once."""
    labels = [label_of(a) for a in directory.study.architectures]
    if device == "cuda":
        known = {name: Rate(step, GPU_FLOP, layer) for name, (step, layer) in GPU_STEP.items()}
        slowest = max(known.values(), key=lambda rate: rate.layer)
        return {label_of(a): known.get(a.name, slowest) for a in directory.study.architectures}
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
        slope = max(0.0, (t1 - t0) / (f1 - f0)) if f1 > f0 else 0.0
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
    """Estimated seconds of a run, evaluations included (an evaluation costs a third of a step per
    atom)."""
    rate = rates[spec["label"]]
    step = rate.step + rate.layer * spec["model"]["depth"]
    train = spec["steps"] * step + planned_flops(spec) * rate.flop
    evaluated = spec["train"]["evaluations"] * spec["train"]["validation_structures"] * 20.0
    return train * (1.0 + evaluated / (3.0 * spec["steps"] * spec["batch_atoms"]))
