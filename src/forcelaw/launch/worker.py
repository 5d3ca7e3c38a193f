"""A worker: claim a run, train it, finish it, until nothing is left. The same code on a laptop, a GPU box and a cluster.

Workers share nothing but the study directory. Sweeps come first; the grid of an architecture is planned by whichever
worker first finds its sweep complete (planning is deterministic, so several may do it at once).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ForcelawError, StoreError
from ..progress import Progress
from ..store import RunDirectory
from ..study import Planner, Study, find_pack, load

POLL_SECONDS = 1.0


def known_runs(planner: Planner, runs: Path) -> tuple[list[tuple[RunDirectory, float]], bool]:
    """All runs that can be planned now, with their FLOPs, most urgent first; and whether that is the whole study.

    Sweeps first (grids wait for them), then large before small, so that no long run is left for the end.
    """
    found: list[tuple[int, float, RunDirectory]] = []
    complete = True
    for a in planner.study.architectures:
        for spec in planner.sweep(a):
            found.append((0, spec_flops(spec), RunDirectory.create(runs, spec)))
        try:
            lr = planner.learning_rate(a, runs)
        except ForcelawError as error:  # every rate failed: the other architectures go on
            print(f"{planner.label(a)}: {error}", file=sys.stderr)
            continue
        if lr is None:
            complete = False
            continue
        for spec in planner.grid(a, lr):
            found.append((1, spec_flops(spec), RunDirectory.create(runs, spec)))
    found.sort(key=lambda item: (item[0], -item[1], item[2].id))
    return [(run, flops) for _, flops, run in found], complete


def spec_flops(spec: dict[str, Any]) -> float:
    """Planned training FLOPs of a run."""
    atoms = spec["steps"] * spec["batch_atoms"]
    degree = spec["model"]["mean_degree"]
    return 3.0 * atoms * (degree * spec["flops_per_edge"] + spec["flops_per_atom"])


def work(study: Study, out: Path, study_directory: Path, *, device: str, compile_model: bool = False,
         stop: Callable[[], bool] = lambda: False, show: bool = True) -> None:
    """Train runs of the study until none is left that this worker could take."""
    from ..train.loop import train

    pack = find_pack(study, study_directory)
    planner = Planner(study, pack)
    runs = out / "runs"
    while not stop():
        todo, complete = known_runs(planner, runs)
        open_runs = [run for run, _ in todo if not run.done]
        if complete and not open_runs:
            return
        run = next((run for run in open_runs if run.claim()), None)
        if run is None:
            time.sleep(POLL_SECONDS)  # others hold all that is open
            continue
        try:
            if run.done:  # finished by another between the listing and the claim
                continue
            spec = run.spec()
            progress = Progress(f"{spec['label']} N={spec['n']:,} seed {spec['seed']} lr {spec['lr']:g}", spec["steps"],
                                unit="steps") if show else None
            train(run, pack, device=device, compile_model=compile_model, stop=stop, progress=progress)
            if progress:
                progress.close()
        except StoreError as error:
            print(f"run {run.id}: {error}", file=sys.stderr)  # lost the claim or damaged: leave it alone
        except Exception as error:  # one bad run must not end the study; it stays in the table
            print(f"run {run.id} failed: {error}", file=sys.stderr)
            run.finish({"status": "failed", "message": f"{type(error).__name__}: {error}"[:2000], "device": device,
                        "traceback": traceback.format_exc()[-4000:]})
        finally:
            run.release()


def main(argv: list[str] | None = None) -> int:
    """Entry point of a worker process; thread counts are in the environment already, before torch is imported."""
    parser = argparse.ArgumentParser(prog="python -m forcelaw.launch.worker")
    parser.add_argument("study", help="study file")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--parent", type=int, default=0, help="leave when this process is gone")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    asked = {"stop": False}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.update(stop=True))

    def stop() -> bool:
        return asked["stop"] or (args.parent > 0 and os.getppid() != args.parent)

    work(load(args.study), Path(args.out), Path(args.study).parent, device=args.device, compile_model=args.compile,
         stop=stop, show=not args.quiet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
