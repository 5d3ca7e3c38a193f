"""`forcelaw fit`, `compare`, `diagnose`, `budget` and `design`: laws from any table of runs, without torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FitError

TABLE_HELP = "a .csv, .tsv, .parquet, .json or .jsonl table of runs (one row a checkpoint), or a directory of runs"


def add_subcommands(subparsers: Any) -> None:
    """Add the commands of the laws to the subparsers of the main command. Nothing heavy is imported here."""
    _add_fit(subparsers)


def _common(parser: argparse.ArgumentParser, *, law: bool = True) -> None:
    """Arguments that every command shares."""
    parser.add_argument("table", metavar="TABLE", help=TABLE_HELP)
    table = parser.add_argument_group("what is in the table")
    table.add_argument("--columns", action="append", default=[], metavar="ROLE=COLUMN,...",
                       help="which column is what; the roles are n, d, u, c, h, loss, run, architecture, seed, step, status, "
                            "weight; usual names are recognised, and what was taken is printed")
    table.add_argument("--where", metavar="FILTER",
                       help="rows to keep, e.g. \"flag == 1 and params >= 1e6\"; never evaluated as code")
    table.add_argument("--group", metavar="NAME", help="the one architecture to use")
    table.add_argument("--burn-in-steps", type=float, default=0, metavar="N", help="leave out earlier checkpoints")
    table.add_argument("--burn-in-fraction", type=float, default=0, metavar="F",
                       help="leave out this first fraction of every run")
    fitting = parser.add_argument_group("how it is fitted")
    if law:
        fitting.add_argument("--law", default="surface",
                             help="power, power_floor, surface, surface_cost, frontier, frontier_hours, data_constrained, "
                                  "broken or shifted (default: surface)")
    fitting.add_argument("--objective", default="huber", help="huber, log, relative or linear (default: huber)")
    fitting.add_argument("--delta", type=float, metavar="D",
                         help="where Huber's loss turns linear (default: 1.345 robust sd of the residuals)")
    fitting.add_argument("--floor", metavar="FLOOR", help="free, zero or a number (default: the law's own)")
    fitting.add_argument("--weights", default="none", help="none, run (every run counts the same) or column")
    fitting.add_argument("--cluster", default="run",
                         help="what is independent: run, config (all seeds of a size together), seed or none")
    fitting.add_argument("--interval", default="auto", help="auto, jackknife, bootstrap or none")
    fitting.add_argument("--resamples", type=int, default=1000, metavar="N", help="draws of the bootstrap")
    fitting.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    fitting.add_argument("--seed", type=int, default=0, help="of the bootstrap and of permutations")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--json", metavar="OUT", help="write the result as JSON (- for the terminal)")
    out.add_argument("--figure", metavar="OUT", help="draw it: .png, .svg or .pdf")


def _add_fit(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "fit", help="fit a scaling law to a table of runs",
        description="Fit a law to a table of runs: its parameters with intervals that hold when checkpoints of one run are "
                    "not independent, and the proof that the optimum was found. A table that cannot carry the law is "
                    "refused (exit code 3), never fitted silently.",
        epilog="examples:\n  forcelaw fit runs.csv --law surface --json fit.json --figure fit.png\n"
               "  forcelaw fit chinchilla.csv --columns n=params,d=tokens,loss=loss,run=run_name --where \"flag == 1\" "
               "--objective huber --delta 1e-3\n"
               "  forcelaw fit runs.csv --law power_floor --x n --group painn",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _common(parser)
    parser.add_argument("--x", metavar="ROLE", help="variable of a law in one variable: n, d, c or h")
    parser.add_argument("--fix", default="", metavar="NAME=VALUE,...", help="hold parameters at values")
    parser.add_argument("--profile", action="store_true", help="profile the floor as well: an interval that may be one-sided")
    parser.set_defaults(handler=lambda args: _guarded(args, _fit))


# -- shared ---------------------------------------------------------------------------------------------------------


def _guarded(args: argparse.Namespace, command: Callable[[argparse.Namespace], int]) -> int:
    """Run a command; where it cannot be done, the JSON says so too, so that scripts see a status either way."""
    try:
        return command(args)
    except FitError as error:
        _write(args, {"status": "refused", "ok": False, "message": error.what, "where": error.where, "remedy": error.remedy,
                      "objective": None, "parameters": {}, "derived": {}, "diagnostics": {}})
        raise


def _write(args: argparse.Namespace, content: dict[str, Any]) -> None:
    if not args.json:
        return
    from .result import clean

    text = json.dumps(clean(content), indent=2, allow_nan=False)
    if args.json == "-":
        print(text)
    else:
        path = Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def pairs(items: list[str] | str, option: str) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE as a dict; FitError for what is not of this form or comes twice."""
    out: dict[str, str] = {}
    for text in [items] if isinstance(items, str) else items:
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals or not name.strip() or not value.strip():
                raise FitError(f"cannot read {part!r}", where=option, remedy="write NAME=VALUE,NAME=VALUE")
            if name.strip() in out:
                raise FitError(f"{name.strip()!r} is given twice", where=option)
            out[name.strip()] = value.strip()
    return out


def _numbers(text: str, option: str) -> dict[str, float]:
    out = {}
    for name, value in pairs(text, option).items():
        try:
            out[name] = float(value)
        except ValueError:
            raise FitError(f"{value!r} is not a number", where=f"{option} {name}") from None
    return out


def _floor(text: str | None) -> str | float | None:
    if text is None or text in ("free", "zero"):
        return text
    try:
        return float(text)
    except ValueError:
        raise FitError(f"the floor {text!r} is not known", where="--floor", remedy="give free, zero or a number") from None


def _runs(args: argparse.Namespace) -> Any:
    from .table import Runs

    runs = Runs.from_frame(args.table, pairs(args.columns, "--columns"), args.where)
    group = getattr(args, "group", None)
    if group or args.burn_in_steps or args.burn_in_fraction:
        runs = runs.select(group, burn_in_steps=args.burn_in_steps, burn_in_fraction=args.burn_in_fraction)
    print(runs.describe(), file=sys.stderr if args.json == "-" else sys.stdout)
    return runs


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of :func:`forcelaw.laws.fit` from the command line."""
    cluster = None if args.cluster in ("none", "row") else args.cluster
    return {"objective": args.objective, "delta": args.delta, "cluster": cluster, "floor": _floor(args.floor),
            "weights": None if args.weights == "none" else args.weights, "interval": args.interval, "level": args.level,
            "resamples": args.resamples, "seed": args.seed}


def _say(args: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if args.json == "-" else sys.stdout)


# -- commands -------------------------------------------------------------------------------------------------------


def _fit(args: argparse.Namespace) -> int:
    from .fitting import fit

    runs = _runs(args)
    options = {"x": args.x} if args.x else {}
    result = fit(runs, args.law, fixed=_numbers(args.fix, "--fix"), **_settings(args), **options)
    content = result.to_dict()
    if args.profile and result.ok:
        from .profile import profile_floor

        content["profile"] = profile_floor(runs, result).to_dict()
    _say(args, "\n" + result.summary())
    _write(args, content)
    if args.figure and result.parameters:
        from .figures import draw_fit

        draw_fit(runs, result, args.figure)
    return 0 if result.ok else 3
