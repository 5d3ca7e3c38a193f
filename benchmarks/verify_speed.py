"""How long a pack of a million structures takes to verify: the first time, and when it is
remembered.

    python benchmarks/verify_speed.py [--structures 1000000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from forcelaw.data.pack import Pack, PackWriter
from forcelaw.data.verify import verify

ATOMS = 18  # of a structure
BLOCK = 10_000


def make(path: Path, structures: int) -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(BLOCK * ATOMS, 3))
    with PackWriter(path) as writer:
        for _ in range(structures // BLOCK):
            writer.append(
                np.full(BLOCK, ATOMS),
                numbers=np.full(BLOCK * ATOMS, 6),
                positions=vectors,
                forces=vectors,
                energies=np.zeros(BLOCK),
                groups=np.zeros(BLOCK, np.uint64),
                split=np.zeros(BLOCK),
            )
        references = {"energies": {"6": 0.0}}
        writer.finish({"elements": [6], "references": references, "statistics": {}})


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--structures", type=int, default=1_000_000)
    args = parser.parse_args()
    print(f"# {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "pack", args.structures)
        size = sum(file.stat().st_size for file in (folder / "pack").iterdir())
        print(f"{args.structures:,} structures of {ATOMS} atoms, {size / 1e6:.0f} MB")
        for what in ("the first time", "remembered", "remembered"):
            began = time.perf_counter()
            verify(Pack(folder / "pack"), folder)
            print(f"{what}: {time.perf_counter() - began:.4f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
