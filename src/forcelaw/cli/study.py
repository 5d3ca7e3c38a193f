"""`forcelaw export` and `forcelaw import`: the evidence of a study, small enough to commit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_subcommands(commands: Any) -> None:
    """Add export and import to the subparsers of the main command. Nothing heavy is imported
    here."""
    export = commands.add_parser(
        "export",
        help="write the table of runs of a study, small enough to commit",
        description=(
            "Write the evidence of a study: table of runs, specifications, study and provenance,"
            " from which `forcelaw report` makes its page. Weights are left out."
        ),
        epilog="example:\n  forcelaw export out/ladder --table results/ladder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("source", type=Path, help="output directory of `forcelaw run`")
    export.add_argument(
        "--table", type=Path, required=True, metavar="DIR", help="write the evidence into DIR"
    )
    export.add_argument(
        "--format",
        choices=["parquet", "csv"],
        help="of the table (default: parquet where polars is installed)",
    )
    export.add_argument(
        "--stop",
        action="store_true",
        help="runs under way count as ended where they are, as shorter runs (status stopped)",
    )
    export.set_defaults(handler=handle_export)

    importer = commands.add_parser(
        "import",
        help="make a study directory of the evidence that `forcelaw export` wrote",
        description=(
            "Write the runs of committed evidence into a study directory, from which `forcelaw run`"
            " resumes: finished runs are not trained again, runs that were under way start over. A"
            " run that is there already is replaced only by one that ended better."
        ),
        epilog="example:\n  forcelaw import results/ladder --to out/ladder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    importer.add_argument("evidence", type=Path, help="directory that `forcelaw export` wrote")
    importer.add_argument("--to", type=Path, required=True, metavar="OUT", help="study directory")
    importer.set_defaults(handler=handle_import)


def handle_export(args: argparse.Namespace) -> int:
    from ..errors import StoreError
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


def handle_import(args: argparse.Namespace) -> int:
    from ..study.export import import_evidence

    print(f"{args.to}: {import_evidence(args.evidence, args.to)}")
    return 0
