"""What the study field says, by the rules in its file.

    python studies/field/verdict.py TABLE [--times results/field/table ...] [--figure OUT.svg]
                                          [--pointwise results/field/pointwise.json]

TABLE: a directory of runs (out/field) or of exported evidence. --times: folders of field_table.py
(rows.jsonl), whose steps of 1,400 atoms, taken eagerly and alone on the card, make the hours: steps
times step time. A size that was not measured has the time of the nearest one that was: of a
package, whose eager steps wait for Python, as it is; of ours in the ratio of the planned times
(study/step_times.json). Hours of the runs themselves were measured side by side, and not used.
--compiled: packages by their compiled steps where these were measured. --pointwise: rows of
benchmarks/pointwise_flops.py; frontiers by two further counts of FLOPs, which no rule of the study
has: they were added on 2026-11-30, when all losses had been seen.

Printed: final losses and rates by size; for every pair of columns the ratio of losses at each size,
with Student's t on the spread between seeds at 1e5, pooled over the columns (at other sizes one
seed each; the spread is taken to be the same); who is lowest at equal FLOPs and at equal hours.
Curves count as a whole: any evaluation of any run is a stopping point (schedule-free).
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from forcelaw.figures.matplotlib import save_alone
from forcelaw.figures.spec import Figure, Panel, Series
from forcelaw.figures.style import looks
from forcelaw.models import ARCHITECTURES
from forcelaw.study.cost import gpu_rate
from forcelaw.table.read import read

POINTS = 5  # budgets at which frontiers are compared
STEP_ATOMS = 1400  # of the rows of field_table.py that count
LEVELS = (0.7, 0.5, 0.4, 0.3, 0.25, 0.2)  # losses that are asked for
NAMED = 3  # columns that a line about a budget lists
# of --pointwise: name of the cost -> what it is
COUNTS = {
    "c_pointwise": "products as the study counts them, and pointwise work",
    "c_measured": "products and pointwise work of a step as they are",
}


@dataclass
class Column:
    """Runs of one column: evaluations of its grid, and final losses by target size."""

    label: str
    architecture: str
    forces: str
    rows: pl.DataFrame
    ends: dict[int, list[float]] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def columns(frame: pl.DataFrame) -> list[Column]:
    """As they come; sizes are in the order of their widths."""
    found = []
    for (label,), own in frame.group_by("architecture", maintain_order=True):
        grid = own.filter((pl.col("kind") == "grid") & (pl.col("status") == "finished"))
        grid = grid.filter(pl.col("loss").is_not_null()).sort("width", "seed", "d")
        first = own.row(0, named=True)
        one = Column(str(label), first["variant"].partition(",")[0], first["forces"], grid)
        for (width,), rows in grid.group_by("width", maintain_order=True):
            last = rows.group_by("seed", maintain_order=True).last()
            one.ends[int(width)] = last["loss"].to_list()
            one.rates[int(width)] = float(last["lr"][0])
        one.notes = notes(own)
        found.append(one)
    return found


def notes(own: pl.DataFrame) -> list[str]:
    """What must be said of a column: rates at an end of their sweep, runs that did not end well."""
    out = []
    swept = own.filter((pl.col("kind") == "sweep") & pl.col("loss").is_not_null()).sort("step")
    for (n,), rows in swept.group_by("n", maintain_order=True):
        last = rows.group_by("lr").agg(pl.col("loss").last()).sort("lr")
        best = int(np.argmin(last["loss"].to_numpy()))
        if best in (0, len(last) - 1):
            end = "lowest" if best == 0 else "highest"
            out.append(f"best rate at N = {n:,} is the {end} of {len(last)}")
    for status in ("diverged", "failed"):
        count = own.filter(pl.col("status") == status)["run"].n_unique()
        if count:
            out.append(f"{count} {status}")
    return out


# ------------------------------------------------------------------------------------- hours
class Times:
    """Seconds of a step alone on the card, by architecture, forces and N."""

    def __init__(self, folders: list[Path], compiled: bool = False):
        self.measured: dict[tuple[str, str], dict[int, float]] = {}
        faster: dict[tuple[str, str], dict[int, float]] = {}
        for folder in folders:
            for line in (folder / "rows.jsonl").read_text().splitlines():
                row = json.loads(line)
                if row["atoms"] != STEP_ATOMS or "ms" not in row:
                    continue
                name, forces, way = row["key"].rsplit(" ", 2)
                name = name.removesuffix(":kernels=false")  # where its kernels were not measured
                known = self.measured.setdefault((name, forces), {})
                if way == "eager" and not (row["key"].startswith(f"{name}:ker") and known):
                    known[row["N"]] = row["ms"] / 1e3
                elif way == "compiled" and name not in ARCHITECTURES:
                    faster.setdefault((name, forces), {})[row["N"]] = row["ms"] / 1e3
        if compiled:
            self.measured |= faster

    def seconds(self, column: Column, n: int, depth: int, flops: float) -> float:
        """A step of ``flops``; NaN where the column was not measured."""
        known = self.measured.get((column.architecture, column.forces), {})
        if not known:
            return math.nan
        near = min(known, key=lambda m: abs(math.log(m / n)))
        if column.architecture not in ARCHITECTURES:
            return known[near]
        rate = gpu_rate(column.architecture, column.forces)
        # FLOPs of a step go with N, about
        one, other = (
            rate.step + rate.layer * depth + rate.flop * f for f in (flops, flops * near / n)
        )
        return known[near] * one / other


def with_hours(column: Column, times: Times) -> None:
    hours = [
        row["step"] * times.seconds(column, row["n"], row["depth"], row["c"] / row["step"]) / 3600
        for row in column.rows.iter_rows(named=True)
    ]
    column.rows = column.rows.with_columns(hours=pl.Series("hours", hours, dtype=pl.Float64))


def with_pointwise(column: Column, rows: list[dict[str, Any]]) -> None:
    """Costs of :data:`COUNTS`, by the factors of the column at each N; NaN where not measured."""
    of = {row["N"]: row for row in rows if row["label"] == column.label}
    nothing = {"factor": math.nan, "counted": math.nan}
    factors = [of.get(n, nothing)["factor"] for n in column.rows["n"]]
    seen = [of.get(n, nothing)["counted"] for n in column.rows["n"]]
    costs = column.rows["c"].to_numpy() * np.array(factors)
    column.rows = column.rows.with_columns(
        c_pointwise=pl.Series(costs), c_measured=pl.Series(costs / np.array(seen))
    )


# ------------------------------------------------------------------------------------- pairs
def spread(found: list[Column]) -> tuple[float, int]:
    """Standard deviation of ln loss between seeds of one size, pooled, and degrees of freedom."""
    square, freedom = 0.0, 0
    for column in found:
        for ends in column.ends.values():
            logs = np.log(ends)
            square += float(((logs - logs.mean()) ** 2).sum())
            freedom += len(logs) - 1
    return (math.sqrt(square / freedom) if freedom else math.nan), freedom


@dataclass
class Pair:
    """ln ratios of losses of ``one`` over ``other`` at each size, with half-widths."""

    ratios: list[tuple[float, float]]

    @property
    def better(self) -> bool:
        """The rule of the study: lower at every size, and beyond the interval where seeds are."""
        return (
            len(self.ratios) == 3
            and all(value < 0 for value, _ in self.ratios)
            and self.ratios[1][0] + self.ratios[1][1] < 0
        )


def pair(one: Column, other: Column, sd: float, freedom: int) -> Pair:
    """Sizes are paired in order: each column's nearest to 3e4 (5e4), 1e5, 1e6."""
    t = stats.t.ppf(0.975, freedom) if freedom else math.nan
    out = []
    if len(one.ends) == len(other.ends):
        for a, b in zip(one.ends.values(), other.ends.values()):
            value = float(np.log(a).mean() - np.log(b).mean())
            out.append((value, float(t * sd * math.sqrt(1 / len(a) + 1 / len(b)))))
    return Pair(out)


