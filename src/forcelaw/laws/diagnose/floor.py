"""Is there a floor, and is it one?"""

from __future__ import annotations

from ..fit.floor_profile import Profile
from ..fit.result import FitResult
from ..fit.single import MISFIT
from .check import Check

NAME = "floor"


def floor_check(result: FitResult, profile: Profile) -> Check:
    """A floor below zero is a misfit; one that may be zero is not determined."""
    value = result.parameters[result.law.floor_name]
    remedy = "larger models on more data, or a law whose floor is given"
    data = {"low": profile.low, "high": profile.high, "p_zero": profile.p_zero}
    if result.diagnostics.get("floor") == MISFIT:
        return Check(NAME, False, result.message, "fit another form of law (law auto)", None, data)
    if not profile.excludes_zero:
        detail = (
            f"not determined: {value.value:.3g}, and anything from 0 to {profile.high:.3g} (95%) is"
            f" as good (p = {profile.p_zero:.2f} for zero)"
        )
        return Check(NAME, None, detail, remedy, profile.p_zero, data)
    detail = f"{value.value:.3g}, from {profile.low:.3g} to {profile.high:.3g}"
    return Check(NAME, True, detail, "", profile.p_zero, data)
