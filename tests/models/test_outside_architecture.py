"""An architecture from outside the package: what the contract asks for and refuses, trained, loaded
again, and told from the same name with another source."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import ase
import numpy as np
import pytest
import torch

import forcelaw
from forcelaw.api.run import Training
from forcelaw.data.pack import Pack, sample_path
from forcelaw.errors import ForcelawWarning, StoreError, StudyError
from forcelaw.models import architecture
from forcelaw.plugins import _hash, code_changes, code_of
from forcelaw.store.runs import RunDirectory, content_id
from forcelaw.training.config import TrainOptions
from forcelaw.training.loop import make_model, train

TOY = """
from dataclasses import replace

from forcelaw.models.mpnn import ARCHITECTURE as MPNN
from forcelaw.models.mpnn import MPNNConfig


class ToyConfig(MPNNConfig):
    architecture: str
    offset: float = 0.5


TOY = replace(MPNN, name="toy", title="Toy", config=ToyConfig)
NOT_ONE = 3
"""

# the least that the contract asks for: one weight for each element, and forces by hand
LEAST = """
import torch
from forcelaw.models import ForceField, ModelConfig


class Least(ForceField):
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(len(config.elements), config.width)
        self.weight = torch.nn.Linear(config.width, 1)

    def forward(self, graph):
        site = self.weight(self.table(graph.species)).squeeze(-1)
        total = site.new_zeros(graph.n_graphs).index_add(0, graph.batch, site)
        away = graph.vectors() * site[graph.sender, None]
        return total, torch.zeros_like(graph.pos).index_add(0, graph.receiver, away)


class Columns(Least):
    def forward(self, graph):
        energy, forces = super().forward(graph)
        return energy[:, None], forces


class Failing(Least):
    def forward(self, graph):
        return super().forward(graph)[0] @ self.weight.weight, None


class Empty(ForceField):
    pass


class Unconfigured(Least):
    Config = dict


class Listed(Least):
    def __init__(self, config):
        super().__init__(config)
        self.more = [torch.nn.Linear(3, 2), torch.zeros(1)]


class Frozen(Least):
    def __init__(self, config):
        super().__init__(config)
        self.table.weight.requires_grad_(False)


class Bohr(Least):
    def forward(self, graph):
        graph.pos *= 1.89
        return super().forward(graph)


class Blind(Least):
    # reads positions, and no vectors

    forward = ForceField.forward

    def atomwise(self, graph, vec):
        site = self.weight(self.table(graph.species)).squeeze(-1)
        return site + graph.pos.square().sum(-1), None


class Early(Blind):
    def atomwise(self, graph, vec):
        site = self.weight(self.table(graph.species)).squeeze(-1)
        if not len(vec):
            return site, None
        return site.index_add(0, graph.receiver, vec.square().sum(-1)), None


def maker(config):
    return torch.nn.Linear(2, 2)
