"""What is said of tables that may not mean what they seem to, the best of a sweep, and the burn-in
that all commands share."""

import json
import re
from itertools import product

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.main import main
from forcelaw.report.load import load
from forcelaw.table.doubts import default_burn_in
from forcelaw.table.runs import Runs
from tests.laws.studies import columns, study

N, D = np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e10, 6)
PLAIN = {"n": N, "d": D, "c": 6 * N * D, "loss": 3 * N**-0.05}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"n": N / 1e9}, ["doubtful units: n is at most 1 "]),
        ({"d": D / 1e9}, ["doubtful units: d is at most 10 "]),
        ({"c": 6 * N * D / 1e15}, ["doubtful units: the compute is 1e-15 times"]),
        (
            {"n": N / 1e6, "d": D / 1e9, "c": 6 * N * D / 1e15},
            ["doubtful units: c is at most 6e+04"],
        ),
        ({"u": D}, []),
        ({"u": D / 4}, ["data are repeated, up to 4 passes"]),
        ({"loss": 1 - N**-0.05}, ["'loss' rises with N and D: an accuracy"]),
        ({"loss": 3 * N**-0.05 * np.array([1, 1.2, 1, 1.1, 1, 1.15])}, []),
    ],
)
def test_doubts(changed, words):
    notes = [
        n for n in Runs.from_frame(PLAIN | changed).notes if re.search("doubt|repeated|rises", n)
    ]
    assert len(notes) == len(words)
    assert all(note.startswith(word) for note, word in zip(notes, words))


def test_a_name_that_several_seeds_or_architectures_share_is_several_runs(tmp_path):
    """A name that says the size alone, as a wandb export has it; the seed of a row may be missing
    where a name has one seed."""
    table = {name: [] for name in ("Name", "arch", "config.seed", "n", "d", "loss")}
    for n, arch, seed, d in product((1e5, 1e6, 1e7), "ab", (0, 1), (1e8, 1e9)):
        cells = f"gpt-{n:.0e}", arch, seed, n, d, n**-0.1 + d**-0.1 * (1 + seed / 9)
        for cell, column in zip(cells, table.values()):
            column.append(cell)
    runs = Runs.from_frame(table)
    assert runs.n_runs == len(runs.ends()) == 12 and runs.run_names[1] == "gpt-1e+05 (a, 1)"
    assert sum("3 of 3 values of 'Name'" in note for note in runs.notes) == 1
    pl.DataFrame(table).write_csv(tmp_path / "t.csv")
    source = load(tmp_path / "t.csv")
    assert source.frame["run"].n_unique() == 12 and "'Name'" in " ".join(source.notes)
    table["Name"] = [f"{name}{a}{s}" for name, a, s in zip(*list(table.values())[:3])]
    table["config.seed"][1::2] = [None] * 12
    runs = Runs.from_frame(table)
    assert runs.n_runs == 12 and not any("run of its own" in note for note in runs.notes)
    table["Name"] = [name[:-1] for name in table["Name"]]
    del table["config.seed"]
    runs = Runs.from_frame(table)
    assert runs.n_runs == 6 and any(note.startswith("6 of 6 runs have sev") for note in runs.notes)


@pytest.mark.parametrize(("loss", "copies"), [(1 / 7, 1), (0.143, 0)])
def test_a_run_that_is_there_twice_is_named(loss, copies):
    """To the last digit; losses that are given to three digits are equal by chance."""
    two = {"run": ["a", "b", "c"], "n": [1e6, 1e6, 1e7], "d": [1e9] * 3, "loss": [loss, loss, 0.1]}
    notes = [note for note in Runs.from_frame(two).notes if "last digit (b)" in note]
    assert len(notes) == copies


def test_the_best_of_a_sweep_is_kept_whole():
    """Each size at three rates, with two checkpoints: the rate with the lowest end stays, and a
    lower loss on the way does not count. Seeds are no sweep."""
    rows = {name: [] for name in ("run", "n", "d", "lr", "seed", "val_loss")}
    for n in (1e4, 1e5, 1e6):
        for lr, losses in ((1e-3, (2.0, 1.5)), (1e-2, (1.9, 1.2)), (1e-1, (0.5, 1.9))):
            for seed in (0, 1):
                for d, loss in zip((1e6, 1e7), losses):
                    cells = (f"{n} {lr} {seed}", n, d, lr, seed, loss)
                    for cell, column in zip(cells, rows.values()):
                        column.append(cell)
    runs = Runs.from_frame(rows)
    assert any("3 sizes" not in note and "--best-of-sweep" in note for note in runs.notes)
    best = runs.best_of_sweep()
    assert sorted(best.run_names) == sorted(
        f"{n} 0.01 {s}" for n in (1e4, 1e5, 1e6) for s in (0, 1)
    )
    assert len(best) == 12 and set(best["loss"]) == {1.9, 1.2}


