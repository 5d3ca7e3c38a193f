"""Does the best learning rate stay put with the width? Read by the rules in transfer.yaml.

    python studies/symmetry/transfer.py TABLE [--losses] [--rate eSEN=0.0074 PaiNN=0.0063]

TABLE: a directory of runs (out/symmetry_transfer) or of exported evidence. For each column: the
best rate at each width, a trailing mark where it lies at an end (`<`, `>`) or the losses have no
minimum (`?`); the slope of its logarithm in log width, between the narrowest and the widest; the
cost at the widest width of the rate that is best at the narrowest; that of the one rate of the
sweeps which serves all widths best, at the width where it serves worst; and the verdict. --losses:
every final loss below its column. --rate: what a rate that another study took costs at each width,
by the parabola, for columns whose label begins like that. A diverged run is one of infinite loss;
sweeps that are not over at a width are left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np
import polars as pl

from forcelaw.store.sweep import vertex
from forcelaw.table.read import read

NEAR = 2.0  # best rates within this factor are the same: a step of the sweeps
CLOSE = 0.03  # a cost below it is none
LEAST = 3  # runs of a sweep that have to finish
OVER = ("finished", "diverged", "failed")
# seeds of these differ by more than those of networks that pass messages
TRANSFORMERS = ("C1", "T", "O", "I", "attention")
MARKS = {"": " ", "low end": "<", "high end": ">", "no minimum": "?"}


@dataclass(frozen=True)
class AtWidth:
    """The sweep of one column at one width: final losses (infinite where a run diverged) by
    ascending rate."""

    width: int
    n: int
    losses: dict[float, float]

    @property
    def finite(self) -> dict[float, float]:
        return {rate: loss for rate, loss in self.losses.items() if math.isfinite(loss)}

    @property
    def best(self) -> float:
        """The rate of the lowest loss."""
        return min(self.losses, key=self.losses.__getitem__)

    def found(self) -> tuple[float, str]:
        """Best rate between the sweep's, and why it is not inside, if it is not. A rate below one
        that diverged is not at an end: beyond it is worse."""
        finite = self.finite
        if len(finite) < LEAST:
            return (self.best if finite else math.nan), "no minimum"
        rate, _, end = vertex(list(finite), list(finite.values()))
        if end == "high end" and max(self.losses) > max(finite):
            end = ""
        return rate, end

    def near(self, rate: float) -> float:
        """Loss at a rate over that at the best one, by the parabola; nan where there is none."""
        finite = self.finite
        if len(finite) < LEAST:
            return math.nan
        best, curvature, _ = vertex(list(finite), list(finite.values()))
        return math.exp(curvature * math.log(rate / best) ** 2)

    def cost(self, rate: float) -> float:
        """Loss at a rate over the lowest. Of a rate beyond the sweep that of the nearest: a bound
        from below, where losses rise towards that end."""
        nearest = min(self.losses, key=lambda known: abs(math.log(known / rate)))
        return self.losses[nearest] / self.losses[self.best]


def sweeps(frame: pl.DataFrame) -> dict[str, list[AtWidth]]:
    """Column -> its sweeps by ascending width, from runs of seed 0 that are over."""
    swept = frame.filter(pl.col("kind") == "sweep")
    of = ["architecture", "width"]
    over = swept.filter(pl.col("status").is_in(OVER).all().over(of))
    ends = over.sort("d").group_by("run", maintain_order=True).last()
    found: dict[str, list[AtWidth]] = {}
    groups = ends.sort(*of, "lr").group_by(of, maintain_order=True)
    for (name, width), rows in groups:
        losses = {
            row["lr"]: row["loss"] if row["status"] == "finished" else math.inf
            for row in rows.iter_rows(named=True)
        }
        found.setdefault(str(name), []).append(AtWidth(int(width), int(rows["n"][0]), losses))
    return found


def seed_spread(frame: pl.DataFrame) -> tuple[float, int]:
    """Standard deviation of the log loss of one run among seeds, and its degrees of freedom: from
    runs that have repeats of the same column, width and rate."""
    ends = frame.filter(pl.col("status") == "finished").sort("d").group_by("run").last()
    square, freedom = 0.0, 0
    for _, same in ends.group_by("architecture", "width", "lr"):
        logs = np.log(same["loss"].to_numpy())
        if same["seed"].n_unique() == len(same) > 1:
            square += float(((logs - logs.mean()) ** 2).sum())
            freedom += len(same) - 1
    return (math.sqrt(square / freedom) if freedom else math.nan), freedom


@dataclass(frozen=True)
class Transfer:
    """What is said of a column. slope: of the log of best rates in log width; cost: at the widest
    width, of the best rate of the narrowest, as a ratio; one: the rate that serves all widths best,
    and its cost where it serves worst."""

    best: list[tuple[float, str]]
    slope: float
    cost: float
    one: tuple[float, float]
    verdict: str


def judge(found: list[AtWidth], close: float) -> Transfer:
    """The rules of transfer.yaml for one column. close: cost below which there is none."""
    best = [at.found() for at in found]
    narrow, wide = found[0], found[-1]
    rates = [rate for rate, _ in best]
    slope = math.log(rates[-1] / rates[0]) / math.log(wide.width / narrow.width)
    cost = wide.cost(narrow.best)
    shared = set.intersection(*(set(at.losses) for at in found))
    costs = {rate: max(at.cost(rate) for at in found) for rate in shared}
    one = min(costs.items(), key=lambda item: item[1])
    if best[0][1]:
        verdict = "open"
    elif cost > 1 + close:
        verdict = "does not transfer"  # of a sweep that ends too early the cost is a bound
    elif any(end for _, end in best) or narrow.best not in wide.losses:
        verdict = "open"
    elif max(rates) / min(rates) > NEAR:
        verdict = "harmless"
    else:
        verdict = "transfers"
    return Transfer(best, slope, cost, one, verdict)


def show(name: str, found: list[AtWidth], close: float) -> None:
    """One row of a column."""
    best = [at.found() for at in found]
    bests = "  ".join(f"{at.width}: {rate:.1e}{MARKS[end]}" for at, (rate, end) in zip(found, best))
    row = f"{name:<20}{f'{found[-1].n / found[0].n:.0f}x':>5}  {bests:<42}"
    if len(found) < 2 or not all(at.finite for at in found):
        print(f"{row}{'':>34}  open: fewer than two widths")
        return
    said = judge(found, close)
    print(
        f"{row}{said.slope:>+7.2f}{100 * (said.cost - 1):>+8.1f}%"
        f"{said.one[0]:>10.1e}{100 * (said.one[1] - 1):>+7.1f}%  {said.verdict}"
    )


def details(name: str, found: list[AtWidth], losses: bool, rates: dict[str, float]) -> None:
    """What is below a row: costs of rates that were taken elsewhere, final losses."""
    for of, rate in rates.items():
        if name.startswith(of):
            listed = "  ".join(f"{at.width}: {100 * (at.near(rate) - 1):+.1f}%" for at in found)
            print(f"    {rate:g} costs by width  {listed}")
    for at in found if losses else []:
        listed = "  ".join(f"{rate:g}: {loss:.4f}" for rate, loss in at.losses.items())
        print(f"    width {at.width}, N = {at.n:,}: {listed}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table")
    parser.add_argument("--losses", action="store_true", help="every final loss")
    parser.add_argument("--rate", nargs="+", default=[], metavar="LABEL=RATE")
    args = parser.parse_args()
    rates = {label: float(rate) for label, _, rate in (text.rpartition("=") for text in args.rate)}
    frame = read(args.table).frame
    transformer = pl.col("architecture").is_in(TRANSFORMERS)
    for title, of in (("transformers", transformer), ("message passing", ~transformer)):
        part = frame.filter(of)
        sd, freedom = seed_spread(part)
        close = max(CLOSE, 2 * math.sqrt(2) * sd) if freedom else CLOSE
        known = f"seeds differ by {100 * sd:.1f}% ({freedom} repeats)" if freedom else "no repeats"
        print(f"{title}: {known}; a cost is close to 1 below {100 * close:.1f}%")
        heads = f"{'slope':>7}{'cost':>9}{'one rate':>10}{'costs':>8}  verdict"
        print(f"{'column':<20}{'N':>5}  {'best rate by width':<42}{heads}")
        for name, found in sweeps(part).items():
            show(name, found, close)
            details(name, found, args.losses, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
