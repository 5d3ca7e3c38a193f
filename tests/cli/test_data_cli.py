"""The command line of ``forcelaw data``: quick help, exit codes, and what is printed and
recorded."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import pytest

from forcelaw.cli.data import add_data
from forcelaw.data.pack import Pack
from forcelaw.errors import DataError, StorageError
from tests.data import files


def run(*words):
    parser = argparse.ArgumentParser()
    add_data(parser)
    args = parser.parse_args([str(word) for word in words])
    args.words = ["data", *(str(word) for word in words)]  # as main does
    return args.handler(args)


@pytest.fixture
def source(tmp_path):
    return files.extxyz(tmp_path / "a.xyz", files.molecules(40))


def test_help_imports_nothing_heavy():
    code = (
        "import argparse, sys\nfrom forcelaw.cli.data import add_data\np ="
        " argparse.ArgumentParser()\nadd_data(p)\np.format_help()\nprint([m"
        " for m in ('numpy', 'torch', 'ase', 'h5py', 'rdkit') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


MAIN = [sys.executable, "-m", "forcelaw"]


def test_a_full_disk_is_that_of_the_pack(source, tmp_path):
    """No file may have more than 512 bytes, which the system refuses as it does on a full disk."""
    out = tmp_path / "elsewhere" / "pack"
    out.parent.mkdir()
    limit = (512, 512)
    done = subprocess.run(
        [*MAIN, "data", "prepare", source, "--out", out, "--group", "frame"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == StorageError.exit_code
    assert f"where:  {out}" in done.stderr and "remedy:" in done.stderr
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(("name", "word"), [("file/pack", "file"), ("x" * 300, "shorter")])
def test_a_path_that_cannot_be_has_a_remedy(source, tmp_path, name, word):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*MAIN, "data", "prepare", source, "--out", tmp_path / name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert word in done.stderr.split("remedy:")[1]


def test_one_structure_is_told_how_it_can_be_prepared(tmp_path, capsys):
    one = files.extxyz(tmp_path / "one.xyz", files.molecules(1, kinds=("CH4",)))
    other = files.extxyz(tmp_path / "other.xyz", files.molecules(3, kinds=("CH4",))[1:])
    assert run("check", one) == 0
    assert "--validation" in capsys.readouterr().out
    for group in ("auto", "frame"):
        with pytest.raises(DataError) as error:
            run("prepare", one, "--out", tmp_path / "pack", "--group", group)
        assert "--validation" in error.value.remedy and "--group" not in error.value.remedy
    out = tmp_path / "pack"
    assert run("prepare", "--train", one, "--validation", other, "--out", out) == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check", ["--gradient-key", "Exit code 0: trainable"]),
        ("prepare", ["--val-fraction", "rotation", "--skip-bad"]),
        ("info", ["--json"]),
        ("generate", ["--count"]),
    ],
)
def test_help_teaches(command, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and all(word in out for word in words)


def test_prepare_then_info(source, tmp_path, capsys):
    out = tmp_path / "pack"
    assert (
        run(
            "prepare",
            source,
            "--out",
            out,
            "--val-fraction",
            "0.3",
            "--seed",
            "4",
            "--group",
            "frame",
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (
        "keys seen    comment line: energy; column: forces" in printed
        and "ASE's convention" in printed
    )
    assert "40 structures, 210 atoms of H C N O" in printed
    assert run("info", out) == 0
    printed = capsys.readouterr().out
    assert "H 150, C 30, N 10, O 20" in printed and "by frame" in printed
    assert run("info", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["structures"] == 40
    assert Pack(out).manifest["split"]["seed"] == 4


def test_options_reach_the_pack(source, tmp_path):
    out = tmp_path / "pack"
    run(
        "prepare",
        source,
        "--out",
        out,
        "--elements",
        "H,O,C",
        "--val-fraction",
        "0",
        "--no-rotate",
        "--limit",
        "12",
    )
    pack = Pack(out)
    assert len(pack) == 12 and pack.elements == [1, 6, 8] and pack.manifest["rotated"] is False
    assert pack.manifest["skipped"] == {"other elements": 4}


def test_command_is_recorded_without_folders(source, tmp_path):
    out = tmp_path / "pack"
    run("prepare", source, "--out", out, "--group", "frame", "--val-fraction", "0.3")
    command = "forcelaw data prepare a.xyz --out pack --group frame --val-fraction 0.3"
    assert Pack(out).manifest["command"] == command


def test_check_exit_codes(source, tmp_path, capsys):
    assert run("check", source) == 0
    assert run("check", source, "--energy-key", "nothing") == 1
    assert "no key 'nothing' for the energy" in capsys.readouterr().out
    assert run("check", source, "--gradient-key", "forces") == 1


def test_mistakes(source, tmp_path, capsys):
    with pytest.raises(DataError, match=r"--elements.*Q"):
        run("prepare", source, "--out", tmp_path / "p", "--elements", "H,Q")
    with pytest.raises(DataError, match="'smile'"):
        run("prepare", source, "--out", tmp_path / "p", "--group", "smile")
    with pytest.raises(DataError, match="reader 'xyz'"):
        run("prepare", source, "--out", tmp_path / "p", "--reader", "xyz")
    with pytest.raises(DataError, match=r"manifest\.json"):
        run("info", tmp_path)
    with pytest.raises(SystemExit):
        run("prepare", source, "--out", tmp_path / "p", "--limit", "0")
    assert "--limit" in capsys.readouterr().err
