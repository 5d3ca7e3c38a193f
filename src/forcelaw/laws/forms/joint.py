"""Several groups fitted at once, with some shape parameters in common: the null model of a
comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Law


class Joint(Law):
    """One law for each group, of which the shapes in ``shared`` are common. Not in the table of
    laws: comparisons make it.

    theta is the groups' own parameters one after the other, then the shared shapes. Rows are sorted
    by group; x holds "group0", "group1", ... (each the prepared logs of its group) and y the
    concatenation.
    """

    name = "joint"
    formula = "one law per group with shared exponents"
    roles = ()
    coefficients = ()
    shapes = ()

    def __init__(self, law: Law, sizes: list[int], shared: tuple[str, ...]):
        super().__init__("zero")
        self.law, self.sizes, self.shared = law, sizes, shared
        own = [i for i, name in enumerate(law.names) if name not in shared]
        common = [i for i, name in enumerate(law.names) if name in shared]
        self.index = []
        for g in range(len(sizes)):
            index = np.empty(law.size, int)
            index[own] = g * len(own) + np.arange(len(own))
            index[common] = len(sizes) * len(own) + np.arange(len(common))
            self.index.append(index)
        self._size = len(sizes) * len(own) + len(common)

    @property
    def size(self) -> int:
        return self._size

    def residuals(
        self, theta: np.ndarray, x: Any, y: Any, jacobian: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        n = sum(self.sizes)
        r = np.empty((len(theta), n))
        jac = np.zeros((len(theta), self.size, n)) if jacobian else None
        start = 0
        for g, size in enumerate(self.sizes):
            part = slice(start, start + size)
            rg, jg = self.law.residuals(
                theta[:, self.index[g]], x[f"group{g}"], y[..., part], jacobian
            )
            r[:, part] = rg
            if jac is not None:
                jac[:, self.index[g], part] = jg
            start += size
        return r, jac

    def gather(self, thetas: list[np.ndarray]) -> np.ndarray:
        """theta [P] from the groups' own fits; shared shapes are averaged."""
        out, count = np.zeros(self.size), np.zeros(self.size)
        for index, theta in zip(self.index, thetas):
            out[index] += theta
            count[index] += 1
        return out / count
