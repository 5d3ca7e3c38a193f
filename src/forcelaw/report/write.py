"""Write the report of a study or of a table of runs: the page, its figures and its tables."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any


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
    from . import figures as figures_module
    from . import tables
    from .analysis import analyse
    from .html import render
    from .load import load
    from .summary import risen_words

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
