"""Molecules from a list of SMILES: one per line, first column (.csv by commas, otherwise by white
space)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger

from ...errors import DataError
from .molecules import Molecule, inspect


def read_column(path: Path) -> list[str]:
    """First column of the file, without empty lines, # comments and a header that says "smiles"."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            commas = path.suffix.lower() == ".csv"
            rows = csv.reader(file) if commas else (line.split() for line in file)
            cells = (row[0] for row in rows if row and not row[0].startswith("#"))
            column = [cell.strip() for cell in cells if cell.strip()]
    except OSError as error:
        raise DataError(
            f"the SMILES file cannot be read: {error.strerror}",
            where=str(path),
            remedy="pass --smiles a text file with one SMILES per line",
        ) from error
    if column and "smiles" in column[0].lower():
        column = column[1:]
    if not column:
        raise DataError(
            "the SMILES file holds no molecules",
            where=str(path),
            remedy="write one SMILES per line, first column",
        )
    return column


def parse(text: str) -> Molecule | str:
    """The molecule of one SMILES (isotopes and atom maps dropped), or the reason why it is
    left out."""
    mol = Chem.MolFromSmiles(text)
    if mol is None:
        return "unreadable SMILES"
    reason = inspect(mol)
    if reason:
        return reason
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    mol = Chem.RemoveHs(mol)  # isotopes of hydrogen are atoms of their own until here
    return Molecule(Chem.MolToSmiles(mol), Chem.MolToSmiles(mol, isomericSmiles=False))


def listed(column: list[str], seed: int, skipped: Counter[str]) -> Iterator[Molecule]:
    """Distinct molecules of the list in an order shuffled by ``seed`` (lists are often sorted by
    size).

    What is left out is counted by reason in ``skipped``.
    """
    RDLogger.DisableLog("rdApp.*")
    seen: set[str] = set()
    for index in np.random.default_rng(seed).permutation(len(column)):
        found = parse(column[index])
        if isinstance(found, str):
            skipped[found] += 1
        elif found.smiles in seen:
            skipped["listed before"] += 1
        else:
            seen.add(found.smiles)
            yield found
