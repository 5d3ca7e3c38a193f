"""fairchem-core's own models for benchmarks/peers.py: imported from a wheel without its
dependencies, built with random weights.

torch_scatter and torch_sparse, which 1.10.0 needs, have no wheels for this torch: the few functions
used are written out here; packages that the models never call are stubs. No code of fairchem is in
this repository.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


# ----------------------------------------------------------------- importing the peers without deps
class _Anything(type):
    """Class of the stub classes: any attribute and any index is the class itself, so that
    import-time use passes."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(cls) -> Any:
        return iter(())


class Stub(metaclass=_Anything):
    """Base class, decorator or value, whatever an unused import needs; instances do nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What a decorator with arguments decorates, as it is."""
        return args[0] if args else self


class _StubModule(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 (a package, to the import system)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of the named packages (and everything inside them) with stubs."""

    def __init__(self, names: set[str]):
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == n or name.startswith(n + ".") for n in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def import_site(folder: Path, site: str) -> None:
    """Make ``fairchem.core`` importable from a folder with its wheel, or with the wheel unpacked,
    without its dependencies.

    Neither package's own __init__ runs: they import calculators, datasets and trainers.
    """
    wheels = sorted(folder.glob("fairchem_core-*.whl"))
    if wheels:
        folder = Path(tempfile.mkdtemp(prefix="fairchem-"))
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(folder)
    if not (folder / "fairchem" / "core").is_dir():
        raise SystemExit(f"{folder}: no fairchem_core wheel and no fairchem/core")
    sys.path.insert(0, str(folder))
    for name in ("fairchem", "fairchem.core", "fairchem.core.models"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = module
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)
    with contextlib.suppress(
        ImportError
    ):  # the real one, before what it imports itself becomes a stub
        import torch_geometric.nn  # noqa: F401
    sys.meta_path.insert(0, _StubFinder(STUBS[site]))
    if site == "fairchem1":
        given = {
            "torch_scatter": {
                "scatter": scatter,
                "segment_coo": segment_coo,
                "segment_csr": segment_csr,
            },
            "torch_sparse": {"SparseTensor": SparseTensor},
        }
        for name, entries in given.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__dict__.update(entries)


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: Any = None,
    reduce: str = "sum",
) -> Tensor:
    """torch_scatter.scatter for a one-dimensional index and sums or means."""
    dim = dim % src.dim()
    size = int(dim_size) if dim_size is not None else int(index.max()) + 1
    shape = [*src.shape[:dim], size, *src.shape[dim + 1 :]]
    total = src.new_zeros(shape).index_add(dim, index, src)
    if reduce in ("sum", "add"):
        return total
    if reduce == "mean":
        count = src.new_zeros(size).index_add(0, index, src.new_ones(len(index))).clamp_min(1)
        return total / count.view([-1 if k == dim else 1 for k in range(src.dim())])
    raise NotImplementedError(reduce)


def segment_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: Any = None, reduce: str = "sum"
) -> Tensor:
    """torch_scatter.segment_coo along the first dimension."""
    return scatter(src, index, 0, None, dim_size, reduce)


def segment_csr(
    src: Tensor, indptr: Tensor, out: Tensor | None = None, reduce: str = "sum"
) -> Tensor:
    """torch_scatter.segment_csr along the first dimension, sums only."""
    ends = torch.cat([src.new_zeros(1, *src.shape[1:]), src.cumsum(0)])
    return ends[indptr[1:]] - ends[indptr[:-1]]


class SparseTensor:
    """The part of torch_sparse.SparseTensor that GemNet-OC's indices use: entries sorted by row and
    column, rows picked."""

    def __init__(self, row: Tensor, col: Tensor, value: Tensor, sparse_sizes: tuple[int, int]):
        key = row * sparse_sizes[1] + col
        if bool((key[1:] < key[:-1]).any()):
            order = torch.argsort(key, stable=True)
            row, col, value = row[order], col[order], value[order]
        self._row, self._col, self._value, self._sizes = row, col, value, sparse_sizes
        self._ptr = torch.cat(
            [row.new_zeros(1), torch.bincount(row, minlength=sparse_sizes[0]).cumsum(0)]
        )

    @property
    def storage(self) -> SparseTensor:
        return self

    def row(self) -> Tensor:
        return self._row

    def value(self) -> Tensor:
        return self._value

    def coo(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._row, self._col, self._value

    def sparse_sizes(self) -> tuple[int, int]:
        return self._sizes

    def set_value_(self, value: Tensor, layout: str = "coo") -> None:
        self._value = value

    def __getitem__(self, rows: Tensor) -> SparseTensor:
        first, count = self._ptr[rows], self._ptr[rows + 1] - self._ptr[rows]
        out = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
        entry = (
            torch.arange(len(out), device=rows.device) + (first - (count.cumsum(0) - count))[out]
        )
        picked = SparseTensor.__new__(SparseTensor)
        picked._row, picked._col, picked._value = out, self._col[entry], self._value[entry]
        picked._sizes = (len(rows), self._sizes[1])
        picked._ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        return picked


# ---------------------------------------------------------------------------------------- the peers
class Record(dict):
    """A batch as fairchem's models read it: keys, attributes, and ``get`` with a keyword."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Attributes:
    """A batch as models read it that know attributes only (torch.compile stops at
    types.SimpleNamespace)."""

    def __init__(self, entries: dict[str, Any]):
        for name, value in entries.items():
            setattr(self, name, value)


class Backboned(nn.Module):
    """Backbone with an energy and a force head, both versions of eSEN."""

    def __init__(self, backbone: nn.Module, energy: nn.Module, forces: nn.Module):
        super().__init__()
        self.backbone, self.energy, self.forces = backbone, energy, forces

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        data = Record(inputs)
        embedding = self.backbone(data)
        energy = self.energy(data, embedding)["energy"]
        return energy["energy"] if isinstance(energy, dict) else energy, self.forces(
            data, embedding
        )["forces"]


class Whole(nn.Module):
    """A model that returns both outputs itself; it reads its batch by attribute."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        out = self.model(Attributes(inputs))
        return out["energy"], out["forces"]


def esen_sizes(width: int, depth: int) -> dict[str, Any]:
    return {
        "max_num_elements": 100,
        "sphere_channels": width,
        "hidden_channels": width,
        "edge_channels": width,
        "lmax": 2,
        "mmax": 2,
        "otf_graph": False,
        "cutoff": 6.0,
        "num_distance_basis": 64,
        "direct_forces": True,
        "regress_forces": True,
        "num_layers": depth,
        "norm_type": "rms_norm_sh",
        "act_type": "gate",
    }


def esen2(width: int, depth: int) -> nn.Module:
    """eSEN of fairchem-core 2: gate, spectral feed-forward, quaternion Wigner matrices."""
    from fairchem.core.models.uma.escn_md import Linear_Force_Head, MLP_EFS_Head, eSCNMDBackbone

    backbone = eSCNMDBackbone(
        **esen_sizes(width, depth),
        ff_type="spectral",
        chg_spin_emb_type="rand_emb",
        use_dataset_embedding=False,
    )
    return Backboned(backbone, MLP_EFS_Head(backbone), Linear_Force_Head(backbone))


def esen1(width: int, depth: int) -> nn.Module:
    """eSEN of fairchem-core 1.10, envelope on."""
    from fairchem.core.models.esen.esen import Linear_Force_Head, MLP_Energy_Head, eSEN_Backbone

    backbone = eSEN_Backbone(
        **esen_sizes(width, depth), mlp_type="spectral", use_envelope=True, use_pbc=False
    )
    return Backboned(backbone, MLP_Energy_Head(backbone), Linear_Force_Head(backbone))


@torch.no_grad()
def fit_scales(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Scale factors from one batch, as fairchem's fitting run sets them (variance out = variance
    in); after that they only multiply: no read-back and no log line at each use. Nothing happens in
    models without them."""
    try:
        from fairchem.core.modules.scaling import ScaleFactor
    except ImportError:  # not in fairchem-core 2
        return

    def fit(self: Any, x: Tensor, *, ref: Tensor | None = None) -> Tensor:
        wanted = 1.0 if ref is None else ref.var(0).mean()
        self.scale_factor.fill_((wanted / x.var(0).mean().clamp_min(1e-12)) ** 0.5)
        return x * self.scale_factor

    forward, ScaleFactor.forward = ScaleFactor.forward, fit
    try:
        model(inputs)
    finally:
        ScaleFactor.forward = forward
    ScaleFactor.fitted = True
    ScaleFactor._observe = lambda self, x, ref=None: None


def painn(width: int, depth: int) -> nn.Module:
    """PaiNN of fairchem-core 1.10 with our edges; distances and unit vectors in each step."""
    from fairchem.core.models.painn.painn import PaiNN

    model = PaiNN(
        hidden_channels=width,
        num_layers=depth,
        num_rbf=32,
        cutoff=6.0,
        use_pbc=False,
        otf_graph=False,
        num_elements=100,
    )

    def given(data: Any) -> tuple[Tensor, None, Tensor, Tensor, None]:
        vec = data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]
        distance = vec.norm(dim=-1)
        return data.edge_index, None, distance, vec / distance[:, None], None

    model.generate_graph_values = given
    return Whole(model)


