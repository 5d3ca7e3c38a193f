"""Options of forms on the command line: --law auto, --law coupled, --tie."""

import json

import polars as pl
import pytest

from forcelaw.cli.main import main
from tests.laws.studies import columns, study


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "runs.csv"
    pl.DataFrame(columns(study(8))).write_csv(path)
    return path


def call(*words):
    return main([str(word) for word in words])


def test_forms_compete(table, tmp_path, capsys):
    out, figure = tmp_path / "auto.json", tmp_path / "auto.png"
    assert call("fit", table, "--law", "auto", "--json", out, "--figure", figure) == 0
    content = json.loads(out.read_text())
    assert sum(form["weight"] for form in content["forms"] if not form["within"]) == pytest.approx(
        1.0
    )
    assert content["averaged"]["beta"]["low"] < 0.4 < content["averaged"]["beta"]["high"]
    printed = capsys.readouterr().out
    assert "averaged over forms" in printed and "single form" in printed
    assert figure.stat().st_size > 1000


def test_auto_cannot_hold_parameters(table):
    assert call("fit", table, "--law", "auto", "--fix", "alpha=0.3") == 2
    assert call("fit", table, "--law", "auto", "--tie", "alpha=beta") == 2


def test_tied_exponents(table, tmp_path):
    out = tmp_path / "tied.json"
    assert call("fit", table, "--law", "coupled", "--tie", "alpha=beta", "--json", out) == 0
    found = json.loads(out.read_text())["parameters"]
    assert found["alpha"]["value"] == found["beta"]["value"]
    assert found["alpha"]["low"] == found["beta"]["low"]
    assert call("fit", table, "--law", "kaplan", "--tie", "alpha=beta") == 2


@pytest.mark.parametrize("command", ["diagnose", "compare"])
def test_other_commands_know_the_tie(table, tmp_path, command):
    frame = pl.read_csv(table)
    if command == "compare":
        second = frame.with_columns(
            pl.lit("B").alias("architecture"), ("b" + pl.col("run_name")).alias("run_name")
        )
        frame = pl.concat([frame.with_columns(pl.lit("A").alias("architecture")), second])
        frame.write_csv(table)
    out = tmp_path / "out.json"
    assert call(command, table, "--law", "surface", "--tie", "alpha=beta", "--json", out) == 0
    text = out.read_text()
    assert '"alpha"' in text
