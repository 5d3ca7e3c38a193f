"""Forecasts hold on a surface that is known, see nothing of what they predict, and are checked
against the truth."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from forcelaw.cli.forecast_runs import planned_runs, repeated
from forcelaw.cli.main import main
from forcelaw.errors import FitError, StoreError
from forcelaw.laws.decide import forecast as forecasts
from forcelaw.laws.decide import simulate
from forcelaw.laws.decide.forecast import Planned, forecast
from forcelaw.laws.decide.forecast_check import check, check_text
from forcelaw.laws.fit.averaging import average
from forcelaw.laws.fit.fit import fit
from forcelaw.laws.forms import make
from forcelaw.table.runs import Runs
from tests.laws.studies import FIELD, join
from tests.report import synthetic

SIZES, DATA = np.geomspace(5e3, 1e6, 8), np.geomspace(5e5, 1.6e7, 12)


def study(seed=0, seeds=3, sizes=SIZES, group="a", **options):
    return simulate.trajectories(
        FIELD, sizes, DATA, np.random.default_rng(seed), seeds=seeds, group=group, **options
    )


def plan(runs):
    """Every run of the table at its end."""
    out = []
    for k, name in enumerate(runs.run_names):
        end = np.flatnonzero(runs.run == k)[-1]
        out.append(
            Planned(
                runs.group_names[runs.group[end]],
                runs["n"][end],
                runs["d"][end],
                runs["c"][end],
                str(runs.seed[end]),
                name,
            )
        )
    return out


def checked(runs, found, **options):
    content = json.loads(
        json.dumps(
            forecasts.to_json(
                found, date="2026-01-01", source="s", options={"level": 0.95} | options
            )
        )
    )
    return check(content, runs)


def test_on_a_known_surface_the_median_error_is_small_and_the_intervals_hold() -> None:
    errors, inside = [], []
    for seed in range(50):
        runs = study(seed)
        found = checked(runs, forecast(runs, plan(runs), law="surface", calibrate=False))
        assert found["checked"] == 3 and found["architectures"][0]["status"] in ("ok", "at_bound")
        errors += [abs(row["error"]) for row in found["architectures"][0]["runs"]]
        inside += [row["inside"] for row in found["architectures"][0]["runs"]]
    assert np.median(errors) < 0.03
    assert 0.90 <= np.mean(inside) < 1.0  # 150 runs, of which three and three share a law


def test_without_noise_the_forecast_is_the_surface_itself() -> None:
    runs = study(sd_run=0.0, sd_within=0.0)
    for p in forecast(runs, plan(runs), floor="free")[0].predictions:
        truth = simulate.surface_loss(FIELD, np.array([p.n]), np.array([p.d]))[0]
        assert p.loss == pytest.approx(truth, rel=1e-4) and p.known


def test_what_is_predicted_is_not_looked_at() -> None:
    """Neither other losses of the targets nor of anything beyond the limit change a digit, and
    absent targets change nothing."""
    runs = study()
    planned = plan(runs)
    found = forecast(runs, planned)[0]
    targets = {p.run for p in found.targets}
    assert len(targets) == 3 and found.limit == pytest.approx(0.1 * min(p.c for p in found.targets))
    is_target = np.isin(runs.run, [k for k, name in enumerate(runs.run_names) if name in targets])
    hidden = is_target | (runs["c"] > found.limit * 1.001)
    assert 0.1 < hidden.mean() < 0.9
    spoilt = replace(runs, values=runs.values | {"loss": np.where(hidden, 99.0, runs["loss"])})
    later = replace(forecast(spoilt, planned)[0])
    assert later.predictions == found.predictions and later.hash == found.hash
    before = forecast(runs.take(~hidden), planned)[0]
    assert [replace(p, known=True) for p in before.predictions] == found.predictions
    assert (
        not any(p.known for p in before.predictions)
        and before.runs == found.runs
        and not set(found.runs) & targets
    )
    used = replace(
        runs, values=runs.values | {"loss": np.where(hidden, runs["loss"], runs["loss"] * 1.001)}
    )
    assert forecast(used, planned)[0].predictions != found.predictions


def test_whole_runs_alone_are_used_where_that_is_asked() -> None:
    runs = study()
    found = forecast(runs, plan(runs), checkpoints=False)[0]
    largest = {name: runs["c"][runs.run == k].max() for k, name in enumerate(runs.run_names)}
    assert set(found.runs) == {name for name, c in largest.items() if c <= found.limit}
    assert len(found.runs) < len(forecast(runs, plan(runs))[0].runs)
    assert found.beyond["n"] > 10 > forecast(runs, plan(runs))[0].beyond["n"]


def test_each_architecture_is_forecast_by_itself_and_one_that_cannot_be_is_refused_in_words() -> (
    None
):
    both = join(study(1), study(2, seeds=1, sizes=np.array([1e4, 1e6])))
    a, b = forecast(both, plan(both))
    assert a.ok and len(a.predictions) == 3
    assert not b.ok and b.status == "refused" and "n" in b.message and not b.predictions
    content = forecasts.to_json([a, b], date="", source="", options={})
    assert "B" in forecasts.text(content) and "refused" in forecasts.text(content)
    found = checked(both, [a, b])
    assert found["checked"] == 3 and "no forecast (refused)" in check_text(found)


def test_a_law_that_does_not_fall_is_not_used() -> None:
    runs = study(seeds=1, sizes=SIZES[::2])
    rising = replace(runs, values=runs.values | {"loss": 0.1 * (runs["n"] / 1e4) ** 0.2})
    for law, count in (("auto", 3), ("surface", 2)):
        found = forecast(rising, plan(rising), law=law)[0]
        assert not found.ok and found.status != "ok" and len(found.tried) == count


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
def test_the_verdict_counts_what_it_should(factor) -> None:
    runs = study()
    found = forecast(runs, plan(runs))
    targets = [p.run for p in found[0].targets]
    content = checked(runs, found)
    assert content["architectures"][0]["unchanged"] is True and content["in_hindsight"] == 3
    off = runs["loss"].copy()
    for k, name in enumerate(runs.run_names):
        if name == targets[0]:
            off[np.flatnonzero(runs.run == k)[-1]] = found[0].predictions[0].loss / factor
        if name == targets[1]:
            off[np.flatnonzero(runs.run == k)[-1]] = found[0].predictions[1].loss
    gone = [k for k, name in enumerate(runs.run_names) if name == targets[2]]
    moved = replace(runs, values=runs.values | {"loss": off}).take(~np.isin(runs.run, gone))
    content = checked(moved, found)
    assert (content["checked"], content["awaited"], content["inside"]) == (2, 1, 1) and content[
        "coverage"
    ] == 0.5
    assert content["largest_error"] == pytest.approx(abs(factor - 1))
    assert content["median_error"] == pytest.approx(abs(factor - 1) / 2)
    assert "outside" in check_text(content) and "not finished yet" in check_text(content)
    changed = replace(runs, values=runs.values | {"loss": runs["loss"] * 1.01})
    assert checked(changed, found)["architectures"][0]["unchanged"] is False
    assert "no longer what they were" in check_text(checked(changed, found))


def test_a_run_that_was_stopped_is_compared_where_it_stopped() -> None:
    """With the law of the forecast at the D that was reached; by hand: the same fit, asked
    there."""
    runs = study()
    found = forecast(runs, plan(runs), law="surface", calibrate=False)
    target = found[0].targets[1]
    k = runs.run_names.index(target.run)
    cut = (runs.run == k) & (runs["d"] > 0.4 * target.d)
    assert cut.any() and not cut[runs.run == k].all()
    short = runs.take(~cut)
    content = checked(short, found)
    assert (content["checked"], content["awaited"], content["early"]["checked"]) == (2, 1, 1)
    one = content["architectures"][0]["runs"][1]
    assert one["true"] is None and one["early"]["d"] < 0.4 * target.d < target.d
    end = np.flatnonzero(short.run == short.run_names.index(target.run))[-1]
    assert one["early"]["true"] == short["loss"][end]
    assert one["early"]["beyond"] == pytest.approx(short["c"][end] / found[0].limit)
    value = found[0].parameters
    assert found[0].law == "surface" and len(found[0].candidates) == 1
    n, d = target.n, one["early"]["d"]
    by_hand = (
        value["E"]["value"]
        + value["A"]["value"] * n ** -value["alpha"]["value"]
        + value["B"]["value"] * d ** -value["beta"]["value"]
    )
    assert one["early"]["loss"] == pytest.approx(by_hand, rel=1e-9)
    assert one["early"]["error"] == pytest.approx(by_hand / one["early"]["true"] - 1)
    assert "stopped there:" in check_text(content) and "1 of them were stopped" in check_text(
        content
    )
    changed = replace(short, values=short.values | {"loss": short["loss"] * 1.01})
    assert (
        checked(changed, found)["early"]["checked"] == 0
    )  # its points are no longer those of the forecast


def write_table(path, runs, keep=None):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["run", "architecture", "kind", "status", "seed", "step", "n", "d", "c", "loss"]
        )
        for i in np.flatnonzero(np.ones(len(runs), bool) if keep is None else keep):
            writer.writerow(
                [
                    f"r{runs.run_names[runs.run[i]]}",
                    "PaiNN",
                    "grid",
                    "finished",
                    runs.seed[i],
                    int(runs["d"][i] / 400),
                    runs["n"][i],
                    runs["d"][i],
                    runs["c"][i],
                    repr(float(runs["loss"][i])),
                ]
            )


def test_from_the_command_line_first_the_forecast_then_the_truth(tmp_path, capsys) -> None:
    runs = study()
    target = runs["n"] == runs["n"].max()
    write_table(tmp_path / "small.csv", runs, ~target)
    write_table(tmp_path / "all.csv", runs)
    with (tmp_path / "plan.csv").open("w") as file:
        file.write(
            "architecture,n,d,c\n"
            + "".join(f"PaiNN,{n},{DATA[-1]},{6 * n * DATA[-1]}\n" for n in SIZES)
        )
    small, everything, planned, said, seen = (
        str(tmp_path / name) for name in ("small.csv", "all.csv", "plan.csv", "f.json", "v.json")
    )
    assert (
        main(
            ["forecast", small, "--plan", planned, "--json", said, "--csv", str(tmp_path / "f.csv")]
        )
        == 0
    )
    assert "from 21 runs" in capsys.readouterr().out
    saved = json.loads((tmp_path / "f.json").read_text())
    assert (
        saved["options"]["burn_in_steps"] == 400
        and saved["architectures"][0]["predictions"][0]["known"] is False
    )
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 2
    assert main(["forecast", everything, "--check", said, "--json", seen]) == 0
    out = capsys.readouterr().out
    assert "1 runs: median error" in out and "1 inside" in out and "no longer" not in out
    assert json.loads((tmp_path / "v.json").read_text())["architectures"][0]["unchanged"] is True


def test_runs_that_repeated_a_smaller_training_set_are_neither_fitted_nor_targets(tmp_path) -> None:
    """The whole set has 4e6 atoms and is seen four times; two runs saw 1e6 atoms sixteen times and
    came out worse."""
    from forcelaw.cli.forecast_runs import planned_runs, runs_of

    runs = study(seeds=1)
    write_table(tmp_path / "t.csv", runs)
    frame = pl.read_csv(tmp_path / "t.csv")
    small = pl.col("run").is_in(["r0", "r7"])
    extra = frame.filter(small).with_columns(
        run=pl.col("run") + "s", loss=pl.col("loss") * 1.5, u=pl.min_horizontal("d", 1e6)
    )
    frame = pl.concat([frame.with_columns(u=pl.min_horizontal("d", 4e6)), extra])
    frame.write_csv(tmp_path / "both.csv")
    both, planned = runs_of(tmp_path / "both.csv"), planned_runs(tmp_path / "both.csv", None, runs)
    assert sorted(both.run_names) == [f"r{k}" for k in range(8)] == sorted(p.run for p in planned)
    assert both.notes[-1].startswith("2 runs repeat a smaller training set")
    alone = runs_of(tmp_path / "t.csv")
    one, other = (
        forecast(r, planned_runs(tmp_path / name, None, r))[0]
        for r, name in ((both, "both.csv"), (alone, "t.csv"))
    )
    assert one.predictions == other.predictions


def test_a_smaller_set_is_about_repeats_only_where_a_larger_one_was_seen_as_long() -> None:
    """Runs of 1.6e7 atoms from 7e6 and of 1e8 from 1.4e7, each in one table at its end, all stay.
    With the longer ones' evaluations at 1.6e7 atoms there the shorter ones are about repeats."""
    short, long = (1.6e7, 7e6), (1e8, 1.4e7)
    rows = [(f"{n:.0f}-{d:.0f}", n, d, u) for n in SIZES for d, u in (short, long)]
    ends = pl.DataFrame(rows, ["run", "n", "d", "u"], orient="row").with_columns(
        loss=pl.lit(1.0), c=6 * pl.col("n") * pl.col("d")
    )
    assert repeated(Runs.from_frame(ends)) == set()
    on_the_way = ends.filter(d=long[0]).with_columns(d=pl.lit(1.5e7))
    found = repeated(Runs.from_frame(pl.concat([ends, on_the_way])))
    assert found == {f"{n:.0f}-{short[0]:.0f}" for n in SIZES}
    of_one_size = on_the_way.filter(pl.col("n") == SIZES[2])
    found = repeated(Runs.from_frame(pl.concat([ends, of_one_size])))
    assert found == {f"{SIZES[2]:.0f}-{short[0]:.0f}"}


