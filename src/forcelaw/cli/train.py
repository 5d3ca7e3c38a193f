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
        "--pack",
        default="auto",
        metavar="K|auto",
        help=(
            "runs side by side in each worker (default auto: 1 on a CPU; on a GPU as many as make"
            " up 16k atoms a step, at most 16, fewer when its memory is short). Device-hours are"
            " measured alone all the same"
        ),
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

    train = commands.add_parser(
        "train",
        help="train one model",
        description="Train one model on a pack. Killed, it goes on from its last checkpoint.",
    )
    train.add_argument("architecture", help="mpnn, painn, egnn, ... (see: forcelaw models)")
    train.add_argument(
        "--size", type=float, required=True, help="target number of parameters, for example 1e5"
    )
    train.add_argument("--data", default="sample", help='pack directory, or "sample" (default)')
    length = train.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=float)
    length.add_argument("--atoms", type=float, help="atoms seen in training (D)")
    train.add_argument(
        "--lr", type=float, help="learning rate at the muP base width (default: the architecture's)"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--batch-molecules", type=int, default=16)
    train.add_argument(
        "--batch-atoms", type=int, help="instead: as many structures as fit into that many atoms"
    )
    train.add_argument(
        "--distinct-atoms", type=float, help="use a prefix of the training set with that many atoms"
    )
    train.add_argument("--depth", type=int)
    train.add_argument("--cutoff", type=float, default=6.0, help="Angstrom (default 6)")
    train.add_argument("--forces", choices=["direct", "conservative"], default="direct")
    train.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the architecture",
    )
    train.add_argument("--warmup", type=int, default=100)
    train.add_argument("--clip", type=float, default=100.0)
    train.add_argument(
        "--beta2",
        type=float,
        default=0.999,
        help="decay of Adam's second moment; 0.99 where runs spike",
    )
    train.add_argument(
        "--augment", action="store_true", help="a fresh random rotation at every step"
    )
    train.add_argument(
        "--symmetry-rotations",
        type=int,
        default=0,
        metavar="M",
        help="turned copies a step on which the symmetry loss is measured (M + 1 times the cost)",
    )
    train.add_argument("--symmetry-weight", type=float, default=1.0)
    train.add_argument("--symmetry-penalty", choices=["square", "norm"], default="square")
    train.add_argument(
        "--precision", choices=["float32", "tf32", "bf16", "float64"], default="float32"
    )
    train.add_argument("--evaluations", type=int, default=20)
    train.add_argument("--validation-structures", type=int, default=1000)
    train.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    train.add_argument("--compile", action="store_true")
    train.add_argument(
        "--out", type=Path, default=Path("out/single"), help="the run goes to OUT/runs/ID"
    )
    train.set_defaults(handler=handle_train)

    models = commands.add_parser("models", help="the architectures, their symmetry, size and cost")
    models.add_argument("--sizes", type=float, nargs="*", default=[1e4, 1e5, 1e6])
    models.add_argument(
        "--degree", type=float, default=20.0, help="mean number of neighbours, for kappa"
    )
    models.set_defaults(handler=handle_models)


