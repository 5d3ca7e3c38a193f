"""`forcelaw rates`: the best learning rate as a power law of N and D."""

from __future__ import annotations

import argparse

from pydantic import Field

from ..errors import FitError
from ..settings import Settings
from .laws import NOTES, guarded, numbers, of_each, runs_of_command
from .laws_options import FitOptions, OutputOptions, TableOptions
from .options import JSON, add_options


class Rates(Settings):
    """Options of ``forcelaw rates`` only."""

    at: list[str] = Field([], title="n=N,d=D")
    """predict the best rate there; may be repeated"""
    last: bool = False
    """only the last evaluation of each run counts, as of runs whose rate falls"""


def add_rates(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "For every architecture the best learning rate at each size and length, from runs at three"
        " rates or more, and the power law of N and D through them, with intervals from sizes and"
        " lengths left out in turn: what it says of a longer or larger run, what a rate at the end"
        " of that interval would cost, and the key for a study file. A best rate at an end of those"
        " tried is none, and is said. Exit code 3: no architecture has two that are inside."
    )
    parser.epilog = (
        """\
examples:
  forcelaw rates sweeps.csv --at n=1e6,d=1e8
  forcelaw rates sweeps.csv --where "kind == 'sweep'" --json rates.json
"""
        + NOTES
    )
    add_options(parser, Rates)
    add_options(parser, FitOptions, only=("level",))
    add_options(parser, TableOptions, only=("table",), positional=("table",))
    skip = ("table", "best_of_sweep")
    add_options(parser.add_argument_group("what is in the table"), TableOptions, skip=skip)
    add_options(parser, OutputOptions, only=("json_out",), flags=JSON)
    parser.set_defaults(
        handler=lambda args: guarded(args, _rates), figure=None, best_of_sweep=False
    )


def _rates(args: argparse.Namespace) -> int:
    from ..laws.decide.rates import rates

    at = [_place(text) for text in args.at]
    runs = runs_of_command(args)
    return of_each(args, runs, lambda part: rates(part, at=at, last=args.last, level=args.level))


def _place(text: str) -> tuple[float, float]:
    given = numbers(text, "--at")
    if set(given) != {"n", "d"} or not all(0 < value < float("inf") for value in given.values()):
        raise FitError(
            f"cannot read {text!r}", where="--at", remedy="give both, above 0: --at n=1e6,d=1e8"
        )
    return given["n"], given["d"]
