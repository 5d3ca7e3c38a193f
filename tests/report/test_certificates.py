"""What the report says of certificates: of models of others, and of those that have one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forcelaw.report import summary
from forcelaw.report.analysis import Analysis
from forcelaw.report.section import Command, Table
from forcelaw.report.sections.certificates import section


def with_architectures(analysis: Analysis, entries: list[dict[str, Any]]) -> Analysis:
    study = analysis.source.study | {"architectures": entries}
    return replace(analysis, source=replace(analysis.source, study=study))


OURS = {"label": "MPNN", "architecture": "mpnn", "symmetry": "none"}
THEIRS = {"label": "Theirs", "architecture": "a:B", "code": {"a": "1+2"}}
LINES = {"symmetry": ["fails", "none; E(3) is declared"], "seeds": ["holds", "one model"]}
RECORD = {"date": "2026-11-29", "failed": ["symmetry"], "lines": LINES}


def test_ours_need_none(written: dict[str, Any]) -> None:
    analysis = with_architectures(written["analysis"], [OURS])
    assert section(analysis) is None
    assert not [text for text in summary.limits(analysis) if "certificate" in text]


def test_a_model_of_others_without_one_is_named(written: dict[str, Any]) -> None:
    analysis = with_architectures(written["analysis"], [OURS, THEIRS])
    (limit,) = (text for text in summary.limits(analysis) if "certificate" in text)
    assert "Theirs" in limit and "MPNN" not in limit
    made = section(analysis)
    assert [part.text for part in made.parts if isinstance(part, Command)] == [
        "forcelaw certify a:B"
    ]


@pytest.mark.parametrize("entry", [OURS, THEIRS])
def test_what_a_certificate_says_is_shown(written: dict[str, Any], entry: dict[str, Any]) -> None:
    """A line that fails is among what the numbers cannot carry."""
    analysis = with_architectures(written["analysis"], [entry | {"certificate": RECORD}])
    (limit,) = (text for text in summary.limits(analysis) if "certificate" in text)
    assert entry["label"] in limit and "symmetry" in limit
    made = section(analysis)
    (shown,) = (part for part in made.parts if isinstance(part, Table))
    badge = shown.rows[0][1].badge
    assert badge == ("no", "fails") and "E(3) is declared" in shown.rows[0][1].small[0]
    (file,) = made.files
    assert file.rows[1][1:4] == ["seeds", "holds", "one model"]


def test_weights_that_nothing_reaches_are_named_in_numbers(written: dict[str, Any]) -> None:
    said = "5,797 of 8,209 weights get one"
    record = RECORD | {"failed": ["gradients"], "lines": {"gradients": ["fails", said]}}
    analysis = with_architectures(written["analysis"], [OURS | {"certificate": record}])
    assert [text for text in summary.limits(analysis) if said in text]
