"""What is added from outside the package: a number, a section; and the packages of the extra."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from forcelaw.errors import MissingPackageError
from forcelaw.figures.spec import Figure, Panel, Series
from forcelaw.report.analysis import Analysis
from forcelaw.report.html import render
from forcelaw.report.section import Column, Drawn, Section, table
from forcelaw.report.section import csv as file
from forcelaw.report.sections import SECTIONS, exponents, floors, sections
from forcelaw.report.tables import markdown, write_all
from forcelaw.report.write import report

from .pages import Page


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def test_a_number_is_one_column(
    written: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the page and in the CSV file, from one line in one list."""
    toy = Column("toy", "toy number", lambda arch: 42.5 + arch.runs)
    monkeypatch.setattr(floors, "COLUMNS", [*floors.COLUMNS, toy])
    analysis = written["analysis"]
    made = sections(analysis)
    rows = Page(render(analysis, made)).table("floors-data")
    assert rows[0][-1]["text"].strip() == "toy number"
    write_all(analysis, made, tmp_path)
    kept = _read(tmp_path / "floors.csv")
    for row, line, arch in zip(rows[1:], kept, analysis.architectures, strict=True):
        assert float(row[-1]["text"]) == float(line["toy"]) == 42.5 + arch.runs


def test_an_exponent_is_one_entry(
    written: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the page, in the CSV file, and in the Markdown table; here the amplitude of the data."""
    toy = exponents.Exponent("amplitude", "surface", "B", "toy amplitude")
    monkeypatch.setattr(exponents, "EXPONENTS", [*exponents.EXPONENTS, toy])
    analysis = written["analysis"]
    made = sections(analysis)
    page = Page(render(analysis, made))
    assert page.table("exponents-data")[0][-1]["text"].strip() == "toy amplitude"
    write_all(analysis, made, tmp_path)
    for line, arch in zip(_read(tmp_path / "exponents.csv"), analysis.architectures, strict=True):
        found = arch.surface.result["B"]
        assert float(line["amplitude"]) == found.value
        assert float(line["amplitude_low"]) == found.low
    assert "toy amplitude" in markdown(analysis).splitlines()[0]


def test_a_section_is_one_function(
    written: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table and figure are on the page, its rows in a file of its own."""

    def toy(analysis: Analysis) -> Section:
        columns = [
            Column("architecture", "architecture", lambda arch: arch.label),
            Column("toy", "toy number", lambda arch: 1234.0),
        ]
        series = Series([1, 2], [3, 4], hover="toy line")
        figure = Figure("toy", "A toy", "What a toy shows.", [Panel("x", "y", [series])])
        rows = analysis.architectures
        parts = [table(columns, rows, "toy-data"), Drawn(figure)]
        return Section("toy", "A toy", parts, [file("toy", columns, rows)])

    monkeypatch.setattr("forcelaw.report.sections.SECTIONS", [*SECTIONS, toy])
    analysis = written["analysis"]
    made = sections(analysis)
    page = Page(render(analysis, made))
    assert ("section", "toy") in [(tag, given.get("id")) for tag, given in page.tags]
    assert [row[1]["text"].strip() for row in page.table("toy-data")[1:]] == ["1.23k"] * 3
    assert page.figures[-1][0]["data"][0]["hovertext"] == "toy line"
    write_all(analysis, made, tmp_path)
    assert [line["toy"] for line in _read(tmp_path / "toy.csv")] == ["1234.0"] * 3


def test_nothing_to_say_is_no_section(
    written: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sections(written["analysis"])
    assert len(before) == len(SECTIONS) - 1  # certificates, of which the study has none
    monkeypatch.setattr("forcelaw.report.sections.SECTIONS", [*SECTIONS, lambda analysis: None])
    assert len(sections(written["analysis"])) == len(before)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingPackageError) as caught:
        report(tmp_path)
    assert "plotly" in caught.value.what and "forcelaw[report]" in caught.value.remedy
    assert not list(tmp_path.iterdir())
