"""Breaks of one thing each: the same shapes and FLOPs, the same weights of a seed, and a symmetry
that is there or not."""

from __future__ import annotations

import numpy as np
import pytest

from forcelaw.models import ARCHITECTURES, build
from tests.models.configs import Variant, small_config
from tests.models.tools import (
    energy_error,
    evaluate,
    force_error,
    fresh_model,
    moved,
    random_rotation,
)
from tests.molecules import all_molecules

MOLS = all_molecules()
EXACT, BROKEN = 1e-12, 1e-3


def rotation_error(name: str, **options: object) -> float:
    model, turn = fresh_model(Variant(f"{name}{options}", name, options)), random_rotation(1)
    energy, forces = evaluate(model, MOLS)
    after, turned = evaluate(model, moved(MOLS, turn))
    return max(energy_error(after, energy), force_error(turned, forces @ turn.T, MOLS))


def outputs(name: str, **options: object) -> np.ndarray:
    """Forces of one seed's weights; those of the heads start at zero and get noise."""
    model = fresh_model(Variant(f"{name}{options}", name, options))
    return evaluate(model, MOLS)[1]


@pytest.mark.parametrize("lmax", [1, 3])
def test_the_roll_of_a_frame_moves_nothing_that_is_equivariant(lmax: int) -> None:
    shortest, rolled = (outputs("esen", lmax=lmax, roll=roll) for roll in ("shortest", "random"))
    np.testing.assert_allclose(rolled, shortest, atol=1e-12 * np.abs(shortest).max())
    free = {"lmax": lmax, "untied": True, "epsilon": 0.3}
    shortest, rolled = (outputs("esen", roll=roll, **free) for roll in ("shortest", "random"))
    assert np.abs(rolled - shortest).max() > 0.01 * np.abs(shortest).max()


@pytest.mark.parametrize(
    "name, options, exact",
    [
        ("esen", {"untied": True, "epsilon": 0.0}, True),
        ("esen", {"untied": True, "epsilon": 0.1}, False),
        ("esen", {"frames": "global"}, False),
        ("esen", {"carried": 0}, True),
        ("esen", {"carried": 1}, True),
        ("painn", {"norm": "none", "ends": "both"}, True),
        ("painn", {"norm": "none", "vector_norm": True}, True),
        ("painn", {"untied": True, "epsilon": 0.0}, True),
        ("painn", {"untied": True, "epsilon": 0.1}, False),
    ],
)
def test_what_is_broken_and_what_is_not(name: str, options: dict, exact: bool) -> None:
    error = rotation_error(name, **options)
    assert error < EXACT if exact else error > BROKEN
    declared = ARCHITECTURES[name].symmetry_for(small_config(name, **options))
    assert (declared != "none") == exact


def test_a_larger_epsilon_breaks_more() -> None:
    for name in ("esen", "painn"):
        errors = [rotation_error(name, untied=True, epsilon=e) for e in (0.03, 0.1, 0.3, 1.0)]
        assert errors == sorted(errors) and errors[0] < 0.2 * errors[-1]


def test_degrees_that_are_not_carried_are_not_seen() -> None:
    """carried = lmax is the whole model; fewer degrees are another one."""
    whole = outputs("esen", lmax=2)
    np.testing.assert_array_equal(outputs("esen", lmax=2, carried=2), whole)
    for carried in (0, 1):
        assert np.abs(outputs("esen", carried=carried) - whole).max() > 1e-2


@pytest.mark.parametrize(
    "name, options",
    [
        ("esen", {"untied": True, "epsilon": 0.1}),
        ("esen", {"roll": "random"}),
        ("esen", {"carried": 0}),
        ("painn", {"untied": True}),
    ],
)
def test_flops_and_the_weights_of_a_seed_stay(name: str, options: dict) -> None:
    plain, broken = small_config(name), small_config(name, **options)
    assert ARCHITECTURES[name].flops(plain) == ARCHITECTURES[name].flops(broken)
    before = dict(build(plain, seed=3).named_parameters())
    after = dict(build(broken, seed=3).named_parameters())
    for key, parameter in before.items():
        assert np.array_equal(parameter.detach(), after[key].detach()), key
    added = set(after) - set(before)
    assert all("free" in key for key in added) and bool(added) == ("untied" in options)


def test_a_global_frame_costs_the_columns_of_directions_alone() -> None:
    width = {"width": 52, "depth": 4}
    plain, other = (small_config("esen", frames=f, **width) for f in ("edge", "global"))
    costs = [ARCHITECTURES["esen"].flops(c).forward(20, 1) for c in (plain, other)]
    assert 1.0 < costs[1] / costs[0] < 1.02


def test_options_at_their_defaults_leave_run_ids_as_they_were() -> None:
    assert not {"roll", "frames", "carried"} & small_config("esen").model_dump().keys()
    assert not {"untied", "epsilon"} & small_config("painn").model_dump().keys()
    assert small_config("esen", roll="random").model_dump()["roll"] == "random"
    assert small_config("esen", untied=True).model_dump()["untied"]
