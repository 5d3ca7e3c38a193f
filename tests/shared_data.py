"""Data for tests: small files that ship with them, and whole data sets next to the repository."""

from pathlib import Path

import pytest

SHIPPED = Path(__file__).parent / "data_files"  # what each is: the README there
ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """The path of a data file or folder next to the repository; the test skips where it is
    absent."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"real data ../shared/data/{name} is not here")
    return path
