"""The planned time of a run: its steps and its evaluations."""

import pytest

from forcelaw.study.cost import (
    NOT_SHARED,
    Rate,
    Times,
    gpu_rate,
    seconds_of,
    times_of,
    wall_seconds,
)

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
    """An atom that is evaluated costs a third of its arithmetic in training; 20 atoms each."""
    bare = planned(evaluations=0)
    of_an_atom = 1e-12 * 3 * 3.0 * (14.0 * 1e4 + 1e5)
    assert bare == pytest.approx(1000 * (1e-3 + 2 * 2e-4) + 1000 * 300 * of_an_atom)
    assert planned() - bare == pytest.approx(50 * 600 * 20 * of_an_atom / 3)
    assert planned(validation_structures=1200) - bare == pytest.approx(2 * (planned() - bare))


def test_both_kinds_of_forces_have_rates_and_what_is_unknown_is_slow() -> None:
    for name in ("mpnn", "painn", "egnn", "esen", "gemnet_oc"):
        direct, gradient = (gpu_rate(name, forces) for forces in ("direct", "conservative"))
        assert 1.0 < gradient.flop / direct.flop < 4.0
    unknown = gpu_rate("somebody.else:Model", "direct")
    assert unknown.layer >= gpu_rate("esen", "direct").layer


def test_runs_side_by_side_share_the_waiting_of_a_device_and_not_its_arithmetic() -> None:
    waiting = 1000 * (1e-3 + 2 * 2e-4)
    alone, beside = times_of(SPEC, RATES, shared=True)
    assert alone == seconds_of(SPEC, RATES) and times_of(SPEC, RATES) == (alone, alone)
    assert alone - beside == pytest.approx((1 - NOT_SHARED) * waiting)
    busy = times_of(SPEC, {"MPNN": Rate(0.0, 1e-12)}, shared=True)
    assert busy.alone == busy.beside > 0


def test_a_study_ends_no_sooner_than_its_longest_run_and_no_sooner_than_its_devices_can() -> None:
    small, large = Times(10.0, 4.0), Times(100.0, 40.0)
    assert wall_seconds([small] * 50, 1) == 200.0
    assert wall_seconds([small] * 50, 4) == 50.0
    assert wall_seconds([large, small], 1) == 100.0
    assert wall_seconds([Times(100.0, 100.0)], 1, gpus=4) == 25.0
    assert wall_seconds([], 1) == 0.0