def test_planned_runs_on_fewer_data_are_no_targets(tmp_path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\narchitectures: [{name: painn, learning_rate: 0.004}]\nsizes: [5e3, 2e4]\n"
        "distinct_atoms: [2e4, 1e5]\natoms: 1e5\n"
    )
    planned = planned_runs(tmp_path, path, study(seeds=1))
    assert [round(p.d, -4) for p in planned] == [1e5, 1e5] and len({p.n for p in planned}) == 2


def test_options_of_the_fit_are_used_and_recorded_where_they_are_not_the_defaults(tmp_path):
    write_table(tmp_path / "t.csv", study(seeds=1))
    out, loss = tmp_path / "f.json", []
    for more, recorded in (
        ([], {}),
        (["--objective", "linear", "--group", "PaiNN"], {"objective": "linear", "group": "PaiNN"}),
    ):
        assert main(["forecast", str(tmp_path / "t.csv"), "--json", str(out), *more]) == 0
        content = json.loads(out.read_text())
        standard = {"fraction", "top", "checkpoints", "burn_in_steps", "where", "level"}
        own = {k: v for k, v in content["options"].items() if k not in standard}
        assert own == recorded
        loss.append(content["architectures"][0]["predictions"][0]["loss"])
    assert loss[0] != loss[1]


