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
    _add_compare(subparsers)
    _add_diagnose(subparsers)
    _add_budget(subparsers)
    _add_design(subparsers)


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


def _add_compare(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare", help="do exponents differ between architectures, and who needs how much more compute?",
        description="For every two architectures of the table: tests of the differences between exponents (whole runs "
                    "deleted, pairs of runs where the study has them, Holm over the pairs), the compute multiplier at equal "
                    "loss, the loss ratio at equal compute, and where the frontiers cross.",
        epilog="example:\n  forcelaw compare runs.parquet --burn-in-steps 400 --figure compare.svg",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _common(parser)
    parser.add_argument("--quantities", metavar="NAME,...", help="what to test (default: exponents, a, gamma, floor)")
    parser.add_argument("--unpaired", action="store_true", help="do not use pairs of runs of one size, seed and data")
    parser.add_argument("--permutations", type=int, default=1999, metavar="N",
                        help="draws of the permutation test in paired studies (default: 1999; 0: none)")
    parser.add_argument("--x", default="c", metavar="ROLE", help="cost of the frontier: c or h (default: c)")
    parser.set_defaults(handler=lambda args: _guarded(args, _compare))


def _add_diagnose(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "diagnose", help="is it an exponent, or only a trend? and which runs would mend it",
        description="Checks of every architecture: local exponents, curvature, stability under dropping sizes and early "
                    "checkpoints, the optimum inside the grid, held-out budgets, seeds, gamma two ways, and the floor.",
        epilog="example:\n  forcelaw diagnose runs.parquet --group painn --figure diagnose.png",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _common(parser)
    parser.add_argument("--x", default="c", metavar="ROLE", help="cost of the frontier: c or h (default: c)")
    parser.set_defaults(handler=lambda args: _guarded(args, _diagnose))


def _add_budget(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "budget", help="which architecture, how large, on how much data, for a budget",
        description="The best architecture, N and D within a budget, the loss to expect with the interval of a new run, and how "
                    "far that extrapolates beyond the runs of the table.",
        epilog="examples:\n  forcelaw budget runs.parquet --flops 1e21\n"
               "  forcelaw budget runs.parquet --hours 100 --device H200 --unique 1e9",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _common(parser, law=False)
    parser.add_argument("--flops", type=float, metavar="C", help="budget in training FLOPs")
    parser.add_argument("--hours", type=float, metavar="H", help="budget in device-hours")
    parser.add_argument("--device", metavar="NAME", help="use only runs made on this device")
    parser.add_argument("--unique", type=float, metavar="U", help="distinct data there are; more of D means epochs")
    parser.add_argument("--max-epochs", type=float, default=4.0, metavar="E",
                        help="passes planned at most where the table has no repeats (default: 4)")
    parser.set_defaults(handler=lambda args: _guarded(args, _budget))


def _add_design(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "design", help="which runs to add to a study for the shortest interval",
        description="Simulates the study with candidate runs added (other sizes, seeds, lengths) and names those that shorten "
                    "the interval of a quantity most for their cost.",
        epilog="example:\n  forcelaw design runs.parquet --group painn --quantity gamma --add 4",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    _common(parser, law=False)
    parser.add_argument("--quantity", default="gamma", metavar="NAME", help="alpha, beta, gamma, a, E ... (default: gamma)")
    parser.add_argument("--add", type=int, default=3, metavar="N", help="runs to add (default: 3)")
    parser.add_argument("--cost", choices=("c", "h"), help="count FLOPs or hours (default: hours if there are any)")
    parser.add_argument("--max-cost", type=float, metavar="X", help="leave out dearer candidates")
    parser.add_argument("--copies", type=int, default=200, metavar="N", help="simulated copies (default: 200)")
    parser.set_defaults(handler=lambda args: _guarded(args, _design))


# -- shared ---------------------------------------------------------------------------------------------------------


def _guarded(args: argparse.Namespace, command: Callable[[argparse.Namespace], int]) -> int:
    """Run a command; where it cannot be done, the JSON says so too, so that scripts see a status either way."""
    try:
        if args.figure:
            from .figures import check_path

            check_path(args.figure)
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


def _compare(args: argparse.Namespace) -> int:
    from .comparison import compare

    runs = _runs(args)
    settings = {key: value for key, value in _settings(args).items() if key not in ("interval", "resamples")}
    asked = tuple(filter(None, (name.strip() for name in (args.quantities or "").split(",")))) or None
    result = compare(runs, args.law, quantities_tested=asked, paired=False if args.unpaired else "auto",
                     permutations=args.permutations, x=args.x, **settings)
    _say(args, "\n" + result.summary())
    _write(args, result.to_dict())
    if args.figure:
        from .figures import draw_compare

        draw_compare(result, args.figure)
    return 0 if result.status == "ok" else 3


def _diagnose(args: argparse.Namespace) -> int:
    from .diagnosis import REFUSED, diagnose

    runs = _runs(args)
    settings = {key: value for key, value in _settings(args).items() if key not in ("interval", "resamples", "seed")}
    found = {}
    for name, part in runs.groups().items():
        found[name] = diagnose(part, args.law, x=args.x, **settings)
        _say(args, "\n" + found[name].summary())
        if args.figure:
            from .figures import check_path, draw_diagnose

            path = check_path(args.figure)
            draw_diagnose(found[name], path if len(runs.group_names) == 1 else
                          path.with_name(f"{path.stem}_{_safe(name)}{path.suffix}"))
    refused = all(one.verdict == REFUSED for one in found.values())
    only = next(iter(found.values())).to_dict() if len(found) == 1 else {
        "status": "refused" if refused else "ok", "groups": {name: one.to_dict() for name, one in found.items()}}
    _write(args, only)
    return 3 if refused else 0


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name) or "all"


def _budget(args: argparse.Namespace) -> int:
    from .budgeting import budget

    if (args.flops is None) == (args.hours is None):
        raise FitError("give a budget in FLOPs or in hours", where="budget", remedy="one of --flops and --hours")
    runs = _runs(args)
    settings = {key: value for key, value in _settings(args).items() if key not in ("interval", "resamples")}
    result = budget(runs, flops=args.flops, hours=args.hours, unique=args.unique, max_epochs=args.max_epochs,
                    device=args.device, **settings)
    _say(args, "\n" + result.summary())
    _write(args, result.to_dict())
    if args.figure and result.best:
        from .figures import draw_budget

        draw_budget(result, args.figure)
    return 0 if result.status == "ok" else 3


def _design(args: argparse.Namespace) -> int:
    from .planning import design

    runs = _runs(args)
    settings = {key: value for key, value in _settings(args).items() if key not in ("interval", "resamples")}
    result = design(runs, args.quantity, add=args.add, cost=args.cost, max_cost=args.max_cost, copies=args.copies,
                    progress=True, **settings)
    _say(args, "\n" + result.summary())
    _write(args, result.to_dict())
    if args.figure:
        from .figures import draw_design

        draw_design(result, args.figure)
    return 0
