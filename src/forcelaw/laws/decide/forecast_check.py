"""A forecast compared with what came of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.result import clean
from ..forms import make
from ..inputs import as_runs
from .extrapolation import Extrapolation, extrapolate
from .forecast import AUTO, SAME, Planned, digest, is_planned, last_row, of_architecture, span

# of a prediction, in its check
SHOWN = ("architecture", "run", "n", "d", "c", "seed", "loss", "low", "high", "known")
# options of a forecast that its law was fitted with
FITTED = ("level", "objective", "delta", "cluster", "weights")


def check(content: dict[str, Any], runs: Any) -> dict[str, Any]:
    """The forecast ``content`` compared with the losses in ``runs`` (any table), in plain types.

    errors are forecast / truth - 1 of the loss at the end of a run; one that is not finished is
    listed without. unchanged: whether the runs that the forecast rests on are still what they were,
    None where some are not there. early: a run that was stopped, compared with what the same law
    says of the D that it reached; the law is fitted again to the same points, so only where they
    are unchanged.
    """
    runs = as_runs(runs)
    options = content["options"]
    level = options.get("level", 0.95)
    found = [
        _check(f, of_architecture(runs, f["architecture"]), options)
        for f in content["architectures"]
    ]
    rows = [row for one in found for row in one["runs"]]
    done = [row for row in rows if row["error"] is not None]
    early = [row["early"] for row in rows if row["early"] is not None]
    inside, count = sum(row["inside"] for row in done), len(done)
    return clean(
        {
            "forecast_date": content["date"],
            "level": level,
            "architectures": found,
            "checked": count,
            "awaited": len(rows) - count,
            "in_hindsight": sum(row["known"] for row in done),
            "median_error": _median_error(done),
            "largest_error": max(abs(row["error"]) for row in done) if done else None,
            "early": {
                "checked": len(early),
                "inside": sum(one["inside"] for one in early),
                "median_error": _median_error(early),
            },
            "inside": inside,
            "coverage": inside / count if count else None,
            # chance that so few or fewer are inside if the intervals hold and runs are independent;
            # runs of one architecture share the error of its law, so a small value is a warning and
            # not a test
            "chance": float(stats.binom.cdf(inside, count, level)) if count else None,
        }
    )


def _median_error(rows: list[dict[str, Any]]) -> float | None:
    return float(np.median([abs(row["error"]) for row in rows])) if rows else None


def _check(f: dict[str, Any], part: Runs | None, options: dict[str, Any]) -> dict[str, Any]:
    """One architecture: a row for each run that was predicted."""
    used = _used(f, part, options)
    unchanged = None if used is None else digest(used) == f["hash"]
    law: Extrapolation | None = None
    rows = []
    for p in f["predictions"]:
        last = _last(part, p) if part is not None else None
        row = {name: p[name] for name in SHOWN}
        row |= {"true": None, "error": None, "inside": None, "early": None}
        if last is not None and last["d"] >= p["d"] * (1 - SAME):
            row |= _against(p, last["loss"])
        elif last is not None and used is not None and unchanged:
            law = law or _again(used, f, options)
            row["early"] = _early(law, p, last, f["limit"])
        rows.append(row)
    done = [row for row in rows if row["error"] is not None]
    return {
        "architecture": f["architecture"],
        "status": f["status"],
        "message": f["message"],
        "runs": rows,
        "unchanged": unchanged,
        "median_error": _median_error(done),
        "inside": sum(row["inside"] for row in done),
        "checked": len(done),
    }


def _against(p: dict[str, Any], truth: float) -> dict[str, Any]:
    """The truth, the error of the prediction ``p``, and whether its interval holds the truth."""
    error = p["loss"] / truth - 1.0
    return {"true": truth, "error": error, "inside": p["low"] <= truth <= p["high"]}


def _last(part: Runs, p: dict[str, Any]) -> dict[str, float] | None:
    """D, compute and loss of the last evaluation of the run that was predicted, or None."""
    wanted = Planned(p["architecture"], p["n"], p["d"], p["c"], p["seed"], p["run"])
    for k in range(len(part.run_names)):
        if is_planned(part, k, wanted):
            end = last_row(part, k)
            return {role: float(part[role][end]) for role in ("d", "c", "loss")}
    return None


def _again(used: Runs, f: dict[str, Any], options: dict[str, Any]) -> Extrapolation:
    """The law of a forecast, from the points that it was fitted to."""
    floor = options.get("floor") or ("zero" if f["floor"] == "zero" else None)
    law: Any = options.get("law", f["law"])
    if law == AUTO:
        floor = options.get("floor")
    elif options.get("tie"):
        law = make(law, floor, tie=options["tie"])
    own = {name: options[name] for name in FITTED if name in options}
    return extrapolate(
        used, used["c"], law, floor=floor, x=f.get("x"), calibrate=f.get("calibrated", False), **own
    )


def _early(
    law: Extrapolation, p: dict[str, Any], last: dict[str, float], limit: float
) -> dict[str, Any]:
    """What ``law`` says of a run at the D that it reached, and its loss there. beyond: its compute
    over the limit of the fit."""
    at = {"n": p["n"], "d": last["d"], "c": last["c"]}
    band = law.interval("new run", budget=last["c"], **at)
    says = {"loss": float(band.value[0]), "low": float(band.low[0]), "high": float(band.high[0])}
    says |= {"d": last["d"], "c": last["c"], "beyond": last["c"] / limit}
    return says | _against(says, last["loss"])


def _used(f: dict[str, Any], part: Runs | None, options: dict[str, Any]) -> Runs | None:
    """The points that a forecast was fitted to, as they are now; None where some runs are not
    there."""
    if part is None:
        return None
    names = ("burn_in_steps", "burn_in_fraction")
    part = part.select(**{name: options[name] for name in names if options.get(name)})
    if not f["runs"] or not set(f["runs"]) <= set(part.run_names):
        return None
    used = np.isin(part.run, [k for k, name in enumerate(part.run_names) if name in f["runs"]])
    if options.get("checkpoints", True):
        used &= part["c"] <= f["limit"] * (1 + 1e-9)
    return part.take(used)


def check_text(content: dict[str, Any]) -> str:
    """A checked forecast for a terminal."""
    lines = [
        f"{'architecture':<24}{'N':>10}{'D':>10}{'forecast':>10} "
        f" {'interval of new runs':>20}{'truth':>9}{'error':>8}"
    ]
    for a in content["architectures"]:
        if not a["runs"]:
            reason = f"no forecast ({a['status'].replace('_', ' ')}): {a['message']}"
            lines.append(f"{a['architecture']:<24}{reason}")
            continue
        for r in a["runs"]:
            lines.append(f"{a['architecture']:<24}{r['n']:>10,.0f}" + _checked_row(r))
            if e := r["early"]:
                beyond = f"  ({e['beyond']:.1f}x the fitted compute)"
                lines.append(f"{'  stopped there:':<34}{_checked_row(e)}{beyond}")
        if a["unchanged"] is not True:
            gone = a["unchanged"] is None
            state = "are not all in the table" if gone else "are no longer what they were"
            lines.append(f"  the runs that this forecast rests on {state}")
    early = content["early"]
    if content["checked"]:
        lines.append(
            f"{content['checked']} runs: median error {content['median_error']:.1%}, largest"
            f" {content['largest_error']:.1%}; {content['inside']} inside their"
            f" {content['level']:.0%} interval (so few or fewer by chance: {content['chance']:.2g})"
        )
    if content["awaited"]:
        lines.append(f"{content['awaited']} runs are not finished yet")
    if early["checked"]:
        lines.append(
            f"{early['checked']} of them were stopped on the way: median error there"
            f" {early['median_error']:.1%}, {early['inside']} inside"
        )
    if hindsight := content["in_hindsight"]:
        lines.append(f"{hindsight} of the checked runs were trained before the forecast was made")
    return "\n".join(lines)


def _checked_row(r: dict[str, Any]) -> str:
    truth = " not there"
    if r["true"] is not None:
        truth = f"{r['true']:>9.4f}{r['error']:>+8.1%}" + ("" if r["inside"] else "  outside")
    return f"{r['d']:>10.3g}{r['loss']:>10.4f}  {span(r):>20}{truth}"
