"""A pack from the options of a command or the keys of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from ..elements import SYMBOLS
from ..errors import DataError
from .atomic_energies import AtomicEnergies
from .build import PrepareOptions
from .filters import Filter
from .options import DataFiles, Preparation, Source
from .pack import Pack
from .prepare import prepare
from .readers import SourceOptions


def source_options(given: Source) -> SourceOptions:
    """Labels and units of every source."""
    return SourceOptions(**{name: getattr(given, name) for name in Source.model_fields})


def prepare_files(
    given: Preparation,
    out: Path,
    *,
    base: Path = Path(),
    jobs: int = 1,
    say: TextIO | None = None,
    **options: Any,
) -> Path:
    """Make the pack ``out``. base: the folder that paths are relative to. jobs: processes that
    read. options: further fields of PrepareOptions."""
    keep = Filter(
        only_neutral=given.only_neutral,
        max_force=given.max_force,
        elements=_elements(given.elements),
        keep_isolated_atoms=given.keep_isolated_atoms,
        charge=given.only_charge,
        spin=given.only_spin,
        config_types=frozenset(_words(given.config_types)) or None,
        not_config_types=frozenset(_words(given.not_config_types)),
    )
    how = PrepareOptions(
        val_fraction=given.val_fraction,
        seed=given.seed,
        group=given.group,
        split=given.split,
        skip_unlabelled=given.skip_unlabelled,
        skip_bad=given.skip_bad,
        drop_duplicates=given.drop_duplicates,
        keep=keep,
        atomic_energies=AtomicEnergies.parse(given.E0s),
        allow=frozenset(word for text in given.allow for word in _words(text)),
        label_noise=_noise(given.label_noise),
        **options,
    )
    lists = {side: getattr(given, f"{side}_indices") for side in ("train", "validation", "test")}
    return prepare(
        [base / path for path in given.train],
        out,
        validation=[base / path for path in given.validation],
        test=[base / path for path in given.test],
        indices={side: base / path for side, path in lists.items() if path},
        sources=source_options(given),
        options=how,
        jobs=jobs,
        say=say,
    )


def pack_of_files(given: DataFiles, name: str, base: Path, say: TextIO | None = None) -> Pack:
    """The pack of a study whose ``data`` are files: the one that was made before from the same
    keys, or a new one."""
    out = base / (given.pack or f"{name}-pack")
    made_from = given.model_dump(mode="json", exclude_defaults=True)
    if not out.exists():
        prepare_files(given, out, base=base, say=say, command=f"study {name}", made_from=made_from)
    pack = Pack(out)
    before = pack.manifest.get("made_from")
    if before != made_from:
        keys = sorted(
            k for k in {*made_from, *(before or {})} if made_from.get(k) != (before or {}).get(k)
        )
        raise DataError(
            f"the pack {out.name} was made from other keys of data (different: {', '.join(keys)})",
            where=str(out),
            remedy="remove it, and it is made again; or name another with data.pack",
        )
    return pack


def _noise(text: str | None) -> dict[str, float] | None:
    """The manifest's entry on the noise of labels."""
    if text is None:
        return None
    return dict(zip(("energy_mae", "force_mae"), map(float, text.split(","))))


def _words(text: str | None) -> list[str]:
    """The parts of a list with commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _elements(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    names = _words(text)
    unknown = [name for name in names if name not in SYMBOLS[1:]]
    if unknown or not names:
        raise DataError(
            f"--elements {text}: unknown {', '.join(unknown) or 'list'}",
            remedy="for example --elements H,C,N,O",
        )
    return frozenset(SYMBOLS.index(name) for name in names)
