"""Is what was fitted an exponent, or only a trend over the range that was measured?

Eight checks, each at 1% so that a sound study is seldom called unsound. One that fails turns the
verdict into "a trend, not an exponent", with its reason and the runs that would mend it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..decide.allocation import compute_optimal
from ..fit.fit import fit
from ..fit.floor_profile import Profile, profile_floor
from ..fit.result import FitResult, clean
from ..frontier.frontier import Frontier, frontier
from .check import Check
from .consistency import consistency
from .curvature import curvature
from .holdout import holdout
from .lack_of_fit import lack_of_fit
from .local_exponents import local_exponents
from .stability import stability

EXPONENT, TREND, REFUSED = "an exponent", "a trend, not an exponent", "refused"
DECADES = 1.5  # of compute below which nobody should speak of an exponent


@dataclass
class Diagnosis:
    """verdict: "an exponent", "a trend, not an exponent" or "refused" (the surface could not be
    fitted)."""

    verdict: str
    group: str
    checks: list[Check]
    surface: FitResult
    frontier: Frontier | None = None
    profile: Profile | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    @property
    def reasons(self) -> list[str]:
        """Why it is a trend; empty for an exponent."""
        return [f"{check.name}: {check.detail}" for check in self.failed]

    @property
    def remedies(self) -> list[str]:
        """What would mend it."""
        return list(dict.fromkeys(check.remedy for check in self.failed if check.remedy))

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "status": "refused" if self.verdict == REFUSED else "ok",
                "verdict": self.verdict,
                "group": self.group,
                "reasons": self.reasons,
                "remedies": self.remedies,
                "checks": [vars(check) for check in self.checks],
                "surface": self.surface.to_dict(),
                "frontier": self.frontier.to_dict() if self.frontier else None,
                "profile": self.profile.to_dict() if self.profile else None,
                "notes": self.notes,
            }
        )

    def summary(self) -> str:
        lines = [f"{self.group + ': ' if self.group else ''}{self.verdict}"]
        marks = {True: "passed", False: "FAILED", None: "unknown"}
        lines += [
            f"  {marks[check.passed]:8} {check.name:19} {check.detail}" for check in self.checks
        ]
        lines += [f"  mend it: {remedy}" for remedy in self.remedies]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def diagnose(
    runs: Runs,
    law: str = "surface",
    *,
    x: str = "c",
    level: float = 0.95,
    objective: str = "huber",
    delta: float | None = None,
    cluster: str | None = "run",
    floor: Any = None,
    weights: Any = None,
) -> Diagnosis:
    """Diagnose one architecture. ``x``: the cost of the frontier, "c" FLOPs or "h" hours (without
    it, N D is taken)."""
    if len(runs.group_names) > 1:
        raise FitError(
            f"a diagnosis is of one architecture; the table has {', '.join(runs.group_names)}",
            where="diagnose",
            remedy="select one: --group NAME",
        )
    settings = {
        "objective": objective,
        "delta": delta,
        "cluster": cluster,
        "level": level,
        "weights": weights,
    }
    result = fit(runs, law, floor=floor, interval="jackknife", **settings)
    group = runs.group_names[0]
    if not result.ok or result.replicates is None:
        return Diagnosis(
            REFUSED, group, [Check("fit", False, result.message or result.status)], result
        )
    checks = [_range(runs, x)]
    notes = []
    if result.n_runs < 8:
        notes.append(f"only {result.n_runs} runs: the checks have little power to fail")
    found = None
    if x in runs and "n" in runs:
        found = frontier(runs, x, level=level)
        checks += [_edge(found), local_exponents(found, level)]
        if "alpha" in result.parameters:
            checks.append(consistency(found, compute_optimal(result, _cost(runs, x))))
    quantity = "gamma" if "gamma" in result.derived else result.law.shapes[0]
    checks.append(curvature(runs, result))
    checks += stability(runs, result, quantity, settings)
    checks += [holdout(runs, result, x, settings), lack_of_fit(runs, result)]
    profile = (
        profile_floor(runs, result, cluster=cluster, weights=weights)
        if result.law.free_floor
        else None
    )
    if profile is not None and not profile.excludes_zero:
        notes.append(
            f"the floor is not told from zero (p = {profile.p_zero:.2f}): gamma is"
            f" {profile.gamma_zero:.3f} with floor 0 and {profile.gamma_high:.3f} with the largest"
            " floor the data allow"
        )
    verdict = TREND if any(check.passed is False for check in checks) else EXPONENT
    return Diagnosis(verdict, group, checks, result, found, profile, notes)


def _cost(runs: Runs, x: str) -> Any:
    from ..decide.allocation import Cost

    return Cost.measured(runs, x)


def _range(runs: Runs, x: str) -> Check:
    clock = runs[x] if x in runs else runs["n"] * runs["d"]
    decades = float(np.log10(clock.max() / clock.min()))
    sizes = float(np.log10(runs["n"].max() / runs["n"].min())) if "n" in runs else 0.0
    data = {"decades": decades, "decades_n": sizes}
    if decades < DECADES:
        return Check(
            "range",
            False,
            f"{decades:.1f} decades of {x}",
            f"extend the study to {DECADES} decades or more: up to "
            f"{x} = {clock.min() * 10**DECADES:.2g}",
            None,
            data,
        )
    return Check("range", True, f"{decades:.1f} decades of {x}, {sizes:.1f} of N", "", None, data)


def _edge(found: Frontier) -> Check:
    best = found.optimum
    if found.method != "tangents":
        return Check(
            "optimum inside grid",
            False,
            found.message,
            "add sizes so that at least five touch the frontier",
        )
    if best.edge:
        sizes = np.asarray(found.points["n"])
        largest = float(sizes[-1])
        return Check(
            "optimum inside grid",
            False,
            best.message,
            f"add sizes beyond those at the ends of the frontier ({sizes.min():.3g} and"
            f" {largest:.3g}), or stop the largest budgets earlier",
        )
    return Check(
        "optimum inside grid", True, "the best size lies inside the grid over most of the range"
    )
