"""Errors of a trained run on files of labelled structures: in all, by config type and by element,
of the worst structures, and beside them those of the reference energies alone ("no model").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import filters
from .data.readers import Block, SourceOptions, open_source, structures_in
from .elements import SYMBOLS, formula
from .errors import DataError
from .predict import BATCH_ATOMS, Predictor, Structures
from .progress import Progress

if TYPE_CHECKING:
    from .figures.spec import Figure

DRAWN = 5_000  # points of a panel, drawn at random from all
SKIPPED = ("isolated atom", "positions not finite")
MEV = 1e3


def evaluate(
    predictor: Predictor,
    files: Iterable[str | Path],
    options: SourceOptions | None = None,
    *,
    batch_atoms: int = BATCH_ATOMS,
    worst: int = 5,
    progress: bool = False,
) -> Evaluation:
    """Predict every structure of ``files``, block by block, and collect the errors.

    A label that a structure lacks counts for nothing; single free atoms, which are not trained on,
    are skipped and counted. worst: structures that are named. progress: shown on stderr. Raises
    DataError for files that cannot be read, hold no structures, or hold elements that the model has
    not seen.
    """
    found = Evaluation(worst)
    sources = [open_source(path, options) for path in files]
    with Progress("evaluate", structures_in(sources), unit="structures", show=progress) as bar:
        for source in sources:
            for block in source.blocks():
                found.add(block, predictor, batch_atoms, lambda n: bar.update(bar.done + n))
    if not found.structures:
        raise DataError("the files hold no structures", where=", ".join(map(str, files)))
    return found


@dataclass
class Tally:
    """Errors of some structures, summed: those of :meth:`Errors.per_structure`, in eV and
    eV/Angstrom."""

    sums: Counter[str] = field(default_factory=Counter)

    def add(self, **sums: float) -> None:
        self.sums.update(sums)

    def mean(self, name: str, count: str, factor: float = MEV, root: bool = False) -> float | None:
        """A mean in meV units; None where there are no labels."""
        if not self.sums[count]:
            return None
        mean = self.sums[name] / self.sums[count]
        return float(factor * (mean**0.5 if root else mean))

    def as_json(self) -> dict[str, Any]:
        """energy in meV/atom, energy_total in meV, forces in meV/Angstrom (mae, rmse over
        components; norm: mean norm of an atom's error), and where there is any, stress in
        meV/Angstrom^3 (over all nine components, as ``stress_mae`` of a run's metrics)."""
        energy = {
            "mae": self.mean("de_n", "energies"),
            "rmse": self.mean("de_n2", "energies", root=True),
            "mean": self.mean("bias", "energies"),
        }
        if energy["mae"] is not None:  # what would be left if the mean error were taken away
            energy["sd"] = max(energy["rmse"] ** 2 - energy["mean"] ** 2, 0.0) ** 0.5
        total = {
            "mae": self.mean("de", "energies"),
            "rmse": self.mean("de2", "energies", root=True),
        }
        forces = {
            "mae": self.mean("df", "components"),
            "rmse": self.mean("df2", "components", root=True),
            "norm": self.mean("norm", "forces"),
        }
        stress = {
            "mae": self.mean("ds", "stress_components"),
            "rmse": self.mean("ds2", "stress_components", root=True),
        }
        counts = {name: int(self.sums[name]) for name in ("structures", "atoms", "energies")}
        counts["structures_with_forces"] = int(self.sums["with_forces"])
        counts["structures_with_stress"] = int(self.sums["stress_components"] / 9)
        found = {"energy": energy, "energy_total": total, "forces": forces}
        return {**counts, **found, **({"stress": stress} if stress["mae"] is not None else {})}


@dataclass(frozen=True)
class Errors:
    """Errors of s structures, NaN where there is no label: de (s,) eV; df (a, 3) eV/Angstrom; ds
    (s, 9) eV/Angstrom^3."""

    counts: np.ndarray
    de: np.ndarray
    df: np.ndarray
    ds: np.ndarray

    def per_structure(self) -> dict[str, np.ndarray]:
        """What a :class:`Tally` sums, (s,) each, zero where there is no label. Energies: de_n is
        |de|/n, bias de/n, de that of whole structures, and a 2 marks squares; energies counts
        them. Forces: df over components, norm over atoms; components, forces and with_forces count
        components, atoms and structures."""
        first = filters.starts(self.counts)
        has_e = np.isfinite(self.de)
        atom = np.isfinite(self.df).all(1)
        has_f = np.logical_and.reduceat(atom, first)
        atom = np.repeat(has_f, self.counts)
        de, df = np.where(has_e, self.de, 0.0), np.where(atom[:, None], self.df, 0.0)
        has_s = np.isfinite(self.ds).all(1)
        ds = np.where(has_s[:, None], self.ds, 0.0)

        def total(values: np.ndarray) -> np.ndarray:
            return np.add.reduceat(values, first)

        return {
            "structures": np.ones(len(self.counts)),
            "atoms": self.counts.astype(float),
            "energies": has_e.astype(float),
            "de_n": np.abs(de) / self.counts,
            "de_n2": (de / self.counts) ** 2,
            "bias": de / self.counts,
            "de": np.abs(de),
            "de2": de**2,
            "with_forces": has_f.astype(float),
            "forces": has_f * self.counts.astype(float),
            "components": has_f * 3.0 * self.counts,
            "df": total(np.abs(df).sum(1)),
            "df2": total(np.square(df).sum(1)),
            "norm": total(np.linalg.norm(df, axis=1)),
            "stress_components": 9.0 * has_s,
            "ds": np.abs(ds).sum(1),
            "ds2": np.square(ds).sum(1),
        }


class Sample:
    """A fair sample of at most :data:`DRAWN` pairs (label, prediction) of a stream."""

    def __init__(self) -> None:
        self.rows = np.zeros((0, 3))
        self.random = np.random.default_rng(0)

    def add(self, label: np.ndarray, predicted: np.ndarray) -> None:
        """Both (k,). Each pair draws a number; those with the smallest stay."""
        known = np.isfinite(label)
        new = np.column_stack([self.random.random(known.sum()), label[known], predicted[known]])
        rows = np.concatenate([self.rows, new])
        self.rows = rows[np.argsort(rows[:, 0])[:DRAWN]]


class Evaluation:
    """What :func:`evaluate` found.

    structures: how many were predicted; skipped: how many were not, by reason.
    """

    def __init__(self, worst: int = 5):
        self.total, self.no_model = Tally(), Tally()
        self.by_config_type: dict[str, Tally] = {}
        self.by_element: dict[int, Tally] = {}
        self.skipped: Counter[str] = Counter()
        self.keep = worst
        self.worst: dict[str, list[dict[str, Any]]] = {"energy": [], "forces": []}
        self.energies, self.forces = Sample(), Sample()

    @property
    def structures(self) -> int:
        return int(self.total.sums["structures"])

    def add(
        self,
        block: Block,
        predictor: Predictor,
        batch_atoms: int,
        predicted: Callable[[int], None] = lambda structures: None,
    ) -> None:
        """Predict the structures of a block and count their errors. predicted: called with the
        number of structures of each batch."""
        why = filters.reasons(block, filters.Filter())
        left_out = np.isin(why, [filters.REASONS.index(reason) for reason in SKIPPED])
        self.skipped.update(filters.REASONS[k] for k in why[left_out])
        block = filters.select(block, ~left_out)
        if not len(block):
            return
        structures = Structures(
            block.counts,
            block.numbers,
            block.positions,
            *(block.cells, block.pbc, block.charges, block.spins),
        )
        wanted = predictor.config.has_stress and block.stresses is not None
        energy, forces, stress = predictor.arrays(
            structures, stress=wanted, batch_atoms=batch_atoms, predicted=predicted
        )
        owner = np.repeat(np.arange(len(block)), block.counts)
        base = np.bincount(owner, predictor.references[block.numbers], len(block))
        none = np.full((len(block), 3, 3), np.nan)
        labels = none if stress is None else block.stresses
        off = none if stress is None else stress - labels
        errors = Errors(
            block.counts, energy - block.energies, forces - block.forces, off.reshape(-1, 9)
        )
        _add(self.total, errors.per_structure())
        alone = Errors(block.counts, base - block.energies, -block.forces, -labels.reshape(-1, 9))
        _add(self.no_model, alone.per_structure())
        self._by_kind(block, errors)
        self._worst(block, errors)
        per_atom = (block.energies - base) / block.counts, (energy - base) / block.counts
        self.energies.add(*per_atom)
        self.forces.add(block.forces.ravel(), forces.ravel())

    def _by_kind(self, block: Block, errors: Errors) -> None:
        if block.configs is not None:
            values, names = errors.per_structure(), np.asarray(block.configs)
            for name in np.unique(names):
                rows = names == name
                _add(
                    self.by_config_type.setdefault(str(name), Tally()),
                    {key: value[rows] for key, value in values.items()},
                )
        known = np.isfinite(errors.df).all(1)
        for z in np.unique(block.numbers[known]).tolist():
            df = errors.df[known & (block.numbers == z)]
            self.by_element.setdefault(z, Tally()).add(
                atoms=len(df),
                forces=len(df),
                components=df.size,
                df=np.abs(df).sum(),
                df2=np.square(df).sum(),
                norm=np.linalg.norm(df, axis=1).sum(),
            )

    def _worst(self, block: Block, errors: Errors) -> None:
        """Merge the worst structures of a block into those known."""
        first = filters.starts(block.counts)
        rms = np.sqrt(np.add.reduceat(np.square(errors.df).sum(1), first) / (3 * block.counts))
        by_kind = {"energy": np.abs(errors.de) / block.counts, "forces": rms}
        for kind, values in by_kind.items():
            order = np.argsort(-np.nan_to_num(values, nan=-1.0))[: self.keep]
            new = [
                {
                    "where": block.place(k),
                    "formula": formula(block.numbers[first[k] : first[k] + block.counts[k]]),
                    "atoms": int(block.counts[k]),
                    "energy_error": _number(MEV * errors.de[k] / block.counts[k]),
                    "force_rmse": _number(MEV * rms[k]),
                    "rank": float(values[k]),
                }
                for k in order.tolist()
                if np.isfinite(values[k])
            ]
            merged = sorted([*self.worst[kind], *new], key=lambda row: -row["rank"])
            self.worst[kind] = merged[: self.keep]

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able. Energies in meV/atom (energy_total in meV), forces in
        meV/Angstrom; None where there are no labels."""
        elements = {
            SYMBOLS[z]: {"atoms": int(t.sums["atoms"]), "forces": t.as_json()["forces"]}
            for z, t in sorted(self.by_element.items())
        }
        worst = {
            kind: [{k: v for k, v in row.items() if k != "rank"} for row in rows]
            for kind, rows in self.worst.items()
        }
        return {
            "units": {
                "energy": "meV/atom",
                "energy_total": "meV",
                "forces": "meV/Angstrom",
                "stress": "meV/Angstrom^3",
            },
            **self.total.as_json(),
            "no_model": self.no_model.as_json(),
            "by_config_type": {
                name: t.as_json() for name, t in sorted(self.by_config_type.items())
            },
            "by_element": elements,
            "worst": worst,
            "skipped": dict(self.skipped),
        }

    def __repr__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The same for people, a table."""
        lines = [f"{self.structures:,} structures, {int(self.total.sums['atoms']):,} atoms"]
        lines += [f"  skipped {count:,}: {reason}" for reason, count in self.skipped.items()]
        head = "".join(f"{name:>10}" for name in ("E MAE", "E RMSE", "F MAE", "F RMSE"))
        lines.append(f"{'':<24}{'structures':>11}{head}   meV/atom, meV/Angstrom")
        rows = [("all", self.total), ("references alone", self.no_model)]
        rows += sorted(self.by_config_type.items())
        lines += [_row(name, tally) for name, tally in rows]
        found = self.total.as_json()
        total, energy = found["energy_total"], found["energy"]
        if total["mae"] is not None:
            lines.append(
                f"energy of whole structures: MAE {total['mae']:.1f}, RMSE {total['rmse']:.1f} meV"
            )
            if abs(energy["mean"]) > 2 * energy["sd"]:
                lines.append(
                    f"energies are off by {energy['mean']:.1f} meV/atom on average, and by"
                    f" {energy['sd']:.1f} (sd) about that: another level of theory, or other"
                    " reference energies?"
                )
        for name, tally in (("stress", self.total), ("zero stress", self.no_model)):
            if stress := tally.as_json().get("stress"):
                lines.append(
                    f"{name}: MAE {stress['mae']:.2f}, RMSE {stress['rmse']:.2f} meV/Angstrom^3"
                )
        if self.by_element:
            lines.append("forces by element, MAE and RMSE in meV/Angstrom:")
        for z, tally in sorted(self.by_element.items()):
            forces = tally.as_json()["forces"]
            lines.append(
                f"  {SYMBOLS[z]:<3}{int(tally.sums['atoms']):>10,} atoms"
                f"{forces['mae']:>10.2f}{forces['rmse']:>10.2f}"
            )
        for kind, name in (("energy", "energy_error"), ("forces", "force_rmse")):
            unit = "meV/atom" if kind == "energy" else "meV/Angstrom, RMSE"
            if self.worst[kind]:
                lines.append(f"largest errors of {kind} ({unit}):")
            lines += [
                f"  {row[name]:>10.2f}  {row['formula']:<14} {row['where']}"
                for row in self.worst[kind]
            ]
        return "\n".join(lines)

    def figure(self, title: str = "Predictions and labels", group: str = "model") -> Figure:
        """Parity of energies per atom, less the reference energies, and of force components."""
        from .figures.parity import Parity, parity_figure

        panels = [
            Parity(name, *(sample.rows[:, k].tolist() for k in (1, 2)))
            for name, sample in (
                ("energy, eV/atom", self.energies),
                ("force, eV/Angstrom", self.forces),
            )
        ]
        return parity_figure(title, panels, group=group)


def _add(tally: Tally, per_structure: dict[str, np.ndarray]) -> None:
    tally.add(**{name: float(values.sum()) for name, values in per_structure.items()})


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _row(name: str, tally: Tally) -> str:
    found = tally.as_json()
    cells = [found[kind][measure] for kind in ("energy", "forces") for measure in ("mae", "rmse")]
    numbers = "".join(f"{'-' if value is None else f'{value:.2f}':>10}" for value in cells)
    return f"{name[:24] or 'no config type':<24}{found['structures']:>11,}{numbers}"
