"""Archives in parts arrive whole or not at all, and two machines' halves of a study make the whole
without losing anything."""

import io
import itertools
import json
import shutil
import subprocess
import tarfile

import numpy as np
import parts
import pytest
import state
import torch
from travel import main

from forcelaw.data.pack import Pack
from forcelaw.data.verify import verify
from forcelaw.errors import StoreError
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study import worker
from forcelaw.study.config import load
from forcelaw.table.directory import table
from tests.packs import write_pack
from tests.store.test_store import spec


def run_directory(root, steps=(), *, result=None, checkpoint=0, weight=1000, **changes):
    run = RunDirectory.create(root, spec(**changes))
    (run.path / "metrics.jsonl").unlink(missing_ok=True)
    for step in steps:
        run.append_metric(
            {"step": step, "d": 80 * step, "c": 1e6 * step, "h": step / 100, "loss": 1.0 / step}
        )
    if checkpoint:
        (run.path / "last.safetensors").write_bytes(np.random.default_rng(checkpoint).bytes(weight))
        (run.path / "last.json").write_text(
            json.dumps({"step": checkpoint, "seconds": 36.0 * checkpoint, "flops": 1e6})
        )
    if result:
        run.finish(
            {"status": result, "steps": steps[-1] if steps else 0, "seconds": 7.0, "flops": 3e6}
        )
    return run


def contents(root):
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("size", [20_000, 10_000_000])
def test_a_pack_travels_in_parts_and_arrives_to_the_last_byte(tmp_path, size, capsys) -> None:
    pack = write_pack(tmp_path / "pack", structures=900)
    assert (
        main(["export", str(pack.path), "--to", str(tmp_path / "a"), "--part-mb", str(size / 1e6)])
        == 0
    )
    files = sorted((tmp_path / "a").iterdir())
    assert (len(files) > 3) == (size == 20_000) and all(p.stat().st_size <= size for p in files)
    main(["export", str(pack.path), "--to", str(tmp_path / "b"), "--part-mb", str(size / 1e6)])
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and files[0].read_bytes()[
        4:8
    ] == bytes(4)  # no date in it
    assert main(["import", str(tmp_path / "a"), "--to", str(tmp_path / "new")]) == 0
    assert (
        contents(tmp_path / "new") == contents(pack.path)
        and Pack(tmp_path / "new").hash == pack.hash
    )
    whole = b"".join(p.read_bytes() for p in files)  # any tar reads them put together
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        assert (
            archive.extractfile("manifest.json").read()
            == (pack.path / "manifest.json").read_bytes()
        )
    assert main(["import", str(tmp_path / "a"), "--to", str(tmp_path / "new")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_part_that_is_missing_changed_or_cut_is_refused_and_leaves_nothing(tmp_path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(100_000))
    files = parts.write(
        dict(parts.under(folder)),
        tmp_path / "p",
        "x",
        size=30_000,
        compress=False,
        about={"kind": "folder"},
    )
    assert len(files) == 4
    one = files[1].read_bytes()
    for damage, message in (
        (None, "missing: 2"),
        (one[:-600], "incomplete|damaged|checksum"),
        (bytes([one[0] ^ 1]) + one[1:], "checksum|damaged"),
    ):
        if damage is None:
            files[1].unlink()
        else:
            files[1].write_bytes(damage)
        with pytest.raises(StoreError, match=message):
            state.import_archive([tmp_path / "p"], tmp_path / "new")
        assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".incoming*"))
    files[1].write_bytes(one)
    state.import_archive([tmp_path / "p"], tmp_path / "new")
    assert contents(tmp_path / "new") == contents(folder)
    with pytest.raises(StoreError, match="no archive parts"):
        parts.find([folder])


def test_a_pack_travels_with_its_shards_on_other_disks(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    there = {"shard_size": 2000, "shard_folders": [tmp_path / "disk"]}
    pack = write_pack(tmp_path / "pack", **there)
    main(["export", str(pack.path), "--to", str(tmp_path / "a"), "--part-mb", "1"])
    main(["import", str(tmp_path / "a"), "--to", str(tmp_path / "new")])
    shutil.rmtree(tmp_path / "disk")
    arrived = Pack(tmp_path / "new")
    verify(arrived)
    assert arrived.hash == pack.hash and len(arrived.shards) == len(pack.shards) > 3


@pytest.mark.parametrize("name", ["../evil", "/evil", "extra"])
def test_an_archive_cannot_write_where_its_index_does_not_say(tmp_path, name) -> None:
    path = tmp_path / "x.tar.1-of-1"
    named = {} if name == "extra" else {name: {"bytes": 1, "sha256": "?"}}
    with tarfile.open(path, "w") as archive:
        head = json.dumps({"kind": "folder", "files": named}).encode()
        for inside, data in (("index.json", head), (name, b"!")):
            info = tarfile.TarInfo(inside)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(StoreError, match="its index does not name"):
        state.import_archive([path], tmp_path / "sub" / "new")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "sub" / "evil").exists()


