"""Reading tables: columns are recognised and reported, filters are parsed and never evaluated,
faults are named."""

import gzip
import json
import operator
import shlex
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from forcelaw.errors import FitError, TableError
from forcelaw.table.columns import COLUMNS, schema
from forcelaw.table.filter import where
from forcelaw.table.read import read
from forcelaw.table.runs import Runs
from tests.laws.studies import columns, study


@pytest.mark.parametrize(
    "names",
    [
        {"n": "params", "d": "tokens", "loss": "loss", "run": "run_name"},
        {"n": "n_params", "d": "Training Tokens", "loss": "val/loss", "run": "run_id"},
        {"n": "Model Size", "d": "tokens_seen", "loss": "validation_loss", "run": "Run"},
        {"n": "num_parameters", "d": "atoms", "loss": "eval-loss", "run": "trial"},
    ],
)
def test_usual_names_are_recognised(names):
    runs = study(5)
    frame = pl.DataFrame(
        {
            names["n"]: runs["n"],
            names["d"]: runs["d"],
            names["loss"]: runs["loss"],
            names["run"]: [str(i) for i in runs.run],
        }
    )
    read = Runs.from_frame(frame)
    assert {role: read.taken[role] for role in names} == names
    for role in ("n", "d", "loss"):
        np.testing.assert_array_equal(read[role], runs[role])
    assert read.n_runs == 5
    assert f"{names['loss']!r}" in read.describe()


def test_explicit_columns_win_and_alternatives_are_reported():
    table = {
        "params": [1.0, 2],
        "n_params": [3.0, 4],
        "tokens": [5.0, 6],
        "train_loss": [7.0, 8],
        "val_loss": [1.0, 2],
    }
    read = Runs.from_frame(table, {"n": "n_params"})
    assert read["n"].tolist() == [3, 4]
    assert read.taken["loss"] == "val_loss"
    assert any("train_loss" in note for note in read.notes)


def test_every_format_gives_the_same_table(tmp_path):
    frame = pl.DataFrame(columns(study(4)))
    frame.write_csv(tmp_path / "a.csv")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps(frame.to_dicts()))
    with gzip.open(tmp_path / "a.csv.gz", "wb") as file:
        file.write((tmp_path / "a.csv").read_bytes())
    expected = Runs.from_frame(frame)
    for path in sorted(tmp_path.iterdir()):
        read = Runs.from_frame(path)
        for role in ("n", "d", "loss", "c"):
            np.testing.assert_allclose(read[role], expected[role], rtol=1e-15, err_msg=path.name)
        assert read.run_names == expected.run_names


def test_store_columns_and_failed_runs():
    rows = {name: [] for name in COLUMNS}
    for run, status in (("a", "finished"), ("b", "diverged"), ("c", "unfinished")):
        for k in range(3):
            for name in rows:
                rows[name].append(None)
            values = {
                "run": run,
                "architecture": "mpnn",
                "status": status,
                "step": k,
                "n": 10,
                "d": 10 + k,
                "c": 1.0 + k,
                "loss": None if status == "unfinished" else 1.0 / (k + 1),
                "seed": 0,
            }
            for name, value in values.items():
                rows[name][-1] = value
    read = Runs.from_frame(pl.DataFrame(rows, schema=schema()))
    assert read.run_names == ["a"] and len(read) == 3
    assert any("diverged" in note and "b" in note for note in read.notes)
    assert any("no evaluation" in note and "c" in note for note in read.notes)
    assert "u" not in read  # all missing: left out, and said
    assert any("'u'" in note for note in read.notes)


def test_d_from_flops_is_said():
    read = Runs.from_frame({"N": [1e6, 2e6], "C": [6e15, 6e15], "loss": [3.0, 2.0]})
    np.testing.assert_allclose(read["d"], [1e9, 5e8])
    assert any("C/(6 N)" in note for note in read.notes)


