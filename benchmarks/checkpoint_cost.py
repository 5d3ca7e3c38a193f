"""Which share of saving a checkpoint is its checksums?

python benchmarks/checkpoint_cost.py [--sizes 1e4 1e5 1e6 1e7]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.store.runs import RunDirectory
from forcelaw.training import checkpoint
from forcelaw.training.optimizer import ScheduleFreeAdamW

SAVES = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7])
    args = parser.parse_args()
    spent, checksums = [0.0], checkpoint._checksums

    def timed(*given: Any) -> dict[str, int]:
        began = time.process_time()
        found = checksums(*given)
        spent[0] += time.process_time() - began
        return found

    checkpoint._checksums = timed
    print(f"{'N':>8}{'MB':>8}{'save, ms':>10}{'CPU, ms':>9}{'checksums, ms':>15}")
    for n in args.sizes:
        model = build(size("painn", n, elements=(1, 6, 8)), seed=0)
        optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=10, warmup=0)
        with tempfile.TemporaryDirectory() as folder:
            run = RunDirectory.create(folder, {"n": n})
            checkpoint.save(run, model, optimizer, {"step": 0})
            spent[0], wall, processor = 0.0, time.perf_counter(), time.process_time()
            for step in range(SAVES):
                checkpoint.save(run, model, optimizer, {"step": step})
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            megabytes = (run.path / "last.safetensors").stat().st_size / 1e6
        row = [1e3 * seconds / SAVES for seconds in (wall, processor, spent[0])]
        print(f"{n:>8.0e}{megabytes:>8.2f}{row[0]:>10.1f}{row[1]:>9.1f}{row[2]:>15.2f}")


if __name__ == "__main__":
    main()
