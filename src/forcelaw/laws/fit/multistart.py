"""The optimum of a fit and its proof: starts by projection, more of them until several agree, and
the certificate.

One start proves nothing: Huber's loss with a small delta has kinks, and laws with repeats or a
break have several minima. Where fewer than three of the first starts end at the best optimum,
further ones are made around what was found (shapes drawn at random, coefficients by projection),
with delta brought down in steps, until three agree or the rounds are spent; how many did is part of
the certificate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .initial import project, starts
from .objective import Objective, robust_delta
from .problem import Problem
from .solver import Solution

N_STARTS = 6
AGREE = 3  # starts that should end at the best optimum
ROUNDS = 6  # of further starts where they do not
MORE = 12  # further starts of a round near the best ones, and as many anywhere
LONG = 3000  # iterations granted to the best start when none has converged
THIN = 20_000  # rows beyond which the starts are compared on an even thinning


def optimise(problem: Problem) -> tuple[Problem, np.ndarray, dict[str, Any]]:
    """The best optimum from several starts, with the robust delta settled if none was given, and
    its certificate."""
    begin = _starts(problem)
    small, thinned = problem, len(problem.y) > THIN
    if thinned:
        order = np.lexsort((problem.y, next(iter(problem.x.values()))))
        small = problem.subset(
            np.sort(order[np.linspace(0, len(order) - 1, THIN // 2).astype(int)])
        )
    if problem.objective.robust and problem.objective.delta is None:
        delta, begin = _settle_delta(small, begin)
        goal = Objective("huber", delta)
        problem, small = problem.with_objective(goal), small.with_objective(goal)
    solution = _search(small, begin)
    if thinned:
        near = np.argsort(solution.value)[:2]
        solution = problem.solve(solution.theta[near])
    same = _same(solution)
    eligible = same & (solution.converged | ~solution.converged[same].any())
    best = int(np.argmin(np.where(eligible, solution.value, np.inf)))
    theta, value = solution.theta[best], float(solution.value[best])
    certificate = {
        "objective": value,
        "gradient": float(solution.gradient[best]),
        "starts": len(solution.theta),
        "starts_agreeing": int(same.sum()),
        "converged": bool(solution.converged[best]),
        "iterations": int(solution.iterations[best]),
        "condition_number": _condition(problem, theta),
        "bounds_hit": _bounds_hit(problem, theta),
        "explained": 1.0 - value / max(_of_a_constant(problem), 1e-300),
        "other_optima": int((solution.converged & ~same).sum()),
    }
    return problem, theta, certificate


def _settle_delta(problem: Problem, begin: np.ndarray) -> tuple[float, np.ndarray]:
    """Huber's delta from the residuals of a robust fit, and starts [S, P] near what it found.
    Delta follows the residuals, which follow delta: three rounds settle it to a per cent."""
    rough = problem.with_objective(Objective("log")).solve(begin, tolerance=1e-10)
    best = rough.theta[np.argmin(rough.value)]
    for _ in range(3):
        delta = robust_delta(problem.residuals(best), problem.weights)
        robust = problem.with_objective(Objective("huber", delta))
        best = robust.solve(best[None], tolerance=1e-10).theta[0]
    return delta, np.concatenate([best[None], rough.theta])


def _starts(problem: Problem) -> np.ndarray:
    low, high = problem.bounds
    held = _held(problem)
    begin = np.clip(
        starts(problem.law, problem.x, problem.y, problem.weights, N_STARTS, held), low, high
    )
    begin[:, list(held)] = list(held.values())
    return begin


def _held(problem: Problem) -> dict[int, float]:
    """Index in theta -> internal value of the parameters that are fixed."""
    law, out = problem.law, {}
    for i, name in enumerate(law.names):
        if name in problem.fixed:
            value = problem.fixed[name]
            logged = name in law.coefficients or name in law.logs
            shift = law.shape_shift(name, problem.centre) if name in law.logs else 0.0
            out[i] = float(np.log(value)) - shift if logged else value
    return out


def _search(problem: Problem, begin: np.ndarray) -> Solution:
    """Solutions from ``begin`` [S, P], and from further starts until :data:`AGREE` of them share
    the best optimum."""
    solution = problem.solve(begin)
    rng = np.random.default_rng(0)
    # starts of laws with a break, a shift or repeats may agree on a wrong optimum
    least = 2 if problem.law.soft and not problem.law.one_optimum else 0
    for turn in range(ROUNDS):
        same = _same(solution)
        if (
            turn >= least
            and same.sum() >= min(AGREE, len(begin))
            and solution.converged[same].any()
        ):
            break
        solution = _joined(solution, problem.solve(_around(problem, solution, rng, turn)))
    same = _same(solution)
    if not solution.converged[same].any():
        solution = _joined(solution, problem.solve(solution.theta[same][:1], iterations=LONG))
    return solution


def _around(
    problem: Problem, solution: Solution, rng: np.random.Generator, turn: int
) -> np.ndarray:
    """Further starts [S, P]: shapes drawn about those of the best solutions, wider each turn, and
    anywhere in the range of the grid, coefficients by projection; in the first turn under Huber's
    loss also what larger deltas lead to."""
    law = problem.law
    low, high = problem.bounds
    best = solution.theta[np.argsort(solution.value)[:3]]
    psi = best[rng.integers(0, len(best), MORE), law.n_columns :]
    width = 0.2 * 1.6**turn
    logs = np.array([name in law.logs for name in law.shapes])
    kick = rng.normal(size=psi.shape) * width
    psi = np.where(logs, psi + 3.0 * kick, psi * np.exp(kick))
    box = law.grid(problem.x)
    # half near, half anywhere
    psi = np.concatenate([psi, rng.uniform(box.min(axis=0), box.max(axis=0), psi.shape)])
    psi = np.clip(psi, low[law.n_columns :], high[law.n_columns :])
    held = _held(problem)
    for i, value in held.items():
        if i >= law.n_columns:
            psi[:, i - law.n_columns] = value
    made = [project(law, psi, problem.x, problem.y, problem.weights, held)[0]]
    if turn == 0 and problem.objective.robust:
        theta, delta = solution.theta, problem.objective.bend
        softer = max(robust_delta(problem.residuals(best[0]), problem.weights), 300.0 * delta)
        while softer > 3.0 * delta:
            theta = (
                problem.with_objective(Objective("huber", softer))
                .solve(theta, tolerance=1e-10)
                .theta
            )
            softer /= 8.0
        made.append(theta)
    out = np.clip(np.concatenate(made), low, high)
    out[:, list(held)] = list(held.values())
    return out


def _same(solution: Solution) -> np.ndarray:
    """Which solutions have the best one's value, to 1e-6."""
    value = np.where(np.isfinite(solution.value), solution.value, np.inf)
    return value - value.min() <= 1e-6 * abs(value.min()) + 1e-26


