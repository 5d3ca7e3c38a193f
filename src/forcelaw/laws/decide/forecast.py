"""Forecast: what the largest runs will reach, said before they are trained, from runs at a tenth of
their compute or less, with the verdict of back-tests on smaller budgets still.

For every architecture the targets are the planned runs with at least ``top`` of its largest
compute. The law is fitted to evaluations of finished runs at no more than ``fraction`` of the
compute of the smallest target, so each target is extrapolated to by 1/fraction or more; a target
never enters, not even by its early evaluations. That early evaluations of larger runs do is what
schedule-free training allows: any step is a fair end. They matter: runs that are small as a whole
are only small models, and 20-fold extrapolation in N instead of 2-fold made the median error 4%
instead of 1.3% (8 sizes, 3 seeds, simulated). Intervals are those of a new run, and grow with the
distance as back-tests did (:mod:`.extrapolation`). Where these err by twice the fall of the loss,
and ``diagnose`` finds no exponent either, the forecast is refused. The forecast names
the runs that it rests on and carries a hash of their losses, so a reader can check it against the
table that came later (:mod:`.forecast_check`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...errors import FitError
from ...table.runs import Runs
from ..diagnose.diagnose import diagnose
from ..fit.problem import collinear
from ..fit.result import AT_BOUND, REFUSED, Result, clean
from ..inputs import as_runs
from .allocation import with_compute
from .extrapolation import BackTest, Candidate, extrapolate

FORMAT = "forcelaw-forecast"
REMEDY = "give the file of `forcelaw forecast --json`"
AUTO = "auto"
CANNOT_SAY = "the data cannot say"
SAME = 0.01  # relative difference of N or D below which two runs are of one size and length
ON_LINE = 0.1  # ln D off the line that the runs lie on, below which a target lies on it


@dataclass(frozen=True)
class Planned:
    """A run that is to be trained, or was: ``run`` is its id where that is known already. c in
    FLOPs."""

    architecture: str
    n: float
    d: float
    c: float
    seed: str = ""
    run: str = ""


@dataclass
class Prediction(Result):
    """Loss of one planned run. low, high: where a new run falls; law_low, law_high: where the law
    lies. known: whether its loss was in the table already (then the forecast is one in
    hindsight)."""

    architecture: str
    run: str
    n: float
    d: float
    c: float
    seed: str
    loss: float
    low: float
    high: float
    law_low: float
    law_high: float
    known: bool


@dataclass
class Forecast(Result):
    """Forecast of one architecture. status: as of a fit; usable where it is ok or at_bound, and
    then there are predictions."""

    architecture: str
    status: str
    message: str
    law: str = ""
    floor: str = ""
    limit: float = 0.0
    targets: list[Planned] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    rows: int = 0
    hash: str = ""
    # how far beyond the fitted runs: factors in c, n and d
    beyond: dict[str, float] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    back_tests: list[BackTest] = field(default_factory=list)
    # the one variable, where N or D is the same everywhere, or D goes with N
    x: str | None = None
    calibrated: bool = False
    # verdicts in words; foretells: whether back-tests err by less than twice the fall of the loss
    back_test: str = ""
    foretells: bool | None = None
    diagnosis: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.predictions)


def forecast(
    runs: Any,
    planned: list[Planned] | None = None,
    *,
    fraction: float = 0.1,
    top: float = 0.5,
    checkpoints: bool = True,
    level: float = 0.95,
    law: Any = AUTO,
    floor: Any = None,
    calibrate: bool = True,
    cost: Any = None,
    diagnosis: bool = False,
    anyway: bool = False,
    **settings: Any,
) -> list[Forecast]:
    """Forecasts of every architecture that has planned runs.

    runs: any table (see :func:`forcelaw.fit`), with compute. planned: None: the runs of the table.
    fraction: of the compute of the smallest target, up to which evaluations are fitted. top:
    planned runs with at least this share of the largest compute are targets. checkpoints: whether
    evaluations up to the limit of runs that went beyond it count; otherwise runs that are within it
    as a whole. law, floor, calibrate: of :func:`.extrapolation.extrapolate`. cost: "6nd" or a
    factor, for a table without compute. diagnosis: whether ``diagnose`` is asked in any case;
    otherwise it is where back-tests say no. anyway: the number even where both say no. settings:
    those of :func:`forcelaw.fit`.

    An architecture that cannot be forecast has the reason in ``message``. FitError where the table
    has no compute.
    """
    runs = as_runs(runs)
    for name, value in (("fraction", fraction), ("top", top)):
        if not 0 < value <= 1:
            raise FitError(
                f"a {name} of {value:g} is not a share of a run's compute",
                where=name,
                remedy="give e.g. 0.1",
            )
    runs = with_compute(runs, cost)
    planned = planned_of(runs) if planned is None else planned
    settings = {"law": law, "floor": floor, "calibrate": calibrate, "level": level, **settings}
    out = []
    for architecture in sorted({p.architecture for p in planned}):
        mine = [p for p in planned if p.architecture == architecture]
        most = max(p.c for p in mine)
        targets = [p for p in mine if p.c >= top * most * (1 - 1e-9)]
        targets.sort(key=lambda p: (p.n, p.d, p.seed))
        limit = fraction * min(p.c for p in targets)
        result = Forecast(architecture, "refused", "", limit=limit, targets=targets)
        here = of_architecture(runs, architecture)
        if here is None:
            result.message = "no finished run of it is in the table"
        else:
            part = _fit_and_predict(result, here, fraction, checkpoints, settings)
            if result.ok and part is not None and (diagnosis or result.foretells is False):
                result.diagnosis, sound = second_opinion(part, settings, result.x)
                if result.foretells is False and not sound and not anyway:
                    result.status, result.predictions = REFUSED, []
                    result.message = f"{CANNOT_SAY}: {result.back_test}; {result.diagnosis}"
        out.append(result)
    return out


def planned_of(runs: Runs) -> list[Planned]:
    """The runs of a table, as far as they were trained, as planned runs."""
    seeds = [""] * len(runs) if runs.seed is None else [str(seed) for seed in runs.seed]
    out = []
    for k, name in enumerate(runs.run_names):
        end = last_row(runs, k)
        n, d, c = (float(runs[role][end]) for role in ("n", "d", "c"))
        out.append(Planned(runs.group_names[runs.group[end]], n, d, c, seeds[end], name))
    return out


def of_architecture(runs: Runs, architecture: str) -> Runs | None:
    """The runs of one architecture; None where there are none."""
    if architecture not in runs.group_names:
        return None
    return runs.take(runs.group == runs.group_names.index(architecture))


def _fit_and_predict(
    result: Forecast, here: Runs, fraction: float, checkpoints: bool, settings: dict[str, Any]
) -> Runs | None:
    """What was fitted, None where nothing can be."""
    targets, limit = result.targets, result.limit
    count = len(here.run_names)
    planned = np.array([[is_planned(here, k, p) for p in targets] for k in range(count)], bool)
    reached = here["c"]
    if not checkpoints:
        whole = np.zeros(count)
        np.maximum.at(whole, here.run, here["c"])
        reached = whole[here.run]
    part = here.take((reached <= limit * (1 + 1e-9)) & ~np.any(planned, axis=1)[here.run])
    if not len(part):
        result.message = (
            f"no finished run has at most {limit:.3g} FLOPs, {fraction:g} of the smallest target"
        )
        return None
    result.x = _one_variable(part, targets)
    found = extrapolate(part, part["c"], x=result.x, **settings)
    result.runs, result.rows, result.hash = sorted(part.run_names), len(part), digest(part)
    result.tried, result.status, result.message = found.tried, found.status, found.message
    if not found.ok:
        return None
    law = found.best
    if other := [role for role in law.law.roles if role not in ("c", "n", "d")]:
        result.status, result.message = (
            REFUSED,
            (
                f"planned runs have N, D and compute, and the law {law.law.name} needs"
                f" {' and '.join(other)} too: forecast with --law auto or surface"
            ),
        )
        return None
    result.law = AUTO if settings["law"] == AUTO else law.law.name
    result.calibrated = settings["calibrate"]
    result.floor = "free" if law.law.free_floor else "zero"
    if law.status == AT_BOUND:
        result.floor = "free, at its bound of zero"
    result.parameters = {name: one.as_json() for name, one in law.estimates.items()}
    result.candidates, result.back_tests = found.candidates, found.back_tests
    result.back_test, result.foretells = found.verdict(), found.foretells
    at = {role: np.array([getattr(p, role) for p in targets]) for role in ("c", "n", "d")}
    result.beyond = {role: float(at[role].max() / part[role].max()) for role in at}
    roles: dict[str, Any] = {role: at[role] for role in law.law.roles}
    new, mean = (found.interval(kind, budget=at["c"], **roles) for kind in ("new run", "mean"))
    for i, p in enumerate(targets):
        result.predictions.append(
            Prediction(
                **asdict(p),
                loss=float(new.value[i]),
                low=float(new.low[i]),
                high=float(new.high[i]),
                law_low=float(mean.low[i]),
                law_high=float(mean.high[i]),
                known=bool(planned[:, i].any()),
            )
        )
    return part


def second_opinion(part: Runs, settings: dict[str, Any], x: str | None = None) -> tuple[str, bool]:
    """What ``diagnose`` says of the runs that were fitted, in one line, and whether it finds an
    exponent. x: the variable of laws in one."""
    law = settings.get("law", AUTO)
    names = ("level", "objective", "delta", "cluster", "weights", "floor")
    own = {name: settings[name] for name in names if name in settings}
    try:
        if law == AUTO:
            law = "surface" if x is None else "power_floor"
        found = diagnose(part, law, x=x or "c", **own)
    except FitError as error:
        return f"diagnose: {error.what}", False
    reasons = ", ".join(check.name for check in found.failed)
    return f"diagnose: {found.verdict}" + (f" ({reasons})" if reasons else ""), not found.failed


def _one_variable(part: Runs, targets: list[Planned]) -> str | None:
    """n or d, where the other is the same in all runs and targets; n where they lie on one line,
    and the targets on it too; else None."""
    for x, other in (("d", "n"), ("n", "d")):
        values = [*part[other], *(getattr(p, other) for p in targets)]
        if np.ptp(np.log(values)) < SAME:
            return x
    if collinear(part, "n", "d") <= 0:
        return None
    line = np.polyfit(np.log(part["n"]), np.log(part["d"]), 1)
    off = [np.log(p.d) - np.polyval(line, np.log(p.n)) for p in targets]
    return "n" if float(np.abs(off).max(initial=0.0)) < ON_LINE else None


def last_row(runs: Runs, k: int) -> int:
    """The row of the last evaluation of run ``k``."""
    rows = np.flatnonzero(runs.run == k)
    return int(rows[np.argmax(runs["d"][rows])])


def is_planned(runs: Runs, k: int, p: Planned) -> bool:
    """Whether run ``k`` of the table is the planned run: by id, else by size, length and seed."""
    if p.run:
        return runs.run_names[k] == p.run
    end = last_row(runs, k)
    seed = runs.seed[end] if runs.seed is not None else ""
    return bool(
        abs(runs["n"][end] / p.n - 1) < SAME
        and abs(runs["d"][end] / p.d - 1) < SAME
        and (not p.seed or not seed or str(seed) == p.seed)
    )


def digest(runs: Runs) -> str:
    """Hash of the points that a fit rests on: run, N, D, compute and loss of every row, in any
    order."""
    columns = [runs[role] for role in ("n", "d", "c", "loss")]
    lines = sorted(
        ",".join([runs.run_names[runs.run[i]], *(repr(values[i]) for values in columns)])
        for i in range(len(runs))
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# -- the file ------------------------------------------------------------------------------------


def to_json(
    forecasts: list[Forecast], *, date: str, source: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The content of a forecast file, in plain JSON types."""
    return clean(
        {
            "format": FORMAT,
            "version": __version__,
            "date": date,
            "source": source,
            "options": options,
            "ok": any(f.ok for f in forecasts),
            "architectures": forecasts,
        }
    )


