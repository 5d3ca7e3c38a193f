"""Do prepare, train and report cost what they did in another version? CPU seconds of commands.

    git archive COMMIT src | tar -x -C OLD
    python benchmarks/two_versions.py OLD/src [--rounds 7] [--copies 8] [--parts]

Both versions do the same work in turns, in fresh processes with one thread: they start (and
describe a pack), prepare slightly moved copies of the shipped sample, written as extxyz and as a
padded npz (whose reading costs little, so that the rest shows), train on the sample itself, and
report on committed evidence. The bytecode of both lies ready, as after an installation. CPU
seconds, because other processes may be busy; the ratio is the median of those of the rounds, with
their quartiles. --parts: where the new version's prepare of the npz spends its time, by cProfile,
which counts Python's calls for more than they are.
"""

from __future__ import annotations

import argparse
import os
import pstats
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
    "start": ["data", "info", str(sample_path())],
    "prepare extxyz": ["data", "prepare", "sample.xyz", "--out", "OUT"],
    "prepare npz": ["data", "prepare", "sample.npz", "--out", "OUT", *UNITS],
    "train painn": ["train", "painn", *TRAIN],
    "train mpnn": ["train", "mpnn", *TRAIN],
    "report": ["report", str(Path(__file__).parents[1] / "results" / "few_data"), "--out", "OUT"],
}


PROFILED = """
import cProfile, sys, time
profile = cProfile.Profile(time.process_time)
with profile:
    from forcelaw.cli.main import main
    code = main(sys.argv[1:])
profile.dump_stats("profile")
sys.exit(code)
"""
# part of prepare -> the functions that do it (file, name); what they call is theirs
PARTS = {
    "imports and options": [("cli/main.py", "build_parser"), ("prepare_files.py", "<module>")],
    "reading": [("readers/base.py", "blocks")],
    "filters, groups, rotation": [
        ("filters.py", "reasons"),
        ("filters.py", "select"),
        ("groups.py", "group_hashes"),
        ("build.py", "place"),
    ],
    "writing": [("pack.py", "append"), ("pack.py", "rewrite"), ("pack.py", "drop")],
    "checks of data": [("survey.py", "add"), ("survey.py", "findings"), ("survey.py", "warnings")],
    "reference energies": [("reference.py", "fit_references")],
    "hashes of sources and arrays": [("files.py", "file_sha256")],
    "fsync": [("~", "<built-in method posix.fsync>")],
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


def cpu_seconds(
    source: Path,
    command: list[str],
    folder: Path,
    program: tuple[str, str] = ("-m", "forcelaw.cli"),
) -> float:
    """Of one command of the version in ``source``, run in ``folder``."""
    shutil.rmtree(folder / "OUT", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, *program, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{source}: {' '.join(command)}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_parts(folder: Path) -> None:
    """Where the new version's prepare of the npz spends its time."""
    command = COMMANDS["prepare npz"]
    cpu_seconds(NEW, command, folder)  # makes the bytecode
    cpu_seconds(NEW, command, folder, ("-c", PROFILED))
    calls = pstats.Stats(str(folder / "profile")).stats.items()  # type: ignore[attr-defined]
    whole = sum(own for _, (_, _, own, _, _) in calls)
    print(f"{'part of prepare npz':<32}{'seconds':>9}{'share':>8}  of {whole:.2f} s in all")
    for part, functions in PARTS.items():
        seconds = sum(
            total
            for (file, _, name), (_, _, _, total, _) in calls
            if any(file.endswith(end) and name == known for end, known in functions)
        )
        print(f"{part:<32}{seconds:>9.3f}{seconds / whole:>8.0%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="the folder src of the other version")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--copies", type=int, default=COPIES, help="of the sample")
    parser.add_argument("--parts", action="store_true", help="of prepare npz, by cProfile")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    versions = {"old": args.old.resolve(), "new": NEW}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"prepare: {write_sources(folder, args.copies):,} structures")
        if args.parts:
            print_parts(folder)
            return
        print(f"{'command':<16}{'old, CPU s':>12}{'new, CPU s':>12}{'new / old':>11}  quartiles")
        for title in args.only:
            found: dict[str, list[float]] = {"old": [], "new": []}
            for version in versions.values():  # makes the bytecode
                cpu_seconds(version, COMMANDS[title], folder)
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
