"""Lines of a script that are printed and kept in a file as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path


def keeper(script: str, argv: list[str] | None, out: Path | None) -> Callable[[str], None]:
    """What prints a line and, with ``out``, writes all lines there, below command and date."""
    command = f"python benchmarks/{script} " + " ".join(argv or sys.argv[1:])
    lines = [command, time.strftime("%Y-%m-%d")]

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        if out:
            out.write_text("\n".join(lines) + "\n")

    return say
