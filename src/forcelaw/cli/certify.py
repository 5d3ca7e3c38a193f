"""`forcelaw certify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import FAILED
from .options import parse_pairs


def add_certify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure what an architecture does, in about a minute on a CPU: its symmetry, smoothness at"
        " the cutoff, extensivity, what batches and padding change, forces against the energy,"
        " parameters and FLOPs by size, gradients, resuming, its parametrisation, whether one"
        " learning rate serves all widths, CUDA graphs on a GPU. Writes a page (Markdown, HTML) and"
        " JSON, which studies find and record. Exit code 1: a line fails."
    )
    parser.epilog = """\
examples:
  forcelaw certify my_package.models:MyModel --data pack
  forcelaw certify painn --option forces=conservative
"""
    parser.add_argument("architecture", help="a name, or an import path module:NAME")
    text = 'directory of a pack (default: "sample")'
    parser.add_argument("--data", default="sample", metavar="PACK", help=text)
    text = "an option of the architecture; may be repeated"
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "Angstrom (default: 6)"
    parser.add_argument("--cutoff", type=float, default=6.0, metavar="X", help=text)
    text = "parameters of the model whose exact properties are measured (default: about 1e4)"
    parser.add_argument("--size", type=float, metavar="N", help=text)
    text = "cores that are used (default: 1)"
    parser.add_argument("--threads", type=int, default=1, metavar="N", help=text)
    text = "measure this line only; may be repeated, and nothing is written"
    parser.add_argument("--only", action="append", default=[], metavar="LINE", help=text)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where it is written (default: out/certificates, where studies in out find it)",
    )
    parser.set_defaults(handler=_certify, packages=("torch", "safetensors"))


def _certify(args: argparse.Namespace) -> int:
    from ..certify import certify
    from ..certify.certificate import FOLDER

    made = certify(
        args.architecture,
        data=args.data,
        options=parse_pairs(args.option, "--option"),
        cutoff=args.cutoff,
        size=args.size,
        threads=args.threads,
        only=tuple(args.only),
        say=lambda text: print(text, flush=True),
    )
    print(f"{made.summary()} ({made.about['seconds']:g} s)")
    if not args.only:
        print(made.write(args.out or Path("out") / FOLDER))
    return 0 if made.holds else FAILED
