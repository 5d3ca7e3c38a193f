"""Tables that break things: each ends in a right answer or a clear refusal."""

import bz2
import gzip
import json
import lzma
import time

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.main import main
from forcelaw.errors import FitError
from forcelaw.laws.compare.compare import compare
from forcelaw.laws.decide import simulate
from forcelaw.laws.diagnose.diagnose import diagnose
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.frontier.frontier import frontier
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, LANGUAGE, columns, study


def test_a_million_rows():
    rng = np.random.default_rng(0)
    rows = 10**6
    run = rng.integers(0, 500, rows)
    n, d = np.geomspace(1e7, 1e10, 500)[run], np.exp(rng.uniform(20.7, 27.6, rows))
    loss = simulate.surface_loss(LANGUAGE, n, d) * np.exp(
        rng.normal(size=500)[run] * 0.01 + rng.normal(size=rows) * 0.01
    )
    started = time.process_time()
    result = fit(Runs.from_frame({"params": n, "tokens": d, "loss": loss, "run_name": run}))
    assert time.process_time() - started < 30
    assert result.ok and result.n_runs == 500
    for name in ("alpha", "beta", "E"):
        assert abs(result[name].value - LANGUAGE[name]) < 4 * result[name].se
    few = slice(0, 20_000)  # rows are not runs
    part = Runs.from_frame(
        {"params": n[few], "tokens": d[few], "loss": loss[few], "run_name": run[few]}
    )
    assert fit(part)["alpha"].se > 3 * fit(part, cluster=None)["alpha"].se


@pytest.mark.parametrize("objective", ["huber", "log", "relative"])
def test_losses_over_ten_orders_of_magnitude(objective):
    rng = np.random.default_rng(0)
    n, d = np.geomspace(1e2, 1e14, 30).repeat(10), np.tile(np.geomspace(1e3, 1e15, 10), 30)
    loss = (1e5 * n**-0.9 + 1e5 * d**-0.8) * np.exp(rng.normal(size=300) * 0.02)
    assert loss.max() / loss.min() > 1e10
    result = fit(Runs.from_frame({"n": n, "d": d, "loss": loss}), objective=objective)
    assert result.ok
    assert result["alpha"].value == pytest.approx(0.9, abs=0.002) and result[
        "beta"
    ].value == pytest.approx(0.8, abs=0.002)
    assert result["E"].value < 1e-8


def test_two_sizes_with_jitter_are_two_sizes():
    rng = np.random.default_rng(0)
    n = np.repeat([1e6, 1e8], 100) * np.exp(rng.normal(size=200) * 0.002)
    d = np.exp(rng.uniform(18, 25, 200))
    result = fit(Runs.from_frame({"n": n, "d": d, "loss": simulate.surface_loss(LANGUAGE, n, d)}))
    assert result.status == "refused" and "2 distinct levels of n" in result.message


def test_all_diverged_every_way():
    table = columns(study(6))
    for change in (
        {"val_loss": np.full(60, np.nan)},
        {"val_loss": np.full(60, np.inf)},
        {"status": ["diverged"] * 60},
        {"status": ["failed"] * 60, "val_loss": [None] * 60},
    ):
        with pytest.raises(FitError):
            Runs.from_frame(table | change)
    blown = fit(
        Runs.from_frame(
            table | {"val_loss": np.exp(np.random.default_rng(0).normal(size=60) * 3 + 20)}
        )
    )
    assert not blown.ok


def test_strings_and_formulas_in_any_column():
    table = columns(study(6))
    for name in ("params", "tokens", "val_loss"):
        for bad in ("=1+1", "@SUM(A1)", "twelve", "0x10", "1e5e5", "__import__('os')", "1,000"):
            cells = [str(value) for value in table[name]]
            cells[7] = bad
            with pytest.raises(FitError, match="row 8 holds"):
                Runs.from_frame(table | {name: cells})
        fine = [f" {value!r} " for value in np.asarray(table[name]).tolist()]
        assert fit(
            Runs.from_frame(table | {name: fine}), interval="none"
        ).ok  # numbers written as text are numbers


def test_flops_that_cannot_be_used_do_not_stop_a_fit_that_needs_none():
    table = columns(study(6)) | {"flops": ["n/a"] * 60}
    result = fit(Runs.from_frame(table), interval="none")
    assert result.ok and any("'flops'" in note for note in result.table["notes"])


