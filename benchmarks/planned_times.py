"""Rates by which `forcelaw run --plan --device cuda` plans, fitted to what committed runs and speed
tables took, and their error.

    python benchmarks/planned_times.py [--write]      # --write: src/forcelaw/study/step_times.json

Seconds of a step = step + layer * depth + flop * FLOPs, nonnegative least squares of relative
errors, for each architecture and kind of forces, of one H200. Runs: results/*/runs.jsonl, seconds
of steps when a run has the card for itself (of runs side by side a sample is timed), without
evaluations. Rows of speed: results/h200/gradient_forces.txt, last call, and
results/h200/columns_check.txt. Where two rows carry two rates the fit is exact and says
nothing. Studies of options and of other data test the rates and are not fitted.
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
from forcelaw.study.cost import Rate, seconds_of
from forcelaw.training.config import cost_factor
from forcelaw.training.spec import data_options

ROOT = Path(__file__).resolve().parent.parent
# of the H100's runs those with the kernels of today; older code was up to three times as slow. They
# test the rates of the H200, which has run most; GemNet-OC has run on an H100 only
H100 = {"depth": ("mpnn", "painn", "esen"), "symmetry_ladder": ("gemnet_oc",)}
TESTS = ("heads_again", "rmd17", "wbe", "symmetry_breaks")
# many processes on a card, whose steps took 2 to 15 times as long as alone (LABLOG.md)
CROWDED = ("field", "symmetry_transfer")
# architectures whose kernels are younger than other studies: widths of symmetry_transfer that ran
# with these, and with nothing beside them
ALONE = {"attention": (32, 72), "platonic": (144,)}
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
        ours = [p for p in points if p.card == "H200"] or points
        rate = fit([p for p in ours if p.source not in TESTS])
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
    if args.write:
        to = ROOT / "src" / "forcelaw" / "study" / "step_times.json"
        to.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
