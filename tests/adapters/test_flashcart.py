"""FlashCart as a column. Skipped where flashcart is not installed."""

from __future__ import annotations

import ase
import numpy as np
import pytest

from forcelaw.models import ForceField
from tests.adapters.columns import CUTOFF, agrees, learns

pytest.importorskip("flashcart")
pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "forcelaw.adapters.flashcart:ARCHITECTURE"


def of_the_package(model: ForceField, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy and forces by FlashCart's own neighbour list and derivative."""
    from flashcart.data.graph import graph_from_ase

    graph = graph_from_ase(atoms, ["H", "C", "O"], CUTOFF)
    found = model.package.predict(graph, compute_forces=True)
    return float(found["energy"]), found["forces"].detach().numpy()


@pytest.mark.parametrize("options", [{"depth": 2, "lmax": 1}, {"depth": 2, "correlation": 2}])
def test_outputs_are_those_of_the_package(options: dict) -> None:
    agrees(NAME, options, of_the_package)


@pytest.mark.slow
def test_it_has_its_certificate_and_learns(tmp_path) -> None:
    learns(NAME, tmp_path)
