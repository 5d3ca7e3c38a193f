"""Does the exponent differ between architectures? A test of the right size, not overlap of
intervals.

For every pair of architectures and every quantity: the difference, its standard error by deleting
whole runs, the distribution of their ratio that few runs have (:mod:`forcelaw.laws.fit.
small_sample`; where runs are paired by size, seed and data, pairs are deleted together and what
they share cancels), and Holm's correction over the pairs. With it come the shared-exponent fit, and
in paired designs a permutation test that swaps the labels within pairs (:mod:`.sign_flip_test`).
Treating checkpoints as independent would call 41 to 48% of equal exponents different; size and
power of these tests are measured in benchmarks/law_coverage.py.

A difference of exponents belongs to the form of the law. So the ratios of losses come first
(:mod:`.ratios`), which need none: a difference that they do not show is not supported, or one of
the reducible part alone (:mod:`.support`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit import intervals
from ..fit.fit import fit
from ..fit.objective import Objective, objective_of
from ..fit.result import AT_BOUND, Estimate, FitResult, Result, note_lines, small_p
from ..fit.small_sample import Reference, Student, apart
from ..forms import make
from ..forms.base import Floor, Law
from ..frontier.frontier import Frontier, frontier
from ..inputs import as_runs
from .multiplier import Multiplier, multiplier
from .pairing import Pairing, difference_se, pair
from .ratios import Ratios, all_ratios, brief
from .shared import TwoTables
from .support import RATIO_OF, SUPPORTED, predicted_slopes, support, support_words
from .windows import Window, common_window, inside, window_words

SCALE_FREE = ("alpha", "beta", "gamma", "a", "b", "E")
WINDOWS = ("matched", "own")
ONE_FLOOR = (
    "one floor is at zero and the other is not: where there is none in either, such tables show a"
    " difference in alpha at 5% in 11 to 13% of cases"
)
MAPS = 3  # pairs of architectures up to which the maps of ratios are printed in full


@dataclass
class Difference(Result):
    """One quantity in two architectures: difference = second - first, with its interval; p
    two-sided; p_holm corrected over the pairs of architectures; p_sign the probability (flat prior)
    that the second is larger. verdict: whether a difference that the law shows is there in the
    ratios of losses as well (:mod:`.support`), "supported", "not supported" or "of the reducible
    part"; "not seen" where the law shows none; empty where the ratios cannot tell. ratio_slope: the
    extra slope of the second that it was held against; ratio_of_laws, ratio_without_floors: what
    the fitted laws make of it, where it does not support the difference."""

    quantity: str
    difference: float
    se: float
    low: float
    high: float
    df: float
    t: float
    p: float
    p_sign: float
    p_holm: float = float("nan")
    p_permutation: float | None = None
    verdict: str = ""
    ratio_slope: float | None = None
    ratio_of_laws: float | None = None
    ratio_without_floors: float | None = None

    @property
    def sure(self) -> bool:
        """Whether the difference is significant at 5% after correction, and the ratios of losses
        show it too (where a slope of theirs belongs to the quantity)."""
        seen = self.quantity not in RATIO_OF or self.verdict == SUPPORTED
        return self.p_holm < 0.05 and seen


@dataclass
class PairComparison(Result):
    """Two architectures. window: the ranges that both were fitted in, where these leave out rows of
    either. shared: estimates under exponents in common, and what sharing costs in the objective."""

    first: str
    second: str
    paired: bool
    n_pairs: int
    tests: dict[str, Difference]
    shared: dict[str, Estimate] = field(default_factory=dict)
    objective_separate: float = float("nan")
    objective_shared: float = float("nan")
    multiplier: Multiplier | None = None
    notes: list[str] = field(default_factory=list)
    window: Window = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a terminal."""
        pairs = f" ({self.n_pairs} pairs)" if self.paired else ""
        out = [f"\n{self.second} against {self.first}{pairs}"]
        if self.window:
            out.append(f"  both with {window_words(self.window)}")
        for name, test in self.tests.items():
            extra = ""
            if test.p_permutation is not None:
                extra = f", permutation p {small_p(test.p_permutation)}"
            larger = "> 0.999" if test.p_sign > 0.999 else small_p(test.p_sign)
            out.append(
                f"  {name:6} {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]  p"
                f" {small_p(test.p)}, Holm {small_p(test.p_holm)}{extra}, P(larger) {larger}"
            )
            if said := support_words(test):
                out.append(f"{'':9}{said}")
        if self.multiplier:
            out += ["  " + line for line in self.multiplier.summary().splitlines()]
        return out + note_lines(self.notes, "  ")


