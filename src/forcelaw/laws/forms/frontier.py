"""The frontier: lowest loss per FLOPs, or per device-hours, L*(C) = F C^-gamma + E."""

from __future__ import annotations

from .power import PowerFloor


class FrontierFlops(PowerFloor):
    """L*(C) = F C^-gamma + E, C in FLOPs. On a surface with C = k N D, gamma = alpha beta / (alpha
    + beta)."""

    name = "frontier"
    formula = "L = F C^-gamma + E"
    coefficients = ("F",)
    default_x = "c"


class FrontierHours(FrontierFlops):
    """L*(H) = F H^-gamma + E, H in device-hours: it holds for the hardware and the code that were
    measured."""

    name = "frontier_hours"
    formula = "L = F H^-gamma + E"
    default_x = "h"
