"""A worker: claim runs, train them, finish them, until nothing is left. The same code on a laptop,
a GPU box and a cluster.

Workers share nothing but the study directory. Sweeps come first; the grid of an architecture is
planned by whichever worker first finds its sweep complete (planning is deterministic, so several
may do it at once).
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .config import Planner, Study, find_pack, load

# a GPU is filled by several small batches at once (benchmarks/packing.py)
AUTOMATIC_ATOMS = 16_384
AUTOMATIC_RUNS = 16


def headroom(device: str, compiled: bool) -> float:
    """Seconds before the deadline from which nothing new is begun: on a GPU a run is captured
    first, and perhaps compiled, and could then only be put down again."""
    return 0.0 if device != "cuda" else 45.0 if compiled else 12.0


def work(
    study: Study,
    out: Path,
    study_directory: Path,
    *,
    device: str,
    compile_model: bool = False,
    pack: int | None = 1,
    stop: Callable[[], bool] = lambda: False,
    deadline: float = math.inf,
    hold: float | None = None,
    show: bool = True,
) -> None:
    """Train runs of the study, ``pack`` of them side by side, until none is left that this worker could take, ``stop`` says so
    or ``deadline`` (seconds since the epoch) is past; what is under way is then put down with a checkpoint. With None for
    ``pack`` the number follows from the batch (:func:`automatic`). hold: see
    :func:`forcelaw.study.listing.known_runs`."""
    from .concurrent import Lanes

    planner = Planner(study, find_pack(study, study_directory))
    if pack is None:
        pack = automatic(planner, device)
    reserve = headroom(device, compile_model)
    Lanes(
        planner,
        out / "runs",
        device=device,
        pack=pack,
        compile_model=compile_model,
        show=show,
        hold=hold,
        stop=lambda: stop() or time.time() >= deadline,
        closing=lambda: time.time() >= deadline - reserve,
    ).work()


def automatic(planner: Planner, device: str) -> int:
    """Runs side by side that fill a GPU: as many batches as make up AUTOMATIC_ATOMS atoms, at most
    AUTOMATIC_RUNS; 1 on a CPU. The memory of the device may allow fewer, which shows while they run
    (lanes.py)."""
    import numpy as np

    from ..training.spec import training_set

    if device != "cuda":
        return 1
    o, pack = planner.options, planner.pack
    atoms = o.batch_atoms or o.batch_molecules * float(
        np.diff(pack.offsets)[training_set(pack)].mean()
    )
    return max(1, min(AUTOMATIC_RUNS, round(AUTOMATIC_ATOMS / atoms)))


def main(argv: list[str] | None = None) -> int:
    """Entry point of a worker process; thread counts are in the environment already, before torch
    is imported."""
    parser = argparse.ArgumentParser(prog="python -m forcelaw.study.worker")
    parser.add_argument("study", help="study file")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--pack", default="1", help="runs side by side in this process: a number, or auto"
    )
    parser.add_argument("--parent", type=int, default=0, help="leave when this process is gone")
    parser.add_argument(
        "--deadline", type=float, default=math.inf, help="seconds since the epoch at which to stop"
    )
    parser.add_argument(
        "--hold",
        type=float,
        help="share of an architecture's largest compute from which runs are left alone",
    )
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    asked = {"stop": False}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.update(stop=True))

    def stop() -> bool:
        return asked["stop"] or (args.parent > 0 and os.getppid() != args.parent)

    work(
        load(args.study),
        Path(args.out),
        Path(args.study).parent,
        device=args.device,
        compile_model=args.compile,
        pack=None if args.pack == "auto" else int(args.pack),
        stop=stop,
        deadline=args.deadline,
        hold=args.hold,
        show=not args.quiet,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
