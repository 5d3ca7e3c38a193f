"""What the grid of ladder_2 can tell apart: its analysis on simulated runs of its own design.

    python studies/ladder_2/power.py > studies/ladder_2/power.txt

Two columns follow one additive law in N and D (that of the first ladder's MPNN); the second is a
factor below the first, times (D / 4M)^-s. Noise is real: what is left of each run of the first
ladder after the mean of the three seeds of its size, as whole curves over D, drawn with a random
sign. On top each size of each column is off by a level and a slope that all of its seeds share (a
learning rate that does not fit, a width that the dial rounds): normal, 1% in the level and .005 in
the slope.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

import forcelaw

SIZES = (3e4, 6e4, 1e5, 1.7e5, 3e5, 6e5, 1e6, 1.7e6, 3e6)
SEEDS = (3, 1, 3, 1, 3, 1, 3, 1, 1)
STEPS = np.geomspace(2000, 44_800, 10)
ATOMS_A_STEP = 357
STUDIES = 200


def residual_curves() -> list[np.ndarray]:
    """Curves of ln L minus the mean of the seeds at the same size, on a common grid of ln D from
    the first to the last evaluation, corrected for the mean's own degree of freedom."""
    table = pl.read_parquet("results/symmetry_ladder/runs.parquet").filter(
        (pl.col("kind") == "grid") & (pl.col("step") >= 500) & pl.col("loss").is_not_null()
    )
    found = []
    for _, group in table.group_by(["architecture", "n"]):
        runs = [run.sort("step") for _, run in group.group_by("run")]
        if len(runs) < 3:
            continue
        end = min(run["d"].max() for run in runs)
        at = np.linspace(np.log(end) - np.log(STEPS[-1] / STEPS[0]) * 0.6, np.log(end), len(STEPS))
        curves = np.array([np.interp(at, run["d"].log(), run["loss"].log()) for run in runs])
        found += list((curves - curves.mean(0)) * np.sqrt(len(runs) / (len(runs) - 1)))
    return found


def study(
    rng: np.random.Generator, pool: list[np.ndarray], factor: float, s: float
) -> pl.DataFrame:
    """The evaluations of one simulated study."""
    d, rows = STEPS * ATOMS_A_STEP, []
    for column, scale, slope in (("first", 1.0, 0.0), ("second", factor, s)):
        for n, seeds in zip(SIZES, SEEDS):
            law = 8.0 * n**-0.30 + 17.0 * d**-0.27
            shared = rng.normal(0, 0.01) + rng.normal(0, 0.005) * np.log(d / 4e6)
            for seed in range(seeds):
                noise = pool[rng.integers(len(pool))] * rng.choice((-1, 1)) + shared
                loss = law * scale * (d / 4e6) ** -slope * np.exp(noise)
                rows += [
                    {"run": f"{column}-{n:g}-{seed}", "architecture": column, "seed": seed}
                    | {"n": n, "d": x, "step": step, "loss": y, "c": 6 * n * x}
                    for x, step, y in zip(d, STEPS, loss)
                ]
    return pl.DataFrame(rows)


def main() -> int:
    pool = residual_curves()
    spread = np.array(pool)
    print(
        f"{len(pool)} residual curves of {spread.shape[1]} points: sd {spread.std():.4f}, ", end=""
    )
    print(f"at the end {spread[:, -1].std():.4f}")
    print(f"sizes {SIZES}, seeds {SEEDS}, {STUDIES} studies a row\n")
    print(
        "factor  slope | not constant | slope in D: mean   sd   half-width | factor: sd  half-width"
    )
    for factor, s in ((0.5, 0.0), (0.5, 0.01), (0.5, 0.02), (0.5, 0.03), (0.97, 0.0), (1.0, 0.0)):
        rng = np.random.default_rng(20261129)
        seen = [
            forcelaw.ratios(study(rng, pool, factor, s), "first", "second") for _ in range(STUDIES)
        ]
        slopes = [r.slope("d") for r in seen]
        levels = np.log([r.factor for r in seen])
        widths = [np.log(r.factor_high / r.factor_low) / 2 for r in seen]
        values = [v.value for v in slopes]
        print(
            f"{factor:6.2f} {s:6.2f} | {np.mean([r.verdict == 'not constant' for r in seen]):12.3f}"
            f" | {np.mean(values):+16.4f} {np.std(values):.4f}"
            f" {np.mean([(v.high - v.low) / 2 for v in slopes]):.4f}"
            f"     | {levels.std():10.4f} {np.mean(widths):.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
