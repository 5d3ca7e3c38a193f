"""What the studies of this folder say, by the rules of PREREGISTRATION.md.

    python studies/symmetry/verdict.py rates TABLE [--into studies/symmetry/dial.yaml]
    python studies/symmetry/verdict.py dial TABLE
    python studies/symmetry/verdict.py breaks TABLE

TABLE: a directory of runs (out/NAME) or of exported evidence (results/NAME). ``rates`` prints the
rate of each group, and writes it into the study. The others pair runs of the same width and seed,
and print the ratio of final losses at each width, and the extra slope in D between a fifth of the
run and its end. Intervals are Student's t on differences of pairs (a pair is one seed at one
width) with their spread within a width, pooled over all widths and columns of the study; the mean
over widths has that of its widths beside it, and the wider one counts.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from forcelaw.table.read import read

CLOSE = 0.02  # losses that differ by less are alike: the smaller rate is taken
FIRST = 0.2  # share of a run from which its slope in D is read
NAMED = 0.03  # "within 3%"
BASES = {"dial": ("C1",), "breaks": ("eSEN", "PaiNN")}


def finished(table: str) -> pl.DataFrame:
    """Evaluations of runs that ended, one row each; those that diverged are named on stderr."""
    frame = read(table).frame
    for label in frame.filter(pl.col("status") == "diverged")["architecture"].unique():
        print(f"diverged: {label}", file=sys.stderr)
    return frame.filter(pl.col("status") == "finished").sort("architecture", "width", "seed", "d")


def rates(frame: pl.DataFrame) -> dict[str, float]:
    """The rate of each group by its final losses, printed."""
    ends = frame.group_by("architecture", "lr").agg(pl.col("loss").last())
    ends = ends.with_columns(group=pl.col("architecture").str.split(" ").list.first())
    found = {}
    for (group,), rows in ends.sort("group", "lr").group_by("group", maintain_order=True):
        rate, loss = rows["lr"].to_numpy(), rows["loss"].to_numpy()
        best = int(np.argmin(loss))
        k = int(np.flatnonzero(loss <= loss[best] * (1 + CLOSE))[0])
        found[str(group)] = float(rate[k])
        listed = "  ".join(f"{r:g}: {value:.3f}" for r, value in zip(rate, loss))
        end = ", an end: run one more" if best in (0, len(rate) - 1) else ""
        print(f"{group:<10} {listed}  taken {rate[k]:g}{end}")
    return found


def write(found: dict[str, float], study: Path) -> None:
    """Give the entries of a study their rates; "C1 at T's N" has that of C1."""
    lines = study.read_text().splitlines(keepends=True)
    for k, line in enumerate(lines):
        label = re.search(r"label: (\w+)", line)
        if label and label[1] in found:
            lines[k] = re.sub(
                r"learning_rate: [\d.e-]+", f"learning_rate: {found[label[1]]:g}", line
            )
    study.write_text("".join(lines))


def pairs(frame: pl.DataFrame, base: str, column: str) -> pl.DataFrame:
    """width, seed, level and slope of ln(column / base), one row a pair."""
    out = []
    one, other = (frame.filter(pl.col("architecture") == name) for name in (base, column))
    for (width, seed), rows in other.group_by(["width", "seed"], maintain_order=True):
        same = one.filter((pl.col("width") == width) & (pl.col("seed") == seed))
        if not len(same):
            continue
        end = min(rows["d"].max(), same["d"].max())
        at = np.log(np.geomspace(FIRST * end, end, 9))
        curves = [np.interp(at, x["d"].log(), x["loss"].log()) for x in (rows, same)]
        difference = curves[0] - curves[1]
        slope = -np.polyfit(at, difference, 1)[0]
        out.append({"width": width, "seed": seed, "level": difference[-1], "slope": slope})
    return pl.DataFrame(out)


def spread(found: dict[str, pl.DataFrame], what: str) -> tuple[float, int]:
    """Standard deviation of a pair within its width, pooled, and its degrees of freedom."""
    square, freedom = 0.0, 0
    for rows in found.values():
        for _, of_width in rows.group_by("width"):
            values = of_width[what].to_numpy()
            square += ((values - values.mean()) ** 2).sum()
            freedom += len(values) - 1
    return (float(np.sqrt(square / freedom)) if freedom else float("nan")), freedom


def intervals(rows: pl.DataFrame, what: str, sd: float, freedom: int) -> list[tuple[float, float]]:
    """(value, half-width at 95%) at each width, then of the mean over widths."""
    means = rows.group_by("width").agg(pl.col(what).mean(), pl.len()).sort("width")
    t = stats.t.ppf(0.975, freedom) if freedom else float("nan")
    value, count = means[what].to_numpy(), means["len"].to_numpy()
    out = [(float(v), float(t * sd / np.sqrt(c))) for v, c in zip(value, count)]
    within = t * sd * np.sqrt((1 / count).sum()) / len(value)
    between = np.nan
    if len(value) > 2:
        between = stats.t.ppf(0.975, len(value) - 1) * value.std(ddof=1) / np.sqrt(len(value))
    return [*out, (float(value.mean()), float(np.nanmax([within, between])))]


def compare(frame: pl.DataFrame, bases: tuple[str, ...]) -> None:
    names = frame["architecture"].unique().sort().to_list()
    found = {
        (base, name): pairs(frame, base, name)
        for base in bases
        for name in names
        if name != base and (len(bases) == 1 or name.startswith(base))
    }
    found = {key: rows for key, rows in found.items() if len(rows)}
    if not found:
        print("no two runs of equal width and seed to compare")
        return
    spreads = {what: spread(found, what) for what in ("level", "slope")}
    print(f"spread of a pair: loss {spreads['level'][0]:.3f}, slope {spreads['slope'][0]:.3f}")
    for (base, name), rows in found.items():
        widths = rows["width"].unique().sort().to_list()
        level = intervals(rows, "level", *spreads["level"])
        slope = intervals(rows, "slope", *spreads["slope"])
        print(f"{name} / {base}, {len(rows)} pairs, widths {', '.join(map(str, widths))}")
        ratio = [f"{np.exp(v):.3f} [{np.exp(v - h):.3f}, {np.exp(v + h):.3f}]" for v, h in level]
        print(f"  ratio of losses      {'  '.join(ratio[:-1])}   mean {ratio[-1]}")
        extra = [f"{v:+.3f} +- {h:.3f}" for v, h in slope]
        print(f"  extra slope in D     {'  '.join(extra[:-1])}   mean {extra[-1]}")
        print(f"  {verdict(level[:-1], slope[:-1])}")


def verdict(level: list[tuple[float, float]], slope: list[tuple[float, float]]) -> str:
    """The preregistered readings, where every width says the same."""
    if all(v + h < 0 for v, h in level):
        words = "lower at every width"
    elif all(v - h > 0 for v, h in level):
        words = "higher at every width"
    elif all(abs(np.expm1(v)) < NAMED for v, _ in level):
        words = "within 3% at every width"
    else:
        words = "not the same at every width"
    same = len({v > 0 for v, _ in slope}) == 1 and all(abs(v) > h for v, h in slope)
    return f"loss {words}; slope in D {'differs' if same else 'not shown to differ'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rates", "dial", "breaks"))
    parser.add_argument("table")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    frame = finished(given.table)
    if given.what != "rates":
        compare(frame, BASES[given.what])
    else:
        found = rates(frame)
        if given.into:
            write(found, given.into)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
