"""Parity of forcelaw's eSEN with the reference implementation, fairchem-core 1.10.0, weights copied
over.

    pip download --no-deps fairchem-core==1.10.0
    unzip -q fairchem_core-1.10.0-py3-none-any.whl -d fairchem-1.10.0
    python benchmarks/esen_parity.py fairchem-1.10.0 | tee results/esen_parity.txt

fairchem-core is no dependency of forcelaw. Its eSEN backbone and heads run unchanged from the
unpacked wheel; only the framework modules that they import (registry, utils, base classes), which
play no part in the numbers, are stubbed, so that of its own dependencies e3nn alone is needed. The
reference rolls each edge frame at random; ours takes the shortest arc.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import platform
import sys
import types
from pathlib import Path
from typing import Any

import ase
import e3nn
import numpy as np
import torch
from ase.build import molecule

import forcelaw
from forcelaw.graph import GraphBatch, build_graph
from forcelaw.models.esen import ESEN, ESENConfig, RadialNetwork, SO2Linear
from forcelaw.models.so3 import SphericalNorm

ELEMENTS = tuple(range(100))  # the reference has one embedding row per atomic number
MOLECULES = ("CO2", "C2H2", "C6H6", "CH4", "H2O", "CH3OH", "CH3CONH2", "C4H4S", "isobutane", "SO2")
CASES = (
    ("K4L2 (eSEN-sm)", 128, 4, 2, 2, 64),
    ("L1", 32, 2, 1, 1, 32),
    ("L3 M2", 32, 3, 3, 2, 64),
    ("L4 M2", 32, 2, 4, 2, 64),
    ("L4 M4", 16, 2, 4, 4, 48),
)


def import_reference(root: Path) -> types.ModuleType:
    """The reference's esen.py, with packages whose __init__ is not run and the framework
    stubbed."""
    package = root / "fairchem" / "core" / "models" / "esen"
    if not (package / "esen.py").is_file():
        raise SystemExit(
            f"{package / 'esen.py'} not found: give the folder of an unpacked fairchem_core-1.10.0"
            " wheel"
        )
    for name, path in (
        ("fairchem", "."),
        ("fairchem.core", "core"),
        ("fairchem.core.common", None),
        ("fairchem.core.models", "core/models"),
        ("fairchem.core.models.esen", "core/models/esen"),
    ):
        module = types.ModuleType(name)
        module.__path__ = [] if path is None else [str(root / "fairchem" / path)]
        sys.modules[name] = module

    def stub(name: str, **content: Any) -> None:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)

    keep = types.SimpleNamespace(register_model=lambda name: lambda cls: cls)
    stub("fairchem.core.common.registry", registry=keep)
    stub("fairchem.core.common.utils", conditional_grad=lambda decorator: lambda function: function)
    stub(
        "fairchem.core.models.base",
        GraphModelMixin=type("GraphModelMixin", (), {}),
        HeadInterface=type("HeadInterface", (), {}),
    )
    return importlib.import_module("fairchem.core.models.esen.esen")


def copy(target: torch.nn.Parameter, source: torch.Tensor, factor: float = 1.0) -> None:
    assert target.numel() == source.numel(), (target.shape, source.shape)
    target.copy_((source * factor).reshape(target.shape))


def copy_affine(ours: torch.nn.Module, theirs: torch.nn.Module, factor: float = 1.0) -> None:
    copy(ours.weight, theirs.weight, factor)
    copy(ours.bias, theirs.bias, factor)


def copy_norm(ours: SphericalNorm, theirs: torch.nn.Module) -> None:
    copy(ours.gain, theirs.affine_weight)
    copy(ours.bias, theirs.affine_bias)


def copy_radial(ours: RadialNetwork, theirs: torch.nn.Module, basis: int) -> None:
    first, norm1, _, second, norm2, _, last = theirs.net
    width = second.weight.shape[0]
    parts = first.weight.split([basis, width, width], dim=1)
    for module, weight in zip((ours.basis, ours.source, ours.target), parts):
        copy(module.weight, weight)
    copy(ours.basis.bias, first.bias)
    for mine, reference in (
        (ours.norm1, norm1),
        (ours.hidden, second),
        (ours.norm2, norm2),
        (ours.last, last),
    ):
        copy_affine(mine, reference)


def copy_convolution(ours: SO2Linear, theirs: torch.nn.Module, factor: float = 1.0) -> None:
    copy_affine(ours.zero, theirs.fc_m0, factor)
    for block, reference in zip(ours.tied, theirs.so2_m_conv, strict=True):
        copy(block, reference.fc.weight, factor)


@torch.no_grad()
def copy_weights(
    ours: ESEN, backbone: torch.nn.Module, energy: torch.nn.Module, force: torch.nn.Module
) -> None:
    """Every parameter of the reference, into ours.

    Sums over neighbours: 1/5 in both degree embeddings (mean_degree is 25); the layers of the
    reference sum without a factor, so ours have 5 times its last linear map.
    """
    c = ours.config
    copy(ours.embedding.weight, backbone.sphere_embedding.weight)
    copy(ours.source.weight, backbone.source_embedding.weight)
    copy(ours.target.weight, backbone.target_embedding.weight)
    copy_radial(ours.degree, backbone.edge_degree_embedding.rad_func, c.radial)
    for mine, block in zip(ours.layers, backbone.blocks, strict=True):
        copy_norm(mine.norm1, block.norm_1)
        copy_norm(mine.norm2, block.norm_2)
        copy_radial(mine.radial, block.edge_wise.so2_conv_1.rad_func, c.radial)
        copy_convolution(mine.conv1, block.edge_wise.so2_conv_1)
        copy_convolution(mine.conv2, block.edge_wise.so2_conv_2, c.mean_degree**0.5)
        copy_affine(mine.gates, block.atom_wise.scalar_mlp[0])
        copy_affine(mine.up, block.atom_wise.so3_linear_1)
        copy_affine(mine.down, block.atom_wise.so3_linear_2)
    copy_norm(ours.norm, backbone.norm)
    for k in (0, 2, 4):
        copy_affine(ours.energy[k], energy.energy_block[k])
    copy_affine(ours.force, force.linear)


def make_graph(dtype: torch.dtype) -> GraphBatch:
    """Molecules of ASE's G2 collection, displaced by 0.1 Angstrom and turned, so that no edge is
    special; cutoff 6."""
    rng = np.random.default_rng(0)
    positions, numbers = [], []
    for name in MOLECULES:
        atoms = molecule(name)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        positions.append((atoms.positions + 0.1 * rng.normal(size=atoms.positions.shape)) @ turn)
        numbers.append(atoms.numbers)
    counts = torch.tensor([len(n) for n in numbers])
    species = torch.tensor(np.concatenate(numbers))
    return build_graph(torch.tensor(np.concatenate(positions)), species, counts, 6.0).to(dtype)


def run_reference(
    backbone: torch.nn.Module, energy: torch.nn.Module, force: torch.nn.Module, graph: GraphBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    edges = torch.stack([graph.sender, graph.receiver])
    molecules = torch.bincount(graph.batch[graph.receiver], minlength=graph.n_graphs)
    data = {
        "atomic_numbers": graph.species,
        "atomic_numbers_full": graph.species,
        "pos": graph.pos,
        "natoms": graph.natoms,
        "batch": graph.batch,
        "batch_full": graph.batch,
        "edge_index": edges,
        "nedges": molecules,
        "cell": graph.pos.new_zeros(graph.n_graphs, 3, 3),
        "cell_offsets": graph.pos.new_zeros(edges.shape[1], 3),
    }
    with torch.no_grad():
        out = backbone(data)
        return energy(data, out)["energy"], force(data, out)["forces"]


def compare(
    reference: types.ModuleType,
    width: int,
    depth: int,
    lmax: int,
    mmax: int,
    basis: int,
    dtype: torch.dtype,
) -> dict[str, float]:
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    backbone = reference.eSEN_Backbone(
        max_num_elements=100,
        sphere_channels=width,
        hidden_channels=width,
        edge_channels=width,
        lmax=lmax,
        mmax=mmax,
        cutoff=6.0,
        num_distance_basis=basis,
        num_layers=depth,
        act_type="gate",
        mlp_type="spectral",
        use_envelope=True,
        use_pbc=False,
        direct_forces=True,
    )
    energy, force = reference.MLP_Energy_Head(backbone), reference.Linear_Force_Head(backbone)
    parts = (backbone, energy, force)
    with torch.no_grad():  # zero biases and unit gains would hide a wrong order
        for part in parts:
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    config = ESENConfig(
        width=width,
        depth=depth,
        lmax=lmax,
        mmax=mmax,
        radial=basis,
        basis="gaussian",
        elements=ELEMENTS,
        cutoff=6.0,
        mean_degree=25.0,
        base_width=width,
        reference_heads=True,
    )
    ours = ESEN(config)
    copy_weights(ours, *parts)
    graph = make_graph(dtype)
    with torch.no_grad():
        e, f = ours(graph)
    e_ref, f_ref = run_reference(*parts, graph)
    e_again, f_again = run_reference(
        *parts, graph
    )  # other random rolls: the reference's own rounding
    return {
        "N": ours.n_parameters(),
        "N_ref": sum(p.numel() for part in parts for p in part.parameters()),
        "e": float((e - e_ref).norm() / e_ref.norm()),
        "f": float((f - f_ref).norm() / f_ref.norm()),
        "f_self": float((f_again - f_ref).norm() / f_ref.norm()),
        "f_rms": float(f_ref.square().mean().sqrt()),
        "e_self": float((e_again - e_ref).norm() / e_ref.norm()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="folder of an unpacked fairchem_core-1.10.0 wheel")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference = import_reference(arguments.wheel)
    version = next(
        iter(sorted(p.name for p in arguments.wheel.glob("fairchem_core-*.dist-info"))),
        "version unknown",
    )
    print("eSEN: forcelaw against fairchem-core with copied weights")
    print(f"command   python benchmarks/esen_parity.py {arguments.wheel.name}")
    print(f"date      {datetime.date.today().isoformat()}")
    print(
        f"versions  {version.removesuffix('.dist-info')}, forcelaw {forcelaw.__version__}, torch"
        f" {torch.__version__}, e3nn {e3nn.__version__}, ase {ase.__version__}, Python"
        f" {platform.python_version()}, {platform.machine()} CPU"
    )
    graph = make_graph(torch.float64)
    print(
        f"data      {graph.n_graphs} molecules, {len(graph.pos)} atoms, {len(graph.sender)} edges"
        " within 6 Angstrom"
    )
    print(
        "errors    norm of the difference over that of the reference; 'itself': the reference twice"
        " (random rolls)\n"
    )
    print(
        f"{'model':<16}{'C':>4}{'K':>3}{'L':>3}{'M':>3}{'N':>11}{'N ref':>11}  {'precision':<9}"
        f"{'energy':>10}{'force':>10}{'itself e':>10}{'itself f':>10}"
    )
    worst, counts = 0.0, True
    for name, *shape in CASES:
        for dtype in (torch.float32, torch.float64):
            row = compare(reference, *shape, dtype)
            counts &= row["N"] == row["N_ref"]
            if dtype == torch.float32:
                worst = max(worst, row["e"], row["f"])
            width, depth, lmax, mmax, _ = shape
            print(
                f"{name:<16}{width:>4}{depth:>3}{lmax:>3}{mmax:>3}"
                f"{row['N']:>11,}{row['N_ref']:>11,}  "
                f"{str(dtype).removeprefix('torch.'):<9}{row['e']:>10.1e}{row['f']:>10.1e}"
                f"{row['e_self']:>10.1e}{row['f_self']:>10.1e}",
                flush=True,
            )
    good = worst < 1e-5 and counts
    print(
        f"\nworst float32 error {worst:.1e} (limit 1e-5), parameter counts"
        f" {'equal' if counts else 'DIFFERENT'}: {'PASS' if good else 'FAIL'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
