"""Errors that say what was found, where, and what to do. The command line prints them without a
traceback."""

from __future__ import annotations

import importlib.util
import sys

# package that is imported -> extra of forcelaw that installs it
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "ase": "train",
    "h5py": "train",
    "vesin": "train",
    "matplotlib": "report",
    "plotly": "report",
    "jinja2": "report",
    "rdkit": "generate",
    "tblite": "generate",
    "ase_db_backends": "aselmdb",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "metatomic": "metatomic",
    "mace": "mace",
    "mace-torch": "mace",
    "nequip": "nequip",
    "metatrain": "pet",
    "allegro": "allegro",
    "submitit": "slurm",
    "nequip-allegro": "allegro",
    "e3nn": "mace",
    "fairchem": "fairchem",
    "flashcart": "flashcart",
    "matgl": "tensornet",
    "orb_models": "orb",
}


def printable(text: str) -> str:
    """Text with its control characters spelled out, so that they neither act on a terminal nor
    lack a glyph."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class ForcelawError(Exception):
    """A mistake in the input that the user can correct.

    what: what was found. where: file, frame, key or column. remedy: what to do about it.
    exit_code: of the command that meets it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = ""):
        self.what, self.where, self.remedy = what, where, remedy
        parts = [what]
        if where:
            parts.append(f"  where:  {where}")
        if remedy:
            parts.append(f"  remedy: {remedy}")
        super().__init__(printable("\n".join(parts)))


class DataError(ForcelawError):
    """A structure source or a pack cannot be read or does not hold what is needed."""


class StudyError(ForcelawError):
    """A study or training specification is wrong."""


class StoreError(ForcelawError):
    """A run directory is damaged or belongs to something else."""


class ClaimError(StoreError):
    """Another worker has taken a run over; the one that meets this writes nothing more."""


class StorageError(ForcelawError):
    """Files cannot be written or read: the disk is full, a quota is used up, a mount is lost. Not a
    fault of what was being done, which can be tried again."""

    exit_code = 74  # EX_IOERR of sysexits.h


class RankError(ForcelawError):
    """Another of the processes that train one run together is gone, or does not answer. The run is
    open, and resumes from its last checkpoint.

    failed: the other one ended by an error of the training, which may come again.
    """

    exit_code = 76  # EX_PROTOCOL of sysexits.h
    failed = False


class FitError(ForcelawError):
    """A table of runs cannot carry the fit that was asked for."""


class TableError(FitError):
    """A table of runs cannot be read, or its cells are not what they are taken for."""


class MissingPackageError(ForcelawError, ImportError):
    """A package that only some uses of forcelaw need is not installed."""

    def __init__(self, package: str):
        extra = EXTRAS[package]
        super().__init__(
            f"the package {package} is not installed",
            remedy=f"pip install 'forcelaw[{extra}]'",
        )


class ForcelawWarning(UserWarning):
    """Base of all warnings of forcelaw; the command line prints them as one line."""


class NotConservativeWarning(ForcelawWarning):
    """Forces that are no gradient of an energy are used where energy should be conserved."""


class UnseenStateWarning(ForcelawWarning):
    """Structures have a charge or a spin that the model does not see."""


def require(*packages: str) -> None:
    """MissingPackageError for the first of ``packages`` that is not installed. Imports none."""
    for package in packages:
        hidden = package in sys.modules and sys.modules[package] is None
        if hidden or (package not in sys.modules and importlib.util.find_spec(package) is None):
            raise MissingPackageError(package)


def missing_package(error: ModuleNotFoundError) -> Exception:
    """The MissingPackageError that stands for ``error``; ``error`` itself if no extra of forcelaw
    has the module."""
    package = (error.name or "").partition(".")[0]
    return MissingPackageError(package) if package in EXTRAS else error
