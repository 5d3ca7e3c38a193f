"""`forcelaw report`: a page, figures and tables from a study or a table of runs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any


def add_subcommands(subparsers: Any) -> None:
    """Add `report` to the subparsers of the main command. Nothing heavy is imported here."""
    parser = subparsers.add_parser(
        "report",
        help="make the HTML report, figures and tables of a study or of a table of runs",
        description=(
            "Fit the laws of a study and write one self-contained HTML page that opens offline,"
            " figures for a paper (PNG, SVG, PDF) and tables (CSV, Markdown). Works from run"
            " directories or from a committed table alone, and needs no torch."
        ),
        epilog=(
            "examples:\n  forcelaw report runs/quickstart\n  forcelaw report"
            " results/symmetry_ladder\n  forcelaw report runs.parquet --out report"
            " --burn-in-steps 800"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="STUDY_DIR_OR_TABLE",
        help=(
            "output directory of `forcelaw run`, a directory with runs.parquet or runs.csv, or such"
            " a file"
        ),
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default: report/ inside the study's directory)",
    )
    parser.add_argument(
        "--burn-in-steps",
        metavar="N",
        type=_steps,
        help=(
            "leave evaluations before this step out of the fits (default: the study's own, else"
            " 400)"
        ),
    )
    parser.set_defaults(handler=command)


def _steps(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps (0 or more)")
    return value


def command(arguments: argparse.Namespace) -> int:
    """Run `forcelaw report`; returns the exit code."""
    write_report(arguments.source, arguments.out, burn_in_steps=arguments.burn_in_steps)
    return 0


def write_report(
    source: str | Path, out: str | Path | None = None, *, burn_in_steps: int | None = None
) -> Path:
    """Make the report of ``source``, print its exponent table and where it lies; returns the path
    of the page."""
    written = report(source, out, burn_in_steps=burn_in_steps)
    print(written["table"])
    for line in written["notes"]:
        print(line)
    print(
        f"\nreport:  {written['page']}\nfigures: {written['figures']}\ntables:  {written['tables']}"
    )
    return written["page"]


def report(
    source: str | Path, out: str | Path | None = None, *, burn_in_steps: int | None = None
) -> dict[str, Any]:
    """Write OUT/report.html, OUT/figures/ and OUT/tables/; returns their paths, the exponent table
    as text and notes.

    Raises StoreError where ``source`` holds no table of runs; a fit that cannot be carried is words
    on the page.
    """
    from ..figures.matplotlib import save
    from ..figures.spec import names
    from ..report import figures as figures_module
    from ..report import tables
    from ..report.analysis import analyse
    from ..report.html import render
    from ..report.summary import risen_words
    from ..table.load import load

    started = time.monotonic()

    def say(text: str) -> None:
        if time.monotonic() - started > 2:  # short work needs no log
            print(f"  {time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    loaded = load(source)
    folder = Path(out) if out is not None else loaded.path / "report"
    analysis = analyse(loaded, burn_in_steps, progress=say)
    figures = figures_module.figures(analysis)
    page = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    say("writing the page and the tables")
    temporary = page.with_suffix(".html.partial")
    temporary.write_text(render(analysis, figures), encoding="utf-8")
    temporary.replace(page)
    tables.write_all(analysis, folder / "tables")
    for figure in figures:
        say(f"drawing {figure.name}")
        save(figure, folder / "figures", analysis)
    notes = [
        f"{names(labels)}: {reason}" for reason, labels in tables.grouped_reasons(analysis).items()
    ]
    if analysis.problems:
        notes.append(f"{len(analysis.problems)} run(s) diverged or failed: see the page")
    notes += risen_words(analysis)
    return {
        "page": page,
        "figures": folder / "figures",
        "tables": folder / "tables",
        "notes": notes,
        "table": tables.terminal(analysis),
        "analysis": analysis,
        "seconds": time.monotonic() - started,
    }
