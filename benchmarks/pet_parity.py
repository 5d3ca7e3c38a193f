"""Parity of forcelaw's `attention` with the reference implementation of PET in metatrain, weights
copied over.

    git clone https://github.com/metatensor/metatrain
    python benchmarks/pet_parity.py metatrain/src/metatrain/pet/modules --commit e2af067 \
        | tee results/pet_parity.txt

metatrain is no dependency of forcelaw. Its PETBackend and transformer run unchanged from that
folder; only what builds their batches and what conditions on charges, which play no part in the
numbers, is stubbed. The reference gets edges in padded rows that are made here, one edge at a time,
and our envelope as its cutoff factors.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import platform
import sys
import types
from pathlib import Path
from typing import Any

import ase
import torch
from esen_parity import copy, copy_affine, make_graph  # in this directory

import forcelaw
from forcelaw.graph import GraphBatch
from forcelaw.models.attention import Attention, AttentionConfig
from forcelaw.models.basis import envelope

ELEMENTS = tuple(range(100))
CUTOFF = 6.0
CASES = (("default: 2 x 2", 128, 2, 2, 16), ("3 x 1", 64, 3, 1, 8), ("1 x 3", 32, 1, 3, 32))


def import_reference(folder: Path) -> types.ModuleType:
    """The reference's backend.py, in packages whose __init__ is not run."""
    if not (folder / "backend.py").is_file():
        raise SystemExit(f"{folder / 'backend.py'} not found: give metatrain's pet/modules")

    def stub(name: str, path: list[str] | None = None, **content: Any) -> None:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
        if path is not None:
            sys.modules[name].__path__ = path

    stub("pet", [])
    stub("pet.modules", [str(folder)])
    stub("pet.documentation", ModelHypers=dict)
    stub("pet.modules.structures", compute_batch_tensors=None)
    stub("pet.modules.conditioning", SystemConditioningEmbedding=None)
    return importlib.import_module("pet.modules.backend")


def make_reference(module: types.ModuleType, width: int, depth: int, layers: int, head: int) -> Any:
    hypers = {
        "long_range": {"enable": False},
        "cutoff": CUTOFF,
        "cutoff_function": "Bump",
        "cutoff_width": 0.5,
        "num_neighbors_adaptive": None,
        "adaptive_cutoff_method": "",
        "d_pet": width,
        "d_node": 2 * width,
        "d_head": width,
        "d_feedforward": 2 * width,
        "num_heads": width // head,
        "num_gnn_layers": depth,
        "num_attention_layers": layers,
        "normalization": "LayerNorm",
        "activation": "SwiGLU",
        "attention_temperature": 1.0,
        "transformer_type": "PreLN",
        "featurizer_type": "feedforward",
        "system_conditioning": False,
    }
    backend = module.PETBackend(hypers, list(ELEMENTS))
    backend.add_output("energy", {"energy": [1]})
    backend.add_output("force", {"force": [3, 1]})
    with torch.no_grad():  # zero biases and unit gains would hide a wrong order
        for parameter in backend.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backend


