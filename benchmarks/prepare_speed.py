"""Speed and peak memory of ``forcelaw data prepare`` on synthetic sources of 22 atoms a structure.

    python benchmarks/prepare_speed.py [--structures 100000 1000000]
        [--layouts rmd17 padded flat spice] [--folder DIR]

Each source is written once (streamed, not timed), then prepared by a fresh process whose wall time
and peak resident memory are taken. Memory must not grow with the number of structures.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

ATOMS, CHUNK = 22, 5000
RUN = """
import argparse, sys
from forcelaw.cli.data import add_data
parser = argparse.ArgumentParser()
add_data(parser)
args = parser.parse_args()
args.words = sys.argv[1:]
code = args.handler(args)
with open("/proc/self/status") as file:  # ru_maxrss counts the parent's memory until exec
    print("peak kB", next(line.split()[1] for line in file if line.startswith("VmHWM")))
sys.exit(code)
"""
# the labels are noise: the checks find that, and are asked to let it pass
ALLOW = ["--allow", "forces,units,energies,conflicts,leaks"]
_COMPOSITIONS = [
    np.array([1] * (ATOMS - heavy) + [6] * (heavy - 3) + [7, 8, 8], np.uint8)
    for heavy in range(6, 16)
]


def chunks(structures: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers (k, n), positions and forces (k, n, 3), energies (k,) of structures, CHUNK at a
    time."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(CHUNK, ATOMS, 3))
    for start in range(0, structures, CHUNK):
        size = min(CHUNK, structures - start)
        numbers = np.stack([_COMPOSITIONS[k] for k in rng.integers(0, len(_COMPOSITIONS), size)])
        shift = rng.normal(size=(size, 1, 3))
        energies = -1e3 * numbers.sum(axis=1) + rng.normal(size=size)
        yield numbers, 2 * noise[:size] + shift, noise[:size] - shift, energies


def _member(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    rows: Iterator[np.ndarray],
) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in rows:
            file.write(np.ascontiguousarray(part, dtype).tobytes())


def rmd17(path: Path, n: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        _member(archive, "nuclear_charges", (ATOMS,), "u1", iter([_COMPOSITIONS[0]]))
        _member(archive, "coords", (n, ATOMS, 3), "f8", (c[1] for c in chunks(n)))
        _member(archive, "forces", (n, ATOMS, 3), "f8", (c[2] for c in chunks(n)))
        _member(archive, "energies", (n,), "f8", (c[3] for c in chunks(n)))
        _member(archive, "old_indices", (n,), "i8", iter([np.arange(n)]))


def padded(path: Path, n: int) -> None:
    def wide(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros_like(x[:, :2])], axis=1)

    with zipfile.ZipFile(path, "w") as archive:
        _member(archive, "z", (n, ATOMS + 2), "i8", (wide(c[0]) for c in chunks(n)))
        _member(archive, "R", (n, ATOMS + 2, 3), "f8", (wide(c[1]) for c in chunks(n)))
        _member(archive, "F", (n, ATOMS + 2, 3), "f8", (wide(c[2]) for c in chunks(n)))
        _member(archive, "E", (n, 1), "f8", (c[3] for c in chunks(n)))


def flat(path: Path, n: int) -> None:
    with h5py.File(path, "w") as file:
        make = {"shuffle": True, "compression": "gzip", "compression_opts": 1}
        file.create_dataset("natoms", data=np.full(n, ATOMS, np.int16), **make)
        file.create_dataset("molecule", data=(np.arange(n) // 3).astype(np.int32), **make)
        names = [b"C" * 20 + str(k).encode() for k in range((n + 2) // 3)]
        file.create_dataset("smiles", data=np.array(names, "S40"), **make)
        shapes = {"atomic_numbers": ("u1", ()), "positions": ("i4", (3,)), "forces": ("i4", (3,))}
        sets = {
            k: file.create_dataset(k, (n * ATOMS, *row), t, chunks=(65536, *row), **make)
            for k, (t, row) in shapes.items()
        }
        sets["energy"] = file.create_dataset("energy", (n,), "f8", **make)
        for name, unit in (
            ("energy", "eV"),
            ("positions", "1e-4 Angstrom"),
            ("forces", "1e-4 eV/Angstrom"),
        ):
            sets[name].attrs["units"] = unit
        start = 0
        for z, x, f, e in chunks(n):
            rows = slice(start * ATOMS, (start + len(e)) * ATOMS)
            sets["atomic_numbers"][rows] = z.reshape(-1)
            sets["positions"][rows] = np.rint(x.reshape(-1, 3) * 1e4)
            sets["forces"][rows] = np.rint(f.reshape(-1, 3) * 1e4)
            sets["energy"][start : start + len(e)] = e
            start += len(e)


def spice(path: Path, n: int, conformers: int = 50) -> None:
    with h5py.File(path, "w") as file:
        for index, (z, x, f, e) in enumerate(chunks(n)):
            for k in range(0, len(e), conformers):
                part, group = slice(k, k + conformers), file.create_group(f"molecule{index}_{k}")
                group["atomic_numbers"] = z[k].astype(np.int16)
                group["smiles"] = np.array([f"C{index}N{k}".encode()])
                for name, data, unit in (
                    ("conformations", x[part].astype("f4"), "bohr"),
                    ("dft_total_energy", e[part], "hartree"),
                    ("dft_total_gradient", f[part].astype("f4"), "hartree/bohr"),
                ):
                    group.create_dataset(name, data=data).attrs["units"] = unit


LAYOUTS: dict[str, tuple[Callable[[Path, int], None], str, list[str]]] = {
    "rmd17": (rmd17, "npz", ["--group", "frame"]),
    "padded": (padded, "npz", ["--energy-unit", "eV", "--length-unit", "Angstrom"]),
    "flat": (flat, "h5", []),
    "spice": (spice, "hdf5", []),
}


def timed(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak resident memory (MB) of a command."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, processor, int(done.stdout.rsplit("peak kB", 1)[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structures", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument(
        "--folder", type=Path, help="where sources and packs go (default: a temporary folder)"
    )
    args = parser.parse_args()
    head = (
        ("structures", 12),
        ("source MB", 11),
        ("seconds", 9),
        ("CPU s", 8),
        ("structures/s", 14),
        ("peak MB", 9),
    )
    print(f"{'layout':<8}" + "".join(f"{title:>{width}}" for title, width in head), flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for layout in args.layouts:
            write, suffix, options = LAYOUTS[layout]
            for n in args.structures:
                source, pack = Path(name) / f"{layout}.{suffix}", Path(name) / "pack"
                write(source, n)
                words = [
                    "prepare",
                    str(source),
                    "--out",
                    str(pack),
                    "--overwrite",
                    *ALLOW,
                    *options,
                ]
                command = [sys.executable, "-c", RUN, *words]
                seconds, processor, memory = timed(command)
                row = f"{layout:<8}{n:>12,}{source.stat().st_size / 1e6:>11.0f}{seconds:>9.1f}"
                row += f"{processor:>8.1f}"
                print(f"{row}{n / seconds:>14,.0f}{memory:>9.0f}", flush=True)
                source.unlink()


if __name__ == "__main__":
    main()
