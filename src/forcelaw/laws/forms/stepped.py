"""A law whose losses step where a factor changes along N: ln L = ln L_0(N, D, ...) + sum_k s_k
[factor at or beyond its k-th value].

A rule that adds layers at certain sizes makes such steps, and a law without them takes them for a
part of its exponent in N.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import FitError
from ...table.runs import Runs
from .base import Arrays, Law, Terms

MOST = 0.3
ROLE = "step of "


class Stepped(Law):
    """``law`` with a step for each of ``steps``, roles of the table that :func:`with_steps` makes:
    e to the power 1 beyond the step, 1 before it. Predictions that do not give them are made beyond
    all steps."""

    projects_exactly = False

    def __init__(self, law: Law, steps: tuple[str, ...]):
        super().__init__(law.floor)
        self.law, self.steps = law, steps
        self.name, self.formula = law.name, f"{law.formula}, times exp(step) beyond each step"  # type: ignore[misc]
        self.roles, self.coefficients = law.roles + steps, law.coefficients
        self.shapes, self.logs, self.soft = law.shapes + steps, law.logs, law.soft + steps
        self.tied, self.one_optimum = law.tied, law.one_optimum  # type: ignore[misc]

    def residuals(
        self, theta: np.ndarray, x: Arrays, y: np.ndarray | float, jacobian: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        inner = self.law.size
        r, jac = self.law.residuals(theta[:, :inner], x, y, jacobian)
        z = np.stack([x[step] for step in self.steps])  # [steps, n]
        r = r + theta[:, inner:] @ z
        if jac is None:
            return r, None
        shape = (len(theta), *z.shape)
        return r, np.concatenate([jac, np.broadcast_to(z, shape)], axis=1)

    def least_levels(self, role: str) -> int:
        return 2 if role in self.steps else self.law.least_levels(role)

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        return self.law.terms(self._inner(psi), x)

    def grid(self, x: Arrays) -> np.ndarray:
        inner = self.law.grid(x)
        return np.concatenate([inner, np.zeros((len(inner), len(self.steps)))], axis=1)

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.law.bounds(x)
        most = np.full(len(self.steps), MOST)
        return np.concatenate([low, -most]), np.concatenate([high, most])

    def prepare(
        self, values: Arrays, centre: dict[str, float] | None = None
    ) -> tuple[Arrays, dict[str, float]]:
        """Steps are not centred: the law itself, its floor included, is that before all steps."""
        x, used = super().prepare(values, centre)
        if centre is None:
            x |= {step: x[step] + used[step] for step in self.steps}
            used |= dict.fromkeys(self.steps, 0.0)
        return x, used

    def centre_shift(self, psi: np.ndarray, centre: dict[str, float]) -> np.ndarray:
        return self.law.centre_shift(self._inner(psi), centre)

    def shape_shift(self, name: str, centre: dict[str, float]) -> float:
        return self.law.shape_shift(name, centre)

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        return self.law.derived(values, context)

    def predict_log(
        self, theta: np.ndarray, values: dict[str, Any], centre: dict[str, float]
    ) -> np.ndarray:
        return super().predict_log(theta, dict.fromkeys(self.steps, np.e) | values, centre)

    def _inner(self, psi: np.ndarray) -> np.ndarray:
        return psi[:, : len(self.law.shapes)]


def along(labels: np.ndarray, log: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The distinct labels in the order of their mean ``log`` [rows] (None: in their own), and the
    place of each row [rows] in it."""
    kinds, index = np.unique(labels, return_inverse=True)
    if log is None:
        return kinds, index
    order = np.argsort([log[index == k].mean() for k in range(len(kinds))])
    return kinds[order], np.argsort(order)[index]


def with_steps(runs: Runs, factor: str) -> tuple[Runs, tuple[str, ...]]:
    """The table with a role for each step of a factor, and their names: the values of the column in
    the order of their N. No step where the factor has one value or none, or where its values do not
    follow N (runs of one size differ in it)."""
    labels = runs.labels(factor)
    if labels is None or "n" not in runs:
        return runs, ()
    log = np.log(runs["n"])
    kinds, place = along(labels, log)
    ends = [(log[place == k].min(), log[place == k].max()) for k in range(len(kinds))]
    if any(after[0] <= before[1] for before, after in pairwise(ends)):
        return runs, ()
    made = {
        f"{ROLE}{factor} to {kinds[k]}": np.exp((place >= k).astype(float))
        for k in range(1, len(kinds))
    }
    return replace(runs, values=runs.values | made), tuple(made)


def must_step(runs: Runs, factor: str) -> tuple[Runs, tuple[str, ...]]:
    """:func:`with_steps`; FitError where the factor makes no step."""
    found, steps = with_steps(runs, factor)
    if not steps:
        raise FitError(
            f"{factor!r} does not change along N in steps",
            where="factor",
            remedy="name a column that has one value for each size, and several over all",
        )
    return found, steps
