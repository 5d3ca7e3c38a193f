"""Kernels compiled ahead of the runs that launch them, on a machine without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from forcelaw.models.mpnn import MPNNConfig
from forcelaw.models.painn import PaiNNConfig
from forcelaw.study import precompile as ahead
from forcelaw.study.concurrent import ConcurrentRuns
from forcelaw.study.config import load
from forcelaw.study.plan import model_config
from forcelaw.study.record import StudyDirectory, find_pack
from tests.packs import write_pack

SPECS = [
    {"model": c.model_dump(mode="json"), "train": {"precision": "tf32"}}
    for c in (
        MPNNConfig(width=8, depth=1, elements=(1, 6, 8), mean_degree=4.0),
        PaiNNConfig(width=8, depth=2, elements=(1, 6, 8), mean_degree=4.0),
    )
]

# not as a module: that one gives way to all other processes, and on a busy machine never ends
PROGRAM = "import sys; from forcelaw.study.precompile import main; sys.exit(main(*sys.argv[1:]))"


def compiled(folder: Path, pack: Path, lines: list[dict]) -> dict[str, int]:
    """Kernels in Triton's cache after a process was given these models: name -> files."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    text = "".join(
        json.dumps({"model": s["model"], "precision": s["train"]["precision"]}) + "\n"
        for s in lines
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(pack), "90"],
        input=text,
        text=True,
        timeout=240,
        capture_output=True,
        env={
            **environment,
            "FORCELAW_OPS": "triton",
            "TRITON_CACHE_DIR": str(folder),
            "CUDA_VISIBLE_DEVICES": "",
        },
    )
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    found: dict[str, int] = {}
    for path in folder.rglob("*.cubin"):
        found[path.stem] = found.get(path.stem, 0) + 1
    return found


@pytest.mark.timeout(300)
def test_a_process_leaves_what_a_training_step_launches_in_the_cache(tmp_path) -> None:
    write_pack(tmp_path / "pack")
    once = compiled(tmp_path / "cache", tmp_path / "pack", SPECS[:1])
    assert {
        "_rotations",
        "_slots",
        "_atoms",
        "_edges",
        "_features",
        "_forward",
        "_backward",
        "_forces",
        "_finish",
        "_update",
        "_record",
        "_column_sums",
    } <= set(once)
    # both models, in another process: of the kernels that the first has, those that know neither
    # model nor width are there already
    both = compiled(tmp_path / "cache", tmp_path / "pack", SPECS)
    assert both["_lengths"] >= 1
    for name in ("_rotations", "_slots", "_atoms", "_edges", "_record"):
        assert both[name] == once[name], name


class Process:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stdin, self.killed = self, False

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def kill(self) -> None:
        self.killed = True

    def wait(self) -> None: ...


def test_each_model_is_given_once_and_dealt_out(tmp_path, monkeypatch) -> None:
    made: list[Process] = []
    monkeypatch.setattr(ahead, "usable_cores", lambda: 4)
    monkeypatch.setattr(
        ahead.Ahead,
        "_start",
        lambda self: (made.append(Process()), self.processes.append(made[-1])),
    )
    helper = ahead.Ahead(tmp_path, "cuda")
    wide = {**SPECS[0], "model": {**SPECS[0]["model"], "width": 12}}
    gradient = {**SPECS[0], "model": {**SPECS[0]["model"], "forces": "conservative"}}
    helper.give([*SPECS, SPECS[0], gradient])
    helper.give([wide, SPECS[1]])
    assert [len(p.lines) for p in made] == [2, 2]  # four cores, two of them spared
    given = [json.loads(line)["model"] for p in made for line in p.lines]
    assert sorted(m["width"] for m in given) == [8, 8, 8, 12]
    assert [m.get("forces", "direct") for m in given].count("conservative") == 1
    package = {"model": {"architecture": "forcelaw.adapters.pet:ARCHITECTURE"}}
    helper.give([{**SPECS[0], **package}])  # runs eagerly
    assert [len(p.lines) for p in made] == [2, 2]
    monkeypatch.setattr(ahead, "BYTES", 100)
    helper.give(
        [{**wide, "model": {**wide["model"], "width": 20}}]
    )  # a full pipe: left to the training
    assert [len(p.lines) for p in made] == [2, 2]
    helper.close()
    assert all(p.killed for p in made)
    helper.give([{**wide, "model": {**wide["model"], "width": 16}}])
    assert len(made) == 2 and not helper.processes


@pytest.mark.parametrize("device, cores, workers", [("cpu", 64, 1), ("cuda", 2, 1), ("cuda", 8, 4)])
def test_there_are_none_without_a_gpu_or_cores_to_spare(
    tmp_path, monkeypatch, device, cores, workers
) -> None:
    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    helper = ahead.Ahead(tmp_path, device, workers)
    helper.give(SPECS)
    assert helper.count == 0 and not helper.processes


def test_grids_that_wait_for_a_sweep_are_compiled_for_as_well(tmp_path) -> None:
    """On an H100 eSEN's fifteen widths of `depth` were compiled one by one, when its sweep was over
    and the card was idle."""
    write_pack(tmp_path / "pack")
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: t\ndata: pack\ncutoff: 3.0\narchitectures: [{name: painn, stage: 1}, mpnn]\nsizes:"
        " [2e3, 6e3]\ndepth: 1\nepochs: 2\ntrain: {batch_molecules: 4, evaluations: 2,"
        " first_evaluation: 2, validation_structures: 6}\nlearning_rate: {sweep: {size: 2e3,"
        " factors: [0.5, 1], epochs: 1}}\n"
    )
    study = load(path)
    directory = StudyDirectory(study, find_pack(study, tmp_path), tmp_path / "out")
    side_by_side = ConcurrentRuns(
        directory, device="cpu", limit=1, compile_model=False, stop=lambda: False, show=False
    )
    given: list[tuple[str, int]] = []
    side_by_side.ahead.give = lambda specs: given.extend(
        (s["model"]["architecture"], s["model"]["width"]) for s in specs
    )
    assert side_by_side._start_one()
    side_by_side.scheduler.close()
    small, large = (
        {a.name: model_config(study, directory.data, a, n).width for a in study.architectures}
        for n in (2e3, 6e3)
    )
    assert (
        given[:4] == [("mpnn", small["mpnn"])] * 2 + [("painn", small["painn"])] * 2
    )  # the sweeps that are listed, by stage
    assert given[4:] == [  # large ones are trained first
        (name, width[name]) for name in ("mpnn", "painn") for width in (large, small)
    ]
