"""OMol25 at scale, in rehearsal: sources in its layout (a folder of .aselmdb files with charge and
spin), prepared by several processes, and a pack of 2e7 structures streamed through training steps.

    python benchmarks/scale_rehearsal.py sources --structures 2e6 --files 20 --folder DIR
    python benchmarks/scale_rehearsal.py prepare --folder DIR --jobs 2
    python benchmarks/scale_rehearsal.py pack --structures 2e7 --folder DIR [--shard-size 5e8]
    python benchmarks/scale_rehearsal.py held --folder DIR
    python benchmarks/scale_rehearsal.py cold --folder DIR
    python benchmarks/scale_rehearsal.py resident --folder DIR
    python benchmarks/scale_rehearsal.py gaps --folder DIR
    python benchmarks/scale_rehearsal.py train --folder DIR --device cpu --architecture mpnn
        --size 1e4 --depth 1 --batch-atoms 400

Structures are those of the shipped sample, displaced at random; energies and forces are those of a
harmonic well around each, so that all checks of ``prepare`` pass. ``sources`` and ``pack`` take
disk: 1.7 kB and 0.3 kB a structure. Everything lies under --folder; remove it afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
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
    size = pack.nbytes
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


def make_pack(
    path: Path, structures: int, most: int = SMALL, shard_size: int | None = None
) -> Pack:
    """A pack of displaced structures of at most ``most`` atoms, written block by block."""
    wells = Wells(most)
    with PackWriter(path, overwrite=True, shard_size=shard_size) as writer:
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
    size = int(args.shard_size) if args.shard_size else None
    made = make_pack(args.folder / "large", int(args.structures), shard_size=size)
    seconds = time.perf_counter() - start
    print(f"{len(made):,} structures, {made.atoms:,} atoms, {made.nbytes / 1e9:.2f} GB", end="")
    print(f" in {len(made.folders)} folders, {seconds:.0f} s, hash {made.hash}")


def held(args: argparse.Namespace) -> None:
    """Bytes for each structure that planning and training hold, and the most meanwhile."""
    import tracemalloc

    from forcelaw.data.schedule import plan
    from forcelaw.training.spec import training_set

    large = Pack(args.folder / "large")
    tracemalloc.start()
    kept: dict[str, np.ndarray | object] = {}
    print(f"{'':<34} {'bytes a structure':>18} {'most meanwhile':>15} {'seconds':>8}")
    for name, make in {
        "order of the training set": lambda: training_set(large),
        "sizes of its structures": lambda: large.sizes(kept["order of the training set"]),
        "steps of an epoch of 16 structures": lambda: plan(
            kept["sizes of its structures"],
            atoms_total=float(kept["sizes of its structures"].sum()),
            seed=0,
            molecules=16,
            atoms=None,
        ),
    }.items():
        tracemalloc.reset_peak()
        before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
        kept[name] = make()
        after, peak = tracemalloc.get_traced_memory()
        number = len(kept["order of the training set"])
        print(
            f"{name:<34} {(after - before) / number:>18.1f} {(peak - before) / number:>15.1f}",
            end="",
        )
        print(f" {time.perf_counter() - start:>8.1f}", flush=True)


def cold(args: argparse.Namespace) -> None:
    """Read the first window of a training run on the large pack, from the disk and from the cache
    of the system."""
    import torch

    from forcelaw.data.schedule import Feed, plan
    from forcelaw.data.splits import order

    torch.set_num_threads(1)
    feed, large = None, Pack(args.folder / "large")
    indices = order(large, "train")
    steps = plan(large.sizes(indices), atoms_total=1e7, seed=0, molecules=16, atoms=None)
    options = {"cutoff": 6.0, "elements": tuple(large.elements), "dtype": torch.float32}
    print(f"{'window':>10} {'of the pack':>12} {'from':<6} {'seconds':>8} {'CPU s':>6}", end="")
    print(f" {'atoms/s':>9} {'MB from disk':>13} {'MB needed':>10}")
    for capacity in (8e5, 8e6):
        for source in ("disk", "cache"):
            if source == "disk":
                feed = large = None  # what is mapped is not forgotten
                forget(args.folder / "large")
                large = Pack(args.folder / "large")
            feed = Feed(
                large, indices, steps, capacity=capacity, device=torch.device("cpu"), **options
            )
            before, clocks = bytes_read(), (time.perf_counter(), time.process_time())
            window = feed._window(*feed._bounds(0)[0])
            wall, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
            atoms, read = int(window.shard.host_natoms.sum()), bytes_read() - before
            print(f"{atoms:>10,} {atoms / large.atoms:>12.1%} {source:<6} {wall:>8.1f}", end="")
            print(f" {cpu:>6.1f} {atoms / wall:>9,.0f} {read / 1e6:>13,.0f}", end="")
            print(f" {25 * atoms / 1e6:>10,.0f}", flush=True)


def resident(args: argparse.Namespace) -> None:
    """Load a training set that stays, 1% of the large pack in its random order, from the disk and
    from the cache of the system."""
    import torch

    from forcelaw.data.device_dataset import Shard

    torch.set_num_threads(1)
    print(f"{'atoms':>10} {'from':<6} {'seconds':>8} {'CPU s':>6} {'MB from disk':>13}")
    for source in ("disk", "cache"):
        if source == "disk":
            forget(args.folder / "large")
        large = Pack(args.folder / "large")
        rows = np.random.default_rng(0).choice(len(large), len(large) // 100, replace=False)
        before, clocks = bytes_read(), (time.perf_counter(), time.process_time())
        shard = Shard(large, rows, cutoff=6.0, elements=tuple(large.elements))
        wall, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        print(f"{int(shard.host_natoms.sum()):>10,} {source:<6} {wall:>8.1f} {cpu:>6.1f}", end="")
        print(f" {(bytes_read() - before) / 1e6:>13,.0f}", flush=True)
        del shard, large


def gaps(args: argparse.Namespace) -> None:
    """Read .2% and 2% of the structures of the large pack from the disk: as the system does by
    itself, page by page, and with wishes across gaps of so many bytes."""
    from forcelaw.data import gather

    rng, gap = np.random.default_rng(0), gather.GAP
    print(f"{'structures':<11} {'how':<22} {'seconds':>8} {'CPU s':>6} {'MB from disk':>13}")
    for share in (0.002, 0.02):
        structures = len(Pack(args.folder / "large"))
        rows = np.sort(rng.choice(structures, int(share * structures), replace=False))
        for how in ("the system", "page by page", 4096, 16384, 32768, 131072):
            if how == "page by page" and share > 0.01:
                continue
            forget(args.folder / "large")
            large = Pack(args.folder / "large")
            low, counts = large.offsets[rows], large.sizes(rows)
            atoms = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
            gather._ADVICE, gather.GAP = how != "the system", how if isinstance(how, int) else gap
            before, clocks = bytes_read(), (time.perf_counter(), time.process_time())
            with gather.Gather(large, rows) as stored:
                if how != "page by page":
                    stored.reach(len(rows))
                for name in ("numbers", "positions", "forces"):
                    stored.take(name, atoms)
            wall, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
            text = f"gaps of {how:,}" if isinstance(how, int) else how
            print(f"{share:<11.1%} {text:<22} {wall:>8.1f} {cpu:>6.1f}", end="")
            print(f" {(bytes_read() - before) / 1e6:>13,.0f}", flush=True)
            del large, stored


def forget(folder: Path) -> None:
    """Have the system forget what it holds of the arrays under ``folder``."""
    for file in folder.rglob("*.npy"):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """Bytes that this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


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


STAGES = {f.__name__: f for f in (sources, prepare, pack, held, cold, resident, gaps, train)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--structures", type=float, default=2e6)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--shard-size", type=float, help="bytes; of the pack that is made")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--capacity", type=float, default=4e6, help="atoms in memory at once")
    parser.add_argument("--windows", type=float, default=np.inf)
    parser.add_argument("--steps", type=int, default=2, help="that are trained of each window")
    parser.add_argument("--show", type=int, default=10, help="every so-manieth window")
    if "train" in sys.argv:
        from streaming import add_model

        add_model(parser)
    args = parser.parse_args()
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
