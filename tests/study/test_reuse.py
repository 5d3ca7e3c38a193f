"""A run that two studies have in common is trained once, by the right one, and says so."""

import json

import pytest
import yaml

from forcelaw.study.config import load
from forcelaw.study.cost import Rate
from forcelaw.study.record import StudyDirectory
from forcelaw.study.reuse import training_id
from forcelaw.study.status import _told_apart, describe_rest, study_status
from tests.packs import write_pack
from tests.study.test_study_variants import BASE


def directory_of(tmp_path, name, pack, **changes):
    path = tmp_path / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({**BASE, "name": name, "learning_rate": {"value": 1e-3}, **changes})
    )
    return StudyDirectory(load(path), pack, tmp_path / name)


def listed(directory):
    """Directories of all runs that can be planned, made where they were not there."""
    return [directory.run(run) for run in directory.create_runs().runs]


def trained(directory, loss=0.5):
    for run in listed(directory):
        if not run.done:
            run.append_metric({"step": 1, "loss": loss})
            run.finish({"status": "finished", "seconds": 7.0})
    return listed(directory)


def test_a_common_run_is_taken_over_with_its_origin(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    first = trained(directory_of(tmp_path, "a", pack))
    second = directory_of(
        tmp_path,
        "b",
        pack,
        share=["a", "absent"],
        sizes=[6e3, 1e4],
        architectures=[{"name": "mpnn", "label": "other name"}, "painn"],
    )
    every = listed(second)
    done = [run for run in every if run.done]
    assert len(first) == 2 and len(every) == 4 and len(done) == 1  # the size that both have
    run = done[0]
    origin = next(r for r in first if training_id(r.spec()) == training_id(run.spec()))
    assert run.result() == {
        "status": "finished",
        "seconds": 7.0,
        "taken_from": {"study": "a", "run": origin.id},
    }
    assert (
        run.metrics() == origin.metrics()
        and run.spec()["label"] == "other name"
        and run.id != origin.id
    )
    listed(directory_of(tmp_path, "b", pack, share=["a"]))
    assert run.metrics() == origin.metrics()  # not twice


def test_only_what_is_over_and_the_same_is_taken(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    a = directory_of(tmp_path, "a", pack)
    trained(a)
    for changes in (
        {"train": {**BASE["train"], "augment": True}},
        {"seeds": [1]},
        {"epochs": 3},
        {"depth": 2},
        {"forces": "conservative"},
        {"learning_rate": {"value": 2e-3}},
        {"share": []},
    ):
        other = directory_of(tmp_path, "b", pack, **{"share": ["a"], **changes})
        assert not any(run.done for run in listed(other)), changes
    # unfinished, failed and claimed runs are not taken
    for run in listed(a):
        (run.path / "result.json").write_text(json.dumps({"status": "failed"}))
    assert not any(run.done for run in listed(directory_of(tmp_path, "c", pack, share=["a"])))


def test_a_run_that_is_being_trained_here_is_left_alone(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    alone = directory_of(tmp_path, "b", pack, share=["a"])
    assert listed(alone)[0].claim()
    trained(directory_of(tmp_path, "a", pack))
    again = directory_of(tmp_path, "b", pack, share=["a"])
    assert [run.done for run in listed(again)] == [False, True]


def test_a_shared_sweep_unfolds_the_grid_at_once(tmp_path) -> None:
    """Copied runs count for the plan that is returned, without another look."""
    pack, sweep = write_pack(tmp_path / "pack"), {"learning_rate": BASE["learning_rate"]}
    first = directory_of(tmp_path, "a", pack, **sweep)
    while not all(run.done for run in listed(first)):
        trained(first)
    planned = directory_of(tmp_path, "b", pack, share=["a"], **sweep).create_runs()
    assert planned.complete and len(planned.runs) == 2 + 2


def test_what_was_taken_over_is_no_pace(tmp_path) -> None:
    """A study that took 31 of its 33 runs over was promised to end in 0 s."""
    pack, rates = write_pack(tmp_path / "pack"), {"MPNN": Rate(1.0, 0.0)}
    trained(directory_of(tmp_path, "a", pack, architectures=["mpnn"]))
    sizes = [*BASE["sizes"], 2e4]
    second = directory_of(tmp_path, "b", pack, architectures=["mpnn"], share=["a"], sizes=sizes)
    before = study_status(second, rates)
    rest = listed(second)
    after = study_status(second, rates)
    assert after.ended == len(sizes) - 1 and after.share > 0.1
    assert after.taken == after.done > 0 and after.trained == 0
    assert "pace" not in describe_rest(after, before, 60.0)
    [last] = [run for run in rest if not run.done]
    last.append_metric({"step": 1, "loss": 0.5})
    last.finish({"status": "finished", "seconds": 7.0})
    assert study_status(second, rates).trained == pytest.approx(after.work - after.taken)


def test_runs_in_training_of_one_name_and_size_are_told_apart() -> None:
    runs = [("MPNN N=1k", {"seed": seed, "lr": lr}, 0.5) for seed, lr in ((0, 0.01), (1, 0.01))]
    alone = ("PaiNN N=1k", {"seed": 0, "lr": 0.02}, 0.25)
    assert _told_apart([*runs, alone]) == [
        "MPNN N=1k seed 0 50%",
        "MPNN N=1k seed 1 50%",
        "PaiNN N=1k 25%",
    ]
    sweep = [("MPNN N=1k", {"seed": 0, "lr": lr}, 0.1) for lr in (0.001, 0.002)]
    assert _told_apart(sweep) == ["MPNN N=1k rate 0.001 10%", "MPNN N=1k rate 0.002 10%"]
