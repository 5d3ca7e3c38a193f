"""What do FLOPs at which columns are compared leave out? Matrix products beside pointwise work.

    python benchmarks/pointwise_flops.py [LABEL ...] [--runs results/field/runs.jsonl] [--json FILE]
    python benchmarks/pointwise_flops.py --ladder [NAME ...] [--json FILE]
    python benchmarks/pointwise_flops.py --ratios TABLE ... --json FILE

FLOPs of forcelaw are those of matrix products (models/flops.py). A model that multiplies tensors
entry by entry does work that this does not see. The rule of the second count, of one step of
training (energy, forces as the column has them, backward of both; no optimiser):
- products: as torch's counter has them, a multiply-add is 2;
- pointwise operations on floating point (mul, add, div, pow, exp, silu, their derivatives ...): 1
  for each element of the output, whatever the operation;
- reductions (sum, mean, amax ...) and sums into places (index_add, scatter_add, index_put that
  accumulates, gradients of embeddings): 1 for each element that is summed;
- softmax and norms in one operation: 1 for each element that is read and 1 for each written;
- views, copies, fills, gathers, selections, comparisons, integers and a system of three equations
  a structure: nothing. An operation that is none of these stops the script.
Forces by the gradient are differentiated as autograd does. Models are the plain ones: ours without
kernels, on a CPU (a kernel does about the same arithmetic, and keeps it in registers), and packages
without theirs. An element of pointwise work costs less arithmetic than a product's and, on a card,
more time: this is a second count, not a better one.

Structures are random, of the mean number of neighbours of the data, all atoms within reach. A batch
of one and one of two tell work that is done once a step (on weights alone) from that of every
structure; figures are of a batch of 64, as in the study. "factor" is (products + pointwise) /
products; "counted" is what the study counts for this step over the products seen; "once" the share
of all arithmetic that no structure has.

--ratios: ratios of losses at equal FLOPs of a ladder's columns by the study's count, by that times
the factor of the column at its size (between sizes on lines in logarithms), and by the arithmetic
of a step as it is: factor / counted.

Columns whose package is not installed are left out; with --json FILE rows are kept from one call to
the next (packages need several environments) and the table is of all of them.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import forcelaw
from forcelaw import ops
from forcelaw.errors import StudyError
from forcelaw.models import ModelConfig, architecture, build
from forcelaw.models.flops import cloud, counter, together
from forcelaw.models.sizing import size
from forcelaw.table.read import read
from forcelaw.training.config import cost_factor

BATCH = 64  # structures of a step
SIZES = (1e4, 1e5, 1e6)  # of --ladder
LADDER = ("mpnn", "painn", "egnn", "esen", "gemnet_oc", "attention", "platonic")
LADDER_NAMES = {
    "MPNN": "mpnn",
    "PaiNN": "painn",
    "MC-EGNN": "egnn",
    "eSEN L2": "esen",
    "GemNet-OC": "gemnet_oc",
}  # of committed tables
DATA = {"elements": (1, 6, 7, 8, 9, 16, 17, 35), "cutoff": 6.0, "mean_degree": 19.1}

COPIES = {"clone", "copy_", "fill_", "zero_", "fill", "copy", "masked_fill", "masked_fill_"}
COPIES |= {"_to_copy", "where", "detach", "conj_physical"}
SUMMED = {"index_add": 3, "index_add_": 3, "scatter_add": 3, "scatter_add_": 3}  # place of source
SUMMED |= {"scatter_reduce": 3, "scatter_reduce_": 3, "embedding_dense_backward": 0}
SUMMED |= {"cumsum": 0, "cumprod": 0, "dot": 0, "linalg_cross": 0, "linalg_vector_norm": 0}
PUT = {"index_put": 2, "index_put_": 2, "_index_put_impl_": 2, "_unsafe_index_put": 2}
FUSED = {
    "_safe_softmax",
    "_softmax",
    "_softmax_backward_data",
    "_log_softmax",
    "_log_softmax_backward_data",
}
FUSED |= {"native_layer_norm", "native_layer_norm_backward", "logsumexp", "native_group_norm"}
FUSED |= {"_fused_rms_norm", "_fused_rms_norm_backward"}
SOLVED = {"_linalg_solve_ex", "linalg_lu_solve"}  # Orb's 3 x 3 of a structure
# no arithmetic on floating point: views, copies, gathers, new tensors, orders
QUIET = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "slice", "select", "unsqueeze"),
    *("squeeze", "expand", "split", "split_with_sizes", "unbind", "as_strided", "alias", "detach"),
    *("_reshape_alias", "unfold", "diagonal", "view_as_real", "view_as_complex", "movedim"),
    *("index", "index_select", "gather", "embedding", "cat", "stack", "repeat", "flip", "roll"),
    *("slice_backward", "select_backward", "diagonal_backward", "unfold_backward", "triu", "tril"),
    *("constant_pad_nd", "scatter", "scatter_", "index_copy", "index_copy_", "slice_scatter"),
    *("zeros", "ones", "empty", "full", "arange", "eye", "scalar_tensor", "lift_fresh", "linspace"),
    *("zeros_like", "ones_like", "empty_like", "full_like", "empty_strided", "lift_fresh_copy"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "diag_embed"),
    *("rand", "randn", "rand_like", "randn_like", "normal_", "uniform_", "native_dropout"),
    *("sort", "argsort", "topk", "unique_consecutive", "_unique2", "searchsorted", "bincount"),
    *(
        "nonzero",
        "masked_select",
        "item",
        "_local_scalar_dense",
        "is_same_size",
        "repeat_interleave",
    ),
    *("value_selecting_reduction_backward", "triu_indices", "_to_copy", "resize_", "set_"),
}


def floats(*found: Any) -> Iterator[Tensor]:
    """Tensors of floating point among operands and lists of them."""
    for x in found:
        if isinstance(x, Tensor):
            if x.is_floating_point() or x.is_complex():
                yield x
        elif isinstance(x, tuple | list):
            yield from floats(*x)


def elements(*found: Any) -> int:
    """Numbers in them; a complex one is two."""
    return sum(x.numel() * (2 if x.is_complex() else 1) for x in floats(*found))


class Pointwise(TorchDispatchMode):
    """Counts what the module's rule says, by operation; ``unknown``: operations that it does not
    name and that are no products."""

    def __init__(self, products: set[Any]) -> None:
        super().__init__()
        self.products = products
        self.seen: collections.Counter[str] = collections.Counter()
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        self.seen[name] += self.work(name, func, args, kwargs or {}, found)
        return found

    def work(self, name: str, func: Any, args: Any, kwargs: Any, found: Any) -> int:
        if func.overloadpacket in self.products or not elements(found):
            return 0
        if name in COPIES or name in QUIET or name in SOLVED:
            return 0
        if name in SUMMED:
            return elements(args[SUMMED[name]])
        if name in PUT:
            accumulates = (len(args) > 3 and args[3]) or kwargs.get("accumulate", False)
            return elements(args[PUT[name]]) if accumulates else 0
        if name in FUSED:
            tensors = [x for x in args if isinstance(x, Tensor)]
            return max(elements(x) for x in tensors) + elements(found)
        if torch.Tag.reduction in func.tags:
            return elements(args[0])
        if torch.Tag.pointwise in func.tags:
            return elements(found)
        self.unknown.add(f"{name} {elements(found)}")
        return 0


def step(config: ModelConfig, structures: int) -> tuple[float, collections.Counter[str], int, int]:
    """Products, pointwise work by operation, edges and atoms of one step on so many structures."""
    model = build(config, 0)
    graph = together([cloud(config, seed=k) for k in range(structures)])
    found = counter()
    own = Pointwise({getattr(f, "overloadpacket", f) for f in found.flop_registry})
    # attention by its definition, which both counters see
    with ops.using("torch"), sdpa_kernel(SDPBackend.MATH), own, found:
        energy, forces = model(graph)
        (energy.square().sum() + forces.square().sum()).backward()
    if own.unknown:
        raise SystemExit(f"{config.architecture}: no rule for {sorted(own.unknown)}")
    return found.get_total_flops(), own.seen, len(graph.sender), len(graph.pos)


def measured(study: str, label: str, config: ModelConfig, n: int) -> dict[str, Any]:
    """A row of the table: a step of :data:`BATCH` structures."""
    p1, seen1, edges, atoms = step(config, 1)
    p2, seen2, *_ = step(config, 2)

    def batch(one: float, two: float) -> float:
        return one + (BATCH - 1) * (two - one)

    kinds = {k: batch(seen1[k], seen2[k]) for k in seen2}
    products, pointwise = batch(p1, p2), sum(kinds.values())
    once = 2 * (p1 + sum(seen1.values())) - (p2 + sum(seen2.values()))
    rule = architecture(config.architecture).flops_for(config)
    counted = cost_factor(config.forces, 0) * rule.training(BATCH * edges, BATCH * atoms)
    most = sorted(kinds, key=lambda k: -kinds[k])[:4]
    return {
        "study": study,
        "label": label,
        "forces": config.forces,
        "width": config.width,
        "depth": config.depth,
        "N": n,
        "products": products,
        "pointwise": pointwise,
        "factor": (products + pointwise) / products,
        "counted": counted / products,
        "once": once / (products + pointwise),
        "most": {k: round(kinds[k] / pointwise, 3) for k in most},
    }


def of_runs(path: Path, labels: list[str]) -> Iterator[tuple[str, ModelConfig, int]]:
    """Columns of the grid of a study's committed runs, each size once."""
    found = {}
    for line in path.read_text().splitlines():
        spec = json.loads(line)["spec"]
        if spec["kind"] == "grid" and (not labels or spec["label"] in labels):
            found[spec["label"], spec["n"]] = spec["model"]
    for (label, n), model in sorted(found.items()):
        try:
            entry = architecture(model["architecture"])
            yield label, entry.config(**model), n
            missing = ""
        except Exception as error:  # whatever a package that is not here raises
            missing = str(error).splitlines()[0]
        if missing:
            print(f"# {label} left out: {missing}", flush=True)