def gemnet(width: int, depth: int, published: bool = False) -> nn.Module:
    """GemNet-OC of fairchem-core 1.10 at our ratios of widths and basis sizes, or at the published
    ones; the published 8 nearest middle edges of quadruplets and 20 neighbours between atoms and
    edges. Indices come with the batch unless it has none."""
    from fairchem.core.models.gemnet_oc.gemnet_oc import GemNetOC

    a, t, q = (width, width // 4, width // 8) if published else (width, width // 2, width // 4)
    spherical, radial, rbf, sbf = (7, 128, 16, 32) if published else (4, 32, 8, 8)
    model = GemNetOC(
        num_spherical=spherical,
        num_radial=radial,
        num_blocks=depth,
        emb_size_atom=a,
        emb_size_edge=2 * a,
        emb_size_trip_in=t,
        emb_size_trip_out=t,
        emb_size_quad_in=q,
        emb_size_quad_out=q,
        emb_size_aint_in=t,
        emb_size_aint_out=t,
        emb_size_rbf=rbf,
        emb_size_cbf=rbf,
        emb_size_sbf=sbf,
        num_before_skip=2,
        num_after_skip=2,
        num_concat=1,
        num_atom=3,
        num_output_afteratom=3,
        num_atom_emb_layers=2,
        num_global_out_layers=2,
        regress_forces=True,
        direct_forces=True,
        use_pbc=False,
        cutoff=6.0,
        cutoff_qint=6.0,
        cutoff_aeaint=6.0,
        cutoff_aint=6.0,
        max_neighbors=50,
        max_neighbors_qint=8,
        max_neighbors_aeaint=20,
        max_neighbors_aint=50,
        sbf={"name": "legendre_outer"},
        quad_interaction=True,
        atom_edge_interaction=True,
        edge_atom_interaction=True,
        atom_interaction=True,
        num_elements=100,
        otf_graph=False,
    )
    make = model.get_graphs_and_indices

    def given(data: Any) -> Any:
        return data.indices if getattr(data, "indices", None) is not None else make(data)

    model.get_graphs_and_indices = given
    return Whole(model)


def with_indices(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch with GemNet-OC's graphs, triplets and quadruplets made beforehand."""
    with torch.no_grad():
        indices = model.model.get_graphs_and_indices(Attributes(inputs))
    indices[-1]["triplet_in"].pop("adj_edges")  # only needed while they are made
    return {**inputs, "indices": indices}


PEERS = {"esen2": esen2, "esen1": esen1, "painn": painn, "gemnet": gemnet}
STUBS = {
    "fairchem2": {
        "hydra",
        "omegaconf",
        "ase",
        "torchtnt",
        "wandb",
        "lmdb",
        "submitit",
        "orjson",
        "monty",
        "clusterscope",
        "nvalchemiops",
        "ray",
        "websockets",
        "huggingface_hub",
        "fairchem.core.units",
        "fairchem.core.graph.compute",
        "fairchem.core.datasets",
    },
    "fairchem1": {
        "hydra",
        "omegaconf",
        "ase",
        "torchtnt",
        "wandb",
        "lmdb",
        "submitit",
        "orjson",
        "monty",
        "pymatgen",
        "huggingface_hub",
        "torch_cluster",
        "tensorboard",
    },
}