def test_a_check_repeats_the_burn_in_and_the_fit_of_the_forecast(tmp_path):
    runs = study(seeds=1)
    target = runs["n"] == runs["n"].max()
    write_table(tmp_path / "t.csv", runs)
    # the target is stopped at a third of its length
    write_table(tmp_path / "short.csv", runs, ~target | (runs["d"] < DATA[-1] / 3))
    said, seen, early = tmp_path / "f.json", tmp_path / "v.json", []
    for more in ([], ["--burn-in-fraction", "0.1"], ["--objective", "linear"]):
        table = str(tmp_path / "t.csv")
        assert main(["forecast", table, "--json", str(said), "--burn-in-steps", "0", *more]) == 0
        again = ["forecast", str(tmp_path / "short.csv"), "--check", str(said)]
        assert main([*again, "--json", str(seen)]) == 0
        found = json.loads(seen.read_text())["architectures"][0]
        assert found["unchanged"] is True
        early.append([row["early"]["loss"] for row in found["runs"] if row["early"]])
    assert early[0] and early[0] != early[2]


def test_no_torch_is_needed(tmp_path) -> None:
    write_table(tmp_path / "t.csv", study(seeds=1))
    code = (
        "import sys\nfrom forcelaw.cli.main import main\n"
        f"sys.exit(main(['forecast', {str(tmp_path / 't.csv')!r}]) or 9 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0 and "already trained" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["forecast", "nothing.csv"], "no such table"),
        (["forecast", "t.csv", "--fraction", "0"], "not a share"),
        (["forecast", "t.csv", "--check", "t.csv"], "not JSON"),
        (["forecast", "t.csv", "--check", "j.json"], "not a forecast"),
        (["forecast", "t.csv", "--plan", "p.csv"], "recognised as d"),
        (["forecast", "t.csv", "--where", "kind == 'sweep'"], "no row"),
    ],
)
def test_a_mistake_is_said_in_words(tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.csv", study(seeds=1))
    (tmp_path / "p.csv").write_text("architecture,n\nPaiNN,1000\n")
    (tmp_path / "j.json").write_text("{}")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_table_without_compute_is_refused() -> None:
    runs = study()
    bare = replace(runs, values={role: v for role, v in runs.values.items() if role != "c"})
    with pytest.raises(FitError, match="no compute"):
        forecast(bare, plan(runs))


def test_a_specification_that_lacks_what_a_forecast_needs_is_damage(tmp_path):
    """Those of the synthetic studies do not say on how many atoms they train."""
    synthetic.write_study(tmp_path, synthetic.LADDER[:1], sizes=(2_000, 8_000), seeds=1)
    with pytest.raises(StoreError) as caught:
        planned_runs(tmp_path, None, None)
    assert "train_atoms" in caught.value.what and caught.value.remedy


def test_a_law_of_more_than_planned_runs_have_is_refused_in_words() -> None:
    """Of distinct data, say: nothing is known of those of a planned run."""
    runs = study(seeds=1)
    runs = replace(runs, values=runs.values | {"u": runs["d"] / 4})
    found = forecast(runs, plan(runs), law="data_constrained")[0]
    assert not found.ok and found.status == "refused" and "needs u" in found.message


def test_the_filter_comes_before_the_table_is_looked_at(tmp_path) -> None:
    """A loss that is not there yet is filtered out as the error says."""
    path = tmp_path / "t.csv"
    write_table(path, study(seeds=1))
    text = path.read_text()
    header, last = text.split("\n", 1)[0].split(","), text.rstrip().rsplit("\n", 1)[1].split(",")
    last[header.index("loss")] = "nan"
    path.write_text(text.rstrip() + "\n" + ",".join(last) + "\n")
    assert main(["forecast", str(path)]) == 2
    assert main(["forecast", str(path), "--where", "loss > 0"]) == 0


def test_a_table_of_others_says_what_was_taken_for_what(tmp_path, capsys) -> None:
    """As all other commands do; and a column that is not recognised can be named as it says."""
    runs = study(seeds=1)
    table = {"width_in_weights": runs["n"], "tokens": runs["d"], "flops": runs["c"]}
    table |= {"val_loss": runs["loss"], "run_name": [runs.run_names[i] for i in runs.run]}
    pl.DataFrame(table).write_csv(tmp_path / "t.csv")
    assert main(["forecast", str(tmp_path / "t.csv")]) == 2
    assert "--columns n=..." in capsys.readouterr().err
    assert main(["forecast", str(tmp_path / "t.csv"), "--columns", "n=width_in_weights"]) == 0
    assert "'width_in_weights'" in capsys.readouterr().out


def on_a_line(slope, seed=0):
    """Twelve sizes with D as N to a power: one ladder of compute-optimal runs (1), or runs of equal
    compute (-1)."""
    n = np.geomspace(1e7, 1e10, 12)
    d = 2e9 * (n / 1e8) ** slope
    loss = 1.7 + 400 * n**-0.34 + 400 * d**-0.28
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.003, 12))
    return {"n": n, "d": d, "c": 6 * n * d * (n / 1e8) ** 0.01, "loss": loss * noise}, loss