def test_runs_of_one_name_in_two_architectures_are_two_runs():
    """As where runs are called after their seed; rows that are alike are no copies then."""
    rows = {"run": ["seed0", "seed0", "seed1"] * 2, "arch": ["A"] * 3 + ["B"] * 2 + ["A"]}
    rows |= {
        "n": [1e3] * 6,
        "d": [1e4, 2e4, 1e4, 1e4, 2e4, 2e4],
        "loss": [3.0, 2.0, 4.0, 3.0, 2.0, 3.5],
    }
    runs = Runs.from_frame(pl.DataFrame(rows))
    assert len(runs) == 6 and runs.n_runs == 3
    assert runs.run_names == ["seed0 (A)", "seed0 (B)", "seed1"]
    assert {name: part.n_runs for name, part in runs.groups().items()} == {"A": 2, "B": 1}
    assert "1 of 2 values of 'run' hold several values of 'arch'" in runs.describe()


def test_copies_are_dropped_within_runs_only():
    table = {"n": [1.0, 1, 2], "d": [1.0, 1, 1], "loss": [3.0, 3, 3], "run": ["a", "a", "b"]}
    assert len(Runs.from_frame(table)) == 2
    del table["run"]
    assert len(Runs.from_frame(table)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"val_loss": ["x"] * 40}, "row 1 holds text, 'x'"),
        (
            lambda t: t | {"val_loss": [*map(str, t["val_loss"][:-1]), "=SUM(A1:A9)"]},
            "row 40 holds a formula",
        ),
        (lambda t: t | {"val_loss": ["1_000"] * 40}, "holds text, '1_000'"),
        (lambda t: t | {"params": -t["params"]}, "all 40 values are zero or negative"),
        (
            lambda t: t | {"tokens": np.where(np.arange(40) == 3, 0.0, t["tokens"])},
            "1 of 40 values are zero or negative",
        ),
        (lambda t: t | {"val_loss": np.full(40, np.nan)}, "all 40 values are missing or NaN"),
        (lambda t: t | {"val_loss": np.full(40, np.inf)}, "all 40 values are infinite"),
        (
            lambda t: t | {"status": ["diverged"] * 40},
            "all 40 rows are of runs that failed or diverged",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "val_loss"},
            "no column is recognised as the loss",
        ),
        (lambda t: {k: v[:0] for k, v in t.items()}, "no rows"),
    ],
)
def test_each_fault_has_its_own_error(change, words):
    with pytest.raises(FitError, match=words.replace("(", r"\(")):
        Runs.from_frame(change(columns(study(4))))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["step", "a - val/loss", "a - val/loss__MIN", "b - val/loss"], "2 columns end in 'val/l"),
        (["n", "d", "eval/ppl"], "the natural logarithm of 'eval/ppl'"),
        (["n", "d", "test_acc", "top1 accuracy"], "1 - 'top1 accuracy'"),
    ],
)
def test_a_table_without_a_loss_is_told_what_its_headers_suggest(header, words):
    with pytest.raises(FitError, match="no column is recognised") as error:
        Runs.from_frame({name: [1.0, 2.0] for name in header})
    assert words in error.value.remedy


def test_a_remedy_is_safe_in_a_shell():
    """In double quotes a shell would run what stands in backticks."""
    table = columns(study(4))
    table["my params"] = np.where(np.arange(40) == 3, np.nan, table.pop("params"))
    with pytest.raises(FitError) as error:
        Runs.from_frame(table, {"n": "my params"})
    option, text = shlex.split(error.value.remedy)[-2:]
    assert option == "--where" and "'`" in error.value.remedy
    assert len(Runs.from_frame(table, {"n": "my params"}, text)) == 39


def test_faulty_columns_argument():
    table = columns(study(4))
    for given, words in (
        ({"n": "nothing"}, "no column 'nothing'"),
        ({"q": "params"}, "'q' is not a role"),
        ({"n": "params", "d": "params"}, "n and d at once"),
    ):
        with pytest.raises(FitError, match=words):
            Runs.from_frame(table, given)


