"""The truth beside a forecast: error, inside the interval or not, the median error and the
coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...table.runs import Runs
from ..fit.fit import fit
from ..fit.result import FitResult, clean
from .forecast import SAME, Planned, digest, is_planned


def check(content: dict[str, Any], runs: Runs) -> dict[str, Any]:
    """What came of the forecast ``content`` in ``runs``: a dictionary of plain types.

    errors are forecast / truth - 1 of the loss at the end of a run; one that is not finished is
    listed without. unchanged: whether the runs that the forecast rests on are still what they were,
    None where some are not there. early: a run that was stopped, beside what the same law says of
    the D that it reached; the law is fitted again to the same points, so only where they are
    unchanged.
    """
    out, errors, inside, awaited, hindsight = [], [], [], 0, 0
    early: list[dict[str, Any]] = []
    for f in content["architectures"]:
        there = f["architecture"] in runs.group_names
        part = runs.take(runs.group == runs.group_names.index(f["architecture"])) if there else None
        used = _used(f, part, content["options"])
        unchanged = None if used is None else digest(used) == f["hash"]
        law = None
        rows = []
        for p in f["predictions"]:
            last = _last(part, p) if part is not None else None
            arrived = last is not None and last["d"] >= p["d"] * (1 - SAME)
            truth = last["loss"] if arrived else None
            row = {
                key: p[key]
                for key in (
                    "architecture",
                    "run",
                    "n",
                    "d",
                    "c",
                    "seed",
                    "loss",
                    "low",
                    "high",
                    "known",
                )
            }
            row |= {"true": truth, "error": None, "inside": None, "early": None}
            if truth is None:
                awaited += 1
                if last is not None and used is not None and unchanged:
                    law = law or _again(used, f, content["options"])
                    row["early"] = _beside(law, p, last, f["limit"])
                    early.append(row["early"])
            else:
                row["error"] = p["loss"] / truth - 1.0
                row["inside"] = p["low"] <= truth <= p["high"]
                errors.append(row["error"])
                inside.append(row["inside"])
                hindsight += p["known"]
            rows.append(row)
        mine = [abs(r["error"]) for r in rows if r["error"] is not None]
        out.append(
            {
                "architecture": f["architecture"],
                "status": f["status"],
                "message": f["message"],
                "runs": rows,
                "unchanged": unchanged,
                "median_error": float(np.median(mine)) if mine else None,
                "inside": sum(r["inside"] for r in rows if r["inside"] is not None),
                "checked": len(mine),
            }
        )
    level = content["options"].get("level", 0.95)
    count = len(errors)
    return clean(
        {
            "forecast_date": content["date"],
            "level": level,
            "architectures": out,
            "checked": count,
            "awaited": awaited,
            "in_hindsight": hindsight,
            "median_error": float(np.median(np.abs(errors))) if count else None,
            "largest_error": float(np.max(np.abs(errors))) if count else None,
            "early": {
                "checked": len(early),
                "inside": sum(e["inside"] for e in early),
                "median_error": (
                    float(np.median([abs(e["error"]) for e in early])) if early else None
                ),
            },
            "inside": int(sum(inside)),
            "coverage": float(np.mean(inside)) if count else None,
            # chance that so few or fewer are inside if the intervals hold and runs are independent;
            # runs of one architecture share the error of its law, so a small value is a warning and
            # not a test
            "chance": float(stats.binom.cdf(int(sum(inside)), count, level)) if count else None,
        }
    )


def _last(part: Runs, p: dict[str, Any]) -> dict[str, float] | None:
    """D, compute and loss of the last evaluation of the run that was predicted, or None."""
    wanted = Planned(p["architecture"], p["n"], p["d"], p["c"], p["seed"], p["run"])
    for k in range(len(part.run_names)):
        if is_planned(part, k, wanted):
            rows = np.flatnonzero(part.run == k)
            end = rows[np.argmax(part["d"][rows])]
            return {role: float(part[role][end]) for role in ("d", "c", "loss")}
    return None


def _again(used: Runs, f: dict[str, Any], options: dict[str, Any]) -> FitResult:
    """The law of a forecast, from the points that it was fitted to."""
    return fit(
        used,
        f["law"],
        interval="jackknife",
        level=options.get("level", 0.95),
        floor="zero" if f["floor"] == "zero" else None,
    )


def _beside(
    law: FitResult, p: dict[str, Any], last: dict[str, float], limit: float
) -> dict[str, Any]:
    """What ``law`` says of a run at the D that it reached, and its loss there. beyond: its compute
    over the limit of the fit."""
    at = {"n": p["n"], "d": last["d"], "c": last["c"]}
    band = law.interval("new run", **{role: np.array([at[role]]) for role in law.law.roles})
    value, low, high = float(band.value[0]), float(band.low[0]), float(band.high[0])
    return {
        "d": last["d"],
        "c": last["c"],
        "beyond": last["c"] / limit,
        "loss": value,
        "low": low,
        "high": high,
        "true": last["loss"],
        "error": value / last["loss"] - 1.0,
        "inside": low <= last["loss"] <= high,
    }


def _used(f: dict[str, Any], part: Runs | None, options: dict[str, Any]) -> Runs | None:
    """The points that a forecast was fitted to, as they are now; None where some runs are not
    there."""
    if part is None or not f["runs"] or not set(f["runs"]) <= set(part.run_names):
        return None
    used = np.isin(part.run, [k for k, name in enumerate(part.run_names) if name in f["runs"]])
    if options.get("burn_in_steps"):
        used &= part["step"] >= options["burn_in_steps"]
    if options.get("checkpoints", True):
        used &= part["c"] <= f["limit"] * (1 + 1e-9)
    return part.take(used)


def words(content: dict[str, Any]) -> str:
    """A verdict for a terminal."""
    lines = [
        f"{'architecture':<24}{'N':>10}{'D':>10}{'forecast':>10} "
        f" {'interval of new runs':>20}{'truth':>9}{'error':>8}"
    ]
    for a in content["architectures"]:
        if not a["runs"]:
            lines.append(
                f"{a['architecture']:<24}no forecast ({a['status'].replace('_', ' ')}):"
                f" {a['message']}"
            )
        for r in a["runs"]:
            truth = " not there" if r["true"] is None else f"{r['true']:>9.4f}{r['error']:>+8.1%}"
            truth += "  outside" if r["inside"] is False else ""
            span = f"[{r['low']:.4f}, {r['high']:.4f}]"
            lines.append(
                f"{a['architecture']:<24}{r['n']:>10,.0f}{r['d']:>10.3g}{r['loss']:>10.4f} "
                f" {span:>20}{truth}"
            )
            if e := r["early"]:
                span = f"[{e['low']:.4f}, {e['high']:.4f}]"
                lines.append(
                    f"{'  stopped there:':<34}{e['d']:>10.3g}{e['loss']:>10.4f} "
                    f" {span:>20}{e['true']:>9.4f}{e['error']:>+8.1%}{'' if e['inside'] else '  outside'}"
                    f"  ({e['beyond']:.1f}x the fitted compute)"
                )
        if a["runs"] and a["unchanged"] is not True:
            lines.append(
                "  the runs that this forecast rests on "
                + (
                    "are not all in the table"
                    if a["unchanged"] is None
                    else "are no longer what they were"
                )
            )
    if content["checked"]:
        lines.append(
            f"{content['checked']} runs: median error {content['median_error']:.1%}, largest"
            f" {content['largest_error']:.1%}; {content['inside']} inside their"
            f" {content['level']:.0%} interval (so few or fewer by chance: {content['chance']:.2g})"
        )
    if content["awaited"]:
        lines.append(f"{content['awaited']} runs are not finished yet")
    if content["early"]["checked"]:
        lines.append(
            f"{content['early']['checked']} of them were stopped on the way: median error there "
            f"{content['early']['median_error']:.1%}, {content['early']['inside']} inside"
        )
    if content["in_hindsight"]:
        lines.append(
            f"{content['in_hindsight']} of the checked runs were trained before the forecast was"
            " made"
        )
    return "\n".join(lines)
