"""Draw molecules: fragments are joined, mutated, sanitised by RDKit and filtered for chemical
sense.

A draw picks a target of heavy atoms and a core (a ring system, an open chain, now and then a small
molecule), then joins substituents and linked rings at atoms that have hydrogens, or mutates what is
there (CH to N in an aromatic ring, CH2 to O, S, NH or C=O, a single bond to a double one) until the
target is reached. What RDKit cannot sanitise, or what matches a pattern of :data:`REJECT`, is
thrown away and drawn again. Stereochemistry is left open: the embedding picks.

Every draw depends on (seed, draw number) alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import rdMolDescriptors

from .fragments import CHAINS, LINKERS, RINGS, SMALL, SUBSTITUENTS

ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35)
MIN_ATOMS, MAX_ATOMS = 3, 50
# Part of the draws that start from a whole small molecule, an open chain, a ring system.
CORES = {"small": 0.03, "chain": 0.40, "ring": 0.57}
# Heavy atoms aimed at: a gamma distribution, rounded and clipped, see target_size.
TARGET_SHAPE, TARGET_SCALE, TARGET_MIN, TARGET_MAX = 5.0, 1.65, 3, 20
REJECT = [
    "[OX2][OX2]",  # peroxides
    "[OX2][SX2]",  # sulfenates
    "[NX3,NX2;!$(N=[N+]=[N-])][NX3;!a][NX3]",  # chains of nitrogen
    "[NX3,OX2,SX2,PX3][F,Cl,Br]",  # N-X, O-X, S-X, P-X
    "[NX3;!a][SX2]",
    "[SX2][SX2][SX2]",
    "[#15]~[#15]",
    "[#7+]~[#7+]",
    "[*;R]#[*;R]",  # ring alkynes
    "[*;r3,r4,r5,r6,r7]=[C;R;D2]=*",  # ring cumulenes
    "[C;R]=[C;D2]=[*]",
    "*=*=*=*",
    "[C;r3]=[*;r3]",  # cyclopropenes beyond the curated ones
    "[CX4]([OX2H])([OX2H])",  # gem-diols
    "[CX4]([NX3])([OX2H])",  # hemiaminals
    "[CX4]([SX2H])[OX2H,NX3,Cl,Br]",
    "[CX4]([OX2H])[Cl,Br]",  # lose HX
    "[CX4]([NX3])[F,Cl,Br]",
    "[CX4;!$(C(F)(F)F)]([O,N,S,P,F,Cl,Br])([O,N,S,P,F,Cl,Br])[O,N,S,P]",  # crowded carbons
    "[CX3](=[CX3])([OX2H])[OX2H,NX3]",
    "C#C[O,N,S,P]",
    "[NX2]=C=C",  # ketenimines
    "C(=O)([OX2H])[OX2H]",  # carbonic acid
    "[NX3][CX3](=O)[OX2H]",  # carbamic acid
    "[CX3](=[NX2])[OX2H]",
    "[NX2]=[CX3;H1,H2]-[OX2H]",
    "[NX3;H2][NX2]=[NX2]",
    "[O,S,N][CX3](=O)[F,Cl,Br]",
    "[SX4](=O)(=O)[OX2][OX2,SX2]",
]


class Molecule(NamedTuple):
    """smiles: canonical, isomeric. group: canonical without stereochemistry, the label that splits
    go by."""

    smiles: str
    group: str


@cache
def _patterns() -> list[Chem.Mol]:
    RDLogger.DisableLog("rdApp.*")  # rejected attempts are normal, their messages are noise
    return [Chem.MolFromSmarts(text) for text in REJECT]


@cache
def _fragment(smiles: str) -> Chem.Mol:
    return Chem.MolFromSmiles(smiles, sanitize=False)


def target_size(rng: np.random.Generator) -> int:
    """Heavy atoms aimed at: gamma of mean TARGET_SHAPE * TARGET_SCALE, rounded and clipped."""
    return int(np.clip(round(rng.gamma(TARGET_SHAPE, TARGET_SCALE)), TARGET_MIN, TARGET_MAX))


def _pick(rng: np.random.Generator, table: tuple[list[str], list[float]]) -> str:
    return table[0][int(np.searchsorted(np.cumsum(table[1])[:-1], rng.random(), side="right"))]


def _may_join(a: Chem.Atom, b: Chem.Atom) -> bool:
    """A bond needs a carbon on one side, or P/S with a double bond to O beside N or O."""
    for x, y in ((a, b), (b, a)):
        if x.GetAtomicNum() == 6:
            alkyne = any(bond.GetBondType() == Chem.BondType.TRIPLE for bond in x.GetBonds())
            if alkyne and y.GetAtomicNum() in (7, 8, 15, 16):
                return False
            crowded = sum(n.GetAtomicNum() not in (1, 6) for n in x.GetNeighbors())
            saturated = all(bond.GetBondType() == Chem.BondType.SINGLE for bond in x.GetBonds())
            if saturated and crowded and y.GetAtomicNum() != 6:
                return crowded == 1 and y.GetAtomicNum() in (8, 9, 17)
            return True
    for x, y in ((a, b), (b, a)):
        oxidised = any(bond.GetBondType() == Chem.BondType.DOUBLE for bond in x.GetBonds())
        if x.GetAtomicNum() in (15, 16) and oxidised and y.GetAtomicNum() in (7, 8):
            return True
    return False


def _sites(mol: Chem.RWMol) -> list[int]:
    """Atoms with a hydrogen to replace; hetero atoms that must not take part are left to
    :func:`_may_join`."""
    mol.UpdatePropertyCache(strict=False)
    return [a.GetIdx() for a in mol.GetAtoms() if a.GetTotalNumHs() > 0]


def _join(mol: Chem.RWMol, site: int, fragment: Chem.Mol, start: int) -> int | None:
    """Bond atom ``start`` of a copy of ``fragment`` to ``site``; the copy's first index, None where
    not allowed."""
    if not _may_join(mol.GetAtomWithIdx(site), fragment.GetAtomWithIdx(start)):
        return None
    shift = mol.GetNumAtoms()
    mol.InsertMol(fragment)
    for index in (site, shift + start):
        atom = mol.GetAtomWithIdx(index)
        if atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    mol.AddBond(site, shift + start, Chem.BondType.SINGLE)
    return shift


def _add_substituent(rng: np.random.Generator, mol: Chem.RWMol) -> None:
    sites = _sites(mol)
    if sites:
        _join(mol, sites[int(rng.integers(len(sites)))], _fragment(_pick(rng, SUBSTITUENTS)), 0)


def _add_ring(rng: np.random.Generator, mol: Chem.RWMol) -> None:
    """Join a ring system through a linker; nothing happens when either bond is not allowed."""
    sites = _sites(mol)
    linker, ring = _pick(rng, LINKERS), Chem.RWMol(_fragment(_pick(rng, RINGS)))
    starts = _sites(ring)
    if not sites:
        return
    site, start = sites[int(rng.integers(len(sites)))], starts[int(rng.integers(len(starts)))]
    if not linker:
        _join(mol, site, ring, start)
        return
    joined = Chem.RWMol(_fragment(linker + "*"))
    dummy = joined.GetNumAtoms() - 1
    end = joined.GetAtomWithIdx(dummy).GetNeighbors()[0].GetIdx()
    joined.RemoveAtom(dummy)
    joined.UpdatePropertyCache(strict=False)
    if _join(joined, end, ring, start) is not None:
        _join(mol, site, joined, 0)


def _hetero_neighbours(atom: Chem.Atom) -> int:
    return sum(n.GetAtomicNum() != 6 for n in atom.GetNeighbors())


def _carbon_with_hydrogen(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() == 6 and atom.GetTotalNumHs() > 0


def _mutate(rng: np.random.Generator, mol: Chem.RWMol) -> None:
    """Turn one random carbon into something else; the sanitiser and the filters judge the
    result."""
    mol.UpdatePropertyCache(strict=False)
    carbons = [a for a in mol.GetAtoms() if _carbon_with_hydrogen(a) and a.GetDegree() >= 2]
    if not carbons:
        return
    atom = carbons[int(rng.integers(len(carbons)))]
    single = all(b.GetBondType() == Chem.BondType.SINGLE for b in atom.GetBonds())
    if atom.GetIsAromatic():
        if atom.GetDegree() == 2 and _hetero_neighbours(atom) == 0:
            atom.SetAtomicNum(7)
        return
    if not single or atom.GetTotalNumHs() < 2 or atom.GetDegree() != 2:
        return
    choice = rng.random()
    if choice < 0.45:
        if _hetero_neighbours(atom) == 0:
            atom.SetAtomicNum((8, 7, 16)[int(rng.integers(3))])
    elif choice < 0.65:
        oxygen = mol.AddAtom(Chem.Atom(8))
        mol.AddBond(atom.GetIdx(), oxygen, Chem.BondType.DOUBLE)
    else:
        bonds = [b for b in atom.GetBonds() if _carbon_with_hydrogen(b.GetOtherAtom(atom))]
        if bonds:
            bonds[int(rng.integers(len(bonds)))].SetBondType(Chem.BondType.DOUBLE)


def _attempt(rng: np.random.Generator) -> Chem.RWMol:
    target = target_size(rng)
    kind = rng.random()
    if kind < CORES["small"]:
        return Chem.RWMol(_fragment(SMALL[int(rng.integers(len(SMALL)))]))
    cores = CHAINS if kind < CORES["small"] + CORES["chain"] else RINGS
    mol = Chem.RWMol(_fragment(_pick(rng, cores)))
    for _ in range(16):
        missing = target - mol.GetNumAtoms()
        if missing <= 0:
            break
        move = rng.random()
        if move < 0.14:
            _mutate(rng, mol)
        elif move < 0.38 and missing >= 4:
            _add_ring(rng, mol)
        else:
            _add_substituent(rng, mol)
    return mol


def _against_bredt(mol: Chem.Mol) -> bool:
    """Whether a bridgehead carries a double bond of its rings (Bredt's rule)."""
    heads: list[int] = []
    rdMolDescriptors.CalcNumBridgeheadAtoms(mol, heads)
    return any(
        bond.IsInRing() and bond.GetBondType() != Chem.BondType.SINGLE
        for head in heads
        for bond in mol.GetAtomWithIdx(head).GetBonds()
    )


def draw(seed: int, number: int) -> Molecule:
    """The molecule of draw ``number``; the same for the same (seed, number), whoever asks and
    when."""
    rng = np.random.default_rng([seed, number])
    patterns = _patterns()
    while True:
        mol = _attempt(rng)
        try:
            Chem.SanitizeMol(mol)
        except (Chem.MolSanitizeException, ValueError):
            continue
        odd = any(mol.HasSubstructMatch(pattern) for pattern in patterns)
        if not (odd or inspect(mol) or _against_bredt(mol)):
            return Molecule(*(2 * [Chem.MolToSmiles(mol)]))


def inspect(mol: Chem.Mol) -> str:
    """Why a sanitised molecule is left out, in a few words; empty when it is not."""
    atoms = list(mol.GetAtoms())
    total = len(atoms) + sum(a.GetTotalNumHs() for a in atoms)
    if any(a.GetAtomicNum() not in ELEMENTS for a in atoms):
        return "element outside H C N O F P S Cl Br"
    if sum(a.GetFormalCharge() for a in atoms):
        return "charged"
    if any(a.GetNumRadicalElectrons() for a in atoms):
        return "radical"
    if len(Chem.GetMolFrags(mol)) > 1:
        return "several components"
    if total < MIN_ATOMS:
        return f"fewer than {MIN_ATOMS} atoms"
    if total > MAX_ATOMS:
        return f"more than {MAX_ATOMS} atoms"
    return ""


def drawn(seed: int, skipped: Counter[str]) -> Iterator[Molecule]:
    """Endless stream of distinct molecules (by group); repeated draws are counted in
    ``skipped``."""
    seen: set[str] = set()
    number = 0
    while True:
        molecule = draw(seed, number)
        number += 1
        if molecule.group in seen:
            skipped["drawn before"] += 1
            continue
        seen.add(molecule.group)
        yield molecule
