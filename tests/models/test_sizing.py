"""The size dial: architecture and target give a configuration, whose exact N is that of the model
that is built."""

from __future__ import annotations

import functools
import math
import re
from unittest import mock

import pytest
import torch
from torch import nn

from forcelaw.errors import StudyError
from forcelaw.models import (
    ARCHITECTURES,
    Architecture,
    ForceField,
    ModelConfig,
    build,
    remembered,
    sizing,
)
from forcelaw.models.base import typed_options
from forcelaw.models.sizing import count_parameters, depth_for, size
from tests.models.configs import Variant, direct_variants, small_config
from tests.molecules import ELEMENTS

TOLERANCE = 1.35  # a target is reached within this factor, or it is an error
DENSE = 1.12  # where widths are dense: from 100,000 parameters on
TARGETS = (3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 5e6, 3e7)
FROM_3K = ("mpnn", "painn", "egnn")  # architectures without a floor that must reach every target
names = pytest.mark.parametrize("name", ARCHITECTURES)


def mpnn_parameters(d: int, depth: int, columns: int, elements: int) -> int:
    layer = (2 * d * d + 2 * d) + columns * d + (d * d + d) + (8 * d * d + 5 * d) + 4 * d
    return depth * layer + elements * d + 2 * d + (d * d + d) + (d + 1) + (d * d + d) + (3 * d + 3)


def painn_parameters(d: int, depth: int, radial: int, elements: int) -> int:
    message = (d * d + d) + (3 * d * d + 3 * d) + 3 * radial * d
    update = 2 * d * d + (2 * d * d + d) + (3 * d * d + 3 * d)
    heads = (d * d + d) + (d + 1) + 2 * (d * d + d) + d
    return depth * (message + update + 4 * d) + elements * d + 2 * d + heads


def egnn_parameters(d: int, depth: int, radial: int, m: int, elements: int) -> int:
    every = (2 * d * d + 2 * d) + radial * d + d * d + m * d + (2 * d * d + d) + (d * d + d) + 2 * d
    later = m * d + d * d + m * m * d
    heads = (d * d + d) + (d + 1) + (d * d + d) + (m * d + m)
    return depth * every + (depth - 1) * later + elements * d + 2 * d + heads


@pytest.mark.parametrize("width,depth", [(4, 1), (16, 2), (72, 3)])
def test_parameters_against_closed_forms(width: int, depth: int) -> None:
    z = len(ELEMENTS)
    options = {"width": width, "depth": depth}
    cases = [
        (
            small_config("mpnn", radial=8, angular=5, **options),
            mpnn_parameters(width, depth, 3 + 8 + 15, z),
        ),
        (
            small_config("mpnn", message="additive", radial=8, **options),
            mpnn_parameters(width, depth, 11, z),
        ),
        (small_config("painn", radial=20, **options), painn_parameters(width, depth, 20, z)),
        (
            small_config("egnn", radial=10, channels=3, **options),
            egnn_parameters(width, depth, 10, 3, z),
        ),
    ]
    for config, expected in cases:
        assert count_parameters(config) == (expected, expected - z * width), config
        model = build(config, seed=0)
        assert sum(p.numel() for p in model.parameters()) == model.n_parameters() == expected


@pytest.mark.parametrize("variant", direct_variants(), ids=lambda v: v.id)
def test_counting_without_weights_is_exact(variant: Variant) -> None:
    width = small_config(variant.name, **variant.options).width
    for options in ({}, {"width": 3 * width, "depth": 3}):
        config = small_config(variant.name, **variant.options | options)
        model = build(config, seed=0)
        assert count_parameters(config) == (model.n_parameters(), model.n_nonembedding())
        assert model.n_parameters() == sum(
            v.numel() for v in dict(model.named_parameters()).values()
        )


def test_counting_leaves_a_package_as_it_was() -> None:
    """One that keeps a tensor for its next model, as e3nn does, keeps it with values."""
    kept = functools.lru_cache(lambda: torch.ones(3))

    class Kept(ForceField):
        def __init__(self, config: ModelConfig):
            super().__init__(config)
            self.w = nn.Parameter(torch.randn(3) * kept())

    entry = Architecture(name="kept", title="", config=ModelConfig, model=Kept, packages=("e3nn",))
    state = torch.random.get_rng_state()
    with mock.patch.object(sizing, "architecture", lambda name: entry):
        config = ModelConfig(architecture="kept", width=4, depth=1, elements=(1,))
        count_parameters.cache_clear()
        assert count_parameters(config) == (3, 3)
    count_parameters.cache_clear()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert kept().device.type == "cpu"


