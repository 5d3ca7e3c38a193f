"""The models of the examples have certificates of their very source, and every line of them
holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from forcelaw.certify.certificate import find
from forcelaw.certify.lines import LINES
from forcelaw.models import architecture, code

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["examples.pairs:ARCHITECTURE"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_its_certificate(name: str) -> None:
    """After a change of an example: the command of examples/README.md."""
    found = find(name, code(name), [EXAMPLES / "certificates"])
    assert found is not None and found.title == architecture(name).title
    assert found.holds and [x.name for x in found.lines] == list(LINES)


def test_every_example_is_one_of_them() -> None:
    assert {f"examples.{path.stem}" for path in EXAMPLES.glob("*.py")} == {
        name.partition(":")[0] for name in NAMES
    }
