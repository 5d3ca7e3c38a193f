"""The numbers of the verdict (results/README.md) from the committed tables of runs: ratios of
losses first, then what the design bounds, then exponents averaged over forms.

    python benchmarks/verdict.py > results/verdict.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

import forcelaw
from forcelaw.errors import FitError
from forcelaw.laws.compare.ratios import Ratios, brief, ratios
from forcelaw.table.runs import Runs

RESULTS = Path(__file__).resolve().parents[1] / "results"
LADDER = "symmetry_ladder"
MIDDLE = (1e6, 6.4e6)  # atoms; from here on no model is in its transient
GRID = "kind != 'sweep'"


def runs_of(study: str, burn_in: int = 400) -> Runs:
    table = Runs.from_frame(RESULTS / study / "runs.parquet", where=GRID)
    return table.select(burn_in_steps=burn_in)


def ends(study: str) -> pl.DataFrame:
    """Last evaluations of the runs that finished."""
    frame = pl.read_parquet(RESULTS / study / "runs.parquet")
    return frame.filter((pl.col("kind") != "sweep") & pl.col("final"))


def title(text: str) -> None:
    print(f"\n== {text}")


def pairs(runs: Runs, names: list[tuple[str, str]], window=None) -> list[Ratios]:
    out = []
    for first, second in names:
        try:
            out.append(ratios(runs, first, second, d_window=window))
        except FitError as error:
            print(f"{second} / {first}: {error.what}")
    if out:
        print("\n".join(brief(out)))
    return out


def against(runs: Runs, first: str) -> list[tuple[str, str]]:
    return [(first, name) for name in runs.group_names if name != first]


def at_equal_cost(found: list[Ratios]) -> None:
    """The frontiers in the middle of the common range, and at its upper end."""
    for x, unit in (("c", "FLOPs"), ("h", "hours")):
        for one in found:
            if (cost := one.costs.get(x)) is None:
                continue
            cells = [
                f"{cost.ratio[i]:.3f} [{cost.low[i]:.3f}, {cost.high[i]:.3f}] at {cost.at[i]:.2g}"
                for i in (len(cost.at) // 2, -1)
            ]
            print(f"{one.second} / {one.first}: {', '.join(cells)} {unit}")


def ladder() -> None:
    runs = runs_of(LADDER)
    title("symmetry_ladder, all evaluations after step 400 that both have")
    pairs(runs, against(runs, "MPNN"))
    title("the same, 1M to 6.4M atoms (GemNet-OC: to 3M)")
    found = pairs(runs, against(runs, "MPNN"), MIDDLE)
    pairs(runs, [("MPNN", "GemNet-OC")], (1e6, 3e6))
    title("the same at equal FLOPs and at equal hours")
    at_equal_cost(found)
    title("the map of PaiNN over the MPNN")
    print(next(one for one in found if one.second == "PaiNN").summary())
    title("symmetry_ladder, other pairs, 1M to 6.4M atoms")
    names = [("eSEN L2", "eSEN L2 untied"), ("eSEN L2", "eSEN L4"), ("PaiNN", "MC-EGNN")]
    at_equal_cost(pairs(runs, [*names, ("PaiNN", "eSEN L2")], MIDDLE))


def second_ladder() -> None:
    runs = runs_of("ladder_2_grid", 2000)
    title(
        "ladder_2, the short grid, as far as trained: four layers, rates by rule; from step 2,000"
    )
    for one in pairs(runs, against(runs, "MPNN")):
        print(one.summary())


def equal_width() -> None:
    """eSEN is brought to the width of untied eSEN by interpolation of ln L in ln width."""
    title("untied eSEN over eSEN L2 at equal width, which is equal FLOPs, 3M atoms, seed 0")
    frame = pl.read_parquet(RESULTS / LADDER / "runs.parquet")
    frame = frame.filter((pl.col("kind") != "sweep") & (pl.col("seed") == 0))

    def column(name: str) -> tuple[np.ndarray, np.ndarray]:
        """ln width and ln L at 3M atoms."""
        rows = []
        for (width,), run in frame.filter(pl.col("architecture") == name).group_by("width"):
            run = run.sort("d")
            rows.append((np.log(width), np.interp(np.log(3e6), run["d"].log(), run["loss"].log())))
        return tuple(np.array(sorted(rows)).T)

    (widths, loss), (own, untied) = column("eSEN L2"), column("eSEN L2 untied")
    ratio = np.exp(untied - np.interp(own, widths, loss))
    print(", ".join(f"{r:.3f} at width {np.exp(w):.0f}" for w, r in zip(own, ratio)))


def heads() -> None:
    runs = runs_of("heads")
    title("heads: gradient forces over direct ones at equal N and D")
    names = ("MPNN", "PaiNN", "eSEN")
    both = [(f"{name} direct", f"{name} gradient") for name in names]
    pairs(runs, both)
    title("the same, 1M to 4M atoms, and the extra slope in D of each size")
    for one in pairs(runs, both, (1e6, 4e6)):
        print(one.second, ", ".join(f"{size.slope:+.3f}" for size in one.sizes))


def tensor_order() -> None:
    runs = runs_of("tensor_order")
    title("tensor order, one step each, and L4 over L1")
    pairs(runs, [(f"eSEN L{a}", f"eSEN L{b}") for a, b in ((1, 2), (2, 3), (3, 4), (1, 4))], MIDDLE)


def symmetry_loss() -> None:
    title("symmetry loss: loss over that of the MPNN at equal N, 8M atoms, mean of seeds")
    table = ends("symmetry_loss").group_by("architecture", "n").agg(pl.col("loss").log().mean())
    plain = {
        n: loss for n, loss in table.filter(pl.col("architecture") == "MPNN")["n", "loss"].rows()
    }
    for name in ("MPNN M=1", "MPNN M=4"):
        rows = table.filter(pl.col("architecture") == name).sort("n")["n", "loss"].rows()
        print(name, ", ".join(f"{np.exp(loss - plain[n]):.3f} at {n}" for n, loss in rows))
    pairs(runs_of("symmetry_loss"), [("MPNN", "MPNN M=1"), ("MPNN", "MPNN M=4")])


def depth() -> None:
    title(
        "depth: loss with the ladder's number of layers over that with four, 4M atoms, seeds' mean"
    )
    table = ends("depth").group_by("architecture", "n").agg(pl.col("loss").log().mean())
    for name in ("MPNN", "PaiNN", "eSEN"):
        rows = {
            layers: table.filter(pl.col("architecture") == f"{name} {layers} layers").sort("n")
            for layers in (2, 3, 4)
        }
        for i, (size, layers) in enumerate((("1e4", 2), ("3e4", 2), ("1e5", 3))):
            ratio = np.exp(rows[layers]["loss"][i] - rows[4]["loss"][i])
            print(f"{name} {size}: {layers} layers {ratio:.3f}")
    title("steps in depth of the ladder, with the additive surface (ln L), and alpha without, with")
    runs = runs_of(LADDER)
    for name in runs.group_names:
        part = runs.select(name)
        try:
            free, blind = forcelaw.fit(part, factor="depth"), forcelaw.fit(part)
        except FitError as error:
            print(f"{name}: {error.what}")
            continue
        steps = [f"{key} {value}" for key, value in free.parameters.items() if "step" in key]
        print(f"{name}: {', '.join(steps)}; alpha {blind['alpha']}, {free['alpha']}")


def exponents() -> None:
    runs = runs_of(LADDER)
    for factor, words in ((None, ", with a step where the depth changes"), ("none", "")):
        title(f"exponents of the ladder, averaged over forms{words}")
        for name in runs.group_names:
            found = forcelaw.average(runs.select(name), factor=factor)
            weights = ", ".join(f"{form.name} {form.weight:.2f}" for form in found.standing)
            numbers = ", ".join(f"{k} {value}" for k, value in found.estimates.items() if k != "b")
            print(f"{name:15} {numbers} ({weights})")


def diagnosis() -> None:
    title("diagnosis of the additive surface, the ladder's columns: checks that fail")
    everything = Runs.from_frame(RESULTS / LADDER / "runs.parquet")
    sweeps = everything.select(where="kind == 'sweep'")
    runs = runs_of(LADDER)
    for name in runs.group_names:
        sweep = sweeps.select(name) if name in sweeps.group_names else None
        found = forcelaw.diagnose(runs.select(name), sweep=sweep)
        failed = [
            f"{c.name}" + (f" (p = {c.p:.2g})" if c.p is not None else "") for c in found.failed
        ]
        print(f"{name}: {'; '.join(failed) or 'none'}")


def main() -> int:
    print("python benchmarks/verdict.py > results/verdict.txt")
    for part in (
        ladder,
        second_ladder,
        equal_width,
        heads,
        tensor_order,
        symmetry_loss,
        depth,
        exponents,
        diagnosis,
    ):
        part()
    return 0


if __name__ == "__main__":
    sys.exit(main())