def test_a_study_travels_without_the_checkpoints_of_runs_that_ended(tmp_path) -> None:
    out = tmp_path / "out"
    run_directory(out / "runs", (5, 10), result="finished", checkpoint=10, seed=0)
    under_way = run_directory(out / "runs", (5,), checkpoint=7, seed=1)
    (under_way.path / ".last.abcd").write_text("half written")
    export = state.export_study(out, tmp_path / "p", "s", part=1_000_000, most=4)
    assert (export.finished, export.under_way, export.left_out) == (1, 1, {})
    state.import_archive([tmp_path / "p"], tmp_path / "new")
    a, b = contents(out), contents(tmp_path / "new")
    assert set(a) - set(b) == {
        name
        for name in a
        if name.endswith(".last.abcd") or (name.split("/")[1] != under_way.id and "/last." in name)
    }
    assert all(a[name] == b[name] for name in b)


def test_what_travels_is_worth_most_of_all_that_fit_together() -> None:
    """As by trying every set. A run of 48 MB and 19 minutes was left behind once for one of 5 MB
    and 11 minutes, which is dearer for its size."""
    assert state.most_worth({"a": 19, "b": 11}, {"a": 48, "b": 5}, 50) == {"a"}
    random = np.random.default_rng(0)
    for _ in range(50):
        keys = "abcdefg"
        worth = {key: float(random.integers(1, 30)) for key in keys}
        size = {key: int(random.integers(1, 500)) for key in keys}
        sets = [c for k in range(8) for c in itertools.combinations(keys, k)]
        fits = [c for c in sets if sum(size[key] for key in c) <= 1000]
        best = max(sum(worth[key] for key in c) for c in fits)
        chosen = state.most_worth(worth, size, 1000)
        assert sum(size[key] for key in chosen) <= 1000
        assert sum(worth[key] for key in chosen) == best


def test_where_not_every_checkpoint_fits_the_dearest_go_and_the_others_are_named(
    tmp_path,
) -> None:
    out = tmp_path / "out"
    dear = run_directory(out / "runs", (5,), checkpoint=50, weight=30_000, seed=0)
    cheap = run_directory(
        out / "runs", (5,), checkpoint=3, weight=38_000, seed=1
    )  # fits by itself, and not together with the first
    small = run_directory(out / "runs", (5,), checkpoint=2, weight=2_000, seed=2)
    export = state.export_study(out, tmp_path / "p", "s", part=50_000, most=2)
    assert (
        export.under_way == 2
        and export.left_out == {cheap.id: 108.0}
        and "1 min 48 s" in export.describe()
    )
    assert sum(p.stat().st_size for p in export.parts) <= 100_000 and len(export.parts) <= 2
    state.import_archive([tmp_path / "p"], tmp_path / "new")
    assert {r.id: r.position() for r in runs(tmp_path / "new" / "runs")} == {
        dear.id: 50,
        cheap.id: 0,
        small.id: 2,
    }
    with pytest.raises(StoreError, match="without any checkpoint"):
        state.export_study(out, tmp_path / "p", "s", part=20_000, most=1)
    run_directory(out / "runs", seed=3).claim()
    with pytest.raises(StoreError, match="being trained"):
        state.export_study(out, tmp_path / "p", "s", part=50_000, most=2)


def test_merging_keeps_the_run_that_is_further_and_mixes_nothing(tmp_path) -> None:
    """Every pair of states of one run, both ways: the winner's files are there and only those."""
    states = [
        {},
        {"steps": (5,)},
        {"steps": (5,), "checkpoint": 5},
        {"steps": (5,), "checkpoint": 8},
        {"steps": (5, 9), "checkpoint": 9},
        {"steps": (5,), "result": "failed"},
        {"steps": (5,), "result": "diverged"},
        {"steps": (5, 10), "result": "finished"},
    ]
    for low in range(len(states)):
        for high in range(low, len(states)):
            for here, there in ((low, high), (high, low)):
                base = tmp_path / f"{here}-{there}"
                ours, theirs = (
                    run_directory(base / name / "runs", **states[k])
                    for name, k in (("ours", here), ("theirs", there))
                )
                wanted = contents((ours if here >= there else theirs).path)
                merge = state.merge_study(base / "theirs", base / "ours")
                assert contents(ours.path) == wanted, (here, there)
                assert (merge.better if there > here else merge.kept) == [ours.id]
                assert not [p for p in (base / "ours" / "runs").iterdir() if p.name != ours.id]


