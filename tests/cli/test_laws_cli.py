"""The commands as they are typed: output, JSON, figures, exit codes, and no torch."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.main import main
from forcelaw.laws.decide import simulate
from tests.laws.studies import FIELD, columns, exponents, join, study
from tests.reference import laws_slow


@pytest.fixture
def table(tmp_path):
    frame = pl.DataFrame(columns(study(8)) | {"flag": [1] * 80})
    extra = frame.head(3).with_columns(pl.lit(0).alias("flag"), pl.lit(99.0).alias("val_loss"))
    path = tmp_path / "runs.csv"
    pl.concat(
        [frame.cast({"flag": pl.Int32}), extra.select(frame.columns).cast({"flag": pl.Int32})]
    ).write_csv(path)
    return path


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "two.parquet"
    table = columns(join(study(8), study(8, seed=1)))
    pl.DataFrame(table | {"gpu_hours": table["flops"] / 3.6e18}).write_parquet(path)
    return path


def call(*words):
    return main([str(word) for word in words])


def test_fit_as_the_issue_writes_it(table, tmp_path, capsys):
    out, figure = tmp_path / "fit.json", tmp_path / "fit.png"
    code = call(
        "fit",
        table,
        "--law",
        "surface",
        "--columns",
        "n=params,d=tokens,loss=val_loss,run=run_name",
        "--where",
        "flag == 1",
        "--objective",
        "huber",
        "--delta",
        "1e-3",
        "--cluster",
        "run",
        "--json",
        out,
        "--figure",
        figure,
    )
    assert code == 0
    result = json.loads(out.read_text())
    assert (
        result["status"] == "ok"
        and result["delta"] == 1e-3
        and result["rows"] == 80
        and result["runs"] == 8
    )
    for group, names in (
        ("parameters", ("A", "B", "E", "alpha", "beta")),
        ("derived", ("a", "b", "gamma")),
    ):
        for name in names:
            assert (
                result[group][name]["low"]
                < result[group][name]["value"]
                < result[group][name]["high"]
            )
            assert result[group][name]["se"] > 0
    assert isinstance(result["objective"], float) and result["diagnostics"]["starts_agreeing"] >= 1
    assert figure.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "'params'" in said and "kept 80 of 83 rows" in said and "alpha" in said


def test_json_to_the_terminal_is_json_alone(table, capsys):
    assert call("fit", table, "--where", "flag == 1", "--json", "-", "--interval", "none") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_the_proof_is_printed(table, capsys):
    assert call("fit", table, "--where", "flag == 1", "--interval", "none") == 0
    said = capsys.readouterr().out
    assert "starts agree" in said and "gradient" in said and "condition number" in said


def test_several_architectures_are_not_fitted_silently(pair, tmp_path, capsys):
    out = tmp_path / "out.json"
    call("fit", pair, "--interval", "none", "--json", out)
    assert "WARNING: one law is fitted through 2 architectures (A, B)" in capsys.readouterr().out
    assert any("2 architectures" in note for note in json.loads(out.read_text())["table"]["notes"])
    call("fit", pair, "--group", "A", "--interval", "none")
    assert "WARNING" not in capsys.readouterr().out


def test_a_frontier_law_comes_with_the_frontier_itself(pair, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert call("fit", pair, "--group", "A", "--law", "frontier", "--json", out) == 0
    result = json.loads(out.read_text())
    truth = exponents(FIELD)["gamma"]
    through = abs(result["parameters"]["gamma"]["value"] - truth)
    lowest = abs(result["frontier"]["fit"]["parameters"]["gamma"]["value"] - truth)
    assert (
        lowest < 0.006
        and lowest < through
        and "lowest loss at each compute" in capsys.readouterr().out
    )


@pytest.mark.parametrize("command", ["fit", "diagnose", "budget", "design"])
def test_a_table_that_cannot_carry_it_is_told_from_a_mistake(table, tmp_path, command):
    out = tmp_path / "out.json"
    more = ["--flops", "1e18"] if command == "budget" else []
    assert (
        call(
            command,
            table,
            "--where",
            "params < 3e4 and flag == 1",
            *more,
            "--json",
            out,
            "--figure",
            tmp_path / "x.svg",
        )
        == 3
    )
    result = json.loads(out.read_text())
    assert result["status"] == "refused" and "2 distinct levels of n" in result["message"]
    assert call(command, table, "--where", "nothing == 1", *more, "--json", out) == 2
    assert json.loads(out.read_text())["status"] == "refused"


def test_output_is_whole_or_absent(table, tmp_path, capsys):
    out, figure = tmp_path / "a.json", tmp_path / "a.png"
    out.write_text("old")
    assert (
        call(
            "fit",
            table,
            "--where",
            "flag == 1",
            "--interval",
            "none",
            "--json",
            out,
            "--figure",
            figure,
        )
        == 0
    )
    assert json.loads(out.read_text())["status"] == "ok"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png", "runs.csv"]
    for words in (
        ("--json", tmp_path),
        ("--figure", table / "b.png"),
        ("--json", table / "b.json"),
    ):
        assert call("fit", table, *words) == 2
        assert "remedy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--level", "95"),
        ("--level", "nan"),
        ("--resamples", "-3"),
        ("--burn-in-fraction", "1.5"),
        ("--delta", "0"),
        ("--delta", "inf"),
        ("--burn-in-steps", "-1"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(table, words, capsys):
    with pytest.raises(SystemExit) as caught:
        call("fit", table, *words)
    assert (
        caught.value.code == 2
        and f"argument {words[0]}: {words[1]!r} is not a" in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["fit", "compare", "diagnose", "budget", "design"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit):
        call(command, "--help")
    said = capsys.readouterr().out
    assert (
        "example" in said and "exit codes" in said and "backticks" in said and "--columns" in said
    )
    assert max(map(len, said.split("examples:")[0].split("example:")[0].splitlines())) <= 130


def test_refusals_have_exit_codes_and_json(table, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert call("fit", table, "--where", "params < 3e4 and flag == 1", "--json", out) == 3
    assert json.loads(out.read_text())["status"] == "refused"
    for words, message in (
        (("--columns", "n=nothing"), "no column 'nothing'"),
        (("--where", "zz > 1"), "no column 'zz'"),
        (("--law", "cubic"), "no law"),
        (("--floor", "low"), "floor"),
        (("--fix", "alpha"), "cannot read"),
        (("--fix", "alpha=x"), "not a number"),
        (("--columns", "n=params,n=tokens"), "twice"),
        (("--figure", "x.gif"), "figures of kind"),
        (("--objective", "mean"), "not an objective"),
    ):
        assert call("fit", table, *words, "--json", out) == 2
        assert json.loads(out.read_text())["status"] == "refused"
        assert message in capsys.readouterr().err
    assert call("fit", tmp_path / "absent.csv") == 2


def test_options_reach_the_fit(table, tmp_path):
    out = tmp_path / "out.json"
    assert (
        call(
            "fit",
            table,
            "--where",
            "flag == 1",
            "--law",
            "power-floor",
            "--x",
            "d",
            "--floor",
            "zero",
            "--interval",
            "bootstrap",
            "--resamples",
            "50",
            "--level",
            "0.8",
            "--json",
            out,
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert result["law"] == "power_floor" and result["floor"] == "zero" and result["level"] == 0.8
    assert "50 draws" in result["interval_method"]
    assert (
        call(
            "fit",
            table,
            "--where",
            "flag == 1",
            "--fix",
            "alpha=0.3,beta=0.4",
            "--profile",
            "--json",
            out,
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert (
        result["parameters"]["alpha"]["value"] == 0.3
        and result["profile"]["high"] >= result["parameters"]["E"]["value"]
    )


def test_compare(pair, tmp_path, capsys):
    out, figure = tmp_path / "out.json", tmp_path / "figures" / "compare.svg"
    assert call("compare", pair, "--permutations", "49", "--json", out, "--figure", figure) == 0
    result = json.loads(out.read_text())
    one = result["pairs"][0]
    assert (one["first"], one["second"], one["paired"], one["n_pairs"]) == ("A", "B", True, 8)
    assert 0 < one["tests"]["alpha"]["p"] <= 1 and 0 < one["tests"]["alpha"]["p_permutation"] <= 1
    assert one["multiplier"]["loss"] and figure.read_text().lstrip().startswith("<?xml")
    assert "times the FLOPs" in capsys.readouterr().out
    assert call("compare", pair, "--group", "A") == 2


def test_small_probabilities_are_not_called_zero(tmp_path, capsys):
    """Two architectures far apart: the terminal says < 0.001, the JSON keeps the number."""
    path, out = tmp_path / "far.csv", tmp_path / "out.json"
    steep = FIELD | {"alpha": 0.6, "A": 90.0}
    pl.DataFrame(columns(join(study(10), study(10, seed=1, truth=steep)))).write_csv(path)
    assert call("compare", path, "--permutations", "0", "--json", out) == 0
    said = capsys.readouterr().out
    test = json.loads(out.read_text())["pairs"][0]["tests"]["alpha"]
    assert 0 < test["p"] < 0.001 and "p < 0.001, Holm < 0.001" in said
    assert not any(
        word in said for word in ("p 0.000", "Holm 0.000", "P(larger) 1.000", "P(larger) 0.000")
    )


def test_diagnose(pair, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert call("diagnose", pair, "--json", out, "--figure", tmp_path / "d.pdf") == 0
    result = json.loads(out.read_text())
    assert set(result["groups"]) == {"A", "B"} and result["groups"]["A"]["verdict"] in (
        "an exponent",
        "a trend, not an exponent",
    )
    assert (tmp_path / "d_A.pdf").read_bytes().startswith(b"%PDF") and (
        tmp_path / "d_B.pdf"
    ).exists()
    assert "held-out budgets" in capsys.readouterr().out
    assert call("diagnose", pair, "--group", "A", "--where", "params < 3e4") == 3


def test_diagnose_takes_factors_and_the_rows_of_a_sweep(tmp_path, capsys):
    """The runs of the sweep take no part in the fit, and its best rate is the last."""
    runs = study(6)
    table = columns(runs) | {"kind": ["grid"] * len(runs), "lr": np.full(len(runs), 4e-3)}
    table |= {"blocks": np.where(runs["n"] < 1e5, 2, 3)}
    rates = [1e-3, 2e-3, 4e-3]
    swept = {
        "params": [1e5] * 3,
        "tokens": [1e7] * 3,
        "flops": [6e12] * 3,
        "val_loss": [0.5, 0.45, 0.4],
        "run_name": ["s1", "s2", "s3"],
        "seed": ["0"] * 3,
        "kind": ["sweep"] * 3,
        "lr": rates,
        "blocks": [2] * 3,
    }
    both = {key: [*np.asarray(table[key]).tolist(), *swept[key]] for key in swept}
    pl.DataFrame(both, strict=False).write_csv(tmp_path / "runs.csv")
    out = tmp_path / "out.json"
    options = ["--sweep", "kind == 'sweep'", "--factor", "blocks", "--json", out]
    assert call("diagnose", tmp_path / "runs.csv", *options) == 0
    found = json.loads(out.read_text())
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["sweep of learning rates"]["passed"] is False
    assert checks["sweep of learning rates"]["data"]["sweeps"][0]["lr"] == 4e-3
    assert "blocks" in checks and "depth" not in checks
    assert found["surface"]["rows"] == len(runs)
    assert call("diagnose", tmp_path / "runs.csv", "--factor", "height") == 2
    capsys.readouterr()


def test_isoflop_of_a_table_with_its_own_names(tmp_path, capsys):
    """Approach 2 from a table of single runs at two learning rates, without compute."""
    budgets, sizes = np.geomspace(1e13, 1e16, 5), np.geomspace(0.15, 6, 7)
    a = FIELD["beta"] / (FIELD["alpha"] + FIELD["beta"])
    n = np.concatenate([laws_slow.best_sizes(FIELD, c, 6, 1, 1)[0] * sizes for c in budgets])
    d = np.repeat(budgets, 7) / 6 / n
    loss = simulate.surface_loss(FIELD, n, d)
    rng = np.random.default_rng(0)
    table = {
        "weights": np.tile(n, 2),
        "seen": np.tile(d, 2),
        "lr": np.repeat([1e-3, 1e-2], 35),
        "final": np.concatenate([loss, loss * rng.uniform(1.05, 1.3, 35)]),
    }
    pl.DataFrame(table).write_csv(tmp_path / "sweep.csv")
    out = tmp_path / "minima.json"
    columns = "n=weights,d=seen,loss=final"
    what = ("isoflop", tmp_path / "sweep.csv", "--columns", columns)
    assert call(*what, "--json", out) == 2 and "--cost 6nd" in capsys.readouterr().err
    assert json.loads(out.read_text())["status"] == "refused"
    assert call(*what, "--cost", "6nd", "--best-of-sweep", "--json", out) == 0
    assert "best of each sweep: 35 of 70 runs" in capsys.readouterr().out
    found = json.loads(out.read_text())["architectures"][""]
    assert len(found["budgets"]) == 5 and found["a"]["value"] == pytest.approx(a, abs=0.01)
    assert call(*what, "--cost", "6nd", "--where", "weights < 3e4") == 3


def test_budget_and_design(pair, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert call("budget", pair, "--hours", "1", "--json", out, "--figure", tmp_path / "b.png") == 0
    result = json.loads(out.read_text())
    assert result["unit"] == "hours" and result["choices"][0]["flops"] == pytest.approx(
        3.6e18, rel=1e-6
    )
    assert (tmp_path / "b.png").exists()
    assert call("budget", pair) == 2 and "FLOPs or in hours" in capsys.readouterr().err
    assert (
        call(
            "design",
            pair,
            "--group",
            "A",
            "--quantity",
            "alpha",
            "--add",
            "1",
            "--copies",
            "30",
            "--json",
            out,
            "--figure",
            tmp_path / "p.png",
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert result["quantity"] == "alpha" and result["unit"] == "hours" and result["candidates"]
    assert "--rank per-cost" in capsys.readouterr().out
    assert (
        call(
            "design",
            pair,
            "--group",
            "A",
            "--rank",
            "gain",
            "--add",
            "1",
            "--copies",
            "30",
            "--json",
            out,
        )
        == 0
    )
    assert (
        json.loads(out.read_text())["rank"] == "gain" and "--rank gain" in capsys.readouterr().out
    )
    assert call("design", pair) == 2


WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'ase', 'h5py'):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
from forcelaw import Runs, fit, frontier, compare, diagnose, budget, design, isoflop
import forcelaw.figures.matplotlib
table = sys.argv[1]
runs = Runs.from_frame(table, where='flag == 1')
assert fit(runs).ok and frontier(runs).points
assert 'matplotlib' not in sys.modules
from forcelaw.cli.main import main
assert main(['diagnose', table, '--where', 'flag == 1']) == 0
assert main(['budget', table, '--where', 'flag == 1', '--flops', '1e17']) == 0
"""


def test_nothing_of_this_needs_torch(table):
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, str(table)]
    subprocess.run(command, check=True, timeout=90)


def test_labels_do_not_act_on_the_terminal(tmp_path, capsys) -> None:
    rows = [
        f"\x1b]0;title\x07\x1b[31mred,{n:g},{d:g},{0.1 + n**-0.3 + d**-0.3}"
        for n in (1e3, 1e4, 1e5)
        for d in (1e5, 1e6, 1e7)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["architecture,n,d,loss", *rows]))
    main(["fit", str(tmp_path / "t.csv"), "--law", "surface"])
    main(["fit", str(tmp_path / "\x1b[31mno.csv")])
    said = capsys.readouterr()
    found = [line for line in (said.out + said.err).split("\n") if "\x1b" in line]
    assert not found and "\\x1b" in said.err
