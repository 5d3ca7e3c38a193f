"""Small parts: numbers in words, colours, the paper's numbers, interpolation, the words of the
summary."""

from __future__ import annotations

import math
from types import SimpleNamespace

import polars as pl
import pytest

from forcelaw.figures.matplotlib import log_ticks
from forcelaw.figures.style import DARK, looks
from forcelaw.figures.text import decimal, names, pretty
from forcelaw.laws.fit.result import Estimate, FitResult
from forcelaw.laws.forms import Surface
from forcelaw.report import summary
from forcelaw.report.frontiers import FrontierOutcome, envelope
from forcelaw.report.outcome import Outcome
from forcelaw.report.paper import published
from forcelaw.report.sections.data import regime
from forcelaw.report.sections.sweep import Sweep, end_of_sweep, short_sweeps, tolerance
from forcelaw.report.series import loss_at_data
from forcelaw.table.runs import Runs


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (12.34, "12.3"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (2.5e6, "2.5M"),
        (999_999, "1M"),
        (130e6, "130M"),
        (1.2e12, "1.2e12"),
        (3e-7, "3e-7"),
        (None, "-"),
        (math.nan, "-"),
        (-0.25, "-0.25"),
        (1e13, "1e13"),
    ],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert pretty(value) == text


def test_fewer_digits_never_give_an_exponent_before_a_unit() -> None:
    assert pretty(134e6, 2) == "130M" and pretty(999_600, 2) == "1M" and pretty(3.7e5, 2) == "370k"
    assert pretty(0.03243, 2) == "0.032" and pretty(13.4, 2) == "13"


def test_colours_are_distinct_and_stay_with_their_family() -> None:
    ladder = [
        ("MPNN", "mpnn"),
        ("PaiNN", "painn"),
        ("eSEN L2", "esen"),
        ("eSEN L4", "esen"),
        ("MC-EGNN", "egnn"),
    ]
    all_looks = looks(ladder)
    assert (
        len({look.colour for look in all_looks.values()})
        == len({look.symbol for look in all_looks.values()})
        == 5
    )
    alone = looks([("anything", "egnn")])
    assert alone["anything"].colour == all_looks["MC-EGNN"].colour
    own = looks([("PaiNN", "painn"), ("Mine", "mine")])["Mine"].colour
    assert own not in ("#3f8fc4", "#5b4ea8")  # a blue beside PaiNN's
    many = looks([(f"a{i}", "new") for i in range(25)]).values()
    assert len({look.colour for look in many}) == len({look.dark for look in many}) == 25
    assert [look.colour for look in many][: len(DARK)] == [
        look.colour for look in looks([(f"a{i}", "new") for i in range(len(DARK))]).values()
    ]
    for look in many:
        assert _contrast(look.colour, "#ffffff") > 3 and _contrast(look.dark, "#14161a") > 3
    depths = looks(
        [(f"{name} {k}", name) for name in ("mpnn", "painn", "esen") for k in (3, 1, 2, 4, 6)]
    )
    assert (
        len({look.colour for look in depths.values()})
        == len({look.dark for look in depths.values()})
        == 15
    )
    assert depths["painn 3"].colour == all_looks["PaiNN"].colour  # the others are shades of it
    for look in depths.values():
        assert _contrast(look.colour, "#ffffff") > 3 and _contrast(look.dark, "#14161a") > 3


def _contrast(colour: str, ground: str) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(text: str) -> float:
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(colour), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_on_both_pages() -> None:
    for light, dark in DARK.items():
        assert (
            _contrast(light, "#ffffff") >= 3 and _contrast(dark, "#14171c") >= 3
        )  # WCAG 1.4.11, graphical objects


