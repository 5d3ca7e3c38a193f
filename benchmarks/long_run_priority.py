"""Does a stream of high priority bring a long run near its own pace while others fill the card?

    python benchmarks/long_run_priority.py --pack packs/xtb --long esen:3e5 \\
        --beside painn:1e6 painn:1e6 painn:1e7 mpnn:1e6 mpnn:1e6 mpnn:1e7 esen:1e6

A study's longest run shares the card with the others at first and has it to itself in the end: in
results/ladder_2_one_card 24 runs made 23 TFLOP/s together, and eSEN of 3e5 parameters 6.6 alone for
the last 11 minutes. Printed: atoms/s of the long run alone, beside the others, and beside them with
priority; and what all make together then, in counted TFLOP/s.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # before torch starts CUDA

import torch
from packing import Lane, empty_cache, rates

from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Shards
from forcelaw.models import architecture
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions
from forcelaw.training.spec import data_options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--long", default="esen:3e5", help="ARCHITECTURE:N")
    parser.add_argument("--beside", nargs="+", required=True, help="ARCHITECTURE:N of the others")
    parser.add_argument("--molecules", type=int, default=16, help="structures a step")
    parser.add_argument("--seconds", type=float, default=3.0, help="timing of each number")
    parser.add_argument("--steps", type=int, default=200, help="in the plan of a run")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device, pack = torch.device(args.device), Pack(args.pack)
    options = TrainOptions(batch_molecules=args.molecules, precision="tf32")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    print(f"# {' '.join(sys.argv)}\n# torch {torch.__version__}, {pack.atoms:,} atoms")
    shards = Shards()

    def lane(name: str, seed: int, priority: int) -> tuple[Lane, float]:
        """A run, and its training FLOPs for each atom."""
        kind, n = name.split(":")
        config = size(kind, float(n), **data_options(pack))
        made = Lane(pack, config, options, seed, device, shards, args, priority)
        counted = architecture(kind).flops(config)
        return made, 3 * (counted.per_edge * config.mean_degree + counted.per_atom)

    others = [lane(name, seed, 0) for seed, name in enumerate(args.beside, 1)]
    for priority in (0, -1):
        run, flops = lane(args.long, 0, priority)
        if priority == 0:
            (alone,) = rates([run], args.seconds)
            print(f"{args.long} alone: {alone:,.0f} atoms/s, {alone * flops / 1e12:.1f} TFLOP/s")
        found = rates([run, *(other for other, _ in others)], args.seconds)
        total = sum(r * f for r, f in zip(found, (flops, *(f for _, f in others))))
        print(
            f"beside {len(others)}, priority {priority}: {found[0]:,.0f} atoms/s"
            f" ({found[0] / alone:.2f} of alone), all {total / 1e12:.1f} TFLOP/s",
            flush=True,
        )
        run.step.release()
        del run
        empty_cache(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