def of_ladder(names: list[str]) -> Iterator[tuple[str, ModelConfig, int]]:
    """Our columns with direct forces, as ladders have them."""
    for name in names or LADDER:
        for target in SIZES:
            try:
                config = size(name, target, scale=2.412, **DATA)
            except StudyError as error:  # no width has so few parameters
                print(f"# {error}", flush=True)
                continue
            yield f"{name} direct", config, build(config, 0).n_parameters()


def recounted(runs: pl.DataFrame, rows: list[dict[str, Any]], count: str) -> pl.DataFrame:
    """The runs of :data:`LADDER_NAMES` with C by another count."""
    out = []
    for label, name in LADDER_NAMES.items():
        own = runs.filter((pl.col("architecture") == label) & (pl.col("kind") == "grid"))
        known = sorted((r for r in rows if r["label"] == f"{name} direct"), key=lambda r: r["N"])
        if not len(own):
            continue
        by = {
            "study": [1.0 for r in known],
            "pointwise": [r["factor"] for r in known],
            "measured": [r["factor"] / r["counted"] for r in known],
        }[count]
        at = np.log(own["n"].to_numpy())
        times = np.exp(np.interp(at, np.log([r["N"] for r in known]), np.log(by)))
        out.append(own.with_columns(c=pl.col("c") * pl.Series(times)))
    return pl.concat(out)


