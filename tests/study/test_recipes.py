"""Every recipe under studies/ is valid, its models exist, it says what it costs; its quick form has
its columns and is small."""

from pathlib import Path

import pytest

from forcelaw.data.pack import Pack, sample_path
from forcelaw.study.config import label_of, load
from forcelaw.study.plan import model_config, plan
from forcelaw.training.spec import summarise

STUDIES = Path(__file__).parents[2] / "studies"
FULL = sorted(p.name for p in STUDIES.glob("*.yaml") if p.name != "quickstart.yaml")
# FLOPs of the quick forms by two cores at a few GFLOP/s: some minutes
QUICK_FLOPS = 2e12


@pytest.fixture(scope="module")
def data():
    """The shipped sample, whatever data a recipe names: models and options are what is looked
    at."""
    return summarise(Pack(sample_path()))


@pytest.mark.parametrize("name", FULL)
def test_a_recipe_can_build_its_models_and_says_what_it_costs(name, data) -> None:
    study = load(STUDIES / name)
    assert study.name == name.removesuffix(".yaml") and study.data == "../packs/xtb"
    head = (STUDIES / name).read_text().split("name:")[0]
    assert (
        ("Claim" in head or "Question" in head or "Pilot" in head)
        and "# Cost:" in head
        and "device-hours" in head
    )
    for a in study.architectures:
        for size in {min(study.sizes_of(a)), max(study.sizes_of(a))}:
            assert model_config(study, data, a, size).architecture == a.name
        rule = study.learning_rate.sweep
        if rule and not a.sweep_of and not a.learning_rate:
            assert model_config(study, data, a, rule.size).width >= 4
    # one protocol for all, as the reference asks: small batches, warm-up, clip 100
    for a in study.architectures:
        options = study.train_options(a)
        assert options.warmup == 100 and options.clip == 100.0
        assert 8 <= options.batch_molecules <= 64


def test_the_ladder_has_what_the_analysis_needs(data) -> None:
    study = load(STUDIES / "symmetry_ladder.yaml")
    by = {label_of(a): a for a in study.architectures}
    assert set(by) == {
        "MPNN",
        "MPNN edges",
        "MPNN additive",
        "PaiNN",
        "MC-EGNN",
        "GemNet-OC",
        "eSEN L2",
        "eSEN L4",
        "eSEN L2 untied",
    }
    assert len(study.sizes_of(by["MPNN additive"])) >= 3
    for label, a in by.items():
        replicated = [size for size in study.sizes_of(a) if len(study.seeds_of(a, size)) >= 3]
        assert len(replicated) >= 3 or label == "MPNN additive", label
        assert max(study.sizes_of(a)) / min(study.sizes_of(a)) > 30  # past a decade and a half of N
    # twins of like cost: FLOPs per parameter within a factor of two
    from forcelaw.models import architecture

    def kappa(label, size):
        config = model_config(study, data, by[label], size)
        from forcelaw.models.sizing import count_parameters

        return (
            architecture(by[label].name).flops(config).forward(19.1, 1)
            / count_parameters(config)[0]
        )

    for one, other in (("MPNN", "PaiNN"), ("eSEN L2", "eSEN L2 untied"), ("eSEN L2", "MPNN edges")):
        assert 0.5 < kappa(one, 3e5) / kappa(other, 3e5) < 2.0


@pytest.mark.parametrize("name", FULL)
def test_the_quick_form_is_the_recipe_in_small(name, data) -> None:
    quick, full = load(STUDIES / "quick" / name), load(STUDIES / name)
    assert quick.name == f"quick_{full.name}" and quick.data == "sample"
    columns = {label_of(a): a for a in full.architectures}
    for a in quick.architectures:
        same = columns[label_of(a)]
        assert (a.name, a.options, a.forces, a.depth, a.stage) == (
            same.name,
            same.options,
            same.forces,
            same.depth,
            same.stage,
        )
    planned = plan(quick, data, {})
    flops = sum(run.flops for run in (*planned.runs, *planned.waiting))
    assert flops < QUICK_FLOPS and 2 <= len(quick.sizes) <= 4


@pytest.mark.parametrize("name", ["rmd17", "wbe"])
def test_recipes_on_other_data_name_their_files_and_can_carry_a_law(name, data) -> None:
    study = load(STUDIES / "dft" / f"{name}.yaml")
    assert study.name == name and study.data.train and len(study.architectures) == 3
    planned = plan(study, data, {})
    assert not planned.failed and {run.kind for run in planned.runs} == {"sweep"}
    sizes = {label_of(a): set() for a in study.architectures}
    for run in planned.waiting:
        sizes[run.label].add(run.spec["n"])
    assert all(len(found) == 5 and max(found) > 25 * min(found) for found in sizes.values())
