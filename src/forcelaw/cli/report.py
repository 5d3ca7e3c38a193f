"""`forcelaw report`: a page, figures and tables from a study or a table of runs."""

from __future__ import annotations

import argparse

from pydantic import Field

from ..settings import Settings
from .laws_options import TableOptions
from .options import add_options


class Report(Settings):
    """Options of ``forcelaw report``."""

    source: str = Field(title="STUDY_DIR_OR_TABLE")
    """output directory of `forcelaw run`, a directory with runs.parquet or runs.csv, or any table
    of runs"""
    out: str | None = Field(None, title="DIR")
    """where to write (default: report/ in the study's directory, NAME-report/ beside another
    table)"""
    burn_in_steps: int | None = Field(None, ge=0)
    """leave evaluations before this step out of the fits (default: the study's own, else 400; 0 for
    a table that is of no study)"""


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fit the laws of a study and write one self-contained HTML page that opens offline, figures"
        " for a paper (PNG, SVG, PDF) and tables (CSV, Markdown). Works from run directories or"
        " from a committed table, and needs no torch."
    )
    parser.epilog = """\
examples:
  forcelaw report out/study
  forcelaw report results/symmetry_ladder
  forcelaw report runs.csv --out report --columns n=params,d=tokens
"""
    add_options(parser, Report, positional=("source",))
    add_options(parser, TableOptions, only=("columns", "where", "best_of_sweep"))
    parser.set_defaults(handler=_report, packages=("matplotlib", "plotly", "jinja2"))


def _report(args: argparse.Namespace) -> int:
    from ..report.write import write_report
    from .laws import pairs

    columns = pairs(args.columns, "--columns")
    write_report(
        args.source,
        args.out,
        burn_in_steps=args.burn_in_steps,
        columns=columns,
        where=args.where,
        best_of_sweep=args.best_of_sweep,
    )
    return 0
