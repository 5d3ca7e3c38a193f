"""What TF32 does to the first steps of a training run, without a GPU: its rounding on a CPU.

    python benchmarks/tf32_on_cpu.py gemnet_oc --pack packs/xtb --size 1e6 \\
        --learning-rate 0.00557 --atoms 4e6 --steps 250 --precision tf32

The factors of every matrix product, in forward and backward passes, are rounded to the 10 bits of
mantissa that TF32 keeps; sums are in float32, as on the device. The run is the first ``--steps``
steps of one of ``--atoms`` atoms, so the same data and rates as that run's, not to the last bit:
orders of sums differ. Printed: the terms of the loss at its evaluations, beside those of no model.
The same command goes on where it was stopped; --precision float32 is the plain run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: others may be training

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from forcelaw.data.pack import Pack
from forcelaw.data.reference import without_model
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.store.unlearned import left, unlearned
from forcelaw.study.config import load
from forcelaw.study.worker import work
from forcelaw.training.spec import validation_set

ATEN = torch.ops.aten
PRODUCTS = {  # operation -> which of its arguments are factors
    ATEN.mm.default: (0, 1),
    ATEN.bmm.default: (0, 1),
    ATEN.addmm.default: (1, 2),
    ATEN.baddbmm.default: (1, 2),
}
DROPPED = 13  # of the 23 bits of float32's mantissa


def rounded(x: torch.Tensor) -> torch.Tensor:
    """float32 to the nearest number with 10 bits of mantissa, ties to even."""
    bits = x.contiguous().view(torch.int32)
    half = (1 << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1)
    return ((bits + half) & -(1 << DROPPED)).view(torch.float32)


class TF32(TorchDispatchMode):
    """Rounds the factors of matrix products of float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = PRODUCTS.get(func, ())
        args = [
            rounded(a) if k in factors and a.dtype == torch.float32 else a
            for k, a in enumerate(args)
        ]
        return func(*args, **(kwargs or {}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--size", type=float, default=1e6)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--atoms", type=float, default=4e6, help="length of the run that is begun")
    parser.add_argument("--steps", type=int, default=250, help="after which to stop it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["float32", "tf32"], default="tf32")
    parser.add_argument("--molecules", type=int, default=16, help="structures a step")
    parser.add_argument("--validation", type=int, default=100, help="structures")
    parser.add_argument("--out", type=Path, default=Path("out/tf32_on_cpu"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = f"{args.architecture}_{args.precision}"
    content = {
        "name": name,
        "data": str(args.pack.resolve()),
        "architectures": [{"name": args.architecture, "learning_rate": args.learning_rate}],
        "sizes": [args.size],
        "seeds": [args.seed],
        "depth": 4,
        "atoms": args.atoms,
        "train": {
            "batch_molecules": args.molecules,
            "augment": True,
            "warmup": 100,
            "beta2": 0.99,
            "evaluations": 80,
            "first_evaluation": 40,
            "validation_structures": args.validation,
        },
    }
    folder = args.out / f"{name}_{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    print(f"# {' '.join(sys.argv)}\n# torch {torch.__version__}", flush=True)

    def over() -> bool:
        return any(run.position() >= args.steps for run in runs(folder / "runs"))

    with TF32() if args.precision == "tf32" else contextlib.nullcontext():
        work(
            load(folder / "study.yaml"),
            folder,
            folder,
            device="cpu",
            runs_per_device=1,
            stop=over,
            show=False,
        )
    (run,) = runs(folder / "runs")
    pack = Pack(args.pack)
    return show(run, without_model(pack, validation_set(pack, args.validation)))


def show(run: RunDirectory, none: dict[str, float]) -> int:
    """Print the terms of the loss by step."""
    print(f"{'step':>8}{'energies':>11}{'forces':>9}{'gradient':>10}")
    print(f"{'no model':>8}{none['loss_energy']:>11.4f}{none['loss_forces']:>9.3f}")
    rows = run.metrics()
    for row in rows:
        terms = f"{row['loss_energy']:>11.4f}{row['loss_forces']:>9.3f}{row['grad_norm']:>10.1f}"
        print(f"{row['step']:>8}{terms}")
    print(f"not learned: {' and '.join(unlearned(left(rows, none))) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