def test_a_run_that_ended_differently_on_both_sides_is_named_and_one_in_training_is_not_touched(
    tmp_path,
) -> None:
    for name, first in (("a", 5), ("b", 6)):
        run_directory(tmp_path / name / "runs", (first, 10), result="finished")
    assert len(state.merge_study(tmp_path / "b", tmp_path / "a").differ) == 1
    busy = run_directory(tmp_path / "c" / "runs", (5,), checkpoint=5)
    assert busy.claim()
    with pytest.raises(StoreError, match="being trained"):
        state.merge_study(tmp_path / "a", tmp_path / "c")
    busy.release()
    assert state.merge_study(tmp_path / "a", tmp_path / "c").better == [busy.id]


def test_pieces_of_both_machines_are_counted_once_and_another_study_is_refused(tmp_path) -> None:
    from forcelaw.study.accounting import accounts

    for name, seconds in (("a", {"x": 100.0, "y": 60.0}), ("b", {"y": 90.0, "z": 50.0})):
        run_directory(tmp_path / name / "runs", (5,), result="finished")
        (tmp_path / name / "study.json").write_text(
            json.dumps({"study": {"name": "s"}, "data": {"hash": "h"}})
        )
        (tmp_path / name / "pieces").mkdir()
        for piece, value in seconds.items():
            (tmp_path / name / "pieces" / f"{piece}.json").write_text(
                json.dumps(
                    {"began": "", "seconds": value, "device": "GPU", "devices": 2, "workers": 2}
                )
            )
    for _ in range(2):
        state.merge_study(tmp_path / "b", tmp_path / "a")
    books = accounts(tmp_path / "a")
    assert books.pieces == 3 and books.held_hours == pytest.approx(2 * (100 + 90 + 50) / 3600)
    assert books.solo_hours == pytest.approx(7 / 3600) and books.utilisation == pytest.approx(
        7 / 480
    )
    (tmp_path / "b" / "study.json").write_text(
        json.dumps({"study": {"name": "s"}, "data": {"hash": "other"}})
    )
    with pytest.raises(StoreError, match="another study"):
        state.merge_study(tmp_path / "b", tmp_path / "a")


def test_a_study_that_grew_elsewhere_comes_home_and_an_older_state_of_it_too(tmp_path) -> None:
    first = {"study": {"sizes": [1e4]}, "data": {"hash": "h"}}
    grown = {"study": {"sizes": [1e4, 3e4]}, "data": {"hash": "h"}, "grown": [{"keys": ["sizes"]}]}
    again = {
        **grown,
        "study": {"sizes": [1e4, 3e4], "seeds": 2},
        "grown": [{"keys": ["sizes"]}, {"keys": ["seeds"]}],
    }
    other = {"study": {"sizes": [1e4, 5e4]}, "data": {"hash": "h"}, "grown": [{"keys": ["seeds"]}]}

    def merged(theirs, ours):
        for name, content in (("a", theirs), ("b", ours)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "study.json").write_text(json.dumps(content))
        state.merge_study(tmp_path / "a", tmp_path / "b")
        return json.loads((tmp_path / "b" / "study.json").read_text())

    assert merged(grown, first) == grown == merged(first, grown)
    assert merged(again, first) == again == merged(first, again) == merged(again, grown)
    for theirs in (other, {**grown, "data": {"hash": "other"}}, {**grown, "grown": []}):
        with pytest.raises(StoreError, match="another study"):
            merged(theirs, first)


def test_tar_can_put_the_parts_together(tmp_path) -> None:
    run_directory(tmp_path / "out" / "runs", (5,), checkpoint=5, weight=50_000)
    state.export_study(tmp_path / "out", tmp_path / "p", "s", part=20_000, most=9)
    (tmp_path / "new").mkdir()
    subprocess.run(
        "cat ../p/s.tar.* | tar xf -", shell=True, cwd=tmp_path / "new", check=True, timeout=60
    )
    assert contents(tmp_path / "new" / "runs") == contents(tmp_path / "out" / "runs")


