"""Figures of what stands beside the exponents: compute for equal loss, loss at equal compute, and
how sure the floor is."""

from __future__ import annotations

from ..figures.spec import Figure, Panel, Series, pretty
from .results import Analysis, ArchitectureResult, Comparison
from .series import FLOPS, LOSS, or_empty

CAP = (
    4.0  # of the rise of the misfit in the figure of the floor: beyond, a floor is excluded anyway
)


def equal_terms(analysis: Analysis) -> Figure:
    """Compute for equal loss and loss at equal compute, of every architecture against the first,
    with intervals."""
    first = next(
        (
            arch.label
            for arch in analysis.architectures
            if any(arch.label in (one.first, one.second) for one in analysis.comparisons)
        ),
        "",
    )
    mine = [one for one in analysis.comparisons if one.first == first]
    compute = Panel(LOSS, f"compute in units of {first}'s", title="compute for the same loss")
    loss = Panel(FLOPS, f"loss in units of {first}'s", title="loss at the same compute")
    for one in mine:
        arch = next(arch for arch in analysis.architectures if arch.label == one.second)
        _add(compute, arch, one, one.multiplier_curve, "times the compute")
        _add(loss, arch, one, one.ratio_curve, "times the loss")
    for panel in (compute, loss):
        xs = [x for series in panel.series for x in series.x]
        if xs:
            panel.series.append(
                Series(
                    [min(xs), max(xs)],
                    [1.0, 1.0],
                    "line",
                    name=first,
                    colour="#6b7280",
                    dash="dot",
                    hover=f"{first} itself",
                )
            )
    return Figure(
        "equal_terms",
        "How much more compute, how much more loss",
        f"Left, how many times the compute of {first or 'the first architecture'} each other"
        " architecture needs to reach the same loss: below one it needs less, and a line that"
        " falls towards low losses (to the left) gains as models get better; right, how their"
        " losses compare when the same compute is spent.",
        [or_empty(panel, "fewer than two frontiers to compare") for panel in (compute, loss)],
        f"shaded: 95% interval, deleting whole runs · dotted: {first or 'the reference'} · only"
        " where both were measured",
    )


def _add(panel: Panel, arch: ArchitectureResult, one: Comparison, curve: list, what: str) -> None:
    if not curve:
        return
    xs, ys, low, high = (list(column) for column in zip(*curve, strict=True))
    common = {
        "name": f"{one.second} against {one.first}",
        "group": arch.label,
        "colour": arch.look.colour,
    }
    if all(value is not None for value in (*low, *high)):
        panel.series.append(Series(xs, ys, "band", low=low, high=high, opacity=0.15, **common))
    hover = [f"{one.second}: {pretty(y)} {what}" for y in ys]
    marks = {"symbol": arch.look.symbol, "marker": arch.look.marker, "size": 5}
    panel.series.append(Series(xs, ys, "both", width=2.0, hover=hover, **marks, **common))


def floors(analysis: Analysis) -> Figure:
    """The profile of the floor of every architecture, and what the floor does to the exponent."""
    profile = Panel(
        "floor E of the loss",
        "misfit (1 = edge of the 95% interval)",
        title="how sure is the floor?",
        x_log=False,
        y_log=False,
    )
    effect = Panel(
        "floor E of the loss",
        "exponent αβ/(α+β)",
        title="what the floor does to γ",
        x_log=False,
        y_log=False,
    )
    ends: list[float] = []
    for arch in analysis.architectures:
        found = arch.profile
        if found is None:
            continue
        common = {"group": arch.label, "colour": arch.look.colour}
        ends.append(found.high)
        hover = f"{arch.label}: floor {pretty(found.low)} to {pretty(found.high)}"
        profile.series.append(
            Series(
                found.floor, found.rise, "line", name=arch.label, width=2.0, hover=hover, **common
            )
        )
        floor = arch.surface.get("E")
        points = [
            (0.0, found.gamma_zero),
            (floor.value if floor else 0.0, found.gamma_free),
            (found.high, found.gamma_high),
        ]
        xs, ys = (
            zip(*[p for p in points if p[1] == p[1]], strict=True)
            if any(p[1] == p[1] for p in points)
            else ((), ())
        )
        marks = {"symbol": arch.look.symbol, "marker": arch.look.marker, "size": 7}
        effect.series.append(
            Series(
                xs,
                ys,
                "both",
                name=arch.label,
                hover=f"{arch.label}: γ at this floor",
                **marks,
                **common,
            )
        )
    if ends:
        profile.x_range = effect.x_range = (0.0, 1.3 * max(ends))
        profile.y_range = (0.0, CAP)
        profile.series.append(
            Series(list(profile.x_range), [1.0, 1.0], "line", name="95%", dash="dot", hover="95%")
        )
    return Figure(
        "floors",
        "The floor: what no size and no data would remove",
        "Left, how much worse the law fits when its floor is held at another value: where a curve"
        " lies below the dotted line the data allow that floor, and one that is still below it at"
        " zero cannot tell whether there is a floor; right, the exponent that goes with a floor of"
        " zero, the fitted one and the largest one allowed.",
        [or_empty(panel, "no floor was fitted") for panel in (profile, effect)],
        "dotted: edge of the 95% interval · marks: floor zero, fitted, largest",
    )
