"""`forcelaw fit`, `compare`, `diagnose`, `budget` and `design`: laws from any table of runs,
without torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FitError

TABLE_HELP = (
    "table of runs, one row a checkpoint: .csv, .tsv, .parquet, .feather, .json or .jsonl (also"
    " .gz), or a directory of runs"
)
CANNOT_CARRY = 3  # exit code
EXITS = """
columns: usual names are recognised (params, N, model_size; tokens, D, samples; flops, C, compute; gpu_hours;
  val_loss, loss; run_name, run_id; architecture; seed; step; status) and what was taken is printed; --columns overrides.
filters: flag == 1 and (params >= 1e6 or family in ('a', 'b')) and not step < 100; x is null. Text stands in single
  quotes, a column with spaces in `backticks`; true and false count as 1 and 0. Nothing is evaluated as code.
exit codes: 0 done; 2 a mistake in what was given; 3 the table cannot carry what was asked (the reason is printed, and
  stands in the JSON as status and message)."""


def add_subcommands(subparsers: Any) -> None:
    """Add the commands of the laws to the subparsers of the main command. Nothing heavy is imported
    here."""
    _add_fit(subparsers)
    _add_compare(subparsers)
    _add_diagnose(subparsers)
    _add_budget(subparsers)
    _add_design(subparsers)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines, prose is wrapped."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def _common(parser: argparse.ArgumentParser, *, law: bool = True) -> None:
    """Arguments that every command shares."""
    parser.add_argument("table", metavar="TABLE", help=TABLE_HELP)
    table = parser.add_argument_group("what is in the table")
    table.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="ROLE=COLUMN,...",
        help=(
            "which column is what; the roles are n, d, u, c, h, loss, run, architecture, seed,"
            " step, status, weight; usual names are recognised, and what was taken is printed"
        ),
    )
    table.add_argument(
        "--where",
        metavar="FILTER",
        help='rows to keep, e.g. "flag == 1 and params >= 1e6"; never evaluated as code',
    )
    table.add_argument("--group", metavar="NAME", help="the one architecture to use")
    table.add_argument(
        "--burn-in-steps",
        type=_number(0),
        default=0,
        metavar="N",
        help="leave out checkpoints before this step: young models learn faster than any law says",
    )
    table.add_argument(
        "--burn-in-fraction",
        type=_number(0, 1, open_high=True),
        default=0,
        metavar="F",
        help="leave out this first fraction of every run, 0 to 1",
    )
    fitting = parser.add_argument_group("how it is fitted")
    if law:
        fitting.add_argument(
            "--law",
            default="surface",
            help=(
                "power, power_floor, surface, surface_cost, coupled, kaplan, frontier, frontier_hours,"
                " data_constrained, data_constrained_by_size, broken or shifted (default: surface)"
            ),
        )
        fitting.add_argument(
            "--tie",
            metavar="TIE",
            help="alpha=beta: one exponent for N and D (surface, surface_cost, coupled)",
        )
    fitting.add_argument(
        "--objective",
        default="huber",
        help=(
            "what is minimised, of errors in ln L: huber (outliers pull less), log (squared), or"
            " squared relative or linear errors of L (default: huber)"
        ),
    )
    fitting.add_argument(
        "--delta",
        type=_number(0, open_low=True),
        metavar="D",
        help=(
            "error in ln L where Huber's loss turns linear (default: 1.345 robust sd of the"
            " residuals; published language-model fits use 1e-3)"
        ),
    )
    fitting.add_argument(
        "--floor",
        metavar="FLOOR",
        help=(
            "loss that no size and no data would remove: free, zero or a number (default: the law's"
            " own); one set to zero makes exponents too small where there is one"
        ),
    )
    fitting.add_argument(
        "--weights", default="none", help="none, run (every run counts the same) or column"
    )
    fitting.add_argument(
        "--cluster",
        default="run",
        help=(
            "what is independent: run (checkpoints of one run are not), config (all seeds of a size"
            " together), seed or none (default: run)"
        ),
    )
    fitting.add_argument(
        "--interval",
        default="auto",
        help=(
            "auto, jackknife (delete each run in turn), bootstrap (resample runs) or none (default:"
            " auto)"
        ),
    )
    fitting.add_argument(
        "--resamples",
        type=_whole(2),
        default=1000,
        metavar="N",
        help="draws of the bootstrap (default: 1000)",
    )
    fitting.add_argument(
        "--level",
        type=_number(0, 1, open_low=True, open_high=True),
        default=0.95,
        metavar="P",
        help="probability of the intervals (default: 0.95)",
    )
    fitting.add_argument("--seed", type=int, default=0, help="of the bootstrap and of permutations")
    out = parser.add_argument_group("what comes out")
    out.add_argument(
        "--json",
        metavar="OUT",
        help="write the result as JSON; - prints the JSON alone to standard output",
    )
    out.add_argument("--figure", metavar="OUT", help="draw it: .png, .svg or .pdf")


def _number(
    low: float, high: float = float("inf"), *, open_low: bool = False, open_high: bool = False
) -> Callable[[str], float]:
    """A finite number in a range, as an argparse type."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if (
            not (low <= value <= high and abs(value) != float("inf"))
            or (open_low and value == low)
            or (open_high and value == high)
        ):
            span = f"above {low:g}" if open_low else f"from {low:g}"
            span += (
                "" if high == float("inf") else f" {'and below' if open_high else 'to'} {high:g}"
            )
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {span}")
        return value

    return read


