"""A first study on given data: a commented file whose runs can carry a law, as far as the data
allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..progress import count, digits
from ..table.doubts import BURN_IN_STEPS
from .advice import LEAST_SIZES, LEAST_SPAN, LEAST_STEPS, MOST_PASSES

BATCH_ATOMS = 96  # a step: small steps are many, and their number decides the loss at first
STEPS = 4000  # of a run, where the data last that long
SMALLEST = 3e3  # parameters


@dataclass(frozen=True)
class Proportions:
    """What follows from the size of the training set: structures a step, length D in atoms, steps,
    passes over the data."""

    molecules: int
    atoms: float
    steps: int
    passes: float


def proportions(structures: int, atoms: int) -> Proportions:
    """structures, atoms: of the training set."""
    mean = atoms / structures
    molecules = int(np.clip(round(BATCH_ATOMS / mean), 1, 16))
    enough = MOST_PASSES * structures / LEAST_STEPS
    molecules = max(1, min(molecules, int(enough)))
    steps = int(np.clip(MOST_PASSES * structures / molecules, LEAST_STEPS, STEPS))
    total = float(digits(0.99 * steps * molecules * mean))
    return Proportions(molecules, total, steps, total / atoms)


def starter(
    name: str,
    data: str,
    *,
    structures: int,
    atoms: int,
    validation: int,
    architectures: list[str],
    charge_spin: bool = False,
) -> str:
    """The text of a study file. data: its ``data`` key. structures, atoms: of the training set.
    charge_spin: whether they differ in charge or spin."""
    p = proportions(structures, atoms)
    sizes = SMALLEST * np.geomspace(1, 1.3 * LEAST_SPAN, LEAST_SIZES + 1)
    ladder = ", ".join(digits(n) for n in sizes)
    repeated = f"{digits(sizes[1])}, {digits(sizes[3])}"
    quarter = digits(p.atoms / 4)
    passes = (
        "" if p.passes <= MOST_PASSES else " More than four: these data are few for a law in D."
    )
    states = (
        "\n# Structures differ in total charge or spin multiplicity: models see both\n"
        "charge_spin: true"
        if charge_spin
        else ""
    )
    return f"""\
# Training set: {structures:,} structures, {atoms:,} atoms. The plan: forcelaw run FILE --plan
name: {name}
description: A first study of {", ".join(architectures)} on {Path(data).name}.
data: {data}{states}
# forcelaw models lists all architectures; one line each, and any key below may be given there too
architectures: [{", ".join(architectures)}]
# N, parameters; an exponent takes {LEAST_SIZES} sizes over a factor of {LEAST_SPAN:g}, at one depth
sizes: [{ladder}]
depth: 3
# D, atoms seen in each run: {p.steps:,} steps (the first {BURN_IN_STEPS} count in no fit),
# {p.passes:.2g} passes over the training set.{passes}
atoms: {digits(p.atoms)}
train:
  batch_molecules: {p.molecules}       # few: the number of steps decides the loss at first
  evaluations: 20          # equally spaced in the logarithm of the step
  validation_structures: {min(validation, 1000)}
# The best rate is looked for at one size and carried to the others by muP; a number: no sweep
learning_rate:
  sweep: {{size: {digits(sizes[1])}, factors: [0.5, 1, 2], atoms: {quarter}, extend: 1}}
# Further seeds say how far runs differ by chance; without them no misfit can be told from noise.
replicates: {{sizes: [{repeated}], seeds: [1, 2]}}
"""


def describe(p: Proportions) -> str:
    """What was chosen, in one line."""
    return (
        f"{LEAST_SIZES + 1} sizes, runs of {p.steps:,} steps of {p.molecules} structures,"
        f" {count(p.atoms)} atoms, {p.passes:.2g} passes over the data"
    )
