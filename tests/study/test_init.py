"""`forcelaw init` and the notes of a plan: what is written carries a law; what cannot is said."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from forcelaw.cli.main import main
from forcelaw.data.pack import Pack, sample_path
from forcelaw.errors import DataError, StudyError
from forcelaw.progress import Progress
from forcelaw.study import launcher
from forcelaw.study.advice import advise
from forcelaw.study.config import Study, load
from forcelaw.study.plan import plan
from forcelaw.study.record import find_pack
from forcelaw.study.starter import proportions
from forcelaw.study.status import StudyStatus
from forcelaw.table.doubts import BURN_IN_STEPS
from forcelaw.training.spec import summarise
from tests.data import files
from tests.packs import write_pack

KINDS = ("CH4", "H2O", "NH3", "CH3CH2OH", "CH3OH", "N2H4", "H2CO", "C2H6")


@pytest.fixture(scope="module")
def data():
    return summarise(Pack(sample_path()))


def notes(data, **keys):
    study = Study(**{"name": "s", "architectures": ["mpnn", "painn"], "sizes": [3e3, 6e3], **keys})
    return " ".join(advise(study, data, plan(study, data, {})))


def test_init_writes_a_study_that_can_carry_a_law(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(sample_path()), "--name", "first"]) == 0
    study = load(tmp_path / "first.yaml")
    assert find_pack(study, tmp_path).hash == Pack(sample_path()).hash
    planned = plan(study, data, {})
    assert advise(study, data, planned) == []
    assert all(run.spec["steps"] > BURN_IN_STEPS for run in planned.waiting)
    with pytest.raises(StudyError):  # nothing is overwritten
        raise_main("init", str(sample_path()), "--name", "first")


def test_init_of_a_pack_that_cannot_be_validated_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = files.extxyz(tmp_path / "a.xyz", files.molecules(4))
    assert main(["data", "prepare", str(source), "--out", "pack", "--val-fraction", "0"]) == 0
    with pytest.raises(DataError, match="validation"):
        raise_main("init", "pack")
    assert not Path("pack.yaml").exists()


def test_init_of_ions_lets_models_see_their_charges(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = files.molecules(40, kinds=("CH4",))
    for k, frame in enumerate(frames):
        frame["header"] = f"charge={k % 2} spin=1"
    source = files.extxyz(tmp_path / "a.xyz", frames)
    for words in (
        ["data", "prepare", str(source), "--group", "frame", "--out", "p"],
        ["init", "p"],
    ):
        assert main(words) == 0
    study = load(Path("p.yaml"))
    pack = find_pack(study, tmp_path)
    assert study.charge_spin
    assert plan(study, summarise(pack, charge_spin=True), {}).runs


def raise_main(*words):
    """The error of a command, which main prints."""
    from forcelaw.cli.main import build_parser

    args = build_parser([words[0]]).parse_args(list(words))
    args.handler(args)


def test_a_pack_that_does_not_count_its_sides_is_an_error_with_a_remedy(tmp_path):
    write_pack(tmp_path / "pack")
    with pytest.raises(DataError) as caught:
        raise_main("init", str(tmp_path / "pack"), "--out", str(tmp_path / "t.yaml"))
    assert "manifest.json" in caught.value.where and caught.value.remedy


def test_init_prepares_files_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.extxyz(tmp_path / "my.extxyz", files.molecules(80, kinds=KINDS))
    assert main(["init", "my.extxyz", "--group", "frame"]) == 0
    pack = Pack(tmp_path / "my-pack")
    assert pack.split[:].sum() == 8
    assert pack.manifest["command"] == "forcelaw init my.extxyz --group frame"
    assert find_pack(load(tmp_path / "my.yaml"), tmp_path).hash == pack.hash
    assert yaml.safe_load((tmp_path / "my.yaml").read_text())["data"] == "my-pack"


def test_the_molecules_that_come_along_need_no_path(tmp_path, monkeypatch):
    """As in `train --data sample`: what --help names as a first step works where nothing lies."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "sample"]) == 0
    assert find_pack(load(tmp_path / "sample.yaml"), tmp_path).hash == Pack(sample_path()).hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample.yaml"]


def test_init_takes_no_pack_of_other_files_or_options(tmp_path, monkeypatch):
    """A pack that an earlier call left is used only for the same files and options, unchanged."""
    monkeypatch.chdir(tmp_path)
    for name in ("my", "more"):
        files.extxyz(tmp_path / f"{name}.extxyz", files.molecules(80, kinds=KINDS))
    assert main(["init", "my.extxyz", "--group", "frame"]) == 0
    before = Pack(tmp_path / "my-pack").hash
    assert main(["init", "my.extxyz", "--group", "frame", "--out", "two.yaml"]) == 0
    for other in (["my.extxyz", "more.extxyz", "--group", "frame"], ["my.extxyz", "--seed", "3"]):
        with pytest.raises(StudyError) as caught:
            raise_main("init", *other, "--out", "t.yaml")
        assert "forcelaw init my-pack" in caught.value.remedy and not Path("t.yaml").exists()
    later = (tmp_path / "my-pack" / "manifest.json").stat().st_mtime + 9
    os.utime("my.extxyz", (later, later))
    with pytest.raises(StudyError):
        raise_main("init", "my.extxyz", "--group", "frame", "--out", "t.yaml")
    assert Pack(tmp_path / "my-pack").hash == before
    assert main(["init", "my-pack", "--out", "three.yaml"]) == 0  # the remedy


