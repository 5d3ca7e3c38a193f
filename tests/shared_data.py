"""Real data beside the repository; tests that need it skip where it is absent."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """The path of a shared data file or folder."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"real data ../shared/data/{name} is not here")
    return path
