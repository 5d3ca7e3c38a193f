"""Does the exponent differ between architectures? A test of the right size, not overlap of
intervals.

For every pair of architectures and every quantity: the difference, its standard error by deleting
whole runs, the distribution of their ratio that few runs have (:mod:`.small_sample`; where runs are
paired by size, seed and data, pairs are deleted together and what they share cancels), and Holm's
correction over the pairs. Beside it the shared-exponent fit, and in paired designs a permutation
test that swaps the labels within pairs (:mod:`.signflip`). Treating checkpoints as independent
would call 41 to 48% of equal exponents different (reference/fitting.md, section 4); size and power
of these tests are measured in benchmarks/law_coverage.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from ..fit import intervals
from ..fit import problem as problems
from ..fit.fit import _objective, fit, quantities
from ..fit.problem import Problem
from ..fit.result import Estimate, FitResult, clean, small_p, spread
from ..fit.small_sample import Reference, Student, apart
from ..forms import make
from ..forms.base import Law
from ..forms.joint import Joint
from .multiplier import Multiplier, multiplier
from .pairing import Pairing, pair
from .sign_flip_test import contributions, sign_flip

SCALE_FREE = ("alpha", "beta", "gamma", "a", "b", "E")


@dataclass
class Difference:
    """One quantity in two architectures: difference = second - first, with its interval; p
    two-sided; p_holm corrected over the pairs of architectures; p_sign the probability (flat prior)
    that the second is larger."""

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


@dataclass
class PairComparison:
    """Two architectures. shared: estimates under exponents in common, and what sharing costs in the
    objective."""

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


@dataclass
class Comparison:
    """fits: one :class:`FitResult` per architecture; pairs: every two of those that could be
    fitted."""

    law: str
    fits: dict[str, FitResult]
    pairs: list[PairComparison]
    level: float
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        return "ok" if self.pairs else "refused"

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "status": self.status,
                "law": self.law,
                "level": self.level,
                "notes": self.notes,
                "fits": {name: result.to_dict() for name, result in self.fits.items()},
                "pairs": [
                    {
                        "first": one.first,
                        "second": one.second,
                        "paired": one.paired,
                        "n_pairs": one.n_pairs,
                        "tests": {name: vars(test) for name, test in one.tests.items()},
                        "shared": {name: vars(value) for name, value in one.shared.items()},
                        "objective_separate": one.objective_separate,
                        "objective_shared": one.objective_shared,
                        "multiplier": one.multiplier.to_dict() if one.multiplier else None,
                        "notes": one.notes,
                    }
                    for one in self.pairs
                ],
            }
        )

    def summary(self) -> str:
        """For a terminal: the exponents, then the tests of every pair."""
        lines = []
        for name, result in self.fits.items():
            values = [
                f"{key} {value}"
                for key, value in {**result.parameters, **result.derived}.items()
                if key in SCALE_FREE
            ]
            shown = [", ".join(values[i : i + 3]) for i in range(0, len(values), 3)]
            lines.append(
                f"{name or 'all':16} {result.status:14} {shown[0] if shown else result.message}"
            )
            lines += [f"{'':31} {line}" for line in shown[1:]]
        for one in self.pairs:
            lines.append(
                f"\n{one.second} against {one.first}"
                + (f" ({one.n_pairs} pairs)" if one.paired else "")
            )
            for name, test in one.tests.items():
                extra = (
                    ""
                    if test.p_permutation is None
                    else f", permutation p {small_p(test.p_permutation)}"
                )
                lines.append(
                    f"  {name:6} {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]  p"
                    f" {small_p(test.p)}, Holm {small_p(test.p_holm)}{extra}, P(larger)"
                    f" {_share(test.p_sign)}"
                )
            if one.multiplier:
                lines += ["  " + line for line in one.multiplier.summary().splitlines()]
            lines += [f"  note: {note}" for note in one.notes]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _share(p: float) -> str:
    """A probability that may come near one as well."""
    return "> 0.999" if p > 0.999 else small_p(p)


def compare(
    runs: Runs,
    law: str | Law = "surface",
    *,
    quantities_tested: tuple[str, ...] | None = None,
    paired: str | bool = "auto",
    permutations: int = 1999,
    x: str | None = "c",
    joint: bool = True,
    level: float = 0.95,
    objective: str = "huber",
    delta: float | None = None,
    cluster: str | None = "run",
    floor: Any = None,
    weights: Any = None,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Compare all architectures of a table.

    quantities_tested: parameters or derived quantities (default: exponents, a, gamma and the floor
    of the law). paired: "auto" pairs runs by size, seed and data where every run has a partner;
    False never; True insists. permutations: draws of the permutation test in paired designs (0:
    none). x: the cost for the compute multiplier ("c" FLOPs, "h" hours, None: leave it out). joint:
    fit with exponents in common as well.
    """
    if len(runs.group_names) < 2:
        raise FitError(
            f"there is one architecture only ({runs.group_names[0] or 'no architecture column'})",
            where="compare",
            remedy="name the column of architectures: --columns architecture=...",
        )
    form = make(law, floor, **options)
    settings = {
        "objective": objective,
        "delta": delta,
        "cluster": cluster,
        "weights": weights,
        "level": level,
    }
    parts = runs.groups()
    fits = {
        name: fit(
            part,
            make(law, floor, **options) if not isinstance(law, Law) else law,
            interval="jackknife",
            **settings,
        )
        for name, part in parts.items()
    }
    notes = [
        f"{name}: {result.status.replace('_', ' ')}, {result.message}"
        for name, result in fits.items()
        if not result.ok
    ]
    usable = [name for name, result in fits.items() if result.ok]
    pairs = []
    for first, second in combinations(usable, 2):
        pairs.append(
            _compare(
                first,
                second,
                parts,
                fits,
                form,
                quantities_tested,
                paired,
                permutations,
                settings,
                seed,
                joint,
            )
        )
        if x is not None:
            _add_multiplier(pairs[-1], parts, x, level)
    _holm(pairs)
    return Comparison(form.name, fits, pairs, level, notes)


