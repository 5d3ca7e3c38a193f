"""`forcelaw forecast`: predict the largest runs before they are trained, and check the prediction
afterwards."""

from __future__ import annotations

import argparse
import csv
import datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from ..errors import FitError
from ..files import whole, write_json
from ..settings import Settings
from . import CANNOT_CARRY
from .laws_options import FitOptions, TableOptions
from .options import JSON, add_options

# options of the fit, recorded where they are not the defaults
FIT = ("law", "tie", "floor", "objective", "delta", "cluster", "weights")
DEFAULT_LAW = "auto"


class Forecast(Settings):
    """Options of ``forcelaw forecast`` only."""

    source: Path = Field(title="STUDY_OR_TABLE")
    """output directory of `forcelaw run`, a directory with runs.parquet or runs.csv, or a table of
    runs"""
    plan: Path | None = Field(None, title="FILE")
    """the planned runs: a study file (needs torch), or a table with architecture, n, d (and c,
    seed, run). Without it: all runs that a study directory knows, or the runs of the table"""
    fraction: float = Field(0.1, title="F")
    """what reached at most F times the compute of the smallest target is fitted"""
    top: float = Field(0.5, title="SHARE")
    """targets are planned runs with at least this share of the largest compute"""
    whole_runs: bool = False
    """fit only runs that are within that compute from start to end, and no early evaluations of
    larger ones (those of targets are never fitted)"""
    cost: str | None = Field(None, title="COST")
    """compute by N and D, not by a column: 6nd, or a factor k of N D"""
    anyway: bool = False
    """give the number even where back-tests and diagnosis say no"""
    check: Path | None = Field(None, title="FORECAST")
    """compare this forecast with what was reached instead"""
    json_out: Path | None = Field(None, title="OUT")
    """write the forecast (with --check: the verdict) as JSON"""
    csv: Path | None = Field(None, title="OUT", description="write one row per planned run")


def add_forecast(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fit each architecture's law to what finished runs reached at a tenth of the compute of its"
        " largest planned runs or less, and predict those with the interval of a new run. Forms of"
        " law are weighed by back-tests on smaller budgets still, and the interval is as wide as"
        " their errors say (--law NAME: one form, back-tested as well). Where back-tests and"
        " `forcelaw diagnose` both say no, so does this. Commit the file, train, then compare with"
        " --check. Exit code 3: no architecture could be forecast."
    )
    parser.epilog = """\
examples:
  forcelaw run study.yaml --hold-largest
  forcelaw forecast out/study --json forecast.json
  forcelaw run study.yaml
  forcelaw forecast --check forecast.json out/study
"""
    add_options(parser, Forecast, positional=("source",), flags=JSON)
    table = parser.add_argument_group("what is in the table")
    add_options(table, TableOptions, skip=("table",))
    add_options(parser.add_argument_group("how it is fitted"), FitOptions, only=(*FIT, "level"))
    parser.set_defaults(handler=_forecast, law=DEFAULT_LAW)


def _forecast(args: argparse.Namespace) -> int:
    from ..laws.decide import forecast as forecasts
    from ..table.doubts import of_a_study
    from .forecast_runs import planned_runs, runs_of
    from .laws import burn_in_of, cost_of, fit_settings, law_of, pairs, say

    columns = pairs(args.columns, "--columns")
    everything = runs_of(args.source, columns, args.where)
    if args.check is not None:
        from ..laws.decide.forecast_check import check, check_text

        content = check(forecasts.read(args.check), everything)
        print(check_text(content))
        _write(args, content, [row for a in content["architectures"] for row in a["runs"]])
        return 0
    planned = planned_runs(args.source, args.plan, everything, args.where, columns)
    steps = burn_in_of(args, everything, args.source)
    runs = everything.best_of_sweep() if args.best_of_sweep else everything
    if args.best_of_sweep and args.plan is None:
        planned = [run for run in planned if run.run in runs.run_names]
    if steps or args.group or args.burn_in_fraction:
        runs = runs.select(args.group, burn_in_steps=steps, burn_in_fraction=args.burn_in_fraction)
        planned = [run for run in planned if args.group in (None, run.architecture)]
    if runs.frame is None or not of_a_study(
        runs.frame.columns
    ):  # of others: what is taken for what
        say(args, runs.describe())
    settings = fit_settings(args)
    found = forecasts.forecast(
        runs,
        planned,
        fraction=args.fraction,
        top=args.top,
        checkpoints=not args.whole_runs,
        law=law_of(args),
        cost=cost_of(args),
        diagnosis=True,
        anyway=args.anyway,
        **settings,
    )
    options = {
        "fraction": args.fraction,
        "top": args.top,
        "checkpoints": not args.whole_runs,
        "burn_in_steps": steps,
        "where": args.where,
        "level": args.level,
    }
    own = {"group": args.group, "burn_in_fraction": args.burn_in_fraction}
    own |= {name: getattr(args, name) for name in FIT} | {"floor": settings["floor"]}
    fields = {**TableOptions.model_fields, **FitOptions.model_fields}
    defaults = {name: fields[name].default for name in own} | {"law": DEFAULT_LAW}
    changed = {name: value for name, value in own.items() if value != defaults[name]}
    content = forecasts.to_json(
        found,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=args.source.name,
        options={**options, **changed},
    )
    print(forecasts.text(content))
    _write(args, content, [row for a in content["architectures"] for row in a["predictions"]])
    return 0 if content["ok"] else CANNOT_CARRY


def _write(args: argparse.Namespace, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if args.json_out:
        args.json_out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json_out, content)
    if args.csv:
        if not rows:
            raise FitError(
                "there is no row to write", where=str(args.csv), remedy="see the reasons above"
            )
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with whole(args.csv) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
