"""The symmetry studies compare what they say: equal widths and FLOPs, one difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from forcelaw.data.pack import Pack, sample_path
from forcelaw.models import ARCHITECTURES
from forcelaw.models.sizing import count_parameters
from forcelaw.study.config import label_of, load
from forcelaw.study.plan import model_config
from forcelaw.training.spec import summarise

FOLDER = Path(__file__).parents[2] / "studies" / "symmetry"
GROUPS = ("C1", "T", "O", "I")


@pytest.fixture(scope="module")
def configs():
    """Configurations of a study by label, in the order of sizes, for the shipped sample."""
    data = summarise(Pack(sample_path()))

    def of(name: str) -> dict[str, list]:
        study = load(FOLDER / f"{name}.yaml")
        return {
            label_of(a): [model_config(study, data, a, n) for n in study.sizes_of(a)]
            for a in study.architectures
        }

    return of


def cost(config) -> float:
    return ARCHITECTURES[config.architecture].flops(config).forward(19, 1)


def test_groups_of_the_dial_share_width_and_flops(configs) -> None:
    found = configs("dial")
    for label in GROUPS:
        assert [c.width for c in found[label]] == [240, 480, 720]
        assert [c.group for c in found[label]] == [label] * 3
        assert list(map(cost, found[label])) == list(map(cost, found["C1"]))
    for small, same in zip(found["C1 at T's N"], found["T"]):
        assert count_parameters(small)[0] == pytest.approx(count_parameters(same)[0], rel=0.15)


def test_breaks_share_width_and_flops_with_what_they_break(configs) -> None:
    found = configs("breaks")
    for label, broken in found.items():
        whole = found[label.split()[0]]
        assert [c.width for c in broken] == [c.width for c in whole], label
        for one, other in zip(broken, whole):
            assert cost(one) == pytest.approx(cost(other), rel=0.005)


def test_rates_are_those_of_the_smallest_width_of_the_dial(configs) -> None:
    found, dial = configs("rates"), configs("dial")
    assert {label.split()[0] for label in found} == set(GROUPS)
    for label, (config,) in found.items():
        assert config == dial[label.split()[0]][0]
