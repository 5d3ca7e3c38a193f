"""GemNet-OC's training step on one GPU, way by way: eager, whole-step CUDA graphs, and graphs of
the compiled model.

    python benchmarks/gemnet_speed.py --pack PACK [--sizes 1e6 3e6] [--atoms 1400 8192]
        [--ways eager graph compiled]

Direct forces, real molecules, batch assembly and optimiser included; a row for each case, printed
as it is measured. --check compares the losses of the first steps between the ways, in float32
without TF32. --profile adds the kernels that take most of the time of a step, for the last of the
ways.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from training_speed import profile  # in this directory

from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed
from forcelaw.models import ARCHITECTURES, ModelConfig, build
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set
from forcelaw.training.step import EagerStep, GraphStep, Step, new_stats

WAYS = {"eager": (EagerStep, False), "graph": (GraphStep, False), "compiled": (GraphStep, True)}


class Case:
    """A model and its steps, ready to run."""

    def __init__(
        self,
        pack: Pack,
        config: ModelConfig,
        atoms: int,
        steps: int,
        device: torch.device,
        way: str,
        tf32: bool,
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        options = TrainOptions(batch_atoms=atoms, precision="tf32" if tf32 else "float32")
        indices = training_set(pack)
        natoms = np.diff(pack.offsets)[indices]
        self.plan = plan_for(natoms, steps * atoms * 0.95, 0, options)
        self.model = build(config, 0).to(device)
        optimizer = ScheduleFreeAdamW(self.model, lr=1e-4, steps=self.plan.steps, warmup=10)
        self.window = Feed(
            pack,
            indices,
            self.plan,
            cutoff=config.cutoff,
            elements=config.elements,
            device=device,
            dtype=torch.float32,
        ).whole()
        self.stats, self.device = new_stats(device), device
        stepper, compiled = WAYS[way]
        forward = torch.compile(self.model) if compiled else self.model
        self.step: Step = stepper(self.model, optimizer, options, 0, self.stats, forward)
        began = time.perf_counter()
        self.step.begin(self.plan, self.window)
        self.step.run(0)
        self.wait()
        self.start = time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def block(self) -> float:
        """Seconds of all steps once."""
        self.wait()
        began = time.perf_counter()
        for k in range(self.plan.steps):
            self.step.run(k)
        self.wait()
        return time.perf_counter() - began

    def losses(self, steps: int) -> list[float]:
        out, before = [], float(self.stats[0])
        for k in range(1, steps + 1):
            self.step.run(k)
            out.append(float(self.stats[0]) - before)
            before += out[-1]
        return out


def agreement(
    pack: Pack, config: ModelConfig, atoms: int, device: torch.device, ways: list[str]
) -> None:
    expected = None
    for way in ways:
        found = Case(pack, config, atoms, 8, device, way, tf32=False).losses(4)
        expected = expected or found
        worst = max(abs(a / b - 1) for a, b in zip(found, expected))
        print(
            f"{way:<9} losses {' '.join(f'{x:.6f}' for x in found)}  largest relative difference"
            f" {worst:.1e}",
            flush=True,
        )
        reset(device)


def reset(device: torch.device) -> None:
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 3e6])
    parser.add_argument("--atoms", type=int, nargs="+", default=[1400, 8192])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device, pack = torch.device(args.device), Pack(args.pack)
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"# {' '.join(sys.argv)}\n# {name}, torch {torch.__version__}, pack {pack.atoms:,} atoms",
        flush=True,
    )
    if args.check:
        agreement(
            pack,
            size("gemnet_oc", args.sizes[0], **data_options(pack)),
            args.atoms[0],
            device,
            args.ways,
        )
    print(
        f"{'way':<10}{'N':>11}{'width':>6}{'atoms/step':>11}{'ms/step':>9}{'atoms/s':>10}{'edges/s':>9}{'TFLOP/s':>9}"
        f"{'peak GiB':>9}{'start s':>8}",
        flush=True,
    )
    for target in args.sizes:
        config = size("gemnet_oc", target, **data_options(pack))
        form = ARCHITECTURES["gemnet_oc"].flops(config)
        for atoms in args.atoms:
            for way in args.ways:
                reset(device)
                try:
                    case = Case(pack, config, atoms, args.steps, device, way, tf32=True)
                    t = statistics.median(
                        [case.block() for _ in range(4 if device.type == "cuda" else 1)]
                    )
                except RuntimeError as error:
                    print(f"{way:<10}{target:>11.0f} {atoms}: {str(error)[:400]}", flush=True)
                    continue
                seen, edges = (
                    int(case.plan.atoms.sum()),
                    int(case.window.shard.host_nedges[case.window.local].sum()),
                )
                memory = (
                    torch.cuda.max_memory_allocated() / 2**30
                    if device.type == "cuda"
                    else float("nan")
                )
                print(
                    f"{way:<10}{case.model.n_parameters():>11,}{config.width:>6}"
                    f"{seen / case.plan.steps:>11.0f}"
                    f"{1e3 * t / case.plan.steps:>9.2f}{seen / t / 1e3:>9.1f}k"
                    f"{edges / t / 1e6:>8.2f}M"
                    f"{form.training(edges, seen) / t / 1e12:>9.2f}"
                    f"{memory:>9.2f}{case.start:>8.1f}",
                    flush=True,
                )
                if args.profile and way == args.ways[-1]:
                    profile(case.step, range(3))
                del case
    return 0


if __name__ == "__main__":
    sys.exit(main())
