"""A table of runs says all that the run directories said: the report made of it is the same
page."""

import html
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from forcelaw.cli.main import main
from forcelaw.report.html import render
from forcelaw.store.runs import RunDirectory, runs
from forcelaw.study.export import portable
from forcelaw.table.directory import table
from tests.report import synthetic


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small study with runs that diverged, failed, stopped half-way and wait."""
    out = synthetic.write_study(
        tmp_path_factory.mktemp("evidence") / "ladder", synthetic.TRIO[:1], seeds=1, points=12
    )
    rng = np.random.default_rng(1)
    truth = synthetic.TRIO[0]
    failed, stopped, waiting = (synthetic.spec_of(truth, 8000, seed) for seed in (91, 92, 93))
    synthetic.write_run(
        out / "runs",
        failed,
        [],
        {
            "status": "failed",
            "device": "cuda",
            "message": 'OSError: /home/somebody/secret/pack.npy, "quoted"\nand a second line',
            "traceback": "File /home/somebody/secret/loop.py",
        },
    )
    synthetic.write_run(
        out / "runs", stopped, synthetic.metrics_of(truth, stopped, rng, stop=400), None
    )
    synthetic.write_run(out / "runs", waiting, [], None)
    content = json.loads((out / "study.json").read_text())
    content["command"] = (
        "forcelaw run /home/somebody/studies/ladder.yaml --out /scratch/x/ladder --minutes 9"
    )
    (out / "study.json").write_text(json.dumps(content))
    return out


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_report_of_the_table_is_the_report_of_the_runs(study, tmp_path, kind) -> None:
    from forcelaw.report.analysis import analyse
    from forcelaw.report.load import load
    from forcelaw.report.sections import sections

    assert main(["export", str(study), "--table", str(tmp_path / "kept"), "--format", kind]) == 0
    pages = []
    for source in (study, tmp_path / "kept"):
        analysis = analyse(load(source))
        page = render(analysis, sections(analysis))
        page = page.replace(f"runs.{kind}, ", "runs, ").replace(
            "/home/somebody/secret/pack.npy", "pack.npy"
        )
        page = re.sub(
            r"(forcelaw (?!run )\w+) \S*(?:ladder|kept)\S*", r"\1 SOURCE", page
        )  # commands that it shows
        page = re.sub(r"in [\d.]+ s of fit", "in 1 s of fit", page)
        pages.append(re.sub(r"forcelaw run [^<&\n]*?(--minutes 9)?(?=[<&\n])", "COMMAND", page))
    assert "second line" in pages[0] and "became NaN at step 341" in pages[0]
    first, second = (re.sub(r"\s+", " ", page) for page in pages)
    assert first == second


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_every_run_is_there_to_the_last_bit_and_nothing_of_the_machine(
    study, tmp_path, kind
) -> None:
    from forcelaw.report.load import load

    main(["export", str(study), "--table", str(tmp_path), "--format", kind])
    kept = load(tmp_path / f"runs.{kind}").frame.sort("run", "step")
    there = table(study / "runs").sort("run", "step")
    assert kept.drop("message").equals(there.drop("message"))
    assert kept.filter(kept["message"].is_not_null())["message"].n_unique() == 3
    assert set(kept["status"]) == {"finished", "diverged", "failed", "unfinished"}
    lines = {
        (row := json.loads(line))["run"]: row
        for line in (tmp_path / "runs.jsonl").read_text().splitlines()
    }
    for run in runs(study / "runs"):
        assert lines[run.id]["spec"] == run.spec() and (lines[run.id]["result"] is None) == (
            not run.done
        )
    everything = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert (
        b"somebody" not in everything
        and b"traceback" not in everything
        and b"scratch" not in everything
    )
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["command"] == "forcelaw run ladder.yaml --out ladder --minutes 9"
    assert provenance["evaluations"] == len(kept) and provenance["runs"]["failed"] == 1
    assert provenance["cost"]["flops"] > 0 and "30 GPU-hours" in provenance["cost"]["beside"]
    other = "csv" if kind == "parquet" else "parquet"
    main(["export", str(study), "--table", str(tmp_path), "--format", other])
    assert sorted(p.name for p in tmp_path.glob("runs.*")) == sorted(
        ["runs.jsonl", f"runs.{other}"]
    )  # never two tables


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_study_goes_on_from_its_evidence(study, tmp_path, capsys, kind) -> None:
    kept, again, out = tmp_path / "kept", tmp_path / "again", tmp_path / "out" / "ladder"
    main(["export", str(study), "--table", str(kept), "--format", kind])
    assert (
        main(["import", str(kept), "--to", str(out)]) == 0
        and "start over" in capsys.readouterr().out
    )
    for run in runs(study / "runs"):
        there = RunDirectory(out / "runs" / run.id)
        assert (
            there.spec() == run.spec()
            and there.metrics() == run.metrics()
            and there.position() == 0
        )
        assert there.done == run.done and (there.result() or {}).get("status") == (
            run.result() or {}
        ).get("status")
    main(["export", str(out), "--table", str(again), "--format", kind])
    assert (kept / f"runs.{kind}").read_bytes() == (again / f"runs.{kind}").read_bytes()
    # merged into a study that is further, it takes nothing away
    more = runs(study / "runs").__next__()
    assert (
        main(["import", str(kept), "--to", str(study)]) == 0
        and "0 runs are new, 0 ended better" in capsys.readouterr().out
    )
    assert more.result() == RunDirectory(study / "runs" / more.id).result()


def test_evidence_replaces_only_runs_that_ended_worse(study, tmp_path) -> None:
    main(["export", str(study), "--table", str(tmp_path / "kept"), "--format", "csv"])
    done = next(run for run in runs(study / "runs") if run.result()["status"] == "finished")
    for name, result, replaced in (
        ("unfinished", None, True),
        ("failed", {"status": "failed"}, True),
        ("stopped", {"status": "stopped"}, True),
        ("diverged", {"status": "diverged"}, True),
        ("finished", {"status": "finished", "here": True}, False),
    ):
        here = RunDirectory.create(tmp_path / name / "runs", done.spec())
        here.append_metric({"step": 10**6, "loss": 0.0})
        if result:
            here.finish(result)
        assert main(["import", str(tmp_path / "kept"), "--to", str(tmp_path / name)]) == 0
        assert (here.metrics() == done.metrics()) is replaced
        assert (here.result() == result) is not replaced
    busy = RunDirectory.create(tmp_path / "busy" / "runs", done.spec())
    assert busy.claim()
    assert main(["import", str(tmp_path / "kept"), "--to", str(tmp_path / "busy")]) == 2
    assert not busy.metrics()


def test_evidence_of_another_study_is_refused(study, tmp_path) -> None:
    main(["export", str(study), "--table", str(tmp_path / "kept"), "--format", "csv"])
    other = json.loads((study / "study.json").read_text())
    other["data"]["hash"] = "other"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text(json.dumps(other))
    assert main(["import", str(tmp_path / "kept"), "--to", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out" / "runs").exists()


def test_evidence_that_was_changed_is_not_taken(study, tmp_path, capsys) -> None:
    main(["export", str(study), "--table", str(tmp_path / "kept"), "--format", "csv"])
    lines = (tmp_path / "kept" / "runs.jsonl").read_text()
    (tmp_path / "kept" / "runs.jsonl").write_text(lines.replace('"seed": 0', '"seed": 7', 1))
    assert main(["import", str(tmp_path / "kept"), "--to", str(tmp_path / "out")]) == 2
    assert "hashes to" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "kept" / "runs.jsonl").write_text(lines)
    with (tmp_path / "kept" / "runs.csv").open("a") as file:
        file.write("\n")
    assert main(["import", str(tmp_path / "kept"), "--to", str(tmp_path / "out")]) == 2
    assert "checksum mismatch" in capsys.readouterr().err
    assert not list(tmp_path.glob(".incoming*")) and not list(tmp_path.glob("out*"))


def test_runs_under_way_may_count_as_shorter_runs(study, tmp_path) -> None:
    from forcelaw.report.analysis import analyse
    from forcelaw.report.load import load
    from forcelaw.report.sections import sections

    main(["export", str(study), "--table", str(tmp_path / "plain")])
    assert main(["export", str(study), "--table", str(tmp_path / "stop"), "--stop"]) == 0
    plain, stop = (load(tmp_path / name / "runs.parquet").frame for name in ("plain", "stop"))
    halted = stop.filter(stop["status"] == "stopped")
    assert halted["run"].n_unique() == 1 and halted["final"].to_list() == [False] * (
        len(halted) - 1
    ) + [True]
    assert halted["seed"].unique().to_list() == [92] and halted["loss"].equals(
        plain.filter(plain["seed"] == 92)["loss"]
    )
    # nothing else changes: what waits, failed or diverged stays what it was
    assert stop.filter(stop["status"] != "stopped").equals(plain.filter(plain["seed"] != 92))
    assert json.loads((tmp_path / "stop" / "provenance.json").read_text())["runs"]["stopped"] == 1
    before, after = (analyse(load(tmp_path / name)).architectures[0] for name in ("plain", "stop"))
    assert after.runs == before.runs + 1 and len(after.frame) == len(before.frame) + len(halted)
    analysis = analyse(load(tmp_path / "stop"))
    page = html.unescape(render(analysis, sections(analysis)))
    assert (
        "1 run stopped before the planned length" in page
        and "status in ('finished', 'stopped')" in page
    )


def test_the_books_add_up(tmp_path) -> None:
    from forcelaw.study.accounting import accounts
    from tests.store.test_store import spec

    done, open_run, bad, shared = (
        RunDirectory.create(tmp_path / "runs", spec(seed=seed)) for seed in range(4)
    )
    shared.finish(
        {"status": "finished", "seconds": 5000.0, "flops": 9e12, "taken_from": "another study"}
    )
    done.finish({"status": "finished", "seconds": 3600.0, "flops": 4e12})
    open_run.append_metric({"step": 1, "h": 0.25, "c": 1e12})
    bad.finish({"status": "failed", "message": "no"})
    (bad.path / "last.json").write_text(json.dumps({"step": 3, "seconds": 900.0, "flops": 2e12}))
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "a.json").write_text(
        json.dumps({"seconds": 900, "devices": 2, "device": "H100", "workers": 2})
    )
    total = accounts(tmp_path)
    assert (
        total.solo_hours == pytest.approx(1.5)
        and total.flops == pytest.approx(7e12)
        and total.longest_hours == 1.0
    )
    assert (
        total.held_hours == 0.5
        and total.utilisation == pytest.approx(3.0)
        and total.devices == {"H100": 0.5}
    )
    assert "3.00 hours of training" in total.describe() and "1 more run is of" in total.describe()


@pytest.mark.parametrize(
    "text,kept",
    [
        ("FileNotFoundError: '/data/x/pack' is gone", "FileNotFoundError: 'pack' is gone"),
        (
            "loss 1/3 of eV/Angstrom at https://a.b/c/d",
            "loss 1/3 of eV/Angstrom at https://a.b/c/d",
        ),
        ("relative/path/file stays", "relative/path/file stays"),
    ],
)
def test_paths_of_a_machine_are_taken_out_and_nothing_else(text, kept) -> None:
    assert portable({"message": [text]}) == {"message": [kept]}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["export", "nothing", "--table", "t"], "no such directory"),
        (["export", ".", "--table", "t"], "no runs here"),
        (["import", ".", "--to", "x"], "no runs.jsonl"),
    ],
)
def test_a_mistake_is_said(tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_csv_is_written_where_there_is_no_polars(study, tmp_path) -> None:
    code = (
        "import sys; sys.modules['polars'] = None\nfrom forcelaw.cli.main import main;"
        f" sys.exit(main(['export', {str(study)!r}, '--table', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs.csv").exists() and not (tmp_path / "runs.parquet").exists()
