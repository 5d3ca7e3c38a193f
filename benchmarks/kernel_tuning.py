"""Which tile is fastest for each kernel: the numbers in the TILES of src/forcelaw/ops come from
here.

    python benchmarks/kernel_tuning.py --pack PACK                     (GPU, about two minutes)
    TRITON_INTERPRET=1 FORCELAW_OPS=triton python benchmarks/kernel_tuning.py --pack PACK \\
        --atoms 3 --width 8 --repeats 1 --quick                        (a dry run)

Every kernel runs alone on one real batch of 8k atoms at the width of a 1M model, once for each tile
(edges, channels at most, warps; of kernels with products also stages of the pipeline of loads; of
attention queries, keys, warps, stages).
Prints milliseconds of the present tile, of the best one, and bytes it must move over that time;
nothing is changed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from forcelaw import ops
from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack
from forcelaw.graph import GraphBatch
from forcelaw.models.so3 import EdgeFrames
from forcelaw.ops.esen import so2_turn as turn
from forcelaw.ops.esen.so2_message import so2_edges
from forcelaw.training.spec import training_set

# modules: their names in forcelaw.ops are those of functions
gated, vectors, attention = (
    import_module(f"forcelaw.ops.{n}")
    for n in ("gated_message", "painn_message", "edge_attention_kernels")
)

EDGES, CHANNELS, WARPS = (1, 2, 4, 8, 16, 32), (32, 64, 128), (1, 2, 4)
OF_PRODUCTS = (
    (16, 32, 64),
    (16, 32),
    (1, 2, 4),
    (1, 2, 3),
)  # tiles of kernels that multiply on the tensor cores
OF_ATTENTION = ((16, 32), (16, 32), (1, 2), (1, 2))


def batch(pack: Pack, atoms: int, device: torch.device) -> GraphBatch:
    """The first training structures that make up ``atoms`` atoms."""
    indices = training_set(pack)
    count = int(np.searchsorted(np.cumsum(np.diff(pack.offsets)[indices]), atoms)) + 1
    shard = Shard(pack, indices[:count], cutoff=6.0, elements=tuple(pack.elements), device=device)
    return shard.batch(
        torch.arange(count, device=device),
        int(shard.host_natoms.sum()),
        int(shard.host_nedges.sum()),
    )[0]


def kernels_of(
    graph: GraphBatch, width: int, lmax: int
) -> list[tuple[dict, str, Callable[[], object], float]]:
    """(TILES, kernel, call, bytes that it must move) of every kernel."""
    n, e, d = len(graph.pos), len(graph.sender), width
    new = lambda *shape: torch.randn(*shape, device=graph.pos.device)  # noqa: E731
    pair, w, h = new(n, 2 * d), new(e, d), new(n, d)
    x, v, unit, g, weight = new(n, 3 * d), new(n, 3, d), new(e, 3), new(e, 32), new(3 * d, 32)
    shape = turn.Shape(lmax, min(lmax, 2))
    c = max(8, d // 3)  # eSEN is narrower at equal N
    u = torch.rand(e, device=graph.pos.device)
    frames = EdgeFrames(lmax, shape.m).to(graph.pos.device)
    unit = torch.nn.functional.normalize(unit, dim=1)
    edges = so2_edges(graph, unit, new(e), lmax, shape.m, frames, frames.packed)
    y, z = new(n, shape.s, c), new(e, shape.sm * c)
    rad, z2, a = new(e, shape.r * 2 * c), new(e, shape.sm * 2 * c), new(e, (lmax + shape.sm) * c)
    shift, b1, b2 = new(shape.r * 2 * c), new((2 * lmax + 1) * c), new((lmax + 1) * c)
    turned = edges.frames, rad, shift
    gated_there, gated_back = both_ways(lambda p, q: ops.gated_message(p, q, graph, 1.0), pair, w)
    painn_there, painn_back = both_ways(
        lambda v, x, weight: ops.painn_message(h, v, x, g, weight, unit, graph, 1.0), v, x, weight
    )
    heads = max(1, d // 16)  # the PET-like transformer is half as wide, with heads of 8 channels
    attend_there, attend_back = both_ways(
        lambda qkv, bias: attention.Attend.apply(qkv, bias, u, graph.segments[0], heads),
        new(n + e, 24 * heads),
        new(2, 8 * heads),
    )
    word, one_edge = 4.0, 4.0 * e * c
    factors = {
        "turn": 2 * (shape.s + shape.r + shape.sm),
        "turn_one": shape.s + shape.sm,
        "turn_grad": 2 * (2 * shape.r + shape.sm),
        "turn_sum": shape.sm,
        "gate": lmax + 2 * shape.sm,
        "gate_grad": 2 * lmax + 4 * shape.sm,
    }
    calls = {
        "turn": lambda: turn.turn(shape, y, *turned, graph),
        "turn_one": lambda: turn.turn_sum_grad(shape, y, edges, torch.float32),
        "turn_grad": lambda: turn.turn_grad(shape, y, *turned, z2, graph),
        "turn_sum": lambda: turn.turn_sum(shape, z, edges, b2),
        "gate": lambda: turn.gate(shape, a, b1),
        "gate_grad": lambda: turn.gate_grad(shape, a, b1, z),
    }
    return [
        (gated.TILES, "gated", gated_there, word * e * 2 * d),
        (gated.TILES, "gated_grad", gated_back, word * e * 4 * d),
        (vectors.TILES, "vectors", painn_there, word * e * 6 * d),
        (vectors.TILES, "vectors_grad", painn_back, word * e * 4 * d),
        (attention.TILES, "attend", attend_there, word * (n + e) * 32 * heads),
        (attention.TILES, "attend_grad", attend_back, word * (n + e) * 64 * heads),
        *((turn.TILES, name, call, factors[name] * one_edge) for name, call in calls.items()),
    ]


def both_ways(
    function: Callable[..., object], *inputs: torch.Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward pass of an operation, and its backward pass to all inputs."""
    leaves = [t.requires_grad_() for t in inputs]
    made = function(*leaves)
    outputs = made if isinstance(made, tuple) else (made,)
    grads = [torch.ones_like(o) for o in outputs]
    return (
        lambda: function(*leaves),
        lambda: torch.autograd.grad(outputs, leaves, grads, retain_graph=True),
    )


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median over ``repeats``, after a warm-up that compiles."""
    on_gpu = torch.cuda.is_available()
    times = []
    for k in range(repeats + 1):
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(5 if on_gpu else 1):
            call()
        if on_gpu:
            torch.cuda.synchronize()
        if k:
            times.append((time.perf_counter() - began) / (5 if on_gpu else 1))
    return 1e3 * float(np.median(times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--atoms", type=int, default=8192)
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--lmax", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--kernels", nargs="+", help="these alone, by the names of the first column"
    )
    parser.add_argument("--quick", action="store_true", help="three tiles a kernel")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graph = batch(Pack(args.pack), args.atoms, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, interpreted"
    print(
        f"# {' '.join(sys.argv)}\n# {name}, torch {torch.__version__}; {len(graph.pos):,} atoms,"
        f" {len(graph.sender):,} edges, width {args.width}, lmax"
        f" {args.lmax}\n{'kernel':<14}{'present':>16}{'ms':>9}{'best':>16}{'ms':>9}{'TB/s':>7}",
        flush=True,
    )
    for tiles, kernel, call, size in kernels_of(graph, args.width, args.lmax):
        if args.kernels and kernel not in args.kernels:
            continue
        present, found = tiles[kernel], {}
        sizes = (
            OF_ATTENTION
            if tiles is attention.TILES
            else OF_PRODUCTS
            if len(present) == 4
            else (EDGES if present[0] > 1 else (1,), CHANNELS, WARPS)
        )
        choices = list(itertools.product(*sizes))
        for choice in [present, *(choices[:2] if args.quick else choices)]:
            tiles[kernel] = choice
            try:
                found[choice] = milliseconds(call, args.repeats)
            except Exception as error:  # a tile too large for the registers or the shared memory
                print(f"  {kernel} {choice}: {type(error).__name__}", flush=True)
        tiles[kernel] = present
        best = min(found, key=lambda choice: found[choice])
        print(
            f"{kernel:<14}{present!s:>16}{found[present]:>9.3f}{best!s:>16}{found[best]:>9.3f}"
            f"{size / found[best] / 1e9:>7.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
