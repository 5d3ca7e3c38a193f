"""Train a study on this machine: k worker processes whose threads do not fight, live progress, and
a clean stop."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..errors import RankError, StorageError, StudyError
from ..files import storage
from ..host import interrupted_by_sigterm, place, usable_cores, wanted_threads, without_sigterm
from ..progress import Progress, duration
from ..training.device import device_name
from . import stop
from .accounting import Piece
from .cost import Rate
from .record import StudyDirectory
from .slurm.options import Slurm
from .status import StudyStatus, study_status

PACE_SECONDS = 120.0  # for which the estimated pace counts as if it had been measured
GRACE = 30.0  # seconds after the deadline that a worker has for its checkpoints
# oversubscribed threads make torch 3 to 40 times slower (measured)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_local(
    directory: StudyDirectory,
    study_file: Path,
    *,
    workers: int,
    device: str,
    rates: dict[str, Rate],
    compile_model: bool = False,
    runs_per_device: str = "auto",
    deadline: float = math.inf,
    hold: float | None = None,
    threads: int = 1,
    gpus: int = 1,
    idle: float = math.inf,
) -> StudyStatus:
    """Start workers and show progress until the study is done or ``deadline`` (seconds since the
    epoch) is past. Ctrl-C, SIGTERM and ``forcelaw stop`` stop it cleanly; a second call resumes it.

    workers: none where nothing is left to do; none is started where planning took all the time.
    runs_per_device: side by side in each worker, a number or "auto". hold: as for
    :func:`forcelaw.study.plan.plan`. threads: of each worker on a CPU. gpus: on which each worker
    trains one run at a time. idle: seconds without a free run after which one ends.
    """
    logs = directory.out / "logs"
    with storage(logs):
        logs.mkdir(parents=True, exist_ok=True)
    options = ["--out", str(directory.out), "--device", device, "--quiet"]
    options += ["--runs-per-device", runs_per_device, "--parent", str(os.getpid())]
    options += ["--gpus", str(gpus), "--idle", str(idle), "--workers", str(workers)]
    options += ["--compile"] if compile_model else []
    options += ["--deadline", repr(deadline)] if deadline < math.inf else []
    options += ["--hold", repr(hold)] if hold else []
    command = [sys.executable, "-m", "forcelaw.study.worker", str(study_file), *options]
    directory.create_runs(hold)
    if time.time() >= deadline:
        workers = 0
    processes = [
        _start(command, _environment(k, workers, device, threads, gpus), logs / f"{place()}-{k}")
        for k in range(workers)
    ]
    try:
        if processes:
            with interrupted_by_sigterm():
                _watch(directory, processes, device, rates, deadline, hold, gpus)
    except BaseException as error:  # whatever it is, no worker trains on unattended
        _end(processes)
        if isinstance(error, KeyboardInterrupt):
            print("stopped; the same command resumes the study", file=sys.stderr)
        raise
    codes = [p.returncode for p in processes]
    status = study_status(directory, rates, hold)
    for name, why in [*status.failed.items(), *status.damaged.items()]:
        print(f"{name}: {why}", file=sys.stderr)
    if StorageError.exit_code in codes and not status.over:
        raise StorageError(
            "workers could not read or write their files; no run is marked as failed for it",
            where=str(logs),
            remedy="the logs there say what it was; make room, or mount the disk again, and the"
            " same command resumes the study",
        )
    if RankError.exit_code in codes and not status.over:
        raise RankError(
            "a process of a run on several GPUs was lost; the run is open",
            where=str(logs),
            remedy="the logs there say what it was; the same command resumes the study",
        )
    if any(codes) and not status.over and time.time() < deadline:
        raise StudyError(
            f"workers ended with codes {codes} before the study was done",
            where=str(logs),
            remedy="read the logs there; the same command resumes the study",
        )
    return status


def _watch(
    directory: StudyDirectory,
    processes: list[subprocess.Popen[bytes]],
    device: str,
    rates: dict[str, Rate],
    deadline: float,
    hold: float | None,
    gpus: int,
) -> None:
    """Show progress and keep the accounts until all workers have ended."""
    status = study_status(directory, rates, hold)
    workers, interval = len(processes), None if sys.stderr.isatty() else 15
    name = directory.study.name
    with (
        Piece(
            directory.out,
            device=device_name(device),
            devices=_devices(workers * gpus, device),
            workers=workers,
        ) as piece,
        Progress(
            name, status.work, unit="s of work", already=status.trained, interval=interval
        ) as bar,
    ):
        while running := [p for p in processes if p.poll() is None]:
            with suppress(subprocess.TimeoutExpired):
                running[0].wait(0.5 if bar.live else 2.0)
            _show(bar, study_status(directory, rates, hold), name, workers)
            piece.beat()
            if stop.asked(directory.out):
                raise KeyboardInterrupt
            if time.time() > deadline + GRACE:
                _kill(processes)


def _show(bar: Progress, status: StudyStatus, name: str, workers: int) -> None:
    """One line. Workers start slowly and checkpoints come once a minute, so the pace begins at the
    estimated one, and what was measured takes over as it grows."""
    if not bar.due():
        return
    now, bar.total = time.monotonic(), status.work
    busy = min(workers, max(1, status.total - status.ended))
    rate = (status.trained - bar.already + PACE_SECONDS * busy) / (now - bar.started + PACE_SECONDS)
    left = duration((status.work - status.done) / rate)
    text = f"{name}: {status.ended}/{status.total} runs, {100 * status.share:.0f}%, {left} left"
    bar._show(text + (f" | {'; '.join(status.now)}" if status.now else ""))


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let workers save and end. A second SIGTERM changes nothing, because schedulers repeat it; a
    second Ctrl-C leaves them to it."""
    for p in processes:
        p.send_signal(signal.SIGTERM)
    try:
        with without_sigterm():
            for p in processes:
                p.wait()
    except KeyboardInterrupt:
        print("workers are still saving, and end by themselves", file=sys.stderr)
        raise


