"""Sources read by several processes: the same pack as by one, the same errors, and nothing left
behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from forcelaw.data.build import PrepareOptions
from forcelaw.data.pack import Pack
from forcelaw.data.prepare import prepare
from forcelaw.data.readers import SourceOptions, ase_db
from forcelaw.errors import DataError

from . import files
from .test_prepare import GOOD, same_arrays


@pytest.fixture
def folder(tmp_path):
    """OMol25's layout: a folder of .aselmdb files with charge and spin."""
    frames = files.molecules(70)
    for k, frame in enumerate(frames):
        frame["data"] = {"charge": k % 3 - 1, "spin": k % 2 + 1, "mol": f"m{k % 9}"}
    frames[30]["without"] = "energy"
    (folder := tmp_path / "omol").mkdir()
    for k, part in enumerate((slice(0, 16), slice(16, 57), slice(57, 70))):
        files.database(folder / f"data{k:04d}.aselmdb", frames[part])
    return folder


def made(out, sources, jobs, *, options=None, **more):
    more = {"val_fraction": 0.3, "seed": GOOD, "skip_unlabelled": True, **more}
    given = {"sources": options, "options": PrepareOptions(**more), "say": io.StringIO()}
    return Pack(prepare(sources, out, jobs=jobs, **given))


def test_the_pack_does_not_depend_on_the_number_of_processes(tmp_path, folder):
    """A folder and a file with a free atom; a folder twice and a pack, copies dropped, not to the
    end."""
    xyz = files.extxyz(tmp_path / "a.xyz", [*files.molecules(9, seed=1), files.free_atom(8)])
    one, three = (made(tmp_path / f"a{j}", [folder, xyz], j) for j in (1, 3))
    some = {"limit": 120, "drop_duplicates": True, "group": "frame"}
    again = [made(tmp_path / f"b{j}", [folder, folder, one.path], j, **some) for j in (1, 2)]
    skipped = {"copy of an earlier one": 69, "no energy": 2}
    assert again[0].manifest["skipped"] == skipped and len(again[0]) == 120
    for a, b in ((one, three), again):
        assert same_arrays(a.path, b.path) and a.hash == b.hash and a.manifest == b.manifest
    assert not list(tmp_path.glob("*.partial-*"))


def test_pieces_are_the_stream(folder, monkeypatch):
    """In order, with the same places in messages; the middle file has three pieces."""
    monkeypatch.setattr(ase_db, "PAGE", 8)
    monkeypatch.setattr(ase_db, "PIECE", 16)
    source = ase_db.open_ase_db(folder, SourceOptions())
    assert len(source.pieces) == 5
    blocks = [block for k in range(5) for block in source.blocks(k)]
    assert [len(b) for b in blocks] == [8, 8, 8, 8, 8, 8, 8, 1, 8, 5]
    assert [b.first for b in blocks] == [0, 8, 16, 24, 32, 40, 48, 56, 57, 65]
    (whole,) = source.blocks()
    places = [b.place(k) for b in blocks for k in range(len(b))]
    assert places == [whole.place(k) for k in range(70)] and len(set(places)) == 70


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_are_those_of_one_process(tmp_path, folder, jobs):
    with pytest.raises(DataError) as error:
        made(tmp_path / "pack", [folder], jobs, skip_unlabelled=False)
    assert "no energy: 1" in error.value.what and "row id 15" in error.value.where
    file = folder / "data0002.aselmdb"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(DataError) as error:
        made(tmp_path / "pack", [folder], jobs)
    assert "data0002.aselmdb" in error.value.where
    text = files.extxyz(tmp_path / "a.xyz", files.molecules(9)).read_text()
    (tmp_path / "a.xyz").write_text(text[:-30])
    with pytest.raises(DataError) as error:
        made(tmp_path / "pack", [tmp_path / "a.xyz"], jobs)
    assert "a.xyz" in error.value.where
    assert [p.name for p in tmp_path.iterdir()] != [] and not list(tmp_path.glob("pack*"))


def test_a_lost_process_is_an_error_that_names_the_source(tmp_path, folder, monkeypatch):
    """As when the kernel kills it for memory."""
    from forcelaw.data import read_ahead

    ask = read_ahead._Worker.ask
    monkeypatch.setattr(
        read_ahead._Worker, "ask", lambda self, task: (self.process.kill(), ask(self, task))[1]
    )
    with pytest.raises(DataError) as error:
        made(tmp_path / "pack", [folder], 2)
    assert str(folder) in error.value.where and "--jobs" in error.value.remedy
    assert not list(tmp_path.glob("pack*"))


def test_a_killed_call_takes_its_processes_along(tmp_path):
    """Readers end when the caller is gone, and the next call clears up."""
    files.database(tmp_path / "a.aselmdb", files.molecules(1200))
    words = [sys.executable, "-m", "forcelaw.cli", "data", "prepare", str(tmp_path / "a.aselmdb")]
    words += ["--out", str(tmp_path / "pack"), "--jobs", "2", "--group", "frame"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    call = subprocess.Popen(words, **quiet, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("pack.partial-*/scratch.piece-*")):
        assert time.monotonic() < deadline and call.poll() is None
        time.sleep(0.01)
    call.send_signal(signal.SIGKILL)
    call.wait()
    while True:  # the session is empty once the readers are gone
        try:
            os.killpg(call.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    subprocess.run(words, check=True, timeout=60, **quiet)
    assert len(Pack(tmp_path / "pack")) == 1200 and not list(tmp_path.glob("pack.partial-*"))
