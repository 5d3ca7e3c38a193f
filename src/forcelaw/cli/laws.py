"""`forcelaw fit`, `compare` and `diagnose`: laws from any table of runs, and what other commands on
such tables share. None needs torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FitError, require
from ..files import whole
from . import CANNOT_CARRY
from .laws_options import (
    Compare,
    Diagnose,
    Fit,
    FitOptions,
    OutputOptions,
    TableOptions,
)
from .options import JSON, add_options

if TYPE_CHECKING:
    from ..settings import Settings
    from ..table.runs import Runs

NOTES = """
columns: usual names are recognised (params, N, model_size; tokens, D, samples; flops, C, compute;
  gpu_hours; val_loss, loss; run_name, run_id; architecture; seed; step; status), and the choice is
  printed; --columns overrides.
filters: flag == 1 and (params >= 1e6 or family in ('a', 'b')) and not step < 100; x is null.
  Text stands in single quotes, a column with spaces in `backticks`; true and false count as 1 and
  0. Nothing is evaluated as code.
exit codes: 0 done; 2 a mistake in what was given; 3 the table cannot carry what was asked (the
  reason is printed, and is in the JSON as status and message)."""


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fit a law to a table of runs: its parameters with intervals that hold when checkpoints of"
        " one run are not independent, and evidence that the optimum was found. A table that cannot"
        " carry the law is refused (exit code 3), never fitted silently."
    )
    examples = """\
examples:
  forcelaw fit runs.csv --law surface --json fit.json --figure fit.png
  forcelaw fit runs.csv --columns n=params,d=tokens --where "step >= 100" --delta 1e-3
  forcelaw fit runs.csv --law power_floor --x n --group painn
