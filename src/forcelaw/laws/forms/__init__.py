"""All laws, by name. One of ours is a file and a line here; one of yours needs no line: give its
import path (``my_package.laws:MyLaw``) or declare an entry point in the group ``forcelaw.laws``."""

from __future__ import annotations

from typing import Any

from ...errors import FitError
from ...plugins import resolve
from .base import Floor, Law
from .broken import Broken
from .coupled import Coupled, Kaplan
from .data_constrained import DataConstrained
from .data_constrained_by_size import DataConstrainedBySize
from .data_constrained_coupled import DataConstrainedCoupled
from .frontier import FrontierFlops, FrontierHours
from .power import Power, PowerFloor
from .shifted import Shifted
from .surface import Surface
from .surface_cost import SurfaceCost

GROUP = "forcelaw.laws"
LAWS: dict[str, type[Law]] = {
    "power": Power,
    "power_floor": PowerFloor,
    "surface": Surface,
    "frontier": FrontierFlops,
    "frontier_hours": FrontierHours,
    "surface_cost": SurfaceCost,
    "coupled": Coupled,
    "kaplan": Kaplan,
    "data_constrained": DataConstrained,
    "data_constrained_by_size": DataConstrainedBySize,
    "data_constrained_coupled": DataConstrainedCoupled,
    "broken": Broken,
    "shifted": Shifted,
}


def make(law: str | type[Law] | Law, floor: Floor | None = None, **options: Any) -> Law:
    """A law with its options.

    law: a name (dashes and underscores are the same), an import path ``module:Class``, the name of
    an entry point, a subclass of :class:`Law`, or a law as it is, which keeps its own floor.
    floor: "free", "zero" or a value; None: the law's own. FitError if there is no such law.
    """
    if isinstance(law, Law):
        if options:
            raise FitError(
                f"a law that is made takes no options: {', '.join(options)}",
                where=f"law {law.name}",
                remedy="give them where it is made, or give its name",
            )
        return law
    if isinstance(law, str):
        name = law.strip()
        plain = name.lower().replace("-", "_")
        found = resolve(plain if plain in LAWS else name, LAWS, GROUP, "law", FitError)
    else:
        found = law
    if not (isinstance(found, type) and issubclass(found, Law)):
        raise FitError(
            f"{law!r} is not a law",
            where="law",
            remedy="make it a subclass of forcelaw.laws.forms.base.Law",
        )
    return found(floor, **options)
