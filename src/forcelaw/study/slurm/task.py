"""Training of a study within one task of a SLURM array: as many workers as its cores or GPUs allow.
Started by :mod:`.array_worker`; exit code 0: no run is left for them."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from pathlib import Path

from ...data.verify import verify
from ...errors import ForcelawError
from ...host import place, wanted_threads
from ...progress import counted
from ...training.device import pick_device
from .. import stop
from ..config import load
from ..cost import rates_of
from ..launcher import check_devices, default_workers, run_local
from ..record import StudyDirectory, find_pack
from .array_worker import STOPPED


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m forcelaw.study.slurm.task")
    parser.add_argument("study", type=Path, help="study file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--runs-per-device", default="auto")
    parser.add_argument("--gpus", type=int, default=1, help="of each run")
    parser.add_argument("--threads", type=int, help="of each run on a CPU")
    parser.add_argument("--hold", type=float)
    parser.add_argument("--idle", type=float, default=math.inf, help="seconds")
    args = parser.parse_args(argv)
    print(f"forcelaw: {place()}, study {args.study.name}", flush=True)
    try:
        if stop.asked(args.out):
            return STOPPED
        _train(args)
        return 0
    except KeyboardInterrupt:
        return STOPPED
    except ForcelawError as error:
        print(f"forcelaw: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _train(args: argparse.Namespace) -> None:
    """Train until nothing is left for the workers here."""
    study = load(args.study)
    base = args.study.parent
    directory = StudyDirectory(study, find_pack(study, base), args.out, base)
    threads = wanted_threads(args.threads)
    pick_device(args.device)  # no run is at fault where the task got no GPU
    workers = default_workers(args.device, args.gpus, threads)
    check_devices(args.device, workers, args.gpus)
    verify(directory.pack, args.out)
    status = run_local(
        directory,
        args.study,
        workers=workers,
        device=args.device,
        rates=rates_of(directory, args.device),
        compile_model=args.compile,
        runs_per_device=args.runs_per_device,
        hold=args.hold,
        threads=threads,
        gpus=args.gpus,
        idle=args.idle,
    )
    print(f"{status.ended} of {counted(status.total)} ended", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also while it is still reading
    sys.exit(main())
