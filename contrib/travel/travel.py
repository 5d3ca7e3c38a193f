"""Carry a study, a pack or a file between machines as an archive in parts.

    python contrib/travel/travel.py export out/ladder --to state --part-mb 15 --parts 4
    python contrib/travel/travel.py import state/ --to out/ladder
    python contrib/travel/travel.py regroup out/slice_1 out/slice_2 --to out/whole

Needs the package forcelaw (PYTHONPATH=src will do).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import state

from forcelaw.errors import ForcelawError, StoreError


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return int(args.handler(args))
    except ForcelawError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="travel.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser(
        "export",
        help="write a study's state, a pack, a folder or a file as an archive in parts; checkpoints"
        " of finished runs are left out",
    )
    export.add_argument("source", type=Path)
    export.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="write NAME.tar.K-of-N into it"
    )
    export.add_argument("--name", help="NAME of the archive (default: that of the source)")
    export.add_argument(
        "--part-mb",
        type=float,
        default=1000.0,
        metavar="MB",
        help="largest part, in 10^6 bytes (default: 1000)",
    )
    export.add_argument(
        "--parts",
        type=int,
        default=100,
        metavar="N",
        help="most parts of a study; checkpoints that do not fit are left out and named"
        " (default: 100)",
    )
    export.set_defaults(handler=handle_export)
    importer = commands.add_parser(
        "import",
        help="unpack the parts; a study is merged into the one that is there: a finished run beats"
        " an unfinished one, more steps beat fewer. Every file is checked against its hash",
    )
    importer.add_argument(
        "parts", type=Path, nargs="+", help="the parts NAME.tar.K-of-N, or their directory"
    )
    importer.add_argument("--to", type=Path, required=True, metavar="PATH")
    importer.set_defaults(handler=handle_import)
    regroup = commands.add_parser(
        "regroup",
        help="move what studies have trained of runs that are not over to another study that has"
        " the same runs under the same labels, so that more of them share a device. Runs that are"
        " over are left where they are: name these studies under `share`",
    )
    regroup.add_argument("studies", type=Path, nargs="+", help="output directories")
    regroup.add_argument(
        "--to", type=Path, required=True, metavar="OUT/NAME", help="NAME is that of the study"
    )
    regroup.set_defaults(handler=handle_regroup)
    return parser


def handle_export(args: argparse.Namespace) -> int:
    size = round(args.part_mb * 1e6)
    if size < 10_000 or args.parts < 1:
        raise StoreError(
            f"{args.parts} parts of {args.part_mb:g} MB hold nothing",
            remedy="give e.g. --part-mb 15 --parts 4",
        )
    if not args.source.exists():
        raise StoreError(
            "no such file or directory",
            where=str(args.source),
            remedy="give the output directory of `forcelaw run`, a pack, a folder or a file",
        )
    name = args.name or args.source.resolve().name
    if (args.source / "runs").is_dir():
        print(state.export_study(args.source, args.to, name, part=size, most=args.parts).describe())
        return 0
    for path in state.export_files(args.source, args.to, name, part=size):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def handle_import(args: argparse.Namespace) -> int:
    print(f"{args.to}: {state.import_archive(args.parts, args.to)}")
    return 0


def handle_regroup(args: argparse.Namespace) -> int:
    moved = state.regroup(args.studies, args.to)
    print(f"{args.to}: {len(moved)} runs under way are here now: {', '.join(moved) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
