"""Entries of a study that differ in more than the architecture: what they override arrives in the
specification, nothing else."""

import numpy as np
import pytest
import yaml

from forcelaw.errors import StudyError
from forcelaw.store.runs import RunDirectory, content_id, planned_flops
from forcelaw.study.config import differences as differences_of_studies
from forcelaw.study.config import load
from forcelaw.study.record import StudyDirectory
from forcelaw.table.directory import rows
from tests.packs import write_pack
from tests.study.plans import specs

BASE = {
    "name": "t",
    "data": "pack",
    "cutoff": 3.0,
    "architectures": ["mpnn"],
    "sizes": [3e3, 6e3],
    "depth": 1,
    "epochs": 2,
    "train": {
        "batch_molecules": 4,
        "evaluations": 3,
        "first_evaluation": 2,
        "validation_structures": 6,
    },
    "learning_rate": {"sweep": {"size": 3e3, "factors": [0.5, 1], "epochs": 1}},
}


def directory_of(tmp_path, architectures, **changes):
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({**BASE, "architectures": architectures, **changes}))
    return StudyDirectory(load(path), write_pack(tmp_path / "pack"), tmp_path / "out")


def plan_of(tmp_path, architectures, **changes):
    return directory_of(tmp_path, architectures, **changes).plan()


def differences(a, b):
    """Keys of two specifications that differ, one level deep."""
    out = set()
    for key in a:
        if isinstance(a[key], dict):
            out |= {f"{key}.{inner}" for inner in a[key] if a[key][inner] != b[key].get(inner)}
        elif a[key] != b[key]:
            out.add(key)
    return out


FORCES = {
    "model.forces",
    "n",
    "n_nonembedding",
    "flops_per_edge",
    "flops_per_atom",
    "cost_factor",
    "model.width",
}


@pytest.mark.parametrize(
    "override,changed",
    [
        ({"train": {"augment": True}}, {"train.augment"}),
        ({"train": {"symmetry_rotations": 3}}, {"train.symmetry_rotations", "cost_factor"}),
        (
            {"train": {"batch_atoms": 12}},
            {"train.batch_molecules", "train.batch_atoms", "steps", "batch_atoms", "epochs"},
        ),
        ({"epochs": 4}, {"atoms_total", "epochs", "steps"}),
        ({"atoms": 500}, {"atoms_total", "epochs", "steps", "batch_atoms"}),
        (
            {"distinct_atoms": [60], "epochs": 2},
            {"train_structures", "train_atoms", "atoms_total", "steps", "epochs", "batch_atoms"},
        ),
        ({"forces": "conservative"}, FORCES),
        (
            {"depth": 2},
            {
                "model.depth",
                "model.width",
                "n",
                "n_nonembedding",
                "flops_per_edge",
                "flops_per_atom",
            },
        ),
        ({"learning_rate": 1e-3}, {"lr"}),
        ({"seeds": [5]}, {"seed"}),
    ],
)
def test_an_override_changes_what_it_says_and_the_id(tmp_path, override, changed) -> None:
    planned = plan_of(tmp_path, ["mpnn", {"name": "mpnn", "label": "variant", **override}])
    plain, variant = (specs(planned, label)[0] for label in ("MPNN", "variant"))
    found = differences(plain, variant) - {"label"}
    assert found <= changed and found, found
    assert next(iter(changed)) in found or len(changed) > 1
    assert content_id({**plain, "label": ""}) != content_id({**variant, "label": ""})


def test_what_is_left_out_is_as_in_the_study(tmp_path) -> None:
    planned = plan_of(
        tmp_path,
        [
            {"name": "mpnn", "label": "a"},
            {"name": "mpnn", "label": "b", "train": {"augment": False}},
        ],
        distinct_atoms=[40, 60],
        seeds=[0, 3],
        forces="conservative",
    )
    a, b = specs(planned, "a"), specs(planned, "b")
    assert [{**s, "label": ""} for s in a] == [{**s, "label": ""} for s in b]
    assert len(a) == 2 * 2 * 2 and all(
        s["model"]["forces"] == "conservative" and s["cost_factor"] == 2 for s in a
    )
    assert sorted({s["train_atoms"] for s in a})[0] >= 40


