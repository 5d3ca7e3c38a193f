"""What every public function takes: a table of runs in any form."""

from __future__ import annotations

from typing import Any

from ..errors import FitError
from ..table.runs import Runs


def as_runs(table: Any) -> Runs:
    """:class:`Runs` of any table: Runs, a path (CSV, Parquet, JSON lines, a directory of runs), a
    polars or pandas DataFrame, or a dict of columns. FitError for what cannot be read."""
    return table if isinstance(table, Runs) else Runs.from_frame(table)


def one_architecture(table: Any, where: str, what: str) -> Runs:
    """The runs of a table of one architecture; FitError where it holds several. what: of what is
    made, for the message, e.g. "a frontier"."""
    runs = as_runs(table)
    if len(runs.group_names) > 1:
        raise FitError(
            f"{what} is of one architecture; the table has {', '.join(runs.group_names)}",
            where=where,
            remedy="select one: runs.select(group=...), or --group NAME",
        )
    return runs
