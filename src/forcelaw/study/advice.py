"""What the runs of a plan cannot carry, and what would: said before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..progress import digits
from ..store.sweep import TIMES_LONGER
from ..table.doubts import BURN_IN_STEPS
from ..training.config import TrainOptions, evaluation_steps
from .config import Study, label_of

if TYPE_CHECKING:
    from ..training.spec import DataSummary
    from .plan import Plan, PlannedRun

LEAST_STEPS = 3 * BURN_IN_STEPS  # of a run
LEAST_SIZES = 5  # that touch the frontier, for an exponent without bias
LEAST_SPAN = 30.0  # of N: a decade and a half
LEAST_EVALUATIONS = 4  # of a run beyond the burn-in
MOST_PASSES = 4.0  # over the data, up to which repeats count nearly as fresh data


def advise(study: Study, data: DataSummary, planned: Plan) -> list[str]:
    """Sentences, most serious first; none where the plan can carry a law."""
    grid = [run for run in [*planned.runs, *planned.waiting] if run.kind == "grid"]
    if not grid:
        return []
    advice = [*_protocols(grid), *_kinds_of_forces(grid), *_burn_in(grid), *_passes(grid)]
    advice += [*_short_sweeps(study, planned), *_same_sizes(study, data)]
    advice += [*_sizes(study, grid), *_seeds(study)]
    if data.validation is not None and data.validation < 100:
        advice.append(
            f"only {data.validation} validation structures: losses carry an error of some"
            f" {100 / math.sqrt(data.validation):.0f}% that more runs do not average away; prepare"
            " with a larger --val-fraction, or give --validation files"
        )
    return advice


def _protocols(grid: list[PlannedRun]) -> list[str]:
    """Entries that are not trained by schedule-free AdamW at a constant rate."""
    found: dict[str, list[str]] = {}
    for run in grid:
        words = TrainOptions(**run.spec["train"]).protocol
        if words and run.label not in found.setdefault(words, []):
            found[words].append(run.label)
    return [
        f"{', '.join(labels)}: not under the protocol of the others, but with {words}"
        + ("; only the last evaluation of each run counts" if "decay" in words else "")
        for words, labels in found.items()
    ]


def _kinds_of_forces(grid: list[PlannedRun]) -> list[str]:
    """Entries with gradient forces beside entries with direct ones."""
    of = {run.label: run.spec["model"].get("forces") for run in grid}
    gradient = [label for label, kind in of.items() if kind == "conservative"]
    direct = [label for label, kind in of.items() if kind == "direct"]
    if not (gradient and direct):
        return []
    return [
        f"{', '.join(gradient)}: forces are the gradient of the energy, and an output of their own"
        f" of {', '.join(direct)}: what differs is not the architecture alone"
    ]


def _later(run: PlannedRun) -> int:
    """Evaluations of a run beyond the burn-in."""
    options = TrainOptions(**run.spec["train"])
    if options.decay:  # only its last evaluation counts
        return LEAST_EVALUATIONS * (run.spec["steps"] >= BURN_IN_STEPS)
    return sum(step >= BURN_IN_STEPS for step in evaluation_steps(run.spec["steps"], options))


def _burn_in(grid: list[PlannedRun]) -> list[str]:
    """Runs that are over, or nearly so, before the first evaluation that a fit counts."""
    by_label: dict[str, list[PlannedRun]] = {}
    for run in grid:
        by_label.setdefault(run.label, []).append(run)
    later = {label: max(map(_later, runs)) for label, runs in by_label.items()}
    out = []
    for none in (True, False):
        labels = [k for k, n in later.items() if n < LEAST_EVALUATIONS and (n == 0) == none]
        if not labels:
            continue
        runs = [run for label in labels for run in by_label[label]]
        steps = max(run.spec["steps"] for run in runs)
        need = LEAST_STEPS * max(run.spec["batch_atoms"] for run in runs)
        what = "all of a run is burn-in" if none else "too few evaluations lie beyond the burn-in"
        out.append(
            f"{', '.join(labels)}: at most {steps:,} steps, and the first {BURN_IN_STEPS} are left"
            f" out of every fit: {what}. {LEAST_STEPS:,} steps would do (atoms:"
            f" {digits(need)}), or fewer structures a step (train.batch_molecules)"
            + ("" if none else ", or more train.evaluations")
        )
    return out


def _passes(grid: list[PlannedRun]) -> list[str]:
    passes = max(run.spec["epochs"] for run in grid)
    if passes <= MOST_PASSES:
        return []
    least = min(run.spec["train_atoms"] for run in grid if run.spec["epochs"] > MOST_PASSES)
    return [
        f"the training set is seen up to {passes:.1f} times: beyond {MOST_PASSES:g} passes a"
        f" repeated atom is worth less than a fresh one, and a law in D mixes both. At most atoms:"
        f" {digits(MOST_PASSES * least)} for these data, or law data_constrained"
    ]


def _short_sweeps(study: Study, planned: Plan) -> list[str]:
    """Sweeps whose runs are much shorter than those that take their rate."""
    longest: dict[tuple[str, str], float] = {}
    for run in [*planned.runs, *planned.waiting]:
        key, d = (run.label, run.kind), run.spec["steps"] * run.spec["batch_atoms"]
        longest[key] = max(d, longest.get(key, 0.0))
    times = {}
    for entry in study.architectures:
        label = label_of(entry)
        swept = longest.get((entry.sweep_of or label, "sweep"))
        if swept and (label, "grid") in longest:
            times[label] = longest[label, "grid"] / swept
    late = {label: factor for label, factor in times.items() if factor >= TIMES_LONGER}
    if not late:
        return []
    need = max(longest[label, "grid"] for label in late) / 4.0
    return [
        f"{', '.join(late)}: runs see {_range(tuple(late.values()))} times the atoms of the swept"
        " ones. The best learning rate falls with the length of a run, and one that is too high"
        " bends the law in D like a floor: learning_rate.sweep.atoms:"
        f" {digits(need)}, or a law of the rate (`forcelaw rates` makes one of sweeps)"
    ]


def _sizes(study: Study, grid: list[PlannedRun]) -> list[str]:
    """Architectures whose sizes are too few, or too near each other."""
    short: dict[str, tuple[int, float]] = {}
    for label in map(label_of, study.architectures):
        sizes = {run.spec["n"] for run in grid if run.label == label}
        if sizes:
            span = max(sizes) / min(sizes)
            if len(sizes) < LEAST_SIZES or span < LEAST_SPAN:
                short[label] = len(sizes), span
    if not short:
        return []
    counts, spans = zip(*short.values())
    ladder = [
        min(study.sizes) * (LEAST_SPAN * 1.2) ** (k / (LEAST_SIZES - 1)) for k in range(LEAST_SIZES)
    ]
    noun = "size" if max(counts) == 1 else "sizes"
    return [
        f"{', '.join(short)}: {_range(counts)} {noun} over a factor of {_range(spans)} in N; an"
        f" exponent takes {LEAST_SIZES} over a factor of {LEAST_SPAN:g}, for example sizes:"
        f" [{', '.join(map(digits, ladder))}]"
    ]


def _same_sizes(study: Study, data: DataSummary) -> list[str]:
    """Target sizes of an architecture that one and the same model comes nearest to."""
    from .plan import model_config

    found: dict[str, list[str]] = {}
    for entry in study.architectures:
        targets: dict[Any, list[str]] = {}
        for size in study.sizes_of(entry):
            config = model_config(study, data, entry, size)
            targets.setdefault(config, []).append(digits(size))
        for sizes in targets.values():
            if len(sizes) > 1:
                found.setdefault(" and ".join(sizes), []).append(label_of(entry))
    return [
        f"{', '.join(labels)}: the model nearest to {sizes} is the same, and is trained once"
        for sizes, labels in found.items()
    ]


def _range(values: Sequence[float]) -> str:
    low, high = (f"{float(f'{x:.2g}'):g}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _seeds(study: Study) -> list[str]:
    entries = study.architectures
    repeated = [e for e in entries if any(len(study.seeds_of(e, n)) > 1 for n in study.sizes_of(e))]
    if repeated:
        return []
    sizes = sorted(study.sizes)
    some = ", ".join(digits(n) for n in dict.fromkeys([sizes[0], sizes[-1]]))
    return [
        "no size has several seeds, so a misfit of the law cannot be told from noise: replicates:"
        f" {{sizes: [{some}], seeds: [1, 2]}}"
    ]
