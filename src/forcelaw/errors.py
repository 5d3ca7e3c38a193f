"""Errors that say what was found, where, and what to do. The command line prints them without a
traceback."""

from __future__ import annotations


class ForcelawError(Exception):
    """A mistake in the input that the user can mend.

    what: what was found. where: file, frame, key or column. remedy: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = ""):
        self.what, self.where, self.remedy = what, where, remedy
        parts = [what]
        if where:
            parts.append(f"  where:  {where}")
        if remedy:
            parts.append(f"  remedy: {remedy}")
        super().__init__("\n".join(parts))


class DataError(ForcelawError):
    """A structure source or a pack cannot be read or does not hold what is needed."""


class StudyError(ForcelawError):
    """A study or training specification is wrong."""


class StoreError(ForcelawError):
    """A run directory is damaged or belongs to something else."""


class FitError(ForcelawError):
    """A table of runs cannot carry the fit that was asked for."""
