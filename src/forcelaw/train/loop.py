"""The training loop: one straight function from a run directory to its result."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..data.batches import Shard
from ..data.feed import Feed, Window, device_capacity
from ..data.pack import Pack
from ..errors import DataError, StoreError
from ..models import ForceField, build
from ..progress import Progress
from ..store import RunDirectory
from . import checkpoint
from .evaluate import evaluate, symmetry_error
from .optimizer import ScheduleFreeAdamW
from .spec import RunSpec, evaluation_steps, plan_for, training_set, validation_set, warmup_steps
from .step import NEVER, EagerStep, GraphStep, new_stats

CHECKPOINT_SECONDS = 60.0
HEARTBEAT_SECONDS = 20.0


def dtype_of(spec: RunSpec) -> torch.dtype:
    return torch.float64 if spec.train.precision == "float64" else torch.float32


def make_model(spec: RunSpec, device: torch.device) -> ForceField:
    """The freshly initialised model of a run on ``device``."""
    return build(spec.config(), seed=spec.seed).to(device=device, dtype=dtype_of(spec))


def train(run: RunDirectory, pack: Pack, *, device: str | torch.device = "cpu", compile_model: bool = False,
          progress: Progress | None = None, stop: Callable[[], bool] = lambda: False,
          capacity: float | None = None) -> dict[str, Any] | None:
    """Train a run from where it stands to its end and return its result, or None when ``stop`` asked to leave.

    Writes metrics.jsonl, last.safetensors and result.json into the run directory. After a kill at any moment, a later call
    goes on from the last checkpoint; on a CPU it reaches the same numbers to the last bit.
    """
    spec = RunSpec(**run.spec())
    if spec.data["hash"] != pack.hash:
        raise DataError(f"the pack's hash is {pack.hash}, the run was planned on {spec.data['hash']}", where=str(pack.path),
                        remedy="give the same pack, or start a new study directory")
    device = torch.device(device)
    torch.set_flush_denormal(True)  # tiny second moments and far-off basis functions would slow a CPU down tenfold
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = spec.train.precision in ("tf32", "bf16")
    indices = training_set(pack, spec.train_structures)
    natoms = np.diff(pack.offsets)[indices]
    schedule = plan_for(natoms, spec.atoms_total, spec.seed, spec.train)
    if schedule.steps != spec.steps:
        raise StoreError(f"the plan has {schedule.steps} steps, the specification {spec.steps}", where=str(run.path),
                         remedy="the pack or the code changed since the run was planned; start a new study directory")
    model = make_model(spec, device)
    optimizer = ScheduleFreeAdamW(model, lr=spec.lr, steps=spec.steps, warmup=warmup_steps(spec.steps, spec.train),
                                  betas=(spec.train.beta1, spec.train.beta2), weight_decay=spec.train.weight_decay,
                                  clip=spec.train.clip)
    state = checkpoint.load(run.path, optimizer) or {"step": 0, "seconds": 0.0, "flops": 0.0, "edges": 0, "stats": None}
    run.truncate_metrics(state["step"])
    stats = new_stats(device)
    if state["stats"]:
        stats.copy_(torch.tensor(state["stats"], dtype=torch.float64))
    config = spec.config()
    validation = Shard(pack, validation_set(pack, spec.train.validation_structures), cutoff=config.cutoff,
                       elements=config.elements, device=device, dtype=dtype_of(spec))
    feed = Feed(pack, indices, schedule, cutoff=config.cutoff, elements=config.elements, device=device,
                dtype=dtype_of(spec), capacity=capacity if capacity is not None else device_capacity(device))
    forward = torch.compile(model) if compile_model else model
    stepper = (GraphStep if device.type == "cuda" else EagerStep)(model, optimizer, spec.train, spec.seed, stats, forward)
    book = _Book(run, spec, model, optimizer, schedule, validation, state, stats, progress, device)
    model.train()
    for window in feed.windows(state["step"]):
        stepper.begin(schedule, window)
        result = book.through(window, stepper, stop)
        if result == "stopped":
            return None
        if result is not None:
            return result
    return book.finish("finished")


class _Book:
    """Keeps the books of a run: clock, FLOPs, evaluations, checkpoints, result."""

    def __init__(self, run: RunDirectory, spec: RunSpec, model: ForceField, optimizer: ScheduleFreeAdamW, schedule: Any,
                 validation: Shard, state: dict[str, Any], stats: torch.Tensor, progress: Progress | None,
                 device: torch.device):
        self.run, self.spec, self.model, self.optimizer, self.schedule = run, spec, model, optimizer, schedule
        self.validation, self.state, self.stats, self.progress, self.device = validation, state, stats, progress, device
        self.flops = spec.flops()
        self.factor = 2.0 if spec.config().forces == "conservative" else 1.0  # gradient forces: about six forwards
        self.seen = np.concatenate([[0], np.cumsum(schedule.atoms)])
        self.points = evaluation_steps(spec.steps, spec.train)
        self.saved = self.beat = time.monotonic()
        self.note = ""

    def through(self, window: Window, stepper: Any, stop: Callable[[], bool]) -> Any:
        """Train the steps of one window."""
        edges = np.add.reduceat(window.shard.host_nedges[window.local], self.schedule.ptr[window.low : window.high]
                                - window.first)
        step = self.state["step"]
        on_gpu = self.device.type == "cuda"
        while step < window.high:
            target = min(next(p for p in self.points if p > step), window.high)
            # a GPU runs ahead of the host; a CPU looks up after every step
            chunk = min(target, step + (200 if on_gpu else 1))
            began = time.perf_counter()
            for k in range(step, chunk):
                stepper.run(k)
            if on_gpu:
                torch.cuda.synchronize(self.device)
            self.state["seconds"] += time.perf_counter() - began
            done = int(edges[step - window.low : chunk - window.low].sum())
            self.state["edges"] += done
            self.state["flops"] += self.factor * self.flops.training(done, int(self.seen[chunk] - self.seen[step]))
            step = self.state["step"] = chunk
            if float(self.stats[4]) < NEVER:
                return self.finish("diverged", step=int(self.stats[4]))
            if step in self.points and not self._evaluate(step):
                return self.finish("diverged", step=step)
            self._housekeeping(step)
            if stop():
                self._save()
                return "stopped"
        return None

    def _evaluate(self, step: int) -> bool:
        """Evaluate at the averaged weights and write the row; False when the losses are not finite."""
        kept = self.optimizer.swap_in(self.optimizer.averaged())
        losses = evaluate(self.model, self.validation)
        self.optimizer.y.copy_(kept)
        if not all(math.isfinite(v) for v in losses.values()):
            return False
        s, d, total = self.spec, int(self.seen[step]), self.stats.tolist()
        seconds = self.state["seconds"]
        self.run.append_metric({
            "step": step, "epoch": int(self.schedule.epoch[step - 1]), "d": d, "u": min(d, s.train_atoms),
            "c": self.state["flops"], "h": seconds / 3600.0, **losses,
            "train_loss": total[0] / max(1.0, total[3]), "grad_norm": total[1] / max(1.0, total[3]),
            "clipped": total[2] / max(1.0, total[3]), "kappa": self.state["flops"] / (3.0 * s.n * d),
            "throughput": d / seconds if seconds > 0 else None, "mean_degree": self.state["edges"] / d,
        })
        self.stats.copy_(new_stats(self.device))
        self.note = f"loss {losses['loss']:.3f}"
        self._save()
        return True

    def _save(self) -> None:
        checkpoint.save(self.run.path, self.model, self.optimizer, {**self.state, "stats": self.stats.tolist()})
        self.saved = time.monotonic()

    def _housekeeping(self, step: int) -> None:
        now = time.monotonic()
        if now - self.saved > CHECKPOINT_SECONDS:
            self._save()
        if now - self.beat > HEARTBEAT_SECONDS:
            self.run.heartbeat()
            self.beat = now
        if self.progress:
            self.progress.update(step, self.note)

    def finish(self, status: str, step: int | None = None) -> dict[str, Any]:
        """Write result.json: the run is over."""
        result: dict[str, Any] = {
            "status": status, "steps": self.state["step"], "device": device_name(self.device),
            "seconds": self.state["seconds"], "flops": self.state["flops"], "lr": self.spec.lr,
            "versions": {"forcelaw": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        if status == "diverged":
            result |= {"step": step, "message": f"non-finite loss or gradient at step {step} with learning rate "
                                                f"{self.spec.lr:g}"}
        else:
            kept = self.optimizer.swap_in(self.optimizer.averaged())
            result["symmetry"] = symmetry_error(self.model, self.validation)
            self.optimizer.y.copy_(kept)
        self.run.finish(result)
        return result


def device_name(device: torch.device) -> str:
    """Name of a GPU, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
