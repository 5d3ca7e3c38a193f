"""`forcelaw train` and `forcelaw models`, and the same from Python."""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import create_model

import forcelaw
from forcelaw.api.run import Training
from forcelaw.cli.main import build_parser, main
from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack
from forcelaw.errors import MissingPackageError, StoreError, StudyError
from forcelaw.models import ARCHITECTURES, architecture
from forcelaw.training.config import TrainOptions
from forcelaw.training.spec import validation_set
from tests.packs import write_pack

SMALL = {"size": 3e3, "epochs": 2, "depth": 1, "cutoff": 3.0, "batch_molecules": 4}
SMALL |= {"evaluations": 3, "first_evaluation": 2, "validation_structures": 6}
# every option away from its default
OPTIONS = {
    "warmup": 7,
    "clip": 3.5,
    "beta1": 0.8,
    "beta2": 0.98,
    "weight_decay": 0.01,
    "augment": True,
    "symmetry_rotations": 2,
    "symmetry_weight": 0.5,
    "symmetry_penalty": "norm",
    "precision": "float64",
    "evaluations": 4,
    "first_evaluation": 3,
    "evaluation_rotations": 2,
    "validation_structures": 5,
    "batch_atoms": 50,
    "energy_weight": 0.5,
    "forces_weight": 2.0,
    "energy_weight_end": 3.0,
    "forces_weight_end": 0.0,
    "decay": 0.5,
    "decay_shape": "cosine",
    "optimizer": "adamw",
    "loss": "huber",
    "huber_delta": 0.05,
}
NEEDS_STRESS = {"stress_weight", "stress_weight_end"}  # tests/training/test_weights.py
NEEDS_CONFIGS = {"config_weights"}  # tests/training/test_config_weights.py
NEEDS_AVERAGE = {
    "average_power"
}  # does not go with optimizer adamw; tests/training/test_weights.py


def options_of(command):
    action = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name for a in action.choices[command]._actions for name in a.option_strings}


def words(**options):
    return [
        word
        for key, value in options.items()
        for word in [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    ]


@pytest.fixture
def pack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_pack(tmp_path / "pack").path


def test_every_field_has_an_option():
    named = {"architecture", "options", "start"}
    names = {*TrainOptions.model_fields, *Training.model_fields} - named
    more = {"--lr", "--option", "--from"}
    assert {f"--{name.replace('_', '-')}" for name in names} | more <= options_of("train")


def test_every_option_reaches_the_run(pack):
    elsewhere = {"batch_molecules"} | NEEDS_STRESS | NEEDS_CONFIGS | NEEDS_AVERAGE
    assert OPTIONS.keys() | elsewhere == TrainOptions.model_fields.keys()
    what = {"size": 3e3, "atoms": 2e3, "depth": 2, "cutoff": 2.5, "seed": 3}
    what |= {"learning_rate": 2e-3, "forces": "conservative", "distinct_atoms": 100}
    given = ["--data", str(pack), *words(**what, **OPTIONS)]
    assert main(["train", "painn", *given, "--option", "radial=12"]) == 0
    (path,) = pack.parent.glob("out/single/runs/*")
    spec = forcelaw.load_run(path).spec
    assert spec["train"] == {**OPTIONS, "batch_molecules": None}
    model = spec["model"]
    assert (model["depth"], model["cutoff"], model["forces"]) == (2, 2.5, "conservative")
    assert (spec["seed"], spec["lr"], model["radial"], spec["atoms_total"]) == (3, 2e-3, 12, 2e3)
    assert 100 <= spec["train_atoms"] < 110


def test_python_and_the_command_line_train_the_same_run(pack):
    run = forcelaw.train("mpnn", data=pack, **SMALL, out="python")
    assert main(["train", "mpnn", "--data", str(pack), *words(**SMALL), "--out", "command"]) == 0
    (path,) = pack.parent.glob("command/runs/*")
    other = forcelaw.load_run(path)
    assert (run.id, run.spec) == (other.id, other.spec)
    measured = ("h", "throughput")
    assert run.metrics.drop(measured).equals(other.metrics.drop(measured))


def test_a_run_that_has_learned_nothing_says_so(pack, capsys):
    command = ["train", "mpnn", "--data", str(pack), *words(**SMALL, decay=0.5)]
    assert main([*command, "--learning-rate", "1e-2"]) == 0
    assert "forces have not been learned" not in capsys.readouterr().out
    assert main([*command, "--learning-rate", "1e-9"]) == 0
    assert "note: energies and forces have not been learned" in capsys.readouterr().out


def test_a_run_has_its_spec_metrics_result_and_model(pack):
    lines = []
    run = forcelaw.train("painn", data=pack, **SMALL, say=lines.append)
    assert str(run.path) in lines[0] and len(lines) == 1
    assert run.result["status"] == "finished" and "PaiNN" in repr(run)
    assert run.metrics["step"].to_list()[-1] == run.spec["steps"]
    model = run.model()
    assert not model.training and model.n_parameters() == run.spec["n"]
    assert loss_of(model, pack, run.spec) == pytest.approx(run.metrics["loss"][-1], rel=1e-5)
    again = forcelaw.train("painn", data=pack, **SMALL)  # finished: nothing is trained
    assert again.id == run.id and again.metrics.equals(run.metrics)


def loss_of(model, pack, spec):
    """The loss by its definition, over the validation structures of a run."""
    data = Pack(pack)
    chosen = validation_set(data, spec["train"]["validation_structures"])
    elements = tuple(spec["model"]["elements"])
    shard = Shard(data, chosen, cutoff=spec["model"]["cutoff"], elements=elements)
    rows = np.arange(len(chosen))
    atoms, edges = int(shard.host_natoms[rows].sum()), int(shard.host_nedges[rows].sum())
    graph, target = shard.batch(torch.from_numpy(rows), atoms, edges)
    with torch.no_grad():
        energy, forces = model(graph)
    per_atom = ((energy - target.energy).abs() / target.natoms).mean()
    return float(per_atom + (forces - target.forces).norm(dim=1).mean())


def test_mistakes_name_the_key(pack):
    for changes, key in (
        ({"beta3": 1}, "beta3"),
        ({"precision": "float16"}, "precision"),
        ({"epochs": None}, "epochs"),
        ({"forces": "none"}, "forces"),
        ({"options": {"lmax": 2}}, "lmax"),
        ({"options": {"width": 8}}, "width"),  # follows from the size
    ):
        with pytest.raises(StudyError, match=key):
            forcelaw.train("painn", data=pack, **{**SMALL, **changes})
    with pytest.raises(StoreError) as caught:
        forcelaw.load_run(pack)
    assert str(pack) in caught.value.where and caught.value.remedy


def test_models_lists_sizes_and_options(capsys):
    assert main(["models", "--sizes", "1e4"]) == 0
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("gemnet_oc"))
    assert row.split()[-1] == "-" and "Error" not in table and "-: no width" in table
    assert main(["models", "esen"]) == 0
    assert {"lmax=2", "parity=False"} <= set(capsys.readouterr().out.split())
    assert main(["models", "nothing"]) == 2


