"""Which runs of a study there are, and in which order they are trained."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from ..errors import ForcelawError
from ..store.runs import RunDirectory, planned_flops
from .config import Planner


def known_runs(
    planner: Planner, runs: Path, hold: float | None = None
) -> tuple[list[tuple[RunDirectory, float]], bool]:
    """All runs that can be planned now, with their FLOPs, most urgent first; and whether that is
    the whole study.

    By :meth:`Planner.urgency` (stages, sweeps before grids), then large before small, so that no
    long run is left for the end. hold: runs of a grid that plan at least this share of its largest
    compute are made known (spec.json) but not listed: a forecast comes first.
    """
    found: list[tuple[tuple[int, int], float, RunDirectory]] = []
    complete = True
    for a in planner.study.architectures:
        for spec in planner.swept(a, runs):
            found.append((planner.urgency(a, spec), planned_flops(spec), planner.place(runs, spec)))
        try:
            lr = planner.learning_rate(a, runs)
        except ForcelawError as error:  # every rate failed: the other architectures go on
            print(f"{planner.label(a)}: {error}", file=sys.stderr)
            continue
        if lr is None:
            complete = False
            continue
        grid = [
            (planner.urgency(a, spec), planned_flops(spec), planner.place(runs, spec))
            for spec in planner.grid(a, lr)
        ]
        limit = hold * max(flops for _, flops, _ in grid) if hold else math.inf
        found += [item for item in grid if item[1] < limit]
    found.sort(key=lambda item: (item[0], -item[1], item[2].id))
    return [(run, flops) for _, flops, run in found], complete
