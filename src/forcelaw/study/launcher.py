"""Run a study on this machine: k worker processes whose threads do not fight, live progress, and a
clean stop."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import StudyError
from ..files import read_json, write_json
from ..progress import Progress, count, duration
from ..store.runs import planned_flops
from .accounting import Piece, accounts
from .config import Planner, Study
from .listing import known_runs

GRACE = 30.0  # seconds after the deadline that a worker has for its checkpoints


@dataclass
class Standing:
    """Where a study stands. Work is counted in estimated seconds."""

    total: int
    finished: int
    diverged: int
    failed: int
    running: int
    work: float
    done: float
    complete: bool  # whether all runs can be planned already (sweeps are over)
    now: list[str]

    @property
    def ended(self) -> int:
        return self.finished + self.diverged + self.failed

    @property
    def over(self) -> bool:
        return self.complete and self.ended >= self.total


class Rate(NamedTuple):
    """What a training step takes: seconds whatever the model, per FLOP, and for each layer."""

    step: float
    flop: float
    layer: float = 0.0


def estimate(planner: Planner) -> dict[str, Rate]:
    """Seconds of training for each architecture label, from timing a few steps of its smallest and
    largest model."""
    import numpy as np
    import torch

    from ..data.device_dataset import Shard
    from ..models import build
    from ..training.config import cost_factor
    from ..training.loss import loss_terms
    from ..training.spec import training_set

    pack, out = planner.pack, {}
    rows_in_pack = training_set(pack, 512)
    shard = Shard(
        pack, rows_in_pack, cutoff=planner.study.cutoff, elements=planner.data["elements"]
    )
    for a in planner.study.architectures:
        options, sizes, points = planner.train_options(a), planner.sizes(a), []
        molecules = options.batch_molecules or max(
            1, round(options.batch_atoms / shard.host_natoms.mean())
        )
        rows = np.arange(min(molecules, len(shard)))
        atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
        for size in sorted({min(sizes), max(sizes)}):
            config = planner.config(a, size)
            model = build(config, 0)
            params = list(model.parameters())
            best = float("inf")
            for _ in range(4):
                began = time.perf_counter()
                graph, target = shard.batch(torch.from_numpy(rows), atoms, edges)
                terms = loss_terms(*model(graph), target)
                torch.autograd.grad(terms[0] + terms[1], params, allow_unused=True)
                best = min(best, time.perf_counter() - began)
            from ..models import architecture

            copies = 1 + options.symmetry_rotations
            factor = cost_factor(config.forces, options.symmetry_rotations)
            points.append(
                (factor * architecture(a.name).flops(config).training(edges, atoms), copies * best)
            )
        (f0, t0), (f1, t1) = points[0], points[-1]
        slope = max(0.0, (t1 - t0) / (f1 - f0)) if f1 > f0 else 0.0
        out[planner.label(a)] = Rate(max(t0 - slope * f0, 0.2 * t0), slope)
    return out


# A lone step of 16 molecules on one H100 beside its arithmetic (no torch.compile): fixed seconds,
# and seconds of a layer. MPNN, PaiNN and eSEN from results/depth and results/data_limited, whose
# 115 finished runs took .72 to 1.03 times as long; MC-EGNN and GemNet-OC by their launches
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


def gpu_rates(planner: Planner) -> dict[str, Rate]:
    """As :func:`estimate`, for a GPU, from what was measured on one."""
    made = {name: Rate(step, GPU_FLOP, layer) for name, (step, layer) in GPU_STEP.items()}
    slowest = max(made.values(), key=lambda rate: rate.layer)
    return {planner.label(a): made.get(a.name, slowest) for a in planner.study.architectures}


def seconds_of(spec: dict[str, Any], rates: dict[str, Rate]) -> float:
    """Estimated seconds of a run, evaluations included (an evaluation costs a third of a step per
    atom)."""
    rate = rates[spec["label"]]
    train = (
        spec["steps"] * (rate.step + rate.layer * spec["model"]["depth"])
        + planned_flops(spec) * rate.flop
    )
    evaluated = spec["train"]["evaluations"] * spec["train"]["validation_structures"] * 20.0
    return train * (1.0 + evaluated / (3.0 * spec["steps"] * spec["batch_atoms"]))


def remembered(out: Path | None, planner: Planner, device: str) -> dict[str, Rate]:
    """:func:`estimate`, measured once: a study that runs in pieces need not time itself each time
    (out None: anew). For a GPU :func:`gpu_rates`."""
    if device == "cuda":
        return gpu_rates(planner)
    if out is None:
        return estimate(planner)
    path, name = out / "rates.json", device_label(device)
    known = read_json(path) if path.exists() else {}
    if set(known.get(name, {})) != {planner.label(a) for a in planner.study.architectures}:
        known[name] = estimate(planner)
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    return {label: Rate(*rate) for label, rate in known[name].items()}


def device_label(device: str) -> str:
    if device != "cuda":
        return "CPU"
    import torch

    return torch.cuda.get_device_name()


def standing(
    planner: Planner, runs: Path, rates: dict[str, Rate], hold: float | None = None
) -> Standing:
    """Read the state of every run from disk; ``hold`` as for :func:`known_runs`."""
    listed, complete = known_runs(planner, runs, hold)
    s = Standing(len(listed), 0, 0, 0, 0, 0.0, 0.0, complete, [])
    for run, _ in listed:
        spec = run.spec()
        seconds = seconds_of(spec, rates)
        s.work += seconds
        result = run.result()
        if result is not None:
            s.done += seconds
            s.finished += result["status"] == "finished"
            s.diverged += result["status"] == "diverged"
            s.failed += result["status"] == "failed"
            continue
        step = run.position()
        s.done += seconds * step / spec["steps"]
        if run.held:
            s.running += 1
            s.now.append(f"{spec['label']} N={count(spec['n'])} {100 * step / spec['steps']:.0f}%")
    if not complete:  # grids that are not planned yet still count as work ahead
        for a in planner.study.architectures:
            if planner.waits(a, runs):
                specs = planner.grid(a, 1.0)
                s.total += len(specs)
                s.work += sum(seconds_of(spec, rates) for spec in specs)
    return s


def describe(planner: Planner, rates: dict[str, Rate], workers: int, device: str = "cpu") -> str:
    """The plan of a study and what it will cost, as text."""
    lines = [
        (
            f"study {planner.study.name}: {planner.study.description.strip().splitlines()[0]}"
            if planner.study.description.strip()
            else f"study {planner.study.name}"
        )
    ]
    m = planner.pack.manifest
    lines.append(
        f"data  {planner.pack.path.name}: {m['structures']:,} structures, {m['atoms']:,} atoms, "
        f"mean degree {planner.data['mean_degree']:g} at {planner.study.cutoff:g} Angstrom"
    )
    total = flops = runs = 0.0
    lines.append(
        f"{'architecture':<22}{'runs':>6}{'sweep':>7}{'N from':>10}{'to':>10}{'FLOPs':>10}{'time':>14}"
    )
    for a in planner.study.architectures:
        sweep, grid = planner.sweep(a), planner.grid(a, 1.0)
        seconds = sum(seconds_of(s, rates) for s in [*sweep, *grid])
        cost = sum(planned_flops(s) for s in [*sweep, *grid])
        ns = [s["n"] for s in grid]
        lines.append(
            f"{planner.label(a):<22}{len(grid):>6}{len(sweep):>7}{count(min(ns)):>10}{count(max(ns)):>10}"
            f"{cost:>10.1e}{duration(seconds):>14}"
        )
        total, flops, runs = total + seconds, flops + cost, runs + len(grid) + len(sweep)
    lines.append(
        f"{int(runs)} runs, {flops:.1e} FLOPs, about {duration(total / workers)} with {workers} "
        f"worker{'s' * (workers > 1)}"
    )
    if device == "cuda":
        lines[-1] += (
            " and one run at a time, by the rates of one H100; runs side by side end about 3 times"
            " sooner"
        )
    return "\n".join(lines)


def run_local(
    study: Study,
    study_file: Path,
    planner: Planner,
    out: Path,
    *,
    workers: int,
    device: str,
    compile_model: bool = False,
    pack: str = "auto",
    rates: dict[str, Rate],
    deadline: float = math.inf,
    hold: float | None = None,
) -> Standing:
    """Start workers, each with ``pack`` runs side by side, and show progress until the study is
    done or ``deadline`` (seconds since the epoch) is past. Ctrl-C stops cleanly, and so does
    SIGTERM; a second call goes on."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    options = [
        "--out",
        str(out),
        "--device",
        device,
        "--pack",
        pack,
        "--parent",
        str(os.getpid()),
        "--quiet",
    ]
    options += ["--compile"] if compile_model else []
    options += ["--deadline", repr(deadline)] if deadline < math.inf else []
    options += ["--hold", repr(hold)] if hold else []
    runs = out / "runs"
    s = standing(planner, runs, rates, hold)
    processes = [_start(study_file, options, k, workers, device, logs) for k in range(workers)]
    previous = (
        signal.signal(signal.SIGTERM, _interrupt)
        if threading.current_thread() is threading.main_thread()
        else None
    )
    try:
        with (
            Piece(
                out, device=device_label(device), devices=_devices(workers, device), workers=workers
            ) as piece,
            Progress(
                study.name,
                s.work,
                unit="s of work",
                already=s.done,
                interval=None if sys.stderr.isatty() else 15,
            ) as bar,
        ):
            while any(p.poll() is None for p in processes):
                time.sleep(0.5 if bar.live else 2.0)
                s = standing(planner, runs, rates, hold)
                _show(bar, s, study.name)
                piece.beat()
                if time.time() > deadline + GRACE:
                    _kill(processes)
    except KeyboardInterrupt:
        for p in processes:
            p.send_signal(signal.SIGTERM)
        for p in processes:
            p.wait()
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    codes = [p.returncode for p in processes]
    s = standing(planner, runs, rates, hold)
    if any(codes) and s.ended < s.total and time.time() < deadline:
        raise StudyError(
            f"workers ended with codes {codes} before the study was done",
            where=str(logs),
            remedy="read the logs there; the same command goes on from here",
        )
    return s


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _devices(workers: int, device: str) -> int:
    """Devices that ``workers`` processes keep busy: GPUs, or cores of a CPU."""
    if device != "cuda":
        return workers
    import torch

    return min(workers, torch.cuda.device_count())


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    """End workers that did not stop in time, for instance in the middle of a compilation. The
    checkpoints are at most a minute old, and the claim of a process that is gone binds nobody."""
    for p in processes:
        if p.poll() is None:
            print(
                f"worker {p.pid} did not stop within {GRACE:.0f} s: killed; its runs go on from"
                " their last checkpoints",
                file=sys.stderr,
            )
            p.kill()
            p.wait()