def without(package, code):
    """Run code in a Python where ``package`` cannot be imported."""
    hide = f"import sys; sys.modules[{package!r}] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hide + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ},
    )


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("torch", ["train", "mpnn", "--size", "1e4", "--epochs", "1"], "train"),
        ("torch", ["models"], "train"),
        ("jinja2", ["report", "out/study"], "report"),
        ("matplotlib", ["fit", "runs.csv", "--figure", "a.png"], "report"),
        ("ase", ["data", "check", "a.xyz"], "train"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(tmp_path, package, words, extra):
    (tmp_path / "a.xyz").write_text("1\nenergy=1\nH 0 0 0 0 0 0\n")
    code = f"import os; os.chdir({str(tmp_path)!r}); from forcelaw.cli.main import main\n"
    done = without(package, code + f"sys.exit(main({words!r}))")
    assert done.returncode == 2, done.stderr
    assert f"pip install 'forcelaw[{extra}]'" in done.stderr and "Traceback" not in done.stderr


def test_the_python_api_says_it_too():
    done = without("torch", "import forcelaw\nforcelaw.train('mpnn', size=1e4, epochs=1)")
    assert "MissingPackageError" in done.stderr and "forcelaw[train]" in done.stderr
    assert issubclass(MissingPackageError, ImportError)


def test_model_on_a_device(pack):
    run = forcelaw.train("egnn", data=pack, **SMALL)
    assert {p.device.type for p in run.model("cpu").parameters()} == {"cpu"}
    if not torch.cuda.is_available():
        with pytest.raises(StudyError, match="no CUDA device"):
            run.model("cuda")


def test_depth_may_be_an_option_of_the_architecture(pack):
    made = [
        Training(architecture="mpnn", size=3e3, epochs=1, cutoff=3.0, **how).resolve(
            Pack(pack), TrainOptions()
        )
        for how in ({"depth": 2}, {"options": {"depth": "2"}})
    ]
    assert made[0] == made[1] and made[0].model["depth"] == 2


def test_wrong_options_of_an_architecture_name_what_to_do(pack, tmp_path, capsys):
    words = ["--size", "1e4", "--atoms", "1e3", "--data", str(pack), "--out", str(tmp_path / "out")]
    assert (
        main(["train", "mace", *words, "--forces", "direct"]) == 2
    )  # it has gradient forces alone
    assert "--forces conservative" in capsys.readouterr().err
    assert main(["train", "painn", *words, "--option", "radial=none"]) == 2
    assert "`forcelaw models painn` lists" in capsys.readouterr().err


def test_an_architecture_with_one_kind_of_forces_trains_with_that(pack, monkeypatch):
    kind = architecture("painn")
    only = create_model(
        "Only", __base__=kind.config, forces=(Literal["conservative"], "conservative")
    )
    monkeypatch.setitem(ARCHITECTURES, "painn", replace(kind, config=only))
    for forces in ({}, {"forces": "conservative"}):
        what = Training(architecture="painn", size=3e3, epochs=1, cutoff=3.0, **forces)
        assert what.resolve(Pack(pack), TrainOptions()).model["forces"] == "conservative"
    assert (
        Training(architecture="mpnn", size=3e3, epochs=1, cutoff=3.0)
        .resolve(Pack(pack), TrainOptions())
        .model["forces"]
        == "direct"
    )
