"""Training on a pack that is larger than what may live on the device, beside the same with all of
it there: atoms per second once both have begun.

    python benchmarks/streaming.py [--device cuda] [--architecture mpnn] [--size 1e6] [--atoms 2e7]
        [--capacity 8e6] [--batch-atoms 7900] [--pack PACK]

Without --pack one of --atoms atoms is made of the shipped sample's structures, displaced at random
(25 bytes an atom, in a temporary folder, removed afterwards). The streamed run holds --capacity
atoms at once: the window that is trained on and the next one, which is read meanwhile. Both runs
take the same steps, so their losses must be the same too.

Of the streamed run: windows, seconds waited for the reader, and seconds in which the next window
was put in its place; the first window is read, and steps are captured, before the clock starts.
"CPU": atoms per second of all threads' processor time, which holds on a machine that others use.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scale_rehearsal import make_pack

from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed, Plan, Window
from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.training.config import TrainOptions
from forcelaw.training.cooperative import on_stream
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, shard_options, training_set
from forcelaw.training.step import EagerStep, GraphStep, new_stats

QUEUED = 20  # steps that a GPU is given ahead


class Stream:
    """Training steps over the windows of a feed, timed."""

    def __init__(self, feed: Feed, plan: Plan, config: Any, options: TrainOptions):
        self.feed, self.device = feed, feed.options["device"]
        model = build(config, 0).to(self.device)
        optimizer = ScheduleFreeAdamW(model, lr=1e-3, steps=plan.steps, warmup=10)
        kind = GraphStep if self.device.type == "cuda" else EagerStep
        self.stepper = kind(model, optimizer, options, 0, new_stats(self.device))
        self.waited = self.placed = self.wall = self.cpu = 0.0
        self.windows = self.captures = self.atoms = 0

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # not for the reader, which has another

    def run(self, most: int | None = None) -> Iterator[Window]:
        """Train; a window is yielded when it is done. most: steps of each that are trained."""
        clocks = time.perf_counter, time.process_time
        began = [clock() for clock in clocks]
        asked = time.perf_counter()
        for window in self.feed.windows():
            got = time.perf_counter()
            if self.windows:
                self.waited += got - asked
            if not self.stepper.go_on(self.feed.plan, window):
                self.stepper.release()
                self.stepper.begin(self.feed.plan, window)
                self.captures += 1
                self.wait()
            if not self.windows:
                began = [clock() for clock in clocks]
            else:
                self.placed += time.perf_counter() - got
            last = min(window.high, window.low + (most or window.high))
            for step in range(window.low, last):
                self.stepper.run(step)
                if step % QUEUED == 0:
                    self.wait()
            self.wait()
            self.windows += 1
            self.atoms += int(self.feed.plan.atoms[window.low : last].sum())
            self.wall, self.cpu = (clock() - start for clock, start in zip(clocks, began))
            yield window
            asked = time.perf_counter()
        self.stepper.release()

    @property
    def loss(self) -> float:
        return float(self.stepper.stats[0] / self.stepper.stats[3])


def stream_of(pack: Pack, args: argparse.Namespace, capacity: float, atoms: float) -> Stream:
    """``atoms`` atoms of a pack, of which ``capacity`` may be on the device at once."""
    device = torch.device(args.device)
    config = size(args.architecture, args.size, depth=args.depth, **data_options(pack))
    options = TrainOptions(batch_atoms=args.batch_atoms, precision=args.precision)
    indices = training_set(pack)
    plan = plan_for(pack.sizes(indices), atoms, 0, options)
    feed = Feed(
        pack,
        indices,
        plan,
        capacity=capacity,
        device=device,
        dtype=torch.float32,
        **shard_options(config),
    )
    return Stream(feed, plan, config, options)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architecture", default="mpnn")
    parser.add_argument("--size", type=float, default=1e6)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--batch-atoms", type=int, default=7900)
    parser.add_argument("--precision", default="tf32" if torch.cuda.is_available() else "float32")


def compare(pack: Pack, args: argparse.Namespace) -> None:
    tf32 = args.precision in ("tf32", "bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    print(
        f"{args.architecture} {args.size:g}, {args.device}, {args.batch_atoms} atoms a step;",
        end="",
    )
    held = int(pack.sizes(training_set(pack)).sum())
    print(f" {held:,} atoms in training, {args.capacity:,.0f} of them on the device when streamed")
    print(f"{'':<10} {'atoms/s':>10} {'CPU':>10} {'windows':>8} {'captures':>9}", end="")
    print(f" {'waited s':>9} {'placed s':>9} {'loss':>12}")
    rates = []
    for name, capacity in (("in memory", np.inf), ("streamed", args.capacity)):
        with on_stream(torch.cuda.Stream() if args.device != "cpu" else None):
            stream = stream_of(pack, args, capacity, args.trained or held)
            for _ in stream.run():
                pass
        rates.append((stream.atoms / stream.wall, stream.atoms / stream.cpu))
        print(f"{name:<10} {rates[-1][0]:>10,.0f} {rates[-1][1]:>10,.0f}", end="")
        print(f" {stream.windows:>8} {stream.captures:>9} {stream.waited:>9.2f}", end="")
        print(f" {stream.placed:>9.2f} {stream.loss:>12.7f}", flush=True)
        del stream
        if args.device != "cpu":
            torch.cuda.empty_cache()
    (wall, cpu), (streamed, streamed_cpu) = rates
    print(f"streamed / in memory: {streamed / wall:.3f} by the clock, {streamed_cpu / cpu:.3f} CPU")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model(parser)
    parser.add_argument("--atoms", type=float, default=2e7, help="of the pack that is made")
    parser.add_argument("--trained", type=float, help="atoms to train on (default: an epoch)")
    parser.add_argument("--capacity", type=float, default=8e6)
    parser.add_argument("--pack", type=Path)
    args = parser.parse_args()
    if args.pack:
        compare(Pack(args.pack), args)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(make_pack(Path(folder) / "pack", int(args.atoms / 21.2), most=255), args)


if __name__ == "__main__":
    main()
