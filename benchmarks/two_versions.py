"""Do prepare, train and report cost what they did in another version? CPU seconds of commands.

    git archive COMMIT src | tar -x -C OLD
    python benchmarks/two_versions.py OLD/src [--rounds 7] [--copies 8]

Both versions do the same work in turns, in fresh processes with one thread: they prepare slightly
moved copies of the shipped sample, written as extxyz and as a padded npz (whose reading costs
little, so that the rest shows), train on the sample itself, and report on committed evidence. CPU
seconds, because other processes may be busy; the ratio is the median of those of the rounds, with
their quartiles.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import forcelaw
from forcelaw.data.pack import Pack, sample_path

NEW = Path(forcelaw.__file__).parents[1]
COPIES = 8  # of the sample, each moved a little, so that starting Python does not hide the rest
TRAIN = ["--size", "1e4", "--depth", "2", "--atoms", "5e4", "--batch-molecules", "8"]
TRAIN += ["--device", "cpu", "--out", "OUT"]
UNITS = ["--energy-unit", "eV", "--length-unit", "Angstrom"]
COMMANDS = {
    "prepare extxyz": ["data", "prepare", "sample.xyz", "--out", "OUT"],
    "prepare npz": ["data", "prepare", "sample.npz", "--out", "OUT", *UNITS],
    "train painn": ["train", "painn", *TRAIN],
    "train mpnn": ["train", "mpnn", *TRAIN],
    "report": ["report", str(Path(__file__).parents[1] / "results" / "few_data"), "--out", "OUT"],
}


def write_sources(folder: Path, copies: int = COPIES) -> int:
    """Copies of the sample as extxyz and as npz; the number of structures."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    pack, frames, random = Pack(sample_path()), [], np.random.default_rng(0)
    count, most = copies * len(pack), int(np.diff(pack.offsets).max())
    arrays = {"z": np.zeros((count, most), np.int64), "E": np.zeros((count, 1))}
    arrays |= {name: np.zeros((count, most, 3)) for name in ("R", "F")}
    for k in range(count):
        low, high = pack.offsets[k % len(pack) :][:2]
        rows = slice(int(low), int(high))
        positions = pack.vectors("positions", rows)
        positions += random.normal(0, 0.01 * (k >= len(pack)), positions.shape)
        numbers, forces = pack.numbers[rows], pack.vectors("forces", rows)
        energy = float(pack.energies[k % len(pack)])
        atoms = Atoms(numbers, positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
        for name, values in (("z", numbers), ("E", energy), ("R", positions), ("F", forces)):
            arrays[name][k, : 1 if name == "E" else len(numbers)] = values
    write(folder / "sample.xyz", frames, format="extxyz")
    np.savez(folder / "sample.npz", **arrays)
    return count


def cpu_seconds(source: Path, command: list[str], folder: Path) -> float:
    """Of one command of the version in ``source``, run in ``folder``."""
    shutil.rmtree(folder / "OUT", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "forcelaw.cli", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{source}: {' '.join(command)}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="the folder src of the other version")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--copies", type=int, default=COPIES, help="of the sample")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    versions = {"old": args.old.resolve(), "new": NEW}
    print(f"{'command':<16}{'old, CPU s':>12}{'new, CPU s':>12}{'new / old':>11}  quartiles")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"prepare: {write_sources(folder, args.copies):,} structures")
        for title in args.only:
            found: dict[str, list[float]] = {"old": [], "new": []}
            for k in range(args.rounds):
                for version in ("old", "new") if k % 2 else ("new", "old"):
                    seconds = cpu_seconds(versions[version], COMMANDS[title], folder)
                    found[version].append(seconds)
            old, new = np.array(found["old"]), np.array(found["new"])
            low, middle, high = np.quantile(new / old, [0.25, 0.5, 0.75])
            print(
                f"{title:<16}{np.median(old):>12.2f}{np.median(new):>12.2f}{middle:>11.3f}"
                f"  {low:.3f} to {high:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
