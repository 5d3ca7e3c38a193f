"""Every call of the laws that a report makes. A fit that is refused becomes a Fitted with its
reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from ..errors import FitError
from ..table.columns import ROLES
from .results import (
    AllocationResult,
    ArchitectureResult,
    Check,
    Comparison,
    Estimate,
    Fitted,
    FloorProfile,
    FrontierResult,
    Laws,
    Prospect,
    Route,
    Suggestion,
    Test,
)

# what a law reads of a run that counts
COLUMNS = [column.name for role, column in ROLES.items() if role not in ("status", "weight")]
CURVE_POINTS = 32
ENVELOPE_POINTS = 48
HULL = (
    "too few sizes touch the frontier inside their range, so γ is read off its corners, which"
    " biases it"
)
HULL_REMEDY = (
    "add sizes in between, so that at least five touch the frontier, or train the middle sizes"
    " longer"
)


def runs_of(frame: pl.DataFrame, burn_in_steps: int) -> Any:
    """The evaluations of ``frame`` (one architecture or several) as laws.Runs, after the burn-in.

    Raises FitError where nothing is left. A table without steps has no burn-in to leave out.
    """
    from ..table.runs import Runs

    columns = [
        name for name in COLUMNS if name in frame.columns and frame[name].null_count() < len(frame)
    ]
    part = frame.select(columns)
    if "step" in columns:
        part = part.filter(pl.col("step").is_null() | (pl.col("step") >= burn_in_steps))
    # a hole in an optional column would cost the whole column: fits in FLOPs must not suffer from a
    # missing hour
    whole = [
        name
        for name in part.columns
        if name not in ("u", "c", "h", "step") or part[name].null_count() == 0
    ]
    part = part.select(whole)
    if not len(frame):
        raise FitError("no finished run")
    if not len(part):
        raise FitError(f"no evaluation is left after the burn-in of {burn_in_steps} steps")
    return Runs.from_frame(part)


def _estimate(value: Any) -> Estimate | None:
    if value is None or value.value is None or not math.isfinite(value.value):
        return None
    ends = (value.low, value.high)
    if any(end is None or not math.isfinite(end) for end in ends):
        return Estimate(float(value.value))
    return Estimate(float(value.value), float(ends[0]), float(ends[1]))


def _estimates(result: Any) -> dict[str, Estimate]:
    both = {**result.parameters, **result.derived}
    return {name: made for name, value in both.items() if (made := _estimate(value)) is not None}


def _words(message: str) -> str:
    """A message of the laws on one line."""
    return " ".join(str(message).split()) or "the laws gave no reason"


def _fitted(frame: pl.DataFrame, burn_in_steps: int, fit: Callable[[Any], Any]) -> Fitted:
    """A law of one architecture, or why there is none."""
    try:
        result = fit(runs_of(frame, burn_in_steps))
    except FitError as error:
        return Fitted(False, _words(error.what))
    if not result.ok:
        return Fitted(False, _words(result.message or result.status))
    return Fitted(True, _words(result.message) if result.message else "", _estimates(result))


def surface(frame: pl.DataFrame, burn_in_steps: int) -> Fitted:
    """L(N, D) of one architecture: A, B, E, alpha, beta and a, b, gamma = alpha beta/(alpha +
    beta)."""
    from ..laws.fit.fit import fit

    return _fitted(frame, burn_in_steps, fit)


def repeats(frame: pl.DataFrame, burn_in_steps: int) -> Fitted:
    """R_D of L(N, D, U) for one architecture, ``frame`` with its runs on smaller training sets:
    data seen again count as D' = U (1 + R_D (1 - exp(-R/R_D))), R = D/U - 1 (Muennighoff et al.,
    arXiv 2305.16264); with rho where R_D falls with N."""
    from ..laws.decide.repeats import fit_repeats

    return _fitted(frame, burn_in_steps, fit_repeats)


FRONTIER_CHECKS = (
    "optimum inside grid",
    "local exponents",
    "two gammas",
)  # the others judge the surface as well


def laws_of(frame: pl.DataFrame, burn_in_steps: int) -> Laws:
    """Surface, frontier in FLOPs and every check of one architecture. Where the surface is refused,
    the frontier is tried by itself: it needs less."""
    from ..laws.diagnose.diagnose import diagnose

    try:
        runs = runs_of(frame, burn_in_steps)
        found = diagnose(runs, x="c")
    except FitError as error:
        reason = _words(error.what)
        frontier = frontier_of(frame, burn_in_steps, "c")
        return Laws(
            Fitted(False, reason), AllocationResult(Fitted(False, reason)), frontier, [], [], []
        )
    surface, allocation = _surface(runs, found.surface)
    if found.frontier is None:
        frontier = frontier_of(frame, burn_in_steps, "c")
    else:
        frontier = _frontier_result(runs, found.frontier)
    checks = [_check(c, found.frontier) for c in found.checks] if surface.ok else []
    trend = [f"{check.name}: {check.text}" for check in checks if check.passed is False]
    surface.trend = "; ".join(
        f"{c.name}: {c.text}" for c in checks if c.passed is False and c.name not in FRONTIER_CHECKS
    )
    if trend and frontier.fitted.ok:
        frontier.fitted.trend = frontier.fitted.trend or "; ".join(trend)
    if not trend and frontier.fitted.trend:
        trend = [frontier.fitted.trend]
    made = Laws(
        surface, allocation, frontier, checks, trend, [_words(note) for note in found.notes]
    )
    if surface.ok:
        made.profile = _profile(found)
        made.routes = _routes(runs, made)
        made.suggestion = _suggestion(runs)
    return made


def _profile(found: Any) -> FloorProfile | None:
    """The profile of the floor, its rise in units of what bounds the 95% interval."""
    from scipy import stats

    profile = found.profile
    if profile is None:
        return None
    limit = float(stats.t.ppf(0.5 + profile.level / 2, max(found.surface.n_runs - 1, 1)) ** 2)
    rise = np.asarray(profile.statistic, float) / limit
    keep = np.isfinite(rise) & (rise < 8)
    numbers = [
        float(getattr(profile, name))
        for name in ("low", "high", "p_zero", "gamma_zero", "gamma_free", "gamma_high")
    ]
    if keep.sum() < 3 or not np.isfinite(numbers[:2]).all():
        return None
    return FloorProfile(
        np.asarray(profile.floor, float)[keep].tolist(), rise[keep].tolist(), *numbers
    )


def _routes(runs: Any, made: Laws) -> list[Route]:
    """The best size and data by the surface, along the frontier and at the minima of iso-FLOP
    curves, side by side."""
    from ..laws.frontier.isoflop import isoflop

    best = made.allocation.fitted
    lines = made.allocation.lines
    out = [
        Route(
            "surface",
            best.get("a"),
            best.get("b"),
            list(zip(lines.get("c", []), lines.get("n", []), lines.get("d", []), strict=True)),
            best.reason,
        )
    ]
    if "c" not in runs:
        return out
    optimum = made.frontier.optimum
    edge = made.frontier.fitted.trend and "read off the corners of the frontier"
    points = [(p["x"], float(p["n"]), float(p["d"])) for p in made.frontier.points]
    out.append(
        Route(
            "frontier",
            optimum.get("a"),
            optimum.get("b"),
            points,
            optimum.reason or optimum.trend or edge,
        )
    )
    try:
        iso = isoflop(runs, "c")
    except FitError as error:
        return [*out, Route("iso-FLOP", None, None, reason=_words(error.what))]
    good = np.isfinite(iso.n_star) if len(iso.n_star) else np.array([], bool)
    points = [
        tuple(float(v) for v in row)
        for row in np.column_stack([iso.budgets, iso.n_star, iso.d_star])[good]
    ]
    return [
        *out,
        Route(
            "iso-FLOP",
            _estimate(iso.a),
            _estimate(iso.b),
            points,
            _words(iso.message) if iso.message else "",
        ),
    ]


# simulated copies behind a suggestion: enough to rank runs, not for the last per cent of their gain
COPIES = 64


def _suggestion(runs: Any, quantity: str = "gamma") -> Suggestion | None:
    """The one run to add next, by simulation; None where no candidate helps."""
    from ..laws.decide.design import design

    try:
        found = design(runs, quantity, add=1, copies=COPIES)
    except FitError:
        return None
    if not found.additions:
        return None
    one = found.additions[0]
    return Suggestion(
        quantity,
        float(one.n),
        float(one.d),
        float(one.cost),
        found.unit,
        float(one.before),
        float(one.half_width),
        one.kind,
    )


def _check(check: Any, frontier: Any) -> Check:
    """A check of the laws. Where the frontier was read off its corners, three checks repeat the
    same long reason: the first keeps it in the words that every architecture shares."""
    text, remedy = _words(check.detail), _words(check.remedy) if check.remedy else ""
    if frontier is not None and frontier.method == "hull" and frontier.message:
        if check.name == "optimum inside grid":
            text, remedy = HULL, HULL_REMEDY
        elif check.name in FRONTIER_CHECKS:
            text = "the frontier has too few sizes to tell"
    return Check(check.name, check.passed, text, remedy, dict(check.data or {}))


def _surface(runs: Any, result: Any) -> tuple[Fitted, AllocationResult]:
    if not result.ok:
        reason = _words(result.message or result.status)
        return Fitted(False, reason), AllocationResult(Fitted(False, f"no surface: {reason}"))
    fitted = Fitted(True, _words(result.message) if result.message else "", _estimates(result))
    return fitted, _allocation(runs, result)


def _allocation(runs: Any, result: Any) -> AllocationResult:
    """N*(C), D*(C) with bands over the measured range of C."""
    from ..laws.decide.allocation import compute_optimal

    try:
        if "c" not in runs:
            raise FitError("the table has no FLOPs")
        best = compute_optimal(result, runs)
        flops = np.asarray(runs["c"], float)
        table = best.table(np.geomspace(flops.min(), flops.max(), CURVE_POINTS))
    except FitError as error:
        return AllocationResult(Fitted(False, _words(error.what)))
    made = {
        name: value
        for name in ("a", "b", "gamma")
        if (value := _estimate(getattr(best, name))) is not None
    }
    lines = {name: [float(v) for v in values] for name, values in table.items()}
    return AllocationResult(Fitted(True, "", made), lines, best)


def frontier_of(
    frame: pl.DataFrame, burn_in_steps: int, x: str, *, quick: bool = False
) -> FrontierResult:
    """Frontier of one architecture against FLOPs ("c") or device-hours ("h"). ``quick``: no
    intervals."""
    from ..laws.frontier.frontier import frontier

    if x not in frame.columns or not len(frame.filter(pl.col(x) > 0)):
        if not len(frame):
            return FrontierResult(Fitted(False, "no finished run"))
        return FrontierResult(
            Fitted(False, f"the table has no {'FLOPs' if x == 'c' else 'device-hours'}")
        )
    try:
        runs = runs_of(frame.filter(pl.col(x) > 0), burn_in_steps)
        found = frontier(runs, x, interval="none" if quick else "jackknife")
    except FitError as error:
        return FrontierResult(Fitted(False, _words(error.what)), envelope=_whole_envelope(frame, x))
    return _frontier_result(runs, found)


def _frontier_result(runs: Any, found: Any) -> FrontierResult:
    envelope = _envelope(runs, found.x)
    return FrontierResult(_frontier_fit(found), _points(found), *_optimum(found), envelope, found)


def _frontier_fit(found: Any) -> Fitted:
    result = found.fit
    # too few tangents: the laws fit the hull and say that it describes a trend; the number is shown
    # as one
    trend = HULL if found.method == "hull" and result.parameters else ""
    if not (result.ok or trend):
        return Fitted(False, _words(result.message or result.status))
    xs = np.asarray(found.points["x"], float)
    if len(xs) < 2:
        return Fitted(False, "one point is not a frontier")
    grid = np.geomspace(xs.min(), xs.max(), CURVE_POINTS)
    losses = np.asarray(result.predict(**{found.x: grid}), float)
    curve = [(float(a), float(b)) for a, b in zip(grid, losses, strict=True) if math.isfinite(b)]
    return Fitted(
        True,
        "" if trend else _words(result.message) if result.message else "",
        _estimates(result),
        curve,
        trend,
    )


def _points(found: Any) -> list[dict[str, Any]]:
    points = found.points
    return [
        {
            "x": float(points["x"][i]),
            "loss": float(points["loss"][i]),
            "n": round(float(points["n"][i])),
            "d": round(float(points["d"][i])),
            "run": str(points["run"][i]),
        }
        for i in range(len(points["x"]))
    ]


def _optimum(found: Any) -> tuple[Fitted, list[tuple[float, float]], list[tuple[float, float]]]:
    best = found.optimum
    made = {name: _estimate(getattr(best, name)) for name in ("a", "b")}
    made = {name: value for name, value in made.items() if value is not None}
    if not made:
        return Fitted(False, _words(best.message)), [], []
    table = best.table
    lines = [
        [(float(x), float(y)) for x, y in zip(table["x"], table[key], strict=True)]
        for key in ("n", "d")
    ]
    trend = _words(best.message) if best.edge else ""
    return Fitted(True, "", made, trend=trend), lines[0], lines[1]


def _whole_envelope(frame: pl.DataFrame, x: str) -> list[tuple[float, float]]:
    """Lowest measured loss without any burn-in: what can be said where nothing can be fitted."""
    try:
        return _envelope(runs_of(frame.filter(pl.col(x) > 0), 0), x)
    except FitError:
        return []


def _envelope(runs: Any, x: str) -> list[tuple[float, float]]:
    """(x, loss): the lowest of the run-averaged curves up to each x; where a loss at equal compute
    is read off."""
    from ..laws.frontier.curves import curves

    found = [curve for curve in curves(runs, x) if len(curve.lx) > 1]
    if not found:
        return []
    low, high = min(curve.lx[0] for curve in found), max(curve.lx[-1] for curve in found)
    ends = [
        end for curve in found for end in (curve.lx[0], curve.lx[-1])
    ]  # where the envelope may jump
    grid = np.unique(np.concatenate([np.linspace(low, high, ENVELOPE_POINTS), ends]))
    inside = np.stack([np.interp(grid, c.lx, c.ly, left=np.inf, right=np.inf) for c in found]).min(
        axis=0
    )
    inside = np.minimum.accumulate(
        inside
    )  # where a curve ends: whoever has more compute may stop early
    return [
        (float(a), float(b))
        for a, b in zip(np.exp(grid), np.exp(inside), strict=True)
        if math.isfinite(b)
    ]


TESTED = ("gamma", "alpha", "beta")


def compare_pairs(
    architectures: list[ArchitectureResult], burn_in_steps: int
) -> tuple[list[Comparison], list[str]]:
    """Tests of the exponents of every pair that has a surface, with compute at equal loss off the
    frontiers; and notes where there is none."""
    from ..laws.compare.compare import compare

    usable = [arch for arch in architectures if arch.surface.ok]
    if len(usable) < 2:
        return [], [
            "fewer than two architectures have a fitted surface, so no exponents can be compared"
        ]
    try:
        runs = runs_of(pl.concat([arch.frame for arch in usable]), burn_in_steps)
        found = compare(runs, law="surface", x=None)
    except FitError as error:
        return [], [_words(error.what)]
    frontiers = {arch.label: arch.frontier_c for arch in usable}
    order = {arch.label: position for position, arch in enumerate(usable)}
    out = [_pair(one, runs, frontiers, order) for one in found.pairs]
    out.sort(key=lambda one: (order[one.first], order[one.second]))
    return out, [_words(note) for note in found.notes]


def _pair(
    one: Any, runs: Any, frontiers: dict[str, FrontierResult], order: dict[str, int]
) -> Comparison:
    """One pair in the study's order: the laws sort by name, so that a difference may have to change
    its sign."""
    flip = order[one.first] > order[one.second]
    first, second = (one.second, one.first) if flip else (one.first, one.second)
    tests = {}
    for name in TESTED:
        if name in one.tests:
            test = one.tests[name]
            ends = (-test.high, -test.low) if flip else (test.low, test.high)
            value = -test.difference if flip else test.difference
            tests[name] = Test(
                Estimate(float(value), float(ends[0]), float(ends[1])), float(test.p_holm)
            )
    made = Comparison(
        first, second, one.n_pairs if one.paired else 0, tests, notes=[_words(n) for n in one.notes]
    )
    _add_multiplier(made, runs, frontiers)
    return made


def _add_multiplier(made: Comparison, runs: Any, frontiers: dict[str, FrontierResult]) -> None:
    from ..laws.compare.multiplier import multiplier

    pair = (frontiers[made.first], frontiers[made.second])
    if any(one.raw is None or not one.fitted.ok for one in pair):
        made.notes.append("no compute multiplier: a frontier is missing")
        return
    parts = [runs.select(group=name) for name in (made.first, made.second)]
    try:
        found = multiplier(
            *parts, "c", names=(made.first, made.second), frontiers=tuple(one.raw for one in pair)
        )
    except FitError as error:
        made.notes.append(_words(error.what))
        return
    made.trend = any(one.fitted.trend for one in pair)
    if len(found.loss):
        i = len(found.loss) // 2
        made.at_loss = float(found.loss[i])
        made.multiplier = _interval(
            found.multiplier[i], found.multiplier_low[i], found.multiplier_high[i]
        )
        made.multiplier_curve = _curve(
            found.loss, found.multiplier, found.multiplier_low, found.multiplier_high
        )
    if len(found.x):
        i = len(found.x) // 2
        made.at_compute = float(found.x[i])
        made.ratio = _interval(found.ratio[i], found.ratio_low[i], found.ratio_high[i])
        made.ratio_curve = _curve(found.x, found.ratio, found.ratio_low, found.ratio_high)
    made.crossing = float(found.crossing) if found.crossing else None


def _curve(
    x: Any, value: Any, low: Any, high: Any
) -> list[tuple[float, float, float | None, float | None]]:
    """(x, value, low, high) where there is a value; ends that are not known are None."""
    out = []
    for row in zip(x, value, low, high, strict=True):
        if math.isfinite(row[1]):
            known = math.isfinite(row[2]) and math.isfinite(row[3])
            out.append(
                (
                    float(row[0]),
                    float(row[1]),
                    *((float(row[2]), float(row[3])) if known else (None, None)),
                )
            )
    return out


def _interval(value: float, low: float, high: float) -> Estimate | None:
    if not math.isfinite(value):
        return None
    ends = (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else (None, None)
    return Estimate(float(value), *ends)


def _new_run(loss: Estimate, surface: Any) -> Estimate | None:
    """Where one more run should fall: the interval of the law widened by what runs and checkpoints
    scatter, in ln L."""
    from scipy import stats

    if not loss.bounded or not loss.low > 0:
        return None
    scatter = math.hypot(
        surface.diagnostics["sd_between_runs"], surface.diagnostics["sd_within_runs"]
    )
    extra = float(stats.t.ppf(0.5 + surface.level / 2, max(surface.n_runs - 1, 1))) * scatter
    down, up = (
        math.hypot(math.log(loss.value / loss.low), extra),
        math.hypot(math.log(loss.high / loss.value), extra),
    )
    return Estimate(loss.value, loss.value * math.exp(-down), loss.value * math.exp(up))


def prospects(architectures: list[ArchitectureResult]) -> list[Prospect]:
    """Best size, data and loss at the largest compute of the study, at 10 and at 100 times as
    much."""
    reached = {
        arch.label: arch.frame["c"].max()
        for arch in architectures
        if arch.allocation.raw is not None
    }
    if not reached:
        return []
    largest = float(max(reached.values()))
    budgets = np.array([largest, 10 * largest, 100 * largest])
    out = []
    for arch in architectures:
        if arch.label not in reached:
            continue
        table = arch.allocation.raw.table(budgets)
        nothing = np.full(len(budgets), np.nan)
        for i, flops in enumerate(budgets):
            ends = [float(table.get(f"loss_{end}", nothing)[i]) for end in ("low", "high")]
            loss = _interval(float(table["loss"][i]), *ends)
            if loss is not None:
                beyond = math.log10(flops / float(reached[arch.label]))
                n, d = float(table["n"][i]), float(table["d"][i])
                out.append(
                    Prospect(
                        arch.label,
                        float(flops),
                        n,
                        d,
                        loss,
                        _new_run(loss, arch.allocation.raw.surface),
                        beyond,
                    )
                )
    return out
