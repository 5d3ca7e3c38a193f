"""Does the best learning rate stay put when the width grows? Short trainings on a pack at several
widths.

    python benchmarks/lr_transfer.py gemnet_oc --widths 8 16 32 --rates 1e-3 2e-3 4e-3 8e-3
    python benchmarks/lr_transfer.py esen:lmax=4 --widths 8 16 32 --rates 2e-3 4e-3 8e-3 1.6e-2

For each width and learning rate: the validation loss at the averaged weights after the same steps,
mean over seeds. muP holds if the best rates of all widths are within one step of the grid. CPU,
eager, one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from training_speed import parse  # in this directory

from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed, Window
from forcelaw.models import ARCHITECTURES, ModelConfig, build, make_config
from forcelaw.training.config import TrainOptions
from forcelaw.training.evaluate import evaluate
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set, validation_set
from forcelaw.training.step import EagerStep, new_stats

SAMPLE = Path(__file__).resolve().parents[1] / "src" / "forcelaw" / "data" / "sample"


class Bench:
    """Data and schedule, the same for all trainings."""

    def __init__(self, pack: Pack, structures: int, steps: int, molecules: int):
        self.pack, self.steps, self.options = pack, steps, TrainOptions(batch_molecules=molecules)
        self.data = data_options(pack)
        self.indices = training_set(pack, structures)
        self.natoms = np.diff(pack.offsets)[self.indices]
        shard = {
            "cutoff": self.data["cutoff"],
            "elements": self.data["elements"],
            "device": torch.device("cpu"),
            "dtype": torch.float32,
        }
        self.validation = Shard(pack, validation_set(pack, 150), **shard)
        self.shard, self.windows = shard, {}

    def window(self, seed: int) -> tuple[object, Window]:
        if seed not in self.windows:
            mean = float(self.natoms.mean())
            schedule = plan_for(
                self.natoms, self.steps * self.options.batch_molecules * mean, seed, self.options
            )
            self.windows[seed] = (
                schedule,
                Feed(self.pack, self.indices, schedule, **self.shard).whole(),
            )
        return self.windows[seed]

    def loss(self, config: ModelConfig, lr: float, seed: int) -> float:
        """Validation loss after training; infinite if it diverged."""
        schedule, window = self.window(seed)
        model = build(config, seed)
        optimizer = ScheduleFreeAdamW(
            model, lr=lr, steps=schedule.steps, warmup=max(1, schedule.steps // 20), clip=100.0
        )
        step = EagerStep(model, optimizer, self.options, seed, new_stats(torch.device("cpu")))
        step.begin(schedule, window)
        for k in range(schedule.steps):
            step.run(k)
        optimizer.swap_in(optimizer.averaged())
        loss = evaluate(model, self.validation)["loss"]
        return loss if np.isfinite(loss) else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an architecture, with options: esen:lmax=4,untied=true")
    parser.add_argument("--pack", type=Path, default=SAMPLE)
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    parser.add_argument(
        "--rates", type=float, nargs="+", required=True, help="ascending, at the base width"
    )
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--molecules", type=int, default=4, help="a step")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    name, extra = parse(args.model)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    bench = Bench(Pack(args.pack), 4000, args.steps, args.molecules)
    print(
        f"command: python {' '.join(sys.argv)}\ntorch {torch.__version__}, CPU, one thread;"
        f" learning rates at base width {ARCHITECTURES[name].base_width}\n{args.model}: validation"
        f" loss after {args.steps} steps of {args.molecules} molecules, depth {args.depth}, mean of"
        f" {args.seeds} seeds (half of their range)",
        flush=True,
    )
    print(
        f"{'width':>6}{'N':>10}"
        + "".join(f"{rate:>16.1e}" for rate in args.rates)
        + f"{'best':>10}{'s/step':>8}"
    )
    best = []
    for width in args.widths:
        config = make_config(
            {"architecture": name, "width": width, "depth": args.depth, **bench.data, **extra}
        )
        began, row = time.perf_counter(), []
        for rate in args.rates:
            losses = [bench.loss(config, rate, seed) for seed in range(args.seeds)]
            row.append((float(np.mean(losses)), (max(losses) - min(losses)) / 2))
        seconds = (time.perf_counter() - began) / (len(args.rates) * args.seeds * args.steps)
        best.append(int(np.argmin([mean for mean, _ in row])))
        cells = "".join(f"{f'{mean:.4f} ({half:.4f})':>16}" for mean, half in row)
        n = build(config, 0).n_parameters()
        print(f"{width:>6}{n:>10,}{cells}{args.rates[best[-1]]:>10.1e}{seconds:>8.3f}", flush=True)
    agree = max(best) - min(best) <= 1
    print(
        "best rates of all widths are within"
        f" {'one step' if agree else f'{max(best) - min(best)} steps'} of the grid"
    )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