def test_correlated_sizes_and_data():
    n = np.geomspace(1e7, 1e10, 30)
    for d in (20 * n, 1e17 / n, 20 * n**0.7):
        result = fit(
            Runs.from_frame({"n": n, "d": d, "loss": simulate.surface_loss(LANGUAGE, n, d)})
        )
        assert result.status == "refused" and "perfectly correlated" in result.message


def test_everything_else_refuses_what_fit_refuses():
    two = study(2)
    assert fit(two).status == "refused"
    assert diagnose(two).verdict == "refused"
    assert not frontier(two).fit.ok
    with pytest.raises(FitError):
        compare(two)


def test_extreme_scales_stay_finite():
    runs = study(6)
    for factor in (1e-80, 1e80):
        table = simulate.table(
            n=runs["n"] * 1e100, d=runs["d"] * 1e-5, loss=runs["loss"] * factor, run=runs.run
        )
        result = fit(table)
        assert result.ok and result["alpha"].value == pytest.approx(
            fit(runs)["alpha"].value, rel=1e-4
        )
        json.dumps(result.as_json(), allow_nan=False)
    refused = fit(
        simulate.table(n=runs["n"], d=runs["d"], loss=runs["loss"] * 1e-200, run=runs.run)
    )
    assert refused.status == "refused" and "another unit" in refused.message


def test_one_wild_point_or_run_does_not_decide():
    runs = study(12, truth=FIELD)
    loss = runs["loss"].copy()
    loss[57] *= 1e6
    result = fit(simulate.table(n=runs["n"], d=runs["d"], loss=loss, run=runs.run))
    assert result.ok and result["beta"].value == pytest.approx(0.40, abs=0.02)


# -- files as people have them -------------------------------------------------------------------

TEXT = pl.DataFrame(columns(study(5))).write_csv()
READ = {  # name of the file: its bytes, and what is said about it
    "bom.csv": (b"\xef\xbb\xbf" + TEXT.encode(), ""),
    "windows.csv": (TEXT.replace("\n", "\r\n").encode(), ""),
    "mac.csv": (TEXT.replace("\n", "\r").encode(), ""),
    "utf16.csv": (TEXT.encode("utf-16"), "UTF-16"),
    "latin.csv": (TEXT.replace("run 1,", "Gr\u00f6\u00dfe 1,").encode("latin-1"), "Windows-1252"),
    "semicolons.csv": (TEXT.replace(",", ";").encode(), "semicolons"),
    "tabs.csv": (TEXT.replace(",", "\t").encode(), "tabs"),
    "bars.txt": (TEXT.replace(",", "|").encode(), "bars"),
    "commas.tsv": (TEXT.encode(), "commas"),
    "spaces.csv": (
        "\n".join(", ".join(line.split(",")) for line in TEXT.splitlines()).encode(),
        "",
    ),
    "comment.csv": (b"# exported by a tracker\n\n" + TEXT.encode(), "comment line"),
    "newlines.csv": (TEXT.replace("run 1,", '"run\n1",').encode(), ""),
    "plain.csv.gz": (TEXT.encode(), ""),  # the name lies
    "gzip.csv.gz": (gzip.compress(TEXT.encode()), ""),
    "bzip.csv.bz2": (bz2.compress(TEXT.encode()), ""),
    "xz.csv.xz": (lzma.compress(TEXT.encode()), ""),
    "gzip.csv": (gzip.compress(TEXT.encode()), ""),  # so does this one
}


@pytest.mark.parametrize("name", READ)
def test_files_as_people_have_them_are_read(tmp_path, name):
    content, said = READ[name]
    (tmp_path / name).write_bytes(content)
    read, expected = Runs.from_frame(tmp_path / name), study(5)
    for role in ("n", "d", "loss", "c"):
        np.testing.assert_allclose(read[role], expected[role], rtol=1e-14)
    assert read.n_runs == 5 and said in " ".join(read.notes)