def test_replicates_are_further_seeds_at_some_sizes(tmp_path) -> None:
    own = {"name": "mpnn", "sizes": [3e3, 1.2e4], "replicates": {"sizes": [1.2e4], "seeds": [8]}}
    planned = plan_of(tmp_path, ["painn", own], replicates={"sizes": [6e3], "seeds": [1, 2]})
    seeds = {}
    for s in specs(planned, "PaiNN") + specs(planned, "MPNN"):
        seeds.setdefault((s["label"], round(s["n"] / 1.5e3)), []).append(s["seed"])
    assert sorted(map(tuple, seeds.values())) == [(0,), (0,), (0, 1, 2), (0, 8)]


def test_replicates_may_be_shorter_than_the_rest(tmp_path) -> None:
    long = {"name": "mpnn", "epochs": 2}
    planned = plan_of(
        tmp_path, ["painn", long], replicates={"sizes": [6e3], "seeds": [1], "atoms": 100.0}
    )
    for label in ("PaiNN", "MPNN"):
        grid = specs(planned, label)
        short = [s for s in grid if s["seed"] == 1]
        assert len(short) == 1 and short[0]["atoms_total"] == 100
        whole = {s["atoms_total"] for s in grid if s["seed"] == 0}
        assert len(whole) == 1 and min(whole) > 100
        assert {s["atoms_total"] for s in specs(planned, label, "sweep")} != {100}


def finish(runs, spec, loss):
    run = RunDirectory.create(runs, spec)
    run.append_metric({"step": 1, "loss": loss})
    run.finish({"status": "finished"})


def test_one_sweep_serves_several_entries(tmp_path) -> None:
    augmented = {
        "name": "mpnn",
        "label": "augmented",
        "train": {"augment": True},
        "sweep_of": "MPNN",
    }
    directory = directory_of(tmp_path, [augmented, "mpnn"])
    planned = directory.plan()
    assert not specs(planned, "augmented", "sweep") and len(specs(planned, "MPNN", "sweep")) == 2
    assert len(planned.runs) == 2 and len(planned.waiting) == 2 + 2 and not planned.complete
    by_rate = sorted(specs(planned, "MPNN", "sweep"), key=lambda s: s["lr"])
    for spec, loss in zip(by_rate, (0.5, 0.4), strict=True):
        finish(directory.runs, spec, loss)
    planned = directory.plan()
    assert planned.complete and len(planned.runs) == 2 + 2 + 2
    assert {run.spec["lr"] for run in planned.runs if run.kind == "grid"} == {4e-3}


@pytest.mark.parametrize(
    "optimum,tried",
    [  # by hand: from .5, .7, 1 by 1.43 up or 1.4 down, while the last one is the best
        (0.7, [0.5, 0.7, 1]),
        (1.3, [0.5, 0.7, 1, 1.43, 2.04]),
        (9.0, [0.5, 0.7, 1, 1.43, 2.04]),
        (0.36, [0.255, 0.357, 0.5, 0.7, 1]),
    ],
)
def test_a_sweep_goes_on_while_its_best_rate_is_at_an_end(tmp_path, optimum, tried) -> None:
    """At most two more rates; the loss is a parabola in ln lr."""
    sweep = {"size": 3e3, "factors": [0.5, 1, 0.7], "epochs": 1, "extend": 2}
    directory = directory_of(tmp_path, ["mpnn"], learning_rate={"sweep": sweep})
    for _ in range(5):
        planned = directory.plan()
        sweeps = [run.spec for run in planned.runs if run.kind == "sweep"]
        open_ones = [s for s in sweeps if not (directory.runs / content_id(s)).exists()]
        assert bool(open_ones) == (not planned.complete) == bool(planned.waiting)
        for spec in open_ones:
            finish(directory.runs, spec, 0.5 + np.log(spec["lr"] / 4e-3 / optimum) ** 2)
    found = sorted(spec["lr"] / 4e-3 for spec in sweeps)
    assert found == pytest.approx(tried, rel=0.01)
    best = min(found, key=lambda factor: abs(np.log(factor / optimum)))
    (rate,) = {spec["lr"] for spec in specs(directory.plan(), "MPNN")}
    assert rate == pytest.approx(4e-3 * best, rel=0.01)


