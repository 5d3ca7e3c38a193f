"""Archives in parts arrive whole or not at all, and two machines' halves of a study make the whole
without losing anything."""

import io
import json
import subprocess
import tarfile

import numpy as np
import pytest

from forcelaw.cli.main import main
from forcelaw.data.pack import Pack
from forcelaw.errors import StoreError
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study import parts, state
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
    assert "something here already" in capsys.readouterr().err


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
        (None, "1 of|2 is not here"),
        (one[:-600], "cut short|damaged|other contents"),
        (bytes([one[0] ^ 1]) + one[1:], "other contents|damaged"),
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


def test_where_not_every_checkpoint_fits_those_that_cost_most_for_their_size_go_and_the_others_are_named(
    tmp_path,
) -> None:
    out = tmp_path / "out"
    dear = run_directory(out / "runs", (5,), checkpoint=50, weight=30_000, seed=0)
    cheap = run_directory(
        out / "runs", (5,), checkpoint=3, weight=38_000, seed=1
    )  # fits by itself, and not beside the first
    small = run_directory(out / "runs", (5,), checkpoint=2, weight=2_000, seed=2)
    export = state.export_study(out, tmp_path / "p", "s", part=50_000, most=2)
    assert (
        export.under_way == 2
        and export.left_out == {cheap.id: 108.0}
        and "1 min 48 s" in export.words()
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