@pytest.mark.parametrize(
    ("names_", "gamma"),
    [
        (("mpnn", "MPNN"), 0.14),
        (("egnn", "MC-EGNN"), 0.17),
        (("gemnet_oc", "GemNet-OC"), 0.25),
        (("esen", "eSEN L4"), 0.40),
        (("esen", "eSEN L2"), 0.35),
        (("esen", "eSEN"), 0.40),
        (("painn", "PaiNN"), None),
        (("mpnn", "MPNN edge MLP"), None),
        (("mpnn", "MPNN edges"), None),
        (("mpnn", "MPNN 1%"), None),
        (("mpnn", "MPNN M=1"), None),
        (("esen", "eSEN untied"), None),
        (("esen", "eSEN L1"), None),
        (("x", "y"), None),
    ],
)
def test_the_paper_is_quoted_for_its_own_architectures_only(
    names_: tuple[str, str], gamma: float | None
) -> None:
    found = published(*names_)
    assert (found.gamma_c if found else None) == gamma


def test_loss_between_two_evaluations_is_exact_for_a_power_law() -> None:
    ds = [1e4, 3e4, 1e5, 7e5]
    rows = pl.DataFrame({"d": ds, "loss": [2 * d**-0.3 for d in ds]})
    for d in (1e4, 2e4, 9.9e4, 5e5, 7e5):
        assert loss_at_data(rows, d) == pytest.approx(2 * d**-0.3, rel=1e-9)
    assert loss_at_data(rows, 8e5) is None and loss_at_data(rows, 9e3) is None


def test_loss_at_compute_is_not_extrapolated() -> None:
    found = FrontierOutcome(envelope=[(x, x**-0.2) for x in (1e9, 1e10, 1e12)])
    assert found.loss_at(3e11) == pytest.approx(3e11**-0.2, rel=1e-9)
    assert found.loss_at(9e8) is None and found.loss_at(1.1e12) is None


def test_runs_of_one_evaluation_are_compared_at_equal_compute() -> None:
    rows = [
        {"run": f"{n:g} {d:g}", "n": n, "d": d, "c": 6 * n * d, "loss": n**-0.3 + d**-0.2}
        for n in (1e3, 1e4)
        for d in (1e5, 1e6, 1e7)
    ]
    found = dict(envelope(Runs.from_frame(pl.DataFrame(rows)), "c"))
    assert min(found) == pytest.approx(6e8) and max(found) == pytest.approx(6e11)
    shared = [row for row in rows if row["c"] == 6e9]  # the small one saw more and is lower there
    assert min(found.items(), key=lambda at: abs(math.log(at[0] / 6e9)))[1] == pytest.approx(
        min(row["loss"] for row in shared), rel=0.02
    )


def test_regime_names_what_limits() -> None:
    frame = pl.DataFrame({"d": [1e6, 1e6], "n": [1_000, 1_000_000], "u": [1e6, 1e6]})

    def fitted(a: float, b: float) -> Outcome[FitResult]:
        values = {"alpha": 0.5, "beta": 0.5, "A": a, "B": b}
        parameters = {name: Estimate(value) for name, value in values.items()}
        return Outcome(FitResult(Surface(), "ok", parameters=parameters))

    # at D = 1e6 the data term is B/1000, the size term A/31.6 for the small and A/1000 for the
    # large model
    assert "size limits the whole ladder" in regime(frame, fitted(10, 1), "atoms")
    assert "the small ones are limited by size, the large ones by steps or data" in regime(
        frame, fitted(1, 10), "atoms"
    )
    assert "steps or data limit the whole ladder" in regime(frame, fitted(1, 100), "atoms")
    assert regime(frame, Outcome(None, "no"), "atoms") == ""


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ({1e-3: 0.5, 2e-3: 0.4, 4e-3: 0.38}, "5%"),  # still falling at the largest
        ({1e-3: 0.38, 2e-3: 0.4, 4e-3: 0.5}, "5%"),  # and at the smallest
        ({1e-3: 0.5, 2e-3: 0.4, 4e-3: 0.45}, None),
        ({1e-3: 0.5, 2e-3: 0.4, 4e-3: None}, None),  # the next one diverged: there is no "beyond"
        ({1e-3: None, 2e-3: None}, None),
        ({2e-3: 0.4}, None),
    ],
)
def test_a_sweep_that_ends_too_early_is_said(
    losses: dict[float, float | None], said: str | None
) -> None:
    points = [
        {
            "lr": lr,
            "loss": loss,
            "status": "diverged" if loss is None else "finished",
            "left": {},
        }
        for lr, loss in losses.items()
    ]
    words = end_of_sweep([Sweep("PaiNN", points, [])])
    assert (
        (words == [])
        if said is None
        else ("PaiNN" in words[0] and f"gained {said} of the loss" in words[0])
    )


