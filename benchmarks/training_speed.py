"""Training throughput of every architecture, direct forces, real molecules, graph building and
optimiser included.

    python benchmarks/training_speed.py --pack PACK --device cuda --atoms 1400 8192 32768
        --sizes 1e6 --compile no yes

Prints a table as it goes: atoms/s, edges/s, achieved TFLOP/s (closed forms), peak memory, and the
share of a step that batch assembly, loss and optimiser would take alone ("outside"). The step is
the one training uses (forcelaw.training.step): on a GPU one CUDA graph of the whole step, on a CPU
eager. Timing: median over repeats of a block of steps, after warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed
from forcelaw.errors import ForcelawError
from forcelaw.models import ARCHITECTURES, architecture, build
from forcelaw.models.sizing import size
from forcelaw.training import loop
from forcelaw.training import step as step_module
from forcelaw.training.config import TrainOptions
from forcelaw.training.loss import loss_terms
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set
from forcelaw.training.step import CLASSES, EagerStep, GraphStep, Step, new_stats


def parse(model: str) -> tuple[str, dict[str, Any]]:
    """ "esen:lmax=4,untied=true" -> the architecture and its options; an architecture may be an
    import path, "my_package.models:NAME:option=1"."""
    name, _, rest = model.partition(":")
    if "." in name:
        attribute, _, rest = rest.partition(":")
        name = f"{name}:{attribute}"
    return name, {
        key: yaml.safe_load(value)
        for key, value in (item.split("=") for item in rest.split(",") if item)
    }


def outside(window, schedule, optimizer, options: TrainOptions, steps: int) -> float:
    """Seconds of a step without the model: batch assembly, loss and optimiser alone, as one CUDA
    graph."""
    rows = [
        torch.from_numpy(window.rows(schedule, k)).to(window.shard.device)
        for k in range(min(steps, 4))
    ]
    sizes = [
        (
            int(window.shard.host_natoms[r.cpu().numpy()].sum()) + 1,
            int(window.shard.host_nedges[r.cpu().numpy()].sum()),
        )
        for r in rows
    ]
    gradients = [torch.randn_like(p) for p in optimizer.params]

    def body() -> None:
        for r, (n, e) in zip(rows, sizes):
            _, target = window.shard.batch(r, n, e, pad=True)
            energy, forces = torch.zeros_like(target.energy), torch.zeros_like(target.forces)
            sum(loss_terms(energy.requires_grad_(), forces.requires_grad_(), target)).backward()
            optimizer.update(gradients, optimizer.table[0])

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        t = time.perf_counter()
        for _ in range(5):
            graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - t) / 5 / len(rows))
    return statistics.median(times)


def profile(step: Step, steps: range) -> None:
    """Prints the kernels of these steps, largest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for k in steps:
            step.run(k)
        torch.cuda.synchronize()
    rows = sorted(found.key_averages(), key=lambda r: -r.self_device_time_total)
    total = sum(r.self_device_time_total for r in rows)
    print(
        f"  kernels of {len(steps)} steps: {total / 1e3:.2f} ms, {sum(r.count for r in rows)}"
        " launches"
    )
    for r in rows[:40]:
        print(f"  {r.self_device_time_total / 1e3:8.3f} ms {r.count:5d}  {r.key[:150]}", flush=True)


