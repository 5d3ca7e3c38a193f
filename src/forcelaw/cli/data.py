"""``forcelaw data``: check, prepare, generate, info. Building the parser imports neither numpy nor
ase."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ..data import generate
from ..errors import DataError

SOURCES = """\
sources (the format is seen from the suffix, labels and units from the format; what was chosen is printed):
  .xyz .extxyz (.gz)  energy in the comment line, forces in the columns (or REF_energy, REF_forces); eV, Angstrom (ASE)
  .db .aselmdb        ASE databases, SchNetPack's too; a folder of .aselmdb is one source (OMol25, with charge and spin)
  .hdf5 .h5           SPICE, ANI-1x, ANI-2x, flat (natoms, atomic_numbers, positions, ...); units as the layout declares
  .npz                sGDML (z R E F, also zero-padded), rMD17; sGDML files that name no unit need --energy-unit and
                      --length-unit
  PACK                a pack, to split, filter or merge it anew
A label under any other name must be named (--energy-key, --forces-key, or --gradient-key for dE/dx).
"""

CHECK = """\
Read structures and say whether they can be trained on: keys and units, elements, energies after reference energies,
forces, duplicates, charges and spins, net force, and whether forces are minus the gradient of the energies (tested on
close pairs of frames; it catches gradients stored as forces and wrong units). Exit code 0: trainable; 1: not.
"""

PREPARE = """\
Make a pack (memory-mapped arrays and a manifest) of one or more sources, streaming: memory does not grow with the data.

split       by molecule: a hash of the group label and --seed decides, so all frames of a molecule stay together
rotation    every molecule is centred and turned by a fixed random rotation, because embedders align molecules with
            their axes and an unconstrained model would read that frame for free; periodic structures stay as they are
            unless --rotate is given (then positions, forces and cell turn together)
references  atomic reference energies, by least squares on the training molecules, are kept in the manifest
skipped     single isolated atoms always (--keep-isolated-atoms keeps them); frames without labels or with labels that
            are not finite are an error unless --skip-unlabelled or --skip-bad; everything skipped is counted by reason

