"""`forcelaw forecast`: predict the largest runs before they are trained, and put the truth beside
it afterwards."""

from __future__ import annotations

import argparse
import csv
import datetime
from pathlib import Path
from typing import Any

from ..errors import FitError

BURN_IN_STEPS = 400  # as in reports


def add_subcommands(subparsers: Any) -> None:
    """Add `forecast` to the subparsers of the main command. Nothing heavy is imported here."""
    parser = subparsers.add_parser(
        "forecast",
        help="predict the largest runs from small ones before they are trained; later, check it",
        description=(
            "Fit each architecture's law to what finished runs reached at a tenth of the compute of"
            " its largest planned runs or less, and predict those with the interval of a new run."
            " Commit the file, train, then --check puts the truth beside it. Exit code 3: no"
            " architecture could be forecast."
        ),
        epilog=(
            "examples:\n  forcelaw run study.yaml --hold-largest\n  forcelaw forecast out/study"
            " --json forecast.json\n  forcelaw run study.yaml\n  forcelaw forecast --check"
            " forecast.json out/study"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="STUDY_OR_TABLE",
        type=Path,
        help=(
            "output directory of `forcelaw run`, a directory with runs.parquet or runs.csv, or a"
            " table of runs"
        ),
    )
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help=(
            "the planned runs: a study file (needs torch), or a table with architecture, n, d (and"
            " c, seed, run). Without it: all runs that a study directory knows, or the runs of the"
            " table"
        ),
    )
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.1,
        metavar="F",
        help=(
            "what reached at most F times the compute of the smallest target is fitted (default:"
            " 0.1)"
        ),
    )
    parser.add_argument(
        "--top",
        type=float,
        default=0.5,
        metavar="SHARE",
        help=(
            "targets are planned runs with at least this share of the largest compute (default:"
            " 0.5)"
        ),
    )
    parser.add_argument(
        "--whole-runs",
        action="store_true",
        help=(
            "fit runs that are within that compute as a whole, and no early evaluations of larger"
            " ones (those of targets are never fitted)"
        ),
    )
    parser.add_argument(
        "--burn-in-steps",
        type=float,
        metavar="N",
        help=f"leave out earlier checkpoints (default: {BURN_IN_STEPS} where the table has steps)",
    )
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="ROLE=COLUMN,...",
        help="as for `forcelaw fit`",
    )
    parser.add_argument("--where", metavar="FILTER", help="rows to use, as for `forcelaw fit`")
    parser.add_argument(
        "--level", type=float, default=0.95, help="of the intervals (default: 0.95)"
    )
    parser.add_argument(
        "--check", type=Path, metavar="FORECAST", help="put the truth beside this forecast instead"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="OUT",
        help="write the forecast (with --check: the verdict) as JSON",
    )
    parser.add_argument("--csv", type=Path, metavar="OUT", help="write one row per planned run")
    parser.set_defaults(handler=handle)


def handle(args: argparse.Namespace) -> int:
    from ..laws.decide import forecast as forecasts
    from ..laws.decide import forecast_check
    from .forecast_runs import planned_runs, runs_of
    from .laws import pairs

    columns = pairs(args.columns, "--columns")
    if args.check is not None:
        content = forecast_check.check(
            forecasts.read(args.check), runs_of(args.source, columns, args.where)
        )
        print(forecast_check.words(content))
        _write(args, content, [row for a in content["architectures"] for row in a["runs"]])
        return 0
    everything = runs_of(args.source, columns, args.where)
    planned = planned_runs(args.source, args.plan, everything, args.where)
    steps = (
        args.burn_in_steps
        if args.burn_in_steps is not None
        else BURN_IN_STEPS
        if "step" in everything
        else 0
    )
    runs = everything.select(burn_in_steps=steps) if steps else everything
    found = forecasts.forecast(
        runs,
        planned,
        fraction=args.fraction,
        top=args.top,
        checkpoints=not args.whole_runs,
        level=args.level,
    )
    options = {
        "fraction": args.fraction,
        "top": args.top,
        "checkpoints": not args.whole_runs,
        "burn_in_steps": steps,
        "where": args.where,
        "level": args.level,
    }
    content = forecasts.to_dict(
        found,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=args.source.name,
        options=options,
    )
    print(forecasts.words(content))
    _write(args, content, [row for a in content["architectures"] for row in a["predictions"]])
    return 0 if content["ok"] else 3


def _write(args: argparse.Namespace, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if args.json:
        from ..files import write_json

        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, content)
    if args.csv:
        if not rows:
            raise FitError(
                "there is no row to write", where=str(args.csv), remedy="see the reasons above"
            )
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