def left(s: Standing, began: Standing, seconds: float) -> str:
    """How much of a study is left, in words, at the pace of a piece of ``seconds`` that began at
    ``began``."""
    text = (
        f"{s.total - s.ended} of {s.total} runs are left,"
        f" {100 * (1 - s.done / max(s.work, 1e-9)):.0f}% of the work"
    )
    if not s.complete:
        text += " (learning-rate sweeps are not over, so this is an estimate)"
    pace = (s.done - began.done) / seconds if seconds > 0 else 0.0
    return text + (
        f"; about {duration((s.work - s.done) / pace)} more at this pace" if pace > 0 else ""
    )


def _show(bar: Progress, s: Standing, name: str) -> None:
    now = time.monotonic()
    if now - bar._last < bar.interval:
        return
    bar._last, bar.total = now, s.work
    rate = (s.done - bar.already) / (now - bar.started)
    text = (
        f"{name}: {s.ended}/{s.total} runs, {100 * s.done / max(s.work, 1e-9):.0f}%, "
        f"{duration((s.work - s.done) / rate) if rate > 0 else '?'} left"
    )
    bar._show(text + (f" | {'; '.join(s.now)}" if s.now else ""))


def _start(
    study_file: Path, options: list[str], k: int, workers: int, device: str, logs: Path
) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    # oversubscribed threads make torch 3 to 40 times slower (measured); they must be set before
    # torch is imported
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
    }
    if device == "cuda":
        visible = [v for v in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
        if not visible:
            import torch

            visible = [str(i) for i in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = visible[k % len(visible)]
        environment.setdefault(
            "CUDA_DEVICE_MAX_CONNECTIONS", "32"
        )  # with the usual 8, more streams wait for each other
    log = (logs / f"worker-{k}.log").open("ab")
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "forcelaw.study.worker", str(study_file), *options],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    finally:
        log.close()


def status_table(out: Path) -> str:
    """Counts by architecture and state, from the run directories alone."""
    from ..store.runs import runs as all_runs

    counts: dict[str, dict[str, int]] = {}
    trouble = []
    for run in all_runs(out / "runs"):
        spec, result = run.spec(), run.result()
        state = (
            result["status"]
            if result
            else "running"
            if run.held
            else "stopped"
            if run.position()
            else "waiting"
        )
        row = counts.setdefault(f"{spec['label']} ({spec['kind']})", {})
        row[state] = row.get(state, 0) + 1
        if state in ("diverged", "failed"):
            trouble.append(
                f"  {run.id} {spec['label']} N={spec['n']:,} lr {spec['lr']:g}:"
                f" {result.get('message', '')}"
            )
    states = ["finished", "running", "stopped", "waiting", "diverged", "failed"]
    lines = [f"{'architecture':<28}" + "".join(f"{s:>10}" for s in states)]
    for label, row in sorted(counts.items()):
        lines.append(f"{label:<28}" + "".join(f"{row.get(s, 0):>10}" for s in states))
    if trouble:
        lines += ["", "diverged or failed:", *trouble]
    return "\n".join([*lines, "", accounts(out).words()])


__all__ = [
    "Standing",
    "describe",
    "estimate",
    "left",
    "remembered",
    "run_local",
    "standing",
    "status_table",
]