def pick_device(name: str) -> str:
    import torch

    from ..errors import StudyError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise StudyError(
            "no CUDA device is visible to torch",
            remedy="use --device cpu, or install a CUDA build of torch",
        )
    return name


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
    from ..study import config as studies
    from ..study import launcher as local
    from ..study.worker import headroom

    if args.schema:
        from ..study.schema import study_schema

        print(json.dumps(study_schema(), indent=1))
        return 0
    if args.study is None:
        raise StudyError("no study file given", remedy="forcelaw run studies/quickstart.yaml")
    if args.pack != "auto" and not (args.pack.isdigit() and 1 <= int(args.pack) <= 24):
        raise StudyError(f"--pack {args.pack!r} is neither auto nor a number from 1 to 24")
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
    study = studies.load(args.study)
    device = (
        args.device if args.plan and args.device == "cuda" else pick_device(args.device)
    )  # a plan needs no GPU
    pack = studies.find_pack(study, args.study.parent)
    planner = studies.Planner(study, pack)
    workers = args.workers or default_workers(device)
    out = args.out or Path("out") / study.name
    rates = local.remembered(None if args.plan else out, planner, device)
    print(local.describe(planner, rates, workers, device), flush=True)
    if args.plan:
        return 0
    if said := studies.write_study(planner, out, command="forcelaw " + " ".join(sys.argv[1:])):
        print(said, flush=True)
    if args.retry_failed:
        forget_failed(out)
    deadline = began + 60 * args.minutes if args.minutes else math.inf
    before, clock = (
        local.standing(planner, out / "runs", rates, args.hold_largest),
        time.monotonic(),
    )
    stands = local.run_local(
        study,
        args.study,
        planner,
        out,
        workers=workers,
        device=device,
        compile_model=args.compile,
        pack=args.pack,
        rates=rates,
        deadline=deadline,
        hold=args.hold_largest,
    )
    print(
        f"{stands.finished} runs finished, {stands.diverged} diverged, {stands.failed} failed:"
        f" {out}"
    )
    if not stands.over and time.time() >= deadline - headroom(device, args.compile):
        print(
            f"time is up after {(time.time() - began) / 60:.1f} minutes:"
            f" {local.left(stands, before, time.monotonic() - clock)}. The same command goes on"
            " from here."
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
    from ..study.launcher import status_table

    if not (args.out / "runs").is_dir():
        raise StoreError(
            "no study here",
            where=str(args.out),
            remedy="give the output directory of `forcelaw run`",
        )
    print(status_table(args.out))
    return 0


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE strings; values are numbers, true/false or text."""
    from ..errors import StudyError

    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise StudyError(f"--option {pair!r} is not KEY=VALUE")
        out[key] = {"true": True, "false": False}.get(value.lower(), value)
    return out


def handle_train(args: argparse.Namespace) -> int:
    from pydantic import ValidationError

    os.environ.setdefault(
        "OMP_NUM_THREADS", "1" if args.device == "cpu" else str(os.cpu_count() or 1)
    )
    from ..data.pack import Pack
    from ..errors import StoreError
    from ..models import architecture
    from ..models.sizing import size
    from ..progress import Progress, count, duration
    from ..store.runs import RunDirectory
    from ..study.config import explain
    from ..training.config import TrainOptions
    from ..training.loop import train
    from ..training.spec import data_options, resolve

    if args.data == "sample":
        from ..data.sample import sample_path

        pack = Pack(sample_path())
    else:
        pack = Pack(args.data)
    entry = architecture(args.architecture)
    batch = (
        {"batch_atoms": args.batch_atoms}
        if args.batch_atoms
        else {"batch_molecules": args.batch_molecules}
    )
    try:
        options = TrainOptions(
            **batch,
            warmup=args.warmup,
            clip=args.clip,
            beta2=args.beta2,
            augment=args.augment,
            precision=args.precision,
            symmetry_rotations=args.symmetry_rotations,
            symmetry_weight=args.symmetry_weight,
            symmetry_penalty=args.symmetry_penalty,
            evaluations=args.evaluations,
            validation_structures=args.validation_structures,
        )
        config = size(
            args.architecture,
            args.size,
            depth=args.depth,
            forces=args.forces,
            **data_options(pack, cutoff=args.cutoff),
            **parse_options(args.option),
        )
    except ValidationError as error:
        raise explain(error, "command line") from error
    spec = resolve(
        pack,
        config,
        options,
        lr=args.lr or entry.learning_rate,
        seed=args.seed,
        atoms=args.atoms,
        epochs=args.epochs,
        distinct_atoms=args.distinct_atoms,
    )
    run = RunDirectory.create(args.out / "runs", spec.as_json())
    print(
        f"{entry.title}: N = {spec.n:,} (width {config.width}, depth {config.depth}), symmetry"
        f" {entry.symmetry}; {spec.steps:,} steps of {spec.batch_atoms} atoms, D ="
        f" {count(spec.steps * spec.batch_atoms)}; {run.path}"
    )
    if not run.done:
        if not run.claim():
            raise StoreError("another process is training this run", where=str(run.path))
        try:
            with Progress("training", spec.steps, unit="steps", interval=None) as progress:
                train(
                    run,
                    pack,
                    device=pick_device(args.device),
                    compile_model=args.compile,
                    progress=progress,
                )
        finally:
            run.release()
    result, metrics = run.result() or {}, run.metrics()
    print(f"{'step':>8}{'atoms':>9}{'FLOPs':>10}{'loss':>9}{'energy':>12}{'forces':>14}")
    for row in metrics:
        print(
            f"{row['step']:>8}{count(row['d']):>9}{row['c']:>10.2e}{row['loss']:>9.4f}{row['energy_mae']:>7.1f}"
            f" meV/at{row['force_mae']:>8.1f} meV/A"
        )
    print(
        f"{result.get('status')} in {duration(result.get('seconds', 0))} of training on"
        f" {result.get('device')}; energy MAE per atom, force MAE per component; symmetry error"
        f" {result.get('symmetry', {}).get('rotation', float('nan')):.1e} (rotation)"
    )
    return 0 if result.get("status") == "finished" else 1


def handle_models(args: argparse.Namespace) -> int:
    from ..models import ARCHITECTURES
    from ..models.sizing import count_parameters, size

    print(
        f"{'name':<12}{'title':<12}{'symmetry':<10}"
        + "".join(f"{'N / width x depth / kappa':>30}" for _ in args.sizes)
    )
    for name, entry in ARCHITECTURES.items():
        cells = []
        for target in args.sizes:
            try:
                config = size(name, target, elements=(1, 6, 7, 8, 9, 15, 16, 17, 35))
            except Exception as error:
                cells.append(f"{type(error).__name__:>30}")
                continue
            n, _ = count_parameters(config)
            kappa = entry.flops(config).forward(args.degree, 1) / n
            cells.append(f"{f'{n:,} / {config.width}x{config.depth} / {kappa:.1f}':>30}")
        print(f"{name:<12}{entry.title:<12}{entry.symmetry:<10}" + "".join(cells))
    print(f"kappa: forward FLOPs per atom and parameter at {args.degree:g} neighbours")
    return 0
