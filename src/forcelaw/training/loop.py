"""The training loop: one straight generator from a run directory to its result."""

from __future__ import annotations

import contextlib
import math
import platform
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..data.pack import Pack
from ..data.schedule import Feed, Plan, Shards, Window, device_capacity
from ..errors import DataError, ForcelawWarning, StoreError, StudyError
from ..models import ForceField, architecture, build
from ..progress import Progress
from ..store.runs import BESIDE, RunDirectory
from . import checkpoint, fine_tune
from .config import evaluation_steps, warmup_steps
from .cooperative import Request, Stopped, Training, drive
from .device import device_name
from .device_time import Clock
from .evaluate import Evaluation, symmetry_error
from .neighbours import training_on
from .optimizer import PlainOptimizer, ScheduleFreeAdamW
from .ranks import ALONE, Ranks
from .spec import RunSpec, plan_for, read_spec, shard_options, training_set, validation_set
from .step import NEVER, EagerStep, GraphStep, new_stats

CHECKPOINT_SECONDS = 60.0
HEARTBEAT_SECONDS = 20.0
# seconds: of a run that has the device to itself; wall: of this one
NEW_STATE = {"step": 0, "seconds": 0.0, "wall": 0.0, "flops": 0.0, "edges": 0, "stats": None}


def dtype_of(spec: RunSpec) -> torch.dtype:
    return torch.float64 if spec.train.precision == "float64" else torch.float32


def make_model(spec: RunSpec, device: torch.device) -> ForceField:
    """The freshly initialised model of a run on ``device``. A warning where the source of an
    architecture from outside is not that of the run: its weights may mean something else."""
    if changed := spec.changed_code():
        warnings.warn(
            f"the source of {spec.label} has changed: {changed}", ForcelawWarning, stacklevel=2
        )
    return build(spec.config(), seed=spec.seed).to(device=device, dtype=dtype_of(spec))


def compiled(model: ForceField) -> Any:
    """``model`` under torch.compile, once for all batch sizes."""
    import torch._dynamo

    # all models of a process share the code of ForceField.forward; past its limit torch would
    # silently stop compiling
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    return torch.compile(model, dynamic=True)


def train(
    run: RunDirectory, pack: Pack, *, device: str | torch.device = "cpu", **options: Any
) -> dict[str, Any] | None:
    """Train a single run from its checkpoint to its end and return its result, or None when
    ``stop`` asked to leave. Options are those of :func:`training`."""
    return drive(training(run, pack, device=device, **options), torch.device(device))


def training(
    run: RunDirectory,
    pack: Pack,
    *,
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    **options: Any,
) -> Training:
    """Train a run from its checkpoint to its end, as a generator (:mod:`.cooperative`) that returns
    the result, or None after a stop.

    Writes metrics.jsonl, last.safetensors and result.json into the run directory. After a kill at
    any moment, a later call resumes from the last checkpoint; on a CPU it reaches the same numbers
    to the last bit. shards: data that other runs of this process hold already. shared: other runs
    use the device meanwhile, so the time of a step is sampled while they wait. ranks: the processes
    that train it together, each of which calls this; only the first writes, and where it leaves
    while data are read it raises Stopped: it has to end the others. Further options: device,
    compile_model, progress, capacity (atoms on the device).
    """
    try:
        return (yield from _training(run, pack, stop=stop, ranks=ranks, **options))
    except Stopped:
        if ranks.size > 1:
            raise
        return None


