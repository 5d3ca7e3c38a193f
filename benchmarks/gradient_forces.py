"""Steps with direct and with gradient forces, by kernels and by plain torch: speed, memory, and
losses on CPU and GPU.

    python benchmarks/gradient_forces.py --pack src/forcelaw/data/sample [--atoms 1400 8192]
        [--architectures mpnn painn egnn esen] [--plain] [--check]

Each row is that of benchmarks/training_speed.py. --plain adds gradient forces by plain torch, as
they were before there were kernels for them. --check first trains 40 steps in float64 on the CPU,
eagerly and in plain torch, and on the GPU, as CUDA graphs of kernels, and compares their losses.
"""

from __future__ import annotations

import argparse
import gc
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from gpu_check import run_once  # in this directory
from training_speed import measure, parse

from forcelaw.data.pack import Pack
from forcelaw.models import architecture


def losses(pack: Path, name: str, precision: str, device: str) -> list[float]:
    """At the evaluations of 40 steps."""
    torch.set_num_threads(2)  # eight of these may run beside one another
    how = {"precision": precision, "steps": 40, "forces": "conservative"}
    return [m["loss"] for m in run_once(Pack(pack), name, device, **how)[0]]


def check(pack: Path, names: list[str]) -> int:
    """Prints largest relative differences of losses; how many are too large."""
    bad, kinds = 0, ("float64", "float32")
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        found = {
            (name, kind): pool.submit(losses, pack, name, kind, "cpu")
            for name in names
            for kind in kinds
        }
        for (name, kind), cpu in found.items():
            print(f"{name}: {kind}", flush=True)
            gpu = losses(pack, name, kind, "cuda")
            print(f"{name}: {kind} on the GPU is done", flush=True)
            worst = max(abs(a / b - 1) for a, b in zip(cpu.result(), gpu, strict=True))
            print(f"{name}: losses on CPU and GPU differ by {worst:.1e} in {kind}", flush=True)
            bad += kind == "float64" and worst > 1e-9
    return bad


def row(pack: Pack, name: str, atoms: int, forces: str, seconds: float) -> dict[str, float]:
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    option = "," if ":" in name else ":"
    device = torch.device("cuda")
    return measure(
        pack, f"{name}{option}forces={forces}", 1e6, atoms, device, "tf32", "no", seconds
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--architectures", nargs="*", default=["mpnn", "painn", "egnn", "esen"])
    parser.add_argument("--atoms", type=int, nargs="*", default=[8192, 1400])
    parser.add_argument("--seconds", type=float, default=0.25, help="timing of each row")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    pack, bad = Pack(args.pack), 0
    print(f"# {' '.join(sys.argv)}\n# {torch.cuda.get_device_name()}, torch {torch.__version__}")
    if args.check:
        bad = check(args.pack, args.architectures)
    print(
        f"{'model':<16}{'forces':<20}{'atoms/step':>11}{'ms/step':>9}{'direct':>8}{'atoms/s':>10}"
        f"{'GiB':>7}{'direct':>8}{'start s':>9}"
    )
    for name in args.architectures:
        model = architecture(parse(name)[0]).model
        kernels = getattr(model, "kernels_give_forces", False)
        ways = ["direct", "conservative", *(["plain"] if args.plain and kernels else [])]
        for atoms in args.atoms:
            direct = None
            for way in ways:
                model.kernels_give_forces = kernels and way != "plain"  # type: ignore[attr-defined]
                forces = "direct" if way == "direct" else "conservative"
                r = row(pack, name, atoms, forces, args.seconds)
                direct = direct or r
                title = {"direct": "direct", "plain": "gradient, plain"}.get(way, "gradient")
                print(
                    f"{name:<16}{title:<20}{r['atoms_step']:>11.0f}{r['ms']:>9.3f}"
                    f"{r['ms'] / direct['ms']:>8.2f}{r['atoms_s'] / 1e3:>9.1f}k{r['gb']:>7.2f}"
                    f"{r['gb'] / direct['gb']:>8.2f}{r['start']:>9.1f}"
                    f"{'' if r['loss_ok'] else '  NON-FINITE'}",
                    flush=True,
                )
            model.kernels_give_forces = kernels  # type: ignore[attr-defined]
    return bad


if __name__ == "__main__":
    sys.exit(main())