def _add_multiplier(one: PairComparison, parts: dict[str, Runs], x: str, level: float) -> None:
    if any(x not in parts[name] or "n" not in parts[name] for name in (one.first, one.second)):
        one.notes.append(f"no compute multiplier: the table has no {x}")
        return
    try:
        one.multiplier = multiplier(
            parts[one.first], parts[one.second], x, names=(one.first, one.second), level=level
        )
    except FitError as error:
        one.notes.append(f"no compute multiplier: {error.what}")


def _tested(form: Law, result: FitResult, asked: tuple[str, ...] | None) -> list[str]:
    there = [*result.parameters, *result.derived]
    if asked:
        for name in asked:
            if name not in there:
                raise FitError(
                    f"{name!r} is no quantity of {form.name}",
                    where="compare",
                    remedy=f"there are {', '.join(there)}",
                )
        return list(asked)
    names = [name for name in form.shapes if name not in form.logs]
    names += [name for name in ("a", "gamma") if name in result.derived and name not in names]
    return names + ([form.floor_name] if form.free_floor else [])


def _compare(
    first: str,
    second: str,
    parts: dict[str, Runs],
    fits: dict[str, FitResult],
    form: Law,
    asked: tuple[str, ...] | None,
    paired: str | bool,
    permutations: int,
    settings: dict[str, Any],
    seed: int,
    joint: bool,
) -> PairComparison:
    left, right = fits[first], fits[second]
    pairing, why = (
        pair(parts[first], parts[second])
        if paired is not False and settings["cluster"] == "run"
        else (None, "")
    )
    if paired is True and pairing is None:
        raise FitError(
            f"{first} and {second} are not paired: {why}",
            where="compare",
            remedy="use paired=False",
        )
    one = PairComparison(
        first, second, pairing is not None, len(pairing.first) if pairing else 0, {}
    )
    names = _tested(form, left, asked)
    for name in names:
        one.tests[name] = _test(name, left, right, pairing, settings["level"])
    goal = _objective(settings["objective"], settings["delta"])
    shared = tuple(name for name in ("alpha", "beta", "gamma") if name in form.shapes)
    if shared and (joint or permutations):
        _shared_fit(one, parts, fits, shared, goal, settings, pairing, permutations, seed)
    return one


