"""What a fit returns: estimates with intervals, the proof that it is an optimum, and
predictions."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from ...errors import FitError
from ..forms.base import Law

if TYPE_CHECKING:
    from .small_sample import SmallSample

OK, AT_BOUND, NOT_IDENTIFIED, NOT_CONVERGED, REFUSED = (
    "ok",
    "at_bound",
    "not_identified",
    "not_converged",
    "refused",
)


@dataclass
class Estimate:
    """A quantity with its standard error and interval (None where no interval was made)."""

    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass
class Band:
    """Predicted losses and their interval, arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kind: str = "mean"
    level: float = 0.95


@dataclass
class FitResult:
    """status: ok; at_bound (the floor is at zero: usable, and said); not_identified, not_converged
    (numbers are there but should not be used); refused (the design cannot carry the fit: no
    numbers).

    objective is the sum over points of w rho(r). parameters and derived hold :class:`Estimate`.
    replicates [R, P] are the refits behind the bands of predictions (internal parameters).
    free_theta and free_replicates, where they are there, are the same with a floor that may go
    below zero: where some refit's floor stops at zero, the constrained ones move too little to say
    how uncertain the exponents are (see :meth:`sample`). small: the degrees of freedom of a
    jackknife.
    """

    law: Law
    status: str
    message: str = ""
    objective: float = math.nan
    objective_kind: str = ""
    delta: float | None = None
    parameters: dict[str, Estimate] = field(default_factory=dict)
    derived: dict[str, Estimate] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    level: float = 0.95
    method: str = "none"
    theta: np.ndarray | None = None
    centre: dict[str, float] = field(default_factory=dict)
    replicates: np.ndarray | None = None
    free_theta: np.ndarray | None = None
    free_replicates: np.ndarray | None = None
    small: SmallSample | None = None
    n_rows: int = 0
    n_runs: int = 0
    table: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if the numbers may be used: status ok, or the floor alone at its bound of zero."""
        return self.status in (OK, AT_BOUND)

    def require(self) -> FitResult:
        """Itself, or FitError if the fit is not usable."""
        if not self.ok:
            raise FitError(
                f"the fit is {self.status.replace('_', ' ')}: {self.message}",
                where=f"law {self.law.name}",
            )
        return self

    def __getitem__(self, name: str) -> Estimate:
        if name in self.parameters:
            return self.parameters[name]
        if name in self.derived:
            return self.derived[name]
        raise KeyError(f"{name}: there are {', '.join([*self.parameters, *self.derived])}")

    def sample(self) -> tuple[np.ndarray, np.ndarray | None]:
        """theta [P] and refits [R, P] for the uncertainty of parameters and what is derived from
        them (not of losses)."""
        if self.free_replicates is not None:
            return self.free_theta, self.free_replicates
        return self._theta(), self.replicates

    def _theta(self) -> np.ndarray:
        if self.theta is None:
            raise FitError(
                f"a fit that was {self.status} predicts nothing: {self.message}",
                where=f"law {self.law.name}",
            )
        return self.theta

    def predict(self, **roles: Any) -> np.ndarray:
        """Loss at the given n, d, c, h (broadcast); a float for scalars."""
        out = np.exp(self.law.predict_log(self._theta(), roles, self.centre)[0])
        return out if any(np.ndim(value) for value in roles.values()) else out[0]

    def interval(self, kind: str = "mean", *, level: float | None = None, **roles: Any) -> Band:
        """Band around the prediction. ``mean``: where the law itself lies. ``new run``: where one
        more run would fall; it adds the spread between runs and the scatter within them."""
        if kind not in ("mean", "new run", "new_run"):
            raise FitError(
                f"there is no interval of kind {kind!r}",
                where="interval",
                remedy="use mean or new run",
            )
        level = self.level if level is None else level
        centre = self.law.predict_log(self._theta(), roles, self.centre)[0]
        if self.replicates is None or len(self.replicates) < 2:
            nothing = np.full(centre.shape, np.nan)
            return Band(np.exp(centre), nothing, nothing.copy(), kind, level)
        draws = self.law.predict_log(self.replicates, roles, self.centre)
        df = max(self.n_runs - 1, 1)
        variance = spread(draws, centre, self.method) ** 2
        if kind != "mean":
            variance = (
                variance
                + self.diagnostics["sd_between_runs"] ** 2
                + self.diagnostics["sd_within_runs"] ** 2
            )
        half = stats.t.ppf(0.5 + level / 2, df) * np.sqrt(variance)
        return Band(np.exp(centre), np.exp(centre - half), np.exp(centre + half), kind, level)

    # -- output ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return clean(
            {
                "status": self.status,
                "ok": self.ok,
                "message": self.message,
                "law": self.law.name,
                "formula": self.law.formula,
                "floor": self.law.floor,
                "objective": self.objective,
                "objective_kind": self.objective_kind,
                "delta": self.delta,
                "parameters": {name: asdict(value) for name, value in self.parameters.items()},
                "derived": {name: asdict(value) for name, value in self.derived.items()},
                "level": self.level,
                "interval_method": self.method,
                "rows": self.n_rows,
                "runs": self.n_runs,
                "diagnostics": self.diagnostics,
                "table": self.table,
            }
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """The result as JSON text, written to ``path`` if given. What is not a finite number is
        null."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    def summary(self) -> str:
        """The result for a terminal."""
        lines = [
            f"{self.law.formula}   ({self.n_rows} points, {self.n_runs} runs)",
            f"status: {self.status}",
        ]
        if self.message:
            lines.append(f"  {self.message}")
        if not self.parameters:
            return "\n".join(lines)
        kind = self.objective_kind + (f", delta = {self.delta:.3g}" if self.delta else "")
        lines.append(f"objective: {self.objective:.9g}  (sum over points, {kind})")
        lines.append(
            f"{'':8} {'value':>12} {'se':>11} {f'{self.level:.0%} interval':>28}   {self.method}"
        )
        for name, value in {**self.parameters, **self.derived}.items():
            se = "-" if value.se is None else f"{value.se:.4g}"
            span = "-" if value.low is None else f"[{value.low:.5g}, {value.high:.5g}]"
            lines.append(f"{name:8} {value.value:12.6g} {se:>11} {span:>28}")
        return "\n".join(lines)


def small_p(p: float) -> str:
    """A probability for a terminal: three decimals, and never "0.000"."""
    return f"{p:.3f}" if not p < 0.001 else "< 0.001"


def spread(draws: np.ndarray, centre: np.ndarray, method: str) -> np.ndarray:
    """Standard error from replicates [R, ...]: jackknife about the estimate (CR3), else their
    standard deviation."""
    with np.errstate(invalid="ignore", over="ignore"):
        if method.startswith("jackknife"):
            count = len(draws)
            return np.sqrt((count - 1) / count * ((draws - centre) ** 2).sum(axis=0))
        return np.std(draws, axis=0, ddof=1)


def clean(value: Any) -> Any:
    """Plain JSON types; NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, np.ndarray):
        return [clean(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return clean(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
