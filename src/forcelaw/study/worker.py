"""A worker: claim runs, train them, finish them, until nothing is left. The same code on a laptop,
a GPU box and a cluster.

Workers share nothing but the study directory. Sweeps come first; the grid of an architecture is
planned by whichever worker first finds its sweep complete (planning is deterministic, so several
may do it at once).
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..data.verify import verify
from ..errors import ForcelawError
from ..store.beats import Beats
from .config import Study, load
from .record import StudyDirectory, find_pack

# a GPU is filled by several small batches at once (benchmarks/packing.py)
AUTOMATIC_ATOMS = 16_384
AUTOMATIC_RUNS = 16


def headroom(device: str, compiled: bool) -> float:
    """Seconds before the deadline from which nothing new is begun: on a GPU a run is captured
    first, and perhaps compiled, and would then only be stopped again."""
    return 0.0 if device != "cuda" else 45.0 if compiled else 12.0


def work(
    study: Study,
    out: Path,
    study_directory: Path,
    *,
    device: str,
    compile_model: bool = False,
    runs_per_device: int | None = 1,
    stop: Callable[[], bool] = lambda: False,
    deadline: float = math.inf,
    hold: float | None = None,
    show: bool = True,
    gpus: int = 1,
    beats: Path | None = None,
    idle: float = math.inf,
    workers: int = 1,
) -> None:
    """Train runs of the study, ``runs_per_device`` of them side by side (None: see
    :func:`automatic`), until none is left that this worker could take.

    After ``deadline`` (seconds since the epoch), or when ``stop`` says so, the runs under way are
    stopped with a checkpoint. study_directory: that of the study file. hold: as for
    :func:`forcelaw.study.plan.plan`. gpus: of each run, which then is alone on them. beats: file
    that gets a line of JSON a minute (:mod:`forcelaw.store.beats`). idle: seconds without a free
    run after which to leave the rest to the workers that hold it.
    """
    from .concurrent import ConcurrentRuns

    pack = find_pack(study, study_directory)
    directory = StudyDirectory(study, pack, out, study_directory)
    directory.require_same_code()
    verify(directory.pack, out)  # a glance where the command that started this has done it
    if runs_per_device is None:
        runs_per_device = automatic(directory, device, gpus)
    reserve = headroom(device, compile_model)
    runs = ConcurrentRuns(
        directory,
        device=device,
        limit=runs_per_device,
        compile_model=compile_model,
        show=show,
        hold=hold,
        stop=lambda: stop() or time.time() >= deadline,
        closing=lambda: time.time() >= deadline - reserve,
        gpus=gpus,
        beats=Beats(beats) if beats else None,
        idle=idle,
        workers=workers,
    )
    runs.work()


def shares(directory: StudyDirectory, device: str, gpus: int, runs_per_device: int | str) -> bool:
    """Whether runs are trained side by side on a GPU, and fill what others leave of it.
    runs_per_device: a number, or "auto"."""
    wanted = str(runs_per_device)
    runs = automatic(directory, device, gpus) if wanted == "auto" else int(wanted)
    return device == "cuda" and runs > 1


def automatic(directory: StudyDirectory, device: str, gpus: int) -> int:
    """Runs side by side that fill a GPU: as many batches as make up AUTOMATIC_ATOMS atoms, at most
    AUTOMATIC_RUNS; 1 on a CPU, and where a run has several GPUs. The memory of the device may allow
    fewer, which shows while they train."""
    if device != "cuda" or gpus > 1:
        return 1
    options = directory.study.train
    atoms = options.batch_atoms or (options.batch_molecules or 1) * directory.data.natoms.mean()
    return max(1, min(AUTOMATIC_RUNS, round(AUTOMATIC_ATOMS / float(atoms))))


def main(argv: list[str] | None = None) -> int:
    """Entry point of a worker process; thread counts are in the environment already, before torch
    is imported."""
    parser = argparse.ArgumentParser(prog="python -m forcelaw.study.worker")
    parser.add_argument("study", help="study file")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--runs-per-device", default="1", help="a number, or auto")
    parser.add_argument("--gpus", type=int, default=1, help="of each run")
    parser.add_argument("--parent", type=int, default=0, help="leave when this process is gone")
    parser.add_argument(
        "--deadline", type=float, default=math.inf, help="seconds since the epoch at which to stop"
    )
    parser.add_argument(
        "--hold",
        type=float,
        help="share of an architecture's largest compute from which runs are held back",
    )
    parser.add_argument("--workers", type=int, default=1, help="of this machine")
    parser.add_argument("--beats", type=Path, help="file for a line of JSON a minute")
    parser.add_argument("--idle", type=float, default=math.inf, help="seconds")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    asked = {"stop": False}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.update(stop=True))

    def stop() -> bool:
        return asked["stop"] or (args.parent > 0 and os.getppid() != args.parent)

    try:
        _work(args, stop)
    except ForcelawError as error:
        print(f"forcelaw: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _work(args: argparse.Namespace, stop: Callable[[], bool]) -> None:
    work(
        load(args.study),
        Path(args.out),
        Path(args.study).parent,
        device=args.device,
        compile_model=args.compile,
        runs_per_device=None if args.runs_per_device == "auto" else int(args.runs_per_device),
        stop=stop,
        deadline=args.deadline,
        hold=args.hold,
        gpus=args.gpus,
        show=not args.quiet,
        beats=args.beats,
        idle=args.idle,
        workers=args.workers,
    )


if __name__ == "__main__":
    sys.exit(main())