def default_workers(device: str, gpus: int = 1, threads: int = 1) -> int:
    """One worker for each GPU or ``gpus`` of them; on a CPU, for as many of the cores it may use as
    its ``gpus`` processes of ``threads`` threads take."""
    if device == "cuda":
        import torch

        return max(1, torch.cuda.device_count() // gpus)
    return max(1, usable_cores() // (gpus * threads))


def check_devices(device: str, workers: int, gpus: int) -> None:
    """StudyError where runs on several GPUs would have to share them, or torchrun starts a study:
    its workers start their ranks themselves."""
    import torch

    from ..training.ranks import started_by_torchrun

    if started_by_torchrun():
        raise StudyError(
            "a study starts the processes of its runs itself",
            remedy="call `forcelaw run` once, without torchrun, and with --gpus",
        )
    if device == "cuda" and gpus > 1 and workers * gpus > torch.cuda.device_count():
        raise StudyError(
            f"{workers} workers with {gpus} GPUs each, and torch sees {torch.cuda.device_count()}",
            where="gpus",
            remedy="give fewer --workers or --gpus",
        )


def check_array(block: Slurm, gpus: int, threads: int) -> None:
    """StudyError where a worker of an array has not what one run needs."""
    if block.device == "cuda":
        need, have, key = gpus, max(1, block.gpus), "gpus"
    else:
        need, have, key = gpus * threads, block.cores, "cpus"
    if need > have:
        raise StudyError(
            f"a run takes {need} {key}, and a worker of the array has {have}",
            where=f"slurm.{key}",
            remedy=f"ask for {key}: {need} there, or give fewer --gpus or --threads",
        )


def _devices(processes: int, device: str) -> int:
    """Devices that ``processes`` keep busy: GPUs, or cores of a CPU."""
    if device != "cuda":
        return processes
    import torch

    return min(processes, torch.cuda.device_count())


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    """End workers that did not stop in time, for instance in the middle of a compilation. The
    checkpoints are at most a minute old, and the claim of a process that is gone binds nobody."""
    for p in processes:
        if p.poll() is None:
            print(
                f"worker {p.pid} did not stop within {GRACE:.0f} s: killed; its runs resume from"
                " their last checkpoints",
                file=sys.stderr,
            )
            p.kill()
            p.wait()


def _environment(k: int, workers: int, device: str, threads: int, gpus: int = 1) -> dict[str, str]:
    """Environment of worker ``k``: its threads and its GPUs, which torch reads when it is imported.
    On a CPU the threads are part of the run: its numbers depend on them."""
    count = threads
    if device == "cuda":  # the host only drives it
        count = max(1, usable_cores() // (workers * gpus))
        if "OMP_NUM_THREADS" in os.environ:
            count = min(count, wanted_threads())
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(count))}
    environment["OMP_WAIT_POLICY"] = "passive"
    if device == "cuda":
        visible = [v for v in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
        if not visible:
            import torch

            visible = [str(i) for i in range(torch.cuda.device_count())]
        mine = [visible[(k * gpus + j) % len(visible)] for j in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        # with the usual 8, more streams wait for each other
        environment.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    return environment


def _start(command: list[str], environment: dict[str, str], base: Path) -> subprocess.Popen[bytes]:
    """A worker with what it says in ``base``.log, and once a minute in ``base``.jsonl."""
    command = [*command, "--beats", f"{base}.jsonl"]
    with Path(f"{base}.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
