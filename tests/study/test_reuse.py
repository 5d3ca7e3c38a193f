"""A run that two studies have in common is trained once, by the right one, and says so."""

import json

import yaml

from forcelaw.study.config import Planner, load
from forcelaw.study.listing import known_runs
from forcelaw.study.reuse import training_id
from tests.packs import write_pack
from tests.study.test_study_variants import BASE


def planner_of(tmp_path, name, pack, **changes):
    path = tmp_path / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({**BASE, "name": name, "learning_rate": {"value": 1e-3}, **changes})
    )
    return Planner(load(path), pack)


def trained(tmp_path, planner, loss=0.5):
    listed, _ = known_runs(planner, tmp_path / planner.study.name / "runs")
    for run, _ in listed:
        if not run.done:
            run.append_metric({"step": 1, "loss": loss})
            run.finish({"status": "finished", "seconds": 7.0})
    return [run for run, _ in listed]


def test_a_common_run_is_taken_over_with_its_origin(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    first = trained(tmp_path, planner_of(tmp_path, "a", pack))
    second = planner_of(
        tmp_path,
        "b",
        pack,
        share=["a", "absent"],
        sizes=[6e3, 1e4],
        architectures=[{"name": "mpnn", "label": "other name"}, "painn"],
    )
    listed, _ = known_runs(second, tmp_path / "b" / "runs")
    done = [run for run, _ in listed if run.done]
    assert len(first) == 2 and len(listed) == 4 and len(done) == 1  # the size that both have
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
    known_runs(second, tmp_path / "b" / "runs")
    assert run.metrics() == origin.metrics()  # not twice


def test_only_what_is_over_and_the_same_is_taken(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    a = planner_of(tmp_path, "a", pack)
    trained(tmp_path, a)
    for changes in (
        {"train": {**BASE["train"], "augment": True}},
        {"seeds": [1]},
        {"epochs": 3},
        {"depth": 2},
        {"forces": "conservative"},
        {"learning_rate": {"value": 2e-3}},
        {"share": []},
    ):
        planner = planner_of(tmp_path, "b", pack, **{"share": ["a"], **changes})
        assert not any(run.done for run, _ in known_runs(planner, tmp_path / "b" / "runs")[0]), (
            changes
        )
    # unfinished, failed and claimed runs are not taken
    for run, _ in known_runs(a, tmp_path / "a" / "runs")[0]:
        (run.path / "result.json").write_text(json.dumps({"status": "failed"}))
    planner = planner_of(tmp_path, "c", pack, share=["a"])
    listed, _ = known_runs(planner, tmp_path / "c" / "runs")
    assert not any(run.done for run, _ in listed)


def test_a_run_that_is_being_trained_here_is_left_alone(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    alone = planner_of(tmp_path, "b", pack, share=["a"])
    listed, _ = known_runs(alone, tmp_path / "b" / "runs")
    assert listed[0][0].claim()
    trained(tmp_path, planner_of(tmp_path, "a", pack))
    again = planner_of(tmp_path, "b", pack, share=["a"])
    done = [run.done for run, _ in known_runs(again, tmp_path / "b" / "runs")[0]]
    assert done == [False, True]
