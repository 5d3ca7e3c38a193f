"""Code blocks of a page in Markdown, and how each is run.

```python               all of a page run in one namespace, in order
```python file=toy.py   written to that file; the folder can be imported from
```yaml file=s.yaml     written to that file
```console              each line "$ forcelaw ..." runs through the command line's main()
```console exit=3       ... and ends with that exit code
```text output          each line of it is in what the block before it printed
```python no-run        not run; so are blocks of any other language
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from forcelaw.cli.main import main

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^\n`]*)$")


@dataclass(frozen=True)
class Block:
    language: str
    options: tuple[str, ...]
    text: str
    line: int  # of the first line of code in its page

    def option(self, name: str) -> str | None:
        found = [o.partition("=")[2] for o in self.options if o.partition("=")[0] == name]
        return found[0] if found else None

    @property
    def runs(self) -> bool:
        if "no-run" in self.options:
            return False
        return self.language in ("python", "console") or self.option("file") is not None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; directives ({...}) are none."""
    found, lines = [], page.read_text().split("\n")
    k = 0
    while k < len(lines):
        opening = FENCE.match(lines[k])
        k += 1
        if not opening:
            continue
        start, closing = k, f"{opening['indent']}{opening['fence']}"
        while lines[k] != closing:
            k += 1
        words = opening["info"].split()
        if words and not words[0].startswith("{"):
            text = "\n".join(line.removeprefix(opening["indent"]) for line in lines[start:k])
            found.append(Block(words[0], tuple(words[1:]), text + "\n", start + 1))
        k += 1
    return found


def run_page(page: Path, folder: Path, capsys) -> int:
    """Run what runs of a page in ``folder`` (the current directory); the number of blocks run."""
    namespace: dict = {"__name__": "__page__"}
    printed, count = "", 0
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "text" and "output" in block.options:
            said = " ".join(printed.split())
            for line in block.text.splitlines():
                expected = " ".join(line.split())
                assert expected in said, f"{where}: {expected!r} was not printed, but:\n{printed}"
        if not block.runs:
            continue
        count += 1
        capsys.readouterr()
        if name := block.option("file"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, namespace)
        else:
            _console(block, where)
        printed = "".join(capsys.readouterr())
    return count


def _console(block: Block, where: str) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            continue
        words = shlex.split(line[2:], comments=True)
        assert words[0] == "forcelaw", f"{where}: only forcelaw runs; mark the block no-run"
        try:
            code = main(words[1:])
        except SystemExit as stop:  # --version, --help, and options that argparse refuses
            code = stop.code
        assert code == int(block.option("exit") or 0), f"{where}: exit code {code}: {line}"