@pytest.mark.parametrize(("longest", "said"), [(9e5, False), (1.2e6, True)])
def test_sweeps_of_runs_that_are_much_shorter_are_said(longest: float, said: bool) -> None:
    """The longest swept run that ended counts, and the longest run of that architecture."""
    points = [
        {"lr": lr, "loss": loss, "d": d}
        for lr, loss, d in ((1, 0.5, 1e5), (2, 0.4, 5e4), (3, 0, 2e5))
    ]
    grid = pl.DataFrame(
        {"architecture": ["PaiNN", "PaiNN", "MPNN"], "d": [1e5, longest, 1e9], "loss": [1.0] * 3}
    )
    words = short_sweeps(SimpleNamespace(grid=grid), [Sweep("PaiNN", points, [])])
    assert words == [] or ("PaiNN see 12 times" in words[0] and said)
    assert bool(words) == said


def test_the_chosen_rate_is_the_best_mean_without_divergence() -> None:
    def point(lr: float, loss: float | None, status: str = "finished") -> dict:
        return {"lr": lr, "loss": loss, "status": status, "left": {}}

    points = [
        point(1e-3, 0.9),
        point(1e-3, 0.5),
        point(2e-3, 0.65),
        point(2e-3, 0.65),
        point(4e-3, 0.1),
        point(4e-3, None, "diverged"),
    ]
    assert Sweep("x", points, []).best == 2e-3
    assert Sweep("x", [point(1e-3, None, "diverged")], []).best is None
    assert Sweep("x", [], []).best is None


def test_the_rate_that_is_ringed_is_the_one_that_the_study_takes() -> None:
    """data_limited takes the smallest rate within 2% of the lowest loss; its report used to ring
    the lowest."""
    points = [
        {
            "lr": lr,
            "loss": loss,
            "status": "finished",
            "diverged": False,
            "left": {},
            "run": "r",
            "n": 1,
            "seed": 0,
        }
        for lr, loss in ((2e-3, 0.5), (4e-3, 0.404), (8e-3, 0.4))
    ]
    for study, chosen in (
        ({}, 8e-3),
        ({"study": {"learning_rate": {"value": 1e-3, "sweep": None}}}, 8e-3),
        ({"study": {"learning_rate": {"sweep": {"within": 0.02}}}}, 4e-3),
    ):
        result = Sweep("PaiNN", points, [], tolerance(study))
        assert (result.best, result.chosen) == (8e-3, chosen)


def test_ticks_lie_inside_and_read_well() -> None:
    values, labels = log_ticks(2e9, 3e14)
    assert labels == ["10¹⁰", "10¹¹", "10¹²", "10¹³", "10¹⁴"] and values == [
        1e10,
        1e11,
        1e12,
        1e13,
        1e14,
    ]
    assert log_ticks(0.15, 1.3)[1] == ["0.2", "0.5", "1"]


def test_lists_in_words() -> None:
    assert names([]) == "" and names(["A"]) == "A" and names(["A", "B", "C"]) == "A, B and C"


@pytest.mark.parametrize(
    "value, text",
    [
        (0.35, "0.350"),
        (-12.0, "-12.000"),
        (99.0, "99.000"),
        (377.63, "380"),
        (5.9e8, "590M"),
        (6e11, "6e11"),
    ],
)
def test_exponents_beyond_any_meaning_are_short(value: float, text: str) -> None:
    assert decimal(value, 3) == text


def test_pairs_at_equal_compute_are_promised_where_there_are_some(monkeypatch) -> None:
    monkeypatch.setattr(summary, "equal_compute", lambda *_: [])
    for costs, said in (({}, "equal N and D are below"), ({"c": object()}, "pairs that share one")):
        pair = SimpleNamespace(costs=costs)
        pairs = SimpleNamespace(ratios=[pair])
        analysis = SimpleNamespace(fitted=[1, 2], comparison=pairs, has_compute=True)
        assert said in summary.headline(analysis)