def _training(
    run: RunDirectory,
    pack: Pack,
    *,
    stop: Callable[[], bool],
    ranks: Ranks,
    device: str | torch.device = "cpu",
    compile_model: bool = False,
    progress: Progress | None = None,
    capacity: float | None = None,
    shards: Shards | None = None,
    shared: bool = False,
) -> Training:
    """What :func:`training` does; raises Stopped where it left while data were read."""
    spec = read_spec(run)
    if changed := spec.changed_code():
        raise StoreError(
            f"the source of {spec.label} has changed since the run was planned: {changed}",
            where=str(run.path),
            remedy="restore the source, or plan anew: the same command makes a new run of it",
        )
    indices, schedule = _schedule(run, spec, pack)
    _require_work_for(ranks, schedule)
    device = torch.device(device)
    # one setting for the whole process: all runs of a study have one precision
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
            spec.train.precision in ("tf32", "bf16")
        )
    model = make_model(spec, device)
    optimizer, state = _restore(run, spec, pack, indices, model, ranks)
    if device.type == "cpu":  # more than one where it was resumed with another number
        state["threads"] = sorted({*state.get("threads", []), torch.get_num_threads()})
    if ranks.size > 1 or "ranks" in state:  # likewise
        before = state.get("ranks", [1] if state["step"] else [])
        state["ranks"] = sorted({*before, ranks.size})
    stats = new_stats(device)
    if state["stats"]:
        stats.copy_(torch.tensor(state["stats"], dtype=torch.float64))
    config = spec.config()
    data = {
        **shard_options(config),
        "device": device,
        "dtype": dtype_of(spec),
        "stress": spec.train.stress,
        "config_weights": spec.train.config_weights or (),
        "poll": _Reading(run, stop, ranks),
    }
    if spec.start:
        data["references"] = tuple(ranks.from_first(run.reference_table))
    validation = validation_set(pack, spec.train.validation_structures)
    evaluation = Evaluation(
        model,
        (shards or Shards()).get(pack, validation, **data),
        structures=len(validation),
        ranks=ranks,
        rotations=spec.train.evaluation_rotations,
    )
    capacity = capacity if capacity is not None else device_capacity(device)
    feed = Feed(
        pack,
        indices,
        schedule,
        capacity=-float(ranks.largest(np.array([-capacity]))[0]),
        shards=shards,
        rank=ranks.rank,
        ranks=ranks.size,
        **data,
    )
    # torch.compile cannot differentiate what it compiled twice, as gradient forces ask for
    forward = compiled(model) if compile_model and config.forces == "direct" else model
    graphs = device.type == "cuda" and architecture(config.architecture).capture
    stepper = (GraphStep if graphs else EagerStep)(
        model, optimizer, spec.train, spec.seed, stats, forward, ranks
    )
    recorder = _Recorder(
        run,
        spec,
        model,
        optimizer,
        schedule,
        evaluation,
        state,
        stats,
        progress,
        device,
        shared,
        ranks,
    )
    model.train()
    status = "finished"
    neighbours, resumed = contextlib.ExitStack(), state["step"]
    try:
        recorder.alone = neighbours.enter_context(training_on(device))
        if progress:
            progress.say(f"reading structures for {spec.steps - state['step']:,} steps")
        for window in feed.windows(resumed):
            if progress and window.low == resumed:
                progress.begin(resumed)
            if not stepper.go_on(feed.plan, window):
                stepper.release()
                evaluation.release()
                stepper.begin(feed.plan, window)
                if graphs:
                    evaluation.capture(stepper.pool)
            status = yield from recorder.train_window(window, stepper, stop)
            # graphs are made and given back, and models called eagerly, by one thread only
            yield Request.PREPARE
            if status != "finished":
                break
        stepper.release()
        evaluation.release()
        return recorder.finish(status) if status != "stopped" else None
    except Stopped:
        if recorder.state["step"] > resumed:  # the next window was being read
            recorder.save()
        raise
    finally:
        neighbours.close()
        stepper.release()
        evaluation.release()
        if progress:
            progress.close()


def _schedule(run: RunDirectory, spec: RunSpec, pack: Pack) -> tuple[np.ndarray, Plan]:
    """The training structures of a run in the pack, (structures,), and its steps; an error where
    the pack is not the one that the run was planned on."""
    if spec.data["hash"] != pack.hash:
        raise DataError(
            f"the pack's hash is {pack.hash}, the run was planned on {spec.data['hash']}",
            where=str(pack.path),
            remedy="give the same pack, or start a new study directory",
        )
    indices = training_set(pack, spec.train_structures)
    schedule = plan_for(pack.sizes(indices), spec.atoms_total, spec.seed, spec.train)
    if schedule.steps != spec.steps:
        raise StoreError(
            f"the schedule has {schedule.steps} steps, the specification {spec.steps}",
            where=str(run.path),
            remedy="the pack or the code changed since the run was planned; start a new study"
            " directory",
        )
    return indices, schedule


def _require_work_for(ranks: Ranks, schedule: Plan) -> None:
    """StudyError where a step has fewer structures than there are ranks."""
    most = int(np.diff(schedule.ptr).max())
    if most < ranks.size:
        raise StudyError(
            f"a step has at most {most} structures, too few for {ranks.size} ranks",
            remedy="train on fewer devices, or with larger steps (--batch-molecules)",
        )


