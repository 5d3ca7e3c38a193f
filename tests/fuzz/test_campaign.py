"""A short form of the campaign of damaged and hostile inputs: one process for each case."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import evidence
from tests.fuzz.damage import PLACES, damage_bytes

ROOT = Path(__file__).parents[2]


def campaign(*words: str) -> list[list[str]]:
    """The rows that the campaign prints; it fails where a case ends as none may."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.campaign", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [line.split() for line in done.stdout.splitlines()[2:]]


@pytest.mark.timeout(320)
def test_damaged_directories_archives_and_checkpoints_end_in_words() -> None:
    kinds = ["directory", "evidence", "archive", "checkpoint"]
    rows = campaign(*kinds, "--share", "0.0125")
    assert [row[0] for row in rows] == kinds
    assert [int(row[1]) for row in rows] == [3, 9, 9, 2]


def test_the_campaign_sees_what_none_may_do() -> None:
    """A traceback, a hang, a crash, a wrong acceptance and a bare refusal are told apart."""
    program = """
import os, signal, time
from forcelaw.errors import DataError
from tests.fuzz import isolated
isolated.WALL_SECONDS = 3
def wrong(): raise isolated.Wrong("x")
def bare(): raise DataError("x")
def refused(): raise DataError("x", where="y")
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def large(): bytearray(b"x" * 150_000_000)
for case in (lambda: 0, lambda: 1 / 0, lambda: time.sleep(99), crash, wrong, bare, refused, large):
    found = isolated.isolated(case)
    print(found.kind, found.memory > 250)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    kinds = [line.split()[0] for line in done.stdout.splitlines()]
    assert kinds == ["read", "traceback", "hang", "crash", "wrong", "bare", "refused", "read"]
    assert done.stdout.splitlines()[-1].endswith("True")


def test_no_case_writes_through_a_link(tmp_path) -> None:
    """What links lead to is nobody's to damage: a campaign that wrote through one, as root, has
    overwritten a file of the system."""
    folder, bait = tmp_path / "work" / "evidence", tmp_path / "bait"
    folder.mkdir(parents=True)
    names = ["study.json", "runs.jsonl", "runs.csv", "runs.parquet", "provenance.json"]
    for k in range(60):
        chance = random.Random(k)
        bait.write_bytes(b'{"a": {"b": [1]}}')
        for name in names:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(bait)
        for act in (evidence._change_json, damage_bytes, evidence._bomb):
            act(folder / chance.choice(names), chance)
        evidence._sign(folder)
        assert bait.read_bytes() == b'{"a": {"b": [1]}}'


@pytest.mark.parametrize("what", PLACES)
def test_every_damage_to_a_place_can_be_done(tmp_path, what) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(b"12345")
    PLACES[what](path)
    if what == "is there twice":
        assert len(list(path.parent.iterdir())) == 2
    elif what == "has 2 TB":
        assert path.stat().st_size > 1 << 40
    else:
        assert not path.is_file() or path.read_bytes() != b"12345"
