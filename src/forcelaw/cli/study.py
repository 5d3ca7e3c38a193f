"""`forcelaw run`, `status`, `export` and `import`: what is done with a whole study."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ..errors import StoreError, StudyError, require
from ..progress import are, counted
from ..settings import Settings
from . import DAMAGED, FAILED, UNFINISHED
from .machine import Machine
from .options import add_options, typed_command

if TYPE_CHECKING:
    from ..api.study import Study


class RunOptions(Settings):
    """Options of ``forcelaw run``."""

    study: Path | None = Field(None, title="STUDY")
    """study file (YAML), for example studies/quickstart.yaml"""
    out: Path | None = Field(None, title="DIR")
    """output directory (default: out/NAME)"""
    workers: int | None = None
    """worker processes (default: cores on a CPU, GPUs on a GPU)"""
    runs_per_device: str = Field("auto", title="K|auto")
    """runs side by side in each worker (default auto: 1 on a CPU; on a GPU as many as make up 16k
    atoms a step, at most 16, fewer when its memory is short). Device-hours are measured one run at
    a time all the same"""
    minutes: float | None = Field(None, title="M")
    """stop cleanly M minutes after the start of this command, planning included; what is under way
    is kept (within half a minute more) and the same command resumes it"""
    plan: bool = False
    """show the plan and its cost, and stop; with --device cuda for one H200, whatever this machine
    has"""
    slurm: bool = False
    """submit the workers that the study's block `slurm` describes as an array, and return"""
    retry_failed: bool = False
    """train failed runs again, and damaged ones from the start"""
    no_report: bool = Field(False, description="do not write the report")
    print_schema: bool = False
    """print all keys of a study file as JSON schema, and stop"""


