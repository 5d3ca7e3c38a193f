"""Columns are declared once: what is read, exported, filtered and recognised follows from it."""

import csv
import json
import sys

import polars as pl
import pytest

from forcelaw.errors import FitError, TableError
from forcelaw.report.load import load
from forcelaw.study.export import write_evidence
from forcelaw.table import columns
from forcelaw.table.columns import COLUMNS, ROLES, Column, measured, plain, schema
from forcelaw.table.directory import table, typed
from forcelaw.table.read import read
from forcelaw.table.runs import Runs
from tests.report import synthetic


@pytest.fixture
def study(tmp_path):
    """Two runs of 12 evaluations; each also measured the pressure, which nothing knows of."""
    truth, out = synthetic.TRIO[0], tmp_path / "study"
    for n in (2_000, 8_000):
        spec = synthetic.spec_of(truth, n, 0)
        rows = synthetic.metrics_of(truth, spec, synthetic.np.random.default_rng(n), points=12)
        rows = [row | {"pressure": 0.5 * k} for k, row in enumerate(rows)]
        synthetic.write_run(out / "runs", spec, rows, synthetic.finished(truth, spec))
    return out


def test_a_new_measured_column_is_declared_in_one_place(study, tmp_path, monkeypatch):
    assert "pressure" not in table(study / "runs").columns
    toy = Column("pressure", float, "mean pressure of the test set", "GPa", "metrics.pressure")
    monkeypatch.setitem(columns.COLUMNS, "pressure", toy)
    frame = table(study / "runs")
    wanted = [0.5 * k for k in range(12)]
    assert frame["pressure"].to_list() == wanted * 2 and frame.schema["pressure"] == pl.Float64
    kept = Runs.from_frame(study, where="pressure >= 5")
    assert kept.frame["pressure"].to_list() == [5.0, 5.5] * 2
    assert "| `pressure` | float | GPa | mean pressure of the test set |" in columns.markdown()
    for kind in ("parquet", "csv"):
        write_evidence(study, tmp_path / kind, kind)
        found = load(tmp_path / kind).frame.filter(pl.col("n") == 2_000)
        assert found["pressure"].to_list() == wanted
    with (tmp_path / "csv" / "runs.csv").open() as file:
        assert "pressure" in next(csv.reader(file))


def test_what_an_evaluation_writes_is_restored(study, tmp_path, monkeypatch):
    from forcelaw.study.export import import_evidence

    toy = Column("pressure", float, "mean pressure of the test set", "GPa", "metrics.pressure")
    monkeypatch.setitem(columns.COLUMNS, "pressure", toy)
    write_evidence(study, tmp_path / "kept", "parquet")
    import_evidence(tmp_path / "kept", tmp_path / "again")
    for path in (study / "runs").glob("*/metrics.jsonl"):
        there = tmp_path / "again" / "runs" / path.parent.name / "metrics.jsonl"
        first, second = (
            [json.loads(line) for line in p.read_text().splitlines()] for p in (path, there)
        )
        assert first == second and first[3]["pressure"] == 1.5


def test_a_package_that_is_not_installed_is_not_a_broken_file(study, tmp_path, monkeypatch):
    from forcelaw.errors import StoreError
    from forcelaw.study.export import import_evidence

    write_evidence(study, tmp_path / "kept", "parquet")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(StoreError) as refused:
        import_evidence(tmp_path / "kept", tmp_path / "again")
    assert "polars, which is not installed" in refused.value.what
    assert refused.value.remedy == "install it: pip install polars"
    assert refused.value.where == str(tmp_path / "kept")


def test_declarations_hold_together():
    assert list(COLUMNS) == [column.name for column in COLUMNS.values()]
    assert [c.role for c in ROLES.values()] == list(ROLES)
    assert set(measured()) >= {"step", "d", "u", "c", "h", "loss", "train_loss"}
    spelled = [word for column in ROLES.values() for word in column.spellings.split()]
    assert len(spelled) == len(set(spelled)) and all(word == plain(word) for word in spelled)
    for role, column in ROLES.items():
        assert column.name in COLUMNS or role == "weight"
        assert not column.spellings or plain(column.name) in column.spellings.split()
    assert list(schema()) == list(COLUMNS)


def test_a_table_of_evidence_has_every_column_with_its_type():
    text = pl.DataFrame(
        {
            "run": ["000123", "12e5"],
            "n": ["1e3", "2000"],
            "final": ["True", None],
            "loss": ["", "2"],
        }
    )
    frame = typed(text, "here")
    assert dict(frame.schema) == schema()
    assert frame["run"].to_list() == ["000123", "12e5"] and frame["n"].to_list() == [1000, 2000]
    assert frame["final"].to_list() == [True, None] and frame["loss"].to_list() == [None, 2.0]
    assert frame["h"].null_count() == 2
    with pytest.raises(TableError) as caught:
        typed(text.with_columns(n=pl.Series(["1e3", "many"])), "here")
    assert "'n'" in caught.value.what and "'many'" in caught.value.what
    assert caught.value.where == "here" and "--where" in caught.value.remedy


