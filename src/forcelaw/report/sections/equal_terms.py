"""How much more compute, how much more loss: every architecture against the first."""

from __future__ import annotations

from ...figures.laws import FLOPS, equal_loss
from ...figures.spec import Figure
from ..analysis import Analysis
from ..section import Section, illustrated
from ..series import LOSS


def section(analysis: Analysis) -> Section | None:
    """The figure, if there are pairs."""
    if not analysis.comparison.pairs:
        return None
    made = figure(analysis)
    return Section("equal_terms", made.title, illustrated(made))


def figure(analysis: Analysis) -> Figure:
    """Compute for equal loss and loss at equal compute, with intervals."""
    first = analysis.comparison.pairs[0].first
    items = []
    for pair in analysis.comparison.pairs:
        if pair.first == first and pair.multiplier is not None:
            items.append((pair.second, analysis.labelled(pair.second).look, pair.multiplier))
    return Figure(
        "equal_terms",
        "How much more compute, how much more loss",
        f"Left, how many times the compute of {first} each other architecture needs to reach the"
        " same loss: below one it needs less, and a line that falls towards low losses (to the"
        " left) gains as models get better; right, how their losses compare when the same compute"
        " is spent.",
        [
            equal_loss(items, first, f"compute in units of {first}'s", LOSS, compute=True),
            equal_loss(items, first, f"loss in units of {first}'s", FLOPS, compute=False),
        ],
        f"shaded: 95% interval, deleting whole runs · dotted: {first} · only where both were"
        " measured",
    )
