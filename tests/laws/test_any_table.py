"""Every public function takes a table in any form, and says the same of it."""

import json

import numpy as np
import polars as pl
import pytest

import forcelaw
from forcelaw.errors import FitError, TableError
from forcelaw.report.load import load
from tests.laws.studies import columns, join, study

ONE = columns(study(8, seed=3))
TWO = columns(join(study(8, seed=3), study(8, seed=4)))


def forms(table, folder):
    """The table as a dict, a DataFrame, two files and Runs."""
    frame = pl.DataFrame(table)
    frame.write_csv(folder / "runs.csv")
    frame.write_parquet(folder / "runs.parquet")
    files = [folder / "runs.csv", str(folder / "runs.parquet")]
    return [table, frame, *files, forcelaw.Runs.from_frame(table)]


@pytest.mark.parametrize(
    ("name", "table", "options"),
    [
        ("fit", ONE, {}),
        ("diagnose", ONE, {}),
        ("frontier", ONE, {}),
        ("isoflop", ONE, {}),
        ("design", ONE, {"copies": 20, "add": 1}),
        ("compare", TWO, {"permutations": 0, "x": None}),
        ("budget", TWO, {"flops": 1e16}),
        ("forecast", TWO, {}),
    ],
)
def test_any_table_gives_the_same_result(name, table, options, tmp_path):
    def told(source):
        found = getattr(forcelaw, name)(source, **options)
        content = [one.as_json() for one in found] if name == "forecast" else found.as_json()
        text = json.dumps(content, allow_nan=False)
        return json.loads(text.replace(str(tmp_path), "")), found

    first, found = told(forms(table, tmp_path)[0])
    for source in forms(table, tmp_path)[1:]:
        other, _ = told(source)
        for content in (first, other):  # where it was read is not what it says
            drop_table(content)
        assert other == first
    if hasattr(found, "rows") and name != "forecast":
        json.dumps(found.rows(), allow_nan=False)


def drop_table(content):
    """Remove where a table was read from, at any depth."""
    if isinstance(content, dict):
        content.pop("table", None)
        content = list(content.values())
    for one in content if isinstance(content, list) else []:
        drop_table(one)


def test_a_law_of_one_architecture_does_not_take_two():
    for name in ("diagnose", "frontier", "isoflop", "design"):
        with pytest.raises(FitError) as caught:
            getattr(forcelaw, name)(TWO)
        assert "A, B" in caught.value.what and caught.value.remedy


def test_a_comparison_keeps_the_order_that_was_asked_for():
    options = {"permutations": 0, "x": None, "joint": False}
    by_name = forcelaw.compare(TWO, **options).pairs[0]
    asked = forcelaw.compare(TWO, architectures=("B", "A"), **options).pairs[0]
    assert (asked.first, asked.second) == ("B", "A")
    for name, test in asked.tests.items():
        other = by_name.tests[name]
        assert test.difference == -other.difference and test.p == pytest.approx(other.p)
        assert np.isclose(test.low, -other.high)


def test_results_print_as_their_summary_and_tables_as_their_columns():
    """In a notebook or by print: lines, not arrays."""
    runs = forcelaw.Runs.from_frame(ONE)
    fit = forcelaw.fit(runs, interval="none")
    for found in (fit, forcelaw.budget(runs, flops=1e15), forcelaw.frontier(runs)):
        assert repr(found) == str(found) == found.summary() and "array(" not in repr(found)
    assert repr(runs) == runs.describe()
    assert repr(fit["alpha"]).startswith("Estimate(value=")  # small ones as they are


def test_a_product_of_n_and_d_stands_in_for_flops(tmp_path):
    """A report's frontier too; a column of that name goes first."""
    table = pl.DataFrame(ONE).drop("flops")
    with pytest.raises(TableError, match="c=6nd") as raised:
        forcelaw.Runs.from_frame(table)["c"]
    assert "the table has no c" in str(raised.value)
    runs = forcelaw.Runs.from_frame(table, {"c": "6nd"})
    np.testing.assert_allclose(runs["c"], 6 * runs["n"] * runs["d"], rtol=1e-15)
    there = table.with_columns(pl.lit(7.0).alias("6nd"))
    assert set(forcelaw.Runs.from_frame(there, {"c": "6nd"})["c"]) == {7.0}
    table.write_csv(tmp_path / "t.csv")
    for product, flops in (("6nd", 6.0), ("72.5 ND", 72.5)):
        frame = load(tmp_path / "t.csv", {"c": product}).frame
        assert frame["c"].to_list() == (flops * frame["n"] * frame["d"]).to_list()
    for wrong in ("6nc", "0nd", "nd", "-6nd"):
        with pytest.raises(TableError, match=f"no column '{wrong}'"):
            forcelaw.Runs.from_frame(table, {"c": wrong})
