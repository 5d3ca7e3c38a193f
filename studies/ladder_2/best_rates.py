"""Best learning rate as a function of N and D, by the rule of PREREGISTRATION.md, part A.

    python studies/ladder_2/best_rates.py [TABLE ...] [--first-step 2000]

TABLE: results/ladder_2_rates by default; of a run that two tables have, the longer one counts.

For each column, size and evaluation: the rate of the lowest loss, and the vertex of a parabola of
log loss in log rate through it and at most two neighbours on each side (one on each side where the
vertex would leave the interval between these). Then log rate* = c + s_N log N + s_D log D by least
squares, with standard errors from leaving out whole sizes and whole evaluations in turn. Last, the
lowest loss over the rates at every D ("tuned") beside the MPNN of like size: ratio and extra slope,
and what a rate fixed at the middle of the sweep would have said. Then the rule for the grid, as
keys of a study: slopes below two standard errors are zero, and no rate is above the largest one at
which every run of the column finished within 2% of its own lowest loss.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl

from forcelaw.store.sweep import vertex


def read(tables: list[Path]) -> pl.DataFrame:
    """Evaluations of all runs; of two runs of one column, rate and size the one that saw more."""
    frames = [pl.read_parquet(table / "runs.parquet") for table in tables]
    frame = pl.concat(frames, how="diagonal_relaxed")
    longest = frame.group_by("architecture", "n", "run").agg(pl.col("d").max().alias("end"))
    longest = longest.sort("end").group_by("architecture", "n").last()
    return frame.filter(pl.col("run").is_in(longest["run"].to_list()))


def points(frame: pl.DataFrame, first_step: int) -> pl.DataFrame:
    """One row for each column, size and evaluation; runs that diverged drop out where they end."""
    frame = frame.filter((pl.col("step") >= first_step) & pl.col("loss").is_not_null())
    column = pl.col("architecture").str.replace(r" [0-9.]+$", "").alias("column")
    frame, rows = frame.with_columns(column), []
    middle = {
        key: at["lr"].unique().sort()[at["lr"].n_unique() // 2]
        for key, at in frame.group_by(["column", "n"])
    }
    groups = frame.group_by(["column", "n", "step"], maintain_order=True)
    for (name, n, step), at in groups:
        at = at.sort("lr")
        if len(at) < 4:
            continue
        best, curvature, end = vertex(at["lr"].to_list(), at["loss"].to_list())
        rows.append(
            {"column": name, "n": n, "step": step, "d": float(at["d"].mean()), "rates": len(at)}
            | {"best": best, "curvature": curvature, "end": end, "tuned": at["loss"].min()}
            | {"fixed": at.filter(pl.col("lr") == middle[name, n])["loss"].first()}
        )
    return pl.DataFrame(rows).sort("column", "n", "d")


def law(at: pl.DataFrame, used: tuple[bool, bool] = (True, True)) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (c, s_N, s_D) of log rate*, and standard errors from groups left out. used:
    whether s_N and s_D are fitted; one that is not is zero."""
    x = np.column_stack([np.ones(len(at)), np.log(at["n"] / 1e5), np.log(at["d"] / 1e6)])
    x = x * [True, *used]
    y = np.log(at["best"].to_numpy())

    def solve(keep: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(x[keep], y[keep], rcond=None)[0]

    variance = np.zeros(3)
    for groups in (at["n"].to_numpy(), at["step"].to_numpy()):
        left = np.array([solve(groups != g) for g in np.unique(groups)])
        variance += (len(left) - 1) / len(left) * ((left - left.mean(0)) ** 2).sum(0)
    return solve(np.ones(len(at), bool)), np.sqrt(variance)


def largest_safe_rate(runs: pl.DataFrame) -> float:
    """The largest rate at which every run of a column finished within 2% of its lowest loss."""
    ends = (
        runs.sort("step")
        .group_by("run")
        .agg(
            pl.col("lr").first(),
            pl.col("status").last(),
            (pl.col("loss").last() <= 1.02 * pl.col("loss").min()).alias("kept"),
        )
    )
    safe = ends.group_by("lr").agg(((pl.col("status") == "finished") & pl.col("kept")).all())
    return float(safe.filter(pl.col("status"))["lr"].max())


def rule(found: pl.DataFrame, frame: pl.DataFrame) -> None:
    """Print the rule for the grid."""
    print("\nrule for the grid:")
    for (column,), at in found.filter(pl.col("end") == "").group_by(
        ["column"], maintain_order=True
    ):
        (_, *slopes), (_, *errors) = law(at)
        used = tuple(bool(abs(s) >= 2 * e) for s, e in zip(slopes, errors))
        (c, s_n, s_d), _ = law(at, used)
        cap = largest_safe_rate(frame.filter(pl.col("architecture").str.starts_with(f"{column} ")))
        print(
            f"{column}: {{value: {np.exp(c):.3g}, n: 1e5, d: 1e6, n_exponent: {s_n:.3f},"
            f" d_exponent: {s_d:.3f}, maximum: {cap:g}}}"
        )


def beside(found: pl.DataFrame, reference: str = "MPNN") -> None:
    """Print ratios of losses and extra slopes in D over the reference, sizes matched in order."""
    print(f"\nover the {reference} of like size, from the first common D to the last:")
    print(
        f"{'column':<10}{'N':>10}{'ratio, tuned':>28}{'extra slope, tuned':>20}{'fixed rate':>12}"
    )
    sizes = {c: at["n"].unique().sort().to_list() for (c,), at in found.group_by(["column"])}
    for column in sorted(sizes.keys() - {reference}):
        for n, m in zip(sizes[column], sizes[reference]):
            at, of = (
                found.filter((pl.col("column") == c) & (pl.col("n") == k))
                for c, k in ((column, n), (reference, m))
            )
            d = at["d"].log().to_numpy()
            d = d[(d >= np.log(of["d"].min())) & (d <= np.log(of["d"].max()))]
            slopes = []
            for kind in ("tuned", "fixed"):
                logs = [
                    np.interp(d, x["d"].log(), x[kind].log())
                    for x in (at.drop_nulls(kind), of.drop_nulls(kind))
                ]
                ratio = logs[0] - logs[1]
                slopes.append(-np.polyfit(d, ratio, 1)[0])
                if kind == "tuned":
                    shown = " ".join(f"{v:.3f}" for v in np.exp(ratio[[0, len(d) // 2, -1]]))
            print(f"{column:<10}{n:>10,}{shown:>28}{slopes[0]:>+20.3f}{slopes[1]:>+12.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", type=Path, default=[Path("results/ladder_2_rates")])
    parser.add_argument("--first-step", type=int, default=2000)
    args = parser.parse_args()
    frame = read(args.tables)
    found = points(frame, args.first_step)
    print(f"{'column':<10}{'N':>10}{'D':>10}{'rates':>7}{'best rate':>11}{'2x off costs':>14}")
    for r in found.iter_rows(named=True):
        cost = 100 * (np.exp(r["curvature"] * np.log(2) ** 2) - 1)
        print(
            f"{r['column']:<10}{r['n']:>10,}{r['d']:>10.2e}{r['rates']:>7}{r['best']:>11.2e}"
            + (f"{cost:>13.0f}%" if np.isfinite(cost) else f"  {r['end']}")
        )
    print("\nlog rate* = c + s_N log(N / 1e5) + s_D log(D / 1e6), points inside the sweep:")
    for (column,), at in found.filter(pl.col("end") == "").group_by(["column"]):
        if at["n"].n_unique() < 2:
            print(f"{column:<10} too few sizes with the best rate inside the sweep")
            continue
        (c, s_n, s_d), (_, e_n, e_d) = law(at)
        print(
            f"{column:<10} rate at 1e5, 1M atoms {np.exp(c):.2e}   s_N {s_n:+.3f} +- {e_n:.3f}"
            f"   s_D {s_d:+.3f} +- {e_d:.3f}   {len(at)} points, {at['n'].n_unique()} sizes"
        )
    beside(found)
    rule(found, frame)
    return 0


if __name__ == "__main__":
    sys.exit(main())
