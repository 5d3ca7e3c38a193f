"""OMol25 at scale, in rehearsal: sources in its layout (a folder of .aselmdb files with charge and
spin), prepared by several processes, and a pack of 2e7 structures streamed through training steps.

    python benchmarks/scale_rehearsal.py sources --structures 2e6 --files 20 --folder DIR
    python benchmarks/scale_rehearsal.py prepare --folder DIR --jobs 2
    python benchmarks/scale_rehearsal.py pack --structures 2e7 --folder DIR
    python benchmarks/scale_rehearsal.py train --folder DIR

Structures are those of the shipped sample, displaced at random; energies and forces are those of a
harmonic well around each, so that all checks of ``prepare`` pass. ``sources`` and ``pack`` take
disk: 1.7 kB and 0.3 kB a structure. Everything lies under --folder; remove it afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forcelaw.data.pack import Pack, PackWriter, sample_path

SPRING, STEP = 20.0, 0.03  # eV/Angstrom^2; Angstrom
SMALL = 12  # atoms at most of a structure of the large pack
BLOCK = 4096


class Wells:
    """Displaced copies of the sample's structures, all of them in turn. most: atoms of one."""

    def __init__(self, most: int = 255) -> None:
        pack = Pack(sample_path())
        counts = np.diff(pack.offsets)
        chosen = np.flatnonzero(counts <= most)
        self.counts = counts[chosen]
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        atoms = np.concatenate([np.arange(*pack.offsets[k : k + 2]) for k in chosen])
        self.numbers = np.asarray(pack.numbers[atoms])
        self.positions, self.forces = (
            pack.vectors(name, atoms) for name in ("positions", "forces")
        )
        self.energies = np.asarray(pack.energies[chosen])
        self.groups, self.split = np.asarray(pack.groups[chosen]), np.asarray(pack.split[chosen])
        self.manifest = pack.manifest

    def __len__(self) -> int:
        return len(self.counts)

    def blocks(self, structures: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Which of the sample's (s,), atoms of them (a,), positions, forces (a, 3), energies
        (s,)."""
        rng = np.random.default_rng(seed)
        for low in range(0, structures, BLOCK):
            k = np.arange(low, min(low + BLOCK, structures)) % len(self)
            first = np.repeat(self.offsets[k] - np.cumsum(self.counts[k]), self.counts[k])
            atoms = first + np.repeat(self.counts[k], self.counts[k])
            atoms += np.arange(len(atoms))
            step = rng.normal(0.0, STEP, (len(atoms), 3))
            work = SPRING / 2 * step**2 - self.forces[atoms] * step
            starts = np.cumsum(self.counts[k]) - self.counts[k]
            energies = self.energies[k] + np.add.reduceat(work.sum(axis=1), starts)
            yield (
                k,
                atoms,
                self.positions[atoms] + step,
                self.forces[atoms] - SPRING * step,
                energies,
            )


def write_aselmdb(path: Path, wells: Wells, structures: int, seed: int) -> None:
    """An .aselmdb file as ase-db-backends writes them, without its scan of all ids for each row."""
    import lmdb
    from ase.io.jsonio import encode

    def array(shape: tuple[int, ...], values: np.ndarray) -> str:
        listed = str(values.ravel().tolist())
        return f'{{"__ndarray__": [{list(shape)}, "{values.dtype.name}", {listed}]}}'

    def put(txn: lmdb.Transaction, key: str, text: str) -> None:
        txn.put(key.encode(), zlib.compress(text.encode(), 1))

    rest = json.loads(encode({"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}))
    rest |= {"key_value_pairs": {}, "calculator": "unknown", "calculator_parameters": {}}
    rest |= {"ctime": 25.0, "mtime": 25.0, "user": "rehearsal", "unique_id": "0" * 32}
    data = {"charge": 0, "spin": 1, "source": "sample", "data_id": "rehearsal"}
    tail = json.dumps(rest | {"data": data})[1:]
    environment = lmdb.open(str(path), map_size=2**38, subdir=False, meminit=False, sync=False)
    row = 0
    for k, atoms, positions, forces, energies in wells.blocks(structures, seed):
        ends = np.cumsum(wells.counts[k])
        with environment.begin(write=True) as txn:
            for j, (low, high) in enumerate(zip(ends - wells.counts[k], ends)):
                row, shape = row + 1, (int(high - low), 3)
                put(
                    txn,
                    str(row),
                    f'{{"numbers": {array(shape[:1], wells.numbers[atoms[low:high]].astype(int))},'
                    f' "positions": {array(shape, positions[low:high])},'
                    f' "forces": {array(shape, forces[low:high])},'
                    f' "energy": {float(energies[j])!r}, {tail}',
                )
    with environment.begin(write=True) as txn:
        put(txn, "nextid", str(row + 1))
        put(txn, "metadata", "{}")
    environment.close()


def sources(args: argparse.Namespace) -> None:
    folder, wells, start = args.folder / "aselmdb", Wells(), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    each = int(args.structures) // args.files
    for k in range(args.files):
        write_aselmdb(folder / f"data{k:04d}.aselmdb", wells, each, seed=k)
    size = sum(file.stat().st_size for file in folder.iterdir())
    seconds = time.perf_counter() - start
    print(f"{each * args.files:,} rows in {args.files} files, {size / 1e9:.2f} GB, {seconds:.0f} s")


def prepare(args: argparse.Namespace) -> None:
    """A row for each number of processes: wall and processor seconds, rate, memory, hash."""
    print(f"{'jobs':>4} {'wall s':>7} {'CPU s':>7} {'structures/s':>13} {'of a CPU s':>11}", end="")
    print(f" {'peak MB':>8} {'scratch MB':>11}  hash")
    for jobs in args.jobs:
        out = args.folder / f"pack-{jobs}"
        words = ["prepare", str(args.folder / "aselmdb"), "--out", str(out), "--overwrite"]
        words += ["--jobs", str(jobs)]
        code = "import sys; from forcelaw.cli.main import main; main(['data', *sys.argv[1:]])"
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        call = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
        peak = scratch = 0.0
        while call.poll() is None:
            peak = max(peak, memory(call.pid)[0])
            pieces = out.parent.glob(f"{out.name}.partial-*/scratch.piece-*")
            scratch = max(scratch, sum(size_of(piece) for piece in pieces) / 1e6)
            time.sleep(0.2)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        pack = Pack(out)
        print(f"{jobs:>4} {wall:>7.0f} {cpu:>7.0f} {len(pack) / wall:>13,.0f}", end="")
        print(f" {len(pack) / cpu:>11,.0f} {peak:>8.0f} {scratch:>11.0f}  {pack.hash}", flush=True)
    size = sum(file.stat().st_size for file in pack.path.iterdir())
    print(f"{len(pack):,} structures, {pack.atoms:,} atoms; pack {size / 1e9:.2f} GB", end="")
    print(f" ({(size - 26 * len(pack)) / pack.atoms:.1f} bytes an atom, 26 a structure)")


def size_of(path: Path) -> int:
    """Bytes of a file, which may be gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def memory(pid: int | str = "self") -> tuple[float, float]:
    """Memory of a process in MB: what it has allocated, and what of files is mapped."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    found = dict(line.split(":", 1) for line in text.splitlines())
    return tuple(int(found.get(k, "0 kB").split()[0]) / 1e3 for k in ("RssAnon", "RssFile"))


def make_pack(path: Path, structures: int, most: int = SMALL) -> Pack:
    """A pack of displaced structures of at most ``most`` atoms, written block by block."""
    wells = Wells(most)
    with PackWriter(path, overwrite=True) as writer:
        for k, atoms, positions, forces, energies in wells.blocks(structures, 0):
            writer.append(
                wells.counts[k],
                numbers=wells.numbers[atoms],
                positions=positions,
                forces=forces,
                energies=energies,
                groups=wells.groups[k],
                split=wells.split[k],
            )
        kept = ("elements", "units", "references", "statistics")
        writer.finish({name: wells.manifest[name] for name in kept})
    return Pack(path)


def pack(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    made = make_pack(args.folder / "large", int(args.structures))
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in made.path.iterdir())
    print(f"{len(made):,} structures, {made.atoms:,} atoms, {size / 1e9:.2f} GB, {seconds:.0f} s")


def train(args: argparse.Namespace) -> None:
    """Stream the large pack in windows, and train some steps of each: memory must not grow."""
    import torch
    from streaming import stream_of

    torch.set_num_threads(1)
    start, large = time.perf_counter(), Pack(args.folder / "large")
    held = args.windows * args.capacity / 2
    stream = stream_of(large, args, args.capacity, min(held, 0.89 * large.atoms))
    planned, ready = stream.feed.plan, time.perf_counter() - start
    base, peak = memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{len(large):,} structures; training set, order and {planned.steps:,} steps after", end=""
    )
    print(f" {ready:.1f} s, {base[0]:.0f} MB allocated (peak {peak:.0f})")
    print(
        f"{'window':>6} {'seconds':>8} {'atoms read':>12} {'trained':>9} {'allocated MB':>13}",
        end="",
    )
    print(f" {'mapped MB':>10}")
    read = 0
    for window in stream.run(args.steps):
        read += int(planned.atoms[window.low : window.high].sum())
        if stream.windows % args.show == 1 or args.show == 1:
            allocated, mapped = memory()
            print(f"{stream.windows:>6} {stream.wall:>8.1f} {read:>12,} {stream.atoms:>9,}", end="")
            print(f" {allocated:>13.0f} {mapped:>10.0f}", flush=True)
    print(f"{read / stream.wall:,.0f} atoms/s read and trained on in part; waited", end="")
    print(f" {stream.waited:.1f} of {stream.wall:.1f} s; {read / stream.cpu:,.0f} of a CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("sources", "prepare", "pack", "train"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--structures", type=float, default=2e6)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--capacity", type=float, default=4e6, help="atoms in memory at once")
    parser.add_argument("--windows", type=float, default=np.inf)
    parser.add_argument("--steps", type=int, default=2, help="that are trained of each window")
    parser.add_argument("--show", type=int, default=10, help="every so-manieth window")
    if "train" in sys.argv:
        from streaming import add_model

        add_model(parser)
    args = parser.parse_args()
    {"sources": sources, "prepare": prepare, "pack": pack, "train": train}[args.stage](args)


if __name__ == "__main__":
    main()