# ------------------------------------------------------------------------------------- frontiers
def frontier(rows: pl.DataFrame, cost: str) -> tuple[np.ndarray, np.ndarray]:
    """(ln cost, ln loss) of the lowest loss that was reached at or below each cost; first seeds."""
    own = rows.filter((pl.col("seed") == 0) & pl.col(cost).is_finite() & (pl.col(cost) > 0))
    own = own.sort(cost)
    x, y = np.log(own[cost].to_numpy()), np.minimum.accumulate(np.log(own["loss"].to_numpy()))
    keep = np.append(True, np.diff(y) < 0) if len(y) else np.zeros(0, bool)
    if len(y):
        keep[-1] = True
    return x[keep], y[keep]


def lower(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...], margin: float) -> bool:
    """Whether the first frontier lies below the second by more than ``margin`` wherever the second
    has evaluations and the first has begun. The first may have ended: what it had reached stays,
    and longer runs could only be lower."""
    low, high = max(one[0][0], other[0][0]), other[0][-1]
    if not high > low:
        return False
    at = np.linspace(low, high, 33)
    return bool((np.interp(at, *one) + margin < np.interp(at, *other)).all())


def at_equal_cost(found: list[Column], cost: str, margin: float) -> None:
    fronts = {c.label: f for c in found if len((f := frontier(c.rows, cost))[0]) > 1}
    absent = [c.label for c in found if c.label not in fronts]
    if absent:
        print(f"  not measured: {', '.join(absent)}")
    if len(fronts) < 2:
        return
    wins = {
        a: [b for b in fronts if b != a and lower(fronts[a], fronts[b], margin)] for a in fronts
    }
    for label, beaten in sorted(wins.items(), key=lambda item: -len(item[1])):
        lost = [b for b in fronts if label in wins[b]]
        print(
            f"  {label:<18} below {len(beaten):>2}, above {len(lost):>2} of {len(fronts) - 1}"
            + (f"; above: {', '.join(lost)}" if lost else "")
        )
    low = np.median([f[0][0] for f in fronts.values()])
    high = max(f[0][-1] for f in fronts.values())
    print("  lowest at a budget (*: its runs had ended before):")
    for x in np.linspace(low, high, POINTS):
        there = {a: float(np.interp(x, *f)) for a, f in fronts.items() if f[0][0] <= x}
        best = sorted(there, key=lambda a: there[a])
        close = sum(there[a] <= there[best[0]] + margin for a in best)
        said = "; ".join(
            f"{a} {math.exp(there[a]):.3f}{'*' * bool(x > fronts[a][0][-1] + 1e-9)}"
            for a in best[: max(NAMED, close)]
        )
        what = f"{math.exp(x):.1e} FLOPs" if cost != "hours" else f"{3600 * math.exp(x):.1f} s"
        print(f"  {what:>13}: {said}  ({close} not told apart, of {len(there)})")


