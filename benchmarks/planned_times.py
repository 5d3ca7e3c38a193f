"""Rates by which `forcelaw run --plan --device cuda` plans, fitted to what committed runs and speed
tables took, and their error; then the same for whole studies whose runs are trained side by side.

    python benchmarks/planned_times.py [--write]      # --write: src/forcelaw/study/step_times.json

Seconds of a step = step + layer * depth + flop * FLOPs, nonnegative least squares of relative
errors, for each architecture and kind of forces, of one H200. Runs: results/*/runs.jsonl, seconds
of steps when a run has the card for itself (of runs side by side a sample is timed), without
evaluations. Rows of speed: results/h200/gradient_forces.txt, last call, and
results/h200/columns_check.txt. Where two rows carry two rates the fit is exact and says
nothing. Studies of options and of other data test the rates and are not fitted.

Whole studies: planned hours of a card over those that it was held (start, preparation and
evaluation included), of H200 studies whose runs have all ended. NOT_SHARED is the share by which
the sum of |ln| is least over those that were held for LONG seconds or more; in shorter ones starts
and the ends of leases are much of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from forcelaw.data.pack import Pack, sample_path
from forcelaw.models import architecture
from forcelaw.models.sizing import size
from forcelaw.study import cost
from forcelaw.study.cost import Rate, gpu_rate, seconds_of, times_of, wall_seconds
from forcelaw.training.config import cost_factor
from forcelaw.training.spec import data_options

ROOT = Path(__file__).resolve().parent.parent
# of the H100's runs those with the kernels of today; older code was up to three times as slow. They
# test the rates of the H200, which has run most; GemNet-OC has run on an H100 only
H100 = {"depth": ("mpnn", "painn", "esen"), "symmetry_ladder": ("gemnet_oc",)}
TESTS = ("heads_again", "rmd17", "wbe", "symmetry_breaks")
TESTS += ("ladder_2_columns", "ladder_2_columns_slow", "ladder_2_columns_gemnet")
# many processes on a card, whose steps took 2 to 15 times as long as alone (LABLOG.md)
CROWDED = ("field", "symmetry_transfer")
# architectures whose kernels are younger than other studies: widths of symmetry_transfer that ran
# with these, and with nothing beside them
ALONE = {"attention": (32, 72), "platonic": (144,)}
OLD_KERNELS = ("symmetry_dial", "symmetry_rates")  # platonic and attention by plain torch
LONG = 400.0
COLUMNS = ROOT / "results" / "h200" / "columns_check.txt"
SPEED = ROOT / "results" / "h200" / "gradient_forces.txt"
KINDS = {"direct": "direct", "gradient": "conservative"}


class Point(NamedTuple):
    card: str
    architecture: str
    forces: str
    source: str
    spec: dict[str, Any]
    seconds: float  # of the run


def runs() -> Iterator[Point]:
    seen: set[str] = set()  # a run that one study took from another is in both tables
    for file in sorted((ROOT / "results").glob("*/runs.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            spec, result = row["spec"], row.get("result") or {}
            words = str(result.get("device", "")).split()
            if result.get("status") != "finished" or words[:1] != ["NVIDIA"]:
                continue
            card, model = words[1], spec["model"]
            study, name = file.parent.name, model["architecture"]
            alone = study == "symmetry_transfer" and model["width"] in ALONE.get(name, ())
            if not alone and (study in CROWDED or name in ALONE):
                continue
            if row["run"] in seen:
                continue
            seen.add(row["run"])
            if (card == "H100" and name not in H100.get(study, ())) or spec["cost_factor"] > 2:
                continue
            yield Point(
                *(card, name, model["forces"], study),
                *(spec, result["seconds"]),
            )


def speeds() -> Iterator[Point]:
    """Rows of the last call in :data:`SPEED`, as runs of one step without evaluations."""
    options = data_options(Pack(sample_path()))
    text = SPEED.read_text()
    for line in text[text.rindex("second time") :].splitlines():
        words = line.split()
        if len(words) < 4 or words[1] not in KINDS:
            continue
        name, forces = words[0], KINDS[words[1]]
        config = size(name, 1e6, forces=forces, **options)
        flops = architecture(name).flops_for(config)
        spec = {
            "label": name,
            "model": {"depth": config.depth, "mean_degree": options["mean_degree"]},
            "flops_per_edge": flops.per_edge,
            "flops_per_atom": flops.per_atom,
            "cost_factor": cost_factor(forces, 0),
            "steps": 1,
            "batch_atoms": float(words[2]),
        }
        yield Point("H200", name, forces, "speed", spec, 1e-3 * float(words[3]))


def columns() -> Iterator[Point]:
    """Rows of :data:`COLUMNS` for architectures that :func:`speeds` has not, as runs of one step:
    of the first call attention's, of the last platonic's, both by their kernels."""
    _, first, *_, last = COLUMNS.read_text().split("benchmarks/columns_check.py")
    lines = [("attention", line) for line in first.splitlines()]
    lines += [("platonic", line) for line in last.partition("MOST_CHANNELS")[0].splitlines()]
    for name, line in lines:
        words = line.split()
        if not words or words[0].partition(":")[0] != name:
            continue
        depth = size(name, 1e6, **data_options(Pack(sample_path()))).depth
        spec = {
            "label": name,
            "model": {"depth": depth, "mean_degree": 0.0},
            "flops_per_edge": 0.0,
            "flops_per_atom": 1e9 * float(words[7]) / 3.0,  # of all atoms
            "cost_factor": 1.0,
            "steps": 1,
            "batch_atoms": 1.0,
        }
        yield Point("H200", name, "direct", "columns", spec, 1e-3 * float(words[6]))


def fit(points: list[Point]) -> Rate:
    kinds = [Rate(1, 0, 0), Rate(0, 1, 0), Rate(0, 0, 1)]
    columns = np.array([[planned(p, kind) / p.seconds for kind in kinds] for p in points])
    one_depth = len({p.spec["model"]["depth"] for p in points}) == 1
    if one_depth:  # what a step takes anyway counts as much as a layer (H100: .6 to 1.8 layers)
        columns[:, 2] += columns[:, 0]
        columns[:, 0] = 0.0
    step, flop, layer = nnls(columns, np.ones(len(points)))[0]
    return Rate(*(float(f"{x:.3g}") for x in (layer if one_depth else step, flop, layer)))


def planned(point: Point, rate: Rate) -> float:
    """Seconds of the steps alone, which is what the books count."""
    spec = point.spec | {"train": {"evaluations": 0, "validation_structures": 0}}
    return seconds_of(spec, {spec["label"]: rate})


class Held(NamedTuple):
    study: str
    specs: list[dict[str, Any]]
    rates: dict[str, Rate]
    cards: int
    seconds: float  # that the cards were held, all together

    def planned(self) -> float:
        times = [times_of(spec, self.rates, shared=True) for spec in self.specs]
        return self.cards * wall_seconds(times, self.cards)

    def alone(self) -> float:
        return sum(seconds_of(spec, self.rates) for spec in self.specs)


def held() -> Iterator[Held]:
    for file in sorted((ROOT / "results").glob("*/provenance.json")):
        found = json.loads(file.read_text())
        paid, study = found.get("cost", {}), file.parent.name
        h200 = list(paid.get("devices", {})) == ["NVIDIA H200"]
        if (
            not h200
            or paid["shared"]
            or list(paid["runs"]) != ["finished"]
            or study in (*CROWDED, *OLD_KERNELS)
        ):
            continue
        lines = (file.parent / "runs.jsonl").read_text().splitlines()
        specs = [json.loads(line)["spec"] for line in lines]
        models = {spec["label"]: spec["model"] for spec in specs}
        rates = {
            label: gpu_rate(model["architecture"], model["forces"])
            for label, model in models.items()
        }
        cards = max(piece["devices"] for piece in found["pieces"].values())
        yield Held(study, specs, rates, cards, 3600 * paid["held_hours"])


def side_by_side() -> None:
    print("\nplanned over held seconds of studies whose runs are side by side, and one at a time")
    print(f"{'study':<26}{'runs':>5}{'cards':>6}{'held':>7}{'planned':>8}{'over':>6}{'alone':>7}")
    studies = list(held())
    for one in studies:
        over, alone = one.planned() / one.seconds, one.alone() / one.seconds
        print(
            f"{one.study:<26}{len(one.specs):>5}{one.cards:>6}{one.seconds:>7.0f}"
            f"{one.planned():>8.0f}{over:>6.2f}{alone:>7.2f}"
        )
    studies = [one for one in studies if one.seconds >= LONG]
    present, errors = cost.NOT_SHARED, {}
    for share in np.round(np.arange(0.1, 1.01, 0.05), 2):
        cost.NOT_SHARED = float(share)
        errors[float(share)] = sum(abs(np.log(one.planned() / one.seconds)) for one in studies)
    cost.NOT_SHARED = present
    best = min(errors, key=lambda share: errors[share])
    print(f"NOT_SHARED: {present}; mean |ln| {errors[present] / len(studies):.2f}", end=", ")
    print(f"least at {best}: {errors[best] / len(studies):.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in (*runs(), *speeds(), *columns()):
        groups[point.architecture, point.forces].append(point)
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    print("planned over true seconds of steps, by rates of an H200 where it has any")
    print(f"{'':<34}{'rows':>5}{'least':>7}{'10%':>6}{'half':>6}{'90%':>6}{'most':>6}")
    for (name, forces), points in sorted(groups.items()):
        fitted = [p for p in points if p.source not in TESTS]
        rate = fit([p for p in fitted if p.card == "H200"] or fitted)
        found[name][forces] = list(rate)
        print(
            f"{name}, {forces} forces: {rate.step:g} s, {rate.layer:g} s a layer,"
            f" {rate.flop:g} s a FLOP"
        )
        by = defaultdict(list)
        for p in points:
            by[f"{p.card} {p.source}"].append(planned(p, rate) / p.seconds)
        for source, ratios in sorted(by.items()):
            quantiles = np.quantile(ratios, [0, 0.1, 0.5, 0.9, 1])
            print(f"    {source:<30}{len(ratios):>5} " + "".join(f"{q:6.2f}" for q in quantiles))
    side_by_side()
    if args.write:
        to = ROOT / "src" / "forcelaw" / "study" / "step_times.json"
        to.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
