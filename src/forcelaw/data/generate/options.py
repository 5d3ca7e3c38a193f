"""Options of ``forcelaw data generate``, as Python calls pass them. Needs neither rdkit nor
tblite."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ...settings import Settings


class GenerateOptions(Settings):
    """What decides a generated pack, and ``workers``, which does not."""

    out: Path = Field(title="PACK", description="the pack to make (a new folder)")
    count: int = Field(20000, ge=1, description="structures (default 20000: some 400,000 atoms)")
    seed: int = Field(0, ge=0, description="everything random follows from it (default 0)")
    workers: int | None = Field(None, ge=1, description="processes (default: one per usable core)")
    smiles: Path | None = Field(None, title="FILE")
    """label these molecules instead: first column of a .smi, .txt or .csv file"""
    conformers: int = Field(3, ge=1, description="structures per molecule (default 3)")
    val_fraction: float = Field(0.1, ge=0, lt=1, title="F")
    """part of the molecules held out (default 0.1)"""
    overwrite: bool = Field(False, description="replace PACK if it is there")