class ExportOptions(Settings):
    """Options of ``forcelaw export``."""

    source: Path = Field(title="SOURCE")
    """output directory of `forcelaw run`, or directory of a run"""
    table: Path | None = Field(None, title="DIR", description="write the evidence into DIR")
    model: Path | None = Field(None, title="FILE")
    """write the model of a run into FILE (.pt2; .pt for metatomic)"""
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="number format of the model"
    )
    data: Path | None = Field(None, title="PACK")
    """the pack of a run that did not keep its reference energies"""
    format: Literal["parquet", "csv"] | None = None
    """of the table (default: parquet)"""
    stop: bool = False
    """runs under way count as ended where they are, as shorter runs (status stopped)"""


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train what is not done yet of a study, in worker processes, and write its report. Stop it"
        " at any time (Ctrl-C, kill); the same command resumes it. Exit code"
        f" {UNFINISHED}: time was up (--minutes) and work is left; {FAILED}: a run failed, one of a"
        f" grid diverged, or a sweep has no rate; {DAMAGED}: runs are damaged and were set aside."
    )
    parser.epilog = """\
examples:
  forcelaw run studies/quickstart.yaml
  forcelaw run study.yaml --plan --device cuda
  forcelaw run study.yaml --minutes 10 --workers 2
  forcelaw run study.yaml --slurm               # on a cluster
  forcelaw run --schema
"""
    # a field called schema would hide a method of pydantic's
    flags = {"print_schema": ("--schema",)}
    add_options(parser, RunOptions, positional=("study",), flags=flags)
    add_options(parser, Machine)
    text = (
        "leave out the runs with at least this share (default 0.5) of the largest compute of their"
        " architecture: `forcelaw forecast` predicts them first"
    )
    parser.add_argument(
        "--hold-largest", type=float, nargs="?", const=0.5, metavar="SHARE", help=text
    )
    # its older name
    parser.add_argument(
        "--pack", dest="runs_per_device", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parser.set_defaults(handler=_run, packages=("torch", "safetensors"))


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Counts of runs by architecture and state, what failed, what is being trained (rate, time"
        " left, loss, where, heartbeat) and what SLURM's queue has of it, and the time that was"
        " spent."
    )
    parser.epilog = (
        "examples:\n  forcelaw status out/study\n"
        "  forcelaw status out/study --watch             # until no run is left\n"
        "  forcelaw status out/study --prometheus        # for a collector of text files\n"
    )
    parser.add_argument("out", type=Path, help="output directory of a study")
    text = (
        "show it again every SECONDS (default: 10 on a terminal, 60 elsewhere) until no run is left"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", type=float, nargs="?", const=0.0, metavar="SECONDS", help=text)
    text = "print it in the text format of Prometheus"
    how.add_argument("--prometheus", action="store_true", help=text)
    parser.set_defaults(handler=_status)


def add_stop(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Stop a study: all workers save and end, those of this machine and those of a cluster;"
        " what waits in SLURM's queue for it is cancelled. `forcelaw run` resumes it. Exit code"
        f" {FAILED}: runs are still held by workers that did not answer."
    )
    parser.epilog = "example:\n  forcelaw stop out/study\n"
    parser.add_argument("out", type=Path, help="output directory of a study")
    parser.set_defaults(handler=_stop)


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write what others can use. --table: the evidence of a study (table of runs,"
        " specifications, study and provenance, without weights), from which `forcelaw report`"
        " makes its page. --model: a trained run as one file that runs without forcelaw."
    )
    parser.epilog = (
        "examples:\n  forcelaw export out/ladder --table results/ladder\n"
        "  forcelaw export out/single/runs/ID --model painn.pt2\n"
    )
    add_options(parser, ExportOptions, positional=("source",), only=("source",))
    what = parser.add_mutually_exclusive_group(required=True)
    add_options(what, ExportOptions, only=("table", "model"))
    add_options(parser, ExportOptions, skip=("source", "table", "model"))
    parser.set_defaults(handler=_export)


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the runs of committed evidence into a study directory, from which `forcelaw run`"
        " resumes: finished runs are not trained again, runs that were under way start over. A run"
        " that is there already is replaced only by one that ended better."
    )
    parser.epilog = "example:\n  forcelaw import results/ladder --to out/ladder\n"
    parser.add_argument("evidence", type=Path, help="directory that `forcelaw export` wrote")
    parser.add_argument("--to", type=Path, required=True, metavar="OUT", help="study directory")
    parser.set_defaults(handler=_import)


def _run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    if args.print_schema:
        from ..study.schema import study_schema

        print(json.dumps(study_schema(), indent=1))
        return 0
    if args.study is None:
        raise StudyError(
            "no study file given",
            remedy="forcelaw run FILE; to have one written: forcelaw init PACK (or: sample)",
        )
    from ..api.study import Study, check_run_options

    check_run_options(
        args.device,
        args.workers,
        args.runs_per_device,
        args.minutes,
        args.hold_largest,
        args.threads,
        args.gpus,
    )
    study = Study.load(args.study, args.out)
    if args.plan:
        print(study.describe(args.device, args.workers, args.gpus, args.runs_per_device))
        return 0
    if args.slurm:
        return _submit(study, args)
    if not args.no_report:
        require("matplotlib", "plotly", "jinja2")
    minutes = args.minutes
    if minutes is not None:  # they count from the start of the command
        minutes = max(minutes - (time.monotonic() - began) / 60, 1e-9)
    names = ("workers", "device", "runs_per_device", "compile", "hold_largest", "threads", "gpus")
    outcome = study.run(
        **{name: getattr(args, name) for name in names},
        minutes=minutes,
        retry_failed=args.retry_failed,
        command=typed_command(args.words),
        say=_say,
    )
    if outcome.time_up:
        print("the same command resumes the study")
        return UNFINISHED
    if args.hold_largest:
        print(
            "the largest runs of each architecture are held back: commit `forcelaw forecast` of"
            " this directory, then run without --hold-largest"
        )
    if not args.no_report:
        from ..report.write import write_report

        write_report(study.out)
    if outcome.damaged:
        print(
            "a damaged run is tried again once its files are restored or its directory is deleted;"
            " --retry-failed trains it from the start",
            file=sys.stderr,
        )
        return DAMAGED
    return FAILED if outcome.bad else 0


def _submit(study: Study, args: argparse.Namespace) -> int:
    """Submit the study, and say how to follow it."""
    for name in ("workers", "minutes"):
        if getattr(args, name) is not None:
            key = {"workers": "workers", "minutes": "time"}[name]
            raise StudyError(
                f"--{name} is of workers on this machine",
                where="command line",
                remedy=f"give `{key}` in the block slurm of the study",
            )
    names = ("runs_per_device", "compile", "hold_largest", "retry_failed", "threads", "gpus")
    array = study.submit(
        **{name: getattr(args, name) for name in names},
        command=typed_command(args.words),
        say=_say,
    )
    plural = "s" * (array.workers > 1)
    print(
        f"submitted job {array.job}: {array.workers} worker{plural}; logs in {array.logs}\n"
        f"follow it:  forcelaw status {study.out} --watch\n"
        f"stop it:    forcelaw stop {study.out}\n"
        f"report:     forcelaw report {study.out}"
    )
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _status(args: argparse.Namespace) -> int:
    from ..api.study import study_status

    before = False
    while True:
        text, over = study_status(args.out, prometheus=args.prometheus)
        live = args.watch is not None and sys.stdout.isatty()
        if live and sys.__stdout__:  # not through what spells out control characters
            sys.__stdout__.write("\x1b[H\x1b[2J")
        print(text, flush=True)
        if args.watch is None or (over and before):
            return 0
        before = over  # a grid may be about to follow a sweep
        time.sleep(3.0 if over else max(1.0, args.watch or (10.0 if live else 60.0)))


def _stop(args: argparse.Namespace) -> int:
    from ..api.study import stop_study

    left = stop_study(args.out, say=_say)
    if left:
        held = f"{counted(len(left))} {are(len(left))} still held"
        print(f"{held}: {', '.join(left)}", file=sys.stderr)
        return FAILED
    print("stopped; `forcelaw run` resumes the study")
    return 0


def _export(args: argparse.Namespace) -> int:
    if args.model:
        from ..api.run import load_run

        require("torch", "safetensors")
        load_run(args.source).export(args.model, dtype=args.dtype, data=args.data)
        how = "metatomic" if args.model.suffix == ".pt" else "torch.export.load(...).module()"
        print(f"{args.model}: read it with {how}")
        return 0
    from ..study.accounting import accounts
    from ..study.export import write_evidence

    if not args.source.exists():
        raise StoreError(
            "no such directory",
            where=str(args.source),
            remedy="give the output directory of `forcelaw run`",
        )
    provenance = write_evidence(args.source, args.table, args.format, stop=args.stop)
    counts = ", ".join(f"{n} {status}" for status, n in provenance["runs"].items())
    print(
        f"{args.table / provenance['table']['file']}: {provenance['evaluations']} evaluations"
        f" of runs: {counts}"
    )
    print(accounts(args.source).describe())
    return 0


def _import(args: argparse.Namespace) -> int:
    from ..study.export import import_evidence

    print(f"{args.to}: {import_evidence(args.evidence, args.to)}")
    return 0
