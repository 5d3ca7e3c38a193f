"""Forecast: what the largest runs will reach, said before they are trained, from runs at a tenth of
their compute or less.

For every architecture the targets are the planned runs with at least ``top`` of its largest
compute. The law is fitted to evaluations of finished runs at no more than ``fraction`` of the
compute of the smallest target, so each target is extrapolated to by 1/fraction or more; a target
never enters, not even by its early evaluations. That early evaluations of larger runs do is what
schedule-free training allows: any step is a fair end. They matter: runs that are small as a whole
are small models alone, and 20-fold extrapolation in N instead of 2-fold made the median error 4%
instead of 1.3% (8 sizes, 3 seeds, simulated). Intervals are those of a new run. The forecast names
the runs that it rests on and carries a hash of their losses, so a reader can check it against the
table that came later (:mod:`forcelaw.laws.decide.forecast_check`).
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
from ..fit.fit import fit
from ..fit.result import AT_BOUND, FitResult, clean

FORMAT = "forcelaw-forecast"
REMEDY = "give the file of `forcelaw forecast --json`"
# the free floor first; where a table is too short for it, without a floor, and said
LAWS: tuple[tuple[str, str | None], ...] = (("surface", None), ("surface", "zero"))
SAME = 0.01  # relative difference of N or D below which two runs are of one size and length


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
class Prediction:
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
class Forecast:
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
    beyond: dict[str, float] = field(
        default_factory=dict
    )  # how far beyond the fitted runs: factors in c, n and d
    tried: list[dict[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.predictions)


def forecast(
    runs: Runs,
    planned: list[Planned],
    *,
    fraction: float = 0.1,
    top: float = 0.5,
    checkpoints: bool = True,
    level: float = 0.95,
    **settings: Any,
) -> list[Forecast]:
    """Forecasts of every architecture that has planned runs.

    checkpoints: whether evaluations up to the limit of runs that went beyond it count; otherwise
    runs that are within it as a whole. settings: those of :func:`forcelaw.laws.fit.fit.fit`.
    """
    for name, value in (("fraction", fraction), ("top", top)):
        if not 0 < value <= 1:
            raise FitError(
                f"a {name} of {value:g} is no share of a run's compute",
                where=name,
                remedy="give e.g. 0.1",
            )
    if "c" not in runs:
        raise FitError(
            "there is no compute in the table, so nothing says which runs are the largest",
            where=runs.source,
            remedy="name the column: --columns c=...",
        )
    out = []
    for architecture in sorted({p.architecture for p in planned}):
        mine = [p for p in planned if p.architecture == architecture]
        out.append(
            _forecast(
                runs, architecture, mine, fraction, top, checkpoints, {"level": level, **settings}
            )
        )
    return out


def _forecast(
    runs: Runs,
    architecture: str,
    planned: list[Planned],
    fraction: float,
    top: float,
    checkpoints: bool,
    settings: dict[str, Any],
) -> Forecast:
    most = max(p.c for p in planned)
    targets = sorted(
        (p for p in planned if p.c >= top * most * (1 - 1e-9)), key=lambda p: (p.n, p.d, p.seed)
    )
    limit = fraction * min(p.c for p in targets)
    result = Forecast(architecture, "refused", "", limit=limit, targets=targets)
    here = (
        runs.take(runs.group == runs.group_names.index(architecture))
        if architecture in runs.group_names
        else None
    )
    if here is None:
        result.message = "no finished run of it is in the table"
        return result
    is_target = np.array(
        [any(is_planned(here, k, p) for p in targets) for k in range(len(here.run_names))], bool
    )
    whole = np.zeros(len(here.run_names))
    np.maximum.at(whole, here.run, here["c"])
    inside = (
        here["c"] <= limit * (1 + 1e-9) if checkpoints else whole[here.run] <= limit * (1 + 1e-9)
    )
    part = here.take(inside & ~is_target[here.run])
    if not len(part):
        result.message = (
            f"no finished run has at most {limit:.3g} FLOPs, {fraction:g} of the smallest target"
        )
        return result
    law = _first_usable(part, result, settings)
    result.runs, result.rows, result.hash = sorted(part.run_names), len(part), digest(part)
    if law is None:
        return result
    result.status, result.law, result.floor = (
        law.status,
        law.law.name,
        "zero" if not law.law.free_floor else "free",
    )
    if law.status == AT_BOUND:
        result.floor = "free, at its bound of zero"
    result.parameters = {
        name: asdict(value) for name, value in {**law.parameters, **law.derived}.items()
    }
    result.beyond = {
        role: float(max(getattr(p, role) for p in targets) / part[role].max())
        for role in ("c", "n", "d")
    }
    roles = {role: np.array([getattr(p, role) for p in targets]) for role in law.law.roles}
    new, mean = law.interval("new run", **roles), law.interval("mean", **roles)
    for i, p in enumerate(targets):
        known = any(is_planned(here, k, p) for k in range(len(here.run_names)))
        result.predictions.append(
            Prediction(
                architecture,
                p.run,
                p.n,
                p.d,
                p.c,
                p.seed,
                float(new.value[i]),
                float(new.low[i]),
                float(new.high[i]),
                float(mean.low[i]),
                float(mean.high[i]),
                known,
            )
        )
    return result


def _first_usable(part: Runs, result: Forecast, settings: dict[str, Any]) -> FitResult | None:
    for name, floor in LAWS:
        law = fit(
            part,
            name,
            **{"interval": "jackknife", **settings, **({"floor": floor} if floor else {})},
        )
        result.tried.append(
            {"law": name, "floor": floor or "free", "status": law.status, "message": law.message}
        )
        if law.ok and law.replicates is not None:
            result.message = law.message
            return law
        if not result.message:  # the reason of the best law counts
            result.status, result.message = law.status, law.message
    return None


def is_planned(runs: Runs, k: int, p: Planned) -> bool:
    """Whether run ``k`` of the table is the planned run: by id, else by size, length and seed."""
    if p.run:
        return runs.run_names[k] == p.run
    rows = np.flatnonzero(runs.run == k)
    end = rows[np.argmax(runs["d"][rows])]
    seed = runs.seed[end] if runs.seed is not None else ""
    return bool(
        abs(runs["n"][end] / p.n - 1) < SAME
        and abs(runs["d"][end] / p.d - 1) < SAME
        and (not p.seed or not seed or str(seed) == p.seed)
    )


def digest(runs: Runs) -> str:
    """Hash of the points that a fit rests on: run, N, D, compute and loss of every row, in any
    order."""
    lines = sorted(
        f"{runs.run_names[runs.run[i]]},{runs['n'][i]!r},{runs['d'][i]!r},{runs['c'][i]!r},{runs['loss'][i]!r}"
        for i in range(len(runs))
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# -- the file ---------------------------------------------------------------------------------------------------------


def to_dict(
    forecasts: list[Forecast], *, date: str, source: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The forecast as plain JSON types."""
    return clean(
        {
            "format": FORMAT,
            "version": __version__,
            "date": date,
            "source": source,
            "options": options,
            "ok": any(f.ok for f in forecasts),
            "architectures": [asdict(f) for f in forecasts],
        }
    )


