"""Our training step compared with fairchem-core's own models: the same batches, direct forces,
loss, precision and N, on one card.

    python benchmarks/peers.py --fairchem2 .whl-fc2 --fairchem1 .whl-fc1   (GPU, 4 minutes)
    python benchmarks/peers.py --device cpu --sizes small --fairchem2 .whl-fc2 --fairchem1 .whl-fc1

--fairchem2 and --fairchem1 are folders with the wheel of fairchem-core 2.24.0 and 1.10.0, or with
it unpacked (pip install --no-deps --target). The two cannot be imported together, so each model of
each side runs in a process of its own. On a GPU the processes of a phase start together and a lock
keeps their work apart: many may build and compile at a time, but only one measures, and nothing
else runs then. Each row prints when it is measured; the table at the end has the ratios.

What a step is. Ours: forcelaw.training.step, everything included (batch assembly, optimiser,
clipping), with and without torch.compile, the better of which is compared. The peer's: forward, the
same loss, backward, torch.optim.AdamW(fused=True); its batches lie on the device, with our edges,
before the clock starts. The peer has random weights and the sizes of ours (depth, radial and
angular basis, cutoff, no cap on neighbours), and is spared:

- the search for edges; GemNet-OC also the triplet and quadruplet indices, which are made once per
batch ("indices each step"
  is the row where the model makes them itself, as it does in training);
- what every use of a scale factor does besides multiplying: reading it back from the device to see
whether it is fitted, and
  a log line that torch.compile stops at.

torch_scatter and torch_sparse, which 1.10.0 needs, have no wheels for this torch: the few functions
used are written out here with index_add, sort and gather; packages that the models never call
(hydra, wandb, ase, ...) are stubs. The peer is compiled with torch.compile(dynamic=True), since the
shapes of its batches differ; that takes minutes (a hundred seconds for PaiNN on a lent machine), so
"one shape" compiles with fixed shapes and repeats one batch, which no training could do and spares
the peer more. No code of fairchem is in this repository.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
from peer_models import PEERS, fit_scales, import_site, with_indices  # in this directory
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
MARK = "@row "


@dataclass(frozen=True)
class Case:
    """A comparison: our model and the peer's, both of about N parameters. ``small`` holds the sizes
    for a test on a CPU."""

    key: str
    ours: str
    site: str  # the worker of the peer: "fairchem2" or "fairchem1"
    peer: str  # builder in PEERS
    target: float
    depth: int
    sizes: dict[str, Any]
    small_target: float
    small: dict[str, Any]
    variants: tuple[str, ...] = ("compiled", "eager", "one shape")
    phase: int = 1


# in order of importance; the peer's sizes are chosen by hand so that N agrees with ours within 5%
CASES = [
    Case("eSEN L2 0.9M", "esen", "fairchem2", "esen2", 0.9e6, 4, {"width": 48}, 2e4, {"width": 8}),
    Case("PaiNN 1M", "painn", "fairchem1", "painn", 1e6, 4, {"width": 136}, 2e4, {"width": 22}),
    Case(
        "GemNet-OC 2.6M",
        "gemnet_oc",
        "fairchem1",
        "gemnet",
        2.6e6,
        4,
        {"width": 64},
        3e4,
        {"width": 8},
        ("eager", "indices each step"),
    ),
    Case(
        "eSEN L2 6.3M", "esen", "fairchem2", "esen2", 6.26e6, 4, {"width": 128}, 3e4, {"width": 10}
    ),
    Case(
        "GemNet-OC published",
        "gemnet_oc",
        "fairchem1",
        "gemnet",
        2.6e6,
        4,
        {"width": 64, "published": True},
        3e4,
        {"width": 16, "published": True},
        ("eager",),
        2,
    ),
    Case(
        "GemNet-OC compiled",
        "gemnet_oc",
        "fairchem1",
        "gemnet",
        2.6e6,
        4,
        {"width": 64},
        3e4,
        {"width": 8},
        ("compiled",),
        2,
    ),
    Case(
        "eSEN L2 6.3M, 1.10",
        "esen",
        "fairchem1",
        "esen1",
        6.26e6,
        4,
        {"width": 128},
        3e4,
        {"width": 10},
        phase=2,
    ),
]
ATOMS = {"full": (8192, 1400), "small": (200, 60)}
BATCHES = {"full": {8192: 8, 1400: 40}, "small": {200: 2, 60: 3}}


# ------------------------------------------------------------------------------------------ batches
def stream(pack: Any, atoms: int, count: int, device: torch.device) -> tuple[Any, Any]:
    """Plan and window of the first ``count`` batches of about ``atoms`` atoms: the same ones for
    every side."""
    from forcelaw.data.schedule import Feed
    from forcelaw.training.config import TrainOptions
    from forcelaw.training.spec import data_options, plan_for, training_set

    indices, options = training_set(pack), TrainOptions(batch_atoms=atoms)
    natoms = np.diff(pack.offsets)[indices]
    total = float(plan_for(natoms, count * atoms, 0, options).atoms[:count].sum())
    schedule = plan_for(natoms, total, 0, options)
    data = data_options(pack)
    feed = Feed(
        pack,
        indices,
        schedule,
        cutoff=data["cutoff"],
        elements=data["elements"],
        device=device,
        dtype=torch.float32,
    )
    return schedule, feed.whole()


def peer_batches(
    pack: Any, atoms: int, count: int, device: torch.device
) -> tuple[list[tuple[dict[str, Tensor], Any]], int, int]:
    """Inputs of the peer with the targets of the loss, for each batch; atoms and edges in all of
    them."""
    from forcelaw.training.spec import data_options

    schedule, window = stream(pack, atoms, count, device)
    numbers = torch.tensor(data_options(pack)["elements"], device=device)
    out, seen, edges = [], 0, 0
    for k in range(schedule.steps):
        rows = window.rows(schedule, k)
        n, e = int(schedule.atoms[k]), int(window.shard.host_nedges[rows].sum())
        graph, target = window.shard.batch(torch.from_numpy(rows).to(device), n, e)
        g = len(rows)
        nedges = torch.from_numpy(window.shard.host_nedges[rows]).to(device)
        z = numbers[graph.species]
        zeros = torch.zeros(g, dtype=torch.long, device=device)
        out.append(
            (
                {
                    "pos": graph.pos,
                    "atomic_numbers": z,
                    "atomic_numbers_full": z,
                    "batch": graph.batch,
                    "batch_full": graph.batch,
                    "natoms": graph.natoms,
                    "nedges": nedges,
                    "edge_index": torch.stack([graph.sender, graph.receiver]),
                    "cell": torch.zeros(g, 3, 3, device=device),
                    "cell_offsets": torch.zeros(e, 3, device=device),
                    "charge": zeros,
                    "spin": zeros,
                    "tags": torch.full_like(z, 2),
                },
                target,
            )
        )
        seen, edges = seen + n, edges + e
    return out, seen, edges


def repeated(
    batch: tuple[dict[str, Tensor], Any], count: int = 4
) -> tuple[list[tuple[dict[str, Tensor], Any]], int, int]:
    """One batch several times; atoms and edges in all of them."""
    inputs, _ = batch
    return [batch] * count, count * len(inputs["pos"]), count * inputs["edge_index"].shape[1]


# ---------------------------------------------------------------------------------------- measuring
class Turns:
    """Who may use the machine: any number prepare at a time, one measures alone (a file lock,
    shared or exclusive)."""

    def __init__(self, path: str):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)

    @contextlib.contextmanager
    def _hold(self, kind: int) -> Iterator[None]:
        time.sleep(0.05)  # lets whoever waits go first
        fcntl.flock(self.file, kind)
        try:
            yield
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def prepare(self) -> contextlib.AbstractContextManager[None]:
        return self._hold(fcntl.LOCK_SH)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        return self._hold(fcntl.LOCK_EX)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def clean(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def clock(block: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Median time of a block of steps, after one that does not count: for ``seconds``, and three
    times if a block is short."""

    def once() -> float:
        synchronise(device)
        began = time.perf_counter()
        block()
        synchronise(device)
        return time.perf_counter() - began

    first = once()
    times, until = [once()], time.perf_counter() + seconds
    while time.perf_counter() < until or (len(times) < 3 and first < 1.5):
        times.append(once())
    return statistics.median(times)


