"""The sample pack that ships with the package."""

import shlex

import numpy as np
import pytest

from forcelaw.data.pack import Pack, sample_path
from forcelaw.files import file_sha256


@pytest.fixture(scope="module")
def sample() -> Pack:
    return Pack(sample_path())


def per_structure(pack: Pack, values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, pack.offsets[:-1], axis=0)


def test_size(sample):
    assert sample.atoms >= 200_000
    assert sum(path.stat().st_size for path in sample.path.iterdir()) <= 4_000_000
    sizes = np.diff(sample.offsets)
    assert sizes.min() >= 3 and sizes.max() <= 50 and 17 < sizes.mean() < 23
    assert set(np.unique(sample.numbers)) == {1, 6, 7, 8, 9, 15, 16, 17, 35}


def test_arrays_are_those_of_the_manifest(sample):
    for name, spec in sample.manifest["arrays"].items():
        assert file_sha256(sample.path / f"{name}.npy") == spec["sha256"], name


def test_command_is_quoted(sample):
    words = shlex.split(sample.manifest["command"])
    assert words[:3] == ["forcelaw", "data", "generate"]
    assert words[words.index("--count") + 1] == str(len(sample))
    assert words[words.index("--seed") + 1] == "0" and not words[
        words.index("--out") + 1
    ].startswith("/")
    assert sample.manifest["generator"]["distribution"]["max_force"] == 20


def test_forces(sample):
    forces = sample.vectors("forces", slice(None))
    norms = np.linalg.norm(forces, axis=1)
    assert 1.0 < norms.mean() < 2.5
    assert norms.max() < 20.001  # they were judged before they were rounded to 0.001
    # a gradient of an isolated molecule sums to zero; each component was rounded by at most 0.0005
    net = np.abs(per_structure(sample, forces))
    assert (net.max(axis=1) < 0.0005 * np.diff(sample.offsets) + 1e-3).all()


def test_energies_follow_the_references(sample):
    sizes = np.diff(sample.offsets)
    residual = sample.energies - per_structure(sample, sample.reference_energies()[sample.numbers])
    train = sample.split == 0
    spread = sample.manifest["statistics"]["energy_per_atom_sd"]
    assert (residual[train] / sizes[train]).std() == pytest.approx(spread, rel=1e-6)
    assert (residual / sizes).std() < 0.2
    assert np.abs(residual / sizes).max() < 2.0


def test_no_molecule_straddles_the_split(sample):
    sides = [set(sample.groups[sample.split == side].tolist()) for side in (0, 1)]
    assert not sides[0] & sides[1]
    assert (sample.split == 1).sum() >= 800
    assert 0.08 < len(sides[1]) / len(sides[0] | sides[1]) < 0.12
    assert set(sample.numbers[np.repeat(sample.split == 1, np.diff(sample.offsets))]) == set(
        np.unique(sample.numbers)
    )


def test_orientations_are_uniform(sample):
    """Mean squared x, y and z of centred structures are equal within four standard errors
    (embedders leave 7:2:1)."""
    positions = sample.vectors("positions", slice(None))
    sizes = np.diff(sample.offsets)[:, None]
    assert np.abs(per_structure(sample, positions) / sizes).max() < 1e-3
    second = per_structure(sample, positions**2) / sizes
    for a, b in ((0, 1), (1, 2), (2, 0)):
        difference = second[:, a] - second[:, b]
        assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    mixed = per_structure(sample, positions[:, [0, 1, 2]] * positions[:, [1, 2, 0]]) / sizes
    assert (np.abs(mixed.mean(axis=0)) < 4 * mixed.std(axis=0) / np.sqrt(len(mixed))).all()


def test_structures_are_distinct_and_atoms_apart(sample):
    positions = sample.vectors("positions", slice(None))
    assert len(np.unique(sample.energies)) == len(sample)
    closest = []
    for k in range(0, len(sample), 20):
        x = positions[sample.offsets[k] : sample.offsets[k + 1]]
        distance = np.linalg.norm(x[:, None] - x, axis=-1)
        closest.append(distance[np.triu_indices(len(x), 1)].min())
    assert min(closest) > 0.7 and max(closest) < 1.8


def test_the_first_structures_are_what_the_command_makes(sample):
    """The shipped arrays belong to the code in the tree: the head of the pack, made anew."""
    pytest.importorskip("rdkit", reason="rdkit is in the extra 'generate'")
    pytest.importorskip("tblite", reason="tblite is in the extra 'generate'")
    from collections import Counter
    from importlib.metadata import version
    from itertools import islice

    from forcelaw.data.generate.molecules import drawn
    from forcelaw.data.generate.options import Distribution
    from forcelaw.data.generate.worker import compute

    for name, made in sample.manifest["generator"]["versions"].items():
        if version(name) != made:
            pytest.skip(f"the sample was made with {name} {made}, here is {version(name)}")
    arrays = compute([list(m) for m in islice(drawn(0, Counter()), 12)], 0, Distribution())
    s, atoms = len(arrays["counts"]), len(arrays["numbers"])
    assert sample.numbers[:atoms].tolist() == arrays["numbers"].tolist()
    np.testing.assert_allclose(
        sample.vectors("positions", slice(0, atoms)), arrays["positions"], atol=1.1e-3
    )
    np.testing.assert_allclose(sample.energies[:s], arrays["energies"], atol=1e-2)
    np.testing.assert_array_equal(sample.groups[:s], arrays["groups"])
