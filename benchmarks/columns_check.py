"""Every column of the symmetry studies in the step that training uses: does it learn, is it
captured, and how long does a step take beside eSEN L2 at about a million parameters?

    python benchmarks/columns_check.py --pack PACK [--steps 200] [--only WORD ...]
        [--size 1e6] [--rates 1e-3 4e-3] [--molecules 64]

One GPU (CUDA graph) or a CPU (eager). "x eSEN" is time per FLOP over eSEN L2's: step time over step
time at equal FLOPs, as closed forms count them.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_speed import parse  # in this directory

from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed
from forcelaw.errors import ForcelawError
from forcelaw.models import ModelConfig, architecture, build, make_config
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions
from forcelaw.training.evaluate import evaluate
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set, validation_set
from forcelaw.training.step import EagerStep, GraphStep, new_stats

COLUMNS = (
    "esen",
    "painn",
    "mpnn",
    "attention",
    "attention:radial=0,angular=0",
    "platonic:group=C1,width=480",
    "platonic:group=T,width=480",
    "platonic:group=O,width=480",
    "platonic:group=I,width=480",
    "platonic:group=Oh,width=384",
    "esen:lmax=1",
    "esen:untied=true,epsilon=0.1",
    "esen:untied=true,epsilon=1.0,roll=random",
    "esen:frames=global",
    "esen:carried=0",
    "painn:untied=true",
    "mpnn:canonical=principal",
    "mpnn:canonical=average4",
)


def configured(pack: Pack, column: str, target: float) -> ModelConfig:
    """A column at about ``target`` parameters, or at its own width."""
    name, options = parse(column)
    data = data_options(pack)
    if "width" in options:
        return make_config({"architecture": name, "depth": 4, **data, **options})
    return size(name, target, depth=4, **data, **options)


def check(pack: Pack, config: ModelConfig, rate: float, args: Any) -> dict[str, float]:
    device = torch.device(args.device)
    options = TrainOptions(batch_molecules=args.molecules, augment=True, precision="tf32")
    indices = training_set(pack, args.steps * args.molecules)
    natoms = np.diff(pack.offsets)[indices]
    atoms = args.steps * args.molecules * float(natoms.mean())
    schedule = plan_for(natoms, atoms, 0, options)
    shard = {"cutoff": config.cutoff, "elements": config.elements, "device": device}
    held = Shard(pack, validation_set(pack, 300), dtype=torch.float32, **shard)
    window = Feed(pack, indices, schedule, dtype=torch.float32, **shard).whole()
    model = build(config, 0).to(device)
    optimizer = ScheduleFreeAdamW(
        model, lr=rate, steps=schedule.steps, warmup=max(1, schedule.steps // 20), clip=100.0
    )
    before = evaluate(model, held)["loss"]
    step = (GraphStep if device.type == "cuda" else EagerStep)(
        model, optimizer, options, 0, new_stats(device)
    )
    began = time.perf_counter()
    step.begin(schedule, window)
    synchronise(device)
    start = time.perf_counter() - began
    began = time.perf_counter()
    for k in range(schedule.steps):
        step.run(k)
    synchronise(device)
    seconds = time.perf_counter() - began
    optimizer.swap_in(optimizer.averaged())
    after = evaluate(model, held)["loss"]
    getattr(step, "release", lambda: None)()
    edges = int(window.shard.host_nedges[window.local].sum())
    flops = architecture(config.architecture).flops(config)
    return {
        "N": model.n_parameters(),
        "before": before,
        "after": after,
        "ms": 1e3 * seconds / schedule.steps,
        "gflops": flops.training(edges, int(schedule.atoms.sum())) / schedule.steps / 1e9,
        "start": start,
    }


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="esen:lmax=1, ...")
    parser.add_argument("--only", nargs="+", default=[""], help="columns with one of these words")
    parser.add_argument("--size", type=float, default=1e6)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--molecules", type=int, default=64, help="a step")
    parser.add_argument("--rates", type=float, nargs="+", help="default: the architecture's")
    args = parser.parse_args()
    pack = Pack(args.pack)
    torch.backends.cuda.matmul.allow_tf32 = True
    print(f"# {' '.join(sys.argv)}\n# {args.device}, torch {torch.__version__}")
    print(
        f"{'column':<44}{'width':>6}{'N':>11}{'rate':>9}{'loss':>8}{'after':>8}{'ms/step':>9}"
        f"{'GFLOP':>8}{'x eSEN':>8}{'start s':>8}",
        flush=True,
    )
    unit, bad = None, 0
    chosen = [c for c in args.columns if any(word in c for word in args.only)]
    chosen.sort(key=lambda column: column != "esen")  # the unit of the others
    for column in chosen:
        try:
            config = configured(pack, column, args.size)
            for rate in args.rates or [architecture(config.architecture).learning_rate]:
                r = check(pack, config, rate, args)
                per = r["ms"] / r["gflops"]
                unit = per if unit is None else unit
                fine = np.isfinite(r["after"]) and r["after"] < r["before"]
                bad += not fine
                print(
                    f"{column:<44}{config.width:>6}{r['N']:>11,}{rate:>9.1e}{r['before']:>8.3f}"
                    f"{r['after']:>8.3f}{r['ms']:>9.3f}{r['gflops']:>8.1f}{per / unit:>8.2f}"
                    f"{r['start']:>8.1f}{'' if fine else '  DOES NOT LEARN'}",
                    flush=True,
                )
        except (ForcelawError, RuntimeError) as error:
            bad += 1
            print(f"{column:<44}  {str(error)[:120]}", flush=True)
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