def emit(**row: Any) -> None:
    print(MARK + json.dumps(row), flush=True)


def peak(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")


def refused(error: Exception) -> str:
    return (
        "out of memory"
        if "out of memory" in str(error)
        else f"{type(error).__name__}: {str(error)[:200]}"
    )


def run_peer(args: argparse.Namespace, case: Case, device: torch.device, turns: Turns) -> None:
    """All rows of one peer."""
    from forcelaw.data.pack import Pack
    from forcelaw.training.loss import loss_terms

    torch._dynamo.config.capture_scalar_outputs = (
        case.peer != "gemnet"
    )  # fewer breaks; inductor fails on GemNet-OC with it
    torch._dynamo.config.recompile_limit = (
        64  # GemNet-OC: one Dense.forward for layers of many shapes
    )
    small = args.sizes == "small"
    row: dict[str, Any] = {"key": case.key, "side": case.site}
    with contextlib.ExitStack() as preparing:
        preparing.enter_context(turns.prepare())
        import_site(Path(getattr(args, case.site)), case.site)
        torch.manual_seed(0)
        model = (
            PEERS[case.peer](
                **(case.small if small else case.sizes), depth=2 if small else case.depth
            )
            .to(device)
            .train()
        )
        parameters = [p for p in model.parameters() if p.requires_grad]
        row["N"] = sum(p.numel() for p in parameters)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        pack = Pack(Path(args.pack))
        batches = {
            atoms: peer_batches(pack, atoms, BATCHES[args.sizes][atoms], device)
            for atoms in ATOMS[args.sizes]
        }

        fit_scales(model, batches[min(batches)][0][0][0])

        def step(forward: Callable[..., Any], inputs: dict[str, Tensor], target: Any) -> Tensor:
            energy, forces = forward(inputs)
            a, b = loss_terms(energy.to(target.energy), forces.to(target.forces), target)
            loss = a + b
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        for number, variant in enumerate(v for v in case.variants if v in args.variants):
            row["variant"] = variant
            if number:
                preparing.enter_context(turns.prepare())
            began = time.perf_counter()
            cached = case.peer == "gemnet" and variant != "indices each step"
            forward: Callable[..., Any] = model
            largest = max(batches)
            measured = {
                "one shape": {largest: repeated(batches[largest][0][0])},
                "indices each step": {largest: batches[largest]},
            }.get(variant, batches)
            if variant in ("compiled", "one shape"):
                forward = torch.compile(model, dynamic=variant == "compiled")
                try:  # on the smallest batches: little memory, with other processes on the device
                    for inputs, target in measured[min(measured)][0][:3]:
                        step(forward, with_indices(model, inputs) if cached else inputs, target)
                    synchronise(device)
                except Exception as error:
                    emit(**row, atoms=0, error="compile: " + refused(error))
                    torch._dynamo.reset()
                    preparing.close()
                    continue
            row["start"] = time.perf_counter() - began
            clean(device)
            preparing.close()
            for atoms in sorted(measured, reverse=True):
                with turns.alone():
                    measure_peer(
                        args,
                        {**row, "atoms": atoms},
                        model,
                        forward,
                        step,
                        *measured[atoms],
                        cached,
                        device,
                    )
            torch._dynamo.reset()


def measure_peer(
    args: argparse.Namespace,
    row: dict[str, Any],
    model: nn.Module,
    forward: Callable[..., Any],
    step: Callable[..., Tensor],
    data: list[tuple[dict[str, Any], Any]],
    atoms: int,
    edges: int,
    cached: bool,
    device: torch.device,
) -> None:
    """One row: speed and memory over ``data``, which holds that many atoms and edges."""
    cuda = device.type == "cuda"
    try:
        clean(device)
        held = torch.cuda.memory_allocated() if cuda else 0
        if cached:
            data = [(with_indices(model, inputs), target) for inputs, target in data]
            clean(device)
        extra = (torch.cuda.memory_allocated() if cuda else 0) - held
        last = torch.zeros((), device=device)

        def block() -> None:
            nonlocal last
            for inputs, target in data:
                last = step(forward, inputs, target)

        t = clock(block, device, args.seconds)
        # of the indices only those of one batch count: a trainer would hold no more
        memory = peak(device) - extra * (1 - 1 / len(data)) / 2**30
        emit(
            **row,
            atoms_step=atoms / len(data),
            ms=1e3 * t / len(data),
            atoms_s=atoms / t,
            edges_s=edges / t,
            gb=memory,
            finite=bool(torch.isfinite(last)),
        )
    except Exception as error:
        emit(**row, error=refused(error))
    for p in model.parameters():
        p.grad = None
    data = []
    clean(device)


def run_ours(args: argparse.Namespace, case: Case, device: torch.device, turns: Turns) -> None:
    """All rows of our side of one case."""
    from forcelaw.data.pack import Pack
    from forcelaw.models import build
    from forcelaw.models.sizing import size
    from forcelaw.training import loop
    from forcelaw.training.config import TrainOptions
    from forcelaw.training.optimizer import ScheduleFreeAdamW
    from forcelaw.training.spec import data_options
    from forcelaw.training.step import EagerStep, GraphStep, new_stats

    small = args.sizes == "small"
    stepper = GraphStep if device.type == "cuda" else EagerStep
    row: dict[str, Any] = {"key": case.key, "side": "ours"}
    with contextlib.ExitStack() as preparing:
        preparing.enter_context(turns.prepare())
        pack = Pack(Path(args.pack))
        config = size(
            case.ours,
            case.small_target if small else case.target,
            depth=2 if small else case.depth,
            **data_options(pack),
        )
        streams = {
            atoms: stream(pack, atoms, BATCHES[args.sizes][atoms], device)
            for atoms in ATOMS[args.sizes]
        }
        longest = max(schedule.steps for schedule, _ in streams.values())
        wanted = {"no": ["plain"], "yes": ["compiled"], "both": ["compiled", "plain"]}[
            args.ours_compile
        ]
        for number, variant in enumerate(wanted):
            row["variant"] = variant
            if number:
                preparing.enter_context(turns.prepare())
            began = time.perf_counter()
            try:
                model = build(config, 0).to(device)
                row["N"] = model.n_parameters()
                optimizer = ScheduleFreeAdamW(model, lr=1e-4, steps=longest, warmup=1)
                forward = (
                    getattr(loop, "compiled", torch.compile)(model)
                    if variant == "compiled"
                    else model
                )

                def begin(
                    atoms: int,
                    model: Any = model,
                    optimizer: Any = optimizer,
                    forward: Any = forward,
                ) -> Any:
                    options = TrainOptions(
                        batch_atoms=atoms, precision="tf32" if device.type == "cuda" else "float32"
                    )
                    step = stepper(model, optimizer, options, 0, new_stats(device), forward)
                    step.begin(*streams[atoms])
                    step.run(0)
                    synchronise(device)
                    return step

                getattr(begin(min(streams)), "release", lambda: None)()  # compiles
                row["start"] = time.perf_counter() - began
                clean(device)
                preparing.close()
                for atoms in sorted(streams, reverse=True):
                    schedule, window = streams[atoms]
                    with turns.alone():
                        clean(device)
                        step = begin(atoms)
                        seen, edges = (
                            int(schedule.atoms.sum()),
                            int(window.shard.host_nedges[window.local].sum()),
                        )

                        def block(step: Any = step, count: int = schedule.steps) -> None:
                            for k in range(count):
                                step.run(k)

                        t = clock(block, device, args.seconds)
                        emit(
                            **row,
                            atoms=atoms,
                            atoms_step=seen / schedule.steps,
                            ms=1e3 * t / schedule.steps,
                            atoms_s=seen / t,
                            edges_s=edges / t,
                            gb=peak(device),
                            finite=bool(torch.isfinite(step.stats[0])),
                        )
                        getattr(step, "release", lambda: None)()
                        step = block = None
                        clean(device)
            except Exception as error:
                emit(**row, atoms=0, error=refused(error))
            preparing.close()
            model = optimizer = forward = begin = None
            clean(device)
            torch._dynamo.reset()


def work(args: argparse.Namespace) -> int:
    """One model of one side, in a process of its own."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device, turns = torch.device(args.device), Turns(args.lock)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    side, _, key = args.worker.partition(":")
    case = next(c for c in CASES if c.key == key)
    try:
        (run_ours if side == "ours" else run_peer)(args, case, device, turns)
    except Exception as error:
        emit(key=key, side=side, variant="all", atoms=0, error=refused(error))
    return 0


# ---------------------------------------------------------------------------------------- the table
HEAD = (
    f"{'case':<20}{'side':<11}{'variant':<19}{'N':>10}{'atoms/step':>11}{'ms/step':>9}{'atoms/s':>10}{'edges/s':>10}"
    f"{'GiB':>8}{'start s':>8}{'  speed ours/peer':>18}{'memory':>8}"
)


def best_ours(rows: list[dict[str, Any]], case: Case, atoms: int) -> dict[str, Any] | None:
    same = {c.key for c in CASES if (c.ours, c.target) == (case.ours, case.target)}
    found = [
        r
        for r in rows
        if r["side"] == "ours" and r["key"] in same and r["atoms"] == atoms and "error" not in r
    ]
    return max(found, key=lambda r: r["atoms_s"], default=None)


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = f"{row['key']:<20}{row['side']:<11}{row['variant']:<19}"
    if "error" in row:
        return f"{head}{row['atoms'] or '':>10}  {row['error']}"
    text = (
        f"{head}{row['N']:>10,}{row['atoms_step']:>11.0f}{row['ms']:>9.2f}"
        f"{row['atoms_s'] / 1e3:>9.1f}k"
        f"{row['edges_s'] / 1e6:>9.3f}M{row['gb']:>8.2f}{row['start']:>8.1f}"
    )
    if row["side"] != "ours":
        mine = best_ours(rows, next(c for c in CASES if c.key == row["key"]), row["atoms"])
        if mine:
            text += f"{mine['atoms_s'] / row['atoms_s']:>18.2f}{mine['gb'] / row['gb']:>8.2f}"
            if abs(mine["N"] / row["N"] - 1) > 0.05:
                text += f"  N differs by {100 * (mine['N'] / row['N'] - 1):+.0f}%"
    return text + ("" if row["finite"] else "  (non-finite loss)")


def chosen(args: argparse.Namespace) -> list[Case]:
    return [
        c
        for c in CASES
        if not args.cases or any(word.lower() in c.key.lower() for word in args.cases)
    ]


def phases(args: argparse.Namespace) -> list[list[str]]:
    """Workers of the first and of the second phase, as side:case; each of our models once."""
    out: list[list[str]] = [[], []]
    done = set()
    for case in chosen(args):
        if (case.ours, case.target) not in done:
            out[case.phase - 1].append(f"ours:{case.key}")
            done.add((case.ours, case.target))
        if getattr(args, case.site):
            out[case.phase - 1].append(f"{case.site}:{case.key}")
    return [workers for workers in out if workers]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--fairchem2", help="folder with fairchem-core 2.24.0: the wheel, or unpacked"
    )
    parser.add_argument(
        "--fairchem1", help="folder with fairchem-core 1.10.0: the wheel, or unpacked"
    )
    parser.add_argument("--pack", default=str(ROOT / "src" / "forcelaw" / "data" / "sample"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--sizes",
        choices=["full", "small"],
        default="full",
        help="small: seconds on a CPU, for testing",
    )
    parser.add_argument(
        "--cases",
        nargs="*",
        default=[],
        help=f"parts of names; all: {', '.join(c.key for c in CASES)}",
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        default=["compiled", "eager", "indices each step"],
        help="of the peers",
    )
    parser.add_argument(
        "--ours-compile",
        choices=["no", "yes", "both"],
        default="both",
        help="the better row is compared",
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="timing of each row")
    parser.add_argument(
        "--limit",
        type=float,
        default=270.0,
        help="seconds after which the second phase is left out",
    )
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--lock", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.worker:
        return work(args)
    device = torch.device(args.device)
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    title = (
        f"# {' '.join(sys.argv)}\n# {name}, torch {torch.__version__},"
        f" {'TF32' if device.type == 'cuda' else 'float32'}"
    )
    print(f"{title}\n{HEAD}", flush=True)
    rows: list[dict[str, Any]] = []
    guard, began = threading.Lock(), time.perf_counter()
    with tempfile.NamedTemporaryFile() as lock:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            *sys.argv[1:],
            "--lock",
            lock.name,
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        }

        def follow(worker: str) -> None:
            with subprocess.Popen(
                [*command, "--worker", worker], stdout=subprocess.PIPE, text=True, env=environment
            ) as process:
                for text in process.stdout or ():
                    if text.startswith(MARK):
                        with guard:
                            rows.append(json.loads(text[len(MARK) :]))
                            print(line(rows[-1], rows), flush=True)
            if process.returncode:
                print(f"{worker}: ended with {process.returncode}", flush=True)

        for phase, workers in enumerate(phases(args), start=1):
            if phase > 1 and time.perf_counter() - began > args.limit:
                print(f"left out after {args.limit:.0f} s: {', '.join(workers)}", flush=True)
                continue
            threads = [threading.Thread(target=follow, args=(worker,)) for worker in workers]
            for thread in threads:
                thread.start()
                if device.type == "cpu":
                    thread.join()  # one at a time, or they would take each other's cores
            for thread in threads:
                thread.join()
            print(f"# phase {phase} done after {time.perf_counter() - began:.0f} s", flush=True)
    order = {c.key: k for k, c in enumerate(CASES)}
    rows.sort(
        key=lambda r: (order[r["key"]], -(r["atoms"] or 1e9), r["side"] != "ours", r["variant"])
    )
    table = "\n".join([title, HEAD, *(line(r, rows) for r in rows)])
    print(f"\n{table}", flush=True)
    if args.output:
        args.output.write_text(table + "\n")
    return 0 if any("error" not in r for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
