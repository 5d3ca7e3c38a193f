"""What a call of the laws gave, or why it gave nothing: the laws' own objects, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import FitError
from ..laws.fit.result import Estimate, FitResult

T = TypeVar("T")


def finite(value: Estimate | None) -> Estimate | None:
    """The estimate without what is not finite: None without a value, no interval without two
    ends."""
    if value is None or value.value is None or not math.isfinite(value.value):
        return None
    return value if value.bounded else Estimate(value.value)


def ends(value: Estimate | None) -> tuple[float | None, float | None, float | None]:
    """Value, low and high; all None where there is no estimate."""
    return (None, None, None) if value is None else (value.value, value.low, value.high)


def row_of(value: Estimate | None, name: str = "value") -> dict[str, float | None]:
    """The same under ``name``, "low" and "high"."""
    return dict(zip((name, "low", "high"), ends(value), strict=True))


def one_line(message: str) -> str:
    """A message of the laws on one line."""
    return " ".join(str(message).split()) or "the laws gave no reason"


@dataclass
class Outcome(Generic[T]):
    """A result of the laws; reason: why it may not be used, empty if it may; trend: why its numbers
    describe a trend only, empty if they do not."""

    result: T | None = None
    reason: str = ""
    trend: str = ""

    @property
    def ok(self) -> bool:
        """Whether the numbers may be used."""
        return self.result is not None and not self.reason

    @property
    def message(self) -> str:
        """What the laws said of it, also of a result that may be used."""
        said = getattr(getattr(self.result, "fit", self.result), "message", "")
        return self.reason or (one_line(said) if said else "")

    def get(self, name: str) -> Estimate | None:
        """An estimate by name; None where there is no such number or it may not be used."""
        return finite(_number(self.result, name)) if self.ok else None


def _number(result: Any, name: str) -> Estimate | None:
    fit = result if isinstance(result, FitResult) else getattr(result, "fit", None)
    if isinstance(fit, FitResult):
        return fit.estimates.get(name)
    return getattr(result, name, None)


def attempt(call: Callable[[], T]) -> Outcome[T]:
    """What ``call`` returns, or why the laws refuse it."""
    try:
        return Outcome(call())
    except FitError as error:
        return Outcome(None, one_line(error.what))


def of_fit(result: FitResult) -> Outcome[FitResult]:
    """A fit with the reason why it may not be used, if there is one."""
    return Outcome(result, "" if result.ok else result.reason)
