"""`forcelaw train` and `forcelaw models`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..api.run import SINGLE, Training
from ..host import wanted_threads
from ..progress import count, duration
from ..store.runs import RunDirectory
from ..store.unlearned import unlearned
from ..training.config import TrainOptions
from . import FAILED, INTERRUPTED
from .interrupt import Interruption
from .machine import Machine
from .options import add_options, from_options, parse_pairs

ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35)  # H C N O F P S Cl Br, as the sample has them
TITLE = 24  # columns of a model's title in the list


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train one model on a pack. Ctrl-C and SIGTERM save a checkpoint, and the same command"
        " resumes from the last one. Exit codes: 1: the run diverged; 76: a process of several GPUs"
        " was lost; 130: it was stopped."
    )
    parser.epilog = """\
examples:
  forcelaw train painn --size 1e4 --epochs 1
  forcelaw train esen --size 1e5 --atoms 1e6 --option lmax=3 --forces conservative --data pack
  forcelaw train --from out/single/runs/ID --data pack --epochs 20       # fine-tune
  forcelaw train esen --size 1e7 --atoms 1e9 --data pack --gpus 4
  torchrun --nnodes 2 ... -m forcelaw.cli train ...                      # several machines
  forcelaw models esen                          # the options of an architecture
"""
    flags = {"learning_rate": ("--learning-rate", "--lr"), "options": ("--option",)}
    flags["start"] = ("--from",)
    add_options(parser, Training, positional=("architecture",), flags=flags)
    add_options(parser.add_argument_group("how it is trained"), TrainOptions)
    machine = parser.add_argument_group("where it is trained")
    add_options(machine, Machine)
    text = f"the run is written to OUT/runs/ID (default: {SINGLE})"
    machine.add_argument("--out", type=Path, default=SINGLE, metavar="DIR", help=text)
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        choices=["csv", "tensorboard", "wandb", "mlflow"],
        help="send evaluations to a tracker too, through its own package; may be repeated",
    )
    parser.set_defaults(handler=_train, packages=("torch", "safetensors"))


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The architectures, their symmetry, and their size and cost at some target sizes; with the"
        " name of one, its options."
    )
    parser.epilog = "examples:\n  forcelaw models --sizes 1e4 1e6\n  forcelaw models esen\n"
    text = "list the options of this architecture instead"
    parser.add_argument("architecture", nargs="?", help=text)
    text = "target numbers of parameters (default: 1e4 1e5 1e6)"
    parser.add_argument(
        "--sizes", type=float, nargs="*", default=[1e4, 1e5, 1e6], metavar="N", help=text
    )
    text = "mean number of neighbours, for kappa (default: 20)"
    parser.add_argument("--degree", type=float, default=20.0, metavar="X", help=text)
    parser.set_defaults(handler=_models, packages=("torch",))


def _train(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", str(wanted_threads(args.threads)))
    args.options = parse_pairs(args.options, "--option")
    training = from_options(Training, args)
    options = from_options(TrainOptions, args)
    from ..training.ranks import writes

    stop = Interruption()
    try:
        with stop:
            run = training.run(
                options,
                out=args.out,
                device=args.device,
                gpus=args.gpus,
                compile=args.compile,
                threads=args.threads,
                say=print if writes() else lambda text: None,
                log=args.log,
                stop=stop,
            )
    except KeyboardInterrupt:
        _say_stopped(stop, "without a new checkpoint")
        return INTERRUPTED
    if not writes():
        return INTERRUPTED if run.result is None else 0
    if run.result is None:
        step = RunDirectory(run.path).position()
        _say_stopped(stop, f"with a checkpoint at step {step:,} of {run.spec['steps']:,}")
        return INTERRUPTED
    result = run.result
    print(f"{'step':>8}{'atoms':>9}{'FLOPs':>10}{'loss':>9}{'energy':>12}{'forces':>14}")
    directory = RunDirectory(run.path)
    for row in directory.metrics():
        print(
            f"{row['step']:>8}{count(row['d']):>9}{row['c']:>10.2e}{row['loss']:>9.4f}"
            f"{row['energy_mae']:>7.1f} meV/at{row['force_mae']:>8.1f} meV/A"
        )
    error = result.get("symmetry", {}).get("rotation", float("nan"))
    print(
        f"{result.get('status')} in {duration(result.get('seconds', 0))} of training on"
        f" {result.get('device')}; energy MAE per atom, force MAE per component; symmetry error"
        f" {error:.1e} (rotation)"
    )
    if parts := unlearned(directory.left({})):
        print(
            f"note: {' and '.join(parts)} have not been learned (no better than at the first"
            " evaluation): the learning rate is too high, or the steps are too few"
        )
    return 0 if result.get("status") == "finished" else FAILED


def _say_stopped(stop: Interruption, how: str) -> None:
    print(f"stopped by {stop.signal} {how}; the same command resumes the run", file=sys.stderr)


def _models(args: argparse.Namespace) -> int:
    from ..errors import ForcelawError, missing_package
    from ..models import architecture, names

    if args.architecture is not None:
        print(_options_text(args.architecture))
        return 0
    head = "".join(f"{'N / width x depth / kappa':>30}" for _ in args.sizes)
    wide = max(12, *(len(name) + 2 for name in names()))
    print(f"{'name':<{wide}}{'title':<{TITLE}}{'symmetry':<12}{head}")
    for name in names():
        try:
            entry = architecture(name)
            cells = "".join(f"{_size_text(name, target, args.degree):>30}" for target in args.sizes)
        except (ForcelawError, ModuleNotFoundError) as error:  # of others: not the end of the list
            found = error if isinstance(error, ForcelawError) else missing_package(error)
            parts = (getattr(found, part, "") for part in ("what", "remedy"))
            why = ": ".join(filter(None, parts)) or found
            print(f"{name:<{wide}}cannot be used: {why}")
            continue
        print(f"{name:<{wide}}{entry.title:<{TITLE}}{entry.symmetry:<12}{cells}")
    print(
        f"kappa: forward FLOPs per atom and parameter at {args.degree:g} neighbours; -: no width"
        " comes near that size"
    )
    return 0


def _size_text(name: str, target: float, degree: float) -> str:
    """N, width, depth and kappa of an architecture at a target size, "-" if it cannot have it."""
    from ..errors import StudyError
    from ..models import architecture
    from ..models.sizing import count_parameters, size

    try:
        config = size(name, target, elements=ELEMENTS)
    except StudyError:
        return "-"
    n, _ = count_parameters(config)
    kappa = architecture(name).flops_for(config).forward(degree, 1) / n
    return f"{n:,} / {config.width}x{config.depth} / {kappa:.1f}"


def _options_text(name: str) -> str:
    """The options of an architecture: name, default and description, one a line."""
    from ..models import architecture
    from ..study.config import RESERVED

    entry = architecture(name)
    lines = [f"{entry.title}: options of `forcelaw train {name} --option KEY=VALUE` and of studies"]
    descriptions = entry.config.descriptions()
    for key, field in entry.config.model_fields.items():
        if key not in (*RESERVED, "depth"):
            default = f"{key}={field.get_default(call_default_factory=True)}"
            lines.append(f"  {default:<24}  {descriptions.get(key, '')}".rstrip())
    return "\n".join(lines)
