"""Do prepare, train and report cost what they did in another version? CPU seconds of commands.

    git archive COMMIT src | tar -x -C OLD
    python benchmarks/two_versions.py OLD/src [--rounds 7] [--copies 8] [--parts] [--in-turns]

Both versions do the same work at the same time on one core, in fresh processes with one thread, so
that what else the machine does disturbs both alike: they show help, tell of a study, describe a
pack, prepare slightly moved copies of the shipped sample, written as extxyz and as a padded npz
(whose reading costs little, so that the rest shows), train on the sample itself, and report on
committed evidence. The bytecode of both lies ready, as after an installation. CPU seconds; the
ratio is the median of those of the rounds, with their quartiles. Where the new version prepares,
also the seconds of its checks of the data and of its robust fit of reference energies, measured
around the functions that do them, and the ratio without them. --parts: where the new version's
prepare of the npz spends its time, by cProfile, which counts Python's calls for more than they are.
--in-turns: of one training, a step, an evaluation or a checkpoint of one version and then of the
other, on one core: CPU time and page faults of each, and what starting costs.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import forcelaw
from forcelaw.data.pack import Pack, sample_path

NEW = Path(forcelaw.__file__).parents[1]
EVIDENCE = Path(__file__).parents[1] / "results" / "few_data"
COPIES = 8  # of the sample, each moved a little, so that starting Python does not hide the rest
TRAIN = ["--size", "1e4", "--depth", "2", "--atoms", "5e4", "--batch-molecules", "8"]
TRAIN += ["--device", "cpu", "--out", "OUT"]
UNITS = ["--energy-unit", "eV", "--length-unit", "Angstrom"]
COMMANDS = {
    "help": ["--help"],
    "status": ["status", "study"],
    "start": ["data", "info", str(sample_path())],
    "prepare extxyz": ["data", "prepare", "sample.xyz", "--out", "OUT"],
    "prepare npz": ["data", "prepare", "sample.npz", "--out", "OUT", *UNITS],
    "train painn": ["train", "painn", *TRAIN],
    "train mpnn": ["train", "mpnn", *TRAIN],
    "report": ["report", str(EVIDENCE), "--out", "OUT"],
}


PROGRAM = ("-m", "forcelaw.cli")
PROFILED = """
import cProfile, sys, time
profile = cProfile.Profile(time.process_time)
with profile:
    from forcelaw.cli.main import main
    code = main(sys.argv[1:])
profile.dump_stats("profile")
sys.exit(code)
"""
# of each version, with clocks around what it checks, if it does
CLOCKED = """
import importlib, json, sys, time
seconds, depth = [0.0], [0]
def clock(module, path):
    try:
        home = importlib.import_module("forcelaw.data." + module)
        *owners, name = path.split(".")
        for owner in owners:
            home = getattr(home, owner)
        call = getattr(home, name)
    except (ImportError, AttributeError):
        return
    def timed(*given, **options):
        depth[0] += 1
        began = time.process_time()
        try:
            return call(*given, **options)
        finally:
            depth[0] -= 1
            if not depth[0]:
                seconds[0] += time.process_time() - began
    setattr(home, name, timed)
from forcelaw.cli.main import main
for place in CHECKS:
    clock(*place)
code = main(sys.argv[1:])
json.dump(seconds[0], open("checks.json", "w"))
sys.exit(code)
"""
CHECKS = [
    ("validate.survey", "bond_ratios"),
    ("validate.survey", "free_atom_energies"),
    ("validate.survey", "energy_residuals"),
    ("validate.survey", "energy_findings"),
    ("validate.survey", "find_copies"),
    ("validate.survey", "copy_findings"),
    ("validate.survey", "ConsistencyTest.add"),
    ("validate.survey", "ConsistencyTest.verdict"),
    ("records", "geometry_hashes"),
    ("reference", "_guide"),
]
# in a version's process, which takes turns with the other by a byte in a pipe
IN_TURNS = """
import json, os, resource, sys, time
first, read, write = time.process_time(), int(sys.argv.pop(1)), int(sys.argv.pop(1))
found, depth = {}, [0]
def turns(home, name, title):
    call = getattr(home, name)
    def taken(*given, **options):
        if depth[0]:
            return call(*given, **options)
        os.read(read, 1)
        depth[0] = 1
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        try:
            return call(*given, **options)
        finally:
            spent = time.process_time() - began
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            found.setdefault(title, []).append((spent, faults))
            depth[0] = 0
            try:
                os.write(write, b"x")
            except BrokenPipeError:
                pass
    setattr(home, name, taken)
from forcelaw.cli.main import main
import forcelaw.training.loop as loop, forcelaw.training.step as step
found["start"] = [(time.process_time() - first, 0)]
turns(step.EagerStep, "run", "step")
turns(loop.Evaluation, "launch", "evaluation")
turns(loop.checkpoint, "save", "checkpoint")
code = main(sys.argv[1:])
found["all"] = [(time.process_time() - first, 0)]
json.dump(found, open("turns.json", "w"))
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


