"""Eager training steps of packages in several processes on one card: what do they give together?

    python benchmarks/side_by_side.py [--processes 12] [--columns nequip mace ...]

Every process has a column, takes steps alone for a second, then all take steps at once. The
speed-up is the sum over the processes of the time of a step alone over that beside the others.
Processes share a card in turns of a millisecond or two, in which kernels of one run. All cards that
are there are measured at once; they share nothing but cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("nequip", "mace", "pet", "fairchem_esen", "orb", "allegro", "tensornet", "escaip")
DIRECT = ("pet", "orb", "escaip")


def worker(args: argparse.Namespace) -> None:
    """Steps of one column: as many seconds of them as each line of standard input says."""
    import warnings

    import numpy as np
    import torch

    from forcelaw.data.pack import Pack
    from forcelaw.data.schedule import Feed
    from forcelaw.models import build
    from forcelaw.models.sizing import size
    from forcelaw.training.config import TrainOptions
    from forcelaw.training.optimizer import ScheduleFreeAdamW
    from forcelaw.training.spec import data_options, plan_for, training_set
    from forcelaw.training.step import EagerStep, new_stats

    warnings.filterwarnings("ignore")
    name = args.worker
    device, pack = torch.device(args.device), Pack(args.pack)
    forces = "direct" if name in DIRECT else "conservative"
    given = {"kernels": False} if name == "flashcart" else {}
    column = f"forcelaw.adapters.{name}:ARCHITECTURE"
    config = size(column, args.size, forces=forces, **given, **data_options(pack))
    model = build(config, 0).to(device)
    options = TrainOptions(batch_molecules=args.molecules)
    indices = training_set(pack)
    natoms = np.diff(pack.offsets)[indices]
    schedule = plan_for(natoms, 12 * args.molecules * natoms.mean(), 0, options)
    torch.backends.cuda.matmul.allow_tf32 = True
    optimizer = ScheduleFreeAdamW(model, lr=1e-4, steps=schedule.steps, warmup=10)
    shape: dict[str, Any] = {"cutoff": config.cutoff, "elements": config.elements}
    feed = Feed(pack, indices, schedule, device=device, dtype=torch.float32, **shape)
    step = EagerStep(model, optimizer, options, 0, new_stats(device), model)
    step.begin(schedule, feed.whole())

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def steps(seconds: float) -> float:
        """Seconds of a step."""
        began, done = time.perf_counter(), 0
        while done < 2 or time.perf_counter() - began < seconds:
            step.run(done % schedule.steps)
            wait()
            done += 1
        return (time.perf_counter() - began) / done

    steps(0.0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(steps(float(line)), flush=True)


class Card:
    """The processes of one card."""

    def __init__(self, args: argparse.Namespace, number: int):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "CUDA_VISIBLE_DEVICES": str(number),
            "OMP_NUM_THREADS": "1",
            "COVERAGE_RUN": "1",
        }
        self.names = [args.columns[k % len(args.columns)] for k in range(args.processes)]
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--worker"]
        self.processes = [
            subprocess.Popen(
                [*command, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            for name in self.names
        ]
        self.alone: list[float] = []
        self.together: list[float] = []

    def ready(self, until: float) -> None:
        """Wait for all; those that end, or do not come in time, are left out."""
        good = []
        for name, process in zip(self.names, self.processes):
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            line = ""
            while time.monotonic() < until and process.poll() is None and "ready" not in line:
                line = process.stdout.readline() or ""  # packages print, too
                time.sleep(0.02)
            os.set_blocking(process.stdout.fileno(), True)
            if "ready" in line:
                good.append((name, process))
            else:
                print(f"# left out: {name}", flush=True)
                process.kill()
        self.names, self.processes = [n for n, _ in good], [p for _, p in good]

    def ask(self, process: subprocess.Popen[str], seconds: float) -> None:
        assert process.stdin
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()

    def answer(self, process: subprocess.Popen[str]) -> float:
        assert process.stdout
        return float(process.stdout.readline() or "nan")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def speed_up(self) -> float:
        found = [a / b for a, b in zip(self.alone, self.together) if a == a and b == b]
        return sum(found)


def main() -> int:
    args = arguments()
    if args.worker:
        worker(args)
        return 0
    import torch

    count = torch.cuda.device_count() if args.device == "cuda" else 1
    print(f"# {' '.join(sys.argv)}: {count} cards", flush=True)
    began, cards = time.monotonic(), []
    try:
        for k in range(count):
            cards.append(Card(args, k))
        for card in cards:
            card.ready(began + args.start)
        print(f"# {time.monotonic() - began:.0f} s: all have started", flush=True)
        for j in range(args.processes):  # one of each card at a time
            some = [card for card in cards if j < len(card.processes)]
            for card in some:
                card.ask(card.processes[j], args.alone)
            for card in some:
                card.alone.append(card.answer(card.processes[j]))
        for seconds in (0.3 * args.seconds, args.seconds):  # what counts are the later ones
            for card in cards:
                for process in card.processes:
                    card.ask(process, seconds)
            for card in cards:
                card.together = [card.answer(process) for process in card.processes]
        for k, card in enumerate(cards):
            for name, a, b in zip(card.names, card.alone, card.together):
                print(f"card {k}  {name:<14}{1e3 * a:8.1f} ms alone{1e3 * b:9.1f} beside")
            print(
                f"card {k}  {len(card.processes)} processes are {card.speed_up():.2f} times as fast"
                " as one"
            )
    finally:
        for card in cards:
            card.close()
    print(f"# {time.monotonic() - began:.0f} s", flush=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS))
    parser.add_argument("--processes", type=int, default=12, help="a card")
    parser.add_argument("--size", type=float, default=1e5, help="parameters, about")
    parser.add_argument("--molecules", type=int, default=64, help="a step")
    parser.add_argument("--start", type=float, default=60.0, help="seconds to start in, at most")
    parser.add_argument("--alone", type=float, default=1.0, help="seconds of steps alone")
    parser.add_argument("--seconds", type=float, default=8.0, help="of steps beside others")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pack", default=str(ROOT / "src" / "forcelaw" / "data" / "sample"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