def _restore(
    run: RunDirectory,
    spec: RunSpec,
    pack: Pack,
    indices: np.ndarray,
    model: ForceField,
    ranks: Ranks,
) -> tuple[ScheduleFreeAdamW, dict[str, Any]]:
    """The optimiser and the state from which a run begins or resumes, the same on all ranks; the
    first one reads them, and puts the run directory in order."""
    if spec.start and ranks.first:
        fine_tune.begin(run, model, pack, indices)
    optimizer = _optimizer(spec, model)

    def read() -> dict[str, Any]:
        state = NEW_STATE | (checkpoint.load(run.path, optimizer, model) or {})
        # checkpoints of older versions did not count them
        state["evaluations"] = run.truncate_metrics(state["step"], state.get("evaluations"))
        run.keep_references(pack.manifest["references"]["energies"], same=not spec.start)
        return state

    state = ranks.from_first(read)
    kept = checkpoint.kept_buffers(model).values()
    ranks.copy_first_([optimizer.y, optimizer.z, optimizer.v, *kept])
    return optimizer, state


def _optimizer(spec: RunSpec, model: ForceField) -> ScheduleFreeAdamW:
    given = spec.train
    options: dict[str, Any] = {
        "lr": spec.lr,
        "steps": spec.steps,
        "warmup": warmup_steps(spec.steps, given),
        "betas": (given.beta1, given.beta2),
        "weight_decay": given.weight_decay,
        "clip": given.clip,
        "decay": given.decay,
        "shape": given.decay_shape,
        "power": given.average_power,
    }
    if given.optimizer == "schedule_free":
        return ScheduleFreeAdamW(model, **options)
    return PlainOptimizer(model, kind=given.optimizer, **options)


class _Reading:
    """Called while data are read, which takes minutes where there are many: renews the claim, and
    raises Stopped where the run is to be left."""

    def __init__(self, run: RunDirectory, stop: Callable[[], bool], ranks: Ranks):
        self.run, self.stop, self.ranks, self.beat = run, stop, ranks, time.monotonic()

    def __call__(self) -> None:
        if self.ranks.may_leave and self.stop():
            raise Stopped
        if self.ranks.first and time.monotonic() - self.beat > HEARTBEAT_SECONDS:
            self.run.heartbeat()
            self.beat = time.monotonic()