@dataclass
class Comparison(Result):
    """fits: one :class:`FitResult` per architecture; pairs: every two of those that could be
    fitted; ratios: every two that have sizes in common, without a law."""

    law: str
    fits: dict[str, FitResult]
    pairs: list[PairComparison]
    level: float
    notes: list[str] = field(default_factory=list)
    ratios: list[Ratios] = field(default_factory=list)
    also = ("status",)

    @property
    def status(self) -> str:
        return "ok" if self.pairs else "refused"

    def rows(self) -> list[dict[str, Any]]:
        """One row for each quantity of each pair: first, second, and the test."""
        return [
            {"first": one.first, "second": one.second, **test.as_json()}
            for one in self.pairs
            for test in one.tests.values()
        ]

    def summary(self) -> str:
        """For a terminal: the ratios of losses, the exponents, then the tests of every pair."""
        lines = []
        if len(self.ratios) <= MAPS:
            lines += [found.summary() + "\n" for found in self.ratios]
        elif self.ratios:
            lines += [*brief(self.ratios), ""]
        for name, result in self.fits.items():
            values = [f"{k} {value}" for k, value in result.estimates.items() if k in SCALE_FREE]
            shown = [", ".join(values[i : i + 3]) for i in range(0, len(values), 3)]
            first = shown[0] if shown else result.message
            lines.append(f"{name or 'all':16} {result.status:14} {first}")
            lines += [f"{'':31} {line}" for line in shown[1:]]
        for one in self.pairs:
            lines += one.lines()
        return "\n".join([*lines, *note_lines(self.notes)])


