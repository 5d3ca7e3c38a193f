"""Packs in shards: the same arrays, hash and training as without; other disks; damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forcelaw.cli.main import main
from forcelaw.data import verify as module
from forcelaw.data.arrays import NpyStream, ShardedArray, ShardedStream
from forcelaw.data.build import PrepareOptions
from forcelaw.data.pack import Pack, describe, sample_path
from forcelaw.data.prepare import prepare
from forcelaw.data.readers import open_source
from forcelaw.data.reshard import reshard
from forcelaw.data.verify import verify
from forcelaw.errors import DataError
from tests.data import files
from tests.packs import write_pack

SIZE = 3000  # bytes: eight shards or so of the pack of 40 structures


@pytest.fixture
def whole(tmp_path) -> Pack:
    return write_pack(tmp_path / "whole", periodic=True)


@pytest.fixture
def pack(tmp_path) -> Pack:
    return write_pack(tmp_path / "pack", periodic=True, shard_size=SIZE)


def arrays(pack: Pack) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(pack, name)) for name in pack.manifest["arrays"]}


def same(a: Pack, b: Pack) -> bool:
    mine, theirs = arrays(a), arrays(b)
    return a.hash == b.hash and all(
        mine[n].dtype == theirs[n].dtype and np.array_equal(mine[n], theirs[n])
        for n in mine | theirs
    )


# Reading like one array


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, ShardedArray]:
    whole = np.arange(60).reshape(20, 3)
    return whole, ShardedArray([whole[:1], whole[1:9], whole[9:10], whole[10:]])


KEYS = {
    "one": 7,
    "the last": -1,
    "numpy's integer": np.int64(9),
    "all": slice(None),
    "within a part": slice(2, 8),
    "across parts": slice(0, 15),
    "from the end": slice(-12, -2),
    "nothing": slice(5, 5),
    "nothing at the end": slice(20, 30),
    "backwards": slice(6, 2),
    "steps": slice(1, 18, 4),
    "reversed": slice(None, None, -1),
    "rows": np.array([3, 0, 19, 9, 9, -20]),
    "a list": [1, 12],
    "none": np.zeros(0, np.int64),
    "a table of rows": np.array([[0, 19], [8, 10]]),
    "truth": np.arange(20) % 3 == 0,
    "a row's numbers": (4, slice(1, 3)),
    "a column": (slice(2, 14), 1),
    "rows and columns": (np.array([1, 17]), slice(None, 2)),
}


@pytest.mark.parametrize("key", KEYS)
def test_rows_are_chosen_as_from_one_array(rows, key) -> None:
    whole, array = rows
    found, expected = array[KEYS[key]], whole[KEYS[key]]
    assert np.shape(found) == np.shape(expected) and np.array_equal(found, expected)
    assert np.asarray(found).dtype == whole.dtype


@pytest.mark.parametrize("key", [20, -21, [3, 25], np.ones(19, bool), 1.5, [0.5]])
def test_what_is_no_row_is_an_error(rows, key) -> None:
    with pytest.raises(IndexError):
        rows[1][key]


def test_it_counts_and_calculates_as_one_array(rows) -> None:
    whole, array = rows
    assert (len(array), array.shape, array.ndim, array.nbytes) == (20, (20, 3), 2, whole.nbytes)
    assert array.min() == 0 and array.max() == 59 and [r[0] for r in array] == whole[:, 0].tolist()
    assert np.array_equal(array == 5, whole == 5) and np.array_equal(2 * array, 2 * whole)
    assert np.array_equal(np.diff(array, axis=0), np.diff(whole, axis=0))
    assert np.array_equal(array.take([5, 11], axis=0), whole[[5, 11]])
    assert array[2:8].base is not None and np.asarray(array, np.float32).dtype == np.float32


def test_rewriting_keeps_the_parts(tmp_path) -> None:
    """Blocks that do not end where shards do."""
    stream, plain = ShardedStream(np.int64), NpyStream(tmp_path / "plain.npy", np.int64)
    for k, number in enumerate((5, 1, 9)):
        stream.begin(tmp_path / f"{k}.npy")
        for to in (stream, plain):
            to.append(np.arange(number))
    for to in (stream, plain):
        to.rewrite(iter([np.arange(3), np.arange(3, 3), np.arange(3, 14), np.arange(14, 15)]))
        assert np.concatenate(list(to.read(4))).tolist() == list(range(15))
        to.close()
    assert [np.load(tmp_path / f"{k}.npy").tolist() for k in (0, 1)] == [[0, 1, 2, 3, 4], [5]]
    for wrong in ([np.arange(14)], [np.arange(15), np.arange(1)]):
        with pytest.raises(ValueError):
            stream.rewrite(iter(wrong))


# The pack


@pytest.mark.parametrize(
    ("size", "quantum"), [(1, None), (SIZE, None), (SIZE, (1e-3, 1e-3)), (10**9, None)]
)
def test_hash_and_arrays_are_those_of_the_unsharded_pack(tmp_path, size, quantum) -> None:
    whole = write_pack(tmp_path / "whole", periodic=True, quantum=quantum)
    pack = write_pack(tmp_path / "pack", periodic=True, quantum=quantum, shard_size=size)
    assert same(whole, pack)
    kept = {k: v for k, v in pack.manifest.items() if k != "shards"}
    assert kept == whole.manifest and not whole.shards
    number = {1: 40, 10**9: 1}.get(size, len(pack.shards))
    assert len(pack.shards) == number and (number == 1) == (size == 10**9)
    if 1 < size < 10**9:
        assert all(shard.bytes <= size for shard in pack.shards)
    for shard, entry in zip(pack.shards, pack.manifest["shards"], strict=True):
        held = sum(file.stat().st_size for file in shard.folder.glob("*.npy"))
        assert held == shard.bytes == entry["bytes"]
    verify(pack)
    assert "shards" in describe_with_statistics(pack)


def describe_with_statistics(pack: Pack) -> str:
    manifest = json.loads((pack.path / "manifest.json").read_text())
    names = ("force_rms", "energy_per_atom_sd", "force_norm_mean", "force_norm_max")
    manifest["statistics"] = dict.fromkeys((*names, "atoms_mean", "atoms_max"), 1.0)
    (pack.path / "manifest.json").write_text(json.dumps(manifest))
    return describe(pack.path)


def test_the_files_of_an_unsharded_pack_are_the_parts_put_together(whole, pack) -> None:
    for name in whole.manifest["arrays"]:
        parts = b"".join(file.read_bytes()[128:] for file in pack.files(name))
        assert (whole.path / f"{name}.npy").read_bytes()[128:] == parts


def prepared(tmp_path: Path, name: str, **options) -> Pack:
    source = tmp_path / "a.xyz"
    if not source.exists():
        files.extxyz(source, files.molecules(60))
    path = prepare([source], tmp_path / name, options=PrepareOptions(group="frame", **options))
    return Pack(path)


def test_prepare_writes_the_same_in_shards(tmp_path) -> None:
    """The split is settled, and arrays are dropped, after all shards were written."""
    whole, pack = prepared(tmp_path, "whole"), prepared(tmp_path, "pack", shard_size=5000)
    assert same(whole, pack) and len(pack.shards) > 3 and "cells" not in arrays(pack)
    assert not list(pack.path.rglob("cells.npy"))
    again = prepared(tmp_path, "again", shard_size=3500)
    assert same(again, whole) and len(again.shards) > len(pack.shards)


def test_a_pack_in_shards_is_a_source_like_any(tmp_path) -> None:
    packs = [prepared(tmp_path, "whole"), prepared(tmp_path, "pack", shard_size=5000)]
    a, b = (open_source(pack.path) for pack in packs)
    assert a.sha256() == b.sha256()
    options = PrepareOptions(group="frame", rotate=False)
    made = [Pack(prepare([p.path], tmp_path / f"{p.path.name}-2", options=options)) for p in packs]
    assert same(*made)


def test_the_command_line(tmp_path, capsys) -> None:
    files.extxyz(tmp_path / "a.xyz", files.molecules(60))
    for name in ("disk1", "disk2"):
        (tmp_path / name).mkdir()
    words = ["data", "prepare", str(tmp_path / "a.xyz"), "--group", "frame", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    more = ["--shard-size", "4KB", "--jobs", "2", "--shard-folders"]
    folders = [str(tmp_path / "disk1"), str(tmp_path / "disk2")]
    assert main([*words, str(tmp_path / "pack"), *more, *folders]) == 0
    pack = Pack(tmp_path / "pack")
    assert same(Pack(tmp_path / "whole"), pack)
    homes = [shard.folder.resolve().parents[1].name for shard in pack.shards]
    assert homes[:4] == ["disk1", "disk2"] * 2
    verify(pack)
    capsys.readouterr()
    assert main(["data", "info", str(pack.path)]) == 0
    assert f"{tmp_path}/disk2" in capsys.readouterr().out
    for wrong in (["--shard-size", "8 lots"], ["--shard-folders", folders[0]]):
        with pytest.raises(SystemExit) if wrong[1] == "8 lots" else pytest.raises(AssertionError):
            assert main([*words, str(tmp_path / "other"), *wrong]) == 0
    absent = ["--shard-size", "4KB", "--shard-folders", str(tmp_path / "disk3")]
    assert main([*words, str(tmp_path / "other"), *absent]) == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("other")) == []


@pytest.mark.parametrize("sample", [False, True])
def test_a_pack_is_cut_and_joined_again_byte_for_byte(tmp_path, sample, capsys) -> None:
    """Of float32, periodic; and of int16, with charges: the shipped sample."""
    source = sample_path() if sample else prepared(tmp_path, "source").path
    words = ["data", "shard", str(source), "--out", str(tmp_path / "cut"), "--shard-size"]
    assert main([*words, "1MB" if sample else "4KB"]) == 0
    cut = Pack(tmp_path / "cut")
    assert len(cut.shards) > 3 and same(cut, Pack(source))
    assert f"hash {cut.hash}" in capsys.readouterr().out
    assert main(["data", "shard", str(cut.path), "--out", str(tmp_path / "joined")]) == 0
    found = {p.name: p.read_bytes() for p in (tmp_path / "joined").iterdir()}
    assert found == {p.name: p.read_bytes() for p in source.iterdir()}
    assert main([*words, "1MB"]) == 2 and main([*words[:3], "--out", str(source)]) == 2


# Other disks


def test_a_shard_may_be_moved_and_linked(tmp_path, pack, whole) -> None:
    (tmp_path / "disk").mkdir()
    for k in (0, 3):
        shutil.move(pack.shards[k].folder, tmp_path / "disk")
        pack.shards[k].folder.symlink_to(tmp_path / "disk" / pack.shards[k].folder.name)
    moved = Pack(pack.path)
    verify(moved)
    assert same(moved, whole)


@pytest.mark.parametrize("label", [None, "another", "other pack", "[", "a list"])
def test_a_link_is_followed_only_to_what_says_it_is_the_shard(tmp_path, pack, label) -> None:
    target = tmp_path / "elsewhere"
    shutil.move(pack.shards[2].folder, target)
    pack.shards[2].folder.symlink_to(target)
    text = {
        "another": json.dumps({"pack": pack.hash, "shard": 1}),
        "other pack": json.dumps({"pack": "0" * 16, "shard": 2}),
        "[": "[",
        "a list": "[]",
    }
    (target / "shard.json").unlink()
    if label:
        (target / "shard.json").write_text(text[label])
    with pytest.raises(DataError, match="shard-00002") as caught:
        Pack(pack.path)
    assert str(target) in caught.value.where and "shard.json" in caught.value.remedy


def test_a_link_within_a_shard_is_not_followed(tmp_path, pack) -> None:
    file = pack.shards[1].folder / "forces.npy"
    shutil.move(file, tmp_path / "forces.npy")
    file.symlink_to(tmp_path / "forces.npy")
    with pytest.raises(DataError, match=r"shard-00001/forces\.npy") as caught:
        Pack(pack.path)
    assert caught.value.where == str(file)


def test_replacing_a_pack_leaves_its_shards_elsewhere_and_says_so(tmp_path, capsys) -> None:
    (tmp_path / "disk").mkdir()
    there = {"shard_size": 8000, "shard_folders": (tmp_path / "disk",)}
    (first,) = {s.folder.resolve().parent for s in prepared(tmp_path, "pack", **there).shards}
    capsys.readouterr()
    pack = prepared(tmp_path, "pack", overwrite=True, **there)
    assert str(first) in capsys.readouterr().err and first.exists()
    verify(pack)
    (second,) = {shard.folder.resolve().parent for shard in pack.shards}
    assert first != second
    reshard(prepared(tmp_path, "other").path, pack.path, overwrite=True)
    assert str(second) in capsys.readouterr().err and second.exists()
    assert same(Pack(pack.path), pack)


# Damage


DAMAGE = {
    "a shard is gone": (lambda f: shutil.rmtree(f), "shard-00002 of"),
    "a shard is a file": (lambda f: (shutil.rmtree(f), f.write_text("")), "shard-00002 of"),
    "a shard links to itself": (lambda f: (shutil.rmtree(f), f.symlink_to(f.name)), "shard-00002"),
    "a shard links to a device": (
        lambda f: (shutil.rmtree(f), f.symlink_to("/dev/zero")),
        "shard-00002",
    ),
    "a file is gone": (lambda f: (f / "forces.npy").unlink(), "shard-00002/forces.npy is missing"),
    "a file is short": (lambda f: os.truncate(f / "forces.npy", 300), "300 bytes"),
    "a file is empty": (lambda f: (f / "forces.npy").write_bytes(b""), " 0 bytes"),
    "a file is long": (lambda f: os.truncate(f / "forces.npy", 1 << 41), "2,199,023,255,552 bytes"),
    "a file is a pipe": (
        lambda f: ((f / "forces.npy").unlink(), os.mkfifo(f / "forces.npy")),
        "not a file",
    ),
    "a file is a folder": (
        lambda f: ((f / "forces.npy").unlink(), (f / "forces.npy").mkdir()),
        "not a file",
    ),
    "another header": (lambda f: flip(f / "forces.npy", 8 * 60), "shard-00002/forces.npy"),
}


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_shard_is_an_error_that_names_it_and_its_sizes(pack, what) -> None:
    damage, said = DAMAGE[what]
    folder = pack.shards[2].folder
    expected = (folder / "forces.npy").stat().st_size
    damage(folder)
    with pytest.raises(DataError) as caught:
        Pack(pack.path)
    assert said in caught.value.what and str(folder) in caught.value.where
    assert "manifest.json" in caught.value.remedy or "shard.json" in caught.value.remedy
    if "bytes" in said or ("missing" in said and "file" in what):
        assert f"{expected:,} bytes" in caught.value.what
    if "of" in said:
        assert f"{pack.shards[2].bytes:,} bytes" in caught.value.what


def test_every_flipped_bit_is_noticed_and_its_shard_named(pack) -> None:
    chance = np.random.default_rng(0)
    found = sorted(pack.path.rglob("*.npy"))
    for _ in range(40):
        file = found[chance.integers(len(found))]
        bit = int(chance.integers(8 * file.stat().st_size))
        flip(file, bit)
        with pytest.raises(DataError, match=f"{file.parent.name}/{file.name}"):
            verify(Pack(pack.path))
        flip(file, bit)
    verify(Pack(pack.path))


def test_shards_that_changed_places_are_noticed(tmp_path) -> None:
    """Two of equal size; a folder within the pack needs no label."""
    pack = write_pack(tmp_path / "pack", 20, shard_size=1)
    sizes = [(shard.structures, shard.atoms) for shard in pack.shards]
    first, second = next(
        (a, b) for a, x in enumerate(sizes) for b, y in enumerate(sizes) if 0 < a < b and x == y
    )
    a, b = pack.shards[first].folder, pack.shards[second].folder
    a.rename(pack.path / "aside")
    b.rename(a)
    (pack.path / "aside").rename(b)
    with pytest.raises(DataError, match=a.name):
        verify(Pack(pack.path))


MANIFESTS = {
    "no list": lambda m: {**m, "shards": 7},
    "none": lambda m: {**m, "shards": []},
    "too many": lambda m: {**m, "shards": m["shards"] * 4000},
    "one less": lambda m: {**m, "shards": m["shards"][1:]},
    "one more": lambda m: {**m, "shards": [*m["shards"], m["shards"][0]]},
    "words": lambda m: {**m, "shards": ["../../x"] * len(m["shards"])},
    "a path": lambda m: _changed(m, folder="/etc", structures="/etc/passwd"),
    "negative": lambda m: _changed(m, structures=-1),
    "huge": lambda m: _changed(m, atoms=10**30),
    "a truth": lambda m: _changed(m, structures=True),
    "no sums": lambda m: _changed(m, sha256=None),
    "sums of others": lambda m: _changed(m, sha256={"x": "y"}),
    "without": lambda m: {k: v for k, v in m.items() if k != "shards"},
}


def _changed(manifest: dict, **values) -> dict:
    first, *rest = manifest["shards"]
    return {**manifest, "shards": [first | values, *rest]}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_does_not_fit_is_an_error_with_a_remedy(pack, what) -> None:
    file = pack.path / "manifest.json"
    file.write_text(json.dumps(MANIFESTS[what](json.loads(file.read_text()))))
    with pytest.raises(DataError) as caught:
        Pack(pack.path)
    assert str(pack.path) in caught.value.where and caught.value.remedy


def test_more_files_than_may_be_open_are_an_error_before_they_are_opened(pack, monkeypatch) -> None:
    monkeypatch.setattr("forcelaw.data.shards.allow_open_files", lambda: 20)
    with pytest.raises(DataError, match="20 open") as caught:
        Pack(pack.path)
    assert "ulimit" in caught.value.remedy


def test_it_is_remembered_until_a_shard_changes(pack, tmp_path, monkeypatch) -> None:
    verify(Pack(pack.path), tmp_path / "out")
    monkeypatch.setattr(module, "whole_sha256", lambda *_: pytest.fail("hashed again"))
    verify(Pack(pack.path), tmp_path / "out")
    monkeypatch.undo()
    flip(pack.shards[3].folder / "forces.npy", 8 * 200)
    with pytest.raises(DataError, match=r"shard-00003/forces\.npy"):
        verify(Pack(pack.path), tmp_path / "out")


# Kill and go on

KILLED = """
import os, signal, sys
from forcelaw.cli.main import main
from forcelaw.data import shards

