"""Do columns of one table err together when their largest runs are forecast?

    python benchmarks/shared_errors.py FOLDER [--json OUT] > results/laws/shared_errors.txt

FOLDER: copies of the published repositories, as of real_forecasts.py. Columns are the tables of one
source (corpora, routings) and the architectures of our own studies (results/). As in `forecast` the
targets are the runs with at least half of the largest compute, and what is fitted has a tenth of
the compute of the smallest target or less; the same again with all runs above a third and a tenth
of the largest compute left out.

An error is the mean over a column's targets of ln(said / true). Its variance has a part of the
column's own, the scatter of its runs, and one of the laws, how far they disagree and what grows
with the distance beyond their data. If columns share a fraction rho of the variance of the latter,

    var of the difference = own_a^2 + own_b^2 + misfit_a^2 + misfit_b^2 - 2 rho misfit_a misfit_b.

Printed for each source: root mean square of error / sd of columns alone, then, for several rho, of
the differences of all pairs, and how many of these lie in their 95% interval. sds are right where
the first is 1, and rho where the others are.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from published_tables import READERS, SOURCES

from forcelaw.cli.forecast_runs import runs_of
from forcelaw.errors import ForcelawError
from forcelaw.laws.decide.allocation import with_compute
from forcelaw.laws.decide.extrapolation import extrapolate
from forcelaw.laws.decide.forecast import last_row, of_architecture
from forcelaw.table.runs import Runs

PUBLISHED = "gemstones", "steplaw", "mammut", "gadre", "kempner", "routing", "marin", "openclip"
OURS = (
    ("ladder", "symmetry_ladder", None),
    ("ladder 2", "ladder_2", "batch == 16"),
    ("ladder 2, 64", "ladder_2", "batch == 64"),
    ("columns", "ladder_2_columns", None),
    ("tensor order", "tensor_order", None),
    ("rMD17", "rmd17", None),
    ("W-Be", "wbe", None),
    ("heads", "heads_again", None),
)
RHOS = (0.0, 0.5, 0.8)
SHARES = (1.0, 1 / 3, 1 / 10)  # of the largest compute, beyond which runs are left out
TOP, FRACTION = 0.5, 0.1


def columns(folder: Path, place: Path) -> Iterator[tuple[str, str, Runs]]:
    """(source, column, its runs)."""
    for source in PUBLISHED:
        root = folder / SOURCES[source][0].replace("/", "+")
        if not root.exists():
            print(f"{source}: no copy of {SOURCES[source][0]}, left out", file=sys.stderr)
            continue
        for name, frame in READERS[source](root):
            path = place / "table.parquet"
            frame.write_parquet(path)
            yield source, name, with_compute(runs_of(path), None)
    for source, folder_name, where in OURS:
        runs = with_compute(runs_of(Path("results") / folder_name, where=where), None)
        for name in runs.group_names:
            part = of_architecture(runs, name)
            if part is not None:
                yield source, name, part


def judged(runs: Runs, share: float) -> tuple[float, float, float] | None:
    """Mean error of the targets, its own sd and that of the misfit; None without a forecast."""
    ends = np.array([last_row(runs, k) for k in range(len(runs.run_names))])
    whole = runs["c"][ends]
    most = share * whole.max() * (1 + 1e-9)
    most = whole[whole <= most].max(initial=0.0)
    targets = ends[(whole >= TOP * most) & (whole <= most)]
    if not len(targets):
        return None
    limit = FRACTION * runs["c"][targets].min()
    part = runs.take((runs["c"] <= limit) & ~np.isin(runs.run, runs.run[targets]))
    if len(part) < 6:
        return None
    try:
        found = extrapolate(part, part["c"])
    except ForcelawError:
        return None
    if not found.ok or found.foretells is False:
        return None
    at = {role: runs[role][targets] for role in found.best.law.roles}
    budget = runs["c"][targets]
    mean, sd, misfit = found.moments(budget, **at)
    own = np.sqrt(np.maximum(sd**2 - misfit**2, 0.0))
    error = float(np.mean(mean - np.log(runs["loss"][targets])))
    alone = math.hypot(float(own.mean()), found.noise / math.sqrt(len(targets)))
    return error, alone, float(misfit.mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, list[list[tuple[float, float, float]]]] = {}
    names: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        for source, name, runs in columns(args.folder, Path(place)):
            names.setdefault(source, []).append(name)
            cases = found.setdefault(source, [[] for _ in SHARES])
            for case, share in zip(cases, SHARES):
                one = judged(runs, share)
                if one is not None:
                    case.append(one)
    if args.json:
        args.json.write_text(json.dumps(found))
    print(f"{'source':14} {'columns':>7} {'pairs':>5} {'alone':>6}", end="")
    print("".join(f"   rho {rho:.1f}: rms, inside" for rho in RHOS))
    lines: list[list[float]] = []
    for source, cases in found.items():
        pairs, numbers = differences(cases)
        if pairs:
            lines.append(numbers)
            print(told(source, str(len(names[source])), str(pairs), numbers))
    average = [float(np.mean(values)) for values in zip(*lines)]
    print(told(f"mean of {len(lines)}", "", "-", average))
    return 0


def differences(cases: list[list[tuple[float, float, float]]]) -> tuple[int, list[float]]:
    """Pairs; rms of columns alone, then rms and share inside of pairs for each rho."""
    alone = [e / math.hypot(own, misfit) for case in cases for e, own, misfit in case]
    pairs = [pair for case in cases for pair in combinations(case, 2)]
    if not pairs:
        return 0, []
    out = [rms(alone)]
    for rho in RHOS:
        z = [
            (a[0] - b[0])
            / math.sqrt(a[1] ** 2 + b[1] ** 2 + a[2] ** 2 + b[2] ** 2 - 2 * rho * a[2] * b[2])
            for a, b in pairs
        ]
        out += [rms(z), float(np.mean(np.abs(z) < 1.96))]
    return len(pairs), out


def rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def told(source: str, count: str, pairs: str, numbers: list[float]) -> str:
    alone, *rest = numbers
    text = f"{source:14} {count:>7} {pairs:>5} {alone:6.2f}"
    for value, inside in zip(rest[::2], rest[1::2]):
        text += f"   {'':5}{value:6.2f} {inside:8.0%}"
    return text


if __name__ == "__main__":
    sys.exit(main())
