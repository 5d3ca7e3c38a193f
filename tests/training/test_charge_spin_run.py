"""OMol25's layout from end to end: a folder of .aselmdb with charge and spin in row.data, a pack, a
run that tells them apart, and its errors on the same files."""

import numpy as np
import pytest

import forcelaw
from forcelaw.cli.main import main
from forcelaw.data.pack import Pack
from forcelaw.errors import DataError
from tests.data import files

SMALL = {"size": 3e3, "depth": 1, "cutoff": 3.0, "batch_molecules": 4, "evaluations": 2}
SMALL |= {"epochs": 12, "first_evaluation": 2, "validation_structures": 6, "learning_rate": 1e-2}


@pytest.fixture
def database(tmp_path):
    """Two files; the energy depends on the charge, by 1.5 eV, and on nothing else that is new."""
    folder = tmp_path / "omol"
    folder.mkdir()
    frames = []
    for k, frame in enumerate(files.molecules(60)):
        charge, spin = k % 3 - 1, k % 2 + 1
        energy = frame["energy"] + 1.5 * charge
        frames.append({**frame, "energy": energy, "data": {"charge": charge, "spin": spin}})
    for k in range(2):
        files.database(folder / f"data{k:04d}.aselmdb", frames[30 * k : 30 * k + 30])
    return folder


def test_a_database_with_charge_and_spin_is_trained_on(database, tmp_path):
    words = ["data", "prepare", str(database), "--out", str(tmp_path / "pack"), "--group", "frame"]
    assert main(words) == 0
    pack = Pack(tmp_path / "pack")
    assert sorted(set(pack.charges.tolist())) == [-1, 0, 1]
    assert np.array_equal(pack.charges, np.arange(60) % 3 - 1)
    assert np.array_equal(pack.spins, np.arange(60) % 2 + 1)
    given = {"data": pack.path, "out": tmp_path, **SMALL}
    with pytest.raises(DataError):  # equal inputs would carry different labels
        forcelaw.train("painn", **given)
    run = forcelaw.train("painn", charge_spin=True, **given)
    assert run.spec["model"]["charges"] == [-1, 0, 1] and run.spec["model"]["spins"] == [1, 2]
    losses = run.metrics["loss_energy"].to_list()
    assert losses[-1] < 0.7 * losses[0]
    found = run.evaluate(database)  # the databases themselves
    assert found.structures == 60
    assert found.as_json()["energy"]["mae"] < 0.7 * found.as_json()["no_model"]["energy"]["mae"]