def _joined(first: Solution, second: Solution) -> Solution:
    return Solution(
        *(
            np.concatenate([getattr(one, name) for one in (first, second)])
            for name in ("theta", "value", "gradient", "converged", "iterations")
        )
    )


def _of_a_constant(problem: Problem) -> float:
    """The objective of a loss that depends on nothing: the median of ln L for every row."""
    r = np.median(problem.y) - problem.y
    rho = problem.objective.rho(r)
    return float((rho if problem.weights is None else rho * problem.weights).sum())


def _condition(problem: Problem, theta: np.ndarray) -> float:
    """Condition number of J'WJ with its diagonal scaled to one (safe weights), over the parameters
    not at a bound."""
    h = problem.evaluate(theta).safe[0]
    low, high = (bound[problem.free] for bound in problem.bounds)
    inside = (theta[problem.free] > low) & (theta[problem.free] < high) & (np.diag(h) > 0)
    if not inside.any():
        return float("inf")
    h = h[np.ix_(inside, inside)]
    d = np.sqrt(np.diag(h))
    values = np.linalg.eigvalsh(h / d[:, None] / d[None, :])
    return float(values[-1] / max(values[0], 1e-300))


def _bounds_hit(problem: Problem, theta: np.ndarray) -> list[str]:
    """Parameters at a bound, and terms that are negligible (below 1e-6 of every loss)."""
    low, high = problem.bounds
    law = problem.law
    near = 1e-12 * (high - low)
    hit = [
        name
        for i, name in enumerate(law.names)
        if problem.free[i] and (theta[i] <= low[i] + near[i] or theta[i] >= high[i] - near[i])
    ]
    jac = law.residuals(theta[None], problem.x, problem.y)[1]
    assert jac is not None
    for i, name in enumerate(law.names[: law.n_columns]):
        share = jac[0, i] * (theta[i] if name == law.floor_name else 1.0)
        if problem.free[i] and name not in hit and float(share.max()) < 1e-6:
            hit.append(name)
    # a shape that may end at a bound is there when moving it changes no loss
    for i, name in enumerate(law.names):
        if (
            name in law.soft
            and problem.free[i]
            and name not in hit
            and float(np.abs(jac[0, i]).max()) < 1e-6
        ):
            hit.append(name)
    return hit
