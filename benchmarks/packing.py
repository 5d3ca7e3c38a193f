"""How busy several small runs side by side keep one GPU: atoms/s of one run, of 2, 4, 8, 16 at
once, and at 8k atoms a step.

    CUDA_DEVICE_MAX_CONNECTIONS=32 python benchmarks/packing.py --device cuda \\
        --pack src/forcelaw/data/sample
    ... --study mpnn painn     and then whole studies through the worker: the same losses and
                               device-hours as one run at a time?

Every run is the real training step (forcelaw.training.step), on its own stream, with its own
weights and data order. Direct forces. Rows are printed as they come; "ratio" is the best of the
packed throughputs over that of one run at 8k atoms a step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault(
    "CUDA_DEVICE_MAX_CONNECTIONS", "32"
)  # before torch starts CUDA; forcelaw run sets it for its workers

import numpy as np
import torch
import yaml

from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed, Shards
from forcelaw.errors import ForcelawError
from forcelaw.models import ARCHITECTURES, build
from forcelaw.models.sizing import size
from forcelaw.store.runs import runs
from forcelaw.study.config import load
from forcelaw.study.worker import work
from forcelaw.training import step as step_module
from forcelaw.training.config import TrainOptions
from forcelaw.training.cooperative import on_stream
from forcelaw.training.loop import compiled
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set
from forcelaw.training.step import EagerStep, GraphStep, new_stats

AHEAD_SECONDS = 0.1  # work queued for each run


class Lane:
    """One run on its stream."""

    def __init__(
        self,
        pack: Pack,
        config,
        options: TrainOptions,
        seed: int,
        device: torch.device,
        shards: Shards,
        args,
        priority: int = 0,
    ):
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device, priority=priority) if on_gpu else None
        with on_stream(self.stream):
            natoms = np.diff(pack.offsets)[training_set(pack)]
            per_step = options.batch_atoms or options.batch_molecules * natoms.mean()
            self.plan = plan_for(natoms, args.steps * per_step * 0.95, seed, options)
            model = build(config, seed).to(device)
            self.parameters = model.n_parameters()
            optimizer = ScheduleFreeAdamW(model, lr=1e-4, steps=self.plan.steps, warmup=10)
            feed = Feed(
                pack,
                training_set(pack),
                self.plan,
                cutoff=config.cutoff,
                elements=config.elements,
                device=device,
                dtype=torch.float32,
                shards=shards,
            )
            self.stats = new_stats(device)
            self.step = (GraphStep if self.stream else EagerStep)(
                model,
                optimizer,
                options,
                seed,
                self.stats,
                compiled(model) if args.compile else model,
            )
            self.step.begin(self.plan, feed.whole())
            if self.stream:
                self.stream.synchronize()
        self.next = self.done = 0
        self.chunk = 8

    def queue(self) -> None:
        """Queue some steps."""
        self.began = time.perf_counter()
        with on_stream(self.stream):
            for _ in range(self.chunk):
                self.step.run(self.next)
                self.done += int(self.plan.atoms[self.next])
                self.next = (self.next + 1) % self.plan.steps
            self.event = None
            if self.stream:
                self.event = torch.cuda.Event(blocking=True)
                self.event.record()

    def ready(self) -> bool:
        if self.event is not None and not self.event.query():
            return False
        taken = max(1e-6, time.perf_counter() - self.began)
        self.chunk = (
            max(4, min(400, round(self.chunk * AHEAD_SECONDS / taken))) if self.stream else 1
        )
        return True

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()


def rates(lanes: list[Lane], seconds: float) -> list[float]:
    """Atoms/s of each lane: after a warm-up, until the time is over and everything queued is
    done."""
    for measured in (False, True):
        began = time.perf_counter()
        until = began + (seconds if measured else 0.3 * seconds)
        for lane in lanes:
            lane.done = 0
            lane.queue()
        while time.perf_counter() < until:
            moved = False
            for lane in lanes:
                if lane.ready():
                    lane.queue()
                    moved = True
            if not moved:
                time.sleep(1e-4)
        for lane in lanes:
            lane.wait()
    taken = time.perf_counter() - began
    return [lane.done / taken for lane in lanes]


def row(
    pack: Pack, name: str, target: float, device: torch.device, args: argparse.Namespace
) -> str:
    """One architecture at one size."""
    config = size(name, target, **data_options(pack))
    batch = {"batch_molecules": args.molecules} if args.molecules else {"batch_atoms": args.atoms}
    small, large = (
        TrainOptions(**batch, precision=args.precision),
        TrainOptions(batch_atoms=args.large, precision=args.precision),
    )
    shards = Shards()
    big = Lane(pack, config, large, 0, device, shards, args)
    reference = sum(rates([big], args.seconds))
    n = big.parameters
    big.step.release()
    del big
    empty_cache(device)
    lanes, started, found, memory = [], [], {}, ""
    for count in [1, *args.packs]:
        try:
            while len(lanes) < count:
                began = time.perf_counter()
                lanes.append(Lane(pack, config, small, len(lanes), device, shards, args))
                started.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            memory = "  out of memory"
            break
        found[count] = sum(rates(lanes[:count], args.seconds))
    if device.type == "cuda":
        memory = f"{torch.cuda.memory_reserved() / 2**30:8.1f}{memory}"
    bad = "" if all(float(lane.stats[4]) == step_module.NEVER for lane in lanes) else "  NON-FINITE"
    for lane in lanes:
        lane.step.release()
    best = max(found.values())
    cells = "".join(
        f"{found[k] / 1e3:>9.1f}k" if k in found else f"{'-':>10}" for k in [1, *args.packs]
    )
    return (
        f"{name:<8}{n:>10,}{statistics.median(started):>8.2f}{cells}{reference / 1e3:>9.1f}k"
        f"{best / found[1]:>7.2f}"
        f"{best / reference:>7.2f}{memory:>9}{bad}"
    )


def empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def study(
    pack: Pack,
    name: str,
    args: argparse.Namespace,
    count: int,
    precision: str,
    steps: int,
    wide: int,
) -> tuple[float, dict[int, dict]]:
    """Train ``count`` runs of one small study through the worker, ``wide`` at once: wall seconds,
    and what each run tells."""
    batch = {"batch_molecules": args.molecules} if args.molecules else {"batch_atoms": args.atoms}
    per_step = args.molecules * 21 if args.molecules else args.atoms
    content = {
        "name": "packing",
        "data": str(pack.path.resolve()),
        "architectures": [name],
        "sizes": [args.sizes[0]],
        "seeds": list(range(count)),
        "atoms": float(steps * per_step),
        "learning_rate": {"value": 1e-3},
        "train": {**batch, "precision": precision, "evaluations": 6, "validation_structures": 400},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        began = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()) as said:
            work(
                load(path),
                Path(folder) / "out",
                Path(folder),
                device=args.device,
                compile_model=args.compile,
                runs_per_device=wide,
                show=False,
            )
        wall = time.perf_counter() - began
        told = {
            run.spec()["seed"]: {**(run.result() or {}), "last": (run.metrics() or [{}])[-1]}
            for run in runs(Path(folder) / "out" / "runs")
        }
    for text in said.getvalue().splitlines():
        print(f"    {text[:220]}")
    return wall, told


def whole_studies(pack: Pack, args: argparse.Namespace) -> None:
    """Losses and device-hours of the same runs alone and side by side."""
    for name in args.study:
        for precision, steps, count in (
            ("float64", 100, 4),
            (args.precision, args.study_steps, max(args.packs)),
        ):
            print(
                f"study of {name}, {precision}, {steps} steps: two runs one after the other, then"
                f" {count} at once",
                flush=True,
            )
            _, alone = study(pack, name, args, 2, precision, steps, 1)
            wall, packed = study(pack, name, args, count, precision, steps, count)
            states = sorted({r.get("status", "unfinished") for r in packed.values()})
            atoms = sum(r["last"].get("d", 0) for r in packed.values())
            for seed in (0, 1):
                a, b = alone[seed], packed[seed]
                print(
                    f"    seed {seed}: loss {a['last']['loss']:.6f} alone, {b['last']['loss']:.6f}"
                    " packed (relative difference"
                    f" {abs(b['last']['loss'] / a['last']['loss'] - 1):.1e}); device seconds"
                    f" {a['seconds']:.3f} alone, {b['seconds']:.3f} packed ({b['timing']}; wall"
                    f" {b['wall_seconds']:.3f})"
                )
            spread = [r["seconds"] for r in packed.values() if "seconds" in r]
            print(
                f"    {count} at once: {states}, {wall:.1f} s in all, {atoms / wall / 1e3:.0f}k"
                " atoms/s with preparation and evaluation; device seconds of the runs"
                f" {min(spread):.3f} to {max(spread):.3f}",
                flush=True,
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--sizes", type=float, nargs="*", default=[1e5, 1e6])
    parser.add_argument("--atoms", type=int, default=1400, help="atoms of a small step")
    parser.add_argument("--molecules", type=int, help="instead: structures of a small step")
    parser.add_argument("--large", type=int, default=8192, help="atoms of a large step")
    parser.add_argument("--packs", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--precision", default="tf32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--classes", type=int, default=4, help="1: one graph for steps of all sizes"
    )
    parser.add_argument("--seconds", type=float, default=0.7, help="timing of each number")
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="steps in the plan of a run, which goes round and round",
    )
    parser.add_argument(
        "--study",
        nargs="*",
        default=[],
        help="architectures to train whole studies of, at the first size",
    )
    parser.add_argument("--study-steps", type=int, default=3000)
    args = parser.parse_args()
    device, pack = torch.device(args.device), Pack(args.pack)
    if args.classes == 1:
        step_module.CLASSES = (1.0,)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = args.precision in ("tf32", "bf16")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"# {' '.join(sys.argv)}\n# {name}, torch {torch.__version__}, pack {pack.atoms:,} atoms;"
        " small steps of"
        f" {f'{args.molecules} structures' if args.molecules else f'{args.atoms} atoms'}"
    )
    heads = "".join(f"{f'{k} at once':>10}" for k in [1, *args.packs])
    print(
        f"{'model':<8}{'N':>10}{'start s':>8}{heads}{f'{args.large} a.':>10}"
        f"{'gain':>7}{'ratio':>7}{'GiB':>9}",
        flush=True,
    )
    for target in args.sizes:
        for architecture in args.architectures:
            try:
                print(row(pack, architecture, target, device, args), flush=True)
            except (ForcelawError, RuntimeError) as error:
                print(
                    f"{architecture:<8}{target:>10.0f} {type(error).__name__}: {str(error)[:300]}",
                    flush=True,
                )
            empty_cache(device)
    whole_studies(pack, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