def measure(
    pack: Pack,
    model_name: str,
    target: float,
    atoms: int,
    device: torch.device,
    precision: str,
    compile_mode: str | Callable[[Any], Any],
    seconds: float,
    kernels: bool = False,
    count: int | None = None,
    alone: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    say: Callable[[str], None] = lambda where: None,
    kept: dict[str, Any] | None = None,
) -> dict[str, float]:
    """One row of the table; with ``kernels`` the profile of three steps is printed. compile_mode:
    also what makes the model's forward pass. count: steps, instead of 12 to 60. alone: entered
    before steps are taken, but for those in which a program is compiled. say: told where it is.
    kept: model and program, made by the first call with it and used by all."""
    name, extra = parse(model_name)
    kept = {} if kept is None else kept
    if "model" not in kept:
        say(f"looks for the width of {target:,.0f} parameters")
        kept["config"] = size(name, target, **data_options(pack), **extra)
        say(f"builds width {kept['config'].width}")
        kept["model"] = build(kept["config"], 0).to(device)
    config, model = kept["config"], kept["model"]
    options = TrainOptions(batch_atoms=atoms, precision=precision)
    indices = training_set(pack)
    natoms = np.diff(pack.offsets)[indices]
    steps = count or max(12, min(60, 60 * 8192 // atoms))
    schedule = plan_for(natoms, steps * atoms * 0.95, 0, options)
    optimizer = ScheduleFreeAdamW(model, lr=1e-4, steps=schedule.steps, warmup=10)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision in ("tf32", "bf16")
        torch.cuda.reset_peak_memory_stats()
    window = Feed(
        pack,
        indices,
        schedule,
        cutoff=config.cutoff,
        elements=config.elements,
        device=device,
        dtype=torch.float32,
    ).whole()
    ways = {"no": lambda m: m, "yes": loop.compiled, "static": torch.compile}
    way = ways[compile_mode] if isinstance(compile_mode, str) else compile_mode
    if "forward" not in kept:
        kept["forward"] = way(model)
    forward = kept["forward"]
    captured = device.type == "cuda" and architecture(name).capture
    step_module.CLASSES = (1.0,) if compile_mode == "static" else CLASSES
    turn = contextlib.ExitStack()
    if compile_mode == "no":
        turn.enter_context(alone())
    began = time.perf_counter()
    say(f"takes its first step of {atoms} atoms")
    step = (GraphStep if captured else EagerStep)(
        model, optimizer, options, 0, new_stats(device), forward
    )
    step.begin(schedule, window)
    step.run(0)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start_up = time.perf_counter() - began
    count = schedule.steps
    total_edges = int(window.shard.host_nedges[window.local].sum())

    def block() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        t = time.perf_counter()
        for k in range(count):
            step.run(k)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - t

    if compile_mode != "no":  # a second program may be compiled for other sizes: not with the turn
        say(f"takes its other steps of {atoms} atoms for the first time")
        block()
        start_up = time.perf_counter() - began
        turn.enter_context(alone())
    say(f"measures steps of {atoms} atoms")
    with turn:
        times, until = [block()], time.perf_counter() + seconds
        while time.perf_counter() < until or len(times) < 3:
            times.append(block())
            if (device.type == "cpu" or not captured) and len(times) >= 2:
                break
    t = statistics.median(times[1:] or times)
    seen = int(schedule.atoms.sum())
    flops = architecture(name).flops(config).training(total_edges, seen)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    if kernels:
        profile(step, range(3))
    getattr(step, "release", lambda: None)()
    rest = outside(window, schedule, optimizer, options, count) if captured else float("nan")
    return {
        "outside": 100 * rest / (t / count),
        "N": model.n_parameters(),
        "atoms_step": seen / count,
        "ms": 1e3 * t / count,
        "atoms_s": seen / t,
        "edges_s": total_edges / t,
        "gflop_step": flops / count / 1e9,
        "tflops": flops / t / 1e12,
        "gb": memory,
        "start": start_up,
        "loss_ok": float(torch.isfinite(step.stats[0])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--architectures", nargs="*", default=list(ARCHITECTURES), help="with options: esen:lmax=4"
    )
    parser.add_argument("--sizes", type=float, nargs="*", default=[1e6])
    parser.add_argument("--atoms", type=int, nargs="*", default=[8192])
    parser.add_argument("--precision", nargs="*", default=["tf32"])
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=["no", "yes", "static"],
        default=["no"],
        help="yes: as in training, one program for all sizes; static: one size of step alone",
    )
    parser.add_argument(
        "--profile", action="store_true", help="before each row, the kernels of three steps (GPU)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="timing of each row")
    args = parser.parse_args()
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
    print(
        f"{'model':<24}{'N':>10}{'precision':>10}{'compile':>8}{'atoms/step':>11}{'ms/step':>9}{'atoms/s':>10}{'edges/s':>10}"
        f"{'TFLOP/s':>9}{'peak GiB':>9}{'outside':>9}{'start s':>8}",
        flush=True,
    )
    for target in args.sizes:
        for arch in args.architectures:
            for precision in args.precision:
                for atoms in args.atoms:
                    for compile_mode in args.compile:
                        if (
                            device.type == "cuda"
                        ):  # what the row before held, one that ran out of memory above all
                            torch._dynamo.reset()
                            gc.collect()
                            torch.cuda.empty_cache()
                        try:
                            r = measure(
                                pack,
                                arch,
                                target,
                                atoms,
                                device,
                                precision,
                                compile_mode,
                                args.seconds,
                                args.profile,
                            )
                        except (ForcelawError, RuntimeError) as error:
                            print(
                                f"{arch:<24}{target:>10.0f}{precision:>10}{compile_mode:>8}{atoms:>11}"
                                f"  {str(error)[:70]}",
                                flush=True,
                            )
                            continue
                        print(
                            f"{arch:<24}{r['N']:>10,}{precision:>10}{compile_mode:>8}{r['atoms_step']:>11.0f}"
                            f"{r['ms']:>9.3f}{r['atoms_s'] / 1e3:>9.1f}k{r['edges_s'] / 1e6:>9.2f}M"
                            f"{r['tflops']:>9.2f}"
                            f"{r['gb']:>9.2f}{r['outside']:>8.1f}%{r['start']:>8.1f}"
                            f"{'' if r['loss_ok'] else '  NON-FINITE'}",
                            flush=True,
                        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