def _whole(low: int) -> Callable[[str], int]:
    """A whole number from ``low`` up, as an argparse type."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}")
        return value

    return read


def _add_fit(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "fit",
        help="fit a scaling law to a table of runs",
        description=(
            "Fit a law to a table of runs: its parameters with intervals that hold when checkpoints"
            " of one run are not independent, and the proof that the optimum was found. A table"
            " that cannot carry the law is refused (exit code 3), never fitted silently."
        ),
        epilog=(
            "examples:\n  forcelaw fit runs.csv --law surface --json fit.json --figure fit.png\n "
            " forcelaw fit chinchilla.csv --columns n=params,d=tokens,loss=loss,run=run_name"
            ' --where "flag == 1" --objective huber --delta 1e-3\n  forcelaw fit runs.csv --law'
            " power_floor --x n --group painn\n"
        )
        + EXITS,
        formatter_class=_Help,
    )
    _common(parser)
    parser.add_argument(
        "--x", metavar="ROLE", help="variable of a law in one variable: n, d, c or h"
    )
    parser.add_argument(
        "--fix", default="", metavar="NAME=VALUE,...", help="hold parameters at values"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="profile the floor as well: an interval that may be one-sided",
    )
    parser.set_defaults(handler=lambda args: _guarded(args, _fit))


def _add_compare(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="do exponents differ between architectures, and who needs how much more compute?",
        description=(
            "For every two architectures of the table: tests of the differences between exponents"
            " (whole runs deleted, pairs of runs where the study has them, Holm over the pairs),"
            " the compute multiplier at equal loss, the loss ratio at equal compute, and where the"
            " frontiers cross."
        ),
        epilog=(
            "example:\n  forcelaw compare runs.parquet --burn-in-steps 400 --figure compare.svg\n"
        )
        + EXITS,
        formatter_class=_Help,
    )
    _common(parser)
    parser.add_argument(
        "--quantities",
        metavar="NAME,...",
        help="what to test (default: exponents, a, gamma, floor)",
    )
    parser.add_argument(
        "--unpaired",
        action="store_true",
        help="do not use pairs of runs of one size, seed and data",
    )
    parser.add_argument(
        "--permutations",
        type=_whole(0),
        default=1999,
        metavar="N",
        help="draws of the permutation test in paired studies (default: 1999; 0: none)",
    )
    parser.add_argument(
        "--x", default="c", metavar="ROLE", help="cost of the frontier: c or h (default: c)"
    )
    parser.set_defaults(handler=lambda args: _guarded(args, _compare))


def _add_diagnose(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "diagnose",
        help="is it an exponent, or only a trend? and which runs would mend it",
        description=(
            "Checks of every architecture: local exponents, curvature, stability under dropping"
            " sizes and early checkpoints, the optimum inside the grid, held-out budgets, seeds,"
            " gamma two ways, and the floor."
        ),
        epilog="example:\n  forcelaw diagnose runs.parquet --group painn --figure diagnose.png\n"
        + EXITS,
        formatter_class=_Help,
    )
    _common(parser)
    parser.add_argument(
        "--x", default="c", metavar="ROLE", help="cost of the frontier: c or h (default: c)"
    )
    parser.set_defaults(handler=lambda args: _guarded(args, _diagnose))


def _add_budget(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "budget",
        help="which architecture, how large, on how much data, for a budget",
        description=(
            "The best architecture, N and D within a budget, the loss to expect with the interval"
            " of a new run, and how far that extrapolates beyond the runs of the table."
        ),
        epilog=(
            "examples:\n  forcelaw budget runs.parquet --flops 1e21\n"
            "  forcelaw budget runs.parquet --hours 100 --device H200 --unique 1e9\n"
        )
        + EXITS,
        formatter_class=_Help,
    )
    _common(parser, law=False)
    parser.add_argument(
        "--flops", type=_number(0, open_low=True), metavar="C", help="budget in training FLOPs"
    )
    parser.add_argument(
        "--hours", type=_number(0, open_low=True), metavar="H", help="budget in device-hours"
    )
    parser.add_argument("--device", metavar="NAME", help="use only runs made on this device")
    parser.add_argument(
        "--unique",
        type=_number(0, open_low=True),
        metavar="U",
        help="distinct data there are; more of D means epochs",
    )
    parser.add_argument(
        "--max-epochs",
        type=_number(0, open_low=True),
        default=4.0,
        metavar="E",
        help="passes planned at most where the table has no repeats (default: 4)",
    )
    parser.set_defaults(handler=lambda args: _guarded(args, _budget))


def _add_design(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "design",
        help="which runs to add to a study for the shortest interval",
        description=(
            "Simulates the study with candidate runs added (other sizes, seeds, lengths) and names"
            " those that shorten the interval of a quantity most, for their cost or (--rank gain)"
            " whatever they cost."
        ),
        epilog="example:\n  forcelaw design runs.parquet --group painn --quantity gamma --add 4\n"
        + EXITS,
        formatter_class=_Help,
    )
    _common(parser, law=False)
    parser.add_argument(
        "--quantity",
        default="gamma",
        metavar="NAME",
        help="alpha, beta, gamma, a, E ... (default: gamma)",
    )
    parser.add_argument(
        "--add", type=_whole(1), default=3, metavar="N", help="runs to add (default: 3)"
    )
    parser.add_argument(
        "--cost", choices=("c", "h"), help="count FLOPs or hours (default: hours if there are any)"
    )
    parser.add_argument(
        "--max-cost",
        type=_number(0, open_low=True),
        metavar="X",
        help="leave out dearer candidates",
    )
    parser.add_argument(
        "--rank",
        choices=("per-cost", "gain"),
        default="per-cost",
        help=(
            "take the run that shortens the interval most per cost (often a small one), or most"
            " whatever it costs (default: per-cost)"
        ),
    )
    parser.add_argument(
        "--copies",
        type=_whole(10),
        default=200,
        metavar="N",
        help="simulated copies (default: 200)",
    )
    parser.set_defaults(handler=lambda args: _guarded(args, _design))


# -- shared ---------------------------------------------------------------------------------------------------------


def _guarded(args: argparse.Namespace, command: Callable[[argparse.Namespace], int]) -> int:
    """Run a command; where it cannot be done, the JSON says so too, so that scripts see a status
    either way."""
    if args.json and args.json != "-":
        _writable(Path(args.json), "--json")
    try:
        if args.figure:
            from ..laws.figures import check_path

            _writable(check_path(args.figure), "--figure")
        return command(args)
    except FitError as error:
        if error.what.startswith(
            "the fit is "
        ):  # FitResult.require: the command was right, the table cannot carry it
            error.exit_code = CANNOT_CARRY
        _write(
            args,
            {
                "status": "refused",
                "ok": False,
                "message": error.what,
                "where": error.where,
                "remedy": error.remedy,
                "objective": None,
                "parameters": {},
                "derived": {},
                "diagnostics": {},
            },
        )
        raise


def _writable(path: Path, option: str) -> None:
    """FitError before the work, not after it, where a result could not be written."""
    import os

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FitError(
            f"the folder {path.parent} cannot be made: {error.strerror}",
            where=option,
            remedy="give another path",
        ) from error
    if path.is_dir():
        raise FitError(f"{path} is a folder", where=option, remedy="give the name of a file in it")
    if not os.access(path.parent, os.W_OK):
        raise FitError(
            f"nothing can be written in {path.parent}", where=option, remedy="give another path"
        )


def _write(args: argparse.Namespace, content: dict[str, Any]) -> None:
    """The JSON, by rename: a reader never sees half of it."""
    if not args.json:
        return
    from ..laws.fit.result import clean

    text = json.dumps(clean(content), indent=2, allow_nan=False)
    if args.json == "-":
        print(text)
    else:
        path = Path(args.json)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)


def pairs(items: list[str] | str, option: str) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE as a dict; FitError for what is not of this form or comes twice."""
    out: dict[str, str] = {}
    for text in [items] if isinstance(items, str) else items:
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals or not name.strip() or not value.strip():
                raise FitError(
                    f"cannot read {part!r}", where=option, remedy="write NAME=VALUE,NAME=VALUE"
                )
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
        raise FitError(
            f"the floor {text!r} is not known",
            where="--floor",
            remedy="give free, zero or a number",
        ) from None


