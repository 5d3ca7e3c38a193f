"""Study files: what is wrong is named by file, key and remedy; the plan is what the file says."""

import json
import time

import pytest

from forcelaw.errors import DataError, StudyError
from forcelaw.files import read_json
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study.advice import advise
from forcelaw.study.config import load
from forcelaw.study.plan import plan
from forcelaw.study.record import StudyDirectory, find_pack
from forcelaw.training.spec import summarise
from tests.packs import write_pack
from tests.study.plans import fresh, specs

GOOD = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn,
  {name: mpnn, label: additive, options: {message: additive}, sizes: [4e3], seeds: [7]}, painn]
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
    planned = fresh(study(tmp_path), write_pack(tmp_path / "pack"))
    sweep = specs(planned, "MPNN", "sweep")
    assert sorted(s["lr"] for s in sweep) == [2e-3, 4e-3, 8e-3]
    assert not planned.complete and all(run.kind == "sweep" for run in planned.runs)
    grid = specs(planned, "PaiNN")
    assert (
        len(grid) == 4 and {s["seed"] for s in grid} == {0, 1} and len({s["n"] for s in grid}) == 2
    )
    assert all(abs(s["n"] / t - 1) < 0.35 for s, t in zip(grid[::2], (3e3, 6e3)))
    assert all(s["symmetry"] == "E(3)" and s["epochs"] >= 2 for s in grid)
    only = specs(planned, "additive")
    assert len(only) == 1 and only[0]["model"]["message"] == "additive" and only[0]["seed"] == 7
    # equal seeds see equal data in equal order, whatever the architecture
    assert specs(planned, "MPNN")[0]["steps"] == grid[0]["steps"]


def test_a_plan_needs_no_disk_and_is_the_same_every_time(tmp_path, monkeypatch) -> None:
    read = study(tmp_path)
    data = summarise(write_pack(tmp_path / "pack"), cutoff=read.cutoff)
    first = plan(read, data, {})
    finished = {run.id: 0.5 + run.spec["lr"] for run in first.runs}
    for name in ("open", "io.open", "os.open", "os.scandir", "os.stat"):
        target = name if "." in name else f"builtins.{name}"
        monkeypatch.setattr(target, lambda *a, **k: pytest.fail("a plan reads the disk"))
    once, again = (
        plan(study.model_copy(), data, finished) for study in (read, read.model_copy(deep=True))
    )
    monkeypatch.undo()
    assert once == again and once.complete and len(once.runs) == 9 + 4 + 1 + 4
    assert plan(read, data, dict(reversed(finished.items()))) == once
    assert {run.spec["lr"] for run in once.runs if run.kind == "grid"} == {2e-3}


def test_a_pack_that_was_moved_or_renamed(tmp_path) -> None:
    read = study(tmp_path)
    out, pack = tmp_path / "out", write_pack(tmp_path / "pack")
    directory = StudyDirectory(read, pack, out)
    directory.write(command="test")
    run = RunDirectory.create(directory.runs, directory.plan().runs[0].spec)
    run.finish({"status": "diverged"})
    (tmp_path / "new").mkdir()
    moved = pack.path.rename(tmp_path / "new" / "pack")
    with pytest.raises(DataError, match="there is no pack here"):
        find_pack(read, tmp_path)
    read = study(tmp_path, GOOD.replace("data: pack", "data: new/pack"))
    StudyDirectory(read, find_pack(read, tmp_path), out).write(command="test")
    moved.rename(tmp_path / "other")
    read = study(tmp_path, GOOD.replace("data: pack", "data: other"))
    with pytest.raises(StudyError, match="was called 'pack'") as error:
        StudyDirectory(read, find_pack(read, tmp_path), out).write(command="test")
    assert "link" in error.value.remedy
    moved.symlink_to(tmp_path / "other")  # the remedy
    read = study(tmp_path, GOOD.replace("data: pack", "data: new/pack"))
    StudyDirectory(read, find_pack(read, tmp_path), out).write(command="test")
    assert run.done


