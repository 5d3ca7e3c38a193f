"""Options of ``forcelaw data generate``, as Python calls pass them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError


@dataclass(frozen=True)
class GenerateOptions:
    """What decides a generated pack, and ``workers``, which does not. smiles: a file of molecules
    to label instead of drawn ones."""

    out: Path
    count: int = 20000
    seed: int = 0
    workers: int | None = None  # one per usable core
    smiles: Path | None = None
    conformers: int = 3
    val_fraction: float = 0.1
    overwrite: bool = False

    def check(self) -> None:
        """Raise DataError for values that make no sense, and for a pack that exists."""
        for name, least in (("count", 1), ("workers", 1), ("conformers", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DataError(
                    f"--{name} {value} makes no sense", remedy=f"pass --{name} {least} or more"
                )
        if not 0.0 <= self.val_fraction < 1.0:
            raise DataError(
                f"--val-fraction {self.val_fraction} is not in [0, 1)",
                remedy="pass --val-fraction 0.1 or so",
            )
        if self.out.exists() and not self.overwrite:
            raise DataError(
                f"{self.out} exists already", remedy="choose another --out, or pass --overwrite"
            )


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
