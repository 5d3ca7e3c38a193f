"""The report of a table that no study of ours wrote."""

import html
import re
import shlex
from itertools import product

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.main import main
from forcelaw.report.analysis import analyse
from forcelaw.report.html import render
from forcelaw.report.load import load
from forcelaw.report.sections import frontier
from forcelaw.report.series import loss_at_data

RATES = 1e-4, 1e-3, 1e-2


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four sizes by four lengths, three rates each; one row a run, and one run that failed."""
    rows = []
    for n, d, lr in product((1e7, 3e7, 1e8, 3e8), (1e9, 3e9, 1e10, 3e10), RATES):
        loss = 1.7 + 400 * n**-0.34 + 400 * d**-0.28 + 0.05 * np.log10(lr / 2e-3) ** 2
        state = "finished"
        if (n, d, lr) == (3e8, 3e10, 1e-2):
            loss, state = None, "crashed"
        rows.append({"params": n, "tokens": d, "flops": 6 * n * d, "optim.lr": lr, "State": state})
        rows[-1] |= {"eval/loss": loss, "run_name": f"r{len(rows)}"}
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def test_the_page_speaks_of_no_atoms_and_names_the_sweep(table, tmp_path):
    assert main(["report", str(table), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"\batoms?\b|eV/|molecul", body)
    assert "values of &#39;optim.lr&#39;" in body and "finished runs" in body
    assert not re.search(r"eV/atom|atoms seen", page)  # the figures' own words


def test_the_best_of_a_sweep_and_a_filter_hold_in_a_report_too(table):
    assert load(table).frame.height == 48 and len(load(table).notes) == 1
    best = load(table, best_of_sweep=True)
    assert best.notes == [] and set(best.frame["status"]) == {"finished", "crashed"}
    assert best.frame.height == 17  # 16, and the run that failed stays listed
    assert load(table, where="params < 1e8").frame.height == 24


def test_commands_on_the_page_take_its_columns_filter_and_sweep(table, tmp_path, monkeypatch):
    """Headers with spaces and brackets; sections that a table of others cannot fill are not there,
    and the page says which column was taken for what."""
    frame = pl.read_csv(table).rename({"params": "size (M)", "flops": "work"})
    frame = frame.with_columns(pl.col("size (M)") / 1e6)
    frame.filter(pl.col("State") == "finished").drop("State").write_csv(tmp_path / "my runs.csv")
    monkeypatch.chdir(tmp_path)
    asked = ["--columns", "n=size (M),c=6nd", "--where", "`size (M)` > 1", "--best-of-sweep"]
    assert main(["report", "my runs.csv", *asked]) == 0
    page = (tmp_path / "my runs-report" / "report.html").read_text()
    commands = [html.unescape(c) for c in re.findall(r"<pre>(forcelaw [^<]*)</pre>", page)]
    assert commands and all(set(asked) <= set(shlex.split(c)) for c in commands)
    for command in commands:
        few = ["--copies", "10", "--add", "1"] if " design " in command else []
        assert main([*shlex.split(command)[1:], *few]) == 0
    assert "n: size (M), d: tokens" in page
    assert not re.search(r"Learning-rate sweep|What a parameter costs", page)


@pytest.mark.parametrize("several", [False, True])
def test_the_page_says_what_a_table_does_not_have(tmp_path, several):
    """Neither compute nor, once, architectures: that is no lack of losses, and no name of one."""
    grid = list(product("ab" if several else "a", (1e7, 1e8, 1e9), (1e8, 1e9, 1e10)))
    rows = [{"params": n, "tokens": d, "loss": 2 + n**-0.1 + d**-0.1} for _, n, d in grid]
    rows = [row | ({"arch": a} if several else {}) for (a, *_), row in zip(grid, rows)]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    page = render(analysis := analyse(load(tmp_path / "t.csv")), [frontier.section(analysis)])
    assert ("no compute of its runs" if several else "No column says which arch") in page
    assert "positive loss yet" not in page and "Only (unnamed)" not in page


def test_repeated_runs_of_one_evaluation_are_compared(tmp_path):
    """A run with one row has a loss at its own D."""
    one = pl.DataFrame({"d": [2e8], "loss": [3.0]})
    assert loss_at_data(one, 2e8) == 3.0 and loss_at_data(one, 1e8) is None
    rows = [
        {"params": n, "tokens": u * e, "unique_tokens": u, "loss": 2 + (n * u) ** -0.1 + e**-0.1}
        for n, u, e in product((1e7, 1e8, 1e9), (1e8, 4e8, 1.6e9), (1.0, 4.0))
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    assert main(["report", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out")]) == 0


def test_a_run_far_off_the_law_is_named(tmp_path):
    rng = np.random.default_rng(1)
    rows = [
        {"params": n, "tokens": d, "run_name": f"{n:.0e} {d:.0e}"}
        for n, d in product((1e7, 3e7, 1e8, 3e8), (1e9, 3e9, 1e10, 3e10))
    ]
    for row in rows:
        law = 1.7 + 400 * row["params"] ** -0.34 + 400 * row["tokens"] ** -0.28
        row["val_loss"] = law * np.exp(rng.normal(0, 0.004))
    rows[6]["val_loss"] *= 1.1
    pl.DataFrame(rows).write_csv(tmp_path / "runs.csv")
    assert main(["report", str(tmp_path / "runs.csv"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count(f"run {rows[6]['run_name']} is") == 1