def test_duplicated_header_and_unreadable_files(tmp_path):
    (tmp_path / "twice.csv").write_text("n,d,loss,loss\n1,2,3,4\n")
    with pytest.raises(FitError, match="'loss' more than once"):
        Runs.from_frame(tmp_path / "twice.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(FitError, match="cannot be read"):
        Runs.from_frame(tmp_path / "bad.parquet")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(FitError, match="are not read"):
        Runs.from_frame(tmp_path / "x.pkl")
    with pytest.raises(FitError, match="no such table"):
        Runs.from_frame(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    "name", ["t.csv", "empty.csv", "t.json", "rows.json", "t.jsonl", "t.parquet"]
)
def test_tables_of_far_too_many_columns_are_refused(tmp_path, name):
    """Wide ones took minutes, sparse ones all memory."""
    names, path = [f"c{k}" for k in range(12_000)], tmp_path / name
    text = {
        "t.csv": ",".join(["run", *names]) + "\n" + ",".join("1" * 12_001) + "\n",
        "empty.csv": "run,loss" + "," * 12_000 + "\n",
        "t.json": json.dumps({name: [1] for name in names}),
        "rows.json": json.dumps([{name: 1} for name in names]),
        "t.jsonl": "".join(f'{{"{name}": 1}}\n' for name in names),
    }.get(name)
    if text:
        path.write_text(text)
    else:
        pl.DataFrame({name: [1] for name in names}).write_parquet(path)
    with pytest.raises(TableError, match="columns"):
        Runs.from_frame(path)
    assert len(read(pl.DataFrame({name: [1] for name in names})).frame.columns) == 12_000


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_rows_that_are_nearly_empty_are_refused_before_they_take_memory(tmp_path, name):
    """200 kB of text took 3 GB."""
    path, names = tmp_path / name, [f"c{k}" for k in range(9000)]
    rows = "".join(f'{{"{names[k % 9000]}": 1}}\n' for k in range(20_000))
    path.write_text(rows if name == "t.jsonl" else ",".join(names) + "\n" + "1,2\n" * 20_000)
    with pytest.raises(TableError, match="empty"):
        Runs.from_frame(path)


def test_select_and_with_loss():
    runs = Runs.from_frame(
        columns(study(4))
        | {
            "step": np.tile(np.arange(1, 11) * 100, 4),
            "loss_forces": np.full(40, 2.0),
        }
    )
    assert runs.select(burn_in_steps=400)["step"].min() == 400
    assert set(runs.select(last=True)["step"]) == {1000} and len(runs.select(last=True)) == 4
    assert runs.select(burn_in_fraction=0.5)["step"].min() == 500
    assert runs.select(where="params >= 2e4")["n"].min() >= 2e4
    assert runs.with_loss("loss_forces")["loss"].tolist() == [2.0] * 40
    assert len(runs.select(where="params > 1e5 and run_name != 'run 3'").run_names) == 1


# -- filters --------------------------------------------------------------------------------------

FRAME = pl.DataFrame(
    {
        "x": [1.0, 2.0, None, 4.0, float("nan")],
        "name": ["a", "b", None, "a b", "c"],
        "flag": [0, 1, 1, 0, 1],
        "two words": [5, 6, 7, 8, 9],
        "ok": [True, False, True, None, True],
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flag == 1", [0, 1, 1, 0, 1]),
        ("flag = 1", [0, 1, 1, 0, 1]),
        ("x >= 2", [0, 1, 0, 1, 0]),
        ("2 <= x", [0, 1, 0, 1, 0]),
        ("not x >= 2", [1, 0, 1, 0, 1]),
        ("x != 2", [1, 0, 1, 1, 1]),
        ("x is null", [0, 0, 1, 0, 1]),
        ("x is not null and flag == 0", [1, 0, 0, 1, 0]),
        ("name == 'a' or name == 'a b'", [1, 0, 0, 1, 0]),
        ("name in ('a', 'c')", [1, 0, 0, 0, 1]),
        ("name not in ('a', 'c')", [0, 1, 1, 1, 0]),
        ("flag in (0)", [1, 0, 0, 1, 0]),
        ("`two words` > 7", [0, 0, 0, 1, 1]),
        ('"two words" > 7', [0, 0, 0, 1, 1]),
        ('name == "a"', [1, 0, 0, 0, 0]),
        ("ok == true", [1, 0, 1, 0, 1]),
        ("flag == 1 and (x < 3 or name == 'c')", [0, 1, 0, 0, 1]),
        ("flag == 1 or x < 3 and x > 5", [0, 1, 1, 0, 1]),  # and binds tighter
        ("flag == 1 & x < 3", [0, 1, 0, 0, 0]),
        ("x > -1e0 AND x < +3.5e0", [1, 1, 0, 0, 0]),
        ("x < flag", [0, 0, 0, 0, 0]),
        ("1 < x <= 4", [0, 1, 0, 1, 0]),
        ("x is null or x in (1, 4)", [1, 0, 1, 1, 1]),
        ("1 == 1", [1, 1, 1, 1, 1]),
        ("not not ok", [1, 0, 1, 0, 1]),
    ],
)
def test_filters(text, expected):
    np.testing.assert_array_equal(where(text, FRAME), np.array(expected, bool))


def test_filters_agree_with_numpy_on_random_comparisons():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"p": rng.integers(0, 5, 200), "q": rng.normal(size=200)})
    signs = {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
    }
    p, q = frame["p"].to_numpy(), frame["q"].to_numpy()
    for one, f in signs.items():
        for two, g in signs.items():
            np.testing.assert_array_equal(
                where(f"p {one} 2 and not q {two} 0.25 or p == 4", FRAME := frame),
                (f(p, 2) & ~g(q, 0.25)) | (p == 4),
            )
    assert FRAME is frame


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/never')",
        "x >",
        "(x > 1",
        "x > 1)",
        "nothing > 1",
        "x > 1 and",
        "1 if x else 2",
        "x.real > 1",
        "lambda: 1",
        "x > 1; flag == 1",
        "x == 'a'",
        "name > 3",
        "x ** 2 > 1",
        "exec('1')",
        "x > 1 flag == 1",
        "",
        "(" * 300 + "x > 1" + ")" * 300,
        "x > 1 and " * 300 + "x > 1",
        "'unclosed",
        "x in ()",
        "x is 3",
        "x > 1e",
        "@x > 1",
        "read_csv('secret.csv') == 1",
        "abs(x) > 1",
        "x > max(flag)",
        "(select 1) == 1",
        "x in (select x from self)",
        "exists (select 1)",
        "x in flag",
        "x in (1, (2, 3))",
        "x == null",
        "null is null",
        "x if flag else ok",
        "x and 'name'",
        "(x, flag)",
        "x == (1, 2)",
        "x := 1",
        "*",
    ],
)
def test_what_is_no_filter_is_refused(text):
    with pytest.raises(FitError):
        where(text, FRAME)


