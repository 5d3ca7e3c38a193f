"""One run by several ranks: the numbers of one process, whatever the ranks are and however often
their number changes; one writer; a rank that is lost ends the others and not the run."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import forcelaw
from forcelaw.data.schedule import plan
from forcelaw.errors import RankError, StudyError
from forcelaw.host import process_exists
from forcelaw.store.runs import RunDirectory
from forcelaw.study import launcher
from forcelaw.study.config import load
from forcelaw.study.worker import work
from forcelaw.training import cooperative, loop
from forcelaw.training import step as step_module
from forcelaw.training import team as team_module
from forcelaw.training.loop import train
from forcelaw.training.ranks import Ranks
from forcelaw.training.team import Team
from tests.packs import write_pack
from tests.training.test_loop import losses, make_run
from tests.training.test_weights import crystals  # noqa: F401

CPU = torch.device("cpu")


class Second(Ranks):
    """A second rank whose first does not exist: what it would get from there is made up."""

    rank, size = 1, 2

    def from_first(self, make):
        return dict(loop.NEW_STATE)

    def total(self, values):
        return np.maximum(values, 1.0)


class Threads(Ranks):
    """Ranks that are threads of one process: sums in the order of the ranks."""

    def __init__(self, rank, size, common, in_graph=False):
        self.rank, self.size, self.common, self.in_graph = rank, size, common, in_graph

    def _all(self, value):
        self.common.given[self.rank] = value
        self.common.barrier.wait()
        found = list(self.common.given)
        self.common.barrier.wait()
        return found

    def sum_(self, flat):
        flat.copy_(sum(self._all(flat.clone())))

    def copy_first_(self, tensors):
        for tensor in tensors:
            tensor.copy_(self._all(tensor.clone())[0])

    def total(self, values):
        return sum(self._all(values))

    def largest(self, values):
        return np.max(self._all(values), axis=0)

    def from_first(self, make):
        return json.loads(self._all(json.dumps(make()) if self.first else None)[0])


@pytest.fixture(autouse=True)
def one_model_at_a_time(monkeypatch):
    """The generator that weights are drawn from is one for the whole process."""
    lock, original = threading.Lock(), loop.make_model

    def make_model(*given):
        with lock:
            return original(*given)

    monkeypatch.setattr(loop, "make_model", make_model)


def together(size, body, in_graph=False):
    """``body(ranks)`` in a thread for each rank; the result of the first."""
    common = SimpleNamespace(given=[None] * size, barrier=threading.Barrier(size, timeout=20))
    results, errors = [None] * size, []

    def call(rank):
        try:
            results[rank] = body(Threads(rank, size, common, in_graph))
        except BaseException as error:  # the others must not wait
            errors.append(error)
            common.barrier.abort()

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next(
            (e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0]
        )
    return results[0]


def assert_same(run, other, tolerance=1e-10):
    """Equal metrics and weights, to rounding in float64 and what training makes of it."""
    ours, theirs = losses(run), losses(other)
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs):
        assert a == pytest.approx(b, rel=tolerance, abs=1e-13)
    weights = [forcelaw.load_run(r.path).model().state_dict() for r in (run, other)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=tolerance, atol=1e-10)


def test_every_structure_goes_to_one_rank_and_the_parts_are_even() -> None:
    rng = np.random.default_rng(0)
    natoms = rng.integers(1, 30, 100)
    whole = plan(natoms, atoms_total=4000, seed=1, molecules=7, atoms=None)
    parts = [whole.part(natoms, rank, 3) for rank in range(3)]
    for k in range(whole.steps):
        step = whole.order[whole.ptr[k] : whole.ptr[k + 1]].tolist()
        mine = [part.order[part.ptr[k] : part.ptr[k + 1]].tolist() for part in parts]
        assert sorted(np.concatenate(mine)) == sorted(step)
        for part, taken in zip(parts, mine):
            assert taken == [row for row in step if row in taken]
            assert part.atoms[k] == natoms[taken].sum()
        atoms = [natoms[taken].sum() for taken in mine]
        assert max(atoms) - min(atoms) <= natoms[step].max()
    assert any(not np.diff(part.ptr).all() for part in parts)  # 100 = 14 * 7 + 2
    assert whole.part(natoms, 0, 1) is whole


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": True, "symmetry_rotations": 2},
        {"symmetry_rotations": 1, "symmetry_penalty": "latent"},
        {
            "batch_molecules": None,
            "batch_atoms": 20,
            "energy_weight": 3.0,
            "clip": 0.5,
            "loss": "huber",
        },
        {"batch_molecules": 3, "evaluations": 3},  # steps of one structure: a rank has none
    ],
)
def test_losses_do_not_depend_on_the_ranks(tmp_path, changes) -> None:
    pack = write_pack(tmp_path / "pack")
    changes = {"precision": "float64", **changes}
    one, _ = make_run(tmp_path / "one", pack, **changes)
    train(one, pack)
    many, _ = make_run(tmp_path / "many", pack, **changes)
    result = together(3, lambda ranks: train(many, pack, ranks=ranks))
    assert result["ranks"] == [3] and "ranks" not in one.result()
    assert result["flops"] == one.result()["flops"]
    assert result["seconds"] == pytest.approx(3 * result["wall_seconds"])
    assert_same(many, one)


def test_stress_is_normalised_by_the_structures_that_have_one(tmp_path, crystals) -> None:  # noqa: F811
    changes = {"size": 3e3, "depth": 1, "cutoff": 3.0, "batch_molecules": 4, "atoms": 300}
    changes |= {"forces": "conservative", "stress_weight": 2.0, "precision": "float64"}
    changes |= {"validation_structures": 8, "evaluations": 2, "first_evaluation": 5}
    one = forcelaw.train("painn", data=crystals.path, out=tmp_path / "one", **changes)
    many = RunDirectory.create(tmp_path / "many", one.spec)
    together(2, lambda ranks: train(many, crystals, ranks=ranks))
    assert_same(many, RunDirectory(one.path))


@pytest.mark.parametrize("in_graph", [False, True])
def test_graphs_of_several_ranks_train_as_one_process_does(tmp_path, monkeypatch, in_graph) -> None:
    """CUDA graphs replaced by calls: the sum as a part of the graph, or between two of them."""
    pack = write_pack(tmp_path / "pack")
    changes = {"batch_molecules": 3, "precision": "float64", "augment": True, "name": "painn"}
    one, _ = make_run(tmp_path / "one", pack, **changes)
    train(one, pack)
    stream, captured = SimpleNamespace(wait_stream=lambda other: None), []
    for name in ("current_stream", "default_stream", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())

    def capture(body, pool=None):
        captured.append(body)
        return SimpleNamespace(replay=body, pool=lambda: "pool", reset=lambda: None)

    monkeypatch.setattr(step_module, "capture", capture)
    monkeypatch.setattr(step_module, "make_room", lambda: None)
    monkeypatch.setattr(loop, "EagerStep", step_module.GraphStep)
    many, _ = make_run(tmp_path / "many", pack, **changes)
    together(2, lambda ranks: train(many, pack, ranks=ranks), in_graph)
    assert len(captured) == 2 * (len(step_module.CLASSES) + (not in_graph))
    assert_same(many, one)


def test_windows_of_ranks_end_together(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    changes = {"augment": True, "precision": "float64"}
    one, _ = make_run(tmp_path / "one", pack, **changes)
    train(one, pack)
    many, _ = make_run(tmp_path / "many", pack, **changes)
    # the smallest memory counts for all
    together(2, lambda ranks: train(many, pack, ranks=ranks, capacity=60 if ranks.first else 1e9))
    assert_same(many, one)


def test_only_the_first_rank_writes(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    run, _ = make_run(tmp_path, pack)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    assert train(RunDirectory(run.path), pack, ranks=Second()) == {"status": "finished"}
    assert before == {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()}


def test_steps_too_small_for_the_ranks_are_refused(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    run, _ = make_run(tmp_path, pack, batch_molecules=1)
    with pytest.raises(StudyError):
        train(run, pack, ranks=Second())


READS = 4  # stop is asked as often while the data of validation and training are read


@pytest.fixture(scope="module")
def team():
    with Team(2, "cpu") as made:
        yield made


def stopping_at(*steps):
    """A ``stop`` that asks to leave after the n-th steps; 0: just before the first."""
    calls = iter(range(1 - READS, 1_000_000))
    return lambda: next(calls) in steps


def drive(team, run, pack, **options):
    return cooperative.drive(team.training(run, pack, **options), CPU)


def test_a_run_resumes_with_another_number_of_ranks(tmp_path, team) -> None:
    """Two processes over gloo, then one, then two."""
    torch.set_num_threads(1)
    pack = write_pack(tmp_path / "pack")
    changes = {"augment": True, "precision": "float64"}
    one, _ = make_run(tmp_path / "one", pack, **changes)
    train(one, pack)
    run, _ = make_run(tmp_path / "run", pack, **changes)
    assert drive(team, run, pack, stop=stopping_at(7)) is None and run.position() == 7
    assert train(run, pack, stop=stopping_at(9)) is None and run.position() == 16
    assert drive(team, run, pack)["ranks"] == [1, 2]
    assert_same(run, one)


def test_a_signal_to_any_rank_stops_all_at_the_same_step(tmp_path, team) -> None:
    pack = write_pack(tmp_path / "pack")
    run, spec = make_run(tmp_path, pack)
    calls = iter(range(1_000_000))

    def signal_once() -> bool:
        if next(calls) == READS + 3:
            team._others[0].send_signal(signal.SIGTERM)
        time.sleep(0.05)
        return False

    assert drive(team, run, pack, stop=signal_once) is None
    assert 3 <= run.position() < spec.steps
    assert drive(team, run, pack)["status"] == "finished"  # both are there still


def test_ranks_leave_while_they_read_their_data(tmp_path, team) -> None:
    pack = write_pack(tmp_path / "pack")
    run, _ = make_run(tmp_path, pack)
    assert drive(team, run, pack, stop=stopping_at(0)) is None
    assert run.position() == 0 and not run.metrics() and not team._others
    assert drive(team, run, pack)["status"] == "finished"  # the other one is started again


def test_a_lost_rank_ends_the_others_and_the_run_stays_open(tmp_path, team) -> None:
    pack = write_pack(tmp_path / "pack")
    changes = {"precision": "float64"}
    one, _ = make_run(tmp_path / "one", pack, **changes)
    train(one, pack)
    run, _ = make_run(tmp_path / "run", pack, **changes)
    calls = iter(range(1_000_000))

    def kill_once() -> bool:
        if next(calls) == READS + 12:
            team._others[0].kill()
        return False

    began = time.monotonic()
    with pytest.raises(RankError):
        drive(team, run, pack, stop=kill_once)
    assert time.monotonic() - began < 10
    assert not run.done and run.position() == 9  # of the last evaluation
    assert drive(team, run, pack)["status"] == "finished"  # the lost one is started again
    assert_same(run, one)


def test_a_mistake_of_another_rank_is_told(tmp_path, team, monkeypatch) -> None:
    pack, other = write_pack(tmp_path / "pack"), write_pack(tmp_path / "other", seed=1)
    run, _ = make_run(tmp_path, pack)
    original = team_module.job
    monkeypatch.setattr(team_module, "job", lambda run, pack, *rest: original(run, other, *rest))
    with pytest.raises(RankError, match="DataError"):  # the type of what the other met
        drive(team, run, pack)


def test_a_rank_ends_when_the_first_is_killed(tmp_path) -> None:
    script = (
        "import os, sys, time; from forcelaw.training.team import Team;"
        " t = Team(2, 'cpu'); t._start(); print(t._others[0].pid, flush=True); time.sleep(60)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    other = int(first.stdout.readline())
    assert process_exists(other)
    first.kill()
    first.wait()
    first.stdout.close()
    deadline = time.monotonic() + 15
    while _runs(other) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(other)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_study_trains_each_run_on_two_ranks(tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    (tmp_path / "study.yaml").write_text(
        f"name: s\ndata: {pack.path}\narchitectures: [mpnn]\nsizes: [2e3, 3e3]\ndepth: 1\n"
        "cutoff: 3.0\natoms: 300\n"
        "train: {batch_molecules: 4, evaluations: 3, first_evaluation: 5, precision: float64,"
        " validation_structures: 6}\n"
    )
    study = load(tmp_path / "study.yaml")
    for name, gpus in (("one", 1), ("two", 2)):
        work(study, tmp_path / name, tmp_path, device="cpu", show=False, gpus=gpus)
    paths = sorted((tmp_path / "one" / "runs").iterdir())
    assert len(paths) == 2
    for path in paths:
        run, other = RunDirectory(tmp_path / "two" / "runs" / path.name), RunDirectory(path)
        assert run.result()["ranks"] == [2]
        assert_same(run, other)


def test_ranks_that_torchrun_starts_train_one_run(tmp_path) -> None:
    """The environment that torchrun gives, without its two processes more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = "train mpnn --size 2e3 --depth 1 --atoms 300 --validation-structures 6 --device cpu"
    words += f" --cutoff 3 --data {write_pack(tmp_path / 'pack').path} --out {tmp_path}"
    command = [sys.executable, "-m", "forcelaw.cli", *words.split()]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name in said[0] and not said[1]  # one speaks
    assert RunDirectory(path).result()["ranks"] == [2]


def test_workers_share_the_gpus_out(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    seen = [
        launcher._environment(k, 2, "cuda", 1, gpus=2)["CUDA_VISIBLE_DEVICES"] for k in range(2)
    ]
    assert seen == ["4,5", "6,7"]
