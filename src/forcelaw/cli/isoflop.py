"""`forcelaw isoflop`: the best size at each budget, read off curves of loss against N."""

from __future__ import annotations

import argparse
from typing import Literal

from pydantic import Field

from ..settings import Settings
from .laws import NOTES, cost_of, guarded, of_each, runs_of_command
from .laws_options import FitOptions, OutputOptions, TableOptions
from .options import JSON, add_options


class IsoFlop(Settings):
    """Options of ``forcelaw isoflop`` only."""

    x: Literal["c", "h"] = Field("c", description="budgets in FLOPs (c) or device-hours (h)")
    budgets: int = Field(8, ge=3)
    """how many, where runs have trajectories; else those of the table"""
    cost: str | None = Field(None, title="COST")
    """compute by N and D, not by a column: 6nd, or a factor k of N D"""


def add_isoflop(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "For every architecture and budget the N and D of the lowest loss (local parabolas in"
        " ln N), and the exponents a and b of N* ~ C^a and D* ~ C^b with intervals from deleted"
        " runs. A minimum at the end of the grid is none, and lack of fit is said. Exit code 3: no"
        " architecture has three minima."
    )
    parser.epilog = (
        """\
examples:
  forcelaw isoflop runs.csv
  forcelaw isoflop runs.csv --best-of-sweep --cost 6nd --json minima.json
"""
        + NOTES
    )
    add_options(parser, IsoFlop)
    add_options(parser, FitOptions, only=("level",))
    add_options(parser, TableOptions, only=("table",), positional=("table",))
    add_options(parser.add_argument_group("what is in the table"), TableOptions, skip=("table",))
    add_options(parser, OutputOptions, only=("json_out",), flags=JSON)
    parser.set_defaults(handler=lambda args: guarded(args, _isoflop), figure=None)


def _isoflop(args: argparse.Namespace) -> int:
    from ..laws.decide.allocation import with_compute
    from ..laws.frontier.isoflop import isoflop

    runs = runs_of_command(args)
    if args.x == "c":
        runs = with_compute(runs, cost_of(args))
    return of_each(
        args, runs, lambda part: isoflop(part, args.x, budgets=args.budgets, level=args.level)
    )
