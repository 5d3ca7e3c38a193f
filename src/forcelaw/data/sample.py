"""The sample pack that ships with the package: the folder ``sample`` beside this file.

Made by the command that its manifest quotes; read it with ``Pack(sample_path())``.
"""

from __future__ import annotations

from pathlib import Path


def sample_path() -> Path:
    """The folder of the shipped pack: some 250,000 atoms with GFN2-xTB labels."""
    return Path(__file__).parent / "sample"
