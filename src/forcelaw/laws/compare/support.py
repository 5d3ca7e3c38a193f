"""Is a difference of exponents there in the ratios of losses?

Ratios need no law, so they come first: a difference that they do not show is not claimed. They are
of whole losses, though, and an exponent is one of a loss less its floor. With floors the two can
differ in sign: the law of the larger exponent may have the larger floor. So where ratios do not
show a difference, the fitted laws are asked for the ratios at the same runs, with their floors and
without. Where the laws have the slope that is observed, and would show the difference without their
floors, law and ratios agree: the difference is one of the reducible part, and no surer than the
floors are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ...table.runs import Runs
from ..fit.result import FitResult
from .ratios import Ratios, ratios
from .slopes import Slope

if TYPE_CHECKING:
    from .compare import Difference

RATIO_OF = {"alpha": "n", "beta": "d", "gamma": "c"}  # the extra slope that shows a difference
NOT_SEEN, SUPPORTED, NOT_SUPPORTED = "not seen", "supported", "not supported"
REDUCIBLE = "of the reducible part"
# extra slope in a variable of the laws' own ratios, with their floors (True) or without
Predicted = Callable[[str, bool], float | None]


def support(test: Difference, found: Ratios | None, predicted: Predicted | None = None) -> None:
    """Hold a difference against the ratios of losses and put the verdict into it. ``predicted``:
    what the fitted laws say of the same ratios (see :func:`predicted_slopes`)."""
    slope = found.slope(RATIO_OF[test.quantity]) if found and test.quantity in RATIO_OF else None
    if slope is None or slope.p is None:
        return
    test.ratio_slope = slope.value
    if test.p >= 0.05:
        test.verdict = NOT_SEEN
    elif slope.p < 0.05 and slope.value * test.difference > 0:
        test.verdict = SUPPORTED
    else:
        test.verdict = NOT_SUPPORTED
        if predicted is not None:
            test.ratio_of_laws = predicted(slope.variable, True)
            test.ratio_without_floors = predicted(slope.variable, False)
            if _by_floors(test, slope):
                test.verdict = REDUCIBLE


def _by_floors(test: Difference, slope: Slope) -> bool:
    """Whether the laws have the observed slope of the ratio, and without their floors one that is
    beyond its interval on the side of the difference."""
    laws, without = test.ratio_of_laws, test.ratio_without_floors
    if laws is None or without is None or slope.low is None or slope.high is None:
        return False
    beyond = without > slope.high if test.difference > 0 else without < slope.low
    return slope.low <= laws <= slope.high and beyond and without * test.difference > 0


def support_words(test: Difference) -> str:
    """The verdict in a line, where there is something to say."""
    if test.verdict not in (SUPPORTED, NOT_SUPPORTED, REDUCIBLE):
        return ""
    said = f"{test.verdict}: the ratios show {test.ratio_slope:+.3f}"
    if test.verdict == REDUCIBLE:
        return (
            f"{said}, as these laws do ({test.ratio_of_laws:+.3f}); without their floors it would"
            f" be {test.ratio_without_floors:+.3f}"
        )
    if test.ratio_of_laws is not None:
        said += f" (these laws {test.ratio_of_laws:+.3f})"
    return said


def predicted_slopes(runs: Runs, names: Sequence[str], fits: Sequence[FitResult]) -> Predicted:
    """Extra slopes of the ratios between two architectures of ``runs``, with the losses that the
    laws ``fits`` give at their rows in place of those observed. Made when asked for."""

    @cache
    def made(floors: bool) -> Ratios:
        loss = runs["loss"].copy()
        for name, one in zip(names, fits):
            rows = runs.group == runs.group_names.index(name)
            own = one.predict(**{role: runs[role][rows] for role in one.law.roles})
            loss[rows] = own if floors else own - one.parameters[one.law.floor_name].value
        loss = np.maximum(loss, np.finfo(float).tiny)
        return ratios(replace(runs, values={**runs.values, "loss": loss}), *names)

    def slope(variable: str, floors: bool) -> float | None:
        found = made(floors).slope(variable)
        return None if found is None else found.value

    return slope
