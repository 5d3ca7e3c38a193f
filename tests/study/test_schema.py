"""The schema that `forcelaw run --schema` prints, against an independent validator, and the
defaults of a study."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from forcelaw.cli.main import main
from forcelaw.errors import StudyError
from forcelaw.models import ARCHITECTURES
from forcelaw.study.config import RESERVED, Study, label_of, load
from forcelaw.training.config import TrainOptions
from tests.packs import write_pack
from tests.study.plans import fresh, specs

RECIPES = sorted((Path(__file__).parents[2] / "studies").rglob("*.yaml"))
SHORT = {"name": "t", "architectures": ["mpnn", "painn"], "sizes": [3e3], "epochs": 1}


class Yaml12(yaml.SafeLoader):
    """Numbers as YAML 1.2 and editors read them: 5e-3 is one, which PyYAML takes for text."""


Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


@pytest.fixture(scope="module")
def validator():
    from forcelaw.study.schema import study_schema

    schema = json.loads(json.dumps(study_schema()))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_command_prints_it(validator, capsys):
    assert main(["run", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == validator.schema


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fulfils_it(validator, path):
    validator.validate(yaml.load(path.read_text(), Loader=Yaml12))


def test_it_holds_every_key_of_training_and_of_architectures(validator):
    definitions = validator.schema["$defs"]
    assert definitions["TrainOptions"]["properties"].keys() == TrainOptions.model_fields.keys()
    for name, entry in ARCHITECTURES.items():
        keys = definitions[f"{name}_options"]["properties"].keys()
        assert keys == entry.config.model_fields.keys() - {*RESERVED}, name


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"batch": 3}},
        {"train": {"precision": "float16"}},
        {"architectures": [{"name": "esen", "options": {"lmx": 3}}]},
        {"architectures": [{"name": "mpnn", "options": {"lmax": 3}}]},
        {"architectures": [{"name": "mpnn", "train": {"clip": -1}}]},
        {"learning_rate": 0},
    ],
    ids=str,
)
def test_what_a_study_refuses_it_refuses(validator, change, tmp_path):
    assert not validator.is_valid(SHORT | change) and validator.is_valid(SHORT)
    (tmp_path / "t.yaml").write_text(json.dumps(SHORT | change))
    with pytest.raises(StudyError):
        load(tmp_path / "t.yaml")


def test_a_study_has_the_defaults_of_the_train_command(tmp_path):
    study = Study(**SHORT)
    assert study.train == TrainOptions(batch_molecules=16)
    planned = fresh(study, write_pack(tmp_path / "pack"))
    assert planned.complete and all(run.kind == "grid" for run in planned.runs)
    for entry in study.architectures:
        (spec,) = specs(planned, label_of(entry))
        assert spec["lr"] == ARCHITECTURES[entry.name].learning_rate


@pytest.mark.parametrize("text", ["5e-3", "0.005", "{value: 0.005}"])
def test_one_number_is_a_learning_rate_for_all(tmp_path, text):
    lines = [f"{key}: {json.dumps(value)}" for key, value in SHORT.items()]
    (tmp_path / "t.yaml").write_text("\n".join([*lines, f"learning_rate: {text}"]))
    assert load(tmp_path / "t.yaml").learning_rate.value == 0.005


def test_batch_atoms_replaces_the_default_batch():
    options = TrainOptions(batch_atoms=100)
    assert (options.batch_atoms, options.batch_molecules) == (100, None)