def read(path: Path) -> dict[str, Any]:
    """A forecast file; FitError for anything else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise FitError("there is no such forecast", where=str(path), remedy=REMEDY) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FitError(f"the file is not JSON: {error}", where=str(path), remedy=REMEDY) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FitError("the file is not a forecast", where=str(path), remedy=REMEDY)
    return content


def text(content: dict[str, Any]) -> str:
    """A forecast for a terminal."""
    level = content["options"].get("level", 0.95)
    lines = [
        f"{'architecture':<24}{'N':>10}{'D':>10}{'FLOPs':>10}{'loss':>9} "
        f" {f'{level:.0%} of new runs':>20}"
    ]
    for f in content["architectures"]:
        if not f["predictions"]:
            lines.append(f"{f['architecture']:<24}{f['status'].replace('_', ' ')}: {f['message']}")
            continue
        seen = set()
        for p in f["predictions"]:
            size = (p["n"], round(p["d"], -3))
            if size in seen:  # another seed of it
                continue
            seen.add(size)
            lines.append(
                f"{f['architecture']:<24}{p['n']:>10,.0f}{p['d']:>10.3g}{p['c']:>10.2e}"
                f"{p['loss']:>9.4f}  {span(p)}" + ("  already trained" if p["known"] else "")
            )
        beyond = ", ".join(
            f"{f['beyond'][role]:.{digits}f}x in {role.upper()}"
            for role, digits in (("c", 0), ("n", 1), ("d", 1))
        )
        floor = f", floor {f['floor']}" if f["law"] != AUTO else ""
        lines.append(
            f"  from {len(f['runs'])} runs up to {f['limit']:.2e} FLOPs ({f['rows']} points, hash"
            f" {f['hash']}); beyond them by {beyond}; {_forms(f) or f['law'] + floor}"
            + (f": {f['message']}" if f["message"] else "")
        )
        lines += [f"  {f[name]}" for name in ("back_test", "diagnosis") if f.get(name)]
    return "\n".join(lines)


def _forms(f: dict[str, Any]) -> str:
    """The forms by weight, where several were weighed."""
    share: dict[str, float] = {}
    for one in f.get("candidates") or []:
        share[one["name"]] = share.get(one["name"], 0.0) + one["weight"]
    ordered = sorted(share.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight:.0%}" for name, weight in ordered) if len(share) > 1 else ""


def span(p: dict[str, Any]) -> str:
    return f"[{p['low']:.4f}, {p['high']:.4f}]"
