"""What the laws return: estimates with intervals, the proof of an optimum, predictions.

Every result is a dataclass that turns itself into plain JSON types (``as_json``); those that are
tables at heart also give their rows (``rows``). Losses are in the unit of the table's loss, N in
parameters, D in atoms or tokens, compute in FLOPs, time in device-hours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import stats

from ...errors import FitError
from ..forms.base import Arrays, Law

if TYPE_CHECKING:
    from .outlying import OutlyingRun
    from .small_sample import SmallSample

OK, AT_BOUND, NOT_IDENTIFIED = "ok", "at_bound", "not_identified"
NOT_CONVERGED, REFUSED = "not_converged", "refused"
TOO_WIDE, RUN_AWAY = 1e6, 1e30  # factors, and values, that no table determines
UNITS = {"n": "parameters", "d": "atoms or tokens", "c": "FLOPs", "h": "hours"}


class Result:
    """A dataclass of the laws. ``also``: properties that go into its JSON besides its fields. One
    with a ``summary`` shows that in print and in a notebook, not pages of arrays."""

    also: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "summary" in cls.__dict__:  # then dataclass() makes no other
            cls.__repr__ = cls.__dict__["summary"]  # type: ignore[method-assign]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; NaN and infinities become None."""
        names = [one.name for one in fields(self)]  # type: ignore[arg-type]
        return {name: clean(getattr(self, name)) for name in (*names, *self.also)}


