"""Do the Triton kernels compile for a GPU that is not here, and do they spill? All that a training step launches, by ptxas.

    python benchmarks/kernel_compile.py [mpnn painn egnn esen esen:lmax=4 gemnet_oc] [--size 1e6] [--precision tf32 bf16]

Runs a step of each model on the CPU with the fused path switched on and every launch replaced by a compilation, so that kernels
get the types, sizes and alignments of a real step (numbers mean nothing). Prints registers of a thread, bytes spilled and shared
memory.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
from training_speed import parse  # beside this file
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from forcelaw import kernels
from forcelaw.data.feed import Feed, random_rotations
from forcelaw.data.pack import Pack
from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.train.loss import loss_terms
from forcelaw.train.optimizer import ScheduleFreeAdamW
from forcelaw.train.spec import TrainOptions, data_options, plan_for, training_set
from forcelaw.train.step import new_stats

ROOT = Path(__file__).resolve().parent.parent
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


class Elsewhere:
    """A driver that knows its target and nothing else."""

    def __init__(self, arch: int):
        self.target = GPUTarget("cuda", arch, 32)
        limits = {"max_shared_mem": 232_448, "multiprocessor_count": 132}
        self.utils = SimpleNamespace(get_device_properties=lambda device: limits)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def compile_only(arch: int) -> dict[str, int]:
    """Replace launches; the bytes that each kernel spills are filled in as they come."""
    launch, spilled = JITFunction.run, {}

    def run(self: JITFunction, *args: Any, grid: Any = None, warmup: bool = False, **options: Any) -> Any:
        began = time.perf_counter()
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in spilled:
            took = time.perf_counter() - began
            with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
                file.write(kernel.asm["ptx"])
                file.flush()
                target = f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}"
                out = subprocess.run([PTXAS, "-v", target, file.name, "-o", "/dev/null"], capture_output=True, text=True,
                                     check=True).stderr
            registers, spill = re.search(r"Used (\d+) registers", out), re.search(r"(\d+) bytes spill stores", out)
            spilled[kernel.hash] = int(spill[1]) if spill else 0
            print(f"{self.fn.__module__.split('.')[-1] + '.' + self.fn.__name__:<30}{registers[1] if registers else '?':>10}"
                  f"{spilled[kernel.hash]:>10}{kernel.metadata.shared:>10}{kernel.metadata.num_warps:>7}{took:>9.1f}", flush=True)
        return kernel

    JITFunction.run = run
    return spilled


def step(pack: Pack, model_name: str, target: float, precision: str) -> None:
    """One training step of a small batch, padded and turned as in training."""
    name, options = parse(model_name)
    config = size(name, target, **data_options(pack), **options)
    indices, dtype = training_set(pack), torch.float64 if precision == "float64" else torch.float32
    schedule = plan_for(np.diff(pack.offsets)[indices], 200, 0, TrainOptions(batch_atoms=100))
    window = next(iter(Feed(pack, indices, schedule, cutoff=config.cutoff, elements=config.elements, device=torch.device("cpu"),
                            dtype=dtype, capacity=1e12).windows()))
    rows = torch.from_numpy(window.rows(schedule, 0))
    atoms, edges = (int(count[rows.numpy()].sum()) for count in (window.shard.host_natoms, window.shard.host_nedges))
    number = torch.tensor(0)
    turns = random_rotations(rows, number, 0, dtype)
    window.shard.batch(rows, atoms + 1, edges, pad=True, rotation=turns)
    fused, kernels.fused = kernels.fused, lambda x: False  # the model wants indices that are ones
    graph, target = window.shard.batch(rows, atoms + 1, edges, pad=True)
    kernels.fused = fused
    model = build(config, 0).to(dtype)
    torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "bf16")  # some kernels ask for it
    print(f"# {model_name}, {model.n_parameters():,} parameters, {precision}", flush=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        energy, forces = model(graph)
    loss = sum(loss_terms(energy.to(target.energy), forces.to(target.forces), target))
    optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=1, warmup=0)
    norm, clipped = optimizer.update(list(torch.autograd.grad(loss, optimizer.params)), optimizer.table[0])
    kernels.record(new_stats(loss.device), loss.detach(), loss.detach(), norm, clipped, number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mpnn", "mpnn:feed_forward=edges", "painn", "egnn", "esen", "esen:lmax=4",
                                                      "gemnet_oc"])
    parser.add_argument("--pack", type=Path, default=ROOT / "src" / "forcelaw" / "data" / "sample")
    parser.add_argument("--size", type=float, default=1e6)
    parser.add_argument("--precision", nargs="+", default=["tf32", "bf16"])
    parser.add_argument("--arch", type=int, default=90, help="compute capability: 80, 90, 100")
    args = parser.parse_args()
    torch.set_num_threads(1)
    there, torch.cuda.is_available = torch.cuda.is_available, lambda: True  # what the kernels ask before they are imported
    importlib.reload(kernels)
    torch.cuda.is_available = there
    kernels.fused = lambda vec: not vec.requires_grad
    driver.set_active(Elsewhere(args.arch))
    spilled = compile_only(args.arch)
    print(f"{'kernel':<30}{'registers':>10}{'spilled B':>10}{'shared B':>10}{'warps':>7}{'seconds':>9}")
    for model in args.models:
        for precision in args.precision:
            step(Pack(args.pack), model, args.size, precision)
    print(f"{len(spilled)} kernels compiled for sm_{args.arch}, {sum(b > 0 for b in spilled.values())} spill")
    return 0


if __name__ == "__main__":
    sys.exit(main())
