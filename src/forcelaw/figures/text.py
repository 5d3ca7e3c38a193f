"""Numbers and lists as people write them, on figures, pages and terminals."""

from __future__ import annotations

import math
from typing import Any


def pretty(value: float | None, digits: int = 3) -> str:
    """A number for people, to ``digits`` significant digits: 0.123, 45.6, 12.3k, 4.56M, 7.8e12; "-"
    for none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # rounded first, so that 999,999 is 1M and not 1000k
    size = abs(value)
    if size >= 1e9 or size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    scale, unit = (1e6, "M") if size >= 1e6 else (1e3, "k") if size >= 1e3 else (1.0, "")
    shown = value / scale
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(shown))))
    text = f"{shown:.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def round_numbers(low: float, high: float, beyond: int = 0) -> list[float]:
    """1, 2, 5, 10, ... about a short logarithmic axis from ``low`` to ``high``, more of them on a
    very short one, ``beyond`` decades further at both ends."""
    steps = (1, 2, 5) if math.log10(high / low) > 0.6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    first, last = math.floor(math.log10(low)) - beyond, math.ceil(math.log10(high)) + beyond
    return [step * 10.0**power for power in range(first, last + 1) for step in steps]


def decimal(value: float, digits: int) -> str:
    """With ``digits`` decimals; from 100 on, where an exponent says nothing any more, as
    :func:`pretty` writes it."""
    return f"{value:.{digits}f}" if abs(value) < 100 else pretty(value, 2)


def interval_text(value: Any, digits: int) -> str:
    """ "value [low, high]" of an estimate; "-" for none."""
    if value is None:
        return "-"
    text = decimal(value.value, digits)
    if value.low is None or value.high is None:
        return text
    return f"{text} [{decimal(value.low, digits)}, {decimal(value.high, digits)}]"


def names(items: list[str]) -> str:
    """A, B and C."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
