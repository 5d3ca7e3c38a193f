"""What can be said about sources and their preparation: the options of ``forcelaw data prepare``
and the keys of ``data`` in a study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ..settings import Settings
from .validate import ALLOWED


class Source(Settings):
    """Labels and units of every source, where the format does not say."""

    reader: str | None = Field(None, title="NAME")
    """extxyz, ase, hdf5, npz, traj, deepmd or pack, where the suffix does not say"""
    energy_key: str | None = Field(None, title="KEY", description="where the total energy is")
    forces_key: str | None = Field(None, title="KEY")
    """where the forces (minus dE/dx) are"""
    charge_key: str | None = Field(None, title="KEY", description="where the total charge is")
    spin_key: str | None = Field(None, title="KEY", description="where the multiplicity 2S+1 is")
    gradient_key: str | None = Field(None, title="KEY")
    """where dE/dx is; forces are minus that"""
    stress_key: str | None = Field(None, title="KEY")
    """where the stress is (default: stress, REF_stress)"""
    virial_key: str | None = Field(None, title="KEY")
    """where the virial is, -V times the stress, as an energy"""
    stress_unit: str | None = Field(None, title="UNIT")
    """eV/Angstrom^3, GPa, kbar, bar, ... (default: by convention)"""
    stress_convention: Literal["ase", "vasp", "lammps"] | None = None
    """order and sign of stress: ase (xx yy zz yz xz xy, tension positive; the default), vasp (xx yy
    zz xy yz zx, compression positive, kbar), lammps (xx yy zz xy xz yz, compression positive,
    bar)"""
    no_stress: bool = Field(False, description="read no stress, whatever the file holds")
    config_key: str | None = Field(None, title="KEY")
    """label of a structure's kind (default: config_type)"""
    energy_unit: str | None = Field(None, title="UNIT")
    """eV, meV, hartree, kcal/mol, kJ/mol, rydberg"""
    length_unit: str | None = Field(None, title="UNIT", description="Angstrom, bohr, nm, pm")
    force_unit: str | None = Field(None, title="UNIT")
    """energy/length, for example hartree/bohr (default: of the two)"""


class Split(Settings):
    """How molecules are divided into training and validation."""

    train: list[Path] = Field(default_factory=list, title="FILE")
    """training files; the same as SOURCE, and all of them if --validation is given"""
    validation: list[Path] = Field(default_factory=list, title="FILE")
    """validation files: nothing is split then"""
    test: list[Path] = Field(default_factory=list, title="FILE")
    """test files, kept apart for evaluation"""
    train_indices: Path | None = Field(None, title="LIST")
    """file of structure numbers of SOURCE, from 0 (text or .npy): the training set"""
    validation_indices: Path | None = Field(None, title="LIST", description="likewise: validation")
    test_indices: Path | None = Field(None, title="LIST", description="likewise: test")
    val_fraction: float = Field(0.1, title="F")
    """share of the structures held out for validation"""
    seed: int = Field(0, description="of the split and the rotations (default: 0)")
    split: Literal["exact", "hash"] = "exact"
    """hash: each molecule by its hash alone, as packs before 2026-11-29"""
    group: str = Field("auto", title="RULE")
    """what a molecule is: auto (the source's own label, else the formula), formula, key:NAME, or
    frame, for sources with a single molecule"""


class References(Settings):
    """Energies of the free atoms."""

    E0s: str | None = Field(None, title="E0S")
    """fit (default), least-squares (of total energies, as before 2026-11-29), isolated (free atoms
    in the sources), values in eV as H=-13.6,C=-1028.9, or a JSON or YAML file"""
    label_noise: str | None = Field(None, title="E,F")
    """how uncertain the labels are, where that is known: mean absolute errors in meV/atom and
    meV/Angstrom a component; reports show it beside the errors"""


class Keep(Settings):
    """Which structures are kept."""

    only_neutral: bool = Field(False, description="leave out charged structures")
    max_force: float | None = Field(None, title="F")
    """leave out structures with a larger force on an atom, eV/Angstrom"""
    elements: str | None = Field(None, title="LIST")
    """leave out structures with other elements, for example H,C,N,O"""
    skip_unlabelled: bool = Field(False, description="leave out frames without energy or forces")
    skip_bad: bool = False
    """leave out frames whose labels or positions are not finite"""
    keep_isolated_atoms: bool = Field(False, description="keep single free atoms")
    only_charge: int | None = Field(None, title="Q", description="keep structures of charge Q only")
    only_spin: int | None = Field(None, title="S", description="likewise of multiplicity 2S+1")
    config_types: str | None = Field(None, title="LIST")
    """keep structures of these config types only"""
    not_config_types: str | None = Field(None, title="LIST")
    """leave out structures of these config types"""
    drop_duplicates: bool = False
    """keep one of structures that repeat another, energy included (takes some 100 bytes of memory a
    structure)"""
    allow: list[str] = Field(
        default_factory=list,
        title="NAME",
        description="let a finding of the checks pass, and note it in the manifest: "
        + "; ".join(f"{name} ({text})" for name, text in ALLOWED.items()),
    )


class Preparation(Source, Split, References, Keep):
    """All of them."""

    @field_validator(
        *("train", "validation", "test", "allow"),
        mode="before",
        json_schema_input_type=str | list[str],
    )
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, Path)) else value

    @field_validator(
        *("elements", "config_types", "not_config_types"),
        mode="before",
        json_schema_input_type=str | list[str] | None,
    )
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, list) else value

    @field_validator("label_noise", mode="before", json_schema_input_type=str | list[float] | None)
    @classmethod
    def _noise(cls, value: Any) -> Any:
        given = ",".join(map(str, value)) if isinstance(value, list) else value
        if given is not None:
            numbers = [float(word) for word in str(given).split(",")]
            if len(numbers) != 2 or not all(0 <= number < math.inf for number in numbers):
                raise ValueError("two numbers: meV/atom and meV/Angstrom, for example 0.5,20")
        return given

    @field_validator("E0s", mode="before", json_schema_input_type=str | dict[str, float] | None)
    @classmethod
    def _energies(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return ",".join(f"{key}={number}" for key, number in value.items())


class DataFiles(Preparation):
    """``data`` in a study, where it is no pack: files, and how a pack is made of them. Paths are
    relative to the study file."""

    train: list[Path] = Field(min_length=1, description="files of structures")
    pack: Path | None = None
    """where the pack is made: NAME-pack beside the study file by default"""
