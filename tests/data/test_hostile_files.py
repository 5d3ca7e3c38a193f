"""Files that were made to do harm: no byte of another file is read, nothing is read without end,
and memory stays small."""

import contextlib
import gzip
import json
import os
import sqlite3
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from forcelaw.data.prepare import PrepareOptions, prepare
from forcelaw.data.readers import SourceOptions
from forcelaw.errors import DataError

from . import files

TOLD = {"energy_unit": "eV", "length_unit": "Angstrom"}
FRAME = "2\nenergy=1.0 Properties=species:S:1:pos:R:3:forces:R:3\n"
ATOM = "H 0 0 0 0 0 0\n"


def refused(path, match=None, **options):
    with pytest.raises(DataError, match=match) as error:
        prepare(
            [path],
            path.parent / "pack",
            sources=SourceOptions(**options),
            options=PrepareOptions(group="frame"),
        )
    assert error.value.where and not (path.parent / "pack").exists()


def ani(path, **changes):
    """An HDF5 file of ANI's layout; changes: a function that makes that data set in its group."""
    with h5py.File(path, "w") as file:
        group = file.create_group("m")
        arrays = {
            "species": np.ones((4, 2), np.int64),
            "coordinates": np.random.default_rng(0).normal(size=(4, 2, 3)),
            "energies": np.zeros(4),
            "forces": np.zeros((4, 2, 3)),
        }
        for name, array in arrays.items():
            if name in changes:
                changes[name](group, name)
            else:
                group[name] = array
    return path


def external(secret):
    def make(group, name):
        group.create_dataset(name, (4, 2, 3), "f8", external=[(str(secret), 0, 192)])

    return make


def test_external_storage_and_links_are_not_followed(tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.random.default_rng(1).normal(size=24).tobytes())
    refused(ani(tmp_path / "a.h5", coordinates=external(secret)), "coordinates.*another file")
    other = ani(tmp_path / "other.h5")

    def link(group, name):
        group[name] = h5py.ExternalLink(str(other), f"/m/{name}")

    refused(ani(tmp_path / "b.h5", forces=link), "forces.*another file")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["m"] = h5py.ExternalLink(str(other), "/m")
    refused(tmp_path / "c.h5", "another file")
    layout = h5py.VirtualLayout((4, 2, 3), "f8")
    layout[:] = h5py.VirtualSource(str(other), "/m/forces", (4, 2, 3))

    def virtual(group, name):
        group.create_virtual_dataset(name, layout)

    refused(ani(tmp_path / "d.h5", forces=virtual), "forces.*another file")


def test_links_within_a_file_do_not_multiply_it(tmp_path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        inner = file
        for _ in range(40):
            inner = inner.create_group("a")
            inner.parent["b"] = inner
        for name, shape in (("numbers", 2), ("positions", (2, 3)), ("forces", (2, 3))):
            inner[name] = np.ones(shape, np.int64 if name == "numbers" else float)
        inner["energy"] = 1.0
        file["a"]["loop"] = file["a"]
    refused(tmp_path / "a.h5", "more than once", **TOLD)


def extxyz(tmp_path, text, packed=False):
    path = tmp_path / ("a.xyz.gz" if packed else "a.xyz")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


BOMBS = {
    "negative count": lambda tmp: extxyz(tmp, "-1\n\n"),
    "huge count": lambda tmp: extxyz(tmp, f"{10**20}\n\n" + ATOM),
    "huge count, packed": lambda tmp: extxyz(tmp, f"{10**12}\n\n" + ATOM, packed=True),
    "count of many digits": lambda tmp: extxyz(tmp, "9" * 100_000 + "\n\n"),
    "long word": lambda tmp: extxyz(tmp, (FRAME + ATOM + "H 0 0 0 0 0 " + "1" * 50_000 + "\n") * 4),
    "long line, packed": lambda tmp: extxyz(tmp, FRAME + "H" * (1 << 25), packed=True),
    "long comment": lambda tmp: extxyz(tmp, "1\n" + "a=[" * (1 << 20) + "\n" + ATOM),
    "unstored HDF5": lambda tmp: ani(
        tmp / "a.h5",
        coordinates=lambda g, n: g.create_dataset(n, (10**9, 2, 3), "f8", chunks=(1000, 2, 3)),
        species=lambda g, n: g.create_dataset(n, (10**9, 2), "i8", chunks=(1000, 2)),
    ),
    "npz header": lambda tmp: npz(tmp, (10**9, 2, 3), b""),
    "npz zeros": lambda tmp: npz(tmp, (1, 12_000_000, 3), bytes(288_000_000)),
    "row ids": lambda tmp: far_ids(tmp),
}


def npz(tmp, shape, data):
    path = tmp / "a.npz"
    np.savez(path, z=np.ones(2, int), R=np.zeros((2, 2, 3)), E=np.zeros(2), F=np.zeros((2, 2, 3)))
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != "R.npy"}
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
        head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        archive.writestr("R.npy", head + data)
    return path


def far_ids(tmp):
    """A readable database with one row far away: it took for ever, and now it is read."""
    path = files.database(tmp / "a.db", files.molecules(20))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE systems SET id = 1000000000000 WHERE id = 20")
        database.execute("UPDATE systems SET numbers = x'00' WHERE id = 19")
    return path


PROGRAM = """
import json, sys
from pathlib import Path
from forcelaw.data.prepare import PrepareOptions, prepare
from forcelaw.data.readers import SourceOptions
from forcelaw.errors import DataError
told = json.loads(sys.argv[2])
for path in sys.argv[3:]:
    path = Path(path)
    try:
        options = PrepareOptions(group="frame")
        prepare([path], path.parent / "pack", sources=SourceOptions(**told), options=options)
        print(path, "ACCEPTED")
    except DataError as error:
        print(path, "refused" if error.where else "NO PLACE")
with open("/proc/self/status") as file:  # ru_maxrss counts the parent's memory until exec
    print(int(file.read().split("VmHWM:")[1].split()[0]) // 1024)
"""


def test_bombs_are_refused_in_little_memory(tmp_path) -> None:
    paths = []
    for name, make in BOMBS.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        paths.append(str(make(folder)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "-", json.dumps({}), *paths],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    *verdicts, memory = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in verdicts] == ["refused"] * len(paths), verdicts
    assert int(memory) < 800  # MB, torch and all


@pytest.mark.parametrize("name", ["a.xyz", "a.h5", "a.npz", "a.db"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, name) -> None:
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "pipe")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refused(tmp_path / name, "device")


def test_cells_that_are_not_finite_never_enter_a_pack(tmp_path) -> None:
    frame = FRAME.replace("energy=1.0", 'energy=1.0 Lattice="nan 0 0 0 1 0 0 0 1" pbc="T T T"')
    path = extxyz(tmp_path, (frame + ATOM + ATOM.replace("0 0 0", "0 0 1", 1)) * 3)
    refused(path)
