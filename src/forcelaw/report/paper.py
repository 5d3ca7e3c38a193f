"""What the paper reports: arXiv 2510.09768 (Ngo & Ravanbakhsh, Scaling Laws and Symmetry, Evidence
from Neural Force Fields).

gamma_c: frontier exponent in FLOPs. gamma_h: frontier exponent in GPU-hours. beta: data. alpha:
parameters. kappa: training FLOPs / (3 N D). The paper gives no intervals for alpha and beta and
sets the floor to zero; its scale (about 34 million OMol25 molecules, at most 30 GPU-hours a run) is
far above that of a small study.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..figures.style import family

CITATION = "Ngo & Ravanbakhsh, Scaling Laws and Symmetry, arXiv 2510.09768"


@dataclass(frozen=True)
class Published:
    """Published numbers of one architecture."""

    name: str
    gamma_c: float
    gamma_h: float | None
    beta: float | None
    alpha: float | None
    kappa: float


PUBLISHED = {
    "mpnn": Published("MPNN", gamma_c=0.14, gamma_h=0.21, beta=0.31, alpha=0.28, kappa=2.33),
    "egnn": Published("MC-EGNN", gamma_c=0.17, gamma_h=0.27, beta=0.39, alpha=0.39, kappa=28.09),
    "gemnet_oc": Published(
        "GemNet-OC", gamma_c=0.25, gamma_h=0.33, beta=0.50, alpha=0.52, kappa=35.18
    ),
    "esen": Published("eSEN", gamma_c=0.40, gamma_h=0.45, beta=0.75, alpha=0.82, kappa=74.36),
}

# for its eSEN of tensor order 2 the paper gives this exponent only; the others belong to its best
ESEN_L2 = Published(
    "eSEN", gamma_c=0.35, gamma_h=None, beta=None, alpha=None, kappa=PUBLISHED["esen"].kappa
)

# names that mean the paper's own architectures: its eSEN has tensor orders 2 to 4
PLAIN = re.compile(r"(mc)?egnn|gemnet(oc)?|mpnn|painn|esen((lmax|lmax=|l|l=)[234])?")


def published(*names: str) -> Published | None:
    """The paper's numbers for the plain architecture that ``names`` (architecture, label) mean.

    Anything more in a name is a variant that the paper does not have (an edge MLP, an untied
    convolution, 1% of the data ...) and gets None: comparing it with the plain architecture's
    numbers would be wrong.
    """
    flat = [re.sub(r"[^a-z0-9=]", "", name.lower()) for name in names]
    if not all(PLAIN.fullmatch(name) for name in flat):
        return None
    if any(name.startswith("esen") and name.endswith("2") for name in flat):
        return ESEN_L2
    return PUBLISHED.get(family(names[0]) or "")
