"""Run a study on this machine: k worker processes whose threads do not fight, live progress, and a clean stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StudyError
from ..progress import Progress, count, duration
from ..store import RunDirectory, read_json
from ..study import Planner, Study
from .worker import known_runs, spec_flops


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


def estimate(planner: Planner, device: str) -> dict[str, tuple[float, float]]:
    """Seconds of training for each architecture label as (seconds per step, seconds per FLOP), from timing a few steps of
    its smallest and largest model."""
    import numpy as np
    import torch

    from ..data.batches import Shard
    from ..models import build
    from ..train.loss import loss_terms
    from ..train.spec import training_set

    pack, out = planner.pack, {}
    rows_in_pack = training_set(pack, 512)
    dev = torch.device(device)
    shard = Shard(pack, rows_in_pack, cutoff=planner.study.cutoff, elements=planner.data["elements"], device=dev)
    molecules = planner.options.batch_molecules or max(1, round(planner.options.batch_atoms / shard.host_natoms.mean()))
    rows = np.arange(min(molecules, len(shard)))
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    for a in planner.study.architectures:
        sizes = a.sizes or planner.study.sizes
        points = []
        for size in sorted({min(sizes), max(sizes)}):
            config = planner.config(a, size)
            model = build(config, 0).to(dev)
            params = list(model.parameters())
            best = float("inf")
            for _ in range(4):
                began = time.perf_counter()
                graph, target = shard.batch(torch.from_numpy(rows).to(dev), atoms, edges)
                terms = loss_terms(*model(graph), target)
                torch.autograd.grad(terms[0] + terms[1], params, allow_unused=True)
                if dev.type == "cuda":
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - began)
            from ..models import architecture

            points.append((architecture(a.name).flops(config).training(edges, atoms), best))
        (f0, t0), (f1, t1) = points[0], points[-1]
        slope = max(0.0, (t1 - t0) / (f1 - f0)) if f1 > f0 else 0.0
        out[planner.label(a)] = (max(t0 - slope * f0, 0.2 * t0), slope)
    return out


def seconds_of(spec: dict[str, Any], rates: dict[str, tuple[float, float]]) -> float:
    """Estimated seconds of a run, evaluations included (an evaluation costs a third of a step per atom)."""
    per_step, per_flop = rates[spec["label"]]
    train = spec["steps"] * per_step + spec_flops(spec) * per_flop
    evaluated = spec["train"]["evaluations"] * spec["train"]["validation_structures"] * 20.0
    return train * (1.0 + evaluated / (3.0 * spec["steps"] * spec["batch_atoms"]))


def standing(planner: Planner, runs: Path, rates: dict[str, tuple[float, float]]) -> Standing:
    """Read the state of every run from disk."""
    listed, complete = known_runs(planner, runs)
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
        last = run.path / "last.json"
        step = read_json(last)["step"] if last.exists() else 0
        s.done += seconds * step / spec["steps"]
        if (run.path / "claim").exists():
            s.running += 1
            s.now.append(f"{spec['label']} N={count(spec['n'])} {100 * step / spec['steps']:.0f}%")
    if not complete:  # grids that are not planned yet still count as work ahead
        for a in planner.study.architectures:
            if planner.sweep(a) and planner.learning_rate(a, runs) is None:
                specs = planner.grid(a, 1.0)
                s.total += len(specs)
                s.work += sum(seconds_of(spec, rates) for spec in specs)
    return s


def describe(planner: Planner, rates: dict[str, tuple[float, float]], workers: int) -> str:
    """The plan of a study and what it will cost, as text."""
    lines = [f"study {planner.study.name}: {planner.study.description.strip().splitlines()[0]}"
             if planner.study.description.strip() else f"study {planner.study.name}"]
    m = planner.pack.manifest
    lines.append(f"data  {planner.pack.path.name}: {m['structures']:,} structures, {m['atoms']:,} atoms, "
                 f"mean degree {planner.data['mean_degree']:g} at {planner.study.cutoff:g} Angstrom")
    total = flops = runs = 0.0
    lines.append(f"{'architecture':<22}{'runs':>6}{'sweep':>7}{'N from':>10}{'to':>10}{'FLOPs':>10}{'time':>14}")
    for a in planner.study.architectures:
        sweep, grid = planner.sweep(a), planner.grid(a, 1.0)
        seconds = sum(seconds_of(s, rates) for s in [*sweep, *grid])
        cost = sum(spec_flops(s) for s in [*sweep, *grid])
        ns = [s["n"] for s in grid]
        lines.append(f"{planner.label(a):<22}{len(grid):>6}{len(sweep):>7}{count(min(ns)):>10}{count(max(ns)):>10}"
                     f"{cost:>10.1e}{duration(seconds):>14}")
        total, flops, runs = total + seconds, flops + cost, runs + len(grid) + len(sweep)
    lines.append(f"{int(runs)} runs, {flops:.1e} FLOPs, about {duration(total / workers)} with {workers} "
                 f"worker{'s' * (workers > 1)}")
    return "\n".join(lines)


def run_local(study: Study, study_file: Path, planner: Planner, out: Path, *, workers: int, device: str,
              compile_model: bool = False, pack: str = "auto", rates: dict[str, tuple[float, float]]) -> Standing:
    """Start workers, each with ``pack`` runs side by side, and show progress until the study is done; Ctrl-C stops cleanly, a
    second call goes on."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes = [_start(study_file, out, k, workers, device, compile_model, pack, logs) for k in range(workers)]
    runs = out / "runs"
    s = standing(planner, runs, rates)
    try:
        with Progress(study.name, s.work, unit="s of work", already=s.done, interval=None if sys.stderr.isatty() else 15) as bar:
            while any(p.poll() is None for p in processes):
                time.sleep(0.5 if bar.live else 2.0)
                s = standing(planner, runs, rates)
                bar.total = s.work
                elapsed = time.monotonic() - bar.started
                rate = (s.done - bar.already) / elapsed
                left = duration((s.work - s.done) / rate) if rate > 0 else "?"
                ended = s.finished + s.diverged + s.failed
                text = f"{study.name}: {ended}/{s.total} runs, {100 * s.done / max(s.work, 1e-9):.0f}%, {left} left"
                _show(bar, text + (f" | {'; '.join(s.now)}" if s.now else ""))
    except KeyboardInterrupt:
        for p in processes:
            p.send_signal(signal.SIGTERM)
        for p in processes:
            p.wait()
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    codes = [p.returncode for p in processes]
    s = standing(planner, runs, rates)
    if any(codes) and s.finished + s.diverged + s.failed < s.total:
        raise StudyError(f"workers ended with codes {codes} before the study was done", where=str(logs),
                         remedy="read the logs there; the same command goes on from here")
    return s