def _runs(args: argparse.Namespace) -> Any:
    from ..table.runs import Runs

    runs = Runs.from_frame(args.table, pairs(args.columns, "--columns"), args.where)
    group = getattr(args, "group", None)
    if group or args.burn_in_steps or args.burn_in_fraction:
        runs = runs.select(
            group, burn_in_steps=args.burn_in_steps, burn_in_fraction=args.burn_in_fraction
        )
    print(runs.describe(), file=sys.stderr if args.json == "-" else sys.stdout)
    return runs


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of :func:`forcelaw.laws.fit.fit.fit` from the command line."""
    cluster = None if args.cluster in ("none", "row") else args.cluster
    return {
        "objective": args.objective,
        "delta": args.delta,
        "cluster": cluster,
        "floor": _floor(args.floor),
        "weights": None if args.weights == "none" else args.weights,
        "interval": args.interval,
        "level": args.level,
        "resamples": args.resamples,
        "seed": args.seed,
    }


def _law(args: argparse.Namespace) -> Any:
    """The law as named, or made with its tie."""
    if args.tie is None:
        return args.law
    from ..laws.forms import make

    return make(args.law, _floor(args.floor), tie=args.tie)


def _say(args: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if args.json == "-" else sys.stdout)


# -- commands -------------------------------------------------------------------------------------------------------


def _fit(args: argparse.Namespace) -> int:
    from ..laws.fit.fit import fit

    runs = _runs(args)
    if len(runs.group_names) > 1:
        names = ", ".join(runs.group_names[:8])
        runs.notes.append(
            f"one law is fitted through {len(runs.group_names)} architectures ({names}): --group"
            " NAME takes one of them, `forcelaw compare` fits each"
        )
        _say(args, f"  WARNING: {runs.notes[-1]}")
    options = {"x": args.x} if args.x else {}
    result = fit(runs, _law(args), fixed=_numbers(args.fix, "--fix"), **_settings(args), **options)
    content = result.to_dict()
    if args.profile and result.ok:
        from ..laws.fit.floor_profile import profile_floor

        content["profile"] = profile_floor(runs, result).to_dict()
    _say(args, "\n" + result.summary() + _certificate(result))
    if "profile" in content:
        _say(args, _profile_words(content["profile"]))
    if result.law.name in ("frontier", "frontier_hours") and result.parameters:
        _beside(args, runs, result.law.x, content)
    _write(args, content)
    if args.figure and result.parameters:
        from ..laws.figures import draw_fit

        draw_fit(runs, result, args.figure)
    elif args.figure:
        _say(args, "no figure: there is no law to draw")
    return 0 if result.ok else CANNOT_CARRY


def _beside(args: argparse.Namespace, runs: Any, x: str, content: dict[str, Any]) -> None:
    """Beside a frontier law through every evaluation, the frontier itself: most evaluations lie
    above it."""
    from ..laws.frontier.frontier import frontier

    if "n" not in runs or len(set(runs["n"].tolist())) < 3 or len(runs.group_names) > 1:
        return
    found = frontier(runs, x, level=args.level)
    content["frontier"] = found.to_dict()
    values = ", ".join(f"{name} = {value}" for name, value in found.fit.parameters.items())
    _say(
        args,
        "the fit above goes through every evaluation; the lowest loss at each compute (by "
        f"{found.method}) gives {values or 'no law: ' + found.fit.message}"
        + (f"\n  {found.message}" if found.message else ""),
    )


def _certificate(result: Any) -> str:
    """The proof that the optimum was found, on one line."""
    found = result.diagnostics
    if not result.parameters or "starts" not in found:
        return ""
    bounds = ", ".join(found.get("bounds_hit") or []) or "none"
    return (
        f"\noptimum: gradient {found['gradient']:.1e}, {found['starts_agreeing']} of"
        f" {found['starts']} starts agree, condition number {found['condition_number']:.2g}, bounds"
        f" hit: {bounds}"
    )


def _profile_words(profile: dict[str, Any]) -> str:
    """What the profile of the floor says."""
    told = "told from zero" if profile["excludes_zero"] else "not told from zero"
    numbers = {
        name: "-" if profile[name] is None else f"{profile[name]:.4g}"
        for name in ("low", "high", "p_zero", "gamma_zero", "gamma_free", "gamma_high")
    }
    return (
        f"floor by profile: {numbers['low']} to {numbers['high']} ({profile['level']:.0%}), {told}"
        f" (p = {numbers['p_zero']}); exponent {numbers['gamma_zero']} with floor 0,"
        f" {numbers['gamma_free']} free, {numbers['gamma_high']} with the largest floor"
    )


def _compare(args: argparse.Namespace) -> int:
    from ..laws.compare.compare import compare

    runs = _runs(args)
    settings = {
        key: value for key, value in _settings(args).items() if key not in ("interval", "resamples")
    }
    asked = (
        tuple(filter(None, (name.strip() for name in (args.quantities or "").split(",")))) or None
    )
    result = compare(
        runs,
        _law(args),
        quantities_tested=asked,
        paired=False if args.unpaired else "auto",
        permutations=args.permutations,
        x=args.x,
        **settings,
    )
    _say(args, "\n" + result.summary())
    _write(
        args,
        result.to_dict() | {"message": "" if result.status == "ok" else "; ".join(result.notes)},
    )
    if args.figure:
        from ..laws.figures import draw_compare

        draw_compare(result, args.figure)
    return 0 if result.status == "ok" else CANNOT_CARRY


def _diagnose(args: argparse.Namespace) -> int:
    from ..laws.diagnose.diagnose import REFUSED, diagnose

    runs = _runs(args)
    settings = {
        key: value
        for key, value in _settings(args).items()
        if key not in ("interval", "resamples", "seed")
    }
    found = {}
    for name, part in runs.groups().items():
        found[name] = diagnose(part, _law(args), x=args.x, **settings)
        _say(args, "\n" + found[name].summary())
        if args.figure:
            from ..laws.figures import check_path, draw_diagnose

            path = check_path(args.figure)
            draw_diagnose(
                found[name],
                (
                    path
                    if len(runs.group_names) == 1
                    else path.with_name(f"{path.stem}_{_safe(name)}{path.suffix}")
                ),
            )
    refused = all(one.verdict == REFUSED for one in found.values())
    only = (
        next(iter(found.values())).to_dict()
        if len(found) == 1
        else {
            "status": "refused" if refused else "ok",
            "groups": {name: one.to_dict() for name, one in found.items()},
        }
    )
    reasons = [
        f"{name + ': ' if name else ''}{reason}"
        for name, one in found.items()
        for reason in one.reasons
    ]
    _write(args, only | {"message": "; ".join(reasons) if refused else ""})
    return CANNOT_CARRY if refused else 0


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name) or "all"


def _budget(args: argparse.Namespace) -> int:
    from ..laws.decide.budget import budget

    if (args.flops is None) == (args.hours is None):
        raise FitError(
            "give a budget in FLOPs or in hours",
            where="budget",
            remedy="one of --flops and --hours",
        )
    runs = _runs(args)
    settings = {
        key: value for key, value in _settings(args).items() if key not in ("interval", "resamples")
    }
    result = budget(
        runs,
        flops=args.flops,
        hours=args.hours,
        unique=args.unique,
        max_epochs=args.max_epochs,
        device=args.device,
        **settings,
    )
    _say(args, "\n" + result.summary())
    reasons = [
        f"{one.group + ': ' if one.group else ''}{one.reason}"
        for one in result.choices
        if one.reason
    ]
    _write(
        args, result.to_dict() | {"message": "; ".join(reasons) if result.status != "ok" else ""}
    )
    if args.figure and result.best:
        from ..laws.figures import draw_budget

        draw_budget(result, args.figure, runs)
    elif args.figure:
        _say(args, "no figure: no architecture has an answer")
    return 0 if result.status == "ok" else CANNOT_CARRY


def _design(args: argparse.Namespace) -> int:
    from ..laws.decide.design import design

    runs = _runs(args)
    settings = {
        key: value for key, value in _settings(args).items() if key not in ("interval", "resamples")
    }
    result = design(
        runs,
        args.quantity,
        add=args.add,
        cost=args.cost,
        max_cost=args.max_cost,
        copies=args.copies,
        progress=True,
        rank=args.rank,
        **settings,
    )
    _say(args, "\n" + result.summary())
    _write(args, result.to_dict())
    if args.figure:
        from ..laws.figures import draw_design

        draw_design(result, args.figure)
    return 0
