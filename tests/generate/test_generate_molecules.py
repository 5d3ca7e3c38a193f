"""The molecule generator and the SMILES reader."""

from collections import Counter
from itertools import islice

import pytest

pytest.importorskip("rdkit", reason="rdkit is in the extra 'generate'")

from rdkit import Chem

from forcelaw.data.generate.fragments import CHAINS, LINKERS, RINGS, SMALL, weighted
from forcelaw.data.generate.molecules import draw, drawn, target_size
from forcelaw.data.generate.smiles import listed, parse, read_column
from forcelaw.errors import DataError

# group valences of neutral atoms, written down independently of RDKit's tables
VALENCES = {
    "H": {1},
    "C": {4},
    "N": {3},
    "O": {2},
    "F": {1},
    "P": {3, 5},
    "S": {2, 4, 6},
    "Cl": {1},
    "Br": {1},
}


@pytest.fixture(scope="module")
def molecules():
    return list(islice(drawn(5, Counter()), 400))


def test_draws_depend_on_seed_and_number_alone():
    forward = [draw(3, n) for n in range(20)]
    backward = [draw(3, n) for n in reversed(range(20))]
    assert forward == backward[::-1]
    assert forward != [draw(4, n) for n in range(20)]


def test_molecules_are_neutral_closed_shell_and_of_the_elements(molecules):
    for molecule in molecules:
        mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
        atoms = list(mol.GetAtoms())
        assert 3 <= len(atoms) <= 50
        assert sum(a.GetFormalCharge() for a in atoms) == 0
        assert sum(a.GetAtomicNum() for a in atoms) % 2 == 0, (
            f"odd number of electrons: {molecule.smiles}"
        )
        assert "." not in molecule.smiles
        Chem.Kekulize(mol, clearAromaticFlags=True)
        for a in atoms:
            bonds = round(sum(b.GetBondTypeAsDouble() for b in a.GetBonds()))
            assert a.GetFormalCharge() or bonds in VALENCES[a.GetSymbol()], molecule.smiles


def test_unwanted_chemistry_is_absent(molecules):
    unwanted = {
        "peroxide": "[OX2][OX2]",
        "hypohalite": "[OX2,NX3][F,Cl,Br]",
        "N chain": "[NX3;!a][NX3;!a][NX3;!a]",
    }
    for name, pattern in unwanted.items():
        query = Chem.MolFromSmarts(pattern)
        assert not [
            m.smiles for m in molecules if Chem.MolFromSmiles(m.smiles).HasSubstructMatch(query)
        ], name


def test_molecules_are_diverse(molecules):
    assert len({m.group for m in molecules}) == 400
    mols = [Chem.AddHs(Chem.MolFromSmiles(m.smiles)) for m in molecules]
    present = Counter(symbol for m in mols for symbol in {a.GetSymbol() for a in m.GetAtoms()})
    assert set(present) == set(VALENCES)
    assert min(present.values()) >= 8  # every element in 2% of the molecules at least
    mean = sum(m.GetNumAtoms() for m in mols) / 400
    assert 17 < mean < 23
    rings = sum(m.GetRingInfo().NumRings() > 0 for m in mols)
    assert 0.4 < rings / 400 < 0.8


def test_every_fragment_is_a_molecule():
    for smiles in [*SMALL, *RINGS[0], *CHAINS[0], *(f"C{linker}C" for linker in LINKERS[0])]:
        assert (
            not isinstance(parse(smiles + "CC" if len(smiles) < 3 else smiles), str)
            or smiles in SMALL
        ), smiles
    for smiles in SMALL:
        assert not isinstance(parse(smiles), str), smiles


def test_weighted_lists():
    names, weights = weighted("3: a b\n1: - c\nnot a line")
    assert names == ["a", "b", "", "c"]
    assert weights == [3 / 8, 3 / 8, 1 / 8, 1 / 8]


def test_target_size_is_bounded():
    import numpy as np

    sizes = [target_size(np.random.default_rng(n)) for n in range(500)]
    assert min(sizes) >= 3 and max(sizes) <= 20 and 7 < sum(sizes) / 500 < 10


@pytest.mark.parametrize(
    "smiles, reason",
    [
        ("C1CC", "unreadable SMILES"),
        ("C(C)(C)(C)(C)C", "unreadable SMILES"),
        ("CC(=O)[O-]", "charged"),
        ("C[CH2]", "radical"),
        ("C[SiH3]", "element outside H C N O F P S Cl Br"),
        ("CCI", "element outside H C N O F P S Cl Br"),
        ("CCO.O", "several components"),
        ("[H][H]", "fewer than 3 atoms"),
        ("C" * 17, "more than 50 atoms"),
    ],
)
def test_reasons_for_not_taking_a_molecule(smiles, reason):
    assert parse(smiles) == reason


def test_groups_join_stereoisomers_isotopes_and_spellings():
    left, right, same = (
        parse("C[C@H](N)C(=O)O"),
        parse("C[C@@H](N)C(=O)O"),
        parse("OC(=O)[C@H](C)N"),
    )
    assert left.group == right.group and left.smiles != right.smiles
    assert same in (left, right)
    assert parse("[2H]OC").smiles == parse("[CH3:7]O").smiles == "CO"
    assert not isinstance(parse("C[N+](=O)[O-]"), str)  # charges that cancel are a neutral molecule


def test_columns_headers_and_comments(tmp_path):
    (tmp_path / "a.smi").write_text("# a comment\nCCO ethanol\n\nCC\tethane\n")
    (tmp_path / "b.csv").write_text('SMILES,name\nCCO,"ethanol, pure"\n"CC",ethane\n')
    (tmp_path / "c.txt").write_text("CCO\nCC\n")
    for name in ("a.smi", "b.csv", "c.txt"):
        assert read_column(tmp_path / name) == ["CCO", "CC"]


def test_bad_files_are_explained(tmp_path):
    (tmp_path / "empty.smi").write_text("\n# nothing\n")
    for name in ("empty.smi", "absent.smi"):
        with pytest.raises(DataError) as error:
            read_column(tmp_path / name)
        assert error.value.where == str(tmp_path / name) and "SMILES" in error.value.remedy


def test_listed_counts_and_shuffles():
    column = ["CCO", "OCC", "C1CC", "CC[NH3+]", *("C" * n for n in range(1, 12))]
    skipped = Counter()
    found = [m.smiles for m in listed(column, 0, skipped)]
    assert sorted(found) == sorted(["CCO", *("C" * n for n in range(1, 12))])
    assert skipped == {"listed before": 1, "unreadable SMILES": 1, "charged": 1}
    assert found == [m.smiles for m in listed(column, 0, Counter())]
    assert found != [m.smiles for m in listed(column, 1, Counter())]
