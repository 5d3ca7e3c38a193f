"""studies/field/verdict.py: hours, pairs and frontiers, on curves that are known."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

PATH = Path(__file__).parents[1] / "studies" / "field" / "verdict.py"
NEQUIP = "forcelaw.adapters.nequip:ARCHITECTURE"


@pytest.fixture(scope="module")
def verdict() -> Any:
    spec = importlib.util.spec_from_file_location("field_verdict", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def column(
    verdict: Any, label: str, factor: float, cost: float, sizes: int = 3, stop: int = 400
) -> Any:
    """Losses factor (N c)^-.1 at steps 100, 200, 400 of each size; the middle one three times."""
    rows = [
        {
            "width": 8 * (k + 1),
            "seed": seed,
            "step": step,
            "n": 10**k * 30_000,
            "depth": 2,
            "c": cost * 10.0**k * step,
            "loss": factor * (10**k * step) ** -0.1 * (1 + 0.01 * seed),
        }
        for k in range(sizes)
        for seed in ((0, 1, 2) if k == 1 else (0,))
        for step in (100, 200, 400)
        if step <= stop
    ]
    one = verdict.Column(label, NEQUIP, "conservative", pl.DataFrame(rows))
    for k in range(sizes):
        one.ends[8 * (k + 1)] = [
            r["loss"] for r in rows if r["width"] == 8 * (k + 1) and r["step"] == stop
        ]
    return one


def test_a_column_is_better_at_all_sizes_or_not_at_all(verdict: Any) -> None:
    one, same, worse = (column(verdict, name, f, 1.0) for name, f in zip("abc", (1, 1.001, 1.2)))
    sd, freedom = verdict.spread([one, same, worse])
    assert freedom == 6 and sd == pytest.approx(np.std(np.log([1, 1.01, 1.02]), ddof=1), rel=0.01)
    assert verdict.pair(one, worse, sd, freedom).better
    assert not verdict.pair(worse, one, sd, freedom).better
    assert not verdict.pair(one, same, sd, freedom).better  # within the interval
    worse.ends[24] = [0.9 * one.ends[24][0]]  # lower at the largest size
    assert not verdict.pair(one, worse, sd, freedom).better
    assert not verdict.pair(one, column(verdict, "d", 2.0, 1.0, sizes=2), sd, freedom).better


def test_a_frontier_is_compared_where_both_are_and_stays_where_it_ended(verdict: Any) -> None:
    cheap, dear = column(verdict, "a", 1.0, 1.0), column(verdict, "b", 1.05, 30.0)
    fronts = [verdict.frontier(c.rows, "c") for c in (cheap, dear)]
    assert verdict.lower(fronts[0], fronts[1], 0.01) and not verdict.lower(*fronts[::-1], 0.01)
    late = verdict.frontier(column(verdict, "c", 0.5, 1e6).rows, "c")  # begins when all has ended
    assert not verdict.lower(late, fronts[0], 0.01) and not verdict.lower(fronts[0], late, 0.01)
    x, y = fronts[0]
    assert (np.diff(y) <= 0).all() and (np.diff(x) > 0).all()


def test_hours_are_steps_times_the_step_alone(verdict: Any, tmp_path: Path) -> None:
    def row(key: str, n: int, ms: float, atoms: int = 1400) -> dict[str, Any]:
        return {"key": key, "atoms": atoms, "N": n, "ms": ms}

    rows = [
        row(f"{NEQUIP} conservative eager", 1_000_000, 117.0),
        row(f"{NEQUIP} conservative eager", 1_000_000, 500.0, atoms=8192),
        row(f"{NEQUIP} conservative compiled", 1_000_000, 7.0),
        row("painn conservative eager", 1_000_000, 3.0),
        {"key": "mpnn direct eager", "atoms": 1400, "error": "bad"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    times = verdict.Times([tmp_path])
    one = column(verdict, "NequIP", 1.0, 1.0)
    verdict.with_hours(one, times)
    assert one.rows["hours"].to_list() == pytest.approx((one.rows["step"] * 0.117 / 3600).to_list())
    fast = verdict.Times([tmp_path], compiled=True)
    assert fast.seconds(one, 30_000, 2, 1e9) == pytest.approx(0.007)
    ours = verdict.Column("PaiNN", "painn", "conservative", one.rows)
    large, small = (times.seconds(ours, n, 4, f) for n, f in ((1_000_000, 2e10), (30_000, 6e8)))
    assert large == pytest.approx(0.003) and 0.0001 < small < 0.003
    unknown = verdict.Column("MPNN", "mpnn", "direct", one.rows)
    assert math.isnan(times.seconds(unknown, 30_000, 2, 1e9))


def test_what_was_spent_when_a_loss_was_first_reached(verdict: Any, capsys: Any) -> None:
    verdict.reached([column(verdict, "a", 1.0, 1.0)], "c")
    head, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(head.split()[5:], row.split()[1:]))
    # from .631 at a cost of 100 to .347 at 4e4, and cost ** -.1 on the way
    assert cells["0.7"] == "<1e+02" and cells["0.3"] == "-"
    assert float(cells["0.5"]) == pytest.approx(0.5**-10, rel=0.1)


def test_costs_with_pointwise_work_are_those_of_the_column_at_its_size(verdict: Any) -> None:
    one = column(verdict, "a", 1.0, 1.0)
    rows = [
        {"label": label, "N": n, "factor": factor, "counted": counted}
        for label, n, factor, counted in (
            ("a", 30_000, 3.0, 2.0),
            ("a", 300_000, 1.5, 1.0),
            ("b", 3_000_000, 9.0, 1.0),
        )
    ]
    verdict.with_pointwise(one, rows)
    for n, factor, counted in ((30_000, 3.0, 2.0), (300_000, 1.5, 1.0)):
        own = one.rows.filter(pl.col("n") == n)
        assert own["c_pointwise"].to_list() == pytest.approx((own["c"] * factor).to_list())
        assert own["c_measured"].to_list() == pytest.approx((own["c"] * factor / counted).to_list())
    last = one.rows.filter(pl.col("n") == 3_000_000)
    assert last["c_pointwise"].is_nan().all() and last["c_measured"].is_nan().all()
    x, _ = verdict.frontier(one.rows, "c_pointwise")
    assert x[0] == pytest.approx(math.log(300.0))
