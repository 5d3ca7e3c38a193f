"""Scripts that no test runs (benchmarks, studies, contrib): the names they import exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [p for folder in ("benchmarks", "studies", "contrib") for p in (ROOT / folder).rglob("*")]
# also in programs that a script keeps as text
IMPORT = re.compile(r"from (forcelaw[\w.]*) import (?:\(([^)]*)\)|([\w, ]+))")


def missing(text: str) -> list[str]:
    """Names that ``text`` imports from forcelaw and that are not there."""
    found = []
    for module, several, line in IMPORT.findall(text):
        names = re.findall(r"\w+", re.sub(r" as \w+|#.*", "", several or line))
        there = importlib.import_module(module)
        found += [f"{module}.{name}" for name in names if not _has(there, name)]
    return found


def _has(module, name: str) -> bool:
    if hasattr(module, name):
        return True
    try:
        importlib.import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize(
    "path", [p for p in SCRIPTS if p.suffix in (".py", ".sh")], ids=lambda p: p.name
)
def test_names_that_a_script_imports_exist(path: Path) -> None:
    assert not missing(path.read_text())


def test_a_name_that_is_gone_is_seen() -> None:
    assert missing('"from forcelaw.data.generate import gone; gone()"') == [
        "forcelaw.data.generate.gone"
    ]