def _test(
    name: str, left: FitResult, right: FitResult, pairing: Pairing | None, level: float
) -> Difference:
    """Difference of one quantity with its standard error by the jackknife."""
    samples = [result.sample() for result in (left, right)]
    point = [
        _value(result, name, theta[None])[0] for result, (theta, _) in zip((left, right), samples)
    ]
    draws = [_value(result, name, many) for result, (_, many) in zip((left, right), samples)]
    difference = float(point[1] - point[0])
    if pairing is not None:
        jumps = draws[1][pairing.second] - draws[0][pairing.first]
        se = float(spread(jumps, np.asarray(difference), "jackknife"))
    else:
        se = float(np.sqrt(sum(spread(d, p, "jackknife") ** 2 for d, p in zip(draws, point))))
    reference = _reference(name, left, right, pairing)
    t = difference / se if se > 0 else np.inf * np.sign(difference) if difference else 0.0
    half = reference.critical(level) * se
    p = reference.p(t)
    return Difference(
        name,
        difference,
        se,
        difference - half,
        difference + half,
        reference.df,
        t,
        p,
        1 - p / 2 if difference > 0 else p / 2,
    )


def _reference(name: str, left: FitResult, right: FitResult, pairing: Pairing | None) -> Student:
    """Distribution of the difference over its standard error where there is none."""
    if left.small is None or right.small is None:
        return Student(min(left.n_runs, right.n_runs) - 1)
    first, second = (
        result.small.forms(
            intervals.slopes(
                lambda theta, result=result: {name: _value(result, name, theta)}, result.sample()[0]
            )[name]
        )
        for result in (left, right)
    )
    if pairing is None:
        return Reference(apart(first, second), exact=True)
    a, b = (np.concatenate([[0], index + 1]) for index in (pairing.first, pairing.second))
    return Reference(first[np.ix_(a, a)] + second[np.ix_(b, b)], exact=True)


def _value(result: FitResult, name: str, theta: np.ndarray) -> np.ndarray:
    values, derived = quantities(result, theta)
    return values[name] if name in values else derived[name]


def _holm(pairs: list[PairComparison]) -> None:
    """Holm's step-down correction of each quantity over the pairs of architectures."""
    for name in {name for one in pairs for name in one.tests}:
        tests = sorted(
            (one.tests[name] for one in pairs if name in one.tests), key=lambda test: test.p
        )
        worst = 0.0
        for rank, test in enumerate(tests):
            worst = max(worst, min(1.0, (len(tests) - rank) * test.p))
            test.p_holm = worst


# -- shared exponents ------------------------------------------------------------------------------------------------


def _shared_fit(
    one: PairComparison, parts, fits, shared, goal, settings, pairing, permutations, seed
) -> None:
    """The joint fit with exponents in common: their estimates, what sharing costs, and the
    permutation test."""
    problem, theta_separate = joint_problem(
        [parts[one.first], parts[one.second]],
        [fits[one.first], fits[one.second]],
        shared,
        settings,
        pairing,
    )
    joint = problem.law
    assert isinstance(joint, Joint)
    solution = problem.solve(joint.gather(theta_separate)[None])
    theta = solution.theta[0]
    one.objective_shared = float(solution.value[0])
    separate = Joint(joint.law, joint.sizes, ())
    free = Problem(
        separate,
        problem.x,
        {},
        problem.y,
        problem.weights,
        problem.objective,
        problem.cluster,
        _joint_bounds(separate, problem, joint.law),
        np.ones(separate.size, bool),
    )
    one.objective_separate = float(free.solve(separate.gather(theta_separate)[None]).value[0])
    draws, _, _ = intervals.jackknife(problem, theta)
    offset = joint.size - len(shared)
    order = [name for name in joint.law.names if name in shared]
    for i, name in enumerate(order):
        one.shared[name] = intervals.estimate(
            name,
            float(theta[offset + i]),
            draws[:, offset + i],
            method="jackknife",
            level=settings["level"],
            floor_name="E",
            reference=Student(problem.n_clusters - 1),
        )
    if permutations and pairing is not None:
        for name in order:
            if name in one.tests:
                one.tests[name].p_permutation = permutation_test(
                    [parts[one.first], parts[one.second]],
                    [fits[one.first], fits[one.second]],
                    name,
                    settings,
                    pairing,
                    permutations,
                    seed,
                )
    elif permutations:
        one.notes.append("no permutation test: runs are not paired by size, seed and data")


