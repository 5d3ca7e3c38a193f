"""Commands that train: run, status, train, models."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, come again


def add_subcommands(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="train a study: plan it, show its cost, run what is not done yet, report",
        description=(
            "Train what is not done yet of a study, in worker processes, and write its report. "
            "Stop it at any time (Ctrl-C, kill); the same command goes on where it was. "
            f"Exit code {UNFINISHED}: time was up (--minutes) and work is left."
        ),
    )
    run.add_argument(
        "study", nargs="?", type=Path, help="study file (YAML), for example studies/quickstart.yaml"
    )
    run.add_argument("--out", type=Path, help="output directory (default: out/NAME)")
    run.add_argument(
        "--workers", type=int, help="worker processes (default: cores on a CPU, GPUs on a GPU)"
    )
    run.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    run.add_argument(
        "--runs-per-device",
        default="auto",
        metavar="K|auto",
        help=(
            "runs side by side in each worker (default auto: 1 on a CPU; on a GPU as many as make"
            " up 16k atoms a step, at most 16, fewer when its memory is short). Device-hours are"
            " measured one run at a time all the same"
        ),
    )
    # its older name
    run.add_argument(
        "--pack", dest="runs_per_device", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    run.add_argument(
        "--compile", action="store_true", help="torch.compile the models (needs a C++ compiler)"
    )
    run.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=(
            "stop cleanly M minutes after the start of this command, planning included; what is"
            " under way is kept (within half a minute more) and the same command goes on"
        ),
    )
    run.add_argument(
        "--hold-largest",
        type=float,
        nargs="?",
        const=0.5,
        metavar="SHARE",
        help=(
            "leave alone the runs with at least this share (default 0.5) of the largest compute of"
            " their architecture: `forcelaw forecast` predicts them first"
        ),
    )
    run.add_argument(
        "--plan",
        action="store_true",
        help=(
            "show the plan and its cost, and stop; with --device cuda for one H100, wherever it is"
            " asked"
        ),
    )
    run.add_argument("--retry-failed", action="store_true", help="train failed runs again")
    run.add_argument("--no-report", action="store_true")
    run.add_argument(
        "--schema",
        action="store_true",
        help="print all keys of a study file as JSON schema, and stop",
    )
    run.set_defaults(handler=handle_run)

    status = commands.add_parser("status", help="where a study stands")
    status.add_argument("out", type=Path, help="output directory of a study")
    status.set_defaults(handler=handle_status)


def default_workers(device: str) -> int:
    if device == "cuda":
        import torch

        return max(1, torch.cuda.device_count())
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def handle_run(args: argparse.Namespace) -> int:
    import json
    import math
    import sys
    import time

    began = time.time()
    from ..errors import StudyError
    from ..study.config import load
    from ..study.cost import rates_of
    from ..study.launcher import run_local
    from ..study.record import StudyDirectory, find_pack
    from ..study.status import describe_plan, describe_rest, study_status
    from ..study.worker import headroom
    from ..training.device import pick_device

    if args.schema:
        from ..study.schema import study_schema

        print(json.dumps(study_schema(), indent=1))
        return 0
    if args.study is None:
        raise StudyError("no study file given", remedy="forcelaw run studies/quickstart.yaml")
    side_by_side = args.runs_per_device
    if side_by_side != "auto" and not (side_by_side.isdigit() and 1 <= int(side_by_side) <= 24):
        raise StudyError(
            f"--runs-per-device {side_by_side!r} is neither auto nor a number from 1 to 24"
        )
    if args.minutes is not None and not args.minutes > 0:
        raise StudyError(
            f"--minutes {args.minutes:g} leaves no time",
            remedy="give the minutes of wall time to use",
        )
    if args.hold_largest is not None and not 0 < args.hold_largest <= 1:
        raise StudyError(
            f"--hold-largest {args.hold_largest:g} is no share of a run's compute",
            remedy="give e.g. 0.5",
        )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    study = load(args.study)
    # a plan needs no GPU
    device = "cuda" if args.plan and args.device == "cuda" else pick_device(args.device)
    out = args.out or Path("out") / study.name
    directory = StudyDirectory(study, find_pack(study, args.study.parent), out)
    workers = args.workers or default_workers(device)
    rates = rates_of(directory, device, remember=not args.plan)
    print(describe_plan(directory, rates, workers, device), flush=True)
    if args.plan:
        return 0
    if changed := directory.write(command="forcelaw " + " ".join(sys.argv[1:])):
        print(changed, flush=True)
    if args.retry_failed:
        forget_failed(out)
    deadline = began + 60 * args.minutes if args.minutes else math.inf
    before, clock = study_status(directory, rates, args.hold_largest), time.monotonic()
    status = run_local(
        directory,
        args.study,
        workers=workers,
        device=device,
        rates=rates,
        compile_model=args.compile,
        runs_per_device=side_by_side,
        deadline=deadline,
        hold=args.hold_largest,
    )
    counts = status.states
    print(
        f"{counts['finished']} runs finished, {counts['diverged']} diverged,"
        f" {counts['failed']} failed: {out}"
    )
    if not status.over and time.time() >= deadline - headroom(device, args.compile):
        rest = describe_rest(status, before, time.monotonic() - clock)
        print(
            f"time is up after {(time.time() - began) / 60:.1f} minutes: {rest}. The same command"
            " resumes the study."
        )
        return UNFINISHED
    if args.hold_largest:
        print(
            "the largest runs of each architecture are held back: commit `forcelaw forecast` of"
            " this directory, then run without --hold-largest"
        )
    if args.no_report:
        return 0
    from ..report.write import write_report

    write_report(out)
    return 0


def forget_failed(out: Path) -> None:
    """Let failed runs be trained again."""
    from ..store.runs import runs

    for run in runs(out / "runs"):
        result = run.result()
        if result and result["status"] == "failed":
            (run.path / "result.json").unlink()


def handle_status(args: argparse.Namespace) -> int:
    from ..errors import StoreError
    from ..study.status import status_table

    if not (args.out / "runs").is_dir():
        raise StoreError(
            "no study here",
            where=str(args.out),
            remedy="give the output directory of `forcelaw run`",
        )
    print(status_table(args.out))
    return 0