def test_sizes_that_are_one_model_are_one_run(tmp_path) -> None:
    """They were two of a plan, of which one directory was made: counts, work left and the runs
    under way were too many."""
    text = GOOD.replace("sizes: [3e3, 6e3]", "sizes: [3e3, 3.1e3, 6e3]")
    text = text.replace("factors: [0.5, 1, 2]", "factors: [0.5, 1, 1.0001, 2]")
    assert text.count("3.1e3") == text.count("1.0001") == 1
    read, pack = study(tmp_path, text), write_pack(tmp_path / "pack")
    data = summarise(pack, cutoff=read.cutoff)
    planned = plan(read, data, {})
    losses = {run.id: 0.5 + run.spec["lr"] for run in planned.runs}
    planned = plan(read, data, losses)
    assert planned.complete and len(planned.runs) == len({run.id for run in planned.runs})
    assert len(planned.runs) == 9 + 4 + 1 + 4
    (said,) = [line for line in advise(read, data, planned) if "the same" in line]
    assert "MPNN, PaiNN" in said and "3.0e3 and 3.1e3" in said


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("epochs: 2", "epoch: 2", "epoch: unknown key"),
        ("name: t\n", "", "name: required key is missing"),
        ("epochs: 2\n", "epochs: 2\natoms: 1e5\n", "epochs or as atoms"),
        ("[mpnn,", "[mpnnn,", "no architecture 'mpnnn'"),
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
    wrong = study(tmp_path, GOOD.replace("message: additive", "message: addditive"))
    with pytest.raises(StudyError, match="message"):
        fresh(wrong, write_pack(tmp_path / "pack"))


def rate_of(directory, label="MPNN"):
    """The learning rate of an entry's grid; None while its sweep is not over."""
    found = {
        run.spec["lr"] for run in directory.plan().runs if (run.label, run.kind) == (label, "grid")
    }
    assert len(found) < 2
    return found.pop() if found else None


def test_the_best_rate_is_the_lowest_mean_loss_and_diverged_rates_are_out(tmp_path) -> None:
    directory = StudyDirectory(study(tmp_path), write_pack(tmp_path / "pack"), tmp_path / "out")
    sweep = specs(directory.plan(), "MPNN", "sweep")
    for spec, loss in zip(sorted(sweep, key=lambda s: s["lr"]), (0.5, 0.4, None), strict=True):
        run = RunDirectory.create(directory.runs, spec)
        if loss:
            run.append_metric({"step": 1, "loss": loss})
        assert rate_of(directory) is None
        run.finish({"status": "finished" if loss else "diverged"})
    assert rate_of(directory) == 4e-3
    for run in runs(directory.runs):
        run.finish({"status": "diverged"})
    planned = directory.plan()
    assert "2e-03" in planned.failed["MPNN"] or "0.002" in planned.failed["MPNN"]
    assert rate_of(directory) is None and not specs(planned, "MPNN")


@pytest.mark.parametrize("dead, rate", [({4e-3}, 8e-3), ({4e-3, 8e-3}, 2e-3), (set(), 4e-3)])
@pytest.mark.parametrize("seen_by", ["first evaluation", "no model"])
def test_a_rate_that_kills_the_energies_is_not_taken(tmp_path, dead, rate, seen_by) -> None:
    """Forces are most of the loss, so that it may be the lowest. Where no rate has learned all, the
    loss alone decides."""
    directory = StudyDirectory(study(tmp_path), write_pack(tmp_path / "pack"), tmp_path / "out")
    directory.write("test")
    none = read_json(directory.out / "study.json")["data"]["no_model"]
    first = 1 if seen_by == "first evaluation" else 8
    forces = {2e-3: 0.5, 4e-3: 0.3, 8e-3: 0.4}
    swept = specs(directory.plan(), "MPNN", "sweep")

    def train(dead):
        for spec in swept:
            run, lr = RunDirectory.create(directory.runs, spec), spec["lr"]
            run.start_over()
            for step, share in ((first, 1.0), (9, 0.6), (10, 0.4)):
                energies = none["loss_energy"] * (1.0 if lr in dead else share)
                parts = {"loss_energy": energies, "loss_forces": none["loss_forces"] * forces[lr]}
                parts["loss_forces"] *= share
                run.append_metric({"step": step, "loss": sum(parts.values()), **parts})
            run.finish({"status": "finished"})
            time.sleep(0.01)  # a result that is read again has another time

    train(dead)
    assert rate_of(directory) == rate
    train({2e-3, 4e-3, 8e-3})
    assert rate_of(directory) == 4e-3


