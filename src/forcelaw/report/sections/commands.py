"""Command lines that a reader of the page can run, from the directory above the study; for a table
that no study wrote, from its own."""

from __future__ import annotations

import shlex

from ...figures.text import pretty
from ...store.runs import COUNTED
from ...table.values import where_option
from ..analysis import SWEEP, Analysis


def budget_command(analysis: Analysis, flops: float) -> str:
    """`forcelaw budget` for the runs that the page is about."""
    return (
        f"forcelaw budget {table_name(analysis)} --flops {pretty(flops, 2)} {selection(analysis)}"
    )


def design_command(analysis: Analysis, label: str) -> str:
    """`forcelaw design` for one architecture of the page."""
    one = analysis.source.ours or "group" in analysis.source.taken
    group = f" --group {shlex.quote(label)}" if one else ""
    head = f"forcelaw design {table_name(analysis)}{group} --quantity gamma --add 4"
    return f"{head} {selection(analysis)}"


def table_name(analysis: Analysis) -> str:
    """The table as an argument; never a path of this machine."""
    source = analysis.source
    if not source.ours:
        return shlex.quote(source.origin.name)
    folder = source.path.resolve().name
    return shlex.quote(folder if source.origin.name == "runs" else f"{folder}/{source.origin.name}")


def selection(analysis: Analysis) -> str:
    """Options that give a command the runs that the page is about, as far as a filter can. Runs of
    others that failed are left out by every command, whatever they call their status."""
    source = analysis.source
    frame = source.frame
    parts = []
    if source.ours:
        parts += [f"kind != '{SWEEP}'"] if SWEEP in frame["kind"].to_list() else []
        counted = [f"'{status}'" for status in COUNTED if status in frame["status"].to_list()]
        if frame["status"].n_unique() > len(counted):
            several = f"status in ({', '.join(counted)})"
            parts.append(several if len(counted) > 1 else f"status == {''.join(counted)}")
    if source.where:
        parts = [f"({source.where})", *parts] if parts else [source.where]
    steps = analysis.burn_in_steps if len(frame["step"].drop_nulls()) else 0
    where = where_option(" and ".join(parts)) if parts else ""
    return " ".join(filter(None, [source.options, where, f"--burn-in-steps {steps}"]))