def read(path: Path) -> dict[str, Any]:
    """A forecast file; FitError for anything else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise FitError("there is no such forecast", where=str(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FitError(f"this is not JSON: {error}", where=str(path), remedy=REMEDY) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FitError("this is no forecast", where=str(path), remedy=REMEDY)
    return content


def words(content: dict[str, Any]) -> str:
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
            if (p["n"], round(p["d"], -3)) in seen:
                continue
            seen.add((p["n"], round(p["d"], -3)))
            lines.append(
                f"{f['architecture']:<24}{p['n']:>10,.0f}{p['d']:>10.3g}{p['c']:>10.2e}{p['loss']:>9.4f}"
                f"  [{p['low']:.4f}, {p['high']:.4f}]" + ("  already trained" if p["known"] else "")
            )
        said = f"{f['law']}, floor {f['floor']}" + (f": {f['message']}" if f["message"] else "")
        lines.append(
            f"  from {len(f['runs'])} runs up to {f['limit']:.2e} FLOPs ({f['rows']} points, hash"
            f" {f['hash']}); beyond them by {f['beyond']['c']:.0f}x in C, {f['beyond']['n']:.1f}x"
            f" in N, {f['beyond']['d']:.1f}x in D; {said}"
        )
    return "\n".join(lines)
