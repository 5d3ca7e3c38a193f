"""An exported model, run in a Python that has no forcelaw, on neighbours found by ASE."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from forcelaw.errors import StudyError
from tests.packs import write_pack
from tests.trained import run_directory

ALONE = """
import json, sys
sys.modules["forcelaw"] = None
import numpy as np, torch
from ase.io import read
from ase.neighborlist import neighbor_list

extra = {"forcelaw.json": ""}
model = torch.export.load(sys.argv[1], extra_files=extra).module()
cutoff, found = json.loads(extra["forcelaw.json"])["cutoff"], []
for atoms in read(sys.argv[2], ":"):
    i, j, images = neighbor_list("ijS", atoms, cutoff)
    mixed = np.random.default_rng(0).permutation(len(i))  # edges in any order
    i, j, images = i[mixed], j[mixed], images[mixed]
    given = atoms.numbers, atoms.positions, j, i, images @ np.asarray(atoms.cell)
    found.append([x.tolist() for x in model(*(torch.from_numpy(np.array(x)) for x in given))])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run_directory(folder, write_pack(folder / "pack"), "painn", depth=1)


@pytest.fixture(scope="module")
def file(run):
    return run.export(run.path / "model.pt2", dtype="float64")


def test_an_exported_model_runs_without_forcelaw(run, file, tmp_path):
    rng = np.random.default_rng(0)
    cell = np.diag([2.7, 4.0, 6.0]) + 0.2  # one side is smaller than the cutoff
    crystal = Atoms("CHOHC", rng.normal(size=(5, 3)), cell=cell, pbc=True)
    structures = [crystal, Atoms("HOCCOHHCHO", rng.normal(size=(10, 3)) * 2), Atoms("C")]
    write(tmp_path / "structures.extxyz", structures)
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(file)]
    command.append(str(tmp_path / "structures.extxyz"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    expected = run.predict(structures, dtype="float64", stress=True)
    found = json.loads(done.stdout)
    for k, (energy, forces, _) in enumerate(found):
        assert energy == pytest.approx(expected.energies[k], abs=1e-6)
        assert np.allclose(forces, expected.forces[k], atol=1e-6)  # the file has eight decimals
    stress = np.array(found[0][2]) / crystal.get_volume()
    assert np.allclose(stress, expected.stresses[0], atol=1e-6)


def test_where_no_file_can_be_written_it_is_an_error_of_the_system(run, tmp_path):
    """torch itself makes a RuntimeError of a full disk."""
    with pytest.raises(FileNotFoundError):
        run.export(tmp_path / "no folder" / "model.pt2")


def test_the_file_says_what_it_is_and_refuses_other_elements(run, file):
    extra = {"forcelaw.json": ""}
    program = torch.export.load(file, extra_files=extra)
    about = json.loads(extra["forcelaw.json"])
    assert (about["run"], about["cutoff"], about["elements"]) == (run.id, 3.0, [1, 6, 8])
    assert about["dtype"] == "float64" and len(about["inputs"]) == 5
    iron = [torch.tensor([26, 1]), torch.rand(2, 3).double(), torch.tensor([1, 0])]
    with pytest.raises((IndexError, RuntimeError)):
        program.module()(*iron, torch.tensor([0, 1]), torch.zeros(2, 3).double())


def test_what_cannot_be_exported_is_refused(run, tmp_path):
    with pytest.raises(StudyError):
        run.export(tmp_path / "model.onnx")
    pack = write_pack(tmp_path / "pack")
    gemnet = run_directory(tmp_path, pack, "gemnet_oc", size=2e4, depth=1)
    with pytest.raises(StudyError, match="gemnet_oc"):
        gemnet.export(tmp_path / "model.pt2")
    assert not list(tmp_path.glob("*.pt2"))
