"""Conformers and labels against the Haar measure, tblite's own ASE calculator, finite
differences."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="rdkit is in the extra 'generate'")
pytest.importorskip("tblite", reason="tblite is in the extra 'generate'")

from ase import Atoms
from ase.geometry.analysis import Analysis
from scipy.stats import kstest

from forcelaw.cli.main import build_parser
from forcelaw.cli.options import from_options
from forcelaw.data.generate.assemble import command
from forcelaw.data.generate.conformers import conformers, random_rotation
from forcelaw.data.generate.label import label
from forcelaw.data.generate.options import Distribution, GenerateOptions
from forcelaw.data.generate.worker import compute

D = Distribution()


def test_rotations_are_uniform():
    """The angle of a rotation uniform on SO(3) has the density (1 - cos t)/pi, its axis is uniform
    on the sphere."""
    rng = np.random.default_rng(0)
    matrices = np.array([random_rotation(rng) for _ in range(4000)])
    squares = matrices @ matrices.transpose(0, 2, 1)
    np.testing.assert_allclose(squares, np.broadcast_to(np.eye(3), squares.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-12)
    angles = np.arccos(np.clip((np.trace(matrices, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert kstest(angles, lambda t: (t - np.sin(t)) / np.pi).pvalue > 0.01
    for row in (
        0,
        1,
        2,
    ):  # by Archimedes each component of a uniform unit vector is uniform in [-1, 1]
        assert kstest(matrices[:, row, 2], "uniform", args=(-1, 2)).pvalue > 0.01


def test_conformers_are_centred_rounded_and_repeatable():
    numbers, found = conformers("CCO", np.random.default_rng(7), D)
    assert len(found) == 3 and sorted(numbers) == [1] * 6 + [6] * 2 + [8]
    for x in found:
        assert np.abs(x.mean(axis=0)).max() < 1e-3
        np.testing.assert_allclose(x * 1000, np.rint(x * 1000), atol=1e-9)
        bonds = Analysis(Atoms(numbers, x)).unique_bonds[0]
        assert sum(len(b) for b in bonds) == 8  # the molecule is still itself
    again = conformers("CCO", np.random.default_rng(7), D)[1]
    other = conformers("CCO", np.random.default_rng(8), D)[1]
    assert all((a == b).all() for a, b in zip(found, again))
    assert not any((a == b).all() for a, b in zip(found, other))


def test_displacement_is_what_is_declared():
    """Relaxed and not displaced, a bond has one length; displacement widens it by a known
    amount."""

    def lengths(displacement):
        d = Distribution(conformers=200, unrelaxed=0, partly=0, displacement=displacement)
        numbers, found = conformers("CC", np.random.default_rng(1), d)
        carbons = np.flatnonzero(numbers == 6)
        return np.array([np.linalg.norm(x[carbons[0]] - x[carbons[1]]) for x in found])

    still, moved = lengths(0.0), lengths(0.05)
    assert still.std() < 0.005
    # variance of the difference along the bond: 2 E[(s u)^2] = 2 s^2 / 3
    assert moved.std() == pytest.approx(0.05 * np.sqrt(2 / 3), rel=0.25)


def test_partly_relaxed_with_a_fixed_number_of_steps():
    """Twenty steps are twenty steps, whichever part of the conformers they are for."""
    both = {"conformers": 4, "unrelaxed": 0, "partly_steps": 20}
    partly = Distribution(**both, partly=1)
    rest = Distribution(**both, partly=0, relaxed_steps=20)
    found = [conformers("CCCO", np.random.default_rng(2), d)[1] for d in (partly, rest)]
    assert len(found[0]) == 4 and all((a == b).all() for a, b in zip(*found, strict=True))


def test_a_component_above_the_limit_drops_the_structure():
    molecules = [["CCO", "CCO"]]
    whole = compute(molecules, 3, Distribution(conformers=6))
    largest = np.abs(whole["forces"]).reshape(6, -1).max(axis=1)
    limit = float(np.median(largest))
    kept = compute(molecules, 3, Distribution(conformers=6, max_component=limit))
    below = largest <= limit
    assert 0 < below.sum() < 6 and kept["energies"].tolist() == whole["energies"][below].tolist()
    reason = f"component of a force above {limit:g} eV/Angstrom"
    assert json.loads(str(kept["failures"])) == {reason: int((~below).sum())}


def test_the_command_in_the_manifest_has_every_option_of_the_distribution():
    given = GenerateOptions(out=Path("p"), workers=1, displacement=0.09, max_component=20)
    words = command(given).split()[1:]
    args = build_parser(["data"]).parse_args(words)
    assert from_options(GenerateOptions, args) == given


def test_molecule_without_conformer_gives_an_empty_list():
    numbers, found = conformers(
        "C1#CC1", np.random.default_rng(0), D
    )  # a triple bond in a ring of three
    assert len(numbers) == 5 and found == []


@pytest.mark.parametrize("smiles", ["CP(=O)(O)CBr", "Clc1ccsc1F"])
def test_labels_agree_with_the_ase_calculator(smiles):
    from tblite.ase import TBLite

    numbers, found = conformers(smiles, np.random.default_rng(3), Distribution(conformers=1))
    energy, forces = label(numbers, found[0])
    atoms = Atoms(
        numbers, found[0], calculator=TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
    )
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=2e-8)  # ASE has CODATA 2014
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=2e-4)


def test_forces_are_minus_the_gradient():
    numbers, found = conformers("OCC#N", np.random.default_rng(4), Distribution(conformers=1))
    x, h = found[0], 2e-3
    _, forces = label(numbers, x)
    for atom, axis in ((0, 0), (1, 1), (3, 2), (5, 0)):
        step = np.zeros_like(x)
        step[atom, axis] = h
        up, down = label(numbers, x + step)[0], label(numbers, x - step)[0]
        assert -(up - down) / (2 * h) == pytest.approx(forces[atom, axis], abs=2e-3)


def test_failed_scf_is_none():
    """Two hydrogens on top of each other have no SCF."""
    assert (
        label(np.array([1, 1, 8], np.uint8), np.array([[0.0, 0, 0], [1e-8, 0, 0], [0.9, 0, 0]]))
        is None
    )
