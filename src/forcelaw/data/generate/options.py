"""Options of ``forcelaw data generate``, as Python calls pass them. Needs neither rdkit nor
tblite."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ...settings import Settings


class Distribution(Settings):
    """How conformers are spread around their minima; the defaults give a mean force norm near 1.8
    eV/Angstrom."""

    conformers: int = Field(3, ge=1, description="structures per molecule (default 3)")
    unrelaxed: float = Field(0.10, ge=0, le=1, description="part left as embedded by ETKDGv3")
    partly: float = Field(0.30, ge=0, le=1, title="F")
    """part relaxed by --partly-steps to 20 MMFF steps"""
    partly_steps: int = Field(5, ge=1, le=20, description="fewest MMFF steps of that part")
    relaxed_steps: int = Field(200, ge=1, description="most MMFF steps of the rest")
    displacement: float = Field(0.05, ge=0)
    """upper end of the displacement's standard deviation, Angstrom"""
    max_force: float = Field(20.0, gt=0)
    """structures with an atom above it are dropped, eV/Angstrom"""
    max_component: float | None = Field(None, gt=0, title="F")
    """likewise those with a component of a force above it, eV/Angstrom"""


class GenerateOptions(Distribution):
    """What decides a generated pack, and ``workers``, which does not."""

    out: Path = Field(title="PACK", description="the pack to make (a new folder)")
    count: int = Field(20000, ge=1, description="structures (default 20000: some 400,000 atoms)")
    seed: int = Field(0, ge=0, description="everything random follows from it (default 0)")
    workers: int | None = Field(None, ge=1, description="processes (default: one per usable core)")
    smiles: Path | None = Field(None, title="FILE")
    """label these molecules instead: first column of a .smi, .txt or .csv file"""
    val_fraction: float = Field(0.1, ge=0, lt=1, title="F")
    """part of the molecules held out (default 0.1)"""
    overwrite: bool = Field(False, description="replace PACK if it is there")
