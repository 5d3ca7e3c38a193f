"""Do the Triton kernels compile for a GPU that is not here, and do they spill? All that a training
step launches, by ptxas.

    python benchmarks/kernel_compile.py [mpnn painn egnn esen esen:lmax=4 gemnet_oc] [--size 1e6]
        [--precision tf32 bf16]

Runs a step of each model on the CPU with its kernels switched on and every launch replaced by a
compilation, so that kernels get the types, sizes and alignments of a real step (numbers mean
nothing). Prints registers of a thread, bytes spilled and shared memory.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["FORCELAW_OPS"] = "triton"  # before forcelaw is imported

import torch
import triton
from training_speed import parse  # in this directory
from triton.runtime.jit import JITFunction

from forcelaw.data.pack import Pack
from forcelaw.models.sizing import size
from forcelaw.study.precompile import pretend, step
from forcelaw.training.spec import data_options

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compile_only(arch: int) -> dict[str, int]:
    """Replace launches; the bytes that each kernel spills are filled in as they come."""
    launch, spilled = JITFunction.run, {}

    def run(
        self: JITFunction, *args: Any, grid: Any = None, warmup: bool = False, **options: Any
    ) -> Any:
        began = time.perf_counter()
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in spilled:
            took = time.perf_counter() - began
            with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
                file.write(kernel.asm["ptx"])
                file.flush()
                target = f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}"
                ptxas = BIN / ("ptxas-blackwell" if arch >= 100 else "ptxas")
                out = subprocess.run(
                    [ptxas, "-v", target, file.name, "-o", "/dev/null"],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stderr
            registers, spill = (
                re.search(r"Used (\d+) registers", out),
                re.search(r"(\d+) bytes spill stores", out),
            )
            spilled[kernel.hash] = int(spill[1]) if spill else 0
            name = f"{self.fn.__module__.split('.')[-1]}.{self.fn.__name__}"
            meta, used = kernel.metadata, registers[1] if registers else "?"
            print(
                f"{name:<30}{used:>10}{spilled[kernel.hash]:>10}{meta.shared:>10}"
                f"{meta.num_warps:>7}{took:>9.1f}",
                flush=True,
            )
        return kernel

    JITFunction.run = run
    return spilled


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="*",
        default=[
            "mpnn",
            "mpnn:feed_forward=edges",
            "painn",
            "egnn",
            "esen",
            "esen:lmax=4",
            "gemnet_oc",
        ],
    )
    parser.add_argument("--pack", type=Path, default=ROOT / "src" / "forcelaw" / "data" / "sample")
    parser.add_argument("--size", type=float, default=1e6)
    parser.add_argument("--precision", nargs="+", default=["tf32", "bf16"])
    parser.add_argument("--arch", type=int, default=90, help="compute capability: 80, 90, 100")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pretend(args.arch)
    spilled = compile_only(args.arch)
    print(
        f"{'kernel':<30}{'registers':>10}{'spilled B':>10}{'shared B':>10}"
        f"{'warps':>7}{'seconds':>9}"
    )
    for model in args.models:
        for precision in args.precision:
            name, options = parse(model)
            pack = Pack(args.pack)
            config = size(name, args.size, **data_options(pack), **options)
            print(f"# {model}, {config.width} wide, {precision}", flush=True)
            step(pack, config, precision)
    print(
        f"{len(spilled)} kernels compiled for sm_{args.arch},"
        f" {sum(b > 0 for b in spilled.values())} spill"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