STUDY = """
name: t
data: pack
cutoff: 3.0
architectures: [mpnn, painn]
sizes: [2e3, 4e3]
depth: 1
seeds: [0]
epochs: 6
train:
  batch_molecules: 4
  evaluations: 3
  first_evaluation: 2
  validation_structures: 6
  precision: float64
learning_rate: {sweep: {size: 2e3, factors: [0.5, 1], epochs: 1}}
"""


def test_pieces_that_travel_between_two_machines_end_with_the_table_of_one(tmp_path) -> None:
    """Machine a trains a while, its state goes to b, both go on by themselves for a while, b's
    state comes back to a."""
    torch.set_num_threads(1)
    write_pack(tmp_path / "pack")
    study = tmp_path / "t.yaml"
    study.write_text(STUDY)

    def train(study, out, **options):
        worker.work(load(study), out, study.parent, device="cpu", show=False, **options)

    def numbers(out):
        return table(out / "runs").drop("h", "throughput").sort("run", "step")

    train(study, tmp_path / "whole")

    def piece(out, moments):
        asked = itertools.count()
        train(study, out, stop=lambda: next(asked) >= moments)
        assert not any(run.held for run in runs(out / "runs"))

    def travel(source, target):
        for path in (tmp_path / "parts").glob("*"):
            path.unlink()
        assert (
            main(["export", str(source), "--to", str(tmp_path / "parts"), "--part-mb", "0.05"]) == 0
        )
        assert main(["import", str(tmp_path / "parts"), "--to", str(target)]) == 0

    a, b = tmp_path / "a", tmp_path / "b"
    piece(a, 30)
    under_way = [run for run in runs(a / "runs") if run.position() and not run.done]
    assert under_way
    travel(a, b)
    assert [run.position() for run in under_way] == [
        r.position() for r in runs(b / "runs") if r.id in {x.id for x in under_way}
    ]
    piece(a, 25)
    piece(b, 60)
    travel(b, a)
    assert any(run.done for run in runs(a / "runs")) and not all(
        run.done for run in runs(a / "runs")
    )
    train(study, a)
    assert numbers(a).equals(numbers(tmp_path / "whole")) and len(numbers(a)) == 24


def test_a_study_goes_on_with_what_others_have_begun(tmp_path) -> None:
    """The same runs in another study: begun in one, ended in the other, to the same numbers."""
    torch.set_num_threads(1)
    write_pack(tmp_path / "pack")
    outs = {}
    for name, stop in (("first", 30), ("second", 10**9)):
        study = tmp_path / f"{name}.yaml"
        study.write_text(STUDY.replace("name: t\n", f"name: {name}\n") + "share: [first]\n")
        out, asked = outs.setdefault(name, tmp_path / "out" / name), itertools.count()
        if name == "second":
            begun = {run.id: run.position() for run in runs(outs["first"] / "runs")}
            under_way = [r for r in runs(outs["first"] / "runs") if r.position() and not r.done]
            steps = {run.position() for run in under_way}
            assert under_way
            assert main(["regroup", str(outs["first"]), "--to", str(out)]) == 0
            assert {run.position() for run in runs(out / "runs")} == steps
            assert not any(run.position() and not run.done for run in runs(outs["first"] / "runs"))
            assert main(["regroup", str(outs["first"]), "--to", str(out)]) == 0, "nothing to move"
            assert begun.keys() == {run.id for run in runs(outs["first"] / "runs")}
        worker.work(
            load(study),
            out,
            study.parent,
            device="cpu",
            show=False,
            stop=lambda asked=asked, stop=stop: next(asked) >= stop,
        )
    study = tmp_path / "whole.yaml"
    study.write_text(STUDY.replace("name: t\n", "name: whole\n"))
    worker.work(load(study), tmp_path / "whole", study.parent, device="cpu", show=False)
    kept = ["architecture", "n", "lr", "seed", "step", "d", "c", "loss"]
    one, other = (
        table(o / "runs").select(kept).sort(kept) for o in (outs["second"], tmp_path / "whole")
    )
    assert one.equals(other) and len(one) == 24


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["export", "nothing", "--to", "x"], "no such file"),
        (["export", ".", "--to", "x", "--part-mb", "0"], "hold nothing"),
        (["import", ".", "--to", "x"], "no archive parts"),
    ],
)
def test_a_mistake_is_said(tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