"""
SHORT = {"atoms": 500, "batch_molecules": 4, "evaluations": 2, "validation_structures": 10}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_models.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    return "toy_models:TOY"


def test_it_is_trained_and_its_model_comes_back(toy):
    run = forcelaw.train(toy, size=5e3, options={"offset": 2.0}, **SHORT)
    assert run.spec["label"] == "Toy" and run.spec["model"]["architecture"] == toy
    assert run.spec["model"]["offset"] == 2.0
    assert run.model().n_parameters() == run.spec["n"]


def test_an_installed_one_has_a_name(toy, tmp_path):
    info = tmp_path / "toy_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[forcelaw.architectures]\nmy_toy = {toy}\n")
    assert architecture("my_toy").title == "Toy"
    with pytest.raises(StudyError) as caught:
        architecture("mpn")
    assert "my_toy" in caught.value.remedy and "painn" in caught.value.remedy


@pytest.fixture
def least(tmp_path, monkeypatch):
    (tmp_path / "least_models.py").write_text(LEAST)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "least_models.py"
    sys.modules.pop("least_models", None)
    _hash.cache_clear()


def test_the_least_that_the_contract_asks_for_trains(least):
    run = forcelaw.train("least_models:Least", size=3e3, learning_rate=0.01, **SHORT)
    spec, width = run.spec, run.spec["model"]["width"]
    assert spec["n"] - spec["n_nonembedding"] == len(spec["model"]["elements"]) * width
    assert (spec["label"], spec["symmetry"]) == ("Least", "undeclared")
    # one product with a vector for each atom, nothing for an edge
    assert (spec["flops_per_edge"], spec["flops_per_atom"]) == (0.0, 2 * width)
    assert run.result["status"] == "finished" and run.result["symmetry"]["rotation"] < 1e-5
    assert len(run.predict([ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])])) == 1


def test_an_atom_alone_may_leave_early(least):
    """The energy of atoms without edges may not depend on them: its gradient is zero."""
    run = forcelaw.train("least_models:Early", size=3e3, forces="conservative", **SHORT)
    found = run.predict([ase.Atoms("C", cell=[30] * 3, pbc=True)], stress=True)
    assert not found.forces[0].any() and not found.stresses[0].any()
    assert np.isfinite(found.energies).all()


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("Columns", "(2, 1)", "(2,)"),
        ("Failing", "RuntimeError", "certify"),
        ("Empty", "computes nothing", "atomwise"),
        ("Unconfigured", "dict", "ModelConfig"),
        ("Listed", "more (8 weights)", "ModuleList"),
        ("Frozen", "table.weight", "register_buffer"),
        ("Bohr", "graph.pos", "new tensor"),
        ("Blind", "vectors", "vec"),
        ("maker", "function", "ForceField"),
        ("torch", "module", "ForceField"),
    ],
)
def test_what_breaks_the_contract_is_an_error_before_training(least, name, what, remedy):
    forces = "conservative" if name == "Blind" else "direct"
    with pytest.raises(StudyError) as caught:
        forcelaw.train(f"least_models:{name}", size=3e3, forces=forces, **SHORT)
    assert what in caught.value.what and remedy in caught.value.remedy
    assert name in caught.value.where or caught.value.where == "architecture"
    assert not Path("out").exists() or not list(Path("out").rglob("metrics.jsonl"))


def test_another_source_is_another_run(least, tmp_path):
    """The id covers the source of the whole package; a run of the old one neither goes on nor is
    read in silence."""

    def spec(name="least_models:Least"):
        _hash.cache_clear()
        training = Training(architecture=name, size=3e3, atoms=500.0)
        return training.resolve(pack, TrainOptions(batch_molecules=4))

    pack = Pack(sample_path())
    first = spec()
    assert content_id(first.as_json()) == content_id(spec().as_json())
    assert "code" not in spec("mpnn").as_json()  # ours have the version of forcelaw
    run = RunDirectory.create("runs", first.as_json())
    least.write_text(LEAST + "\n# one line more\n")
    second = spec()
    assert content_id(first.as_json()) != content_id(second.as_json())
    with pytest.raises(StoreError, match="least_models"):
        train(run, pack)
    with pytest.warns(UserWarning, match="least_models"):
        make_model(first, torch.device("cpu"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("self.weight", "self.readout", "restore the source"),  # a weight of another name
        ("Config = LeastConfig", "Config = ModelConfig", "restore its source"),  # an option less
        ("Least", "Newer", "least_models.py with `from"),  # another name
    ],
)
def test_a_run_whose_class_has_changed_says_so(least, tmp_path, old, new, told):
    """Its checkpoint is sound: no remedy may ask to train it again."""
    config = "class LeastConfig(ModelConfig):\n    offset: float = 0.5\n\n\nclass Least("
    text = LEAST.replace("class Least(", config, 1)
    text = text.replace("    def __init__", "    Config = LeastConfig\n\n    def __init__", 1)
    least.write_text(text)
    run = forcelaw.train("least_models:Least", size=3e3, out=tmp_path / "runs", **SHORT)
    least.write_text(text.replace(old, new))
    sys.modules.pop("least_models", None)
    _hash.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForcelawWarning)  # that the source has changed
        with pytest.raises((StoreError, StudyError)) as caught:
            forcelaw.Calculator(run.path)
    assert told in caught.value.remedy and "again" not in caught.value.remedy


def test_the_code_of_a_package_is_all_of_it(tmp_path, monkeypatch):
    """Helpers count too, and so does a package inside a namespace; files that are no Python do
    not."""
    inner = tmp_path / "a_namespace" / "inner"
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("")
    (inner / "models.py").write_text("from . import helper\n")
    (inner / "helper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def found():
        _hash.cache_clear()
        return code_of(["a_namespace.inner.models"], ["numpy"])

    before = found()
    assert set(before) == {"a_namespace.inner", "numpy"} and before["numpy"] == np.__version__
    (inner / "notes.txt").write_text("no code")
    assert found() == before
    (inner / "helper.py").write_text("x = 2\n")
    assert found()["a_namespace.inner"] != before["a_namespace.inner"]
    assert code_changes(before, found()).startswith("a_namespace.inner +")
    assert code_changes(before, before) == "" == code_changes(None, {})


def test_what_is_not_one_is_an_error_with_its_key(toy):
    with pytest.raises(StudyError):
        architecture("toy_models:NOT_ONE")
    Path("study.yaml").write_text(
        json.dumps({"name": "x", "architectures": ["toy_models:GONE"], "sizes": [5e3], "atoms": 9})
    )
    with pytest.raises(StudyError) as caught:
        forcelaw.Study.load("study.yaml")
    assert "architectures.0" in caught.value.where
    study = {"name": "x", "architectures": [{"name": toy, "options": {"depht": 2}}]}
    Path("study.yaml").write_text(json.dumps({**study, "sizes": [5e3], "atoms": 9}))
    with pytest.raises(StudyError) as caught:
        forcelaw.Study.load("study.yaml")
    assert "offset" in caught.value.remedy
    study["architectures"][0]["options"] = {"forces": "conservative"}
    Path("study.yaml").write_text(json.dumps({**study, "sizes": [5e3], "atoms": 9}))
    with pytest.raises(StudyError) as caught:
        forcelaw.Study.load("study.yaml")
    assert "beside" in caught.value.remedy
    study["architectures"][0] = {"name": toy, "forces": "conservative"}
    Path("study.yaml").write_text(json.dumps({**study, "sizes": [5e3], "atoms": 9}))
    forcelaw.Study.load("study.yaml")