@pytest.mark.parametrize(
    ("text", "character", "said"),
    [
        ("flag == 1 and two_words > 7", 15, ["'two_words'", "did you mean two words?"]),
        ("NAME == 'a'", 1, ["'NAME'", "did you mean name?"]),
        ("flag == 1 and zebra > 7", 15, ["'zebra'", "columns are x, name, flag"]),
        ("flag == 1 and len(x) > 7", 15, ["'len'"]),
        ("flag == 1 and x(1) > 7", 16, ["functions"]),
        ("x > 1 flag == 1", 7, ["expected a comparison, found 'flag'"]),
        ("x > 1 and", 10, ["not complete"]),
        ("(x > 1", 1, ["never closed"]),
        ("x > 1)", 6, ["unmatched"]),
        ("x > 1 and $", 10, ["' $'"]),
    ],
)
def test_faults_of_a_filter_say_where_they_are(text, character, said):
    with pytest.raises(TableError) as caught:
        where(text, FRAME)
    assert caught.value.where == f"--where, character {character}"
    assert all(words in caught.value.what for words in said), caught.value.what
    assert "joined by and, or, not" in caught.value.remedy


def test_a_long_filter_on_a_million_rows():
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=10**6), rng.integers(0, 9, 10**6)
    names = pl.Series([f"architecture {i}" for i in range(9)])
    frame = pl.DataFrame({"x": x, "name": names.gather(k)})
    text = " or ".join(f"name == 'architecture {i % 5}' and x > {i}" for i in range(50))
    assert 1800 < len(text) < 2000
    started = time.process_time()
    mask = where(text, frame)
    assert time.process_time() - started < 5  # half a second where nothing else runs
    expected = np.zeros(10**6, bool)
    for i in range(50):
        expected |= (k == i % 5) & (x > i)
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(TableError, match="more than 2000"):
        where(text * 2, frame)