def test_ids_of_runs_are_text_in_a_csv(tmp_path):
    (tmp_path / "runs.csv").write_text("run,n,d,loss\n000123456789,1,2,3\n12e345678901,2,2,3\n")
    assert read(tmp_path).frame["run"].to_list() == ["000123456789", "12e345678901"]
    assert Runs.from_frame(tmp_path).run_names == ["000123456789", "12e345678901"]


def test_a_damaged_value_in_a_run_directory_names_its_column(study):
    path = next((study / "runs").glob("*/metrics.jsonl"))
    path.write_text(path.read_text().replace('"loss": ', '"loss": "a lot", "other": ', 1))
    with pytest.raises(TableError) as caught:
        table(study / "runs")
    assert "'loss'" in caught.value.what and str(study) in caught.value.where


# -- which column plays which role -----------------------------------------------------------------


def grid(**more):
    """Four runs of three sizes, five evaluations each."""
    n = [1e5] * 5 + [2e5] * 10 + [4e5] * 5
    d = [1e6, 2e6, 4e6, 8e6, 16e6] * 4
    return {"n": n, "d": d, "loss": [1 + (a * b) ** -0.2 for a, b in zip(n, d)], **more}


NAMES = [f"job {k}" for k in range(4) for _ in range(5)]


def test_a_column_that_holds_many_sizes_is_not_taken_as_the_run():
    found = Runs.from_frame(grid(experiment=["a", "b"] * 10, job=NAMES))
    assert "run" not in found.taken and found.independent
    (note,) = [note for note in found.notes if "'experiment' is not a run" in note]
    assert "2 of its 2 values" in note and "--columns run=job" in note
    assert Runs.from_frame(grid(experiment=["a", "b"] * 10, job=NAMES), {"run": "job"}).n_runs == 4
    with pytest.raises(TableError) as caught:
        Runs.from_frame(grid(experiment=["a", "b"] * 10, job=NAMES), {"run": "experiment"})
    assert "run=job" in caught.value.what and "run=none" in caught.value.remedy
    assert Runs.from_frame(grid(experiment=["a", "b"] * 10), {"run": "none"}).independent


def test_the_next_recognised_column_is_the_run_where_the_first_is_not():
    found = Runs.from_frame(grid(run=["a", "b"] * 10, trial_id=NAMES))
    assert found.taken["run"] == "trial_id" and found.n_runs == 4


def test_a_run_whose_size_jitters_or_was_mistyped_once_is_a_run():
    table = grid(run=NAMES)
    table["n"] = [n * (1 + 0.001 * (k % 5)) for k, n in enumerate(table["n"])]
    assert Runs.from_frame(table).n_runs == 4
    many = {name: list(cells) * 5 for name, cells in grid().items()}
    many["run"] = [f"run {k // 5}" for k in range(100)]
    many["n"][0] = 7e7
    assert Runs.from_frame(many).n_runs == 20


def test_text_is_not_offered_as_a_number():
    table = grid(run=NAMES)
    table["params"], table["model_size"] = table.pop("n"), ["small", "large"] * 10
    found = Runs.from_frame(table)
    assert found.taken["n"] == "params"
    assert not any("would have fitted" in note for note in found.notes)
    first = Runs.from_frame({"size": table["model_size"], **table})
    assert first.taken["n"] == "params"
    # a column of numbers with one fault is still the one that is meant
    table["params"] = [*map(str, table["params"][:-1]), "lots"]
    with pytest.raises(FitError, match="'lots'"):
        Runs.from_frame(table | {"size": [1.0] * 20})


def test_a_table_without_compute_is_read():
    found = Runs.from_frame(grid(run=NAMES))
    assert "c" not in found and set(found.values) == {"n", "d", "loss"} and found.n_runs == 4


def test_a_report_reads_the_tables_of_others(tmp_path):
    frame = pl.DataFrame(grid(run=NAMES)).rename(
        {"n": "params", "d": "tokens", "loss": "val_loss", "run": "run_name"}
    )
    frame.write_csv(tmp_path / "theirs.csv")
    found = load(tmp_path / "theirs.csv").frame
    assert found["n"].to_list() == [int(n) for n in grid()["n"]]
    assert found["run"].to_list() == NAMES and set(found["architecture"]) == {"(unnamed)"}
    assert found.filter(pl.col("final"))["d"].to_list() == [16_000_000] * 4
