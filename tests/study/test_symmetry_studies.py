"""The symmetry studies compare what they say: equal widths and FLOPs, one difference."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from forcelaw.data.pack import Pack, sample_path
from forcelaw.models import ARCHITECTURES
from forcelaw.models.sizing import count_parameters
from forcelaw.study.config import label_of, load
from forcelaw.study.plan import model_config
from forcelaw.training.spec import summarise

FOLDER = Path(__file__).parents[2] / "studies" / "symmetry"
GROUPS = ("C1", "T", "O", "I")


@pytest.fixture(scope="module")
def configs():
    """Configurations of a study by label, in the order of sizes, for the shipped sample."""
    data = summarise(Pack(sample_path()))

    def of(name: str) -> dict[str, list]:
        study = load(FOLDER / f"{name}.yaml")
        return {
            label_of(a): [model_config(study, data, a, n) for n in study.sizes_of(a)]
            for a in study.architectures
        }

    return of


def cost(config) -> float:
    return ARCHITECTURES[config.architecture].flops(config).forward(19, 1)


def test_groups_of_the_dial_share_width_and_flops(configs) -> None:
    found = configs("dial")
    for label in GROUPS:
        assert [c.width for c in found[label]] == [240, 480, 720]
        assert [c.group for c in found[label]] == [label] * 3
        assert list(map(cost, found[label])) == list(map(cost, found["C1"]))
    for small, same in zip(found["C1 at T's N"], found["T"]):
        assert count_parameters(small)[0] == pytest.approx(count_parameters(same)[0], rel=0.15)


def test_breaks_share_width_and_flops_with_what_they_break(configs) -> None:
    found = configs("breaks")
    for label, broken in found.items():
        whole = found[label.split()[0]][: len(broken)]
        assert [c.width for c in broken] == [c.width for c in whole], label
        for one, other in zip(broken, whole):
            assert cost(one) == pytest.approx(cost(other), rel=0.005)


def test_rates_are_those_of_the_smallest_width_of_the_dial(configs) -> None:
    found, dial = configs("rates"), configs("dial")
    assert {label.split()[0] for label in found} == {*GROUPS, "attention"}
    for label, (config,) in found.items():
        if not label.startswith("attention"):
            assert config == dial[label.split()[0]][0]


@pytest.fixture(scope="module")
def script():
    """The studies' own analysis, studies/symmetry/verdict.py."""
    spec = importlib.util.spec_from_file_location("verdict", FOLDER / "verdict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(spread: float) -> pl.DataFrame:
    """Three widths, two seeds; T is 20% better than C1, and its loss falls .05 faster."""
    noise, rows = np.random.default_rng(0), []
    for width in (240, 480, 720):
        for seed in (0, 1):
            for name, level, slope in (("C1", 1.0, 0.2), ("T", 0.8, 0.25)):
                factor = np.exp(spread * noise.normal())
                for d in np.geomspace(1e5, 2e6, 12):
                    loss = factor * level * (d / 2e6) ** -slope
                    rows.append((name, width, seed, d, loss, "finished"))
    columns = ["architecture", "width", "seed", "d", "loss", "status"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_analysis_finds_a_known_ratio_and_slope(script, tmp_path) -> None:
    rows = script.pairs(script.finished(table(0.0)), "C1", "T")
    assert len(rows) == 6
    assert rows["level"].to_list() == pytest.approx([np.log(0.8)] * 6)
    assert rows["slope"].to_list() == pytest.approx([0.05] * 6)


def test_intervals_of_the_analysis_are_those_of_student(script) -> None:
    """At one width they are a t interval of two pairs with the pooled spread of three widths."""
    found = {("C1", "T"): script.pairs(script.finished(table(0.1)), "C1", "T")}
    sd, freedom = script.spread(found, "level")
    of_width = [g["level"].to_numpy() for _, g in found["C1", "T"].group_by("width")]
    assert freedom == 3
    assert sd == pytest.approx(np.sqrt(np.mean([np.var(x, ddof=1) for x in of_width])))
    each = script.intervals(found["C1", "T"], "level", sd, freedom)
    assert each[0][1] == pytest.approx(stats.t.ppf(0.975, 3) * sd / np.sqrt(2))


def test_rates_are_written_into_the_dial(script, tmp_path) -> None:
    copy = tmp_path / "dial.yaml"
    copy.write_text((FOLDER / "dial.yaml").read_text())
    script.write({"C1": 0.002, "T": 0.00025}, copy)
    rates = {label_of(a): a.learning_rate for a in load(copy).architectures}
    assert rates["C1"] == rates["C1 at T's N"] == 0.002
    assert rates["T"] == 0.00025
    was = {label_of(a): a.learning_rate for a in load(FOLDER / "dial.yaml").architectures}
    assert rates["O"] == was["O"]


@pytest.fixture(scope="module")
def transfer():
    """studies/symmetry/transfer.py."""
    spec = importlib.util.spec_from_file_location("transfer", FOLDER / "transfer.py")
    module = sys.modules["transfer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["transfer"]


def swept(best: dict[int, float], curvature: float, **changed) -> pl.DataFrame:
    """Sweeps of one column: log loss a parabola in log rate about the best of each width; and a
    repeat 1% off. changed: (width, rate) as text -> status."""
    rows = []
    for width, rate in best.items():
        for lr in (0.001, 0.002, 0.004, 0.008):
            loss = 0.3 * np.exp(curvature * np.log(lr / rate) ** 2)
            status = changed.get(f"w{width}_{lr}", "finished")
            rows.append((f"{width} {lr}", "sweep", width, lr, 0, loss, status))
            if width == min(best) and lr == 0.002:
                rows.append((f"{width} again", "grid", width, lr, 1, loss * 1.01, "finished"))
    names = ["run", "kind", "width", "lr", "seed", "loss", "status"]
    found = pl.DataFrame(rows, schema=names, orient="row")
    return found.with_columns(
        architecture=pl.lit("eSEN"), n=pl.col("width") ** 2, d=pl.lit(1e6), step=pl.lit(100)
    )


@pytest.mark.parametrize(
    ("best", "curvature", "verdict"),
    [
        ({16: 0.003, 52: 0.003}, 0.1, "transfers"),
        ({16: 0.0022, 52: 0.0052}, 0.2, "does not transfer"),
        ({16: 0.0022, 52: 0.0052}, 0.001, "harmless"),
        ({16: 0.003, 52: 0.02}, 0.1, "does not transfer"),
        ({16: 0.003, 52: 0.009}, 0.001, "open"),
    ],
)
def test_transfer_of_rates_is_judged_by_its_rules(transfer, best, curvature, verdict) -> None:
    found = transfer.sweeps(swept(best, curvature))["eSEN"]
    said = transfer.judge(found, 0.03)
    assert said.verdict == verdict
    if verdict != "open" and max(best.values()) < 0.008:
        rates = [rate for rate, _ in said.best]
        assert rates == pytest.approx(list(best.values()))
        assert said.slope == pytest.approx(np.log(best[52] / best[16]) / np.log(52 / 16))


def test_cost_of_transfer_is_that_of_the_narrow_models_rate(transfer) -> None:
    found = transfer.sweeps(swept({16: 0.002, 52: 0.004}, 0.2))["eSEN"]
    said = transfer.judge(found, 0.03)
    assert said.cost == pytest.approx(np.exp(0.2 * np.log(2) ** 2))
    assert said.one[1] == pytest.approx(said.cost)


def test_a_diverged_rate_bounds_its_sweep_and_seeds_give_the_spread(transfer) -> None:
    table = swept({16: 0.003, 52: 0.0045}, 0.1, **{"w52_0.008": "diverged"})
    (narrow, wide) = transfer.sweeps(table)["eSEN"]
    assert wide.losses[0.008] == np.inf and wide.found() == (0.004, "")
    assert narrow.found()[0] == pytest.approx(0.003)
    sd, freedom = transfer.seed_spread(table)
    assert freedom == 1 and sd == pytest.approx(np.log(1.01) / np.sqrt(2))


def test_the_transfer_study_sweeps_every_column_over_a_factor_of_eight_in_size(configs) -> None:
    data, study = summarise(Pack(sample_path())), load(FOLDER / "transfer.yaml")
    rule = study.learning_rate.sweep
    for a in study.architectures:
        sizes = a.sweep_sizes or rule.size
        found = [count_parameters(model_config(study, data, a, n))[0] for n in sizes]
        assert max(found) / min(found) >= 8, label_of(a)
        assert study.sizes_of(a) == [min(sizes)], label_of(a)
