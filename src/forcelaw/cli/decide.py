"""`forcelaw budget` and `design`: decisions from any table of runs. Neither needs torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import FitError
from . import CANNOT_CARRY
from .laws import (
    add_common,
    cost_of,
    draw,
    fit_settings,
    law_of,
    numbers,
    pairs,
    runs_of_command,
    say,
    write,
)
from .laws_options import Budget, Design


def add_budget(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The best architecture, N and D within a budget, the loss to expect with the interval of a"
        " new run, and how far that extrapolates beyond the runs of the table. Forms of law are"
        " weighed by back-tests on its smaller budgets; N and D stay within --beyond times the"
        " largest measured ones. Where back-tests and `forcelaw diagnose` both say no, so does"
        " this."
    )
    examples = """\
examples:
  forcelaw budget runs.csv --flops 1e19
  forcelaw budget runs.csv --hours 100 --device H200 --unique 1e9
"""
    add_common(parser, Budget, examples, _budget)
    parser.set_defaults(law="auto")


def add_design(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Simulates the study with candidate runs added (other sizes, seeds, lengths) and names"
        " those that shorten the interval of a quantity, or of the loss at a --target, most for"
        " their cost or (--rank gain) whatever they cost. With --pool: which runs of a table of"
        " possible ones to make next, within --budget, for the loss at --target."
    )
    examples = """\
examples:
  forcelaw design runs.csv --group painn --quantity gamma --add 4
  forcelaw design runs.csv --group painn --target n=1e7,d=1e9
  forcelaw design runs.csv --pool possible.csv --budget 1e18 --target n=1e7,d=1e9
"""
    add_common(parser, Design, examples, _design, skip=("law", "tie"))


def _budget(args: argparse.Namespace) -> int:
    from ..laws.decide.budget import budget

    if (args.flops is None) == (args.hours is None):
        raise FitError(
            "give a budget in FLOPs or in hours",
            where="budget",
            remedy="one of --flops and --hours",
        )
    runs = runs_of_command(args)
    names = ("flops", "hours", "unique", "max_epochs", "device", "beyond", "anyway")
    result = budget(
        runs,
        **{name: getattr(args, name) for name in names},
        law=law_of(args),
        cost=cost_of(args),
        diagnosis=True,
        **fit_settings(args, "interval", "resamples"),
    )
    say(args, "\n" + result.summary())
    good = result.status == "ok"
    reasons = [
        f"{one.group + ': ' if one.group else ''}{one.reason}"
        for one in result.choices
        if one.reason
    ]
    write(args, result.as_json() | {"message": "" if good else "; ".join(reasons)})
    if result.best:
        draw(args, "budget_figure", result, runs)
    elif args.figure:
        say(args, "no figure: no architecture has an answer")
    return 0 if good else CANNOT_CARRY


def _design(args: argparse.Namespace) -> int:
    from ..laws.decide.design import design

    if args.pool is not None:
        return _next_runs(args)
    if args.budget is not None:
        raise FitError(
            "--budget is for the runs of a --pool",
            where="design",
            remedy="give --pool TABLE, or limit the cost of a run with --max-cost",
        )
    names = ("add", "cost", "max_cost", "copies", "rank")
    result = design(
        runs_of_command(args),
        args.quantity,
        progress=True,
        target=numbers(args.target, "--target") or None,
        **{name: getattr(args, name) for name in names},
        **fit_settings(args, "interval", "resamples"),
    )
    say(args, "\n" + result.summary())
    write(args, result.as_json())
    draw(args, "design_figure", result)
    return 0


def _next_runs(args: argparse.Namespace) -> int:
    """With --pool."""
    from ..laws.decide.selection import next_runs
    from .forecast_runs import planned_runs

    target = numbers(args.target, "--target")
    if args.budget is None or set(target) != {"n", "d"}:
        raise FitError(
            "--pool needs a budget and a target",
            where="design",
            remedy="give --budget 1e18 --target n=1e7,d=1e9",
        )
    runs = runs_of_command(args)
    pool = planned_runs(Path(args.table), args.pool, runs, columns=pairs(args.columns, "--columns"))
    mine = [one for one in pool if one.architecture in (args.group, *runs.group_names)]
    settings = fit_settings(args, "interval", "resamples")
    result = next_runs(runs, mine, target, args.budget, **settings)
    say(args, "\n" + result.summary())
    write(args, result.as_json())
    if args.figure:
        say(args, "no figure: a choice from a pool has none")
    return 0
