"""A worker process: reads one task per line from stdin, labels a chunk of molecules, answers one
line on stdout.

Start it with OMP_NUM_THREADS=1 in the environment (:mod:`.pipeline` does): tblite reads it when it
is loaded, and results repeat to the last bit only in one thread. It ends when stdin closes, so it
does not outlive a killed parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import RDLogger

from ..pack import group_hash
from .conformers import conformers
from .label import label
from .options import Distribution


def compute(molecules: list[list[str]], seed: int, d: Distribution) -> dict[str, np.ndarray]:
    """Label the conformers of some molecules, given as pairs (smiles, group).

    Returns counts (s,), groups (s,), energies (s,) eV, numbers (atoms,), positions (atoms, 3)
    Angstrom, forces (atoms, 3) eV/Angstrom, and ``failures``, a JSON object of reasons and counts.
    A molecule's structures depend on the seed and its SMILES alone.
    """
    counts: list[int] = []
    groups: list[int] = []
    energies: list[float] = []
    numbers, positions, forces = [np.zeros(0, np.uint8)], [np.zeros((0, 3))], [np.zeros((0, 3))]
    failures: Counter[str] = Counter()
    for smiles, group in molecules:
        z, found = conformers(smiles, np.random.default_rng([seed, group_hash(smiles)]), d)
        if len(found) < d.conformers:
            failures["conformer not embedded"] += d.conformers - len(found)
        for x in found:
            labels = label(z, x)
            if labels is None:
                failures["SCF not converged"] += 1
                continue
            energy, f = labels
            largest = np.sqrt((f**2).sum(axis=1).max())
            if not (np.isfinite(energy) and np.isfinite(largest)):
                failures["label not finite"] += 1
            elif largest > d.max_force:
                failures[f"force above {d.max_force:g} eV/Angstrom"] += 1
            elif d.max_component is not None and np.abs(f).max() > d.max_component:
                failures[f"component of a force above {d.max_component:g} eV/Angstrom"] += 1
            else:
                counts.append(len(z))
                groups.append(group_hash(group))
                energies.append(energy)
                numbers.append(z)
                positions.append(x)
                forces.append(f)
    return {
        "counts": np.array(counts, np.int64),
        "groups": np.array(groups, np.uint64),
        "energies": np.array(energies, np.float64),
        "numbers": np.concatenate(numbers),
        "positions": np.concatenate(positions),
        "forces": np.concatenate(forces),
        "failures": np.array(json.dumps(failures, sort_keys=True)),
    }


def write_chunk(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Write a chunk by rename: it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    with temporary.open("wb") as file:
        np.savez(file, key=np.array(key), **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_chunk(path: Path, key: str) -> dict[str, Any] | None:
    """The arrays of a finished chunk; None where it is absent, damaged, or made from other
    molecules or settings."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if str(arrays["key"]) != key:
            return None
        return arrays | {"failures": json.loads(str(arrays["failures"]))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def main() -> None:
    """Serve tasks until stdin closes. Anything that libraries print goes to stderr, the answers
    alone to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    RDLogger.DisableLog("rdApp.*")
    for line in sys.stdin:
        started = time.perf_counter()
        task = json.loads(line)
        arrays = compute(task["molecules"], task["seed"], Distribution(**task["distribution"]))
        write_chunk(Path(task["path"]), task["key"], arrays)
        seconds, structures = time.perf_counter() - started, len(arrays["counts"])
        answer = {"chunk": task["chunk"], "structures": structures, "seconds": seconds}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:  # the parent is gone; the chunk is kept for its successor
            os._exit(0)


if __name__ == "__main__":
    main()
