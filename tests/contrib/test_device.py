"""The driver of a lent device, dry: two bare machines with few packages, data in parts, a study in
pieces; and what training imports."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from travel import main

from forcelaw.data.pack import Pack
from forcelaw.store.runs import runs
from forcelaw.study import worker
from forcelaw.study.config import load
from forcelaw.table.directory import table
from tests.packs import write_pack

ROOT = Path(__file__).parents[2]
# what a bare machine may lack; what it has or is carried there: torch, triton, numpy, safetensors,
# yaml, pydantic
ABSENT = (
    "ase",
    "polars",
    "matplotlib",
    "plotly",
    "rdkit",
    "vesin",
    "tblite",
    "jinja2",
    "rich",
    "h5py",
    "scipy",
    "pandas",
    "ase_db_backends",
    "schedulefree",
    "e3nn",
    "pytest",
)
STUDY = """
name: t
data: ../packs/p
cutoff: 3.0
architectures: [{name: mpnn, learning_rate: 1e-3}, painn]
sizes: [3e3]
depth: 1
seeds: [0]
epochs: 20
train:
  batch_molecules: 4
  evaluations: 3
  first_evaluation: 2
  validation_structures: 6
  precision: float64
learning_rate: {sweep: {size: 3e3, factors: [0.5, 1], epochs: 1}}
"""


@pytest.fixture
def bare(tmp_path):
    """Environment of a Python in which the packages ABSENT cannot be imported, workers included."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    )
    return {
        **os.environ,
        "PYTHONPATH": str(site),
        "PYTHON": sys.executable,
        "RESERVE": "1",
        "OMP_NUM_THREADS": "1",
    }