begin, number = shards.ShardWriter._begin, int(sys.argv[1])
def killed(self):
    begin(self)
    if len(self._counts) == number:
        os.kill(os.getpid(), signal.SIGKILL)
shards.ShardWriter._begin = killed
main(sys.argv[2:])
"""


def test_a_killed_prepare_leaves_nothing_that_the_next_does_not_remove(tmp_path) -> None:
    files.extxyz(tmp_path / "a.xyz", files.molecules(60))
    (tmp_path / "disk").mkdir()
    words = ["data", "prepare", str(tmp_path / "a.xyz"), "--group", "frame"]
    words += ["--out", str(tmp_path / "pack"), "--shard-size", "4KB"]
    words += ["--shard-folders", str(tmp_path / "disk")]
    call = subprocess.run([sys.executable, "-c", KILLED, "3", *words], check=False)
    assert call.returncode == -signal.SIGKILL
    assert not (tmp_path / "pack").exists() and len(list((tmp_path / "disk").iterdir())) == 1
    assert main(words) == 0
    pack = Pack(tmp_path / "pack")
    verify(pack)
    homes = {shard.folder.resolve().parent for shard in pack.shards}
    assert homes == set((tmp_path / "disk").iterdir()) and len(homes) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.xyz", "disk", "pack"]


def test_a_prepare_that_fails_leaves_nothing_elsewhere(tmp_path) -> None:
    frames = files.molecules(60)
    frames[55]["energy"] = np.nan
    files.extxyz(tmp_path / "a.xyz", frames)
    (tmp_path / "disk").mkdir()
    options = PrepareOptions(group="frame", shard_size=4000, shard_folders=(tmp_path / "disk",))
    with pytest.raises(DataError):
        prepare([tmp_path / "a.xyz"], tmp_path / "pack", options=options)
    assert list((tmp_path / "disk").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.xyz", "disk"]
