"""A pack is what was written: flipped bits, wrong shapes, manifests of every kind of damage."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from forcelaw.data import verify as module
from forcelaw.data.pack import Pack, content_hash, describe, sample_path
from forcelaw.data.readers import open_source
from forcelaw.data.verify import verify
from forcelaw.errors import DataError
from tests.packs import write_pack


@pytest.fixture
def path(tmp_path):
    write_pack(tmp_path / "pack")
    return tmp_path / "pack"


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(data))


def reseal(path):
    """A manifest whose hashes fit the arrays, as someone who means it would write it."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name, spec in manifest["arrays"].items():
        spec["sha256"] = hashlib.sha256((path / f"{name}.npy").read_bytes()).hexdigest()
    manifest["content_hash"] = content_hash(
        {n: spec["sha256"] for n, spec in manifest["arrays"].items()}
    )
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_the_shipped_pack_and_a_fresh_one_are_sound(path) -> None:
    verify(Pack(path))
    verify(Pack(sample_path()))


def test_every_flipped_bit_is_noticed(path) -> None:
    chance = np.random.default_rng(0)
    files = sorted(path.glob("*.npy"))
    for _ in range(150):
        file = files[chance.integers(len(files))]
        bit = int(chance.integers(8 * file.stat().st_size))
        flip(file, bit)
        with pytest.raises(DataError):
            verify(Pack(path))
        flip(file, bit)
    verify(Pack(path))


def test_it_is_remembered_until_a_file_changes(path, tmp_path, monkeypatch) -> None:
    verify(Pack(path), tmp_path / "out")
    monkeypatch.setattr(module, "file_sha256", lambda file: pytest.fail("hashed again"))
    verify(Pack(path), tmp_path / "out")
    monkeypatch.undo()
    flip(path / "forces.npy", 8 * 500)
    with pytest.raises(DataError, match="forces"):
        verify(Pack(path), tmp_path / "out")
    flip(path / "forces.npy", 8 * 500)
    shutil.copytree(path, tmp_path / "copy")  # the same times, and perhaps other bytes
    flip(tmp_path / "copy" / "forces.npy", 8 * 500)
    with pytest.raises(DataError):
        verify(Pack(tmp_path / "copy"), tmp_path / "out")


def test_a_memory_that_cannot_be_read_or_written_is_none(path, tmp_path) -> None:
    (tmp_path / "verified.json").write_text("[")
    verify(Pack(path), tmp_path)
    (tmp_path / "file").touch()
    verify(Pack(path), tmp_path / "file" / "out")


@pytest.mark.parametrize("name", ["positions", "forces", "energies"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_numbers_that_are_not_finite_are_refused_though_the_hash_fits(path, name, value) -> None:
    array = np.load(path / f"{name}.npy")
    array.reshape(-1)[5] = value
    np.save(path / f"{name}.npy", array)
    reseal(path)
    with pytest.raises(DataError, match=name):
        verify(Pack(path))


@pytest.mark.parametrize("name,value", [("numbers", 0), ("numbers", 200), ("split", 7)])
def test_values_that_no_pack_has_are_refused(path, name, value) -> None:
    array = np.load(path / f"{name}.npy")
    array[3] = value
    np.save(path / f"{name}.npy", array)
    reseal(path)
    with pytest.raises(DataError):
        verify(Pack(path))


def test_a_pack_is_verified_when_it_is_a_source(path) -> None:
    flip(path / "positions.npy", 8 * 700)
    with pytest.raises(DataError, match="positions"):
        open_source(path)


MANIFESTS = {
    "not JSON": lambda m: "{",
    "not text": lambda m: "\udcff",
    "a list": lambda m: "[]",
    "nested": lambda m: "[" * 100_000,
    "no counts": lambda m: {k: v for k, v in m.items() if k != "atoms"},
    "negative": lambda m: m | {"structures": -1},
    "a word": lambda m: m | {"atoms": "many"},
    "elements": lambda m: m | {"elements": [0, "H"]},
    "references": lambda m: m | {"references": {"energies": {"1": "much"}}},
    "another array": lambda m: m | {"arrays": m["arrays"] | {"../x": m["arrays"]["forces"]}},
    "an array less": lambda m: m | {"arrays": {}},
    "another type": lambda m: m | {"arrays": m["arrays"] | {"forces": {"dtype": "object"}}},
    "more atoms": lambda m: m | {"atoms": m["atoms"] + 1},
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_damaged_manifest_is_an_error_with_a_remedy(path, what) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    damaged = MANIFESTS[what](manifest)
    text = damaged if isinstance(damaged, str) else json.dumps(damaged)
    (path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError) as caught:
        Pack(path)
    assert str(path) in str(caught.value) and caught.value.remedy


def test_a_pipe_instead_of_an_array_is_refused_at_once(path) -> None:
    (path / "forces.npy").unlink()
    os.mkfifo(path / "forces.npy")
    with pytest.raises(DataError, match="pipe"):
        Pack(path)


def test_a_manifest_without_the_numbers_that_are_described_is_an_error(path) -> None:
    """write_pack leaves statistics out."""
    with pytest.raises(DataError) as caught:
        describe(path)
    assert "manifest.json" in caught.value.where and caught.value.remedy
    assert describe(path, as_json=True) and describe(sample_path())