def machine(folder, environment, script, *arguments):
    return subprocess.run(
        ["bash", str(ROOT / "contrib" / "travel" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment | {"WORK": str(folder)},
        check=False,
        cwd=folder,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_bare_machines_do_a_study_in_pieces_and_the_table_comes_home(tmp_path, bare) -> None:
    pack = write_pack(tmp_path / "home" / "packs" / "p", structures=120)
    (tmp_path / "home" / "studies").mkdir()
    (tmp_path / "home" / "studies" / "t.yaml").write_text(STUDY)
    assert (
        main(["export", str(pack.path), "--to", str(tmp_path / "data"), "--part-mb", "0.01"]) == 0
    )
    first, *rest = sorted((tmp_path / "data").iterdir())
    assert rest
    environment = bare | {"DATA_ENV": str(tmp_path / "data.env")}
    (tmp_path / "data.env").write_text(f"PACK=p\nSOURCE=none\nPREPARE=\nHASH={pack.hash}\n")
    study, state = [], None
    for k in range(2):
        folder = tmp_path / f"machine-{k}"
        shutil.copytree(tmp_path / "home" / "studies", folder / "studies")
        for number, files in ((1, [first]), (2, [*rest, *(state or [])])):
            (folder / "out" / f"carry-{number}").mkdir(parents=True)
            for file in files:
                shutil.copy(file, folder / "out" / f"carry-{number}")
            if number == 1:
                done = machine(folder, environment, "stage.sh")
                assert done.returncode == 0 and "not all here yet" in done.stdout, (
                    done.stdout + done.stderr
                )
        # the first machine has the three seconds that are the least of a call; the study needs more
        done = machine(
            folder,
            environment,
            "piece.sh",
            folder / "studies" / "t.yaml",
            folder / "back",
            (3, 100)[k],
            "--workers",
            1,
        )
        assert done.returncode == (75, 0)[k], done.stdout + done.stderr
        assert f"hash {pack.hash}" in done.stdout and "WARNING" not in done.stdout
        back = sorted((folder / "back").iterdir())
        assert len(back) <= 8 and {"t.txt", "runs.csv"} < {p.name for p in back}
        state = [p for p in back if ".tar." in p.name]
        study.append(folder / "out" / "t")
    assert not all(run.done for run in runs(study[0] / "runs"))
    home = tmp_path / "home" / "out" / "t"
    for k in range(2):
        assert (
            main(
                [
                    "import",
                    *map(str, (tmp_path / f"machine-{k}" / "back").glob("t.tar.*")),
                    "--to",
                    str(home),
                ]
            )
            == 0
        )
    assert (
        all(run.done for run in runs(home / "runs")) and len(list((home / "pieces").iterdir())) == 2
    )
    ends = table(home / "runs").filter(table(home / "runs")["final"])
    assert len(ends) == 4 and (ends["status"] == "finished").all()


# Stands for the training of a study alone; whatever else the scripts ask of Python is done.
ONLY_TRAINING = """#!/usr/bin/env bash
[[ "$1 $2 $3" == "-m forcelaw.cli run" ]] || exec {python} "$@"
name=$(basename "$4" .yaml)
echo "$name on GPU $CUDA_VISIBLE_DEVICES" >>ran
for ((k = 0; k < 300; k++)); do [[ $(wc -l <ran) -ge 2 ]] && break; sleep 0.1; done
[[ $(wc -l <ran) -ge 2 ]] || exit 1
mkdir -p "$(dirname "$6")" && cp -r trained "$6"
"""


def test_queues_of_studies_run_side_by_side_and_all_come_back(tmp_path, bare) -> None:
    """The first study of each queue waits for that of the other, so that one after the other would
    not end."""
    write_pack(tmp_path / "packs" / "p", structures=60)
    (tmp_path / "studies").mkdir()
    text = STUDY.replace("epochs: 20", "epochs: 1").replace(", painn]", "]")
    for name in "abc":
        (tmp_path / "studies" / f"{name}.yaml").write_text(text.replace("name: t", f"name: {name}"))
    study = tmp_path / "studies" / "a.yaml"
    worker.work(load(study), tmp_path / "trained", study.parent, device="cpu", show=False)
    (tmp_path / "data.env").write_text("PACK=p\nSOURCE=none\nPREPARE=\nHASH=\n")
    (tmp_path / "python").write_text(ONLY_TRAINING.format(python=sys.executable))
    (tmp_path / "python").chmod(0o700)
    done = machine(
        tmp_path,
        bare | {"DATA_ENV": str(tmp_path / "data.env"), "PYTHON": str(tmp_path / "python")},
        "queues.sh",
        tmp_path / "back",
        200,
        "studies/a.yaml studies/b.yaml",
        "studies/c.yaml",
    )
    said = (tmp_path / "back" / "all.txt").read_text()
    assert done.stdout.count("exit code 0") == 3, done.stdout + done.stderr + said
    assert {p.name for p in (tmp_path / "back").rglob("*") if p.is_file()} == {
        "all.txt",
        *(f"{name}.tar.1-of-1" for name in "abc"),
    }
    ran = (tmp_path / "ran").read_text().splitlines()
    assert sorted(ran) == ["a on GPU 0", "b on GPU 0", "c on GPU 1"]
    assert ran.index("a on GPU 0") < ran.index("b on GPU 0")
    assert len(re.findall(r"MPNN \(grid\) +1 +0 +0", said)) == 3


def test_training_imports_nothing_that_a_bare_machine_may_lack(bare) -> None:
    code = (
        "import sys, forcelaw.cli.main, forcelaw.training.loop, forcelaw.data.device_dataset,"
        " forcelaw.models.sizing\nfrom forcelaw.study import concurrent, export, launcher, worker\n"
        "forcelaw.cli.main.build_parser()\n"
        "data = {'elements': (1, 6), 'scale': 1.0, 'mean_degree': 4.0}\n"
        "for name in forcelaw.models.ARCHITECTURES:\n"
        "    forcelaw.models.sizing.size(name, 3e4, **data)\n"
        "class OfOthers:\n"
        "    model = staticmethod(lambda config: forcelaw.models.base.nn.Embedding(3, 4))\n"
        "assert forcelaw.models.sizing._without_weights(OfOthers, None).weight.is_meta\n"
        "assert 'torch._dynamo' not in sys.modules, 'sizing imports the compiler of torch'\n"
        "print(*sorted({m.partition('.')[0] for m, module in sys.modules.items() if module}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=bare | {"PYTHONPATH": f"{bare['PYTHONPATH']}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # torch brings torchgen, opt_einsum, sympy and the like; pydantic its three
    mine = set(done.stdout.split()) & {
        "numpy",
        "torch",
        "safetensors",
        "yaml",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_inspection",
        "typing_extensions",
        *ABSENT,
    }
    assert mine == {
        "numpy",
        "torch",
        "safetensors",
        "yaml",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_inspection",
        "typing_extensions",
    }


def test_a_pack_with_another_hash_is_warned_of(tmp_path, bare) -> None:
    write_pack(tmp_path / "packs" / "p")
    (tmp_path / "data.env").write_text("PACK=p\nSOURCE=none\nPREPARE=\nHASH=0123\n")
    done = machine(tmp_path, bare | {"DATA_ENV": str(tmp_path / "data.env")}, "stage.sh")
    assert "WARNING" in done.stdout and "0123" in done.stdout


def test_a_wheel_that_comes_again_leaves_its_files_alone(tmp_path, bare) -> None:
    """Processes of the lease may have them loaded; one that is overwritten kills them."""
    for carried in ("carry-1", "carry-2"):
        (tmp_path / "out" / carried).mkdir(parents=True)
        with zipfile.ZipFile(tmp_path / "out" / carried / "p-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("p/library.so", f"of {carried}")
        assert machine(tmp_path, bare, "stage.sh").returncode == 0
        assert not list((tmp_path / "out" / carried).iterdir())
    assert (tmp_path / "out" / "site" / "p" / "library.so").read_text() == "of carry-1"


def molecules(path: Path, distances: np.ndarray) -> Path:
    """Molecules of hydrogen with the energies and forces of a spring."""
    positions = np.zeros((len(distances), 2, 3))
    positions[:, 1, 2] = distances
    forces = np.zeros_like(positions)
    forces[:, 0, 2] = 30 * (distances - 0.74)
    forces[:, 1] = -forces[:, 0]
    energy = -31 + 15 * (distances - 0.74) ** 2
    np.savez(path, R=positions, z=np.array([1, 1]), E=energy, F=forces)
    return path


@pytest.mark.timeout(120)
def test_a_pack_of_two_files_is_made_when_both_are_there(tmp_path, bare) -> None:
    parts = []
    for name, low in (("a.npz", 0.6), ("b.npz", 0.9)):
        file = molecules(tmp_path / name, low + 0.01 * np.arange(20))
        assert main(["export", str(file), "--to", str(tmp_path / "data"), "--part-mb", "1"]) == 0
        parts.append(next((tmp_path / "data").glob(f"{name}.tar*")))
    prepare = "--group frame --energy-unit eV --length-unit Angstrom"
    (tmp_path / "data.env").write_text(
        f'PACK=p\nSOURCE="a.npz b.npz"\nPREPARE="{prepare}"\nHASH=\n'
    )
    folder, environment = tmp_path / "m", bare | {"DATA_ENV": str(tmp_path / "data.env")}
    (folder / "out" / "carry").mkdir(parents=True)
    for part, said in zip(parts, ("not all here yet", "pack p is here"), strict=True):
        shutil.copy(part, folder / "out" / "carry")
        done = machine(folder, environment, "stage.sh")
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    pack = Pack(folder / "packs" / "p")
    assert [record["structures"] for record in pack.manifest["sources"]] == [20, 20]