def _show(bar: Progress, text: str) -> None:
    now = time.monotonic()
    if now - bar._last >= bar.interval:
        bar._last = now
        bar._show(text)


def _start(study_file: Path, out: Path, k: int, workers: int, device: str, compile_model: bool, pack: str,
           logs: Path) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    # oversubscribed threads make torch 3 to 40 times slower (measured); they must be set before torch is imported
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
                   "OPENBLAS_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    if device == "cuda":
        visible = [v for v in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
        if not visible:
            import torch

            visible = [str(i) for i in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = visible[k % len(visible)]
        environment.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # with the usual 8, more streams wait for each other
    command = [sys.executable, "-m", "forcelaw.launch.worker", str(study_file), "--out", str(out), "--device", device,
               "--pack", pack, "--parent", str(os.getpid()), "--quiet"]
    if compile_model:
        command.append("--compile")
    log = (logs / f"worker-{k}.log").open("ab")
    try:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    finally:
        log.close()


def status_table(out: Path) -> str:
    """Counts by architecture and state, from the run directories alone."""
    from ..store import runs as all_runs

    counts: dict[str, dict[str, int]] = {}
    trouble = []
    for run in all_runs(out / "runs"):
        spec, result = run.spec(), run.result()
        state = result["status"] if result else "running" if (run.path / "claim").exists() else "waiting"
        row = counts.setdefault(f"{spec['label']} ({spec['kind']})", {})
        row[state] = row.get(state, 0) + 1
        if state in ("diverged", "failed"):
            trouble.append(f"  {run.id} {spec['label']} N={spec['n']:,} lr {spec['lr']:g}: {result.get('message', '')}")
    states = ["finished", "running", "waiting", "diverged", "failed"]
    lines = [f"{'architecture':<28}" + "".join(f"{s:>10}" for s in states)]
    for label, row in sorted(counts.items()):
        lines.append(f"{label:<28}" + "".join(f"{row.get(s, 0):>10}" for s in states))
    if trouble:
        lines += ["", "diverged or failed:", *trouble]
    return "\n".join(lines)


__all__ = ["RunDirectory", "Standing", "describe", "estimate", "run_local", "standing", "status_table"]
