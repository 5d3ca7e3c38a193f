"""Total charge and spin multiplicity: seen by every architecture, without loss of symmetry, and
not there at all where they are off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from torch.utils.flop_counter import FlopCounterMode

import forcelaw
from forcelaw.data.device_dataset import Shard
from forcelaw.data.pack import Pack, PackWriter
from forcelaw.errors import DataError, NotConservativeWarning
from forcelaw.models import ARCHITECTURES, build
from tests.models.configs import Variant, conservative_variants, direct_variants, small_config
from tests.models.tools import (
    fresh_model,
    make_graph,
    moved,
    padded,
    random_rotation,
    run,
)
from tests.molecules import random_cluster
from tests.packs import write_pack

STATES = {"charges": (-1, 0, 2), "spins": (1, 3)}
MOLS = [random_cluster(7, 11), random_cluster(7, 11), random_cluster(9, 12)]
names = pytest.mark.parametrize("name", ARCHITECTURES)


def with_states(graph, charge=(0, 2, 1), spin=(0, 1, 1)):
    return replace(graph, charge=torch.tensor(charge), spin=torch.tensor(spin))


def charged(name, **options):
    return fresh_model(Variant(f"{name}-charged", name, {**STATES, **options}))


@names
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_states_are_told_apart_and_rotate_with_nothing(name, forces):
    model, graph = charged(name, forces=forces), make_graph(MOLS)
    energy, f = run(model, with_states(graph))
    assert abs(energy[0] - energy[1]) > 1e-4  # the same molecule in two states
    assert np.abs(f[:7] - f[7:14]).max() > 1e-5
    for change in ({"charge": (0, 1, 1)}, {"spin": (0, 0, 1)}):
        other, _ = run(model, with_states(graph, **change))
        # no other structure is touched; products of padded rows may round otherwise
        assert np.allclose(other[[0, 2]], energy[[0, 2]], rtol=1e-13, atol=0.0)
        assert abs(other[1] - energy[1]) > 1e-4
    if ARCHITECTURES[name].symmetry == "none":
        return
    turn = random_rotation(3)
    energy2, f2 = run(model, with_states(make_graph(moved(MOLS, turn))))
    assert np.allclose(energy2, energy, rtol=1e-11)
    assert np.abs(f2 - f @ turn.T).max() < 1e-9 * (1 + np.abs(f).max())


@names
def test_padding_changes_nothing(name):
    model, graph = charged(name), make_graph(MOLS)
    energy, f = run(model, with_states(graph))
    full = padded(graph, 5, 17, 2)
    full = replace(full, charge=torch.tensor([0, 2, 1, 0, 0]), spin=torch.tensor([0, 1, 1, 0, 0]))
    energy2, f2 = run(model, full)
    assert np.allclose(energy2[:3], energy, rtol=1e-10) and np.allclose(f2[:23], f, atol=1e-10)


@names
def test_off_they_are_not_there_and_on_they_cost_no_flops(name):
    plain, config = small_config(name), small_config(name, **STATES)
    assert not {"charges", "spins"} & plain.model_dump().keys()
    model, other = build(plain, 0), build(config, 0)
    added = dict(other.named_parameters()).keys() - dict(model.named_parameters()).keys()
    assert added == {"charges.weight", "spins.weight"}
    assert other.n_parameters() - model.n_parameters() == 5 * config.embedding_width
    assert other.n_nonembedding() == model.n_nonembedding()
    flops = ARCHITECTURES[name].flops
    assert flops(config) == flops(plain)
    graph, counts = make_graph(MOLS, torch.float32), []
    for each in (model, other):
        with FlopCounterMode(display=False) as counter:
            each(with_states(graph))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_every_variant_keeps_its_configuration():
    for variant in (*direct_variants(), *conservative_variants()):
        content = small_config(variant.name, **variant.options).model_dump(mode="json")
        assert "charges" not in content and "spins" not in content


@pytest.fixture(scope="module")
def ions(tmp_path_factory):
    """A pack in which energies depend on the charge alone, through a constant."""
    folder = tmp_path_factory.mktemp("ions")
    plain = write_pack(folder / "plain")
    charges = np.random.default_rng(0).choice([-1, 0, 1], len(plain)).astype(np.int8)
    with PackWriter(folder / "pack", charges=True) as writer:
        writer.append(
            np.diff(plain.offsets),
            **{name: getattr(plain, name) for name in ("numbers", "positions", "groups", "split")},
            forces=np.zeros_like(plain.forces),
            energies=1.5 * charges * np.diff(plain.offsets),
            charges=charges,
            spins=np.ones(len(plain), np.int8),
        )
        manifest = {key: plain.manifest[key] for key in ("elements", "statistics", "split")}
        writer.finish({**manifest, "references": {"energies": {"1": 0.0, "6": 0.0, "8": 0.0}}})
    return Pack(folder / "pack")


SMALL = {"size": 3e3, "epochs": 50, "depth": 1, "cutoff": 3.0, "batch_molecules": 4}
SMALL |= {"evaluations": 3, "validation_structures": 8, "learning_rate": 1e-2}


def test_what_only_the_charge_explains_is_learned(ions, tmp_path):
    with pytest.raises(DataError) as caught:
        forcelaw.train("painn", data=ions.path, out=tmp_path, **SMALL)
    assert "--charge-spin" in caught.value.remedy
    made = forcelaw.train("painn", data=ions.path, out=tmp_path, charge_spin=True, **SMALL)
    assert made.spec["model"]["charges"] == [-1, 0, 1] and made.spec["model"]["spins"] == [1]
    assert made.metrics["energy_mae"][-1] < 250  # 1.5 eV times the charge: about 1000 without it
    k = int(np.argmax(np.diff(ions.offsets)))
    rows = slice(*ions.offsets[k : k + 2])
    ion = Atoms(ions.numbers[rows], ions.positions[rows], info={"charge": 1, "spin": 1})
    other = Atoms(ion.numbers, ion.positions, info={"charge": -1})
    energies = made.predict([ion, other]).energies
    assert 1.5 < (energies[0] - energies[1]) / len(ion) < 4.5  # it is 3 eV/atom
    with pytest.warns(NotConservativeWarning):
        ion.calc = forcelaw.Calculator(made.path)
    assert ion.get_potential_energy() == pytest.approx(energies[0], abs=1e-4)
    ion.info["charge"] = -1  # nothing that ASE itself compares has changed
    assert ion.get_potential_energy() == pytest.approx(energies[1], abs=1e-4)
    assert not ion.calc.calculation_required(ion, ["energy"])
    found = made.evaluate(ions.path).as_json()
    assert found["energy"]["mae"] < 250 < found["no_model"]["energy"]["mae"] / 3
    with pytest.raises(DataError, match="charge 2"):
        made.predict([Atoms("C", info={"charge": 2})])
    for value in (0.5, float("nan"), "one", None):
        with pytest.raises(DataError, match="whole number"):
            made.predict([ion, Atoms("C", info={"charge": value})])


def test_a_shard_carries_the_states(ions):
    shard = Shard(ions, np.arange(8), cutoff=3.0, elements=(1, 6, 8), charges=(-1, 0, 1))
    rows = torch.tensor([5, -1, 2])
    graph, _ = shard.batch(rows, 40, 400, pad=True)
    assert graph.spin is None
    assert (graph.charge[[0, 2]] - 1).tolist() == ions.charges[[5, 2]].tolist()
    with pytest.raises(DataError):
        Shard(ions, np.arange(8), cutoff=3.0, elements=(1, 6, 8), charges=(0, 1))


def test_data_without_states_are_refused(tmp_path):
    pack = write_pack(tmp_path / "pack")
    with pytest.raises(DataError):
        forcelaw.train("painn", data=pack.path, out=tmp_path, charge_spin=True, **SMALL)