@torch.no_grad()
def copy_layer(ours: Any, theirs: Any) -> None:
    """One GNN layer. Two linear maps of the reference that follow each other become one."""
    embed, (first, _, second) = theirs.edge_embedder, theirs.compress
    parts = first.weight.chunk(first.weight.shape[1] // first.weight.shape[0], dim=1)
    copy(ours.geometry.weight, parts[0] @ embed.weight)
    copy(ours.geometry.bias, parts[0] @ embed.bias + first.bias)
    if ours.neighbour is not None:
        copy(ours.neighbour.weight, theirs.neighbor_embedder.weight @ parts[1].T)
    copy(ours.message1.weight, parts[-1])
    copy_affine(ours.message2, second)
    for mine, layer in zip(ours.attention, theirs.trans.layers, strict=True):
        copy_affine(mine.contract, layer.center_contraction)
        copy_affine(mine.expand, layer.center_expansion)
        copy_affine(mine.norm1, layer.norm_attention)
        copy(mine.qkv.weight, layer.attention.input_linear.weight)
        # keys have no bias here: it moves no output
        copy(mine.bias, layer.attention.input_linear.bias.view(3, -1)[[0, 2]])
        copy_affine(mine.out, layer.attention.output_linear)
        copy_affine(mine.norm_atoms, layer.norm_center_features)
        copy_affine(mine.norm_edges, layer.norm_mlp)
        for glu, mlp in ((mine.atoms, layer.center_mlp), (mine.edges, layer.mlp)):
            copy_affine(glu.up, mlp.w_in)
            copy_affine(glu.down, mlp.w_out)


@torch.no_grad()
def copy_weights(ours: Attention, theirs: Any) -> None:
    copy(ours.embedding.weight, theirs.node_embedders[0].weight)
    copy(ours.messages.weight, theirs.edge_embedder.weight)
    for mine, layer, norm, mlp in zip(
        ours.layers,
        theirs.gnn_layers,
        theirs.combination_norms,
        theirs.combination_mlps,
        strict=True,
    ):
        copy_layer(mine, layer)
        copy_affine(mine.norm, norm)
        copy_affine(mine.pair1, mlp[0])
        copy_affine(mine.pair2, mlp[2])
    for name in ("energy", "force"):
        head = getattr(ours, name)
        for mine, reference in (
            (head.atoms, theirs.node_heads[name][0]),
            (head.edges, theirs.edge_heads[name][0]),
        ):
            copy_affine(mine[0], reference[0])
            copy_affine(mine[1], reference[2])
        copy_affine(head.last_atoms, theirs.node_last_layers[name][0][name])
        # the reference sums without a factor
        copy_affine(head.last_edges, theirs.edge_last_layers[name][0][name])
        for parameter in head.last_edges.parameters():
            parameter /= head.sum_scale


def padded_rows(graph: GraphBatch) -> dict[str, torch.Tensor]:
    """The reference's inputs: rows of the edges into each atom, one edge at a time."""
    vec, n = graph.vectors(), len(graph.pos)
    rows: list[list[int]] = [[] for _ in range(n)]
    for k, i in enumerate(graph.receiver.tolist()):
        rows[i].append(k)
    width, sender = max(map(len, rows)), graph.sender.tolist()
    shape = (n, width)
    vectors = vec.new_zeros(*shape, 3)
    species = torch.zeros(shape, dtype=torch.int64)
    reverse, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        for place, k in enumerate(row):
            j = sender[k]
            vectors[i, place], species[i, place] = vec[k], graph.species[j]
            mask[i, place] = True
            reverse[i, place] = j * width + [sender[other] for other in rows[j]].index(i)
    r = vectors.norm(dim=-1)
    return {
        "element_indices_nodes": graph.species,
        "element_indices_neighbors": species,
        "edge_vectors": vectors,
        "edge_distances": r,
        "padding_mask": mask,
        "reverse_neighbor_index": reverse.view(-1),
        "cutoff_factors": envelope(r / CUTOFF) * mask,
    }


@torch.no_grad()
def run_reference(backend: Any, graph: GraphBatch) -> tuple[torch.Tensor, torch.Tensor]:
    given = padded_rows(graph)
    # the reference writes into its copy of the factors
    inner = given | {"cutoff_factors": given["cutoff_factors"].clone()}
    nodes, edges = backend._feedforward_featurization_impl(inner, False)
    features = backend._calculate_last_layer_features(nodes, edges)
    atoms, pairs = backend._calculate_atomic_predictions(
        *features, given["padding_mask"], given["cutoff_factors"], ["energy", "force"]
    )
    site, force = (atoms[name][0][0] + pairs[name][0][0] for name in ("energy", "force"))
    energy = torch.zeros(graph.n_graphs, dtype=site.dtype)
    return energy.index_add(0, graph.batch, site.squeeze(-1)), force


def compare(module: types.ModuleType, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    width, depth, layers, head = shape
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    theirs = make_reference(module, *shape)
    config = AttentionConfig(
        width=width,
        base_width=width,
        depth=depth,
        attention_layers=layers,
        head_width=head,
        radial=0,
        angular=0,
        elements=ELEMENTS,
        cutoff=CUTOFF,
    )
    ours = Attention(config)
    copy_weights(ours, theirs)
    graph = make_graph(dtype)
    with torch.no_grad():
        e, f = ours(graph)
    e_ref, f_ref = run_reference(theirs, graph)
    return {
        "N": ours.n_parameters(),
        "N_ref": sum(p.numel() for p in theirs.parameters()),
        "e": float((e - e_ref).norm() / e_ref.norm()),
        "f": float((f - f_ref).norm() / f_ref.norm()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="metatrain/src/metatrain/pet/modules")
    parser.add_argument("--commit", default="unknown", help="of metatrain, for the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    module = import_reference(arguments.folder)
    graph = make_graph(torch.float64)
    print("PET: forcelaw's `attention` against metatrain with copied weights")
    print(f"date      {datetime.date.today().isoformat()}")
    print(
        f"versions  metatrain {arguments.commit}, forcelaw {forcelaw.__version__}, torch"
        f" {torch.__version__}, ase {ase.__version__}, Python {platform.python_version()},"
        f" {platform.machine()} CPU"
    )
    print(
        f"data      {graph.n_graphs} molecules, {len(graph.pos)} atoms, {len(graph.sender)} edges"
        " within 6 Angstrom"
    )
    print("errors    norm of the difference over that of the reference\n")
    print(
        f"{'layers':<16}{'width':>6}{'N':>11}{'N ref':>11}  {'precision':<9}{'energy':>10}"
        f"{'force':>10}"
    )
    worst = 0.0
    for name, *shape in CASES:
        for dtype in (torch.float32, torch.float64):
            row = compare(module, tuple(shape), dtype)
            if dtype == torch.float32:
                worst = max(worst, row["e"], row["f"])
            print(
                f"{name:<16}{shape[0]:>6}{row['N']:>11,}{row['N_ref']:>11,}  "
                f"{str(dtype).removeprefix('torch.'):<9}{row['e']:>10.1e}{row['f']:>10.1e}",
                flush=True,
            )
    print(f"\nworst float32 error {worst:.1e} (limit 1e-5): {'PASS' if worst < 1e-5 else 'FAIL'}")
    print("N is smaller: linear maps that follow each other are one, and keys have no bias.")
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
