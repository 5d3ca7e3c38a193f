"""Seven million further atoms for the long grid: lists of molecules, and one file of what was made.

    python studies/ladder_2/more_data.py lists FOLDER --smiles SMILES --old OLD.h5
    python studies/ladder_2/more_data.py merge FOLDER --old OLD.h5

See data.md for the whole recipe. SMILES is the folder of lists (qm9.csv, valid.txt of ZINC,
spice_pubchem/*.smi), OLD.h5 the file of 6.9M atoms.

``lists`` writes FOLDER/00.smi to 19.smi: the molecules of QM9, ZINC and PubChem that OLD.h5 does
not have, and its own training molecules from other sources again, for new conformers (those of QM9
are left as they are: half of QM9 was not used). That keeps the mixture of OLD.h5. No molecule of
the validation set is in a list. Lists are told apart by hash, so each has the whole mixture.

``merge`` writes FOLDER/xtb_molecules_more.h5 of the packs FOLDER/00 to 19 that `forcelaw data
generate` made, in their order, in the layout of OLD.h5.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from rdkit import Chem, RDLogger

from forcelaw.data.generate.smiles import parse
from forcelaw.data.pack import Pack, group_hash
from forcelaw.data.splits import TRAIN, keyed, split_of

PARTS = 20  # lists; 14 to 17 get two conformers a molecule, the others four (more_data.sh)
VAL_FRACTION, SPLIT_SEED, LIST_SEED = 0.02, 0, 23
HEAVY = 20  # most atoms heavier than hydrogen, as in the old file
QUANTUM = 1e-3  # Angstrom and eV/Angstrom, as the packs have them


def old_molecules(path: Path) -> list[str]:
    with h5py.File(path) as file:
        return [text.decode() for text in file["smiles"][:]]


def listed(folder: Path) -> Iterator[tuple[str, str]]:
    """(name of the source, SMILES) of all lists, in a fixed order."""
    with (folder / "qm9.csv").open() as file:
        rows = csv.reader(file)
        next(rows)
        yield from (("qm9", row[0]) for row in rows)
    files = [folder / "valid.txt", *sorted((folder / "spice_pubchem").glob("*.smi"))]
    for path in files:
        for line in path.read_text().splitlines():
            if line.strip():
                yield path.stem, line.split()[0]


def suits(smiles: str) -> bool:
    mol = Chem.MolFromSmiles(smiles)
    return mol.GetNumHeavyAtoms() <= HEAVY and not any(
        atom.GetAtomicNum() == 15 for atom in mol.GetAtoms()
    )


def trained_on(groups: list[str]) -> np.ndarray:
    """Which molecules are on the training side of the old pack: bool (n,)."""
    hashes = np.array([group_hash(text) for text in groups], np.uint64)
    return split_of(hashes, fraction=VAL_FRACTION, seed=SPLIT_SEED) == TRAIN


def lists(folder: Path, smiles: Path, old: Path) -> None:
    RDLogger.DisableLog("rdApp.*")
    before = old_molecules(old)
    own = {}  # group as the generator writes it -> SMILES of the old file
    for text, trained in zip(before, trained_on(before), strict=True):
        found = parse(text)
        own[text if isinstance(found, str) else found.group] = text if trained else None
    chosen: dict[str, str] = {}  # group -> SMILES
    counts: dict[str, int] = {}
    qm9 = set()
    for name, text in listed(smiles):
        found = parse(text)
        if isinstance(found, str) or not suits(found.smiles):
            continue
        if name == "qm9":
            qm9.add(found.group)
        if found.group not in own and found.group not in chosen:
            chosen[found.group] = found.smiles
            counts[name] = counts.get(name, 0) + 1
    again = {g: text for g, text in own.items() if text and g not in qm9}
    counts["again"] = len(again)
    chosen |= again
    groups = sorted(chosen)
    side = trained_on(groups)
    hashes = np.array([group_hash(text) for text in groups], np.uint64)
    order = np.argsort(keyed(hashes, LIST_SEED))
    order = order[side[order]]
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(PARTS):
        lines = [chosen[groups[i]] for i in order[k::PARTS]]
        (folder / f"{k:02d}.smi").write_text("\n".join(lines) + "\n")
    print(f"{len(order)} molecules in {PARTS} lists; found {counts}")


def merge(folder: Path, old: Path) -> None:
    RDLogger.DisableLog("rdApp.*")
    labels = {}  # hash of a molecule -> its SMILES
    for k in range(PARTS):
        for text in (folder / f"{k:02d}.smi").read_text().split():
            found = parse(text)
            if not isinstance(found, str):
                labels[group_hash(found.group)] = found.group
    names = old_molecules(old)
    validation = {
        group_hash(text) for text, t in zip(names, trained_on(names), strict=True) if not t
    }
    packs = [Pack(folder / f"{k:02d}") for k in range(PARTS)]
    groups = np.concatenate([np.asarray(pack.groups) for pack in packs])
    assert validation.isdisjoint(groups.tolist()), "a molecule of the validation set"
    _, first, molecule = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # numbered as they appear
    smiles = [labels[int(groups[i])] for i in np.sort(first)]
    assert trained_on(smiles).all(), "a molecule on the validation side"
    arrays = {
        "molecule": rank[molecule].astype(np.int32),
        "natoms": np.concatenate([np.diff(pack.offsets) for pack in packs]).astype(np.int16),
        "atomic_numbers": np.concatenate([np.asarray(pack.numbers) for pack in packs]),
        "positions": quanta([pack.vectors("positions", slice(None)) for pack in packs]),
        "forces": quanta([pack.vectors("forces", slice(None)) for pack in packs]),
        "energy": np.concatenate([np.asarray(pack.energies) for pack in packs]),
        "smiles": np.array([text.encode() for text in smiles]),
    }
    units = {"positions": "1e-3 Angstrom", "forces": "1e-3 eV/Angstrom", "energy": "eV"}
    made = folder / "xtb_molecules_more.h5"
    with h5py.File(made, "w", track_order=False) as file:
        for name, array in arrays.items():
            packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
            data = file.create_dataset(name, data=array, chunks=True, track_times=False, **packed)
            if name in units:
                data.attrs["units"] = units[name]
    structures, atoms = len(arrays["natoms"]), len(arrays["atomic_numbers"])
    print(f"{made}: {structures:,} structures of {len(smiles):,} molecules, {atoms:,} atoms")


def quanta(vectors: list[np.ndarray]) -> np.ndarray:
    """Vectors in whole quanta: int32 (atoms, 3)."""
    return np.rint(np.concatenate(vectors).astype(np.float64) / QUANTUM).astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["lists", "merge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smiles", type=Path)
    parser.add_argument("--old", type=Path, required=True)
    args = parser.parse_args()
    if args.step == "lists":
        lists(args.folder, args.smiles, args.old)
    else:
        merge(args.folder, args.old)


if __name__ == "__main__":
    main()
