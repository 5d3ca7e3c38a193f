"""The best learning rate as a power law of N and D, from runs at several rates.

At each size and D the best rate is the vertex of a parabola of ln L in ln rate about the lowest
loss. Then ln rate* = c + p ln N + q ln D by least squares over all of them. Points of one size at
several D are of the same runs, and runs of one length share the order of the data, so errors are
those of a jackknife that leaves out whole sizes and whole lengths in turn. Fewer than three sizes
give none, unless every length has runs of its own.

A rate that is right for short runs costs long ones a few percent of their loss, which bends a law
in D as a floor does (results/ladder_2_long), so what is extrapolated is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FitError
from ...progress import digits
from ...store.sweep import vertex
from ...table.runs import Runs
from ..fit.problem import level_of
from ..fit.result import Estimate, Result, note_lines
from ..inputs import one_architecture

LEAST_KINDS = 3  # sizes, or lengths, that are left out in turn
LEAST_RATES = 3  # at a size and D, for a minimum
LENGTHS, DENSE = 8, 200  # values of D at which runs with trajectories are compared, and looked for
SAME_D = 0.05  # in ln: lengths of runs of one evaluation that count as one
LEAST_SPAN = math.log(1.5)  # of N or D, for an exponent
FAR = 3.0  # times the N or D of the sweeps, beyond which the law is not known to hold
DEAR = 0.2  # share of the loss beyond which an interval is no answer, nor the valley a parabola
KEPT = 1.02  # a run that ends above its own lowest loss by more was unstable


@dataclass
class RateAt(Result):
    """A predicted best rate. cost: how much higher the loss is, as a share, at the worse end of the
    interval (None without one). times: N and D over the largest, or under the smallest, of the
    points; 1 inside their range."""

    n: float
    d: float
    rate: Estimate
    cost: float | None
    times: tuple[float, float]

    def __str__(self) -> str:
        text = f"N {self.n:.3g}, D {self.d:.3g}: {self.rate}"
        if self.cost is not None and self.cost <= DEAR:
            text += f"; at the ends of the interval the loss is up to {self.cost:.1%} higher"
        elif self.cost is not None:
            text += (
                f"; at the ends of the interval the loss is more than {DEAR:.0%} higher: not told"
            )
        far = [f"{x:.2g} times beyond in {r}" for x, r in zip(self.times, "ND") if x > FAR]
        return text + (f" ({', '.join(far)}: try rates there)" if far else "")


@dataclass
class Rates(Result):
    """points: of each size and D n, d, rates (how many), best, curvature (of ln L by (ln rate)^2),
    end ("" where the best rate is inside). rate at N = n and D = d, the middle of the points;
    n_exponent and d_exponent; maximum: the largest rate at which all runs were stable."""

    points: list[dict[str, Any]]
    n: float = math.nan
    d: float = math.nan
    rate: Estimate | None = None
    n_exponent: Estimate | None = None
    d_exponent: Estimate | None = None
    curvature: float = math.nan
    maximum: float = math.nan
    at: list[RateAt] = field(default_factory=list)
    message: str = ""
    notes: list[str] = field(default_factory=list)
    also = ("status", "key")

    @property
    def status(self) -> str:
        return "ok" if self.rate is not None else "refused"

    @property
    def key(self) -> str | None:
        """``learning_rate`` of an entry of a study."""
        if self.rate is None:
            return None
        p, q = (0.0 if one is None else one.value for one in (self.n_exponent, self.d_exponent))
        return (
            f"{{value: {self.rate.value:.3g}, n: {digits(self.n, 3)}, d: {digits(self.d, 3)},"
            f" n_exponent: {round(p, 3) + 0.0:.3f}, d_exponent: {round(q, 3) + 0.0:.3f},"
            f" maximum: {self.maximum:.3g}}}"
        )

    def summary(self) -> str:
        """For a terminal."""
        lines = [f"{'N':>10} {'D':>10} {'rates':>6} {'best rate':>10} {'twice off costs':>16}"]
        for point in self.points:
            cost = f"{math.expm1(point['curvature'] * math.log(2) ** 2):.1%}"
            lines.append(
                f"{point['n']:10.3g} {point['d']:10.3g} {point['rates']:6} {point['best']:10.3g}"
                f" {point['end'] or cost:>16}"
            )
        if self.rate is not None:
            lines.append(f"best rate {self.rate} at N {self.n:.3g} and D {self.d:.3g}")
            for name, one in (("N", self.n_exponent), ("D", self.d_exponent)):
                lines.append(f"  as {name}^{one}" if one else f"  in {name}: not told")
            twice = math.expm1(self.curvature * math.log(2) ** 2)
            lines.append(f"  a rate twice off costs {twice:.1%} of the loss")
            lines += [f"  {one}" for one in self.at]
            lines.append(f"study file: learning_rate: {self.key}")
        lines += [self.message] if self.message else []
        return "\n".join([*lines, *note_lines(self.notes)])


def rates(
    runs: Any, *, at: Sequence[tuple[float, float]] = (), last: bool = False, level: float = 0.95
) -> Rates:
    """The best learning rate of one architecture as a power law of N and D.

    runs: any table (see :func:`forcelaw.fit`) with a column of rates (lr, learning_rate ...) and
    runs of one size and length at three rates or more. Every evaluation of a run with a constant
    rate counts, as if it had ended there; of runs whose rate changes, which get their highest, and
    with ``last`` the last one alone. at: N and D for which rates are predicted. FitError where the
    table has several architectures, no N, D or rates; a table that cannot carry the law gives a
    result with a message.
    """
    runs = one_architecture(runs, "rates", "a law of rates")
    lr = runs.numbers("lr")
    if lr is None or not np.isfinite(lr).any():
        raise FitError(
            "the table has no learning rates",
            where=runs.source,
            remedy="name their column lr or learning_rate",
        )
    each, notes = _runs(runs, lr, last)
    result = Rates(_points(each), notes=notes)
    inside = [one for one in result.points if not one["end"]]
    result.maximum = _maximum(each)
    if left := len(result.points) - len(inside):
        result.notes.append(
            f"{left} of {len(result.points)} best rates are at an end of those tried, or have no"
            " minimum, and count in no law: add rates there"
        )
    tried = len({run.lr for run in each})
    if tried < LEAST_RATES:
        result.message = (
            f"{tried} learning rate{'s' * (tried != 1)}: a law takes {LEAST_RATES} at a size and"
            " length; where names of architectures carry the rate, --columns architecture=..."
        )
        return result
    if len(inside) < 2:
        result.message = (
            f"{len(inside)} sizes and lengths have their best rate inside {LEAST_RATES} rates or"
            " more: no law of rates"
        )
        return result
    own = all(len(run.d) == 1 for run in each)
    _fit(result, inside, at, level, own)
    return result


@dataclass
class _Run:
    n: float
    lr: float
    d: np.ndarray  # ascending
    loss: np.ndarray


def _runs(runs: Runs, lr: np.ndarray, last: bool) -> tuple[list[_Run], list[str]]:
    """Every run with its rate, and what was assumed."""
    found, changing = [], 0
    n, d, loss = runs["n"], runs["d"], runs["loss"]
    order = np.lexsort((d, runs.run))
    order = order[np.isfinite(lr[order]) & (lr[order] > 0)]
    parts = np.split(order, np.flatnonzero(np.diff(runs.run[order])) + 1)
    for rows in (part for part in parts if len(part)):
        rate = float(lr[rows].max())
        changes = lr[rows].min() < 0.99 * rate
        changing += changes
        kept = rows[-1:] if last or changes else rows
        found.append(_Run(float(n[kept[0]]), rate, d[kept], loss[kept]))
    without = runs.n_runs - len(found)
    notes = []
    if changing:
        notes.append(
            f"the rate changes within {changing} runs: their highest is taken, and their last loss"
        )
    if without:
        notes.append(f"{without} runs without a rate are left out")
    return found, notes


def _points(each: list[_Run]) -> list[dict[str, Any]]:
    out = []
    size = level_of(np.array([run.n for run in each]))
    for k in np.unique(size):
        group = [run for run, level in zip(each, size) if level == k]
        n = float(np.exp(np.mean(np.log([run.n for run in group]))))
        for d in _lengths(group):
            losses: dict[float, list[float]] = {}
            for run in group:
                if (loss := _loss_at(run, d)) is not None:
                    losses.setdefault(run.lr, []).append(loss)
            tried = sorted(losses)
            if len(tried) < LEAST_RATES:
                continue
            means = [float(np.exp(np.mean(losses[rate]))) for rate in tried]
            best, curvature, end = vertex(tried, means)
            found = {"n": n, "d": d, "rates": len(tried), "best": best}
            out.append(found | {"curvature": curvature, "end": end})
    return out


def _lengths(group: list[_Run]) -> list[float]:
    """Values of D at which the runs of one size are compared: the lengths of runs of one
    evaluation, and even values over the range in which LEAST_RATES rates have evaluations."""
    only = np.array([run.d[0] for run in group if len(run.d) == 1])
    along = [run for run in group if len(run.d) > 1]
    length = level_of(only, SAME_D)
    found = [float(np.exp(np.log(only[length == k]).mean())) for k in np.unique(length)]
    if along:
        dense = np.geomspace(min(r.d[0] for r in along), max(r.d[-1] for r in along), DENSE)
        rates = np.array(sorted({run.lr for run in along}))
        covered = np.zeros((len(rates), DENSE), bool)
        for run in along:
            covered[np.searchsorted(rates, run.lr)] |= (run.d[0] <= dense) & (dense <= run.d[-1])
        good = dense[covered.sum(axis=0) >= LEAST_RATES]
        if len(good):
            found += np.geomspace(good[0], good[-1], LENGTHS).tolist()
    return sorted(found)


def _loss_at(run: _Run, d: float) -> float | None:
    """ln of the loss of a run at D; None where it has none."""
    if len(run.d) == 1:
        return float(np.log(run.loss[0])) if abs(math.log(d / run.d[0])) <= SAME_D else None
    if not run.d[0] * (1 - 1e-9) <= d <= run.d[-1] * (1 + 1e-9):
        return None
    return float(np.interp(math.log(d), np.log(run.d), np.log(run.loss)))


def _maximum(each: list[_Run]) -> float:
    """The largest rate at which every run ended within KEPT of its own lowest loss."""
    stable: dict[float, bool] = {}
    for run in each:
        stable[run.lr] = stable.get(run.lr, True) and run.loss[-1] <= KEPT * run.loss.min()
    return max((rate for rate, kept in stable.items() if kept), default=math.nan)


def _fit(
    result: Rates,
    inside: list[dict[str, Any]],
    at: Sequence[tuple[float, float]],
    level: float,
    own: bool,
) -> None:
    """The law, its errors, and what it predicts; in place. own: whether lengths are of runs of
    their own."""
    from scipy.stats import t as student

    ln_n, ln_d, y = (np.log([one[key] for one in inside]) for key in ("n", "d", "best"))
    middle = np.array([ln_n.mean(), ln_d.mean()])
    used = [bool(np.ptp(x) >= LEAST_SPAN) for x in (ln_n, ln_d)]
    x = np.column_stack([np.ones(len(y)), ln_n - middle[0], ln_d - middle[1]]) * [True, *used]
    # sizes as they were clustered; lengths in steps of 1.5, since runs of several sizes need not
    # be evaluated at the same D
    sizes, lengths = level_of(np.exp(ln_n)), np.round((ln_d - ln_d.min()) / LEAST_SPAN).astype(int)
    units = [labels for labels in (sizes, lengths) if len(np.unique(labels)) >= LEAST_KINDS]
    told = len(np.unique(sizes)) >= LEAST_KINDS or (own and not used[0] and bool(units))
    asked = [[1.0, *((np.log(pair) - middle) * used)] for pair in at]
    questions = np.vstack([np.eye(3), np.reshape(asked, (-1, 3))])

    def answers(keep: np.ndarray) -> np.ndarray:
        return questions @ np.linalg.lstsq(x[keep], y[keep], rcond=None)[0]

    values = answers(np.ones(len(y), bool))
    variance, least = np.zeros(len(values)), math.inf
    for labels in units:
        kinds = np.unique(labels)
        least = min(least, len(kinds))
        left = np.array([answers(labels != kind) for kind in kinds])
        variance += (len(kinds) - 1) / len(kinds) * ((left - values) ** 2).sum(0)
    errors = np.sqrt(variance)
    beyond = float(student.ppf(0.5 + level / 2, least - 1)) if told else math.nan
    method = "jackknife over sizes and lengths" if told else ""

    def estimate(k: int, power: bool) -> Estimate:
        low, high = values[k] - beyond * errors[k], values[k] + beyond * errors[k]
        shown = np.exp if power else float
        if not method:
            return Estimate(float(shown(values[k])))
        error = float(errors[k] * (np.exp(values[k]) if power else 1.0))
        return Estimate(
            float(shown(values[k])), error, float(shown(low)), float(shown(high)), method
        )

    result.n, result.d = (float(z) for z in np.exp(middle))
    result.rate = estimate(0, power=True)
    result.n_exponent, result.d_exponent = (
        estimate(k + 1, power=False) if use else None for k, use in enumerate(used)
    )
    result.curvature = float(np.median([one["curvature"] for one in inside]))
    for k, (n, d) in enumerate(at):
        rate = estimate(3 + k, power=True)
        cost = None
        if rate.high is not None:
            cost = float(np.expm1(result.curvature * (beyond * errors[3 + k]) ** 2))
        times = _times(math.log(n), ln_n), _times(math.log(d), ln_d)
        result.at.append(RateAt(float(n), float(d), rate, cost, times))
    _say(result, used, told)


def _say(result: Rates, used: list[bool], told: bool) -> None:
    """What the design does not tell."""
    if not used[0]:
        result.notes.append("one size: the rate is taken to be the same at all, as muP has it")
    if not used[1]:
        result.notes.append(
            "one length: how the rate changes with D is not told. It falls, and runs that are much"
            " longer want a lower one: sweep at two lengths"
        )
    if not told:
        result.notes.append(
            f"no intervals: they take {LEAST_KINDS} sizes, since evaluations of one run depend on"
            " each other"
        )


def _times(value: float, known: np.ndarray) -> float:
    """How many times beyond the range of known logarithms a value lies."""
    return float(np.exp(max(value - known.max(), known.min() - value, 0.0)))
