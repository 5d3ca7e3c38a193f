"""The best learning rate as a law of N and D, against truths in closed form."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import forcelaw
from forcelaw.cli.main import main
from forcelaw.errors import FitError

RATES = 4e-3 * 1.41 ** np.arange(-4, 5)
SIZES, D = (3e4, 3e5, 3e6), np.geomspace(1e6, 1.6e7, 9)


def best(n, d):
    return 5e-3 * (n / 3e5) ** -0.05 * (d / 4e6) ** -0.2


def loss(n, d, lr):
    """Twice off costs 5%."""
    floor = 20 * n**-0.2 + 300 * d**-0.4
    return floor * np.exp(0.1 * np.log(lr / best(n, d)) ** 2)


def sweep(sizes=SIZES, lengths=D, rates=RATES, single=False, **more) -> pl.DataFrame:
    """Runs of constant rates with evaluations along them, or one run for each length."""
    rows = [
        {"n": n, "d": d, "lr": lr, "loss": loss(n, d, lr), "run": f"{n} {lr} {d if single else ''}"}
        for n in sizes
        for lr in rates
        for d in lengths
    ]
    return pl.DataFrame(rows).with_columns(**{key: pl.lit(value) for key, value in more.items()})


@pytest.mark.parametrize("single", [False, True])
def test_a_law_without_noise_is_found_exactly(single) -> None:
    found = forcelaw.rates(sweep(single=single), at=[(1e7, 1e8), (3e5, 4e6)])
    assert found.n_exponent.value == pytest.approx(-0.05, abs=1e-9)
    assert found.d_exponent.value == pytest.approx(-0.2, abs=1e-9)
    assert found.rate.value == pytest.approx(best(found.n, found.d), rel=1e-9)
    assert [one.rate.value for one in found.at] == pytest.approx([best(1e7, 1e8), best(3e5, 4e6)])
    assert found.curvature == pytest.approx(0.1) and "twice off costs 4.9%" in found.summary()
    assert found.at[0].times == pytest.approx((10 / 3, 6.25)) and "try rates there" in str(
        found.at[0]
    )
    assert found.at[1].times == (1.0, 1.0) and "beyond" not in str(found.at[1])
    assert found.rate.high - found.rate.low < 1e-9 and found.at[0].cost < 1e-9
    assert not any(point["end"] for point in found.points)


def test_intervals_are_those_of_sizes_that_stray() -> None:
    """By hand: at one length the error of the mean of three sizes, with t of two degrees."""
    stray = dict(zip(SIZES, (0.8, 1.0, 1.3), strict=True))
    table = sweep(lengths=[4e6], single=True).with_columns(
        lr=pl.col("lr") * pl.col("n").replace_strict(stray)
    )
    found = forcelaw.rates(table, at=[(3e5, 4e6)])
    x, y = np.log(SIZES) - np.log(3e5), np.log([best(n, 4e6) * s for n, s in stray.items()])
    left = [np.polyfit(np.delete(x, k), np.delete(y, k), 1)[1] for k in range(3)]
    error = np.sqrt(2 / 3 * ((np.array(left) - np.polyfit(x, y, 1)[1]) ** 2).sum())
    assert np.log(found.at[0].rate.high / found.at[0].rate.value) == pytest.approx(
        4.303 * error, rel=1e-3
    )
    assert "is up to" in str(found.at[0])
    (far,) = forcelaw.rates(table, at=[(3e30, 4e6)]).at
    assert far.cost > 0.2 and "more than 20% higher: not told" in str(far)
    assert found.d_exponent is None and "one length" in " ".join(found.notes)
    assert "d_exponent: 0.000" in found.key


def test_runs_of_several_lengths_and_single_evaluations_go_together() -> None:
    """Short runs with trajectories, and ends of longer ones."""
    long = sweep(lengths=[1e8], single=True)
    found = forcelaw.rates(pl.concat([sweep(), long]))
    assert len(found.points) == 3 * 9
    assert max(point["d"] for point in found.points) == pytest.approx(1e8)
    assert found.d_exponent.value == pytest.approx(-0.2, abs=1e-9)
    cut = sweep().filter((pl.col("d") < 5e6) | pl.col("lr").is_in(RATES[3:6].tolist()))
    assert forcelaw.rates(cut).d_exponent.value == pytest.approx(-0.2, abs=1e-9)


def test_a_best_rate_at_an_end_counts_in_no_law() -> None:
    whole = forcelaw.rates(sweep())
    few = sweep(sizes=[3e7], rates=RATES[-3:])
    found = forcelaw.rates(pl.concat([sweep(), few]))
    ends = [point for point in found.points if point["end"]]
    assert len(ends) > 4 and all(point["n"] == pytest.approx(3e7) for point in ends)
    assert found.d_exponent.value == pytest.approx(whole.d_exponent.value, abs=1e-9)
    assert "at an end of those tried" in found.summary()
    alone = forcelaw.rates(few)
    assert alone.status == "refused" and "no law of rates" in alone.summary() and alone.key is None


def test_one_size_has_no_interval_from_evaluations_of_the_same_runs() -> None:
    along = forcelaw.rates(sweep(sizes=[3e5]), at=[(1e6, 1e7)])
    assert along.d_exponent.value == pytest.approx(-0.2, abs=1e-9) and along.d_exponent.low is None
    assert along.n_exponent is None and along.at[0].cost is None
    assert "no intervals" in along.summary() and "one size" in along.summary()
    apart = forcelaw.rates(sweep(sizes=[3e5], single=True))
    assert apart.d_exponent.low == pytest.approx(-0.2, abs=1e-6)


def test_runs_whose_rate_changes_count_at_their_end_by_their_highest() -> None:
    falling = sweep().with_columns(
        lr=pl.col("lr") * pl.when(pl.col("d") > 1.5e7).then(0.01).otherwise(1)
    )
    found = forcelaw.rates(falling)
    assert len(found.points) == 3
    assert all(point["d"] == pytest.approx(D[-1]) for point in found.points)
    assert found.rate.value == pytest.approx(best(found.n, D[-1]), rel=1e-6)
    assert "the rate changes within 27 runs" in found.summary()
    last = forcelaw.rates(sweep(), last=True)
    assert [p["best"] for p in last.points] == pytest.approx([p["best"] for p in found.points])


def test_the_largest_rate_is_one_at_which_no_run_rose() -> None:
    table = sweep(sizes=[3e5])
    rising = (pl.col("lr") > 9e-3) & (pl.col("d") == D[-1])
    risen = table.with_columns(loss=pl.col("loss") * pl.when(rising).then(3.0).otherwise(1.0))
    assert forcelaw.rates(table).maximum == pytest.approx(RATES[-1])
    assert forcelaw.rates(risen).maximum == pytest.approx(max(r for r in RATES if r < 9e-3))


def test_seeds_are_averaged_and_a_size_that_is_nearly_another_is_the_same() -> None:
    other = sweep().with_columns(
        n=pl.col("n") * 1.01, run=pl.col("run") + "b", loss=pl.col("loss") * 1.1
    )
    found = forcelaw.rates(pl.concat([sweep(), other]))
    assert len(found.points) == len(forcelaw.rates(sweep()).points)
    assert found.d_exponent.value == pytest.approx(-0.2, abs=1e-9)


def test_a_table_without_rates_or_of_several_architectures_is_refused() -> None:
    with pytest.raises(FitError, match="no learning rates"):
        forcelaw.rates(sweep().drop("lr"))
    both = pl.concat([sweep(architecture="A"), sweep(architecture="B")])
    with pytest.raises(FitError, match="of one architecture"):
        forcelaw.rates(both)


def test_the_command_gives_the_key_of_a_study_and_json(tmp_path, capsys) -> None:
    import yaml

    from forcelaw.study.config import RateLaw

    both = pl.concat([sweep(architecture="A"), sweep(architecture="B")])
    renamed = both.rename({"lr": "optim.learning_rate", "n": "params", "d": "tokens"})
    renamed.write_csv(tmp_path / "runs.csv")
    words = ["rates", str(tmp_path / "runs.csv"), "--at", "n=1e6,d=1e8"]
    assert main([*words, "--json", str(tmp_path / "o.json")]) == 0
    said = capsys.readouterr().out
    key = next(line for line in said.splitlines() if line.startswith("study file: "))
    law = RateLaw(**yaml.safe_load(key.removeprefix("study file: "))["learning_rate"])
    assert law.rate(1e6, 1e8) == pytest.approx(best(1e6, 1e8), rel=0.02)
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["status"] == "ok" and set(content["architectures"]) == {"A", "B"}
    assert content["architectures"]["A"]["at"][0]["rate"]["value"] == pytest.approx(best(1e6, 1e8))
    assert main(["rates", str(tmp_path / "runs.csv"), "--at", "n=1e6"]) == 2
    assert "--at n=1e6,d=1e8" in capsys.readouterr().err
    sweep(rates=RATES[:2]).write_csv(tmp_path / "few.csv")
    assert main(["rates", str(tmp_path / "few.csv")]) == 3
    assert "2 learning rates: a law takes 3" in capsys.readouterr().out
