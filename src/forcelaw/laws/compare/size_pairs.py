"""Which sizes and seeds of two architectures are compared, and the differences of their losses at
equal N and D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...table.runs import Runs
from ..fit.problem import SAME_LEVEL, level_of
from ..fit.result import Result

COMPARED_SIZE = 0.4  # sizes that are compared differ by at most this in ln N
LEVEL_OF_N = 0.05  # runs of one architecture closer than this in ln N are of one size


@dataclass
class Curve:
    """One size and seed: ln D and ln L at its evaluations, and the logarithms of its costs."""

    d: np.ndarray
    y: np.ndarray
    costs: dict[str, np.ndarray]


Curves = list[tuple[float, dict[str, Curve]]]  # ln N of a size, and its curves by seed


def curves(runs: Runs) -> Curves:
    """Sizes of one architecture in ascending order. Rows of one size, seed and D are averaged, so
    runs that end at different D make one curve too."""
    ln_n, ln_d, y = (np.log(runs[role]) for role in ("n", "d", "loss"))
    seed = np.full(len(runs), "") if runs.seed is None else runs.seed
    order = np.argsort(ln_n, kind="stable")
    size = np.empty(len(runs), int)
    size[order] = np.cumsum(np.diff(ln_n[order], prepend=ln_n[order][0]) > LEVEL_OF_N)
    out: Curves = []
    for step in range(int(size.max()) + 1):
        own = {}
        for name in np.unique(seed[size == step]):
            rows = np.flatnonzero((size == step) & (seed == name))
            rows = rows[np.argsort(ln_d[rows], kind="stable")]
            same = level_of(runs["d"][rows])
            count = np.bincount(same)

            def mean(
                values: np.ndarray,
                same: np.ndarray = same,
                count: np.ndarray = count,
                rows: np.ndarray = rows,
            ) -> np.ndarray:
                return np.bincount(same, values[rows]) / count

            costs = {x: mean(np.log(runs[x])) for x in ("c", "h") if x in runs}
            own[str(name)] = Curve(mean(ln_d), mean(y), costs)
        out.append((float(ln_n[size == step].mean()), own))
    return out


def partners(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """Indices of the sizes (ln N) that are each other's nearest, and near enough."""
    gap = np.abs(first[:, None] - second[None, :])
    nearest = gap.argmin(axis=1)
    return [
        (i, int(j))
        for i, j in enumerate(nearest)
        if gap[i, j] <= COMPARED_SIZE and gap[:, j].argmin() == i
    ]


def matched(
    first: Curves, second: Curves, n_window: tuple[float, float] | None
) -> tuple[list[tuple[int, int]], list[str]]:
    """Indices of the sizes that are partners inside the window and have a seed in common."""
    n = [np.array([size for size, _ in one]) for one in (first, second)]
    low, high = (-np.inf, np.inf) if n_window is None else np.log(n_window)
    pairs, notes = [], []
    for i, j in partners(*n):
        inside = all(low - 1e-9 <= one <= high + 1e-9 for one in (n[0][i], n[1][j]))
        if inside and set(first[i][1]) & set(second[j][1]):
            pairs.append((i, j))
    for name, used, one in (("first", 0, first), ("second", 1, second)):
        left = len(one) - len({pair[used] for pair in pairs})
        if left:
            notes.append(f"{left} of {len(one)} sizes of the {name} have no partner")
    return pairs, notes


@dataclass
class SizeRatio(Result):
    """One size step: N at which the two are compared and the sizes that were trained; D [k] of the
    map and the ratio second / first [k] there; level (ratio at the centre of the window) and extra
    slope in D over all its seeds (None at one D)."""

    n: float
    n_first: float
    n_second: float
    seeds: list[str]
    d: np.ndarray
    ratio: np.ndarray
    level: float
    slope: float | None


@dataclass
class Pair:
    """ln(second / first) of one size step by seed: (ln D, values); ln N of the comparison, of the
    first and of the second."""

    n: tuple[float, float, float]
    seeds: dict[str, tuple[np.ndarray, np.ndarray]]


def differences(curves: list[Curves], sizes: tuple[int, int], one_d: bool = False) -> Pair:
    """Differences of ln L at the evaluations of one inside the range of the other (of the one that
    covers more there), brought to equal N. one_d: a single evaluation is enough."""
    (n0, first), (n1, second) = curves[0][sizes[0]], curves[1][sizes[1]]
    out, n, widest = {}, 0.5 * (n0 + n1), -1.0
    for seed in sorted(set(first) & set(second)):
        one, two = first[seed], second[seed]
        low, high = max(one.d[0], two.d[0]), min(one.d[-1], two.d[-1])
        low, high = low - SAME_LEVEL / 2, high + SAME_LEVEL / 2
        grids = [c.d[(c.d >= low) & (c.d <= high)] for c in (one, two)]
        if (max if one_d else min)(len(grid) for grid in grids) < (1 if one_d else 2):
            continue
        at = max(grids, key=lambda grid: (np.ptp(grid), len(grid)) if len(grid) else (-1, 0))
        difference = np.interp(at, two.d, two.y) - np.interp(at, one.d, one.y)
        shift, where = _equal_n(curves, sizes, at, seed)
        out[seed] = at, difference + shift
        if np.ptp(at) > widest:
            n, widest = where, float(np.ptp(at))
    return Pair((n, n0, n1), out)