@pytest.mark.parametrize("within, rate", [(0.0, 8e-3), (0.009, 8e-3), (0.011, 4e-3), (0.5, 2e-3)])
def test_a_smaller_rate_that_is_hardly_worse_can_be_preferred(tmp_path, within, rate) -> None:
    losses = {1e-3: None, 2e-3: 0.55, 4e-3: 0.505, 8e-3: 0.5, 1.6e-2: 0.501}
    factors = "factors: [0.25, 0.5, 1, 2, 4], within: " + str(within)
    text = GOOD.replace("factors: [0.5, 1, 2]", factors)
    directory = StudyDirectory(study(tmp_path, text), write_pack(tmp_path / "p"), tmp_path / "out")
    for spec in specs(directory.plan(), "MPNN", "sweep"):
        run, loss = RunDirectory.create(directory.runs, spec), losses[spec["lr"]]
        if loss:
            run.append_metric({"step": 1, "loss": loss})
        run.finish({"status": "finished" if loss else "diverged"})
    assert rate_of(directory) == rate


def test_another_study_in_the_same_directory_is_refused(tmp_path) -> None:
    pack, out = write_pack(tmp_path / "pack"), tmp_path / "out"
    directory = StudyDirectory(study(tmp_path), pack, out)
    assert directory.write("command") == directory.write("again") == ""
    one = next(s for s in specs(directory.plan(), "MPNN") if s["seed"] == 1)
    RunDirectory.create(out / "runs", one).append_metric({"step": 1, "loss": 1.0})
    before = (out / "study.json").read_bytes()
    other = StudyDirectory(study(tmp_path, GOOD.replace("[0, 1]", "[0, 2]")), pack, out)
    with pytest.raises(StudyError, match="different: seeds; 1 run") as caught:
        other.write("command")
    assert caught.value.where == str(out)
    assert (out / "study.json").read_bytes() == before


def test_a_study_may_grow_and_nothing_trained_is_lost(tmp_path) -> None:
    pack, out = write_pack(tmp_path / "pack"), tmp_path / "out"
    fixed = GOOD.partition("learning_rate:")[0] + "learning_rate: {value: 1e-3}\n"

    def written(seeds, command):
        text = fixed.replace("[0, 1]", seeds)
        return StudyDirectory(study(tmp_path, text), pack, out).write(command)

    assert written("[0, 1]", "first") == ""
    small = StudyDirectory(study(tmp_path, fixed), pack, out)
    planned = small.create_runs()
    trained = small.run(planned.runs[0])
    trained.append_metric({"step": 1, "loss": 1.0})
    assert "(seeds)" in written("[0, 1, 2]", "second")
    content = json.loads((out / "study.json").read_text())
    assert content["command"] == "first" and content["study"]["seeds"] == [0, 1, 2]
    assert [entry["keys"] for entry in content["grown"]] == [["seeds"]]
    assert {run.id for run in runs(small.runs)} == {run.id for run in planned.runs}
    # one that shrinks forgets what was only planned and keeps what was trained
    seed = trained.spec()["seed"]
    written(f"[{seed}]", "third")
    assert {run.spec()["seed"] for run in runs(small.runs)} <= {seed, 7} and trained.metrics()
