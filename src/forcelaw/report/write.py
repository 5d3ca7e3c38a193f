"""The report of a study on disk: the page, its figures and its tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import require
from ..progress import counted

NEEDED = ("matplotlib", "plotly", "jinja2")  # the extra `report`


def write_report(source: str | Path, out: str | Path | None = None, **options: Any) -> Path:
    """Make the report of ``source``, print its exponent table and where the files are; returns the
    path of the page. Raises as :func:`report` does."""
    written = report(source, out, **options)
    print(written["table"])
    for line in written["notes"]:
        print(line)
    print(
        f"\nreport:  {written['page']}\nfigures: {written['figures']}\ntables:  {written['tables']}"
    )
    return written["page"]


def report(
    source: str | Path,
    out: str | Path | None = None,
    *,
    burn_in_steps: int | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    best_of_sweep: bool = False,
) -> dict[str, Any]:
    """Write OUT/report.html, OUT/figures/ and OUT/tables/ (OUT: by default ``report`` in the
    study's directory, or NAME-report beside a table NAME.csv of others); returns their paths, the
    exponent table as text and notes.

    burn_in_steps: evaluations before this step are left out of the fits (default: the study's own,
    else 400; 0 for a table that is of no study). columns: role -> column of such a table. where,
    best_of_sweep: which of its rows and runs count (:func:`.load.load`). Raises StoreError where
    ``source`` holds no table of runs, and MissingPackageError without the packages of
    ``forcelaw[report]``; a fit that is refused becomes its reason on the page.
    """
    require(*NEEDED)
    from ..errors import printable
    from ..figures.matplotlib import save
    from ..files import whole
    from . import tables
    from .analysis import analyse
    from .html import render
    from .load import load
    from .sections import sections
    from .sections.exponents import grouped_reasons
    from .sections.problems import outlying_words, risen_words, timing_words, unlearned_words

    started = time.monotonic()

    def say(text: str) -> None:
        if time.monotonic() - started > 2:  # short work needs no log
            print(f"  {time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    loaded = load(source, columns, where, best_of_sweep)
    own = "report" if loaded.ours else f"{loaded.origin.stem}-report"
    folder = Path(out) if out is not None else loaded.path / own
    analysis = analyse(loaded, burn_in_steps, progress=say)
    made = sections(analysis)
    say("writing the page and the tables")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    with whole(page) as temporary:
        temporary.write_text(render(analysis, made), encoding="utf-8", errors="backslashreplace")
    tables.write_all(analysis, made, folder / "tables")
    for figure in (figure for section in made for figure in section.figures):
        say(f"drawing {figure.name}")
        save(figure, folder / "figures")
    notes = [f"{labels}: {reason}" for labels, reason in grouped_reasons(analysis)]
    if analysis.problems:
        notes.append(f"{counted(len(analysis.problems))} diverged or failed: see the page")
    notes += risen_words(analysis)
    notes += outlying_words(analysis)
    notes += unlearned_words(analysis)
    notes += timing_words(analysis)
    notes += loaded.notes
    return {
        "page": page,
        "figures": folder / "figures",
        "tables": folder / "tables",
        "notes": [printable(note) for note in notes],
        "table": printable(tables.terminal(analysis)),
        "analysis": analysis,
        "seconds": time.monotonic() - started,
    }