def _equal_n(
    curves: list[Curves], sizes: tuple[int, int], at: np.ndarray, seed: str
) -> tuple[np.ndarray, float]:
    """What is added to ln(second / first) to have it at equal N, and that ln N: the slope in N
    between two neighbouring sizes of the architecture whose sizes enclose the other's N, times the
    difference in ln N. Zero, at the mean of the two, where neither encloses the other."""
    n = [curves[g][sizes[g]][0] for g in (0, 1)]
    for own, sign in ((0, -1.0), (1, 1.0)):
        step = 1 if n[1 - own] > n[own] else -1
        near = sizes[own] + step
        if not 0 <= near < len(curves[own]):
            continue
        here, there = curves[own][sizes[own]], curves[own][near]
        if (there[0] - n[1 - own]) * step < 0:
            continue
        a, b = here[1][seed], there[1].get(seed) or max(there[1].values(), key=lambda c: c.d[-1])
        if b.d[0] > at[0] + SAME_LEVEL or b.d[-1] < at[-1] - SAME_LEVEL:
            continue
        slope = (np.interp(at, b.d, b.y) - np.interp(at, a.d, a.y)) / (there[0] - here[0])
        return sign * slope * (n[1 - own] - n[own]), n[1 - own]
    return np.zeros(len(at)), 0.5 * (n[0] + n[1])


def windowed(
    pairs: list[Pair], d_window: tuple[float, float] | None
) -> tuple[list[Pair], tuple[float, float]]:
    """The pairs inside the window of D: the given one, or what every size covers with at least one
    seed."""
    pairs = [pair for pair in pairs if pair.seeds]
    if not pairs:
        return [], (np.nan, np.nan)
    if d_window is None:
        low = max(min(at[0] for at, _ in pair.seeds.values()) for pair in pairs)
        high = min(max(at[-1] for at, _ in pair.seeds.values()) for pair in pairs)
    else:
        low, high = np.log(d_window)
    out = []
    for pair in pairs:
        seeds = {}
        for seed, (at, value) in pair.seeds.items():
            inside = (at >= low - SAME_LEVEL) & (at <= high + SAME_LEVEL)
            if inside.sum() >= 2 and np.ptp(at[inside]) >= 0.5 * (high - low):
                seeds[seed] = at[inside], value[inside]
        if seeds:
            out.append(Pair(pair.n, seeds))
    return out, (float(np.exp(low)), float(np.exp(high)))


def at_one_d(
    pairs: list[Pair], d_window: tuple[float, float] | None
) -> tuple[list[Pair], tuple[float, float]]:
    """The pairs at the one D (evaluations within 2%) that every size has with at least one seed;
    none where there is no such D."""
    low, high = (-np.inf, np.inf) if d_window is None else np.log(d_window)
    held = []
    for pair in pairs:
        kept = {
            s: (at >= low - SAME_LEVEL) & (at <= high + SAME_LEVEL)
            for s, (at, _) in pair.seeds.items()
        }
        seeds = {s: (at[kept[s]], y[kept[s]]) for s, (at, y) in pair.seeds.items() if kept[s].any()}
        held += [Pair(pair.n, seeds)] if seeds else []
    ends = [[(at[0], at[-1]) for at, _ in pair.seeds.values()] for pair in held]
    low = max((min(first for first, _ in one) for one in ends), default=np.inf)
    high = min((max(last for _, last in one) for one in ends), default=-np.inf)
    if low > high + SAME_LEVEL:
        return [], (np.nan, np.nan)
    middle, out = 0.5 * (low + high), []
    for pair in held:
        seeds = {}
        for seed, (at, y) in pair.seeds.items():
            near = int(np.abs(at - middle).argmin())
            if abs(at[near] - middle) <= SAME_LEVEL:
                seeds[seed] = at[[near]], y[[near]]
        out += [Pair(pair.n, seeds)] if seeds else []
    return out, (float(np.exp(middle)),) * 2


def of_size(pair: Pair, centre: float) -> SizeRatio:
    """Level at ln D = ``centre`` and slope of one size: seeds have levels of their own and one
    slope in ln D."""
    square = product = 0.0
    for at, value in pair.seeds.values():
        x = at - at.mean()
        square, product = square + float(x @ x), product + float(x @ value)
    slope = product / square if square > 0 else 0.0
    levels = [
        float(value.mean() - slope * (at.mean() - centre)) for at, value in pair.seeds.values()
    ]
    grid = max((at for at, _ in pair.seeds.values()), key=lambda at: at[-1] - at[0])
    total = np.zeros(len(grid))
    for (at, value), one in zip(pair.seeds.values(), levels):
        seen = np.interp(grid, at, value, left=np.nan, right=np.nan)
        # so that the mean over seeds has no jump where one of them ends
        total += np.where(np.isnan(seen), one + slope * (grid - centre), seen)
    n, first, second = (float(np.exp(n)) for n in pair.n)
    return SizeRatio(
        n,
        first,
        second,
        list(pair.seeds),
        np.exp(grid),
        np.exp(total / len(levels)),
        float(np.exp(np.mean(levels))),
        -slope if square > 0 else None,
    )
