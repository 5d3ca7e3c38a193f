"""Breaks of one thing each: the same shapes and FLOPs, the same weights of a seed, and a symmetry
that is there or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forcelaw.models import ARCHITECTURES, build, esen_parts
from tests.models.configs import Variant, small_config
from tests.models.tools import (
    energy_error,
    evaluate,
    force_error,
    fresh_model,
    moved,
    random_rotation,
)
from tests.molecules import all_molecules, random_cluster

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
        ("esen", {"norm": "none"}, True),
        ("esen", {"feed_forward": "grid"}, False),
        ("esen", {"head": "free"}, False),
        ("esen", {"frames": "global", "broken_layers": 1}, False),
        ("esen", {"untied": True, "broken_layers": -1}, False),
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
        ("esen", {"untied": True, "broken_layers": 1}),
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
    later = {"roll", "frames", "carried", "norm", "feed_forward", "head", "broken_layers"}
    assert not later & small_config("esen").model_dump().keys()
    assert not {"untied", "epsilon"} & small_config("painn").model_dump().keys()
    assert small_config("esen", roll="random").model_dump()["roll"] == "random"
    assert small_config("esen", untied=True).model_dump()["untied"]


# ---- parts of eSEN in the place of its own


@pytest.mark.parametrize("kind", ["rms", "separable", "degrees", "none"])
def test_norms_are_what_they_say(kind: str) -> None:
    """Degree by degree in NumPy; rotations of the second axis of a degree change nothing but y."""
    rng, lmax, width = np.random.default_rng(0), 2, 6
    norm = esen_parts.spherical_norm(kind, lmax, width, 1.0).double()
    for p in norm.parameters():
        p.data = torch.from_numpy(rng.normal(size=p.shape))
    x = rng.normal(size=(5, 9, width)) * np.repeat([3.0, 1.0, 0.1], [1, 3, 5])[None, :, None]
    y, scalars = (t.detach().numpy() for t in norm(torch.from_numpy(x)))
    if kind == "none":
        assert np.array_equal(y, x) and np.array_equal(scalars, x[:, 0])
        return
    parts = [x[:, l * l : (l + 1) ** 2] for l in range(lmax + 1)]
    if kind != "rms":
        parts[0] = parts[0] - parts[0].mean(2, keepdims=True)
    squares = np.array([(part**2).mean((1, 2)) for part in parts])
    together = {"rms": [[0, 1, 2]], "separable": [[0], [1, 2]], "degrees": [[0], [1], [2]]}
    for group in together[kind]:
        scale = 1 / np.sqrt(squares[group].mean(0) + 1e-5)
        for l in group:
            parts[l] = parts[l] * scale[:, None, None] * norm.gain[l].detach().numpy()
    if kind != "rms":
        parts[0] = parts[0] + norm.bias.detach().numpy()
    # weights of degrees are float32, as those of eSEN's own norm
    np.testing.assert_allclose(y, np.concatenate(parts, axis=1), rtol=1e-6)
    np.testing.assert_allclose(scalars, parts[0][:, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["separable", "degrees"])
def test_norms_of_degrees_apart_are_equivariant(kind: str) -> None:
    """On clusters: where a degree is zero by symmetry, what rounding left of it is blown up."""
    mols = [random_cluster(7, k) for k in range(3)]
    model, turn = fresh_model(Variant(kind, "esen", {"norm": kind})), random_rotation(1)
    energy, forces = evaluate(model, mols)
    after, turned = evaluate(model, moved(mols, turn))
    assert energy_error(after, energy) < 1e-9
    assert force_error(turned, forces @ turn.T, mols) < 1e-9


@pytest.mark.parametrize("lmax", [1, 2, 4])
def test_functions_on_the_sphere_come_back(lmax: int) -> None:
    """Values by e3nn's convention (y polar, each degree of norm one) and the exact way back."""
    values, back = (t.numpy() for t in esen_parts.sphere(lmax))
    np.testing.assert_allclose(back @ values, np.eye((lmax + 1) ** 2), atol=1e-12)
    points = values[:, 1:4]  # l = 1 is (x, y, z)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1.0)
    x, y, z = points.T
    if lmax > 1:
        root = np.sqrt(3.0)
        by_hand = [root * x * z, root * x * y, y**2 - (x**2 + z**2) / 2, root * y * z]
        np.testing.assert_allclose(values[:, 4:8].T, by_hand, atol=1e-12)


def test_the_feed_forward_of_a_grid_nears_equivariance_with_its_points() -> None:
    """Twice 3, 4 and 6 rings: what SiLU makes beyond them falls quickly."""
    errors = [rotation_error("esen", lmax=l, feed_forward="grid") for l in (1, 2, 4)]
    assert errors[2] < errors[0] < 1.0 and errors[2] < 0.2


def test_layers_before_the_broken_ones_are_equivariant() -> None:
    """Scalars that leave the first layer stay, those that leave the last do not; the reverse where
    the first is broken."""
    mols = [random_cluster(7, 3)]
    for broken, stays in ((1, True), (-1, False), (None, False)):
        options = {"frames": "global", "broken_layers": broken, "depth": 2}
        model, seen = fresh_model(Variant(str(broken), "esen", options)), []
        model.layers[0].register_forward_hook(lambda m, i, out, seen=seen: seen.append(out[:, 0]))
        for turn in (np.eye(3), random_rotation(2)):
            evaluate(model, moved(mols, turn))
        off = float((seen[0] - seen[1]).abs().max())
        assert (off < 1e-10) == stays and (off > BROKEN) != stays
