"""The order of the rooms: a module imports only from rooms below its own, and no modules import
each other in a circle. Imports inside functions count: an import that is hidden in a function to
break a circle is a circle still."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "forcelaw"

# from the bottom to the top; rooms of one line do not import each other
ORDER = [
    ["errors"],
    ["units", "elements", "progress", "files", "host", "plugins", "settings"],
    ["store"],
    ["table"],
    ["laws"],
    ["figures"],
    ["report"],
    ["data"],
    ["graph"],
    ["ops"],
    ["data.device_dataset"],  # the part of data that lives on the device
    ["data.schedule"],
    ["models"],
    ["adapters"],
    ["training"],
    ["certify"],
    ["study"],
    ["predict"],
    ["calculator", "evaluate", "portable", "metatomic"],
    ["api"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


class Import(NamedTuple):
    """One import: the module that imports, the module (or name) it imports, and the line."""

    module: str
    target: str
    line: int
    typing_only: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name without "forcelaw.", the package itself as ""."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _targets(node: ast.Import | ast.ImportFrom, module: str, path: Path) -> Iterator[str]:
    """What an import statement imports from the package, by name without "forcelaw."."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        bases = [name for name in names if name.split(".")[0] == "forcelaw"]
        yield from (name.removeprefix("forcelaw").lstrip(".") for name in bases)
        return
    if node.level:
        parts = module.split(".") if module else []
        parts = parts if path.name == "__init__.py" else parts[:-1]
        parts = parts[: len(parts) - (node.level - 1)]
        base = ".".join([*parts, *([node.module] if node.module else [])])
    elif (node.module or "").split(".")[0] == "forcelaw":
        base = node.module.removeprefix("forcelaw").lstrip(".")
    else:
        return
    for alias in node.names:
        inner = f"{base}.{alias.name}" if base else alias.name
        if inner in modules():
            yield inner
        elif (base, alias.name) != ("", "__version__"):  # the root holds the version, for all
            yield base


@cache
def imports() -> list[Import]:
    """Every import of one module of the package by another, wherever in the file it stands."""
    found = []

    def walk(node: ast.AST, module: str, path: Path, typing_only: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.extend(
                    Import(module, target, child.lineno, typing_only)
                    for target in _targets(child, module, path)
                )
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            walk(child, module, path, typing_only or guarded)

    for module, path in modules().items():
        walk(ast.parse(path.read_text()), module, path, False)
    return found


def room(module: str) -> str:
    """The entry of ORDER that a module belongs to: the longest that its name begins with."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        if (name := ".".join(parts[:n])) in RANK:
            return name
    return ""


def test_every_module_has_a_room():
    homeless = [m for m in modules() if m and not room(m)]
    assert homeless == [], "add the room to ORDER, where it belongs"


# imports that point upward today; whoever rebuilds a room takes its lines out
UPWARD: set[tuple[str, str]] = set()


def test_imports_point_downward():
    """Type-only imports count as well: a room can be understood without those above it."""
    upward = {
        (i.module, i.target): f"{modules()[i.module]}:{i.line} imports forcelaw.{i.target}"
        for i in imports()
        if i.module  # the package itself gives its public names, each when first used
        and room(i.module) != room(i.target)
        and RANK.get(room(i.target), len(ORDER)) >= RANK[room(i.module)]
    }
    assert [text for pair, text in upward.items() if pair not in UPWARD] == []
    assert upward.keys() >= UPWARD, "repaired: take it out of UPWARD"


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for i in imports():
        if i.module and not i.typing_only and i.target != i.module:
            graph[i.module].add(i.target)

    def reach(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for target in graph[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reached = {module: reach(module) for module in graph}
    circles = {
        frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]
    }
    assert circles == set()


HEAVY = {"torch", "matplotlib", "plotly", "ase", "h5py", "rdkit"}


def test_laws_and_tables_import_neither_torch_nor_a_drawing_library():
    names = [f"forcelaw.{m}" for m in modules() if m.split(".")[0] in ("laws", "table", "store")]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "statement", "target"),
    [
        ("data.prepare", "from .. import units", "units"),
        ("data.readers.base", "from ...errors import DataError", "errors"),
        ("data.readers", "from .base import Block", "data.readers.base"),
        ("cli.main", "from forcelaw.laws.fit import fit", "laws.fit.fit"),
        ("cli.main", "import forcelaw.table.read", "table.read"),
    ],
)
def test_import_statements_are_understood(module, statement, target):
    node = ast.parse(statement).body[0]
    assert list(_targets(node, module, modules()[module])) == [target]
