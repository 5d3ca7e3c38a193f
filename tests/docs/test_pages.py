"""What the pages show is true: their code runs, and their generated parts hold what they claim."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from .blocks import blocks, run_page

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts),
]
RUN = [page for page in PAGES if any(block.runs for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_on_the_page_runs(page, tmp_path, monkeypatch, capsys):
    # files that a page names are those of the repository, what it writes is not
    for name in ("results", "studies", "examples"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    try:
        assert run_page(page, tmp_path, capsys) > 0
    finally:
        for name in set(sys.modules) - before:
            path = getattr(sys.modules[name], "__file__", None) or ""
            if path.startswith(str(tmp_path)):
                del sys.modules[name]


@pytest.fixture(scope="module")
def from_code():
    path = ROOT / "docs" / "_ext" / "from_code.py"
    spec = importlib.util.spec_from_file_location("from_code", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_option_is_on_the_page_of_commands(from_code):
    from forcelaw.cli.main import build_parser

    def options(parser):
        for action in parser._actions:
            if action.choices and hasattr(action, "add_parser"):
                for child in action.choices.values():
                    yield from options(child)
            elif action.help != argparse.SUPPRESS:
                yield from (name for name in action.option_strings if name.startswith("--"))

    page = from_code.commands()
    names = set(options(build_parser())) - {"--help", "--version"}
    assert len(names) > 50
    assert not [name for name in names if f"`{name}" not in page]


def test_every_key_of_a_study_is_on_the_page_of_keys(from_code):
    from forcelaw.study.schema import study_schema

    page = from_code.study_keys()
    tables = [
        set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) - {"depth"}
        for heading in ("\n## ", "\n### ")
        for part in page.split(heading)
    ]
    schema = study_schema()
    parts = [schema, *schema["$defs"].values()]
    assert len(parts) > 8
    for part in parts:  # depth is an option of every architecture, and a key of the entry instead
        assert set(part["properties"]) - {"depth"} in tables, part.get("title")


def test_every_law_and_column_has_its_entry(from_code):
    from forcelaw.laws.forms import LAWS
    from forcelaw.table.columns import COLUMNS

    laws, columns = from_code.laws(), from_code.columns()
    assert all(f"## {name}\n" in laws and law().formula in laws for name, law in LAWS.items())
    assert all(f"| `{name}` |" in columns for name in COLUMNS)


def test_every_public_name_is_on_the_page_of_the_api():
    import forcelaw

    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    names = set(forcelaw.__all__) - {"__version__"}
    assert not [name for name in names if f":: forcelaw.{name}\n" not in page]


def test_a_page_that_is_wrong_is_found(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(2 + 2)\n```\n\n```text output\n5\n```\n")
    with pytest.raises(AssertionError, match="'5' was not printed"):
        run_page(page, tmp_path, capsys)
    page.write_text("```console\n$ forcelaw fit nothing.csv\n```\n")
    with pytest.raises(AssertionError, match="exit code 2"):
        run_page(page, tmp_path, capsys)
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path, capsys)


def test_links_between_files_of_the_repository_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def held_by() -> list[tuple[str, str]]:
    """(promise, what holds it) of every row of the page of promises."""
    text = (ROOT / "docs" / "explanation" / "promises.md").read_text()
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [(row[0].strip(), row[1]) for row in rows if row[1].strip() != "held by"]


@pytest.fixture(scope="module")
def tests_that_exist() -> set[str]:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}


@pytest.mark.parametrize("promise, text", held_by(), ids=lambda value: value[:40])
def test_what_holds_a_promise_exists(promise, text, tests_that_exist):
    """Each promise names a test, by its file or its own name; nothing that it names is gone."""
    named = re.findall(r"`([^`]+)`", text)
    paths = [name for name in named if "/" in name]
    tests = [name for name in named if name.startswith("test_")]
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert not set(tests) - tests_that_exist
    assert tests or [path for path in paths if path.startswith("tests/")]


def test_no_promise_is_lost():
    assert len(held_by()) >= 22
