"""The pack of generate: the same whatever the workers, interruptions and damage; refusals and
counts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="rdkit is in the extra 'generate'")
pytest.importorskip("tblite", reason="tblite is in the extra 'generate'")

from forcelaw.cli.main import build_parser
from forcelaw.data.generate import pipeline
from forcelaw.data.generate.molecules import drawn
from forcelaw.data.generate.options import Distribution
from forcelaw.data.generate.pipeline import MAX_CRASHES, Worker
from forcelaw.data.generate.worker import compute
from forcelaw.data.pack import Pack, group_hash
from forcelaw.errors import DataError

SEED, COUNT = 11, 36  # one structure of each of 36 molecules: three chunks, the last one cut
COMMAND = [sys.executable, "-m", "forcelaw.cli", "data", "generate"]


def options(out: Path, **more) -> list[str]:
    values = {"out": out, "count": COUNT, "seed": SEED, "workers": 1, "conformers": 1} | more
    return [
        word
        for name, value in values.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def generate(out: Path, *flags: str, **more) -> Pack:
    words = ["data", "generate", *options(out, **more), *flags]
    args = build_parser(["data"]).parse_args(words)
    assert args.handler(args) == 0
    return Pack(out)


def chunks(out: Path) -> list[Path]:
    return sorted(out.with_name(out.name + ".partial-generate").glob("*/chunk-*.npz"))


def energies(chunk: Path) -> list[float]:
    with np.load(chunk, allow_pickle=False) as file:
        return file["energies"].tolist()


def stop_before_assembly(out: Path, **more) -> None:
    def stop(*_):
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("forcelaw.data.generate.assemble._assemble", stop)
        generate(out, **more)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "pack"
    stop_before_assembly(out)
    assert len(chunks(out)) == 3
    return out


@pytest.fixture
def interrupted(stopped, tmp_path) -> Path:
    """The path of a pack whose chunks are there, as a call leaves them that is killed just before
    it assembles."""
    out = tmp_path / "pack"
    shutil.copytree(chunks(stopped)[0].parents[1], tmp_path / "pack.partial-generate")
    return out


@pytest.fixture(scope="module")
def undisturbed(stopped, tmp_path_factory) -> Pack:
    """The pack, assembled from the chunks above; test_workers_do_not_show makes it in one go."""
    out = tmp_path_factory.mktemp("generate") / "pack"
    shutil.copytree(chunks(stopped)[0].parents[1], out.with_name("pack.partial-generate"))
    return generate(out)


def test_the_pack_is_what_a_plain_loop_makes(undisturbed):
    molecules = [list(m) for m in islice(drawn(SEED, Counter()), COUNT + 3)]
    slow = compute(molecules, SEED, Distribution(conformers=1))
    atoms = undisturbed.atoms
    assert (
        len(undisturbed) == COUNT
        and np.diff(undisturbed.offsets).tolist() == slow["counts"][:COUNT].tolist()
    )
    assert undisturbed.groups.tolist() == slow["groups"][:COUNT].tolist()
    assert set(undisturbed.groups.tolist()) <= {group_hash(m[1]) for m in molecules}
    assert undisturbed.numbers.tolist() == slow["numbers"][:atoms].tolist()
    np.testing.assert_allclose(
        undisturbed.vectors("positions", slice(None)), slow["positions"][:atoms], atol=1e-9
    )
    np.testing.assert_allclose(
        undisturbed.vectors("forces", slice(None)), slow["forces"][:atoms], atol=6e-4
    )
    np.testing.assert_allclose(undisturbed.energies, slow["energies"][:COUNT], atol=1e-6)
    assert set(undisturbed.charges.tolist()) == {0} and set(undisturbed.spins.tolist()) == {1}


def test_workers_do_not_show(undisturbed, tmp_path):
    assert generate(tmp_path / "pack", workers=2).hash == undisturbed.hash


def test_another_seed_is_another_pack(undisturbed, tmp_path):
    assert generate(tmp_path / "pack", seed=SEED + 1, count=9).hash != undisturbed.hash


def test_manifest(undisturbed):
    m = undisturbed.manifest
    assert m["command"].startswith("forcelaw data generate --out ")
    assert m["command"].endswith(f"--count {COUNT} --seed {SEED} --workers 1 --conformers 1")
    assert m["rotated"] is True and m["generator"]["seed"] == SEED
    train = np.repeat(
        undisturbed.split == 0, np.diff(undisturbed.offsets)
    )  # statistics are of the training side
    forces = np.linalg.norm(undisturbed.vectors("forces", train), axis=1)
    assert m["statistics"]["force_norm_mean"] == pytest.approx(forces.mean(), abs=1e-3)
    assert m["statistics"]["force_norm_max"] == pytest.approx(forces.max(), abs=2e-3)
    zs, counts = np.unique(undisturbed.numbers, return_counts=True)
    assert m["element_counts"] == {str(z): int(c) for z, c in zip(zs, counts)}
    # reference energies: an ordinary least squares over the training structures
    sizes, train = np.diff(undisturbed.offsets), undisturbed.split == 0
    table = np.array(
        [
            [(part == z).sum() for z in zs]
            for part in np.split(undisturbed.numbers, np.cumsum(sizes)[:-1])
        ]
    )
    fitted = np.linalg.lstsq(table[train].astype(float), undisturbed.energies[train], rcond=None)[0]
    assert table[train].any(axis=0).all()
    np.testing.assert_allclose([m["references"]["energies"][str(z)] for z in zs], fitted, atol=1e-6)


def test_killed_and_resumed_is_the_same_pack(undisturbed, tmp_path):
    out = tmp_path / "pack"
    process = subprocess.Popen(COMMAND + options(out, workers=2), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not chunks(out) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert chunks(out) and not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in chunks(out)[:1]}
    (
        chunks(out)[0].parent / "pack.partial-deadbeef"
    ).mkdir()  # what an assembly leaves that is killed
    assert generate(out, workers=1).hash == undisturbed.hash
    assert kept and not chunks(out) and [p.name for p in tmp_path.iterdir()] == ["pack"]


def test_a_killed_worker_is_replaced(undisturbed, tmp_path):
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc to find the worker")
    out = tmp_path / "pack"
    process = subprocess.Popen(COMMAND + options(out, workers=1), stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not chunks(out) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    assert process.wait(timeout=60) == 0
    assert Pack(out).hash == undisturbed.hash


def test_a_worker_that_died_unnoticed():
    """Its task is lost, it says so by giving no answer, and it can be put away."""
    worker = Worker()
    worker.process.kill()
    worker.process.wait(timeout=30)
    worker.send(None, {"chunk": 0})
    assert worker.answer() is None
    worker.stop()


def test_damaged_chunks_are_made_again(undisturbed, interrupted):
    first, second = chunks(interrupted)[:2]
    first.write_bytes(first.read_bytes()[:1000])
    second.write_bytes(b"")
    assert generate(interrupted).hash == undisturbed.hash


def test_chunks_of_other_settings_do_not_mix(interrupted, tmp_path):
    """The chunks of seed 11, put where those of seed 12 belong, are not taken."""
    other = tmp_path / "other"
    stop_before_assembly(other, seed=12, count=8, val_fraction=0)
    kept = energies(chunks(other)[0])
    shutil.copy(chunks(interrupted)[0], chunks(other)[0])
    assert generate(other, seed=12, count=8, val_fraction=0).energies.tolist() == kept[:8]


def test_finished_chunks_serve_other_counts(undisturbed, interrupted, monkeypatch):
    monkeypatch.setattr("forcelaw.data.generate.pipeline.Worker", None)  # nothing may be computed
    pack = generate(interrupted, count=20, val_fraction=0)
    assert len(pack) == 20 and pack.energies.tolist() == undisturbed.energies[:20].tolist()


def test_existing_pack_is_kept_unless_told(undisturbed, tmp_path):
    out = tmp_path / "pack"
    first = generate(out, count=2, val_fraction=0).hash
    with pytest.raises(DataError) as error:
        generate(out, count=3, val_fraction=0)
    assert str(out) in error.value.what and "--overwrite" in error.value.remedy
    assert Pack(out).hash == first
    assert len(generate(out, "--overwrite", count=3, val_fraction=0)) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]


def test_a_pack_too_small_to_split_is_refused(tmp_path):
    with pytest.raises(DataError) as error:
        generate(tmp_path / "pack", count=1)
    assert "--count" in error.value.remedy and "--val-fraction 0" in error.value.remedy
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("count", 0),
        ("workers", 0),
        ("conformers", 0),
        ("seed", -1),
        ("val_fraction", 1.0),
        ("val_fraction", -0.1),
    ],
)
def test_senseless_options_are_refused(tmp_path, name, value, capsys):
    with pytest.raises(SystemExit) as ended:
        generate(tmp_path / "pack", **{name: value})
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"--{name.replace('_', '-')}" in said and str(value) in said
    assert not list(tmp_path.iterdir())


def test_smiles_are_read_counted_and_run_out(tmp_path, capsys, monkeypatch):
    shown = []

    class Shown(pipeline.Progress):
        def __exit__(self, *error):
            shown.append(self.total)

    monkeypatch.setattr(pipeline, "Progress", Shown)
    path = tmp_path / "list.csv"
    path.write_text(
        "smiles,name\nCCO,ethanol\nOCC,again\nC[C@H](F)Cl,left\nC[C@@H](F)Cl,right\n"
        "C1#CC1,impossible\n"
        "CCI,iodine\nC[O-],charged\nC[CH2],radical\nnonsense,\nO=S=O,\n"
    )
    pack = generate(tmp_path / "pack", smiles=path, count=50, conformers=2, val_fraction=0)
    assert (
        len(pack) == 2 * 4 and len(np.unique(pack.groups)) == 3
    )  # the enantiomers are one molecule
    assert pack.manifest["skipped"] == {
        "charged": 1,
        "conformer not embedded": 2,
        "element outside H C N O F P S Cl Br": 1,
        "listed before": 1,
        "radical": 1,
        "unreadable SMILES": 1,
    }
    assert pack.manifest["sources"][0]["name"] == "list.csv"
    assert "50 were asked for" in capsys.readouterr().out
    assert shown == [2 * 10]  # the time left is that of what the list can give


def test_a_list_without_usable_molecules_is_an_error(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text("C[O-]\nCCI\n")
    with pytest.raises(DataError) as error:
        generate(tmp_path / "pack", smiles=path)
    assert "'charged': 1" in error.value.where and "--smiles" in error.value.remedy
    assert not (tmp_path / "pack").exists()


def test_workers_that_keep_dying_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "tblite").mkdir()
    (tmp_path / "tblite" / "__init__.py").write_text("raise SystemExit(9)")
    with pytest.raises(DataError) as error:
        generate(tmp_path / "pack")
    assert str(MAX_CRASHES) in error.value.what and "9" in error.value.what.split()[-1]
    assert "--workers" in error.value.remedy
    assert not (tmp_path / "pack").exists()