Nothing appears at PACK until all is written; a killed call leaves only PACK.partial-*, which the next one removes.
"""


def add_subcommands(subparsers: Any) -> None:
    """Add check, prepare, generate and info to the subparsers of ``forcelaw data``."""
    check = _parser(subparsers, "check", "can these structures be trained on?", CHECK)
    _add_source_arguments(check)
    check.add_argument(
        "--limit", type=_positive, metavar="N", help="look at the first N structures only"
    )
    check.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    check.set_defaults(handler=_check)

    prepare = _parser(subparsers, "prepare", "make a pack of sources", PREPARE)
    _add_source_arguments(prepare)
    _add_prepare_arguments(prepare)
    prepare.set_defaults(handler=_prepare)

    make = subparsers.add_parser(
        "generate", help="make a pack of labelled molecules without any download"
    )
    generate.add_arguments(make)
    make.set_defaults(handler=generate.run)

    info = subparsers.add_parser(
        "info", help="describe a pack", description="Describe a pack from its manifest."
    )
    info.add_argument("pack", type=Path, metavar="PACK")
    info.add_argument("--json", action="store_true", help="print the manifest")
    info.set_defaults(handler=_info)


def _parser(subparsers: Any, name: str, help_: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help_,
        description=description,
        epilog=SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="files, folders of .aselmdb, or packs",
    )
    group = parser.add_argument_group(
        "labels and units, where the format does not say (for every SOURCE)"
    )
    group.add_argument(
        "--reader",
        metavar="NAME",
        help="extxyz, ase, hdf5, npz or pack, where the suffix does not tell",
    )
    for name, text in (
        ("energy", "total energy"),
        ("forces", "forces"),
        ("charge", "total charge"),
        ("spin", "multiplicity 2S+1"),
    ):
        group.add_argument(
            f"--{name}-key",
            metavar="KEY",
            help=(
                f"where the {text} is" if name != "forces" else "where the forces (minus dE/dx) are"
            ),
        )
    group.add_argument(
        "--gradient-key", metavar="KEY", help="where dE/dx is; forces are minus that"
    )
    group.add_argument(
        "--energy-unit", metavar="UNIT", help="eV, meV, hartree, kcal/mol, kJ/mol, rydberg"
    )
    group.add_argument("--length-unit", metavar="UNIT", help="Angstrom, bohr, nm, pm")
    group.add_argument(
        "--force-unit",
        metavar="UNIT",
        help="energy/length, for example hartree/bohr (default: of the two)",
    )


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PACK", help="the pack to make (a new folder)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace PACK if it is there")
    split = parser.add_argument_group("split")
    split.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="share of the molecules held out for validation (default 0.1)",
    )
    split.add_argument(
        "--seed", type=int, default=0, help="of the split and the rotations (default 0)"
    )
    split.add_argument(
        "--group",
        default="auto",
        metavar="RULE",
        help=(
            "what a molecule is: auto (the source's own label, else the formula), formula,"
            " key:NAME, or frame, for sources with a single molecule (default auto)"
        ),
    )
    keep = parser.add_argument_group("what to keep")
    keep.add_argument("--limit", type=_positive, metavar="N", help="stop after N kept structures")
    keep.add_argument("--only-neutral", action="store_true", help="leave out charged structures")
    keep.add_argument(
        "--max-force",
        type=float,
        metavar="F",
        help="leave out structures with a larger force on an atom, eV/Angstrom",
    )
    keep.add_argument(
        "--elements",
        metavar="LIST",
        help="leave out structures with other elements, for example H,C,N,O",
    )
    keep.add_argument(
        "--skip-unlabelled", action="store_true", help="leave out frames without energy or forces"
    )
    keep.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out frames whose labels or positions are not finite",
    )
    keep.add_argument("--keep-isolated-atoms", action="store_true", help="keep single free atoms")
    turn = parser.add_mutually_exclusive_group()
    turn.add_argument(
        "--rotate",
        dest="rotate",
        action="store_true",
        default=None,
        help="turn periodic structures too",
    )
    turn.add_argument("--no-rotate", dest="rotate", action="store_false", help="turn nothing")


def _source_options(args: argparse.Namespace, group_key: str | None = None) -> Any:
    from ..data.readers import SourceOptions

    names = (
        "reader",
        "energy_key",
        "forces_key",
        "gradient_key",
        "charge_key",
        "spin_key",
        "energy_unit",
        "length_unit",
        "force_unit",
    )
    return SourceOptions(**{name: getattr(args, name) for name in names}, group_key=group_key)


def _check(args: argparse.Namespace) -> int:
    from ..data.validate.survey import check

    return check(args.sources, _source_options(args), limit=args.limit, as_json=args.json)


def _prepare(args: argparse.Namespace) -> int:
    from ..data.filters import Filter
    from ..data.prepare import PrepareOptions, prepare

    keep = Filter(
        only_neutral=args.only_neutral,
        max_force=args.max_force,
        elements=_elements(args.elements),
        keep_isolated_atoms=args.keep_isolated_atoms,
    )
    options = PrepareOptions(
        val_fraction=args.val_fraction,
        seed=args.seed,
        group=args.group,
        rotate=args.rotate,
        skip_unlabelled=args.skip_unlabelled,
        skip_bad=args.skip_bad,
        limit=args.limit,
        overwrite=args.overwrite,
        keep=keep,
        command=_command(),
    )
    prepare(args.sources, args.out, sources=_source_options(args), options=options, say=sys.stdout)
    return 0


def _command() -> str:
    """The command as typed, with folders taken off the paths: a manifest carries no place of one
    machine."""
    return shlex.join(
        [
            "forcelaw",
            *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]),
        ]
    )


def _elements(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    from ..elements import SYMBOLS

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in SYMBOLS[1:]]
    if unknown or not names:
        raise DataError(
            f"--elements {text}: unknown {', '.join(unknown) or 'list'}",
            remedy="for example --elements H,C,N,O",
        )
    return frozenset(SYMBOLS.index(name) for name in names)


def _info(args: argparse.Namespace) -> int:
    from ..data.info import describe

    print(describe(args.pack, as_json=args.json))
    return 0