def start(
    source: Path, command: list[str], folder: Path, program: tuple[str, ...], pipes: tuple = ()
) -> subprocess.Popen:
    """Begin a command of the version in ``source``, in ``folder``, on the first core we have."""
    shutil.rmtree(folder / "OUT", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder.parent / "bytecode")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    core = min(os.sched_getaffinity(0))
    return subprocess.Popen(
        [sys.executable, *program, *command],
        cwd=folder,
        env=environment,
        pass_fds=pipes,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        stdout=(folder / "output").open("w"),
        stderr=subprocess.STDOUT,
    )


def cpu_seconds(processes: dict[str, subprocess.Popen], folder: Path) -> dict[str, float]:
    """Of each, when all have ended."""
    seconds = {}
    for version, process in processes.items():
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{version}: {process.args}\n{(folder / version / 'output').read_text()}")
        seconds[version] = used.ru_utime + used.ru_stime
    return seconds


def compare(title: str, versions: dict[str, Path], folder: Path, rounds: int) -> None:
    """Both versions of a command, at once."""
    command, clocked = COMMANDS[title], title.startswith("prepare")
    program = ("-c", CLOCKED.replace("CHECKS", repr(CHECKS))) if clocked else PROGRAM
    found: list[tuple[float, float, float]] = []
    for k in range(-1, rounds):  # the first makes the bytecode
        order = sorted(versions, reverse=bool(k % 2))
        running = {v: start(versions[v], command, folder / v, program) for v in order}
        seconds = cpu_seconds(running, folder)
        checks = json.loads((folder / "new" / "checks.json").read_text()) if clocked else 0.0
        found.append((seconds["old"], seconds["new"], checks))
    old, new, checks = np.array(found[1:]).T
    low, middle, high = np.quantile(new / old, [0.25, 0.5, 0.75])
    line = f"{title:<16}{np.median(old):>12.3f}{np.median(new):>12.3f}{middle:>11.3f}"
    line += f"  {low:.3f} to {high:.3f}"
    if clocked:
        line += (
            f"   checks {np.median(checks):.3f} s, without {np.median((new - checks) / old):.3f}"
        )
    print(line, flush=True)


def in_turns(title: str, versions: dict[str, Path], folder: Path) -> None:
    """One training of both, its pieces in turns."""
    pipes, running = (os.pipe(), os.pipe()), {}
    for version, (mine, other) in (("old", (0, 1)), ("new", (1, 0))):
        ends = pipes[mine][0], pipes[other][1]
        program = ("-c", IN_TURNS, *map(str, ends))
        home = folder / version
        running[version] = start(versions[version], COMMANDS[title], home, program, ends)
    os.write(pipes[0][1], b"x")
    cpu_seconds(running, folder)
    old, new = (json.loads((folder / v / "turns.json").read_text()) for v in versions)
    print(f"{title:<16}{'number':>8}{'old, ms':>12}{'new, ms':>12}{'new / old':>11}  quartiles")
    for piece in old:
        (a, faults), (b, more) = np.array(old[piece]).T, np.array(new[piece]).T
        low, middle, high = np.quantile(b / a, [0.25, 0.5, 0.75])
        text = f"{piece:<16}{len(a):>8}{1e3 * np.median(a):>12.2f}{1e3 * np.median(b):>12.2f}"
        text += f"{middle:>11.3f}  {low:.3f} to {high:.3f}"
        print(f"{text}   page faults {np.median(faults):,.0f} and {np.median(more):,.0f}")


def print_parts(folder: Path) -> None:
    """Where the new version's prepare of the npz spends its time."""
    command = COMMANDS["prepare npz"]
    for program in (PROGRAM, ("-c", PROFILED)):  # the first makes the bytecode
        cpu_seconds({"new": start(NEW, command, folder / "new", program)}, folder)
    calls = pstats.Stats(str(folder / "new" / "profile")).stats.items()  # type: ignore[attr-defined]
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
    parser.add_argument("--in-turns", action="store_true", help="of training, piece by piece")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    versions = {"old": args.old.resolve(), "new": NEW}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"prepare: {write_sources(folder, args.copies):,} structures")
        for version, source in versions.items():
            (folder / version).mkdir()
            for file in ("sample.xyz", "sample.npz"):
                (folder / version / file).hardlink_to(folder / file)
            given = ["import", str(EVIDENCE), "--to", "study"]  # for status
            cpu_seconds({version: start(source, given, folder / version, PROGRAM)}, folder)
        if args.parts:
            print_parts(folder)
        elif args.in_turns:
            for title in args.only:
                if title.startswith("train"):
                    in_turns(title, versions, folder)
        else:
            print(
                f"{'command':<16}{'old, CPU s':>12}{'new, CPU s':>12}{'new / old':>11}  quartiles"
            )
            for title in args.only:
                compare(title, versions, folder, args.rounds)


if __name__ == "__main__":
    main()