def test_sizes_of_a_packages_model_are_found_once(tmp_path, monkeypatch) -> None:
    """Another process reads them; other code, another width and our own models are counted."""
    built, code = [], {"kept": "1"}

    class Kept(ForceField):
        def __init__(self, config: ModelConfig):
            super().__init__(config)
            built.append(config.width)
            self.w = nn.Parameter(torch.zeros(config.width))

        def atomwise(self, graph, vec):
            return self.w.sum() * vec.new_ones(len(graph.species)), None

    entry = Architecture(name="kept", title="", config=ModelConfig, model=Kept, packages=("torch",))
    for module in (sizing, remembered):
        monkeypatch.setattr(module, "architecture", lambda name: entry)
    monkeypatch.setattr(remembered, "code", lambda name: dict(code))

    def counted(width: int) -> tuple[tuple[int, int], int]:
        """As a new process counts, and how many models it made."""
        count_parameters.cache_clear()
        remembered._code.cache_clear()
        remembered._known.clear()
        remembered.remember_in(tmp_path / "sizes.json")
        before = len(built)
        found = count_parameters(ModelConfig(architecture="k", width=width, depth=1, elements=(1,)))
        remembered.keep()
        return found, len(built) - before

    try:
        asked = [counted(width) for width in (4, 4, 5, 4)]
        assert asked == [((4, 4), 1), ((4, 4), 0), ((5, 5), 1), ((4, 4), 0)]
        code["kept"] = "2"
        assert counted(4) == ((4, 4), 1)
        (tmp_path / "sizes.json").write_text("no JSON")
        assert counted(4) == ((4, 4), 1)
    finally:
        count_parameters.cache_clear()
        remembered._code.cache_clear()


def test_options_may_be_texts_of_a_command_line() -> None:
    """Those too that the steps of the widths follow from."""
    given = {"group": "T", "elements": ELEMENTS, "depth": 2}
    texts = size("platonic", 3e4, head_width="2", **given)
    assert texts == size("platonic", 3e4, head_width=2, **given)
    assert texts.width % 24 == 0
    config = ARCHITECTURES["esen"].config
    found = typed_options(config, {"untied": "true", "epsilon": "0.3", "lmax": "many", "no": "1"})
    assert found == {"untied": True, "epsilon": 0.3, "lmax": "many", "no": "1"}


@names
def test_targets_are_reached(name: str) -> None:
    reached = []
    for target in TARGETS if name in FROM_3K else TARGETS[::3]:
        try:
            config = size(name, target, elements=ELEMENTS)
        except StudyError as error:
            assert name not in FROM_3K and target < 3e5, target
            assert f"{target:,.0f}" in str(error)
            continue
        n, _ = count_parameters(config)
        tolerance = TOLERANCE if target < 1e5 else DENSE
        assert 1.0 / tolerance < n / target < tolerance, (target, n)
        assert config.depth == depth_for(ARCHITECTURES[name], target)
        assert config.elements == ELEMENTS and config.architecture == name
        reached.append(n)
    assert reached == sorted(set(reached)) and len(reached) >= 2


@names
def test_no_neighbouring_width_is_nearer(name: str) -> None:
    entry = ARCHITECTURES[name]
    for target in (3e5, 2e6):
        config = size(name, target, elements=ELEMENTS)
        best = abs(math.log(count_parameters(config)[0] / target))
        step = max(entry.step, 8) if config.width > 64 else entry.step
        assert config.width % step == 0
        for width in (config.width - step, config.width + step):
            other = entry.config(
                architecture=name, width=width, depth=config.depth, elements=ELEMENTS
            )
            assert best <= abs(math.log(count_parameters(other)[0] / target))


@names
def test_the_model_that_is_built_has_that_size(name: str) -> None:
    config = size(name, 3e5, elements=(1, 6, 8), cutoff=5.0)
    assert config.cutoff == 5.0 and config.elements == (1, 6, 8)
    assert sum(p.numel() for p in build(config, seed=0).parameters()) == count_parameters(config)[0]


@names
def test_options_and_depth_are_passed_through(name: str) -> None:
    few = size(name, 3e5, depth=2, elements=[1, 6], scale=2.5, mean_degree=11.0)
    assert (few.depth, few.elements, few.scale, few.mean_degree) == (2, (1, 6), 2.5, 11.0)
    many = size(name, 3e5, depth=2, elements=tuple(range(1, 90)))
    assert many.width <= few.width  # the embedding takes its share


def test_variants_are_sized_with_their_own_options() -> None:
    gated, additive = (
        size("mpnn", 3e4, elements=ELEMENTS, message=m) for m in ("gated", "additive")
    )
    assert additive.message == "additive" and gated.message == "gated"
    for config in (gated, additive):
        assert 1 / 1.2 < count_parameters(config)[0] / 3e4 < 1.2
    assert count_parameters(gated)[0] != count_parameters(additive)[0]


@names
@pytest.mark.parametrize("target", [10.0, 1e13])
def test_impossible_targets_are_clear_errors(name: str, target: float) -> None:
    message = f"{name} with .* cannot have about {target:,.0f} parameters; nearest is"
    with pytest.raises(StudyError, match=message) as caught:
        size(name, target, elements=ELEMENTS)
    remedy = re.fullmatch(r"choose sizes of (.*) or (.*), or another depth", caught.value.remedy)
    assert remedy and remedy[2] == ("more" if target < 100 else "less")
    nearest = float(remedy[1].replace(",", ""))
    assert count_parameters(size(name, nearest, elements=ELEMENTS))[0] == nearest


def test_unknown_names_and_options_are_errors() -> None:
    from pydantic import ValidationError

    with pytest.raises(StudyError, match="no architecture"):
        size("transformer", 1e5, elements=ELEMENTS)
    with pytest.raises(ValidationError, match="heads"):
        size("mpnn", 1e5, elements=ELEMENTS, heads=8)


@names
def test_depth_grows_with_the_target(name: str) -> None:
    depths = [depth_for(ARCHITECTURES[name], target) for target in (*TARGETS, 1e12)]
    assert depths == sorted(depths) and depths[0] >= 1
