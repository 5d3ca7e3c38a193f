"""Where a forecast finds its runs: finished ones from a study or a table, planned ones from
specifications or a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FitError, StoreError
from ..files import reading
from ..laws.decide.forecast import Planned
from ..laws.decide.repeats import repeats_smaller_set
from ..table.filter import where as filter_rows
from ..table.read import read
from ..table.roles import recognise
from ..table.runs import Runs


def runs_of(
    source: Path, columns: Mapping[str, str] | None = None, where: str | None = None
) -> Runs:
    """Every finished run of the grid, with all its evaluations. Left out are sweeps, runs under
    way, and runs that repeated a clearly smaller training set than others of their architecture
    did: those measure repeats, and would bend beta."""
    runs = Runs.from_frame(source, columns, where)
    keep = np.ones(len(runs), bool)
    for column, unwanted in (
        ("kind", ("sweep",)),
        ("status", ("unfinished", "running", "pending")),
    ):
        if column in runs.frame.columns:
            keep &= np.array(
                [str(value) not in unwanted for value in runs.frame[column].to_list()], bool
            )
    small = repeated(runs)
    keep &= ~np.isin(runs.run, [k for k, name in enumerate(runs.run_names) if name in small])
    if not keep.any():
        raise FitError(
            "no run of the grid is finished", where=str(source), remedy="train the small runs first"
        )
    if small:
        note = f"{len(small)} runs repeat a smaller training set than others have: left out"
        runs = replace(runs, notes=[*runs.notes, note])
    return runs.take(keep)


def repeated(runs: Runs) -> set[str]:
    """Names of runs that repeated a clearly smaller training set than others of their architecture
    and size had at that length."""
    if not {"n", "u", "d"} <= set(runs.values):
        return set()
    group = np.zeros(len(runs.run_names), int)
    group[runs.run] = runs.group
    small = repeats_smaller_set(runs.run, group, runs["n"], runs["d"], runs["u"])
    return {runs.run_names[k] for k in np.flatnonzero(small)}


def planned_runs(
    source: Path,
    plan: Path | None,
    runs: Runs,
    where: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Planned]:
    """The planned runs: of ``plan`` (a study file or a table), else those that a study directory
    knows, else of the table; the last two with the filter ``where``. ``columns`` are those of
    tables, of a plan as far as it has them."""
    if plan is not None and plan.suffix.lower() in (".yaml", ".yml"):
        return _of_study(plan)
    if plan is not None:
        there = set(read(plan).frame.columns)
        own = {role: name for role, name in (columns or {}).items() if name in there}
        return _of_table(plan, runs, columns=own)
    if (source / "runs").is_dir():
        remedy = "restore the spec.json that is damaged, or delete its run directory"
        with reading(source / "runs", StoreError, remedy=remedy):
            return _of_specs(source / "runs", where)
    small = repeated(Runs.from_frame(source, columns, where))
    return [p for p in _of_table(source, runs, where, columns) if p.run not in small]


def _of_specs(root: Path, where: str | None) -> list[Planned]:
    """From the specifications of a study directory: every run of its grid, trained or not."""
    from ..store.runs import runs as directories
    from ..table.directory import table

    frame = table(root)
    wanted = set(
        frame["run"].to_list()
        if where is None
        else frame.filter(filter_rows(where, frame))["run"].to_list()
    )
    specs = {run.id: run.spec() for run in directories(root) if run.id in wanted}
    grid = {run: spec for run, spec in specs.items() if spec["kind"] != "sweep"}
    small = _repeated(grid.values())
    out = [_planned(spec, run) for (run, spec), over in zip(grid.items(), small) if not over]
    if not out:
        raise FitError(
            "the grid of the study is not planned yet",
            where=str(root),
            remedy=(
                "finish its learning-rate sweep (`forcelaw run STUDY --hold-largest`), or give"
                " --plan"
            ),
        )
    return out


def _repeated(specs: Collection[dict[str, Any]]) -> np.ndarray:
    """The rule of :func:`repeated` for runs that are only planned, each evaluated on its way: a
    bool for each."""
    on_the_way = 0.5 ** np.arange(20)  # nearer than what counts as one length
    end = np.array([spec["steps"] * spec["batch_atoms"] for spec in specs], float)
    group = np.unique([spec["label"] for spec in specs], return_inverse=True)[1]
    seen = end[:, None] * on_the_way
    unique = np.minimum(seen, np.array([[spec["train_atoms"]] for spec in specs], float))
    run = np.repeat(np.arange(len(specs)), len(on_the_way))
    n = np.array([spec["n"] for spec in specs], float)[run]
    return repeats_smaller_set(run, group, n, seen.ravel(), unique.ravel())


def _planned(spec: dict[str, Any], run: str = "") -> Planned:
    from ..store.runs import planned_flops

    return Planned(
        spec["label"],
        float(spec["n"]),
        float(spec["steps"] * spec["batch_atoms"]),
        planned_flops(spec),
        str(spec["seed"]),
        run,
    )


def _of_study(path: Path) -> list[Planned]:
    """From a study file. Needs torch and the pack, because sizes and steps follow from them."""
    from ..study.config import load
    from ..study.plan import plan
    from ..study.record import find_pack
    from ..study.starts import summary_of

    study = load(path)
    data = summary_of(study, find_pack(study, path.parent), path.parent)
    # neither size nor length depends on the learning rate; the id does, so runs are matched by
    # size, length and seed
    planned = plan(study, data, {})
    everything = [*planned.runs, *planned.waiting]
    specs = [run.spec for run in everything if run.kind == "grid"]
    return [_planned(spec) for spec, over in zip(specs, _repeated(specs)) if not over]


def _of_table(
    path: Path,
    runs: Runs,
    where: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Planned]:
    """From a table with one or more rows a run; the largest D of each counts. Where it has no
    compute, that of the finished runs per parameter and datum is taken."""
    table = read(path)
    frame = table.frame if where is None else table.frame.filter(filter_rows(where, table.frame))
    taken = recognise(table.frame, columns).taken
    missing = [role for role in ("n", "d") if role not in taken]
    if missing:
        raise FitError(
            f"no column is recognised as {' and '.join(missing)}",
            where=f"{table.name}; columns are {', '.join(table.frame.columns[:40])}",
            remedy=f"name them: --columns {','.join(f'{role}=...' for role in missing)}; in a plan"
            " call them architecture, n, d, c, seed, run",
        )
    rows = frame.to_dicts()
    group = taken.get("group")
    out: dict[Any, Planned] = {}
    for number, row in enumerate(rows):
        if str(row.get("kind", "")) == "sweep":
            continue
        architecture = (
            str(row[group])
            if group and row[group] is not None
            else (runs.group_names[0] if runs.group_names else "")
        )
        n, d = row[taken["n"]], row[taken["d"]]
        if (
            row.get("steps")
            and row.get("batch_atoms")
            and str(row.get("status")) in ("unfinished", "stopped")
        ):
            d = row["steps"] * row["batch_atoms"]  # what it is to reach, not where it is
        if n is None or d is None:
            continue
        full = d == row[taken["d"]] and "c" in taken and row[taken["c"]]
        c = (
            float(row[taken["c"]])
            if full
            else float(n) * float(d) * _flops_per_parameter(runs, architecture)
        )
        run = str(row[taken["run"]]) if "run" in taken and row[taken["run"]] is not None else ""
        seed = str(row[taken["seed"]]) if "seed" in taken and row[taken["seed"]] is not None else ""
        key = run or number
        if key not in out or out[key].d < float(d):
            out[key] = Planned(architecture, float(n), float(d), c, seed, run)
    if not out:
        raise FitError("the plan names no run with N and D", where=table.name)
    return list(out.values())


def _flops_per_parameter(runs: Runs, architecture: str) -> float:
    """C / (N D) of an architecture, from its largest finished model."""
    if architecture not in runs.group_names or "c" not in runs:
        return 6.0
    mine = np.flatnonzero(runs.group == runs.group_names.index(architecture))
    largest = mine[runs["n"][mine] == runs["n"][mine].max()]
    return float(np.median(runs["c"][largest] / (runs["n"][largest] * runs["d"][largest])))
