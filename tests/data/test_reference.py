"""Reference energies against numpy.linalg.lstsq on the whole design matrix, and rational
arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from forcelaw.data.reference import (
    ReferenceAccumulator,
    baseline,
    composition,
    without_model,
)
from forcelaw.errors import DataError
from tests.packs import write_pack


def sample(structures, elements, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 40, structures)
    numbers = rng.choice(elements, counts.sum()).astype(np.uint8)
    energies = np.zeros(119)
    energies[elements] = -scale * rng.uniform(10, 3000, len(elements))
    table = np.zeros((structures, 119))
    for k, part in enumerate(np.split(numbers, np.cumsum(counts)[:-1])):
        for z in part:
            table[k, z] += 1
    return counts, numbers, table, table @ energies + 0.05 * counts * rng.normal(size=structures)


def fit(counts, numbers, energies, block=97):
    out, ends = ReferenceAccumulator(), np.concatenate([[0], np.cumsum(counts)])
    for start in range(0, len(counts), block):
        stop = min(start + block, len(counts))
        out.add(counts[start:stop], numbers[ends[start] : ends[stop]], energies[start:stop])
    return out, out.solve()


def test_composition_counts_atoms():
    counts, numbers, table, _ = sample(50, [1, 6, 118])
    assert (composition(counts, numbers) == table).all()


@pytest.mark.parametrize("block", [1, 97, 10**6])
def test_matches_lstsq(block):
    elements = [1, 6, 7, 8, 17]
    counts, numbers, table, energies = sample(800, elements)
    accumulator, got = fit(counts, numbers, energies, block)
    expected = np.linalg.lstsq(table[:, elements], energies, rcond=None)[0]
    assert list(got) == elements
    np.testing.assert_allclose(list(got.values()), expected, rtol=1e-12)
    residual = (energies - table[:, elements] @ expected) / counts
    assert accumulator.rms_residual == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-9)
    assert accumulator.sd_per_atom == pytest.approx(residual.std(), rel=1e-9)
    assert accumulator.warnings == []
    assert (accumulator.element_counts == np.bincount(numbers, minlength=119)).all()


def test_element_that_comes_late():
    counts, numbers, _, energies = sample(300, [1, 6])
    late = sample(300, [1, 6, 8], seed=1)
    both = [
        np.concatenate([a, b])
        for a, b in zip((counts, numbers, energies), (late[0], late[1], late[3]))
    ]
    _, got = fit(*both, block=50)
    table = composition(both[0], both[1])[:, [1, 6, 8]]
    np.testing.assert_allclose(
        list(got.values()), np.linalg.lstsq(table, both[2], rcond=None)[0], rtol=1e-10
    )


def test_exact_energies_of_a_million_ev_come_back_to_a_microvolt():
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 40, 20000)
    numbers = rng.choice([1, 35, 53], counts.sum()).astype(np.uint8)
    true = {1: -13.587222780835477, 35: -70045.28123456789, 53: -188271.123456789}
    table = np.zeros(119)
    table[list(true)] = list(true.values())
    accumulator, got = fit(counts, numbers, baseline(counts, numbers, table), block=4096)
    for z, energy in true.items():
        assert got[z] == pytest.approx(energy, abs=1e-6)
    assert accumulator.rms_residual < 1e-7


def test_small_case_by_rational_arithmetic():
    # H2, CH4, C2H2 with energies -3, -20, -23: normal equations solved exactly
    rows, energies = [(2, 0), (4, 1), (2, 2)], [-3, -20, -23]
    a = (
        sum(Fraction(h * h) for h, _ in rows),
        sum(Fraction(h * c) for h, c in rows),
        sum(Fraction(c * c) for _, c in rows),
    )
    b = (
        sum(Fraction(h * e) for (h, _), e in zip(rows, energies)),
        sum(Fraction(c * e) for (_, c), e in zip(rows, energies)),
    )
    det = a[0] * a[2] - a[1] ** 2
    expected = (a[2] * b[0] - a[1] * b[1]) / det, (a[0] * b[1] - a[1] * b[0]) / det
    _, got = fit(
        np.array([2, 5, 4]),
        np.array([1, 1, 6, 1, 1, 1, 1, 6, 6, 1, 1], np.uint8),
        np.array(energies, float),
    )
    assert got[1] == pytest.approx(float(expected[0]), rel=1e-13) and got[6] == pytest.approx(
        float(expected[1]), rel=1e-13
    )


def test_single_molecule_gives_the_minimum_norm_solution_and_says_so():
    rng = np.random.default_rng(0)
    counts, numbers = np.full(200, 9), np.tile(np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], np.uint8), 200)
    energies = -4209.8 + rng.normal(size=200)
    accumulator, got = fit(counts, numbers, energies)
    expected = np.linalg.lstsq(np.tile([6.0, 2.0, 1.0], (200, 1)), energies, rcond=None)[0]
    np.testing.assert_allclose(list(got.values()), expected, rtol=1e-10)
    assert 6 * got[1] + 2 * got[6] + got[8] == pytest.approx(energies.mean(), rel=1e-12)
    assert len(accumulator.warnings) == 1 and "rank 1 of 3" in accumulator.warnings[0]
    assert accumulator.sd_per_atom == pytest.approx(energies.std() / 9, rel=1e-6)


def test_nothing_to_fit():
    with pytest.raises(DataError):
        ReferenceAccumulator().solve()


def test_errors_without_a_model(tmp_path):
    pack = write_pack(tmp_path / "pack")
    rows = np.flatnonzero(pack.split[:] == 1)
    table = {int(z): e for z, e in pack.manifest["references"]["energies"].items()}
    ends = pack.offsets[:]
    energies, forces = [], []
    for k in rows:
        numbers = pack.numbers[ends[k] : ends[k + 1]].tolist()
        energies.append(abs(pack.energies[k] - sum(table[z] for z in numbers)) / len(numbers))
        forces += pack.forces[ends[k] : ends[k + 1]].astype(float).tolist()
    found = without_model(pack, rows)
    assert found["loss_energy"] == pytest.approx(np.mean(energies))
    assert found["energy_mae"] == pytest.approx(1e3 * np.mean(energies))
    assert found["loss_forces"] == pytest.approx(np.linalg.norm(forces, axis=1).mean())
    assert found["force_mae"] == pytest.approx(1e3 * np.abs(forces).mean())