@pytest.mark.parametrize(
    "cells",
    [
        [1, 0, 1, None],
        [True, False, True, None],
        ["True", "False", "TRUE", None],
        ["true", "false", " true ", None],
        ["1", "0", "1.0", None],
    ],
)
def test_flags_are_plain(cells):
    frame = pl.DataFrame({"flag": cells}, strict=False)
    for text in (
        "flag == 1",
        "flag == true",
        "1 == flag",
        "flag > 0",
        "flag in (1, 7)",
        "not (flag == 0 or flag is null)",
    ):
        assert where(text, frame).tolist() == [True, False, True, False], text


def test_words_and_numbers_are_not_mixed():
    frame = pl.DataFrame({"flag": ["yes", "no"], "x": [1, 2]})
    with pytest.raises(
        FitError,
        match=r"column 'flag', which holds text such as 'yes', is compared with 1.*flag == 'yes'",
    ):
        where("flag == 1", frame)
    with pytest.raises(FitError, match="the text 'yes' is compared with x"):
        where("x == 'yes'", frame)
    with pytest.raises(FitError, match="write x == 1"):
        where("x", frame)
    assert where("flag == 'yes'", frame).tolist() == [True, False]


def test_a_column_called_model_is_an_architecture_or_a_size():
    table = columns(study(4))
    sizes = [f"{n:.0f}" for n in table["params"]]
    named = Runs.from_frame(table | {"model": np.tile(["a", "b"], 20)})
    assert named.group_names == ["a", "b"] and named.taken["group"] == "model"
    sized = Runs.from_frame(table | {"model": sizes})
    assert sized.group_names == [""] and any("'model' is not taken" in note for note in sized.notes)
    del table["run_name"]
    assert Runs.from_frame(table | {"name": sizes}).n_runs == 4


def test_a_choice_between_columns_is_said():
    table = {"n": [1.0, 2], "d": [5.0, 6], "train_loss": [7.0, 8]}
    assert any("training loss" in note for note in Runs.from_frame(table).notes)
    both = Runs.from_frame(table | {"val_loss": [1.0, 2]})
    assert both.taken["loss"] == "val_loss" and any(
        "'train_loss' would have fitted" in note for note in both.notes
    )


@pytest.mark.parametrize(
    "cells",
    [[True, False, True, None], ["True", "False", "TRUE", None], ["true", "false", " true ", None]],
)
def test_a_flag_of_true_and_false_may_be_asked_for_in_any_way(cells):
    frame = pl.DataFrame({"outlier": cells, "x": [1, 2, 3, 4]})
    for text in (
        "outlier",
        "(outlier)",
        "`outlier`",
        "outlier == 'true'",
        "outlier == 'True'",
        "'true' == outlier",
        "outlier == true",
        "not not outlier",
        "outlier and x > 0",
        "x > 0 and outlier",
    ):
        assert where(text, frame).tolist() == [True, False, True, False], text
    for text in (
        "not outlier",
        "outlier != 'true'",
        "outlier != 'TRUE'",
        "outlier != true",
        "outlier != 1",
        "not (outlier)",
    ):
        assert where(text, frame).tolist() == [
            False,
            True,
            False,
            True,
        ], text  # a missing cell is not true
    for text in (
        "outlier == 'false'",
        "outlier == false",
        "outlier == 0",
        "not (outlier or outlier is null)",
    ):
        assert where(text, frame).tolist() == [False, True, False, False], text
    with pytest.raises(
        FitError,
        match=(
            "the text 'yes' is compared with column 'outlier', which holds true and false: write "
            "outlier == true, or not outlier"
        ),
    ):
        where("outlier == 'yes'", frame)
    with pytest.raises(FitError, match="write outlier == true"):
        where("outlier x", frame)
    with pytest.raises(FitError, match="write x == 1"):
        where("not x", frame)


def test_a_column_with_other_words_is_no_flag():
    frame = pl.DataFrame({"answer": ["true", "maybe", "False"]})
    assert where("answer == 'true'", frame).tolist() == [True, False, False]
    with pytest.raises(FitError, match=r"write answer == '\.\.\.'"):
        where("answer", frame)


def test_a_small_table_takes_little_address_space(tmp_path) -> None:
    """It is read where a limit is set, in a container for instance."""
    (tmp_path / "t.csv").write_text("n,d,loss\n1,2,3\n")
    code = (
        "import resource, sys, polars; from forcelaw.table.read import read;"
        "resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30)); read(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
