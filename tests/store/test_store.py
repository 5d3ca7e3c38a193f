"""Run directories: claims have one winner, stale ones are taken over, half-written files are
survived."""

import pytest

from forcelaw.errors import StoreError
from forcelaw.store.runs import RunDirectory, content_id
from forcelaw.table.directory import table
from tests.fuzz.damage import PLACES


def spec(**changes):
    return {
        "study": "s",
        "kind": "grid",
        "label": "MPNN",
        "model": {"architecture": "mpnn", "width": 8, "depth": 2},
        "seed": 0,
        "lr": 1e-3,
        "batch_atoms": 80,
        "epochs": 1.0,
        "steps": 10,
        "n": 100,
        "n_nonembedding": 90,
    } | changes


def test_the_id_does_not_depend_on_key_order() -> None:
    assert (
        content_id({"a": 1, "b": [1, 2]})
        == content_id({"b": [1, 2], "a": 1})
        != content_id({"a": 1, "b": [2, 1]})
    )


def test_a_line_cut_short_is_ignored_and_truncation_keeps_what_counts(tmp_path) -> None:
    run = RunDirectory.create(tmp_path, spec())
    for step in (1, 2, 5):
        run.append_metric({"step": step, "loss": 1.0 / step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    assert [m["step"] for m in run.metrics()] == [1, 2, 5]
    run.truncate_metrics(2)
    run.append_metric({"step": 3, "loss": 0.1})
    assert [m["step"] for m in run.metrics()] == [1, 2, 3]
    (run.path / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(StoreError, match="line 2"):
        run.metrics()


def test_the_table_has_a_row_per_evaluation_and_keeps_runs_that_diverged_at_once(tmp_path) -> None:
    good, bad = RunDirectory.create(tmp_path, spec()), RunDirectory.create(tmp_path, spec(lr=9.0))
    for step in (5, 10):
        good.append_metric(
            {
                "step": step,
                "d": 80 * step,
                "u": 80 * step,
                "c": 1e6 * step,
                "h": 0.1,
                "loss": 1.0 / step,
                "loss_energy": 0.0,
                "loss_forces": 1.0 / step,
            }
        )
    good.finish(
        {"status": "finished", "device": "CPU", "symmetry": {"rotation": 1e-6, "inversion": 2e-6}}
    )
    bad.finish({"status": "diverged", "device": "CPU", "step": 3})
    frame = table(tmp_path).sort("lr", "step")
    assert frame["status"].to_list() == ["finished", "finished", "diverged"]
    assert frame["final"].to_list() == [False, True, True]
    assert frame["rotation_error"].to_list() == [None, 1e-6, None]
    assert frame["loss"].to_list() == [0.2, 0.1, None]
    assert frame["lr"].to_list() == [1e-3, 1e-3, 9.0]


def test_a_run_keeps_its_reference_energies(tmp_path):
    run = RunDirectory.create(tmp_path, {"label": "A", "steps": 1})
    run.keep_references({"1": -13.6, "6": -1028.0})
    run.keep_references({"1": -13.6, "6": -1028.0})
    with pytest.raises(StoreError):  # the same pack by its hash, with other labels
        run.keep_references({"1": -13.6, "6": -1029.0})
    run.keep_references({"1": -13.6, "6": -1029.0}, same=False)
    assert run.references() == {1: -13.6, 6: -1028.0}


READ = {
    "spec.json": RunDirectory.spec,
    "result.json": RunDirectory.result,
    "metrics.jsonl": RunDirectory.metrics,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("what", ["is a folder", "is a pipe", "is a device", "has 2 TB"])
def test_what_stands_in_place_of_a_file_is_damage_and_is_not_read(tmp_path, name, what) -> None:
    run = RunDirectory.create(tmp_path, spec())
    run.append_metric({"step": 1, "loss": 1.0})
    run.finish({"status": "finished"})
    PLACES[what](run.path / name)
    with pytest.raises(StoreError) as caught:
        READ[name](run)
    assert name in caught.value.where and caught.value.remedy


def test_a_folder_where_a_file_is_to_be_written_is_damage_and_no_full_disk(tmp_path) -> None:
    run = RunDirectory.create(tmp_path, spec())
    (run.path / "result.json").mkdir()
    with pytest.raises(StoreError, match=r"result\.json"):
        run.finish({"status": "finished"})