@dataclass
class Estimate(Result):
    """A quantity with its standard error and interval (None where no interval was made)."""

    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""

    @property
    def bounded(self) -> bool:
        """Whether there is an interval with finite ends."""
        ends = (self.low, self.high)
        return all(end is not None and math.isfinite(end) for end in ends)

    @property
    def determined(self) -> bool:
        """Whether the number says anything: it is no run-away, and its interval, where it has one,
        spans less than :data:`TOO_WIDE` of it."""
        if not math.isfinite(self.value) or abs(self.value) > RUN_AWAY:
            return False
        if self.low is None or self.high is None:
            return True
        if self.low > 0:
            return self.high < TOO_WIDE * self.low
        return self.high - self.low < TOO_WIDE * max(abs(self.value), 1.0)

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

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
class FitResult(Result):
    """A law fitted to a table.

    status: ok; at_bound (the floor is at zero: usable, and said); not_identified, not_converged
    (numbers are there but should not be used); refused (the design cannot carry the fit: no
    numbers).

    objective is the sum over points of w rho(r). parameters and derived hold :class:`Estimate`.
    replicates [R, P] are the refits behind the bands of predictions (internal parameters).
    free_theta and free_replicates, where they are there, are the same with a floor that may go
    below zero: where some refit's floor stops at zero, the constrained ones move too little to say
    how uncertain the exponents are (see :meth:`sample`). small: the degrees of freedom of a
    jackknife. outlying: runs far off the law; they count.
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
    outlying: list[OutlyingRun] = field(default_factory=list)
    n_rows: int = 0
    n_runs: int = 0
    table: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if the numbers may be used: status ok, or the floor alone at its bound of zero."""
        return self.status in (OK, AT_BOUND)

    @property
    def reason(self) -> str:
        """The message on one line, or the status where there is none; empty for a plain ok."""
        return " ".join(self.message.split()) or ("" if self.ok else self.status.replace("_", " "))

    def require(self) -> FitResult:
        """Itself, or FitError if the fit is not usable."""
        if not self.ok:
            raise FitError(
                f"the fit is {self.status.replace('_', ' ')}: {self.message}",
                where=f"law {self.law.name}",
            )
        return self

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Parameters and derived quantities by name; a derived one replaces its namesake."""
        return {**self.parameters, **self.derived}

    def get(self, name: str) -> Estimate | None:
        """An estimate by name; None where the fit is not usable or has no such finite number."""
        found = self.estimates.get(name) if self.ok else None
        return found if found is not None and math.isfinite(found.value) else None

    def __getitem__(self, name: str) -> Estimate:
        if name in self.parameters:
            return self.parameters[name]
        if name in self.derived:
            return self.derived[name]
        raise KeyError(f"{name}: there are {', '.join(self.estimates)}")

    def quantities(self, theta: np.ndarray) -> tuple[Arrays, Arrays]:
        """Named parameters and derived quantities [B] of theta [B, P]."""
        values = self.law.natural(theta, self.centre)
        return values, self.law.derived(values, self.context)

    def quantity(self, name: str, theta: np.ndarray) -> np.ndarray:
        """One parameter or derived quantity [B] of theta [B, P]."""
        values, derived = self.quantities(theta)
        return derived[name] if name in derived else values[name]

    def best(self) -> np.ndarray:
        """theta [P]; FitError where the fit was refused."""
        if self.theta is None:
            raise FitError(
                f"a fit that was {self.status} predicts nothing: {self.message}",
                where=f"law {self.law.name}",
            )
        return self.theta

    def refits(self) -> np.ndarray:
        """Refits [R, P] behind the intervals; FitError where none were made."""
        if self.replicates is None:
            raise FitError("the fit has no intervals", where=f"law {self.law.name}")
        return self.replicates

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """theta [P] and refits [R, P] for the uncertainty of parameters and what is derived from
        them (not of losses); FitError where there are none."""
        if self.free_theta is not None and self.free_replicates is not None:
            return self.free_theta, self.free_replicates
        return self.best(), self.refits()

    def predict(self, **roles: Any) -> np.ndarray:
        """Loss at the given n, d, c, h (broadcast); a float for scalars."""
        out = np.exp(self.law.predict_log(self.best(), roles, self.centre)[0])
        return out if any(np.ndim(value) for value in roles.values()) else out[0]

    @property
    def noise(self) -> float:
        """Standard deviation of ln L of one more run about the law."""
        return float(
            np.hypot(self.diagnostics["sd_between_runs"], self.diagnostics["sd_within_runs"])
        )

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
        centre = self.law.predict_log(self.best(), roles, self.centre)[0]
        if self.replicates is None or len(self.replicates) < 2:
            nothing = np.full(centre.shape, np.nan)
            return Band(np.exp(centre), nothing, nothing.copy(), kind, level)
        draws = self.law.predict_log(self.replicates, roles, self.centre)
        df = max(self.n_runs - 1, 1)
        variance = spread(draws, centre, self.method) ** 2
        if kind != "mean":
            between, within = (
                self.diagnostics[f"sd_{what}_runs"] for what in ("between", "within")
            )
            variance = variance + between**2 + within**2
        half = stats.t.ppf(0.5 + level / 2, df) * np.sqrt(variance)
        return Band(np.exp(centre), np.exp(centre - half), np.exp(centre + half), kind, level)

    # -- output -----------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """One row for each estimate: kind (parameter or derived), name, value, se, low, high,
        method."""
        both = (("parameter", self.parameters), ("derived", self.derived))
        return [
            {"kind": kind, "name": name, **one.as_json()}
            for kind, many in both
            for name, one in many.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, without the internal arrays."""
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
                "parameters": self.parameters,
                "derived": self.derived,
                "level": self.level,
                "interval_method": self.method,
                "rows": self.n_rows,
                "runs": self.n_runs,
                "diagnostics": self.diagnostics,
                "outlying_runs": self.outlying,
                "table": self.table,
            }
        )

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
        for name, value in self.estimates.items():
            none = value.se is None or not value.determined or value.se > 10 * abs(value.value)
            se = "-" if none else f"{value.se:.4g}"
            span = "-" if value.low is None else f"[{value.low:.5g}, {value.high:.5g}]"
            lost = value.low is None and name in self.diagnostics.get("bounds_hit", [])
            span = span if value.determined and not lost else "not determined"
            shown = "-" if abs(value.value) > RUN_AWAY else f"{value.value:.6g}"
            lines.append(f"{name:8} {shown:>12} {se:>11} {span:>28}")
        return "\n".join([*lines, *note_lines([str(run) for run in self.outlying])])


def small_p(p: float | None) -> str:
    """A probability for a terminal: three decimals, and never "0.000"; "-" for none."""
    if p is None:
        return "-"
    return f"{p:.3f}" if not p < 0.001 else "< 0.001"


def named(name: str) -> str:
    """The start of a line about an architecture: "name: ", or nothing where there is no name."""
    return f"{name}: " if name else ""


def note_lines(notes: list[str], indent: str = "") -> list[str]:
    """Notes for a terminal, one a line."""
    return [f"{indent}note: {note}" for note in notes]


def spread(draws: np.ndarray, centre: np.ndarray | float, method: str) -> np.ndarray:
    """Standard error from replicates [R, ...]: jackknife about the estimate (CR3), else their
    standard deviation."""
    with np.errstate(invalid="ignore", over="ignore"):
        if method.startswith("jackknife"):
            count = len(draws)
            return np.sqrt((count - 1) / count * ((draws - centre) ** 2).sum(axis=0))
        return np.std(draws, axis=0, ddof=1)


def records(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table that is given by its columns (arrays or lists of one length)."""
    plain = {name: clean(values) for name, values in columns.items()}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def clean(value: Any) -> Any:
    """Plain JSON types; NaN and infinities become None."""
    if isinstance(value, Result):
        return value.as_json()
    if is_dataclass(value) and not isinstance(value, type):
        return clean(asdict(value))
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
