"""One synthetic study and its report for all tests that only look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import synthetic


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_study(tmp_path_factory.mktemp("study") / "ladder", synthetic.TRIO)


@pytest.fixture(scope="session")
def written(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from forcelaw.report.write import report

    return report(study, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def page(written: dict[str, Any]) -> str:
    return written["page"].read_text(encoding="utf-8")