def test_runs_on_one_line_are_fitted_and_forecast_along_it():
    """N and D cannot be told apart there, but the law along the line can; not where D falls as N
    grows, nor for a target that lies off the line."""
    table, loss = on_a_line(1)
    assert "along that line" in fit(table, "surface").message
    found = average(table)
    local = -np.polyfit(np.log(table["n"]), np.log(loss - 1.7), 1)[0]
    assert found.variable.startswith("N and D lie") and set(found.best.result.law.roles) == {"n"}
    assert found["gamma"].low < local < found["gamma"].high
    said = forecast(table, diagnosis=True)[0]
    assert said.x == "n" and said.diagnosis == "diagnose: an exponent"
    assert all(p.low < loss[-1] < p.high for p in said.predictions)
    off = Planned("", 1e10, 4e11, 2.4e22)
    assert forecast(table, [off])[0].status == "refused"
    falling = on_a_line(-1)[0]
    assert "along that line" not in fit(falling, "surface").message
    assert average(falling).status == "refused" == forecast(falling, top=1.0)[0].status


def test_the_formula_of_a_law_in_one_variable_names_it():
    assert [make("power_floor", x=x).formula for x in "nc"] == [
        "L = A N^-gamma + E",
        "L = A C^-gamma + E",
    ]
    assert make("broken", x="d").formula == "L = A D^-c0 (1 + (D/d1)^(1/f1))^(-c1 f1) + E"