def compare(
    runs: Any,
    law: str | type[Law] | Law = "surface",
    *,
    quantities_tested: tuple[str, ...] | None = None,
    architectures: Sequence[str] | None = None,
    paired: str | bool = "auto",
    windows: str = "matched",
    permutations: int = 1999,
    x: str | None = "c",
    frontiers: dict[str, Frontier] | None = None,
    joint: bool = True,
    level: float = 0.95,
    objective: str | Objective = "huber",
    delta: float | None = None,
    cluster: str | None = "run",
    floor: Floor | None = None,
    weights: str | np.ndarray | None = None,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Compare all architectures of a table.

    runs: any table (see :func:`forcelaw.fit`) with a column of architectures. quantities_tested:
    parameters or derived quantities (default: exponents, a, gamma and the floor of the law).
    architectures: which, and in which order (default: all by name); differences are second minus
    first. paired: "auto" pairs runs by size, seed and data where every run has a partner; False
    never; True insists. windows: "matched" fits two architectures on the ranges of N, D and cost
    that both cover (their own fits, ``fits``, use all their rows), "own" on all rows. permutations:
    draws of the permutation test in paired designs (0: none). x: the cost for the compute
    multiplier ("c" FLOPs, "h" hours, None: leave it out); frontiers: those that are there already.
    joint: fit with exponents in common as well. Others: as for :func:`forcelaw.fit`.

    An architecture that cannot be fitted is in the notes. FitError where the table has one
    architecture only.
    """
    runs = as_runs(runs)
    if len(runs.group_names) < 2:
        name = runs.group_names[0] or "no architecture column" if runs.group_names else ""
        raise FitError(
            f"there is one architecture only ({name})" if name else "no row is left",
            where="compare",
            remedy="name the column of architectures: --columns architecture=...",
        )
    if windows not in WINDOWS:
        raise FitError(
            f"the windows {windows!r} are not known",
            where="compare",
            remedy=f"use {' or '.join(WINDOWS)}",
        )
    form, goal = make(law, floor, **options), objective_of(objective, delta)
    parts = runs.groups()
    if architectures is not None:
        parts = {name: runs.select(group=name) for name in architectures}
    common: dict[str, Any] = {"cluster": cluster, "weights": weights}
    fitted = _Fits(form, goal, common | {"interval": "jackknife", "level": level})
    fits = {name: fitted.on(name, part) for name, part in parts.items()}
    notes = [
        f"{name}: {one.status.replace('_', ' ')}, {one.message}"
        for name, one in fits.items()
        if not one.ok
    ]
    pairs, laws = [], []
    known = dict(frontiers or {})
    for names in combinations([name for name, one in fits.items() if one.ok], 2):
        two, results, cut, refused = fitted.together(names, parts, windows == "matched")
        if refused:
            notes.append(f"{names[1]} against {names[0]}: {refused}")
            continue
        pairing = _pairing(two, names, paired, cluster)
        tables = TwoTables(two, results, goal, cluster, weights, pairing)
        one = _compare(names, tables, quantities_tested, level)
        one.window = cut
        _share(one, tables, joint, permutations, level, seed)
        if x is not None:
            _add_multiplier(one, parts, x, level, known)
        pairs.append(one)
        laws.append(results)
    holm(pairs)
    found, left_out = all_ratios(runs, architectures=list(parts), level=level)
    notes += [f"no ratios: {reason}" for reason in left_out]
    by_pair = {(one.first, one.second): one for one in found}
    for one, results in zip(pairs, laws):
        names = one.first, one.second
        predicted = predicted_slopes(runs, names, results)
        for test in one.tests.values():
            support(test, by_pair.get(names), predicted)
    return Comparison(form.name, fits, pairs, level, notes, found)


@dataclass
class _Fits:
    """One law on parts of a table, each fit made once."""

    law: Law
    goal: Objective
    settings: dict[str, Any]
    made: dict[tuple[str, bytes], FitResult] = field(default_factory=dict)

    def on(self, name: str, part: Runs) -> FitResult:
        """The fit to the architecture ``name``, of which ``part`` has all or some rows."""
        key = name, np.concatenate([part.run, *(part[role] for role in self.law.roles)]).tobytes()
        if key not in self.made:
            self.made[key] = fit(part, self.law, self.goal, **self.settings)
        return self.made[key]

    def together(
        self, names: tuple[str, ...], parts: dict[str, Runs], matched: bool
    ) -> tuple[list[Runs], list[FitResult], Window, str]:
        """Two architectures on the ranges that both cover (or, not ``matched``, on all rows): their
        rows and fits, the window where it leaves rows out, and why they cannot be compared."""
        both = [parts[name] for name in names]
        window = common_window(both, self.law.roles) if matched else {}
        two = [inside(part, window) for part in both]
        if not all(len(part) for part in two):
            return two, [], window, "no range of N and D is covered by both"
        cut = window if any(a is not b for a, b in zip(two, both)) else {}
        results = [self.on(name, part) for name, part in zip(names, two)]
        refused = [f"{name}: {one.reason}" for name, one in zip(names, results) if not one.ok]
        where = f"with {window_words(cut)}, " if cut else ""
        return two, results, cut, where + refused[0] if refused else ""


def _pairing(
    parts: list[Runs], names: tuple[str, ...], paired: str | bool, cluster: str | None
) -> Pairing | None:
    if paired is False or cluster != "run":
        found, why = None, ""
    else:
        found, why = pair(*parts)
    if paired is True and found is None:
        raise FitError(
            f"{names[0]} and {names[1]} are not paired: {why}",
            where="compare",
            remedy="use paired=False",
        )
    return found


def _compare(
    names: tuple[str, ...], tables: TwoTables, asked: tuple[str, ...] | None, level: float
) -> PairComparison:
    pairing = tables.pairing
    left, right = tables.fits
    tests = {q: difference(q, left, right, pairing, level) for q in _tested(left, asked)}
    count = len(pairing.first) if pairing else 0
    one = PairComparison(names[0], names[1], pairing is not None, count, tests)
    one_at_zero = sum(fit.status == AT_BOUND for fit in tables.fits) == 1
    if one_at_zero and "alpha" in tests and tests["alpha"].p < 0.05:
        # the errors decide that: over all tables the test has its size (benchmarks/compare_null.py)
        one.notes.append(ONE_FLOOR)
    return one


def _tested(result: FitResult, asked: tuple[str, ...] | None) -> list[str]:
    form, there = result.law, [*result.parameters, *result.derived]
    if asked:
        for name in asked:
            if name not in there:
                raise FitError(
                    f"{form.name} has no quantity {name!r}",
                    where="compare",
                    remedy=f"use some of {', '.join(there)}",
                )
        return list(asked)
    names = [name for name in form.shapes if name not in form.logs]
    names += [name for name in ("a", "gamma") if name in result.derived and name not in names]
    return names + ([form.floor_name] if form.free_floor else [])


def difference(
    name: str, left: FitResult, right: FitResult, pairing: Pairing | None, level: float
) -> Difference:
    """Difference of one quantity with its standard error by the jackknife."""
    both, samples = (left, right), (left.sample(), right.sample())
    point = [one.quantity(name, theta[None])[0] for one, (theta, _) in zip(both, samples)]
    draws = [one.quantity(name, many) for one, (_, many) in zip(both, samples)]
    value = float(point[1] - point[0])
    se = float(difference_se(point, draws, pairing))
    reference = _reference(name, left, right, pairing)
    t = value / se if se > 0 else np.inf * np.sign(value) if value else 0.0
    half, p = reference.critical(level) * se, reference.p(t)
    p_sign = 1 - p / 2 if value > 0 else p / 2
    return Difference(name, value, se, value - half, value + half, reference.df, t, p, p_sign)


def _reference(name: str, left: FitResult, right: FitResult, pairing: Pairing | None) -> Student:
    """Distribution of the difference over its standard error where there is none."""
    forms = []
    for one in (left, right):
        if one.small is None:
            return Student(min(left.n_runs, right.n_runs) - 1)
        slopes = intervals.slopes(partial(_by_name, one, name), one.sample()[0])
        forms.append(one.small.forms(slopes[name]))
    if pairing is None:
        return Reference(apart(*forms), exact=True)
    a, b = (np.concatenate([[0], index + 1]) for index in (pairing.first, pairing.second))
    return Reference(forms[0][np.ix_(a, a)] + forms[1][np.ix_(b, b)], exact=True)


def _by_name(result: FitResult, name: str, theta: np.ndarray) -> dict[str, np.ndarray]:
    return {name: result.quantity(name, theta)}


def _share(
    one: PairComparison,
    tables: TwoTables,
    joint: bool,
    permutations: int,
    level: float,
    seed: int,
) -> None:
    """The fit with exponents in common, and the permutation test of each."""
    shared = tuple(name for name in ("alpha", "beta", "gamma") if name in tables.law.shapes)
    if not shared or not (joint or permutations):
        return
    one.shared, one.objective_shared, one.objective_separate = tables.shared_estimates(
        shared, level
    )
    if permutations and tables.pairing is not None:
        for name in one.shared:
            if name in one.tests:
                one.tests[name].p_permutation = tables.permutation_p(name, permutations, seed)
    elif permutations:
        one.notes.append("no permutation test: runs are not paired by size, seed and data")


def _add_multiplier(
    one: PairComparison,
    parts: dict[str, Runs],
    x: str,
    level: float,
    frontiers: dict[str, Frontier],
) -> None:
    """``frontiers`` keeps what was fitted, for the other pairs."""
    names = (one.first, one.second)
    if any(x not in parts[name] or "n" not in parts[name] for name in names):
        one.notes.append(f"no compute multiplier: the table has no {x}")
        return
    try:
        for name in names:
            if name not in frontiers:
                frontiers[name] = frontier(parts[name], x, level=level)
        first, second = (parts[name] for name in names)
        both = (frontiers[one.first], frontiers[one.second])
        one.multiplier = multiplier(first, second, x, names=names, level=level, frontiers=both)
    except FitError as error:
        one.notes.append(f"no compute multiplier: {error.what}")


def holm(pairs: list[PairComparison]) -> None:
    """Holm's step-down correction of each quantity over the pairs of architectures."""
    for name in {name for one in pairs for name in one.tests}:
        tests = sorted(
            (one.tests[name] for one in pairs if name in one.tests), key=lambda test: test.p
        )
        worst = 0.0
        for rank, test in enumerate(tests):
            worst = max(worst, min(1.0, (len(tests) - rank) * test.p))
            test.p_holm = worst
