"""Two architectures fitted with exponents in common: what sharing costs, and a permutation test of
each exponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...table.runs import Runs
from ..fit import intervals
from ..fit.objective import Objective
from ..fit.problem import Problem, point_weights_of
from ..fit.result import Estimate, FitResult
from ..fit.small_sample import Student
from ..forms.base import Law
from ..forms.joint import Joint
from .pairing import Pairing
from .sign_flip_test import contributions, sign_flip


@dataclass
class TwoTables:
    """Two tables with the fits of one law to them; pairs of runs are one cluster."""

    parts: list[Runs]
    fits: list[FitResult]
    objective: Objective
    cluster: str | None
    weights: str | np.ndarray | None
    pairing: Pairing | None

    def __post_init__(self) -> None:
        """A common centre makes shared exponents comparable, so the fits' internal parameters
        (thetas) are moved to it."""
        self.law: Law = self.fits[0].law
        roles = self.law.roles
        self.centre = {
            role: float(np.mean([np.log(part[role]).mean() for part in self.parts]))
            for role in self.fits[0].centre
        }
        thetas = []
        for one in self.fits:
            values = {name: float(v[0]) for name, v in one.quantities(one.best())[0].items()}
            thetas.append(self.law.internal(values, self.centre))
        self.x: dict[str, Any] = {
            f"group{g}": self.law.prepare({role: part[role] for role in roles}, self.centre)[0]
            for g, part in enumerate(self.parts)
        }
        self.loss = np.concatenate([part["loss"] for part in self.parts])
        low, high = self.law.all_bounds(self.x["group0"], np.log(self.loss))
        self.thetas = [np.clip(theta, low, high) for theta in thetas]
        labels = [part.clusters(self.cluster) for part in self.parts]
        self.run = np.concatenate([labels[0], labels[1] + labels[0].max() + 1])
        split = [point_weights_of(p, self.weights, label) for p, label in zip(self.parts, labels)]
        both = [one for one in split if one is not None]
        self.row_weights = np.concatenate(both) if len(both) == len(split) else None
        if self.objective.robust and self.objective.delta is None:
            delta = float(np.mean([one.delta for one in self.fits if one.delta is not None]))
            self.objective = Objective("huber", delta)

    def problem(self, shared: tuple[str, ...]) -> Problem:
        """Both tables as one problem with the shapes ``shared`` in common."""
        cluster = self.run
        if self.pairing is not None:
            first, second = (part.clusters(self.cluster) for part in self.parts)
            renamed = np.empty(len(self.pairing.first), int)
            renamed[self.pairing.second] = self.pairing.first
            cluster = np.concatenate([first, renamed[second]])
        joint = Joint(self.law, [len(part) for part in self.parts], shared)
        y = np.log(self.loss)
        low, high = np.full(joint.size, np.inf), np.full(joint.size, -np.inf)
        for g, index in enumerate(joint.index):
            one = self.law.all_bounds(self.x[f"group{g}"], y)
            low[index] = np.minimum(low[index], one[0])
            high[index] = np.maximum(high[index], one[1])
        weights = self.objective.point_weights(self.loss, self.row_weights)
        free = np.ones(joint.size, bool)
        return Problem(
            joint, self.x, self.centre, y, weights, self.objective, cluster, (low, high), free
        )

    def fit(self, shared: tuple[str, ...]) -> tuple[Problem, np.ndarray, float]:
        """The problem with shapes in common, its optimum and its objective."""
        problem = self.problem(shared)
        assert isinstance(problem.law, Joint)
        solution = problem.solve(problem.law.gather(self.thetas)[None])
        return problem, solution.theta[0], float(solution.value[0])

    def shared_estimates(
        self, shared: tuple[str, ...], level: float
    ) -> tuple[dict[str, Estimate], float, float]:
        """The exponents in common, and the objectives with them and with exponents apart."""
        problem, theta, together = self.fit(shared)
        apart = self.fit(())[2]
        draws, _, _ = intervals.jackknife(problem, theta)
        order = [name for name in self.law.names if name in shared]
        reference = Student(problem.n_clusters - 1)
        out = {}
        for i, name in enumerate(order, len(theta) - len(order)):
            value, mine = float(theta[i]), draws[:, i]
            out[name] = intervals.estimate(
                name, value, mine, method="jackknife", level=level, reference=reference
            )
        return out, together, apart

    def permutation_p(self, name: str, draws: int, seed: int) -> float:
        """p of the difference in ``name`` by swapping the labels of the two architectures within
        pairs (:mod:`.sign_flip_test`)."""
        problem, theta, _ = self.fit((name,))
        joint = problem.law
        assert isinstance(joint, Joint)
        jac = joint.jacobian(theta, problem.x, problem.y)
        of_first = np.arange(len(problem.y)) < len(self.parts[0])
        common = joint.index[0][self.law.names.index(name)]
        extra = np.where(of_first, 0.0, jac[common])  # moves the exponent of the second only
        return sign_flip(*contributions(problem, theta, extra, self.run), draws, seed)
