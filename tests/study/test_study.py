"""Study files: what is wrong is named by file, key and remedy; the plan is what the file says."""

import json

import pytest

from forcelaw.errors import StudyError
from forcelaw.store.runs import RunDirectory, content_id, runs
from forcelaw.study.config import Planner, best_rate, load, write_study
from tests.packs import write_pack

GOOD = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, {name: mpnn, label: additive, options: {message: additive}, sizes: [4e3], seeds: [7]}, painn]
sizes: [3e3, 6e3]
depth: 1
seeds: [0, 1]
epochs: 2
train: {batch_molecules: 4, evaluations: 3, first_evaluation: 2, validation_structures: 6}
learning_rate:
  sweep: {size: 3e3, factors: [0.5, 1, 2], epochs: 1}
"""


def study(tmp_path, text=GOOD):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    return load(path)


def test_the_plan_is_what_the_file_says(tmp_path) -> None:
    planner = Planner(study(tmp_path), write_pack(tmp_path / "pack"))
    mpnn, additive, painn = planner.study.architectures
    assert [s["lr"] for s in planner.sweep(mpnn)] == [2e-3, 4e-3, 8e-3]
    assert all(s["kind"] == "sweep" and s["label"] == "MPNN" for s in planner.sweep(mpnn))
    grid = planner.grid(painn, 1e-3)
    assert (
        len(grid) == 4 and {s["seed"] for s in grid} == {0, 1} and len({s["n"] for s in grid}) == 2
    )
    assert all(abs(s["n"] / t - 1) < 0.35 for s, t in zip(grid[::2], (3e3, 6e3)))
    assert all(s["symmetry"] == "E(3)" and s["epochs"] >= 2 for s in grid)
    only = planner.grid(additive, 1e-3)
    assert len(only) == 1 and only[0]["model"]["message"] == "additive" and only[0]["seed"] == 7
    # equal seeds see equal data in equal order, whatever the architecture
    assert planner.grid(mpnn, 1e-3)[0]["steps"] == grid[0]["steps"]


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("epochs: 2", "epoch: 2", "epoch: unknown key"),
        ("name: t\n", "", "name: required key is missing"),
        ("epochs: 2\n", "epochs: 2\natoms: 1e5\n", "epochs or as atoms"),
        ("[mpnn, ", "[mpnnn, ", "unknown architecture 'mpnnn'"),
        ("{message: additive}", "{mesage: additive}", "no option 'mesage'"),
        ("batch_molecules: 4", "batch_molecules: 0", "batch_molecules"),
        ("batch_molecules: 4", "batch: 4", "batch: unknown key"),
        ("label: additive", "label: mpnn", "share a label"),
        ("depth: 1", "depth: one", "depth"),
        ("factors: [0.5, 1, 2]", "factors: [1]", "factors"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", "'seeds' is given twice"),
        ("name: t", "name: [", "not valid YAML"),
        ("name: t", "name: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_by_key(tmp_path, old, new, message) -> None:
    assert old in GOOD
    with pytest.raises(StudyError) as caught:
        study(tmp_path, GOOD.replace(old, new, 1))
    assert message in str(caught.value) and "t.yaml" in str(caught.value)


def test_a_wrong_value_of_an_option_is_named(tmp_path) -> None:
    planner = Planner(
        study(tmp_path, GOOD.replace("message: additive", "message: addditive")),
        write_pack(tmp_path / "pack"),
    )
    with pytest.raises(StudyError, match="message"):
        planner.grid(planner.study.architectures[1], 1e-3)


def test_the_best_rate_is_the_lowest_mean_loss_and_diverged_rates_are_out(tmp_path) -> None:
    planner = Planner(study(tmp_path), write_pack(tmp_path / "pack"))
    specs = planner.sweep(planner.study.architectures[0])
    assert best_rate(specs, tmp_path / "runs") is None
    for spec, loss in zip(specs, (0.5, 0.4, None)):
        run = RunDirectory.create(tmp_path / "runs", spec)
        if loss:
            run.append_metric({"step": 1, "loss": loss})
        assert best_rate(specs, tmp_path / "runs") is None
        run.finish({"status": "finished" if loss else "diverged"})
    assert best_rate(specs, tmp_path / "runs") == 4e-3
    for spec in specs:
        (tmp_path / "runs" / content_id(spec) / "result.json").write_text('{"status": "diverged"}')
    with pytest.raises(StudyError, match="every learning rate"):
        best_rate(specs, tmp_path / "runs")


@pytest.mark.parametrize("within, rate", [(0.0, 8e-3), (0.009, 8e-3), (0.011, 4e-3), (0.5, 2e-3)])
def test_a_smaller_rate_that_is_hardly_worse_can_be_preferred(tmp_path, within, rate) -> None:
    losses = {1e-3: None, 2e-3: 0.55, 4e-3: 0.505, 8e-3: 0.5, 1.6e-2: 0.501}
    planner = Planner(study(tmp_path), write_pack(tmp_path / "pack"))
    first = planner.sweep(planner.study.architectures[0])[0]
    specs = [{**first, "lr": lr} for lr in losses]
    for spec in specs:
        run = RunDirectory.create(tmp_path / "runs", spec)
        loss = losses[spec["lr"]]
        if loss:
            run.append_metric({"step": 1, "loss": loss})
        run.finish({"status": "finished" if loss else "diverged"})
    assert best_rate(specs, tmp_path / "runs", within) == rate


def test_another_study_in_the_same_directory_is_refused(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    write_study(Planner(study(tmp_path), pack), tmp_path / "out", "command")
    write_study(Planner(study(tmp_path), pack), tmp_path / "out", "again")
    planner = Planner(study(tmp_path), pack)
    (one,) = [
        spec for spec in planner.grid(planner.study.architectures[0], 1e-3) if spec["seed"] == 1
    ][:1]
    RunDirectory.create(tmp_path / "out" / "runs", one).append_metric({"step": 1, "loss": 1.0})
    before = (tmp_path / "out" / "study.json").read_bytes()
    with pytest.raises(
        StudyError,
        match="different: seeds; 1 runs that were trained there are not part of this one",
    ):
        write_study(
            Planner(study(tmp_path, GOOD.replace("[0, 1]", "[0, 2]")), pack),
            tmp_path / "out",
            "command",
        )
    assert (tmp_path / "out" / "study.json").read_bytes() == before


def test_a_study_may_grow_and_nothing_trained_is_lost(tmp_path) -> None:
    pack, out = write_pack(tmp_path / "pack"), tmp_path / "out"
    fixed = GOOD.partition("learning_rate:")[0] + "learning_rate: {value: 1e-3}\n"
    small = Planner(study(tmp_path, fixed), pack)
    assert write_study(small, out, "first") == ""
    specs = small.grid(small.study.architectures[0], 1e-3)
    for spec in specs:
        RunDirectory.create(out / "runs", spec)
    trained = RunDirectory.create(out / "runs", specs[0])
    trained.append_metric({"step": 1, "loss": 1.0})
    larger = Planner(study(tmp_path, fixed.replace("[0, 1]", "[0, 1, 2]")), pack)
    assert "has changed (seeds)" in write_study(larger, out, "second")
    written = json.loads((out / "study.json").read_text())
    assert written["command"] == "first" and written["study"]["seeds"] == [0, 1, 2]
    assert [entry["keys"] for entry in written["grown"]] == [["seeds"]] and len(
        list((out / "runs").iterdir())
    ) == len(specs)
    # one that shrinks forgets what was only planned and keeps what was trained
    seed = specs[0]["seed"]
    write_study(Planner(study(tmp_path, fixed.replace("[0, 1]", f"[{seed}]")), pack), out, "third")
    assert {run.spec()["seed"] for run in runs(out / "runs")} == {seed} and trained.metrics()
