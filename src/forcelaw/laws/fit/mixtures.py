"""Central intervals of mixtures of sampling distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq


@dataclass
class Part:
    """One form's sampling distribution on the scale of a quantity: Student's t with a scale for
    each side, so that the form's own interval comes out if it stands alone."""

    weight: float
    value: float
    low: float
    high: float
    df: float

    def widened(self, sd: float, level: float) -> Part:
        """With another error of standard deviation ``sd``, independent of what the ends hold."""
        more = float(stats.t.ppf(0.5 + level / 2, self.df)) * sd
        low = self.value - float(np.hypot(self.value - self.low, more))
        high = self.value + float(np.hypot(self.high - self.value, more))
        return Part(self.weight, self.value, low, high, self.df)


def mixture(parts: list[Part], level: float) -> tuple[float, float]:
    """Central interval of a mixture of :class:`Part`."""
    if len(parts) == 1:
        return parts[0].low, parts[0].high
    lows, highs = [p.low for p in parts], [p.high for p in parts]
    size = max(max(highs) - min(lows), 1e-12)
    span = min(lows) - 3 * size, max(highs) + 3 * size

    def below(z: float) -> float:
        total = 0.0
        for part in parts:
            side = part.value - part.low if z < part.value else part.high - part.value
            scale = max(side, 1e-9 * size) / stats.t.ppf(0.5 + level / 2, part.df)
            total += part.weight * float(stats.t.cdf((z - part.value) / scale, part.df))
        return total

    def quantile(q: float) -> float:
        if below(span[0]) >= q:
            return span[0]
        if below(span[1]) <= q:
            return span[1]
        return float(brentq(lambda z: below(z) - q, *span, xtol=1e-6 * size))

    return quantile(0.5 - level / 2), quantile(0.5 + level / 2)
