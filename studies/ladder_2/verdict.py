"""What ladder_2 says, in the numbers of results/README.md, from committed tables alone.

    python studies/ladder_2/merged.py
    python studies/ladder_2/verdict.py > results/ladder_2/verdict.txt

1. Exponents by batch, forms averaged, beside the paper's (arXiv 2510.09768, 64 molecules a step).
2. Which column for which budget, in FLOPs and in hours of a lone run, with the probability of being
   best: `forcelaw budget`. Atoms beyond the distinct ones of the table count as new ones there.
3. Beyond the runs: losses at the best N and D for 1e16 to 1e20 FLOPs, by the coupled law with its
   floor free and without a floor. Where the two disagree, more compute has to decide. gamma there
   is of counted FLOPs, k N^p D^q with p below 1; that of 1. is of C = k N D, as the paper has it.
   Then the floors of the two terms of the loss, each by itself, and where PaiNN overtakes eSEN by
   these laws, with and without eSEN's largest size.
4. What the study cost: FLOPs, hours of runs alone and held hours. A run that another table has too
   is counted where it was trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

import forcelaw
from forcelaw.laws.decide.allocation import Cost
from forcelaw.report.paper import published

RESULTS = Path("results")
PAPER = {"gamma": "gamma_c", "beta": "beta", "alpha": "alpha"}
FLOPS = (1e13, 1e14, 1e15, 1e16, 1e17)
HOURS = (0.003, 0.01, 0.1, 1.0)
BEYOND = (1e16, 1e17, 1e18, 1e19, 1e20)


def columns(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for (name,), rows in table.group_by(["architecture"], maintain_order=True):
        yield str(name), rows


def exponents(table: pl.DataFrame) -> None:
    print("1. exponents, forms averaged\n")
    for batch in (16, 64):
        for name, rows in columns(table.filter(batch=batch)):
            found = forcelaw.average(rows)
            numbers = (f"{key} {found.estimates[key]}" for key in ("gamma", "beta", "alpha", "a"))
            forms = (
                f"{form.name} {form.weight:.2f}"
                for form in found.forms
                if form.weight > 0.005 and "=" not in form.name  # a tied one is judged apart
            )
            print(f"{name:<13}{', '.join(numbers)}; {', '.join(forms)}")
            paper = published(name.removesuffix(" (64)"))
            if paper:
                told = {key: getattr(paper, of) for key, of in PAPER.items()}
                numbers = (f"{key} {value}" for key, value in told.items() if value is not None)
                print(f"{'':<13}the paper: {', '.join(numbers)}")


def budgets(table: pl.DataFrame) -> None:
    print("\n2. the best N and D within a budget, 16 structures a step\n")
    rows = table.filter(batch=16)
    asked = [{"flops": c} for c in FLOPS] + [{"hours": h} for h in HOURS]
    for budget in asked:
        print(", ".join(f"{value:g} {unit}" for unit, value in budget.items()))
        for choice in forcelaw.budget(rows, **budget).choices:
            if not choice.ok:
                print(f"  {choice.group:<9}no answer: {choice.reason}")
                continue
            low, high = choice.loss_low, choice.loss_high
            print(
                f"  {choice.group:<9}N {choice.n:8.2g}, D {choice.d:8.2g}: {choice.loss:.4f}"
                f" [{low:.4f}, {high:.4f}], best with P {choice.p_best:.2f}"
            )


def beyond(table: pl.DataFrame) -> None:
    print("\n3. losses at the best N and D, coupled law with its floor free, and without\n")
    print(f"{'FLOPs':<9}{''.join(f'{c:>18.0e}' for c in BEYOND)}")
    for name, rows in columns(table.filter(batch=16)):
        roles = {role: rows[role].to_numpy() for role in ("n", "d")}
        cost = Cost.of(forcelaw.Runs.from_frame(rows))
        laws = [forcelaw.fit(rows, "coupled", floor=floor) for floor in ("free", "zero")]
        best = [forcelaw.compute_optimal(law, cost) for law in laws]
        losses = (one.loss(BEYOND) for one in best)
        cells = "".join(f"{free:>10.4f},{zero:>7.4f}" for free, zero in zip(*losses))
        off = (np.log(law.predict(**roles) / rows["loss"].to_numpy()) for law in laws)
        rms = ", ".join(f"{np.sqrt(np.mean(errors**2)):.1%}" for errors in off)
        print(f"{name:<9}{cells}   rms {rms}; E {laws[0].estimates['E']}")
        print(
            f"{'':<9}gamma in counted FLOPs: {best[0].gamma}, {best[1].gamma};"
            f" C ~ N^{cost.p:.2f} D^{cost.q:.2f}"
        )
        terms = []
        for term in ("forces", "energy"):
            alone = rows.with_columns(loss=pl.col(f"loss_{term}"))
            floor = forcelaw.fit(alone, "coupled").estimates["E"]
            terms.append(f"{term} {floor} of {alone['loss'].min():.4f}")
        print(f"{'':<9}E of each term of the loss, and its lowest value: {', '.join(terms)}")


def overtaken(table: pl.DataFrame) -> None:
    """From how many FLOPs on PaiNN has the lower loss, floors free."""

    def best(rows: pl.DataFrame, at: np.ndarray) -> np.ndarray:
        law, cost = forcelaw.fit(rows, "coupled"), Cost.of(forcelaw.Runs.from_frame(rows))
        return np.asarray(forcelaw.compute_optimal(law, cost).loss(at))

    flops = np.logspace(16, 24, 801)
    rows = table.filter(batch=16)
    leads, other = (rows.filter(architecture=name) for name in ("eSEN L2", "PaiNN"))
    below = leads.filter(pl.col("n") < leads["n"].max())
    for runs, name in ((leads, "all its runs"), (below, "those below its largest size")):
        higher = best(runs, flops) > best(other, flops)
        where = f"at {flops[higher.argmax()]:.1e} FLOPs" if higher.any() else "nowhere to 1e24"
        print(f"PaiNN overtakes eSEN, by {name}: {where}")


def cost() -> None:
    print("\n4. what it cost\n")
    print(f"{'study':<28}{'runs':>5}{'FLOPs':>9}{'hours alone':>13}{'held':>7}")
    total = np.zeros(3)
    for path in sorted(RESULTS.glob("ladder_2_*/provenance.json")):
        found = json.loads(path.read_text())["cost"]
        runs = sum(found["runs"].values()) - found["shared"]
        if runs:  # else all of them are counted where they were trained
            spent = [found[key] for key in ("flops", "solo_hours", "held_hours")]
            total += spent
            print(
                f"{path.parent.name:<28}{runs:>5}{spent[0]:>9.1e}{spent[1]:>13.3f}{spent[2]:>7.3f}"
            )
    print(f"{'all':<33}{total[0]:>9.1e}{total[1]:>13.2f}{total[2]:>7.2f}")


def main() -> int:
    table = pl.read_parquet(RESULTS / "ladder_2" / "runs.parquet")
    exponents(table)
    budgets(table)
    beyond(table)
    overtaken(table)
    cost()
    return 0


if __name__ == "__main__":
    sys.exit(main())