@pytest.mark.parametrize(
    ("structures", "atoms"), [(30, 300), (450, 6750), (10845, 229805), (10**6, 2 * 10**7)]
)
def test_proportions_leave_the_burn_in_behind_and_repeat_little(structures, atoms):
    p = proportions(structures, atoms)
    assert p.steps >= 3 * BURN_IN_STEPS and 1 <= p.molecules <= 16
    assert p.passes <= 4.05 or p.molecules == 1
    assert p.atoms == pytest.approx(p.steps * p.molecules * atoms / structures, rel=0.1)


def test_a_plan_says_what_it_cannot_carry(data):
    short = notes(data, atoms=2e3)
    assert "burn-in" in short and "2 sizes" in short and "replicates" in short
    need = float(short.split("(atoms: ")[1].split(")")[0])
    assert "burn-in" not in notes(data, atoms=need)
    assert "passes" in notes(data, epochs=9) and "passes" not in notes(data, epochs=3)
    ladder = [3e3, 8e3, 2e4, 5e4, 1.3e5]
    long = notes(data, atoms=6e5, sizes=ladder, replicates={"sizes": [3e3], "seeds": [1]})
    assert long == ""
    few = notes(replace(data, validation=25), atoms=6e5, sizes=ladder, seeds=[0, 1])
    assert "25 validation structures" in few and "20%" in few


def test_a_plan_says_where_kinds_of_forces_are_mixed(data):
    one = {"name": "painn", "label": "other", "forces": "conservative"}
    assert "gradient" in notes(data, atoms=2e3, architectures=["painn", one])
    for forces in ("direct", "conservative"):
        assert "gradient" not in notes(data, atoms=2e3, forces=forces)


def test_a_study_may_name_its_files(tmp_path):
    frames = files.molecules(80, kinds=KINDS)
    files.extxyz(tmp_path / "a.xyz", frames[:60])
    files.extxyz(tmp_path / "b.xyz", frames[60:])
    energies = {"H": -13.0, "C": -1030.0, "N": -1485.0, "O": -2040.0}
    content = {
        "name": "mine",
        "data": {"train": "a.xyz", "validation": ["b.xyz"], "E0s": energies, "group": "frame"},
        "architectures": ["mpnn"],
        "sizes": [3e3],
        "epochs": 1,
    }
    study = Study(**content)
    pack = find_pack(study, tmp_path)
    assert pack.path == tmp_path / "mine-pack" and pack.split.tolist() == [0] * 60 + [1] * 20
    assert pack.reference_energies()[6] == -1030.0
    assert find_pack(study, tmp_path).hash == pack.hash  # made once
    content["data"]["E0s"] = "fit"
    with pytest.raises(DataError, match="E0s"):
        find_pack(Study(**content), tmp_path)
    content["data"]["trian"] = "c.xyz"
    with pytest.raises(ValueError, match="trian"):
        Study(**content)


def test_time_left_begins_at_the_estimate(monkeypatch):
    """Of 240 s of work half is done. Right after resuming two minutes are left, however slowly
    the workers start; later the measured pace counts."""
    left = []
    monkeypatch.setattr(launcher, "duration", lambda seconds: left.append(seconds) or "")
    for done, seconds in ((120.0, 1.0), (121.0, 20.0), (130.0, 3600.0)):
        bar = Progress("s", 240.0, already=120.0, stream=io.StringIO(), interval=0.0)
        clock = SimpleNamespace(monotonic=lambda at=bar.started + seconds: at)
        monkeypatch.setattr(launcher, "time", clock)
        launcher._show(bar, StudyStatus(4, work=240.0, done=done), "s", 1)
    assert 100 < left[0] < 140 and 100 < left[1] < 180
    assert left[2] > 2000  # ten seconds of work in an hour


def test_rates_of_much_shorter_runs_are_said(data):
    """Of entries that take them; those with a rate of their own are left alone."""
    sweep = {"size": 3e3, "factors": [0.5, 1], "atoms": 3e4}
    entries = [
        "mpnn",
        {"name": "painn", "sweep_of": "MPNN"},
        {"name": "egnn", "learning_rate": 1e-3},
    ]
    keys = {"architectures": entries, "learning_rate": {"sweep": sweep}}
    said = notes(data, atoms=6e5, **keys)
    assert "MPNN, PaiNN: runs see 20 times the atoms of the swept ones" in said
    assert "learning_rate.sweep.atoms: 1.5e5" in said
    assert "swept ones" not in notes(data, atoms=1.5e5, **keys)
    assert "swept ones" not in notes(data, atoms=6e5, architectures=entries[2:])
