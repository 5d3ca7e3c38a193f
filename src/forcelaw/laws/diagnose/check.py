"""Checks that an exponent is one: each is a file with a function that returns a :class:`Check`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIGNIFICANT = 0.01  # of each check: eight at 5% would call a third of sound studies unsound


@dataclass
class Check:
    """passed: True, False, or None where the table cannot tell. detail: what was found, in a
    sentence. remedy: the runs that would mend it. data: arrays and rows for tables and figures."""

    name: str
    passed: bool | None
    detail: str
    remedy: str = ""
    p: float | None = None
    data: dict[str, Any] = field(default_factory=dict)
