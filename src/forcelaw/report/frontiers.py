"""Frontiers of one architecture as a report shows them: the laws' own, with the lowest loss that
was measured at each compute."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from ..errors import FitError
from ..laws.frontier.curves import envelope as lowest
from ..laws.frontier.frontier import Frontier, frontier
from ..table.columns import ROLES
from ..table.runs import Runs
from .outcome import Outcome, one_line

# what a law reads of a run that counts
COLUMNS = [column.name for role, column in ROLES.items() if role not in ("status", "weight")]
COLUMNS += ["depth", "lr"]  # and what a diagnosis asks about
HOLES = ("u", "c", "h", "step")  # a gap in one of these drops the column, not the rows
HULL = (
    "too few sizes touch the frontier inside their range, so γ is read off its corners, which"
    " biases it"
)
NO_FLOPS = "the table has no FLOPs: --columns c=..., or c=6nd for 6 N D"
Points = list[tuple[float, float]]


def runs_of(frame: pl.DataFrame, burn_in_steps: int) -> Runs:
    """The evaluations of ``frame`` (one architecture or several) after the burn-in.

    Raises FitError where nothing is left. A table without steps has no burn-in to leave out.
    """
    if not len(frame):
        raise FitError("no finished run")
    present = [name for name in COLUMNS if name in frame.columns]
    part = frame.select(name for name in present if frame[name].null_count() < len(frame))
    if "step" in part.columns:
        part = part.filter(pl.col("step").is_null() | (pl.col("step") >= burn_in_steps))
    if not len(part):
        raise FitError(f"no evaluation is left after the burn-in of {burn_in_steps} steps")
    # fits in FLOPs must not suffer from one missing hour
    return Runs.from_frame(part.drop(n for n in HOLES if n in part.columns and part[n].has_nulls()))


@dataclass
class FrontierOutcome(Outcome[Frontier]):
    """A frontier in FLOPs or device-hours. envelope: (x, loss), the lowest of the curves averaged
    over seeds, of whatever was measured, also where no frontier can be fitted."""

    envelope: Points = field(default_factory=list)

    @property
    def message(self) -> str:
        """What the laws said of it; nothing where the trend says the same."""
        return "" if self.trend == HULL else super().message

    @property
    def points(self) -> list[dict[str, Any]]:
        """The corners: x, loss, n, d, run."""
        if self.result is None:
            return []
        return [
            row | {"n": round(row["n"]), "d": round(row["d"]), "run": str(row["run"])}
            for row in self.result.rows()
        ]

    @property
    def decades(self) -> float:
        """Decades of x that the frontier spans."""
        xs = [] if self.result is None else self.result.points["x"]
        return math.log10(max(xs) / min(xs)) if len(xs) > 1 else 0.0

    @property
    def optimum(self) -> Outcome[Any]:
        """Best size and data along the frontier: exponents a and b."""
        if self.result is None:
            return Outcome(None, "no frontier")
        best = self.result.optimum
        found = Outcome(best, "", one_line(best.message) if best.edge else "")
        if found.get("a") is None and found.get("b") is None:
            found.reason = one_line(best.message)
        return found

    def curve(self) -> Points:
        """(x, loss) of the fitted law over the range of the frontier."""
        if not self.ok or self.result is None:
            return []
        pairs = zip(*self.result.curve(), strict=True)
        return [(float(x), float(loss)) for x, loss in pairs if np.isfinite(loss)]

    def loss_at(self, x: float) -> float | None:
        """Lowest loss of any run at compute x, log-log along the envelope; None outside of it."""
        points = self.envelope
        if not points or x < points[0][0] * (1 - 1e-9) or x > points[-1][0] * (1 + 1e-9):
            return None
        for (x0, y0), (x1, y1) in pairwise(points):
            if x <= x1 * (1 + 1e-9):
                share = math.log(x / x0) / math.log(x1 / x0)
                return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
        return points[-1][1]


def frontier_of(
    frame: pl.DataFrame, burn_in_steps: int, x: str, *, quick: bool = False
) -> FrontierOutcome:
    """Frontier of one architecture in FLOPs ("c") or device-hours ("h"). quick: no intervals."""
    if not len(frame):
        return FrontierOutcome(reason="no finished run")
    part = frame.filter(pl.col(x) > 0) if x in frame.columns else frame.head(0)
    if not len(part):
        return FrontierOutcome(reason=NO_FLOPS if x == "c" else "the table has no device-hours")
    try:
        runs = runs_of(part, burn_in_steps)
        return outcome(runs, frontier(runs, x, interval="none" if quick else "jackknife"))
    except FitError as error:
        return FrontierOutcome(reason=one_line(error.what), envelope=_whole_envelope(part, x))


def outcome(runs: Runs, found: Frontier) -> FrontierOutcome:
    """A frontier of the laws with the envelope of its runs. With too few tangents the laws fit the
    hull: its number is shown as a trend."""
    trend = HULL if found.trend else ""
    reason = ""
    if not (found.fit.ok or trend):
        reason = found.fit.reason
    elif len(found.points["x"]) < 2:
        reason = "one point is not a frontier"
    return FrontierOutcome(found, reason, trend, envelope(runs, found.x))


def _whole_envelope(frame: pl.DataFrame, x: str) -> Points:
    """Lowest measured loss without any burn-in: what can be said where nothing can be fitted."""
    try:
        return envelope(runs_of(frame, 0), x)
    except FitError:
        return []


def envelope(runs: Runs, x: str) -> Points:
    """(x, loss) of the lowest curves, from which a loss at equal compute is read."""
    return [(float(a), float(b)) for a, b in zip(*lowest(runs, x), strict=True)]
