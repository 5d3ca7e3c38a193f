"""How many launches does a training step take on a GPU? Counted on a CPU, where the kernels are not
run.

    python benchmarks/launches.py [mpnn painn egnn esen gemnet_oc] [--size 1e5] [--molecules 16]

At 16 molecules a step a small model takes about as long as its launches, 1 to 2 microseconds each
inside a CUDA graph. Counts torch's operations that are no views (a matrix product may take two
launches) and the kernels of forcelaw, rotations of the augmentation, batch assembly, loss,
optimizer and books included; "torch alone" is the same step with the kernels switched off. "GB" is
what all of them read and write, each operand counted once: divided by the bandwidth of the card, no
step can be faster than that.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["FORCELAW_OPS"] = "triton"  # before forcelaw is imported

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_speed import parse  # in this directory
from triton.runtime.jit import JITFunction

from forcelaw import ops
from forcelaw.data.pack import Pack
from forcelaw.data.schedule import Feed
from forcelaw.models import build
from forcelaw.models.sizing import size
from forcelaw.study.precompile import pretend
from forcelaw.training.config import TrainOptions
from forcelaw.training.optimizer import ScheduleFreeAdamW
from forcelaw.training.spec import data_options, plan_for, training_set
from forcelaw.training.step import Step, new_stats

ROOT = Path(__file__).resolve().parent.parent
# operations that launch nothing
QUIET = {
    "view",
    "t",
    "transpose",
    "permute",
    "slice",
    "select",
    "unsqueeze",
    "expand",
    "split",
    "detach",
    "alias",
    "_unsafe_view",
    "squeeze",
    "split_with_sizes",
    "unbind",
    "as_strided",
    "lift_fresh",
    "_reshape_alias",
    "unflatten",
    "promote_types",
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "item",
    "_local_scalar_dense",
    "is_same_size",
}


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")
        found = func(*args, **(kwargs or {}))
        nothing_done = name[1] in ("contiguous", "to") and found is args[0]
        if name[0] == "aten" and name[1] not in QUIET and not nothing_done:
            self.seen[name[1]] += 1
            made = found if isinstance(found, tuple | list) else (found,)
            self.bytes += moved(*args, *(kwargs or {}).values(), *made)
        return found


def moved(*operands: Any) -> int:
    """Bytes of tensors, what is expanded counted once and what is given twice too."""
    tensors = {
        (x.data_ptr(), x.shape, x.stride()): x for x in operands if isinstance(x, torch.Tensor)
    }
    return sum(
        x.element_size() * math.prod(n for n, step in zip(x.shape, x.stride()) if step)
        for x in tensors.values()
    )


class Counted(Step):
    """A padded step whose model gets a batch that is one, whatever the assembling kernels have left
    undone."""

    def begin(self, window: Any, rows: torch.Tensor, sizes: tuple[int, int]) -> None:
        self.window, self.rows, self.sizes = window, rows, sizes
        with ops.using("torch"):
            graph, _ = window.shard.batch(rows, *sizes, pad=True)
        # the assembling kernels give it
        ptr = graph.segments[0] if ops.use_triton(graph.pos) else None
        self.graph = replace(graph, ptr=ptr)

    def _predict(self, graph: Any, target: Any) -> Any:
        return super()._predict(self.graph, target)

    def run(self) -> None:
        self._advance(
            self.window, self.rows, self.sizes, True, torch.tensor(0), self.optimizer.table[0]
        )


def count(
    pack: Pack, model_name: str, target: float, molecules: int
) -> tuple[int, collections.Counter[str], int]:
    name, extra = parse(model_name)
    config = size(name, target, **data_options(pack), **extra)
    options, indices = TrainOptions(batch_molecules=molecules, augment=True), training_set(pack)
    plan = plan_for(np.diff(pack.offsets)[indices], 1e5, 0, options)
    window = Feed(
        pack,
        indices,
        plan,
        cutoff=config.cutoff,
        elements=config.elements,
        device=torch.device("cpu"),
        dtype=torch.float32,
    ).whole()
    rows = torch.from_numpy(window.rows(plan, 0))
    atoms, edges = (
        int(c[rows.numpy()].sum()) for c in (window.shard.host_natoms, window.shard.host_nedges)
    )
    model = build(config, 0)
    step = Counted(
        model,
        ScheduleFreeAdamW(model, lr=1e-3, steps=2, warmup=0),
        options,
        0,
        new_stats(torch.device("cpu")),
    )
    step.begin(window, rows, (atoms + 1, edges))
    with Count() as counted:
        step.run()
    return model.n_parameters(), counted.seen, counted.bytes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["mpnn", "painn", "egnn", "esen", "gemnet_oc"])
    parser.add_argument("--pack", type=Path, default=ROOT / "src" / "forcelaw" / "data" / "sample")
    parser.add_argument("--size", type=float, default=1e5)
    parser.add_argument("--molecules", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pretend(90)
    launched: collections.Counter[str] = collections.Counter()
    traffic: list[int] = []

    def launch(self: JITFunction, *operands: Any, **_: Any) -> None:
        launched[self.fn.__name__] += 1
        traffic.append(moved(*operands))

    JITFunction.run = launch
    print(f"# {' '.join(sys.argv)}")
    print(
        f"{'model':<24}{'N':>9}{'kernels':>9}{'torch':>7}{'sum':>6}{'GB':>7}"
        f"{'torch alone':>13}{'GB':>7}   most of torch's"
    )
    for model in args.models:
        with ops.using("torch"):
            _, alone, alone_bytes = count(Pack(args.pack), model, args.size, args.molecules)
        launched.clear()
        traffic.clear()
        n, seen, rest = count(Pack(args.pack), model, args.size, args.molecules)
        own, torchs = launched.total(), seen.total()
        print(
            f"{model:<24}{n:>9,}{own:>9}{torchs:>7}{own + torchs:>6}"
            f"{(rest + sum(traffic)) / 1e9:>7.2f}{alone.total():>13}{alone_bytes / 1e9:>7.2f}   "
            + " ".join(f"{name} {times}" for name, times in seen.most_common(6)),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