@dataclass(eq=False)
class _Recorder:
    """Trains a run and records it: clock, FLOPs, evaluations, checkpoints, result."""

    run: RunDirectory
    spec: RunSpec
    model: ForceField
    optimizer: ScheduleFreeAdamW
    schedule: Plan
    evaluation: Evaluation
    state: dict[str, Any]
    stats: torch.Tensor
    progress: Progress | None
    device: torch.device
    shared: bool
    ranks: Ranks

    def __post_init__(self) -> None:
        steps, sampled = self.spec.steps, self.shared and self.device.type == "cuda"
        self.flops = self.spec.flops()
        self.factor = self.spec.cost_factor
        self.seen = np.concatenate([[0], np.cumsum(self.schedule.atoms)])
        self.points = evaluation_steps(steps, self.spec.train)
        self.clock = Clock(self.state["step"], steps, sampled=sampled)
        self.saved = self.beat = time.monotonic()
        self.note = ""
        self.alone: Callable[[], bool] = lambda: True

    def train_window(
        self, window: Window, stepper: Any, stop: Callable[[], bool]
    ) -> Generator[Any, None, str]:
        """Train the steps of one window; the status after them."""
        edges = stepper.edges
        step = self.state["step"]
        while step < window.high:
            target = min(next(p for p in self.points if p > step), window.high)
            reached = yield from self._train_steps(step, target, stepper)
            done = int(edges[step - window.low : reached - window.low].sum())
            self.state["edges"] += done
            self.state["flops"] += self.factor * self.flops.training(
                done, int(self.seen[reached] - self.seen[step])
            )
            step = self.state["step"] = reached
            if float(self.stats[4]) < NEVER:
                self.diverged = int(self.stats[4])
                return "diverged"
            if step in self.points and not (yield from self._evaluate(step)):
                self.diverged = step
                return "diverged"
            self._housekeeping(step)
            if self._asked(stop):
                self.save()
                return "stopped"
        return "finished"

    def _asked(self, stop: Callable[[], bool]) -> bool:
        """Whether any rank wants to stop. What else depends on a clock is agreed on, too."""
        if self.ranks.size == 1:
            return stop()
        mine = np.array([float(stop()), self.clock.steps_to_queue(False)])
        asked, queued = self.ranks.largest(mine)
        self.clock.queue(int(queued))
        return bool(asked)

    def _train_steps(self, step: int, target: int, stepper: Any) -> Generator[Any, None, int]:
        """Train some steps from ``step``, at most to ``target``; the step that was reached."""
        on_gpu = self.device.type == "cuda"
        exclusive = self.clock.sample_due(step)
        if exclusive:
            yield Request.EXCLUSIVE
            # what preparing took, and what ended runs left; it waits for the device, now idle
            torch.cuda.empty_cache()
        # a GPU runs ahead of the host; a CPU looks up after every step
        reached = min(target, step + (self.clock.steps_to_queue(exclusive) if on_gpu else 1))
        began = time.perf_counter()
        for k in range(step, reached):
            stepper.run(k)
        if on_gpu:
            done = torch.cuda.Event(blocking=True)
            done.record()
            if exclusive:
                done.synchronize()
            else:
                yield from self.ranks.wait(done)
        wall = time.perf_counter() - began
        self.state["wall"] += wall
        if on_gpu and (exclusive or not self.clock.sampled) and not self.alone():
            self.state["beside"] = True
        seconds = self.clock.seconds(reached - step, wall, exclusive)
        self.state["seconds"] += seconds * self.ranks.size
        if not on_gpu or exclusive:
            yield None  # let others be resumed, or timed, before anything more is queued
        return reached

    def _evaluate(self, step: int) -> Generator[Any, None, bool]:
        """Evaluate at the averaged weights and write the row; False when the losses are not
        finite."""
        if self.ranks.first:
            self.run.check()
        kept = self.optimizer.swap_in(self.optimizer.averaged())
        self.evaluation.launch()
        self.optimizer.y.copy_(kept)
        if self.device.type == "cuda":
            done = torch.cuda.Event(blocking=True)
            done.record()
            yield done
        losses = self.evaluation.losses()
        if not all(math.isfinite(v) for v in losses.values()):
            return False
        if self.ranks.first:
            self._write_row(step, losses)
        self.stats.copy_(new_stats(self.device))
        self.note = f"loss {losses['loss']:.3f}"
        if self.progress:
            self.progress.numbers["loss"] = losses["loss"]
        self.save()
        return True

    def _write_row(self, step: int, losses: dict[str, float]) -> None:
        s, d, total = self.spec, int(self.seen[step]), self.stats.tolist()
        seconds = self.state["seconds"]
        self.run.append_metric(
            {
                "step": step,
                "epoch": int(self.schedule.epoch[step - 1]),
                "d": d,
                "u": min(d, s.train_atoms),
                "c": self.state["flops"],
                "h": seconds / 3600.0,
                **losses,
                "train_loss": total[0] / max(1.0, total[3]),
                "grad_norm": total[1] / max(1.0, total[3]),
                "clipped": total[2] / max(1.0, total[3]),
                "kappa": self.state["flops"] / (3.0 * s.n * d),
                "throughput": d / seconds if seconds > 0 else None,
                "mean_degree": self.state["edges"] / d,
            }
        )
        self.state["evaluations"] += 1

    def save(self) -> None:
        if not self.ranks.first:
            return
        checkpoint.save(
            self.run, self.model, self.optimizer, {**self.state, "stats": self.stats.tolist()}
        )
        self.saved = time.monotonic()

    def _housekeeping(self, step: int) -> None:
        now = time.monotonic()
        if now - self.saved > CHECKPOINT_SECONDS:
            self.save()
        if now - self.beat > HEARTBEAT_SECONDS and self.ranks.first:
            self.run.heartbeat()
            self.beat = now
        if self.progress:
            self.progress.update(step, self.note)

    def finish(self, status: str) -> dict[str, Any]:
        """Write result.json: the run is over. ``seconds`` are those of a run that has the device to
        itself, of all its devices together: ``timing`` says whether they were measured over the
        whole run ("solo") or over samples of it ("solo sample"), or while other processes trained
        on its device (``BESIDE``), which makes them too long; ``wall_seconds`` is the time its
        steps really took, with the other runs on the device. Only the first rank writes."""
        if not self.ranks.first:
            return {"status": status}
        result: dict[str, Any] = {
            "status": status,
            "steps": self.state["step"],
            "device": device_name(self.device),
            "seconds": self.state["seconds"],
            "timing": BESIDE
            if self.state.get("beside")
            else ("solo sample" if self.clock.sampled else "solo"),
            "wall_seconds": self.state["wall"],
            "flops": self.state["flops"],
            "lr": self.spec.lr,
            **{key: self.state[key] for key in ("threads", "ranks") if key in self.state},
            "versions": {
                "forcelaw": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        if status == "diverged":
            where = f"step {self.diverged} with learning rate {self.spec.lr:g}"
            result |= {"step": self.diverged, "message": f"non-finite loss or gradient at {where}"}
        else:
            kept = self.optimizer.swap_in(self.optimizer.averaged())
            result["symmetry"] = symmetry_error(self.model, self.evaluation.shard)
            self.optimizer.y.copy_(kept)
        self.run.finish(result)
        return result