def at_equal_flops(folder: str, rows: list[dict[str, Any]]) -> None:
    """Ratios of losses and their extra slopes in C, by each count."""
    runs = read(folder).frame
    there = [label for label in LADDER_NAMES if label in runs["architecture"]]
    pairs = [(there[0], label) for label in there[1:]] + [("PaiNN", "eSEN L2")]
    print(f"{folder}: ratio of losses at equal FLOPs, a quarter, half and all of the way; slope")
    for first, second in pairs:
        for count in ("study", "pointwise", "measured"):
            found = forcelaw.ratios(recounted(runs, rows, count), first, second).costs["c"]
            k, slope = len(found.ratio), found.slope
            at = " ".join(f"{found.ratio[q]:6.3f}" for q in (k // 4, k // 2, k - 1))
            print(
                f"  {second:<10} over {first:<6}{count:>10} {at}"
                f"   {slope.value:+.3f} [{slope.low:+.3f}, {slope.high:+.3f}]"
            )


def table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'column':<18}{'forces':>13}{'N':>11}{'products':>10}{'pointwise':>11}{'factor':>8}"
        f"{'counted':>9}{'once':>7}   most of the pointwise work"
    )
    for row in rows:
        most = " ".join(f"{name} {share:.0%}" for name, share in row["most"].items())
        print(
            f"{row['label']:<18}{row['forces']:>13}{row['N']:>11,}{row['products']:>10.2e}"
            f"{row['pointwise']:>11.2e}{row['factor']:>8.2f}{row['counted']:>9.2f}"
            f"{row['once']:>7.1%}   {most}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="labels of the study; with --ladder our names")
    parser.add_argument("--runs", type=Path, default=Path("results/field/runs.jsonl"))
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--ratios", nargs="+", metavar="TABLE", help="folders of ladders")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    if given.ratios:
        for folder in given.ratios:
            at_equal_flops(folder, rows)
        return 0
    known = {(row["study"], row["label"], row["N"]): row for row in rows}
    study = "ladder" if given.ladder else "field"
    columns = of_ladder(given.names) if given.ladder else of_runs(given.runs, given.names)
    for label, config, n in columns:
        try:
            known[study, label, n] = measured(study, label, config, n)
        except ImportError as error:
            print(f"# {label} left out: {error}", flush=True)
    rows = [known[key] for key in sorted(known)]
    assert all(math.isfinite(row["factor"]) for row in rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    for name in sorted({row["study"] for row in rows}):
        print(name)
        table([row for row in rows if row["study"] == name])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