def test_the_burn_in_is_that_of_the_study_and_none_for_tables_of_others(tmp_path):
    assert default_burn_in(["step", "kind"]) == 400
    assert default_burn_in(["step", "kind"], {"burn_in_steps": 700}) == 700
    assert default_burn_in(["step"]) == default_burn_in(["kind"]) == 0
    runs = study(8)
    table = columns(runs) | {"step": np.tile(np.arange(1, 11) * 100, 8)}
    pl.DataFrame(table).write_csv(tmp_path / "others.csv")
    pl.DataFrame(table | {"kind": ["grid"] * 80}).write_csv(tmp_path / "runs.csv")
    out, rows = tmp_path / "fit.json", {}
    for name, more in (("others", []), ("runs", []), ("runs", ["--burn-in-steps", "0"])):
        assert main(["fit", str(tmp_path / f"{name}.csv"), "--json", str(out), *more]) == 0
        rows[name, *more] = json.loads(out.read_text())["rows"]
    assert list(rows.values()) == [80, 56, 80]
    (tmp_path / "study.json").write_text('{"burn_in_steps": 800}')
    assert main(["fit", str(tmp_path / "runs.csv"), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["rows"] == 24
    assert load(tmp_path / "runs.csv").burn_in_steps == 800
    (tmp_path / "study.json").unlink()
    assert load(tmp_path / "others.csv").burn_in_steps == 0


def test_a_report_takes_a_table_with_names_of_its_own(tmp_path):
    """Neither run nor D: rows are runs, and D is C / 6 N."""
    path = tmp_path / "t.csv"
    table = {"weights": N, "train_flops": 6 * N * D, "n": np.arange(6), "perplexity": N**-0.1}
    pl.DataFrame(table).write_csv(path)
    frame = load(path, {"n": "weights", "loss": "perplexity"}).frame
    assert np.allclose(frame["n"], N, rtol=1e-6) and np.allclose(frame["d"], D, rtol=1e-6)
    assert np.allclose(frame["loss"], N**-0.1) and frame["run"].n_unique() == 6


def _grid(**columns):
    """Two sizes by two lengths, each under the two values of every column."""
    rows = []
    for n in (1e6, 1e7):
        for d in (1e8, 1e9):
            for values in product(*columns.values()):
                row = dict(zip(columns, values))
                loss = 1 + n**-0.1 + d**-0.1 + 1e-3 * len(rows)
                rows.append({"n": n, "d": d, **row, "val_loss": loss})
    return Runs.from_frame({name: [row[name] for row in rows] for name in rows[0]})


@pytest.mark.parametrize(
    ("columns", "named", "not_named"),
    [
        ({"net": ["a", "b"]}, ["'net'"], []),
        ({"peak": [1e-3, 1e-2], "seed": [0, 1]}, ["'peak'"], ["'seed'"]),
        ({"seed": [0, 1]}, [], ["several times"]),
        ({"unique": [1e7, 1e8]}, [], ["several times"]),  # other data, not a sweep
        ({"optim.lr": [1e-3, 1e-2]}, ["values of 'optim.lr'"], ["several times"]),
    ],
)
def test_runs_of_one_size_and_length_that_differ_are_not_pooled_silently(columns, named, not_named):
    runs = _grid(**columns)
    said = " ".join(note for note in runs.notes if "--best-of-sweep" in note)
    assert all(word in said for word in named) and not any(word in said for word in not_named)
    assert bool(said) == bool(named)
    best = runs.best_of_sweep()
    assert len(best) == (4 if named and "seed" not in columns else 8)


def test_headers_of_a_configuration_are_recognised_by_their_last_part():
    """As wandb and Hydra write them; but not where a part says evaluation, and not two alike."""
    table = {
        "model.n_params": N,
        "run/consumed_tokens": D,
        "model.arch": ["a", "b"] * 3,
        "val/tokens": D[::-1],
        "aux/loss": N,
        "eval/loss": 1 / N,
        "batch.size": np.arange(1.0, 7.0),
    }
    taken = Runs.from_frame(table).taken
    assert taken["n"] == "model.n_params" and taken["d"] == "run/consumed_tokens"
    assert taken["group"] == "model.arch" and taken["loss"] == "eval/loss"
    two = {"n": N, "d": D, "loss": 1 / N, "encoder.arch": ["a"] * 6, "decoder.arch": ["b"] * 6}
    assert "group" not in Runs.from_frame(two).taken
