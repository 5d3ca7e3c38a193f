"""What a law is: a sum of terms exp(coefficient + g(exponents, data)) and, above it, a floor.

    L(x) = sum_k exp(c_k + g_k(psi, x)) + E

All laws here have this shape (power laws, surfaces, breaks, shifts, repeats), so that one solver
serves them all: it works on r = ln Lhat - ln L with the exact Jacobian, which for a log-sum-exp is
made of the softmax weights q_k of the terms. Logarithms of the data are centred (u = ln N - mean ln
N): uncentred, a coefficient and its exponent correlate above .99 and the problem's condition number
is near 1e11.

A new law is one file with a subclass of :class:`Law` that gives ``terms`` and ``grid``, and one
line in ``forms/__init__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ...errors import FitError

Floor = str | float  # "free", "zero", or the value
# a term exp(-30) below the losses is nothing: coefficients are kept above this, relative to ln L
BELOW = 30.0
Arrays = dict[str, np.ndarray]
Terms = tuple[list[np.ndarray], list[tuple[int, int, np.ndarray]]]


def mesh(*axes: Any) -> np.ndarray:
    """All combinations of the values of the axes: [S, number of axes]."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


class Law:
    """A law with named parameters.

    theta [P] (or [B, P]) is the internal vector: K log-coefficients (at the centre of the data),
    the floor E itself if it is free (its bound at zero is then a bound like any other, not a run to
    minus infinity), then Q shape parameters psi. ``natural`` turns it into the values that people
    quote.
    """

    name: ClassVar[str]
    formula: str
    roles: tuple[str, ...]  # columns of the table the law is a function of
    coefficients: tuple[str, ...]
    shapes: tuple[str, ...]  # names of psi, natural form
    logs: tuple[str, ...] = ()  # shapes whose internal form is the logarithm
    floor_name: ClassVar[str] = "E"
    default_floor: ClassVar[Floor] = "free"
    tied: Mapping[str, str] = MappingProxyType({})  # shape that is given by another one -> it
    # whether the best N and D for a cost k N^p D^q have a closed form (see decide.allocation)
    closed_optimum: ClassVar[bool] = False
    soft: tuple[str, ...] = ()  # shapes that may end at a bound without spoiling the rest
    one_optimum: ClassVar[bool] = False  # soft shapes, yet starts that agree may be trusted
    # shape that is zero in the plainer law, whose companions then mean nothing (see ``plainer``)
    change: ClassVar[str] = ""
    # False where ``terms`` is an approximation that only serves the starts
    projects_exactly: ClassVar[bool] = True
    levels: ClassVar[int] = 3  # least number of distinct values of each role

    def __init__(self, floor: Floor | None = None, **options: Any):
        floor = self.default_floor if floor is None else floor
        if isinstance(floor, str) and floor not in ("free", "zero"):
            raise FitError(
                f"the floor is {floor!r}",
                where=f"law {self.name}",
                remedy="give free, zero or a number",
            )
        if not isinstance(floor, str) and not (np.isfinite(floor) and floor >= 0):
            raise FitError(
                f"the floor is {floor}",
                where=f"law {self.name}",
                remedy="give a number of at least 0",
            )
        self.floor: Floor = "zero" if floor == 0 else floor
        if options:
            raise FitError(f"law {self.name} has no option {', '.join(options)}", where="law")

    # -- names and layout -------------------------------------------------------------------------

    @property
    def free_floor(self) -> bool:
        return self.floor == "free"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters in the order of theta."""
        return self.coefficients + ((self.floor_name,) if self.free_floor else ()) + self.shapes

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def n_coefficients(self) -> int:
        return len(self.coefficients)

    @property
    def n_columns(self) -> int:
        """Coefficients and the free floor: the parameters that enter linearly."""
        return self.n_coefficients + int(self.free_floor)

    @property
    def log_floor(self) -> float | None:
        """ln E where the floor is given and not zero."""
        return float(np.log(self.floor)) if not isinstance(self.floor, str) else None

    # -- to be given by each law ------------------------------------------------------------------

    def terms(self, psi: np.ndarray, x: Arrays) -> Terms:
        """g_k [B, n] for each coefficient, and (k, q, dg_k/dpsi_q [B, n] or [n]) for those that are
        not zero. psi [B, Q]; x holds the centred logs of the roles, [n]."""
        raise NotImplementedError

    def grid(self, x: Arrays) -> np.ndarray:
        """Shape parameters [S, Q] at which the variable-projection start looks."""
        raise NotImplementedError

    def derived(self, values: Arrays, context: dict[str, Any]) -> Arrays:
        """Quantities that follow from the parameters (arrays over a batch), e.g. a, b, gamma."""
        return {}

    def context(self, runs: Any, cluster: np.ndarray | None = None) -> dict[str, Any]:
        """What ``derived`` needs from the table besides the parameters; with ``cluster`` labels
        [n], the same without each cluster in turn (arrays [G])."""
        return {}

    def least_levels(self, role: str) -> int:
        """Least number of distinct values of a role that the law can be fitted to."""
        return self.levels

    def bounds(self, x: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds [Q] of psi: wide, there to stop a run-away, and reported when
        hit."""
        return np.full(len(self.shapes), -20.0), np.full(len(self.shapes), 20.0)

    def plainer(self) -> tuple[Law, dict[str, str]] | None:
        """The law without what the data have to show first (a break), and its names for the
        parameters of this one; None where there is nothing of the kind."""
        return None

    def unseen(self, theta: np.ndarray, x: Arrays) -> str:
        """Why ``theta`` puts what ``change`` stands for where the data cannot see it; empty if it
        does not."""
        return ""

    def centre_shift(self, psi: np.ndarray, centre: dict[str, float]) -> np.ndarray:
        """[B, K]: what is added to the internal log-coefficients to have them at uncentred data."""
        raise NotImplementedError

    # -- what the solver uses ---------------------------------------------------------------------

    def prepare(
        self, values: Arrays, centre: dict[str, float] | None = None
    ) -> tuple[Arrays, dict[str, float]]:
        """Centred logs of the roles, and the centre."""
        logs = {role: np.log(np.asarray(values[role], float)) for role in self.roles}
        centre = (
            {role: float(value.mean()) for role, value in logs.items()}
            if centre is None
            else centre
        )
        return {role: value - centre[role] for role, value in logs.items()}, centre

    def residuals(
        self,
        theta: np.ndarray,
        x: Arrays,
        y: np.ndarray | float,
        jacobian: bool = True,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """r = ln Lhat - y [B, n] and dr/dtheta [B, P, n]. theta [B, P]; y = ln L [n] (0 gives ln
        Lhat itself)."""
        k, c = self.n_coefficients, self.n_columns
        gs, dgs = self.terms(theta[:, c:], x)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            parts = [np.exp(np.add(g, theta[:, i, None] - y)) for i, g in enumerate(gs)]
            if self.free_floor:
                parts.append(theta[:, k, None] * np.exp(-y))
            total = sum(parts[1:], parts[0])
            if self.log_floor is not None:
                total = total + np.exp(self.log_floor - y)
            r = np.log(total)
            if not jacobian:
                return r, None
            jac = np.zeros((theta.shape[0], self.size, r.shape[1]))
            inverse = 1.0 / total
            for i, part in enumerate(parts[:k]):
                np.multiply(part, inverse, out=jac[:, i])
            if self.free_floor:
                np.multiply(np.exp(-y), inverse, out=jac[:, k])
            for i, q, dg in dgs:
                jac[:, c + q] += jac[:, i] * dg
        return r, jac

    def jacobian(self, theta: np.ndarray, x: Arrays, y: np.ndarray | float = 0.0) -> np.ndarray:
        """d ln Lhat / dtheta [P, n] at one theta [P]."""
        jac = self.residuals(theta[None], x, np.atleast_1d(np.asarray(y, float)))[1]
        assert jac is not None
        return jac[0]

    def natural(self, theta: np.ndarray, centre: dict[str, float]) -> Arrays:
        """Named parameter values [B] of theta [B, P]; a given floor is included."""
        theta = np.atleast_2d(theta)
        psi = theta[:, self.n_columns :]
        with np.errstate(over="ignore"):
            coefficients = np.exp(theta[:, : self.n_coefficients] + self.centre_shift(psi, centre))
            out = {name: coefficients[:, i] for i, name in enumerate(self.coefficients)}
            if self.free_floor:
                out[self.floor_name] = theta[:, self.n_coefficients]
            else:
                out[self.floor_name] = np.full(
                    len(theta), 0.0 if self.floor == "zero" else float(self.floor)
                )
            for i, name in enumerate(self.shapes):
                out[name] = (
                    np.exp(psi[:, i] + self.shape_shift(name, centre))
                    if name in self.logs
                    else psi[:, i]
                )
            for name, leader in self.tied.items():
                out[name] = out[leader]
        return out

    def shape_shift(self, name: str, centre: dict[str, float]) -> float:
        """What is added to the internal logarithm of a shape in ``logs`` to undo the centring of
        its variable."""
        return 0.0

    def internal(self, values: dict[str, float], centre: dict[str, float]) -> np.ndarray:
        """theta [P] of named values (the inverse of ``natural``)."""
        psi = np.array(
            [
                (
                    np.log(values[name]) - self.shape_shift(name, centre)
                    if name in self.logs
                    else values[name]
                )
                for name in self.shapes
            ],
            float,
        )
        shift = self.centre_shift(psi[None], centre)[0]
        with np.errstate(divide="ignore"):
            head = [np.log(values[name]) - shift[i] for i, name in enumerate(self.coefficients)]
            if self.free_floor:
                head.append(values[self.floor_name])
        return np.array([*head, *psi], float)

    def all_bounds(self, x: Arrays, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds [P] of theta, relative to the losses."""
        low, high = self.bounds(x)
        lowest, highest = float(y.min()) - BELOW, float(y.max()) + BELOW
        head_low, head_high = (
            [lowest] * self.n_coefficients,
            [highest + BELOW] * self.n_coefficients,
        )
        if self.free_floor:
            head_low, head_high = [*head_low, 0.0], [*head_high, float(np.exp(y.max()))]
        return np.array([*head_low, *low]), np.array([*head_high, *high])

    def predict_log(
        self, theta: np.ndarray, values: dict[str, Any], centre: dict[str, float]
    ) -> np.ndarray:
        """ln Lhat [B, n] of theta [B, P] at the given roles."""
        missing = [role for role in self.roles if values.get(role) is None]
        if missing:
            raise FitError(
                f"the law {self.name} needs {', '.join(missing)} to predict", where=self.formula
            )
        arrays = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(values[role], float)) for role in self.roles)
        )
        x, _ = self.prepare(dict(zip(self.roles, arrays)), centre)
        return self.residuals(np.atleast_2d(theta), x, np.zeros(1), jacobian=False)[0]
