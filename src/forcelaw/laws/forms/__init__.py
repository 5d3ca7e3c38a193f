"""All laws, by name. Adding one is one file and one line here."""

from __future__ import annotations

from typing import Any

from ...errors import FitError
from .base import Floor, Law
from .broken import Broken
from .data_constrained import DataConstrained
from .data_constrained_by_size import DataConstrainedBySize
from .frontier import FrontierFlops, FrontierHours
from .power import Power, PowerFloor
from .shifted import Shifted
from .surface import Surface
from .surface_cost import SurfaceCost

LAWS: dict[str, type[Law]] = {
    "power": Power,
    "power_floor": PowerFloor,
    "surface": Surface,
    "frontier": FrontierFlops,
    "frontier_hours": FrontierHours,
    "surface_cost": SurfaceCost,
    "data_constrained": DataConstrained,
    "data_constrained_by_size": DataConstrainedBySize,
    "broken": Broken,
    "shifted": Shifted,
}


def make(law: str | Law, floor: Floor | None = None, **options: Any) -> Law:
    """A law by name (dashes and underscores are the same) or as it is."""
    if isinstance(law, Law):
        return law
    name = law.strip().lower().replace("-", "_")
    if name not in LAWS:
        raise FitError(
            f"there is no law {law!r}", where="law", remedy=f"the laws are {', '.join(LAWS)}"
        )
    return LAWS[name](floor, **options)
