"""`forcelaw evaluate`: what is done with a trained run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..data.options import Source
from ..settings import Settings
from .data import SOURCES, source_options
from .machine import Machine
from .options import JSON, add_options

EVALUATE = """\
Errors of a trained run on files of labelled structures: MAE and RMSE of energies and forces, beside
those of the reference energies alone, by config type and element, and the worst structures. The
weights are the averaged ones, at which losses are measured.
"""


class Evaluation(Settings):
    """How a model is evaluated."""

    dtype: Literal["float32", "float64"] = Field("float32", description="number format")
    batch_atoms: int = Field(4000, ge=1, description="atoms of a batch")
    rotations: int = Field(0, ge=0, le=120, title="K")
    """average predictions over K rotations of each structure (12, 24, 60: a group), in K passes"""
    data: Path | None = Field(None, title="PACK")
    """the pack of a run that did not keep its reference energies"""


class Output(Settings):
    """What comes out."""

    worst: int = Field(5, ge=0, description="structures with the largest errors that are named")
    json_out: str | None = Field(None, title="FILE")
    """write the errors as JSON; - prints them instead of text"""
    figure: Path | None = Field(None, title="FILE")
    """parity of energies and forces: .png, .svg or .pdf"""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = EVALUATE
    parser.epilog = (
        "example:\n  forcelaw evaluate out/single/runs/ID test.extxyz --figure parity.png\n\n"
        + SOURCES
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run: OUT/runs/ID")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="labelled structures, or packs"
    )
    add_options(parser, Output, flags=JSON)
    how = parser.add_argument_group("where and how")
    add_options(how, Machine, only=("device",))
    add_options(how, Evaluation)
    add_options(
        parser.add_argument_group("labels and units, where the format does not say"), Source
    )
    parser.set_defaults(handler=_evaluate, packages=("torch", "safetensors"))


def _evaluate(args: argparse.Namespace) -> int:
    from ..api.run import load_run
    from ..errors import require
    from ..files import whole

    if args.figure:
        require("matplotlib")
        from ..figures.matplotlib import check_path

        check_path(args.figure)
    run = load_run(args.run)
    found = run.evaluate(
        args.files,
        source_options(args),
        worst=args.worst,
        device=args.device,
        dtype=args.dtype,
        batch_atoms=args.batch_atoms,
        data=args.data,
        rotations=args.rotations,
        progress=True,
    )
    label = run.spec["label"]
    if args.json_out:
        which = {"run": run.id, "label": label, "n": run.spec["n"]}
        files = [file.name for file in args.files]
        text = json.dumps({**which, "files": files, **found.as_json()}, indent=1, allow_nan=False)
        if args.json_out == "-":
            print(text)
        else:
            with whole(Path(args.json_out)) as temporary:
                temporary.write_text(text + "\n")
    if args.json_out != "-":
        print(f"{label}, N = {run.spec['n']:,}, {run.path}: {found.summary()}")
    if args.figure:
        from ..figures.matplotlib import save_alone

        architecture = run.spec["model"]["architecture"]
        save_alone(
            found.figure(f"{label} on {found.structures:,} structures", architecture), args.figure
        )
    return 0
