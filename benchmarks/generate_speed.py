"""Where a worker of ``forcelaw data generate`` spends its time: python benchmarks/generate_speed.py
[molecules]

Runs what a worker does for each task (read the task, compute, write the chunk) in this process,
with a clock around every call into RDKit and tblite, and prints the share of the whole that they
take. It must be at least 85%.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import json
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import RDLogger

from forcelaw.data.generate import conformers, label, worker
from forcelaw.data.generate.molecules import drawn
from forcelaw.data.generate.pipeline import CHUNK

SECONDS: Counter[str] = Counter()
KEPT = ("ForceField", "Calculator", "Result")  # objects whose methods do the work


class Clocked:
    """Stands before a module, class or object and puts the time of every call on an account."""

    def __init__(self, what: Any, account: str):
        self.__dict__ |= {"what": what, "account": account}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = [a.what if isinstance(a, Clocked) else a for a in args]
        started = time.perf_counter()
        result = self.what(*args, **kwargs)
        SECONDS[self.account] += time.perf_counter() - started
        return Clocked(result, self.account) if type(result).__name__ in KEPT else result

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.what, name)
        return Clocked(found, self.account) if callable(found) else found


def main(count: int) -> int:
    RDLogger.DisableLog("rdApp.*")
    molecules = list(
        islice(drawn(0, Counter()), 2000, 2000 + count)
    )  # past the small molecules of the first draws
    tasks = [
        json.dumps(
            {
                "molecules": molecules[k : k + CHUNK],
                "distribution": conformers.Distribution().model_dump(),
            }
        )
        for k in range(0, count, CHUNK)
    ]
    worker.compute([list(m) for m in molecules[:2]], 1, conformers.Distribution())  # warm
    conformers.Chem = Clocked(conformers.Chem, "RDKit: molecules")
    conformers.rdDistGeom = Clocked(conformers.rdDistGeom, "RDKit: ETKDG")
    conformers.rdForceFieldHelpers = Clocked(conformers.rdForceFieldHelpers, "RDKit: MMFF")
    label.Calculator = Clocked(label.Calculator, "tblite")
    structures, atoms = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for k, line in enumerate(tasks):
            task = json.loads(line)
            arrays = worker.compute(
                task["molecules"], 0, conformers.Distribution(**task["distribution"])
            )
            worker.write_chunk(Path(folder) / f"chunk-{k}.npz", "key", arrays)
            structures += len(arrays["counts"])
            atoms += int(np.sum(arrays["counts"]))
        total = time.perf_counter() - started
    inside = sum(SECONDS.values())
    print(
        f"{structures} structures of {count} molecules, {atoms / structures:.1f} atoms on average, "
        f"{total:.1f} s, {structures / total:.1f} structures/s per worker"
    )
    for account, seconds in sorted(
        {**SECONDS, "the rest": total - inside}.items(), key=lambda item: -item[1]
    ):
        print(
            f"  {account:<18} {1000 * seconds / structures:7.2f} ms/structure"
            f" {100 * seconds / total:6.1f}%"
        )
    print(f"inside RDKit and tblite: {100 * inside / total:.1f}% (at least 85 wanted)")
    return 0 if inside / total >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 96))
