"""`forcelaw export` and `forcelaw import`: a study that travels between machines, and the evidence
that stays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_subcommands(commands: Any) -> None:
    """Add export and import to the subparsers of the main command. Nothing heavy is imported
    here."""
    export = commands.add_parser(
        "export",
        help="write a study's state to travel, or its table of runs to keep",
        description=(
            "--to writes the state of a study (or a pack, a folder, a file) as an archive in parts"
            " that travels to another machine, where `forcelaw import` merges it. Checkpoints of"
            " finished runs stay behind. --table writes the evidence: table of runs,"
            " specifications, study and provenance, from which `forcelaw report` makes its page."
        ),
        epilog=(
            "examples:\n  forcelaw export out/ladder --to state --part-mb 15 --parts 4\n  forcelaw"
            " export out/ladder --table results/ladder\n  forcelaw export packs/xtb --to travel"
            " --part-mb 55"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument(
        "source",
        type=Path,
        help="output directory of `forcelaw run`; with --to also a pack, a folder or a file",
    )
    export.add_argument(
        "--to", type=Path, metavar="DIR", help="write NAME.tar.K-of-N into this directory"
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
        help=(
            "most parts of a study; checkpoints that do not fit stay behind, and which is said"
            " (default: 100)"
        ),
    )
    export.add_argument(
        "--table", type=Path, metavar="DIR", help="write the evidence into this directory"
    )
    export.add_argument(
        "--format",
        choices=["parquet", "csv"],
        help="of the table (default: parquet where polars is installed)",
    )
    export.add_argument(
        "--stop",
        action="store_true",
        help=(
            "with --table: runs under way count as ended where they are, as shorter runs (status"
            " stopped)"
        ),
    )
    export.set_defaults(handler=handle_export)

    importer = commands.add_parser(
        "import",
        help="unpack what `forcelaw export` wrote; a study is merged into what is there",
        description=(
            "Takes the parts that --to wrote, or the evidence that --table wrote: then finished"
            " runs are as good as before and the others begin anew. Merging loses nothing: a"
            " finished run beats an unfinished one, and one with more steps beats one with fewer."
            " Every file is checked against its hash."
        ),
        epilog=(
            "examples:\n  forcelaw import state/ --to out/ladder\n  forcelaw import results/ladder"
            " --to out/ladder"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    importer.add_argument(
        "parts",
        type=Path,
        nargs="+",
        help="the parts NAME.tar.K-of-N, their directory, or a directory of evidence",
    )
    importer.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="PATH",
        help="study directory, or where the rest is put",
    )
    importer.set_defaults(handler=handle_import)


def handle_export(args: argparse.Namespace) -> int:
    from ..errors import StoreError

    if (args.to is None) == (args.table is None):
        raise StoreError(
            "give --to or --table", remedy="--to DIR for what travels, --table DIR for the evidence"
        )
    if args.stop and args.table is None:
        raise StoreError(
            "--stop is about a table",
            remedy="give it with --table; a study that travels can go on as it is",
        )
    if not args.source.exists():
        raise StoreError(
            "there is nothing here",
            where=str(args.source),
            remedy="give the output directory of `forcelaw run`",
        )
    is_study = (args.source / "runs").is_dir()
    if args.table is not None:
        from ..study.accounting import accounts
        from ..study.export import write_evidence

        provenance = write_evidence(args.source, args.table, args.format, stop=args.stop)
        counts = ", ".join(f"{n} {status}" for status, n in provenance["runs"].items())
        print(
            f"{args.table / provenance['table']['file']}: {provenance['evaluations']} evaluations"
            f" of runs: {counts}"
        )
        print(accounts(args.source).words())
        return 0
    size = round(args.part_mb * 1e6)
    if size < 10_000 or args.parts < 1:
        raise StoreError(
            f"{args.parts} parts of {args.part_mb:g} MB hold nothing",
            remedy="give e.g. --part-mb 15 --parts 4",
        )
    from ..study.state import export_files, export_study

    name = args.name or args.source.resolve().name
    if is_study:
        print(export_study(args.source, args.to, name, part=size, most=args.parts).words())
        return 0
    for path in export_files(args.source, args.to, name, part=size):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def handle_import(args: argparse.Namespace) -> int:
    from ..study.state import import_archive

    print(f"{args.to}: {import_archive(args.parts, args.to)}")
    return 0
