"""The planned time of a run: its steps and its evaluations."""

import pytest

from forcelaw.study.cost import Rate, seconds_of

SPEC = {
    "label": "MPNN",
    "architecture": "mpnn",
    "steps": 1000,
    "batch_atoms": 300.0,
    "flops_per_atom": 1e5,
    "flops_per_edge": 1e4,
    "cost_factor": 3.0,
    "model": {"depth": 2, "mean_degree": 14.0},
    "train": {"evaluations": 50, "validation_structures": 600},
}
RATES = {"MPNN": Rate(1e-3, 1e-12, 2e-4)}


def planned(**train) -> float:
    return seconds_of({**SPEC, "train": SPEC["train"] | train}, RATES)


def test_evaluations_are_part_of_the_planned_time() -> None:
    """A structure that is evaluated costs a third of what its 20 atoms cost in training."""
    bare = planned(evaluations=0)
    assert bare > 0
    atoms = 50 * 600 * 20
    assert planned() - bare == pytest.approx(bare * atoms / 3 / (1000 * 300))
    assert planned(validation_structures=1200) - bare == pytest.approx(2 * (planned() - bare))