def reached(found: list[Column], cost: str) -> None:
    """What each column had spent when it first came down to a loss."""
    print(f"  {'first at a loss of':<18}" + "".join(f"{level:>9}" for level in LEVELS))
    for column in found:
        x, y = frontier(column.rows, cost)
        cells = []
        for level in np.log(LEVELS):
            below = np.flatnonzero(y <= level)
            if not len(below):
                cells.append("-")
                continue
            k = int(below[0])
            at = x[0] if k == 0 else np.interp(-level, -y[k - 1 : k + 1], x[k - 1 : k + 1])
            value = math.exp(at) * (3600 if cost == "hours" else 1)
            cells.append(("<" if k == 0 else "") + f"{value:.2g}")
        if any(cell != "-" for cell in cells):
            print(f"  {column.label:<18}" + "".join(f"{cell:>9}" for cell in cells))


def figure(found: list[Column]) -> Figure:
    chosen = looks([(c.label, c.architecture) for c in found])
    panels = []
    for cost, title in (("c", "training FLOPs"), ("hours", "hours of one H200, a step alone")):
        panel = Panel(title, "validation loss")
        for column in found:
            look, (x, y) = chosen[column.label], frontier(column.rows, cost)
            if len(x):
                panel.series.append(
                    Series(
                        list(map(float, np.exp(x))),
                        list(map(float, np.exp(y))),
                        "both",
                        dash="solid" if column.architecture in ARCHITECTURES else "dash",
                        **look.marks,
                    )
                )
        panels.append(panel)
    return Figure(
        "field",
        "Ours (solid) and the field's packages (dashed) under one protocol, GFN2-xTB molecules",
        "The lowest loss that a column of three sizes had reached at each cost. Loss: eV/atom + "
        "eV/Angstrom. Short runs, learning rates swept; hours are steps times the step time alone"
        " on the card, packages eager.",
        panels,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table")
    parser.add_argument("--times", nargs="*", type=Path, default=[Path("results/field/table")])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--pointwise", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    frame = read(given.table).frame
    found = columns(frame)
    times = Times(given.times, given.compiled)
    for column in found:
        with_hours(column, times)
    found.sort(key=lambda c: min(c.ends[max(c.ends)]) if c.ends else math.inf)
    print("final loss, eV/atom + eV/Angstrom (mean of seeds; rate), by size")
    for c in found:
        sizes = []
        for width, ends in c.ends.items():
            n = c.rows.filter(pl.col("width") == width)["n"][0]
            many = f" +- {np.std(ends, ddof=1):.3f} of {len(ends)}" if len(ends) > 1 else ""
            sizes.append(f"{n / 1e3:,.0f}k {np.mean(ends):.3f}{many} ({c.rates[width]:.2g})")
        print(f"  {c.label:<18} {'   '.join(sizes) or 'no run'}")
        for note in c.notes:
            print(f"  {'':<18} {note}")
    whole = [c for c in found if len(c.ends) == 3]
    print(f"complete: {len(whole)} of {len(found)}")
    sd, freedom = spread(found)
    print(f"spread between seeds: {sd:.4f} in ln loss, {freedom} degrees of freedom")
    print("better at all three sizes and beyond the interval at 1e5 (ratios one / other):")
    for one in whole:
        said = []
        for other in whole:
            if one is not other and (compared := pair(one, other, sd, freedom)).better:
                middle, half = compared.ratios[1]
                said.append(
                    f"{other.label} {math.exp(middle):.2f} [{math.exp(middle - half):.2f},"
                    f" {math.exp(middle + half):.2f}]"
                )
        print(f"  {one.label:<18} than {len(said):>2}: {'; '.join(said)}")
    margin = stats.t.ppf(0.975, freedom) * sd * math.sqrt(2) if freedom else math.inf
    print(f"at equal FLOPs (margin {math.expm1(margin):.1%}):")
    at_equal_cost(whole, "c", margin)
    reached(whole, "c")
    print("at equal hours of steps alone on the card:")
    at_equal_cost(whole, "hours", margin)
    print("  seconds:")
    reached(whole, "hours")
    rows = json.loads(given.pointwise.read_text()) if given.pointwise else []
    for cost, what in COUNTS.items() if rows else ():
        for column in whole:
            with_pointwise(column, rows)
        print(f"added after the losses had been seen: at equal FLOPs, {what}:")
        at_equal_cost(whole, cost, margin)
        reached(whole, cost)
    if given.figure:
        save_alone(figure(whole), given.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
