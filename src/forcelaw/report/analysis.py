"""From a table of runs to everything a report says. All calls of the laws are in lawcalls.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import polars as pl

from ..figures.spec import pretty
from ..figures.style import Look, looks
from ..laws.decide.repeats import repeats_smaller_set
from ..store import sweep as sweeps
from ..store.runs import COUNTED
from . import fits as lawcalls
from .load import Source
from .paper import published
from .results import (
    Analysis,
    ArchitectureResult,
    Estimate,
    Fitted,
    FrontierResult,
    SweepResult,
    SymmetryPoint,
    mean_losses,
)

# every model leaves its transient after 350 to 400 steps (shared/reference/feasibility.md, section
# 2)
BURN_IN_STEPS = 400
# relative force error below which a symmetry counts as built in; TF32 rounding is up to 4e-4
# (results/symmetry_ladder, H100)
EXACT = 1e-3
SWEEP = "sweep"
RISEN = 0.05  # evaluations of the averaged weights scatter by 1%


def analyse(
    source: Source,
    burn_in_steps: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Analysis:
    """Fit, compare and diagnose everything in ``source``. ``burn_in_steps``: evaluations before
    this step are left out of the fits (default: the study's own ``burn_in_steps``, else 400). A
    refused fit becomes its reason."""
    started = time.monotonic()
    if burn_in_steps is None:
        burn_in_steps = int(source.study.get("burn_in_steps") or BURN_IN_STEPS)
    frame = _clean(source.frame)
    labels = _labels(source, frame)
    look = looks([(label, architecture) for label, architecture, _ in labels])
    grid = frame.filter(pl.col("kind") != SWEEP)
    architectures = []
    for label, architecture, symmetry in labels:
        progress(f"fitting {label}")
        mine = grid.filter(pl.col("architecture") == label)
        architectures.append(
            _architecture(label, architecture, symmetry, look[label], mine, burn_in_steps)
        )
    fitted = [arch for arch in architectures if arch.runs]
    progress("comparing architectures")
    comparisons, notes = (
        lawcalls.compare_pairs(fitted, burn_in_steps) if len(fitted) > 1 else ([], [])
    )
    return Analysis(
        source=source,
        burn_in_steps=burn_in_steps,
        architectures=architectures,
        comparisons=comparisons,
        comparison_notes=notes,
        prospects=lawcalls.prospects(fitted),
        sweeps=_sweeps(labels, frame, grid, _within(source.study)),
        symmetry=_symmetry(labels, frame),
        problems=_problems(source, frame),
        risen=_risen(frame),
        counts=_counts(frame),
        burn_in_effect=_burn_in_effect(fitted, burn_in_steps),
        seconds=time.monotonic() - started,
    )


def _clean(frame: pl.DataFrame) -> pl.DataFrame:
    """Non-finite numbers become missing ones; rows are ordered by run and progress."""
    floats = [name for name, kind in frame.schema.items() if kind == pl.Float64]
    frame = frame.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in floats
    )
    return frame.sort("architecture", "n", "seed", "run", "d", nulls_last=True, maintain_order=True)


def _labels(source: Source, frame: pl.DataFrame) -> list[tuple[str, str, str]]:
    """(label, architecture, symmetry) in the study's order, then whatever else the table has."""
    present = frame["architecture"].unique(maintain_order=True).to_list()
    out: list[tuple[str, str, str]] = []
    for entry in source.study.get("architectures") or []:
        label = str(entry.get("label") or entry.get("architecture"))
        if label not in [known for known, _, _ in out]:
            out.append(
                (
                    label,
                    str(entry.get("architecture", label)),
                    _symmetry_words(entry.get("symmetry")),
                )
            )
    for label in present:
        if label not in [known for known, _, _ in out]:
            variants = (
                frame.filter(pl.col("architecture") == label)["variant"].drop_nulls().to_list()
            )
            out.append((label, variants[0] if variants else label, ""))
    return out


SYMMETRIES = {
    "E(3)": "E(3): rotation, inversion",
    "SE(3)": "SE(3): rotation",
    "none": "no rotation symmetry",
}


def _symmetry_words(value: Any) -> str:
    """The symmetry entry of study.json: text, or an object such as {"rotation": true, "inversion":
    false}."""
    if isinstance(value, dict):
        exact = [name for name, has in value.items() if has]
        return ", ".join(exact) if exact else SYMMETRIES["none"]
    return "" if value is None else SYMMETRIES.get(str(value), str(value))


def _architecture(
    label: str,
    architecture: str,
    symmetry: str,
    look: Look,
    frame: pl.DataFrame,
    burn_in_steps: int,
) -> ArchitectureResult:
    usable = frame.filter((pl.col("loss") > 0) & (pl.col("n") > 0) & (pl.col("d") > 0))
    done, repeated = split_repeats(usable.filter(pl.col("status").is_in(COUNTED)))
    ends = done.filter(pl.col("final"))
    laws = lawcalls.laws_of(done, burn_in_steps)
    frontier_h = lawcalls.frontier_of(done, burn_in_steps, "h")
    terms, surfaces = {}, {}
    for term in ("energy", "forces"):
        column = f"loss_{term}"
        part = done.drop("loss").rename({column: "loss"}).filter(pl.col("loss") > 0)
        terms[term] = lawcalls.frontier_of(part, burn_in_steps, "c", quick=True)
        surfaces[term] = lawcalls.surface(part, burn_in_steps)
    return ArchitectureResult(
        label=label,
        architecture=architecture,
        symmetry=symmetry,
        look=look,
        paper=published(architecture, label),
        frame=done,
        repeated=repeated,
        repeats=(
            lawcalls.repeats(pl.concat([done, repeated]), burn_in_steps) if len(repeated) else None
        ),
        unfinished=usable.filter(~pl.col("status").is_in(COUNTED)),
        sizes=sorted(done["n"].unique().to_list()),
        runs=done["run"].n_unique(),
        seeds=(
            int(done.group_by("n").agg(pl.col("seed").n_unique())["seed"].max() or 0)
            if len(done)
            else 0
        ),
        surface=laws.surface,
        allocation=laws.allocation,
        frontier_c=laws.frontier,
        frontier_h=frontier_h,
        terms=terms,
        term_surfaces=surfaces,
        checks=laws.checks,
        trend=laws.trend,
        notes=laws.notes,
        regime=regime(done, laws.surface),
        kappa=_middle(ends, "kappa"),
        throughput=_middle(ends, "throughput"),
        hours=_hours(usable),
        profile=laws.profile,
        routes=laws.routes,
        suggestion=laws.suggestion,
    )


def split_repeats(done: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Evaluations for the fits, and those of runs that repeated a clearly smaller training set than
    others did.

    A study with several training sets (nested prefixes) measures what repeats cost; in one surface
    with the others they would bend beta.
    """
    if not len(done) or not len(done["u"].drop_nulls()):
        return done, done.head(0)
    by = done.group_by("run").agg(u=pl.col("u").max(), repeats=(pl.col("d") / pl.col("u")).max())
    largest = by["u"].max()
    small = by.filter(repeats_smaller_set(pl.col("repeats"), pl.col("u"), largest))["run"].to_list()
    mask = pl.col("run").is_in(small)
    return done.filter(~mask), done.filter(mask)


def _middle(ends: pl.DataFrame, column: str) -> Estimate | None:
    values = ends[column].drop_nulls() if len(ends) else ends[column]
    if not len(values):
        return None
    return Estimate(float(values.median()), float(values.min()), float(values.max()))


def _hours(frame: pl.DataFrame) -> float | None:
    if not len(frame) or not len(frame["h"].drop_nulls()):
        return None
    return float(frame.group_by("run").agg(pl.col("h").max())["h"].sum())


def regime(frame: pl.DataFrame, surface: Fitted) -> str:
    """What limits the loss: size, steps or data (design.md, protocol 10), in one or two plain
    sentences."""
    if not len(frame):
        return ""
    parts = []
    wanted = ("alpha", "beta", "A", "B")
    if surface.ok and all(name in surface.estimates for name in wanted):
        alpha, beta, big_a, big_b = (surface.estimates[name].value for name in wanted)
        d_max, sizes = float(frame["d"].max()), sorted(frame["n"].unique().to_list())

        def share(n: float) -> float:
            by_size, by_data = big_a * n**-alpha, big_b * d_max**-beta
            return by_size / (by_size + by_data) if by_size + by_data > 0 else 0.5

        small, large = share(sizes[0]), share(sizes[-1])
        parts.append(
            f"At {pretty(d_max)} atoms the size of the model accounts for {100 * small:.0f}% of the"
            f" reducible loss of the smallest model and {100 * large:.0f}% of the largest"
            + (
                ": the small ones are limited by size, the large ones by steps or data."
                if small > 0.5 > large
                else (
                    ": size limits the whole ladder."
                    if large >= 0.5
                    else ": steps or data limit the whole ladder, larger models would gain little."
                )
            )
        )
    return " ".join(parts)


def _within(study: dict[str, Any]) -> float:
    """``learning_rate.sweep.within`` of the study file; 0 where there is none."""
    rule: Any = study
    for key in ("study", "learning_rate", "sweep"):
        rule = (rule.get(key) if isinstance(rule, dict) else None) or {}
    return float(rule.get("within") or 0.0) if isinstance(rule, dict) else 0.0


def _sweeps(
    labels: list[tuple[str, str, str]], frame: pl.DataFrame, grid: pl.DataFrame, within: float
) -> list[SweepResult]:
    """Final loss against learning rate; ``used`` is what the grid ran at."""
    out = []
    sweep = frame.filter(pl.col("kind") == SWEEP)
    for label, _, _ in labels:
        mine = sweep.filter((pl.col("architecture") == label) & pl.col("lr").is_not_null())
        if not len(mine):
            continue
        points = []
        for (run,), rows in mine.group_by(["run"], maintain_order=True):
            last = rows.sort("d", nulls_last=False).row(-1, named=True)
            failed = last["status"] in ("diverged", "failed")
            points.append(
                {
                    "run": run,
                    "lr": last["lr"],
                    "n": last["n"],
                    "seed": last["seed"],
                    "diverged": failed,
                    "status": last["status"],
                    "loss": None if failed else last["loss"],
                }
            )
        points.sort(key=lambda point: (point["n"] or 0, point["lr"]))
        best = best_rate(points)
        ran = grid.filter((pl.col("architecture") == label) & pl.col("status").is_in(COUNTED))
        used = ran["lr"].drop_nulls().unique().sort().to_list()
        out.append(SweepResult(label, points, best, used, points[0]["n"], within))
    return out


def best_rate(points: list[dict[str, Any]]) -> float | None:
    """The learning rate of lowest mean final loss over seeds; a rate at which a seed diverged is
    out."""
    return sweeps.best_rate(mean_losses(points))


def _symmetry(labels: list[tuple[str, str, str]], frame: pl.DataFrame) -> list[SymmetryPoint]:
    tested = frame.filter(
        pl.col("final").fill_null(False)
        & (pl.col("rotation_error").is_not_null() | pl.col("inversion_error").is_not_null())
        & (pl.col("status") == "finished")
    )
    order = {label: position for position, (label, _, _) in enumerate(labels)}
    out = []
    for row in tested.iter_rows(named=True):
        small = [
            name
            for name in ("rotation", "inversion")
            if (row[f"{name}_error"] or math.inf) < EXACT or row[f"{name}_error"] == 0
        ]
        out.append(
            SymmetryPoint(
                row["architecture"],
                row["n"],
                row["d"] or 0,
                row["rotation_error"],
                row["inversion_error"],
                " and ".join(small),
            )
        )
    return sorted(out, key=lambda point: (order.get(point.label, 99), point.n, point.d))


def _problems(source: Source, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Every run that diverged or failed, whatever its kind."""
    out = []
    bad = frame.filter(~pl.col("status").is_in([*COUNTED, "unfinished"]))
    for (run,), rows in bad.group_by(["run"], maintain_order=True):
        last = rows.row(-1, named=True)
        said = source.messages.get(run, {})
        seen = rows.filter(pl.col("loss").is_not_null())
        out.append(
            {
                "run": run,
                "architecture": last["architecture"],
                "kind": last["kind"],
                "n": last["n"],
                "seed": last["seed"],
                "lr": said.get("lr", last["lr"]),
                "status": last["status"],
                "step": said.get("step", last["step"]),
                "last_loss": seen["loss"][-1] if len(seen) else None,
                "message": (
                    said.get("message")
                    or (
                        f"last evaluated at step {seen['step'][-1]}"
                        if len(seen)
                        else "no evaluation was reached"
                    )
                ),
            }
        )
    return out


def _risen(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Runs of the grid that count although they end more than RISEN above their own lowest loss: a
    law takes them for noise.

    Either the learning rate is too large for runs of that length (a spike, which the averaged
    weights of the evaluation show late), or data seen many times have been learnt by heart.
    """
    seen = frame.filter(
        pl.col("loss").is_not_null() & pl.col("status").is_in(COUNTED) & (pl.col("kind") != SWEEP)
    )
    out = []
    for _, rows in seen.sort("d", nulls_last=False).group_by(["run"], maintain_order=True):
        last, least = rows.row(-1, named=True), rows.row(rows["loss"].arg_min(), named=True)
        if last["loss"] > (1.0 + RISEN) * least["loss"]:
            out.append(
                {
                    **{
                        key: last[key]
                        for key in (
                            "run",
                            "architecture",
                            "kind",
                            "n",
                            "seed",
                            "lr",
                            "status",
                            "step",
                        )
                    },
                    "last_loss": last["loss"],
                    "lowest_loss": least["loss"],
                    "lowest_step": least["step"],
                }
            )
    return sorted(out, key=lambda row: (row["architecture"], row["n"] or 0, row["run"]))


def _counts(frame: pl.DataFrame) -> dict[str, int]:
    by = frame.group_by("status").agg(pl.col("run").n_unique()).sort("status")
    return dict(by.iter_rows())


def _burn_in_effect(fitted: list[ArchitectureResult], chosen: int) -> list[dict[str, Any]]:
    """The frontier exponent when more or less of the start is left out: the reader sees what
    burn-in does."""
    out = []
    for arch in fitted:
        for steps in sorted({0, chosen // 2, chosen, 2 * chosen}):
            result = (
                arch.frontier_c
                if steps == chosen
                else lawcalls.frontier_of(arch.frame, steps, "c", quick=True)
            )
            out.append(
                {
                    "label": arch.label,
                    "burn_in_steps": steps,
                    "chosen": steps == chosen,
                    "gamma": result.fitted.get("gamma"),
                    "reason": result.fitted.reason,
                }
            )
    return out


__all__ = ["BURN_IN_STEPS", "EXACT", "Fitted", "FrontierResult", "analyse", "regime"]