ROWS = TEXT.splitlines()
REFUSED = {  # name of the file: its bytes, and words of the refusal
    "empty.csv": (b"", ["the table is empty"]),
    "blank.csv": (b"\n\n", ["the table is empty"]),
    "header.csv": (ROWS[0].encode(), ["no rows"]),
    "headless.csv": ("\n".join(ROWS[1:]).encode(), ["first line holds numbers", "put a header"]),
    "title.csv": (
        b"My runs,,\n" + TEXT.encode(),
        ["line 2 has 6 fields where the header has 3", "title"],
    ),
    "ragged.csv": (
        "\n".join([*ROWS[:4], ROWS[4] + ",9,9", *ROWS[5:]]).encode(),
        ["line 5 has 8 fields"],
    ),
    "decimal.csv": (
        TEXT.replace(",", ";").replace(".", ",").encode(),
        ["decimal commas are not read", "10000.0"],
    ),
    "thousands.csv": (
        TEXT.replace("\n10000.0,", '\n"10,000",').encode(),
        ["'10,000'", "without separators", ": 10000"],
    ),
    "millions.csv": (TEXT.replace("\n10000.0,", "\n0.01M,").encode(), ["'0.01M'", "millions"]),
    "alike.csv": (
        TEXT.replace("tokens", "Params ", 1).encode(),
        ["'params' and 'Params'", "--columns n=params"],
    ),
    "sheet.csv": (b"PK\x03\x04" + bytes(40), ["spreadsheet", "save the sheet as CSV"]),
    "sheet.xlsx": (b"PK\x03\x04" + bytes(40), ["spreadsheet", "save the sheet as CSV"]),
    "old.csv": (b"\xd0\xcf\x11\xe0" + bytes(40), ["Excel"]),
    "zeros.csv": (b"n,d,loss\n1,\x00,3\n", ["zero bytes"]),
    "code.pkl": (b"\x80\x04.", ["are not read", "run code"]),
    "noend": (TEXT.encode(), ["without suffix", ".csv"]),
    "torn.csv.gz": (gzip.compress(TEXT.encode())[:-20], ["cannot be read"]),
    "bad.json": (b'{"a":', ["not JSON", "line 1"]),
    "list.json": (b"[1, 2]", ["not a table", "array of objects"]),
    "torn.jsonl": (b'{"params": 1, "tokens": 2, "loss": 3}\n{"params"', ["line 2 is not JSON"]),
    "mixed.jsonl": (
        b'{"params": 1, "tokens": 2, "loss": 3}\n{"params": "big", "tokens": 2, "loss": 3}',
        ["row 2", "'big'"],
    ),
    "none.parquet": (b"nothing", ["cannot be read"]),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["fit", "budget"])
def test_what_cannot_be_read_is_refused_with_a_way_out(tmp_path, capsys, name, command):
    content, words = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    more = ["--flops", "1e20"] if command == "budget" else []
    assert main([command, str(tmp_path / name), *more]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "remedy:" in said and "Traceback" not in said


def test_faults_name_column_count_example_and_remedy():
    table = columns(study(4)) | {"status": ["diverged"] * 3 + ["finished"] * 37}
    loss = table["val_loss"].copy()
    loss[10:15] = -2.5
    with pytest.raises(FitError) as caught:
        Runs.from_frame(table | {"val_loss": loss})
    error = (
        caught.value
    )  # rows are those of the table, not what is left of it without the three that diverged
    assert error.what == "5 of 37 values are zero or negative, the first in row 11 (-2.5)"
    assert "'val_loss'" in error.where and '--where "val_loss > 0"' in error.remedy
    loss[10:15] = np.nan
    frame = pl.DataFrame(table | {"my loss": loss}).drop("val_loss")
    with pytest.raises(FitError) as caught:
        Runs.from_frame(frame, {"loss": "my loss"})
    assert "`my loss` > 0" in caught.value.remedy  # and that filter works
    assert len(Runs.from_frame(frame, {"loss": "my loss"}, "`my loss` > 0")) == 32


def test_names_with_anything_in_them(tmp_path):
    frame = pl.DataFrame(columns(study(5))).rename(
        {"params": "it's n", "tokens": 'd, in "tokens"', "val_loss": "\u03bb.x"}
    )
    given = {"n": "it's n", "d": 'd, in "tokens"', "loss": "\u03bb.x"}
    frame.write_csv(tmp_path / "odd.csv")
    for source in (frame, tmp_path / "odd.csv"):
        assert fit(
            Runs.from_frame(source, given, "`it's n` > 0 and `\u03bb.x` < 9"), interval="none"
        ).ok


def test_no_text_runs_as_code(tmp_path):
    marker = tmp_path / "ran"
    attack = f"__import__('os').system('touch {marker}')"
    path = tmp_path / "a.csv"
    frame = pl.DataFrame(columns(study(4)))
    frame.with_columns(val_loss=pl.lit(attack), run_name=pl.lit("=cmd|' /C calc'!A0")).write_csv(
        path
    )
    for words in (
        [],
        ["--where", attack],
        ["--columns", f"loss={attack}"],
        ["--fix", f"alpha={attack}"],
        ["--floor", attack],
        ["--x", attack],
        ["--group", attack],
        ["--objective", attack],
        ["--law", attack],
    ):
        assert main(["fit", str(path), *words]) == 2
    assert not marker.exists()
