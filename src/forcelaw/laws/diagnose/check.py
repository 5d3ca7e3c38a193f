"""Checks that an exponent is one: each is a file with a function that returns a :class:`Check`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from ..fit.result import Result

SIGNIFICANT = 0.01  # of each check: eight at 5% would call a third of sound studies unsound


@dataclass
class Check(Result):
    """passed: True, False, or None where the table cannot tell. detail: what was found, in a
    sentence. remedy: the runs that would help. data: arrays and rows for tables and figures."""

    name: str
    passed: bool | None
    detail: str
    remedy: str = ""
    p: float | None = None
    data: dict[str, Any] = field(default_factory=dict)


def judge(name: str, p: float, bad: str, good: str, *, remedy: str, data: dict[str, Any]) -> Check:
    """A check that fails where ``p`` is below :data:`SIGNIFICANT`. bad and good: what is said then;
    "{p}" in them becomes p."""
    if p < SIGNIFICANT:
        return Check(name, False, bad.replace("{p}", f"p = {p:.2g}"), remedy, p, data)
    return Check(name, True, good.replace("{p}", f"p = {p:.2f}"), "", p, data)


def t_test(value: float, se: float, df: int) -> float:
    """Two-sided p of a value with a standard error."""
    return float(2 * stats.t.sf(abs(value) / max(se, 1e-300), df))