"""
    add_common(parser, Fit, examples, _fit)


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "For every two architectures of the table: first the ratio of their losses at equal N and"
        " D, compute and hours, and whether a constant factor suffices, without a law; then tests"
        " of the differences between exponents (whole runs deleted, pairs of runs where the study"
        " has them, Holm over the pairs), each supported by the ratios or not, the compute"
        " multiplier at equal loss, and where the frontiers cross."
    )
    examples = "example:\n  forcelaw compare runs.csv --burn-in-steps 400 --figure compare.svg\n"
    add_common(parser, Compare, examples, _compare)


def add_diagnose(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Checks of every architecture: local exponents, curvature, stability when sizes and early"
        " checkpoints are dropped, the optimum inside the grid, held-out budgets, seeds, gamma two"
        " ways, and the floor."
    )
    examples = "example:\n  forcelaw diagnose runs.csv --group painn --figure diagnose.png\n"
    add_common(parser, Diagnose, examples, _diagnose)


def add_common(
    parser: argparse.ArgumentParser,
    own: type[Settings],
    examples: str,
    command: Callable[[argparse.Namespace], int],
    skip: tuple[str, ...] = (),
) -> None:
    """The options that all commands share, and those of one; ``command`` runs under
    :func:`guarded`."""
    parser.epilog = examples + NOTES
    add_options(parser, own)
    add_options(parser, TableOptions, only=("table",), positional=("table",))
    add_options(parser.add_argument_group("what is in the table"), TableOptions, skip=("table",))
    add_options(parser.add_argument_group("how it is fitted"), FitOptions, skip=skip)
    add_options(parser.add_argument_group("what comes out"), OutputOptions, flags=JSON)
    parser.set_defaults(handler=lambda args: guarded(args, command))


def guarded(args: argparse.Namespace, command: Callable[[argparse.Namespace], int]) -> int:
    """Run a command. Where it fails, the JSON says so, so that scripts find a status either way."""
    if args.json_out and args.json_out != "-":
        _check_writable(Path(args.json_out), "--json")
    try:
        if args.figure:
            require("matplotlib")
            from ..figures.matplotlib import check_path

            _check_writable(check_path(args.figure), "--figure")
        return command(args)
    except FitError as error:
        # FitResult.require: the command was right, the table cannot carry it
        if error.what.startswith("the fit is "):
            error.exit_code = CANNOT_CARRY
        refusal = {"message": error.what, "where": error.where, "remedy": error.remedy}
        empty: dict[str, Any] = {
            "objective": None,
            "parameters": {},
            "derived": {},
            "diagnostics": {},
        }
        write(args, {"status": "refused", "ok": False, **refusal, **empty})
        raise


def _check_writable(path: Path, option: str) -> None:
    """FitError before the work, not after it, where a result could not be written."""
    folder, problem = path.parent, ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the folder {folder} cannot be made: {error.strerror}"
    if not problem and path.is_dir():
        problem = f"{path} is a folder"
    if not problem and not os.access(folder, os.W_OK):
        problem = f"nothing can be written in {folder}"
    if problem:
        raise FitError(problem, where=option, remedy="give the path of a file that can be written")


def write(args: argparse.Namespace, content: dict[str, Any]) -> None:
    """The JSON, by rename: a reader never sees half of it."""
    if not args.json_out:
        return
    from ..laws.fit.result import clean

    text = json.dumps(clean(content), indent=2, allow_nan=False)
    if args.json_out == "-":
        print(text)
        return
    path = Path(args.json_out)
    with whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def say(args: argparse.Namespace, text: str) -> None:
    """Print, to standard error where standard output is for the JSON."""
    print(text, file=sys.stderr if args.json_out == "-" else sys.stdout)


def of_each(args: argparse.Namespace, runs: Runs, make: Callable[[Runs], Any]) -> int:
    """Make a result of each architecture of a table, print and write them; the exit code. make:
    gives a result with a status ("ok" or "refused"), a message and a summary."""
    found = {}
    for name, part in runs.groups().items():
        found[name] = make(part)
        say(args, (f"\n{name}\n" if name else "\n") + found[name].summary())
    good = any(one.status == "ok" for one in found.values())
    content: dict[str, Any] = {"status": "ok" if good else "refused"}
    content["architectures"] = {name: one.as_json() for name, one in found.items()}
    content["message"] = "; ".join(one.message for one in found.values() if one.message)
    write(args, content)
    return 0 if good else CANNOT_CARRY


def draw(args: argparse.Namespace, kind: str, *what: Any, path: Path | None = None) -> None:
    """Draw the figure ``kind`` of :mod:`forcelaw.figures.commands`, if one was asked for."""
    if not args.figure:
        return
    from ..figures import commands
    from ..figures.matplotlib import save_alone

    save_alone(getattr(commands, kind)(*what), path or args.figure)


def pairs(items: list[str] | str, option: str) -> dict[str, str]:
    """NAME=VALUE,NAME=VALUE as a dict. FitError for text of another form, or a name given twice."""
    out: dict[str, str] = {}
    for text in [items] if isinstance(items, str) else items:
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = (word.strip() for word in part.partition("="))
            if not (name and equals and value):
                raise FitError(
                    f"cannot read {part!r}", where=option, remedy="write NAME=VALUE,NAME=VALUE"
                )
            if name in out:
                raise FitError(f"{name!r} is given twice", where=option)
            out[name] = value
    return out


def numbers(text: str, option: str) -> dict[str, float]:
    """NAME=NUMBER,NAME=NUMBER of an option."""
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


def runs_of_command(args: argparse.Namespace) -> Runs:
    runs = table_of(args)
    say(args, runs.describe())
    return runs


def table_of(args: argparse.Namespace) -> Runs:
    """The runs of a table after all options of a table."""
    from ..table.runs import Runs

    runs = Runs.from_frame(args.table, pairs(args.columns, "--columns"), args.where)
    runs = runs.best_of_sweep() if args.best_of_sweep else runs
    steps = burn_in_of(args, runs, args.table)
    if args.group or steps or args.burn_in_fraction:
        runs = runs.select(args.group, burn_in_steps=steps, burn_in_fraction=args.burn_in_fraction)
    return runs


def burn_in_of(args: argparse.Namespace, runs: Runs, source: str | Path) -> float:
    """The burn-in in steps: as given, else the default of every command."""
    from ..table.directory import study_of
    from ..table.doubts import default_burn_in

    if args.burn_in_steps is not None:
        return float(args.burn_in_steps)
    columns = [] if runs.frame is None or "step" not in runs else list(runs.frame.columns)
    return default_burn_in(columns, study_of(Path(source)))


def fit_settings(args: argparse.Namespace, *without: str) -> dict[str, Any]:
    """Keyword arguments of :func:`forcelaw.laws.fit.fit.fit` from the options of a command."""
    settings = {
        name: getattr(args, name)
        for name in FitOptions.model_fields
        if name in args and name not in ("law", "tie", *without)
    }
    if "floor" in settings:
        settings["floor"] = _floor(args.floor)
    for name, words in (("cluster", ("none", "row")), ("weights", ("none",))):
        if settings[name] in words:
            settings[name] = None
    return settings


def law_of(args: argparse.Namespace) -> Any:
    """The law as named, or made with its tie."""
    if args.tie is None:
        return args.law
    from ..laws.forms import make

    return make(args.law, _floor(args.floor), tie=args.tie)


def cost_of(args: argparse.Namespace) -> Any:
    """The cost as given: a factor as a number."""
    try:
        return None if args.cost is None else float(args.cost)
    except ValueError:
        return args.cost


def _fit(args: argparse.Namespace) -> int:
    from ..laws.fit.fit import fit

    runs = runs_of_command(args)
    if len(runs.group_names) > 1:
        names = ", ".join(runs.group_names[:8])
        runs.notes.append(
            f"one law is fitted through {len(runs.group_names)} architectures ({names}): --group"
            " NAME selects one of them, `forcelaw compare` fits each"
        )
        say(args, f"  WARNING: {runs.notes[-1]}")
    options = {"factor": args.factor} | ({"x": args.x} if args.x else {})
    if args.law == "auto":
        return _fit_auto(args, runs, options)
    result = fit(
        runs, law_of(args), fixed=numbers(args.fix, "--fix"), **fit_settings(args), **options
    )
    content = result.as_json()
    say(args, "\n" + result.summary() + _optimum_text(result))
    if args.profile and result.ok:
        from ..laws.fit.floor_profile import profile_floor
        from ..laws.fit.profile import profile

        by_run = profile(runs, result)
        content["profile_over_runs"] = by_run.as_json()
        say(args, f"by profile over runs: {by_run}")
        if result.law.free_floor:
            content["profile"] = profile_floor(runs, result).as_json()
            say(args, _profile_text(content["profile"]))
    law: Any = result.law
    if law.name in ("frontier", "frontier_hours") and result.parameters:
        _add_frontier(args, runs, law.x, content)
    write(args, content)
    if result.parameters:
        draw(args, "fit_figure", runs, result)
    elif args.figure:
        say(args, "no figure: there is no law to draw")
    return 0 if result.ok else CANNOT_CARRY


def _fit_auto(args: argparse.Namespace, runs: Runs, options: dict[str, Any]) -> int:
    """The forms of law compete; the figure is of the best one."""
    from ..laws.fit.fit import fit

    if args.tie is not None:
        options["tie"] = args.tie  # refused: each form has its own
    result = fit(runs, "auto", fixed=numbers(args.fix, "--fix"), **fit_settings(args), **options)
    say(args, "\n" + result.summary())
    write(args, result.as_json())
    if result.ok:
        draw(args, "fit_figure", runs, result.best.result)
    return 0 if result.ok else CANNOT_CARRY


def _add_frontier(args: argparse.Namespace, runs: Runs, x: str, content: dict[str, Any]) -> None:
    """After a frontier law through every evaluation, the frontier itself: most evaluations lie
    above it."""
    from ..laws.frontier.frontier import frontier

    if "n" not in runs or len(set(runs["n"].tolist())) < 3 or len(runs.group_names) > 1:
        return
    found = frontier(runs, x, level=args.level)
    content["frontier"] = found.as_json()
    values = ", ".join(f"{name} = {value}" for name, value in found.fit.parameters.items())
    say(
        args,
        "the fit above goes through every evaluation; the lowest loss at each compute (by "
        f"{found.method}) gives {values or 'no law: ' + found.fit.message}"
        + (f"\n  {found.message}" if found.message else ""),
    )


def _optimum_text(result: Any) -> str:
    """The evidence that the optimum was found, on one line."""
    found = result.diagnostics
    if not result.parameters or "starts" not in found:
        return ""
    bounds = ", ".join(found.get("bounds_hit") or []) or "none"
    return (
        f"\noptimum: gradient {found['gradient']:.1e}, {found['starts_agreeing']} of"
        f" {found['starts']} starts agree, condition number {found['condition_number']:.2g}, bounds"
        f" hit: {bounds}"
    )


def _profile_text(profile: dict[str, Any]) -> str:
    """What the profile of the floor says."""
    verdict = "distinct from zero" if profile["excludes_zero"] else "not distinct from zero"
    numbers = {
        name: "-" if profile[name] is None else f"{profile[name]:.4g}"
        for name in ("low", "high", "p_zero", "gamma_zero", "gamma_free", "gamma_high")
    }
    return (
        f"floor by profile: {numbers['low']} to {numbers['high']} ({profile['level']:.0%}),"
        f" {verdict} (p = {numbers['p_zero']}); exponent {numbers['gamma_zero']} with floor 0,"
        f" {numbers['gamma_free']} free, {numbers['gamma_high']} with the largest floor"
    )


def _compare(args: argparse.Namespace) -> int:
    from ..laws.compare.compare import compare

    runs = runs_of_command(args)
    quantities = tuple(filter(None, (name.strip() for name in args.quantities.split(","))))
    result = compare(
        runs,
        law_of(args),
        quantities_tested=quantities or None,
        paired=False if args.unpaired else "auto",
        windows=args.windows,
        permutations=args.permutations,
        x=args.x,
        **fit_settings(args, "interval", "resamples"),
    )
    say(args, "\n" + result.summary())
    good = result.status == "ok"
    write(args, result.as_json() | {"message": "" if good else "; ".join(result.notes)})
    draw(args, "compare_figure", result)
    return 0 if good else CANNOT_CARRY


def _diagnose(args: argparse.Namespace) -> int:
    from ..laws.diagnose.diagnose import REFUSED, diagnose
    from ..table.runs import Runs

    sweep = None
    if args.sweep:
        columns = pairs(args.columns, "--columns")
        sweep = Runs.from_frame(args.table, columns, args.sweep)
        args.where = (
            f"({args.where}) and not ({args.sweep})" if args.where else f"not ({args.sweep})"
        )
    runs = runs_of_command(args)
    settings = fit_settings(args, "interval", "resamples", "seed")
    settings["factor"] = args.factor or None
    found = {}
    for name, part in runs.groups().items():
        settings["sweep"] = sweep and _of_group(sweep, name)
        found[name] = diagnose(part, law_of(args), x=args.x, **settings)
        say(args, "\n" + found[name].summary())
        path = Path(args.figure) if args.figure else None
        if path and len(runs.group_names) > 1:
            path = path.with_stem(f"{path.stem}_{_file_name(name)}")
        draw(args, "diagnose_figure", found[name], path=path)
    refused = all(one.verdict == REFUSED for one in found.values())
    if len(found) == 1:
        content = next(iter(found.values())).as_json()
    else:
        groups = {name: one.as_json() for name, one in found.items()}
        content = {"status": "refused" if refused else "ok", "groups": groups}
    reasons = [
        f"{name + ': ' if name else ''}{reason}"
        for name, one in found.items()
        for reason in one.reasons
    ]
    write(args, content | {"message": "; ".join(reasons) if refused else ""})
    return CANNOT_CARRY if refused else 0


def _of_group(runs: Runs, name: str) -> Runs | None:
    return runs.select(name) if name in runs.group_names else None


def _file_name(group: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in group) or "all"
