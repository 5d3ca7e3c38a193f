"""What is being trained now: claims and what workers say once a minute, joined with SLURM's queue,
as text and for Prometheus. Needs neither the study file nor torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError, printable
from ..progress import are, count, counted, duration
from ..store.beats import latest
from ..store.claim import LEASE_SECONDS, holder
from ..store.runs import RunDirectory
from . import stop
from .accounting import accounts
from .slurm import queue

LATE_SECONDS = 60.0  # heartbeats come every 20 s


@dataclass(frozen=True)
class LiveRun:
    """A run that is held: steps done, of all, and a second; seconds left; the last loss; who holds
    it, and the age of the heartbeat in seconds. nan: not known."""

    id: str
    label: str
    n: int
    step: float
    steps: float
    rate: float
    left: float
    loss: float
    host: str
    job: str
    pid: int
    beat: float


@dataclass(frozen=True)
class Live:
    """Runs under way; the last lines of their workers; the jobs of the study's arrays, None where
    SLURM cannot be asked; whether it shall stop."""

    runs: list[LiveRun]
    workers: list[dict[str, Any]]
    jobs: dict[str, queue.Job] | None
    stopping: bool


def live(out: Path, runs: Iterable[RunDirectory]) -> Live:
    """What is under way in the study in ``out``, of ``runs``."""
    workers = latest(out)
    said = {run: state for worker in workers for run, state in worker["runs"].items()}
    found = [one for run in runs if (one := _live_run(run, said.get(run.id) or {}))]
    arrays = queue.submitted(out)
    return Live(found, workers, queue.jobs(arrays) if arrays else {}, stop.asked(out))


def _live_run(run: RunDirectory, said: dict[str, Any]) -> LiveRun | None:
    about = holder(run.path)
    if not about:
        return None
    try:
        spec, position = run.spec(), run.position()
        step = max(position, said.get("step") or 0)
        label, n, steps = str(spec["label"]), int(spec["n"]), float(spec["steps"])
    except (StoreError, OSError, KeyError, TypeError, ValueError):
        return None
    rate, left, loss = (_number(said.get(name) or None) for name in ("rate", "left", "loss"))
    host, job, pid = str(about.get("host", "")), str(about.get("job", "")), about.get("pid")
    pid = pid if isinstance(pid, int) else 0
    return LiveRun(run.id, label, n, step, steps, rate, left, loss, host, job, pid, about["beat"])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def describe(now: Live, unfinished: int) -> str:
    """As text; empty where nothing is under way, and nothing is left. unfinished: runs that are not
    over."""
    lines: list[str] = []
    if now.runs:
        lines += [
            f"{'in training':<34}{'N':>8}{'done':>6}{'steps/s':>9}{'left':>13}{'loss':>9}"
            f"{'heartbeat':>11}  where"
        ]
    lines += [_line(run, now.jobs or {}) for run in sorted(now.runs, key=lambda r: r.label)]
    lines += [_memory(worker) for worker in now.workers if "gpu_memory" in worker]
    if unfinished:
        lines += _queue(now)
    if now.stopping and unfinished:
        lines.append("it is stopped, or about to be; `forcelaw run` resumes it")
    elif unfinished and not now.runs and not _waiting(now):
        left = f"{counted(unfinished)} {are(unfinished)} left"
        lines.append(f"{left} and nobody trains; `forcelaw run` resumes the study")
    return printable("\n".join(lines))


def _line(run: LiveRun, jobs: dict[str, queue.Job]) -> str:
    left = "" if math.isnan(run.left) else duration(run.left)
    rate = "" if math.isnan(run.rate) else f"{run.rate:.3g}"
    loss = "" if math.isnan(run.loss) else f"{run.loss:.4f}"
    where = f"job {run.job} on {run.host}" if run.job else f"{run.host}, process {run.pid}"
    job = jobs.get(run.job)
    if job and job.state not in queue.ALIVE:
        where += f": {job.state}, taken over within {LEASE_SECONDS:.0f} s"
    elif run.beat > LATE_SECONDS:
        where += ": late"
    return (
        f"{run.id + ' ' + run.label:<34.34}{count(run.n):>8}{run.step / run.steps:>6.0%}{rate:>9}"
        f"{left:>13}{loss:>9}{f'{max(run.beat, 0):.0f} s':>11}  {where}"
    )


def _memory(worker: dict[str, Any]) -> str:
    used, total = (_number(worker.get(f"gpu_memory{name}")) for name in ("", "_total"))
    where = worker.get("job") or worker.get("host")
    return f"{where}: {used:.1f} of {total:.1f} GiB of {worker.get('device')} taken"


def _waiting(now: Live) -> bool:
    """Whether jobs are in the queue that will train; so it may be where nobody knows."""
    if now.jobs is None:
        return True
    return any(job.state in ("PENDING", *queue.ALIVE) for job in now.jobs.values())


def _queue(now: Live) -> list[str]:
    """Workers of a cluster by state."""
    if now.jobs is None:
        return ["SLURM cannot be asked from here (squeue)"]
    lines = []
    training = {run.job for run in now.runs}
    for job in sorted(now.jobs.values(), key=lambda job: [int(k) for k in job.id.split("_")]):
        if job.state == "PENDING":
            lines.append(f"job {job.id} waits in the queue ({job.reason})")
        elif job.state in queue.ALIVE:
            idle = "" if job.id in training else ", no run of its own now"
            lines.append(f"job {job.id} {job.state}, {job.ran} of {job.limit}, {job.node}{idle}")
    others = Counter(job.state for job in now.jobs.values())
    over = [f"{k} {s}" for s, k in others.items() if s != "PENDING" and s not in queue.ALIVE]
    return [*lines, f"jobs that are over: {', '.join(over)}"] if over else lines


# family of samples -> what it is
FAMILIES = {
    "runs": "runs by state",
    "training_flops": "training FLOPs so far",
    "device_hours": "hours of devices held so far",
    "jobs": "SLURM jobs by state",
    "run_step": "training steps done",
    "run_steps": "training steps of the run",
    "run_rate": "training steps a second",
    "run_left": "seconds left",
    "run_loss": "last validation loss, eV/atom + eV/Angstrom",
    "run_beat": "age of the heartbeat in seconds",
    "worker_memory": "largest memory of the worker, GiB",
    "worker_gpu_memory": "memory of its device that all processes take, GiB",
    "worker_age": "seconds since the worker said something",
}


def prometheus(out: Path, now: Live, counts: dict[tuple[str, str, str], int]) -> str:
    """The study in the text format of Prometheus, for a collector of text files. counts: (label,
    kind, state) -> runs."""
    samples = list(_samples(out, now, counts))
    study, lines = out.resolve().name, []
    for family, text in FAMILIES.items():
        body = [
            f"forcelaw_{family}{_labels({'study': study, **labels})} {value:.10g}"
            for name, labels, value in samples
            if name == family and math.isfinite(value)
        ]
        if body:
            head = f"forcelaw_{family}"
            lines += [f"# HELP {head} {text}", f"# TYPE {head} gauge", *body]
    return "\n".join(lines)


def _samples(
    out: Path, now: Live, counts: dict[tuple[str, str, str], int]
) -> Iterator[tuple[str, dict[str, Any], float]]:
    """(family, labels, value)"""
    for (label, kind, state), n in counts.items():
        yield "runs", {"architecture": label, "kind": kind, "state": state}, n
    spent = accounts(out)
    yield "training_flops", {}, spent.flops
    for device, hours in spent.devices.items():
        yield "device_hours", {"device": device}, hours
    for state, n in Counter(job.state for job in (now.jobs or {}).values()).items():
        yield "jobs", {"state": state}, n
    for run in now.runs:
        labels = {"run": run.id, "architecture": run.label, "n": run.n, "job": run.job}
        for field in ("step", "steps", "rate", "left", "loss", "beat"):
            yield f"run_{field}", labels, float(getattr(run, field))
    for worker in now.workers:
        labels = {key: worker.get(key, "") for key in ("host", "pid", "job", "device")}
        for field in ("memory", "gpu_memory", "age"):
            yield f"worker_{field}", labels, _number(worker.get(field))


def _labels(labels: dict[str, Any]) -> str:
    def escaped(value: Any) -> str:
        text = printable(str(value)).replace("\n", " ")
        return text.replace("\\", "\\\\").replace('"', '\\"')

    return "{" + ",".join(f'{key}="{escaped(value)}"' for key, value in labels.items()) + "}"