def test_a_rate_beyond_which_all_diverged_is_no_end(tmp_path) -> None:
    sweep = {"size": 3e3, "factors": [0.5, 1, 2], "epochs": 1, "extend": 2}
    directory = directory_of(tmp_path, ["mpnn"], learning_rate={"sweep": sweep})
    by_rate = sorted(specs(directory.plan(), "MPNN", "sweep"), key=lambda s: s["lr"])
    for spec, loss in zip(by_rate, (0.5, 0.4, None), strict=True):
        if loss is None:
            RunDirectory.create(directory.runs, spec).finish({"status": "diverged"})
        else:
            finish(directory.runs, spec, loss)
    planned = directory.plan()
    assert len(specs(planned, "MPNN", "sweep")) == 3
    assert {s["lr"] for s in specs(planned, "MPNN")} == {4e-3}


def test_a_study_that_lacks_a_new_key_is_the_same_study(tmp_path) -> None:
    content = directory_of(tmp_path, ["mpnn"]).study.model_dump(mode="json")
    old = {
        **content,
        "learning_rate": {
            **content["learning_rate"],
            "sweep": {k: v for k, v in content["learning_rate"]["sweep"].items() if k != "extend"},
        },
    }
    assert differences_of_studies(old, content) == []
    assert differences_of_studies(old, {**content, "epochs": 3.0}) == ["epochs"]


def test_entries_that_follow_a_failed_sweep_have_no_grid_and_wait_for_none(tmp_path) -> None:
    other = {"name": "mpnn", "label": "other", "sweep_of": "MPNN"}
    directory = directory_of(tmp_path, ["mpnn", other])
    for spec in specs(directory.plan(), "MPNN", "sweep"):
        RunDirectory.create(directory.runs, spec).finish({"status": "diverged"})
    planned = directory.plan()
    assert planned.failed.keys() == {"MPNN", "other"}
    assert len(planned.runs) == 2 and planned.complete


def test_what_is_trained_first(tmp_path) -> None:
    planned = plan_of(
        tmp_path,
        [
            {"name": "painn", "learning_rate": 1e-3, "stage": 1},
            {"name": "mpnn", "learning_rate": 1e-3},
        ],
        replicates={"sizes": [3e3], "seeds": [1]},
    )
    order = [run.spec for run in planned.runs]
    small, large = sorted({s["n"] for s in order if s["label"] == "MPNN"})
    assert [(s["label"], s["n"], s["seed"]) for s in order[:3]] == [
        ("MPNN", large, 0),
        ("MPNN", small, 0),
        ("MPNN", small, 1),
    ]
    assert [s["seed"] for s in order[3:]] == [0, 0, 1]
    assert {s["label"] for s in order[3:]} == {"PaiNN"}


def test_the_largest_runs_are_held_for_a_forecast(tmp_path) -> None:
    directory = directory_of(tmp_path, [{"name": "mpnn", "learning_rate": 1e-3}, "painn"])
    every, held = directory.plan(), directory.plan(hold=0.75)
    assert [run.id for run in held.runs] == [run.id for run in every.runs]
    assert [run.spec["n"] > 4e3 for run in held.runs if run.held] == [True]
    assert len(every.active) == 2 + 2 and len(held.active) == 2 + 1
    assert not any(run.held for run in held.runs if run.kind == "sweep")


def test_planned_flops_know_gradient_forces_and_turned_copies(tmp_path) -> None:
    entries = [
        "mpnn",
        {"name": "mpnn", "label": "symmetry loss", "train": {"symmetry_rotations": 4}},
        {"name": "mpnn", "label": "conservative", "forces": "conservative"},
    ]
    planned = plan_of(tmp_path, entries)
    labels = ("MPNN", "symmetry loss", "conservative")
    plain, turned, gradient = (specs(planned, label)[0] for label in labels)
    assert planned_flops(turned) == 5 * planned_flops(plain)
    assert planned_flops(gradient) == 2 * planned_flops({**gradient, "cost_factor": 1.0})