def joint_problem(
    parts: list[Runs],
    fits: list[FitResult],
    shared: tuple[str, ...],
    settings: dict[str, Any],
    pairing: Pairing | None,
) -> tuple[Problem, list[np.ndarray]]:
    """Two tables as one problem with shared shapes; pairs of runs are one cluster. A common centre
    makes the shared exponents comparable, so the fits' internal parameters are moved to it."""
    law = fits[0].law
    centre = {
        role: float(np.mean([np.log(part[role]).mean() for part in parts]))
        for role in fits[0].centre
    }
    thetas = [
        law.internal(
            {name: float(value[0]) for name, value in law.natural(f.theta, f.centre).items()},
            centre,
        )
        for f in fits
    ]
    x = {
        f"group{g}": law.prepare({role: part[role] for role in law.roles}, centre)[0]
        for g, part in enumerate(parts)
    }
    y = np.concatenate([np.log(part["loss"]) for part in parts])
    labels = [part.clusters(settings["cluster"]) for part in parts]
    if pairing is not None:
        renamed = np.empty(len(pairing.first), int)
        renamed[pairing.second] = pairing.first
        cluster = np.concatenate([labels[0], renamed[labels[1]]])
    else:
        cluster = np.concatenate([labels[0], labels[1] + labels[0].max() + 1])
    goal = _objective(settings["objective"], settings["delta"])
    if goal.robust and goal.delta is None:
        goal = type(goal)("huber", float(np.mean([f.delta for f in fits])))
    loss = np.concatenate([part["loss"] for part in parts])
    split = [
        problems._weights(part, settings["weights"], label) for part, label in zip(parts, labels)
    ]
    w = None if split[0] is None or split[1] is None else np.concatenate([split[0], split[1]])
    joint = Joint(law, [len(part) for part in parts], shared)
    problem = Problem(
        joint,
        x,
        centre,
        y,
        goal.point_weights(loss, w),
        goal,
        cluster,
        (np.empty(0), np.empty(0)),
        np.ones(joint.size, bool),
    )
    problem.bounds = _joint_bounds(joint, problem, law)
    low, high = law.all_bounds(x["group0"], y)
    return problem, [np.clip(theta, low, high) for theta in thetas]


def _joint_bounds(joint: Joint, problem: Problem, law: Law) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.full(joint.size, np.inf), np.full(joint.size, -np.inf)
    for g, index in enumerate(joint.index):
        one = law.all_bounds(problem.x[f"group{g}"], problem.y)
        low[index] = np.minimum(low[index], one[0])
        high[index] = np.maximum(high[index], one[1])
    return low, high


def permutation_test(
    parts: list[Runs],
    fits: list[FitResult],
    name: str,
    settings: dict[str, Any],
    pairing: Pairing,
    draws: int,
    seed: int,
) -> float:
    """p of the difference in ``name`` by swapping the labels of the two architectures within pairs
    (:mod:`.signflip`)."""
    problem, thetas = joint_problem(parts, fits, (name,), settings, pairing)
    joint = problem.law
    assert isinstance(joint, Joint)
    theta = problem.solve(joint.gather(thetas)[None]).theta[0]
    jac = joint.residuals(theta[None], problem.x, problem.y)[1]
    assert jac is not None
    of_first = np.arange(len(problem.y)) < len(parts[0])
    common = joint.index[0][joint.law.names.index(name)]
    extra = np.where(of_first, 0.0, jac[0, common])  # moves the exponent of the second alone
    labels = [part.clusters(settings["cluster"]) for part in parts]
    run = np.concatenate([labels[0], labels[1] + labels[0].max() + 1])
    return sign_flip(*contributions(problem, theta, extra, run), draws, seed)
