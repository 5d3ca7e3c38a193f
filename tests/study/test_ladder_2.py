"""studies/ladder_2: slices that make up the long grid, lists of further molecules, one table."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest

from forcelaw.data.pack import Pack, group_hash, sample_path
from forcelaw.data.splits import TRAIN, split_of
from forcelaw.study.config import load
from forcelaw.study.plan import plan
from forcelaw.study.reuse import training_id
from forcelaw.training.spec import summarise

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "ladder_2"
# of other lengths and rates than the grid's
OTHER = {"long_check", "long_check_small", "long_esen", "long_esen_rates", "long_rates"}
OTHER |= {"long_esen_slower", "long_esen_slower_3m"}


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))  # scripts import each other
    spec = importlib.util.spec_from_file_location(f"ladder_2_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def trained(name: str) -> set[str]:
    """What decides the numbers of each run of a study, for the shipped sample many times over."""
    data = summarise(Pack(sample_path()))
    data = replace(data, natoms=np.tile(data.natoms, 70))  # `repeats` asks for 13.5M atoms
    return {training_id(run.spec) for run in plan(load(FOLDER / f"{name}.yaml"), data, {}).runs}


@pytest.mark.timeout(60)
def test_the_slices_are_the_long_grid() -> None:
    grid = load(FOLDER / "grid_long.yaml")
    slices = {path.stem for path in FOLDER.glob("long_*.yaml")} - OTHER
    rates = {"long_rates", "long_esen_rates", "long_esen_slower", "long_esen_slower_3m"}
    assert set(grid.share) == slices | rates
    for name in slices | OTHER:  # where piece.sh puts a study is where `share` looks for it
        assert load(FOLDER / f"{name}.yaml").name == name
    runs = trained("grid_long")
    assert len(runs) == 35
    later, more = ("long_esen_rates", "long_3m"), ("long_3m", "long_seeds")
    on_one_card = ("long_rates", "repeats", "long_check_small")
    assert all(load(FOLDER / f"{name}.yaml").share == ["one_card"] for name in on_one_card)
    assert trained("one_card") == set().union(*map(trained, on_one_card))
    assert all("one_card_2" in load(FOLDER / f"{name}.yaml").share for name in later)
    second = trained("one_card_2")
    assert trained("long_esen_rates") < second < set().union(*map(trained, later))
    for card, on_it in {"one_card_3": ("long_egnn", *more), "one_card_4": more}.items():
        assert trained(card) < set().union(*map(trained, on_it))
        assert all(card in load(FOLDER / f"{name}.yaml").share for name in on_it)
    assert set().union(*map(trained, slices)) < runs < set().union(*map(trained, grid.share))
    assert trained("long_three") == set().union(
        *map(trained, ("long_1m", "long_300k", "long_100k"))
    )


def old_file(path: Path, smiles: list[str]) -> Path:
    with h5py.File(path, "w") as file:
        file["smiles"] = np.array([text.encode() for text in smiles])
    return path


def sides(smiles: list[str]) -> list[bool]:
    """Which molecules are on the training side of the old pack."""
    hashes = np.array([group_hash(text) for text in smiles], np.uint64)
    return (split_of(hashes, fraction=0.02, seed=0) == TRAIN).tolist()


@pytest.fixture
def more(monkeypatch):
    pytest.importorskip("rdkit", reason="rdkit is in the extra 'generate'")
    module = script("more_data", monkeypatch)
    monkeypatch.setattr(module, "PARTS", 2)
    return module


@pytest.mark.timeout(60)
def test_lists_leave_out_what_is_known_and_what_is_validated(more, tmp_path) -> None:
    held = ["CCCCCCCN", "CCCCCCCC=O"]  # one is in the old file, one is not
    assert sides(held) == [False, False], "the test wants molecules of the validation side"
    qm9, other = ["CCO", "CCN", "c1ccccc1"], ["CCCCCO", held[0]]
    source = tmp_path / "smiles"
    (source / "spice_pubchem").mkdir(parents=True)
    (source / "qm9.csv").write_text("smiles\n" + "\n".join([*qm9, "OCC"]) + "\n")
    (source / "valid.txt").write_text(
        f"{held[0]}\n{held[1]}\nC[C@H](F)Cl\nCP(C)C\n{'C' * 21}\n[NH4+]\n"
    )
    (source / "spice_pubchem" / "a.smi").write_text("FC(F)F\nCC(F)Cl\n")
    old = old_file(tmp_path / "old.h5", ["CCO", *other])
    made = []
    for k in (0, 1):
        more.lists(tmp_path / f"{k}", source, old)
        made.append([(tmp_path / f"{k}" / f"0{i}.smi").read_text().split() for i in (0, 1)])
    assert made[0] == made[1] and abs(len(made[0][0]) - len(made[0][1])) <= 1
    # new of QM9 and of the lists, once whatever their stereochemistry, and the old one not of QM9
    assert {*made[0][0], *made[0][1]} == {"CCN", "c1ccccc1", "C[C@H](F)Cl", "FC(F)F", "CCCCCO"}


@pytest.mark.timeout(90)
def test_packs_merge_into_one_file_that_prepares(more, tmp_path) -> None:
    pytest.importorskip("tblite", reason="tblite is in the extra 'generate'")
    from forcelaw.data.build import PrepareOptions
    from forcelaw.data.generate.assemble import generate
    from forcelaw.data.generate.options import GenerateOptions
    from forcelaw.data.prepare import prepare

    packs = []
    for name, smiles in (("00", ["CCO", "CCN"]), ("01", ["c1ccccc1"])):
        (tmp_path / f"{name}.smi").write_text("\n".join(smiles) + "\n")
        listed = {"smiles": tmp_path / f"{name}.smi", "conformers": 2, "workers": 1}
        packs.append(Pack(generate(GenerateOptions(out=tmp_path / name, val_fraction=0, **listed))))
    more.merge(tmp_path, old_file(tmp_path / "old.h5", ["CCCCCO"]))
    file = tmp_path / "xtb_molecules_more.h5"
    how = PrepareOptions(val_fraction=0, rotate=False, allow=frozenset({"units"}))
    pack = Pack(prepare([file], tmp_path / "whole", options=how))
    assert len(pack) == sum(map(len, packs)) and pack.hash
    for name, error in (("positions", 5.1e-4), ("forces", 2e-6)):  # prepare centres positions
        parts = np.concatenate([p.vectors(name, slice(None)) for p in packs])
        np.testing.assert_allclose(pack.vectors(name, slice(None)), parts, rtol=0, atol=error)
    assert pack.groups.tolist() == [g for p in packs for g in p.groups.tolist()]
    assert pack.energies.tolist() == [e for p in packs for e in p.energies.tolist()]


def test_the_table_has_the_last_row_of_each_run_and_the_slice_apart(monkeypatch) -> None:
    merged = script("merged", monkeypatch)
    monkeypatch.chdir(ROOT)
    table = merged.merged()
    assert table["architecture"].unique(maintain_order=True)[0] == "MPNN"
    ends = table.filter(pl.col("batch") == 16)
    assert len(ends) == ends["run"].n_unique() and (ends["d"] == ends["length"]).all()
    kept = pl.read_csv(ROOT / "results" / "ladder_2_lengths" / "ends.csv")
    short = ends.filter(pl.col("length") < 2e7)
    assert sorted(short["run"]) == sorted(kept["run"])
    other = table.filter(pl.col("batch") == 64)
    assert other["architecture"].str.ends_with(" (64)").all() and (other["step"] >= 2000).all()