def test_differences_arrive_in_the_table_of_runs(tmp_path) -> None:
    entries = [
        {"name": "mpnn", "label": "a", "train": {"symmetry_rotations": 4, "symmetry_weight": 0.5}},
        {"name": "mpnn", "label": "b", "forces": "conservative", "train": {"augment": True}},
    ]
    directory = directory_of(tmp_path, entries, sizes=[3e3])
    for label in "ab":
        finish(directory.runs, specs(directory.plan(), label)[0], 0.5)
    a, b = sorted(rows(directory.runs), key=lambda row: row["architecture"])
    assert (a["forces"], a["augment"], a["symmetry_rotations"], a["symmetry_weight"]) == (
        "direct",
        False,
        4,
        0.5,
    )
    assert (b["forces"], b["augment"], b["symmetry_rotations"]) == ("conservative", True, 0)


@pytest.mark.parametrize(
    "architectures,changes,message",
    [
        ([{"name": "mpnn", "train": {"batch": 3}}], {}, "architectures.0.train"),
        ([{"name": "mpnn", "train": {"symmetry_rotations": -1}}], {}, "symmetry_rotations"),
        (
            [{"name": "mpnn", "train": {"batch_atoms": 8, "batch_molecules": 2}}],
            {},
            "batch_molecules or batch_atoms",
        ),
        ([{"name": "mpnn", "atoms": 1e3, "epochs": 2}], {}, "atoms or epochs"),
        (
            [{"name": "mpnn", "learning_rate": 1e-3, "sweep_of": "PaiNN"}, "painn"],
            {},
            "learning_rate or sweep_of",
        ),
        ([{"name": "mpnn", "label": "x", "sweep_of": "painn"}, "painn"], {}, "use one of: PaiNN"),
        ([{"name": "mpnn", "sweep_of": "MPNN"}], {}, "'MPNN' has a learning rate of its own"),
        (["painn", {"name": "mpnn", "label": "PaiNN"}], {}, "share a label: 'PaiNN'"),
        ([{"name": "mpnn", "options": {"forces": "conservative"}}], {}, "no option 'forces'"),
        ([{"name": "mpnn", "forces": "gradient"}], {}, "architectures.0.forces"),
        (["mpnn"], {"replicates": {"sizes": [1e5], "seeds": [1]}}, "not among the sizes"),
        (
            [{"name": "mpnn", "replicates": {"sizes": [1e5], "seeds": [1]}}],
            {},
            "replicates of mpnn",
        ),
    ],
)
def test_a_wrong_override_is_named(tmp_path, architectures, changes, message) -> None:
    with pytest.raises(StudyError) as caught:
        plan_of(tmp_path, architectures, **changes)
    assert message in str(caught.value) and "t.yaml" in str(caught.value)


def test_a_rate_law_gives_each_run_the_rate_at_its_own_size_and_length(tmp_path):
    law = {"value": 4e-3, "n": 3e3, "d": 300, "n_exponent": -0.5, "d_exponent": -0.25}
    runs = specs(
        plan_of(
            tmp_path,
            [{"name": "mpnn", "learning_rate": law, "atoms": 4800}],
            learning_rate={},
            epochs=None,
            atoms=300,
        ),
        "MPNN",
    )
    assert len(runs) == 2
    for run in runs:
        expected = 4e-3 * (3e3 / run["n"]) ** 0.5 * (300 / 4800) ** 0.25
        assert run["lr"] == pytest.approx(expected, rel=0.03)  # two digits
        assert run["lr"] == float(f"{run['lr']:.2g}")
    assert runs[0]["lr"] != runs[1]["lr"]


def test_a_rate_law_keeps_to_its_maximum_and_its_runs_are_those_of_that_rate(tmp_path):
    capped = {"name": "mpnn", "label": "capped", "learning_rate": {"value": 4e-3, "maximum": 1e-3}}
    planned = plan_of(tmp_path, [capped, {"name": "mpnn", "learning_rate": 1e-3}])
    law, fixed = specs(planned, "capped"), specs(planned, "MPNN")
    assert {run["lr"] for run in law} == {1e-3}
    assert [content_id({**run, "label": "MPNN"}) for run in law] == [content_id(r) for r in fixed]
