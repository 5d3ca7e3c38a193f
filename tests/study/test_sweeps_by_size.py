"""Learning-rate sweeps at several sizes: a rate of its own for each run of the grid."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from forcelaw.study.advice import advise
from forcelaw.study.config import SizeRates, Study
from forcelaw.study.plan import plan
from forcelaw.training.spec import summarise
from tests.packs import write_pack

STUDY = {
    "name": "s",
    "cutoff": 3.0,
    "architectures": [{"name": "mpnn", "sweep_sizes": [3e3, 12e3]}, "painn"],
    "sizes": [3e3, 6e3, 12e3, 24e3],
    "depth": 1,
    "epochs": 2,
    "train": {"batch_molecules": 4, "evaluations": 3, "validation_structures": 6},
    "learning_rate": {"sweep": {"size": 3e3, "factors": [0.25, 0.5, 1, 2], "epochs": 1}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return summarise(write_pack(tmp_path_factory.mktemp("data") / "pack"), cutoff=3.0)


def best_at(spec: dict, slope: float) -> float:
    """A loss whose best rate falls as N^slope from 8e-3 at N = 3,000, exactly on the grid of
    factors."""
    best = 8e-3 * (spec["n"] / 3e3) ** slope
    return 1.0 + math.log(spec["lr"] / best) ** 2


def test_each_run_has_the_rate_of_its_size(data) -> None:
    """Swept sizes have their own best rate; others lie on the line through two of them."""
    study = Study(**STUDY)
    first = plan(study, data, {})
    swept = [run for run in first.runs if run.label == "MPNN"]
    assert len(swept) == 8 and len({run.spec["n"] for run in swept}) == 2
    assert len([run for run in first.runs if run.label == "PaiNN"]) == 4  # at one size, as before
    partly = {run.id: best_at(run.spec, -1.0) for run in swept if run.spec["n"] < 5e3}
    assert not [run for run in plan(study, data, partly).runs if run.kind == "grid"]
    finished = {run.id: best_at(run.spec, -1.0) for run in first.runs}
    made = plan(study, data, finished)
    grid = {r.spec["n"]: r.spec["lr"] for r in made.runs if r.label == "MPNN" and r.kind == "grid"}
    low, high = (n for n in sorted({run.spec["n"] for run in swept}))
    assert (grid[low], grid[high]) == (8e-3, 2e-3)
    for n, rate in grid.items():
        expected = 8e-3 * 0.25 ** (math.log(n / low) / math.log(high / low))
        assert rate == pytest.approx(expected, rel=0.03), n
    assert len(grid) == 4 and made.complete
    rates = {r.spec["lr"] for r in made.runs if r.label == "PaiNN" and r.kind == "grid"}
    assert len(rates) == 1


def test_a_sweep_without_a_rate_at_one_size_says_at_which(data) -> None:
    study = Study(**STUDY)
    runs = [run for run in plan(study, data, {}).runs if run.label == "MPNN"]
    large = max(run.spec["n"] for run in runs)
    finished = {run.id: None if run.spec["n"] == large else 1.0 for run in runs}
    made = plan(study, data, finished)
    assert "12,000" in made.failed["MPNN"]
    assert not [run for run in made.runs if run.label == "MPNN" and run.kind == "grid"]


def test_sizes_of_a_study_hold_for_all_of_its_entries(data) -> None:
    sweep = {**STUDY["learning_rate"]["sweep"], "size": [3e3, 6e3]}
    study = Study(
        **{**STUDY, "architectures": ["mpnn", "painn"], "learning_rate": {"sweep": sweep}}
    )
    runs = plan(study, data, {}).runs
    assert len(runs) == 16 and len({(run.label, run.spec["n"]) for run in runs}) == 4


def test_rates_between_sizes_and_beyond() -> None:
    rates = SizeRates(((1e3, 8e-3), (1e4, 4e-3), (1e5, 1e-3)))
    assert [rates.rate(n, 1.0) for n in (1e3, 1e4, 1e5)] == [8e-3, 4e-3, 1e-3]
    assert rates.rate(math.sqrt(1e9), 1.0) == 2e-3
    assert rates.rate(1e6, 1.0) == 2.5e-4 and rates.rate(1e2, 1.0) == 1.6e-2


def test_sizes_of_no_sweep_are_refused() -> None:
    for wrong in ({"sweep_of": "PaiNN"}, {"learning_rate": 1e-3}):
        with pytest.raises(ValidationError):
            Study(**{**STUDY, "architectures": [{**STUDY["architectures"][0], **wrong}, "painn"]})


def test_another_protocol_is_marked_in_the_plan(data) -> None:
    """By the entry that has it, and no other; a falling rate counts at its end only."""
    train = {"optimizer": "adamw", "decay": 1.0, "decay_shape": "cosine"}
    entries = [{"name": "mpnn", "train": train}, "painn"]
    study = Study(**{**STUDY, "architectures": entries, "learning_rate": {"value": 1e-3}})
    made = plan(study, data, {})
    (note,) = (text for text in advise(study, data, made) if "AdamW" in text)
    assert note.startswith("MPNN:") and "last evaluation" in note and "cosine" in note
    by_label = {run.label: run.spec["train"] for run in made.runs}
    assert by_label["MPNN"]["optimizer"] == "adamw" and "optimizer" not in by_label["PaiNN"]
