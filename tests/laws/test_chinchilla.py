"""Besiroglu et al. 2024 (arXiv 2404.10102): 240 language models of Hoffmann et al. 2022, and what
others found in them. Collected only where their table is at hand."""

import pytest

from forcelaw.laws.diagnose.holdout import holdout
from forcelaw.laws.fit.fit import fit
from forcelaw.table.runs import Runs
from tests.reference import laws_slow
from tests.shared_data import shared


@pytest.fixture(scope="module")
def chinchilla():
    return Runs.from_frame(shared("chinchilla_epoch245.csv"), where="epoch_fit_included == 1")


def test_the_published_optimum(chinchilla):
    """That of the sum of Huber(1e-3) of log residuals."""
    result = fit(chinchilla, delta=1e-3, interval="none")
    assert len(chinchilla) == 240 and result.status == "ok"
    assert result.objective == pytest.approx(1.018274e-3, abs=1e-8)
    assert result["alpha"].value == pytest.approx(0.3473, abs=5e-4)
    assert result["beta"].value == pytest.approx(0.3672, abs=5e-4)
    assert result["E"].value == pytest.approx(1.8172, abs=1e-3)
    assert result.diagnostics["gradient"] < 1e-6 and result.diagnostics["starts_agreeing"] >= 3
    direct = laws_slow.predict(
        "surface",
        {name: one.value for name, one in result.parameters.items()},
        {"n": chinchilla["n"], "d": chinchilla["d"]},
    )
    assert result.objective == pytest.approx(
        laws_slow.rho("huber", direct, chinchilla["loss"], 1e-3).sum(), rel=1e-10
    )


@pytest.mark.parametrize("cluster", ["run", None])
def test_the_published_bootstrap_errors(chinchilla, cluster):
    result = fit(chinchilla, delta=1e-3, cluster=cluster)
    assert result.method.startswith("bootstrap")
    assert result["alpha"].se == pytest.approx(0.0149, rel=0.1)
    assert result["beta"].se == pytest.approx(0.0206, rel=0.1)
    assert result["a"].se == pytest.approx(0.020, rel=0.1)


@pytest.mark.parametrize("objective, beta", [("log", 0.406), ("linear", 0.428)])
def test_the_objective_matters(chinchilla, objective, beta):
    """Values found once by another code, with many starts, on the same points."""
    result = fit(chinchilla, objective=objective, interval="none")
    assert result["beta"].value == pytest.approx(beta, abs=1e-3)


def test_it_does_not_hold_out(chinchilla):
    """Only two thirds of the 56 largest are inside: it must not be called a success."""
    found = holdout(chinchilla, fit(chinchilla, interval="jackknife"))
    assert found.passed is False and "37 (66%)" in found.detail
