"""A certificate: what was measured of an architecture, as JSON, Markdown and HTML, and how a study
finds it. Needs no torch."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import StoreError, printable
from ..files import read_json, whole, write_json

Verdict = Literal["holds", "fails", "note", "skipped"]
FOLDER = "certificates"  # beside the output directories of studies, and beside study files
FORMAT = 1


@dataclass(frozen=True)
class Line:
    """One line of a certificate. found: what was measured, in words; values: the numbers."""

    name: str
    verdict: Verdict
    found: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """What was measured of one architecture.

    architecture: as studies name it. code: of a package from outside
    (:func:`forcelaw.plugins.code_of`), None for one of ours. about: data, options, versions,
    machine, date, seconds.
    """

    architecture: str
    title: str
    code: dict[str, str] | None
    about: dict[str, Any]
    lines: list[Line]

    @property
    def heading(self) -> str:
        """Title, and the options that it was measured with."""
        return ", ".join([self.title, *(f"{k} {v}" for k, v in self.options.items())])

    @property
    def options(self) -> dict[str, Any]:
        """Options of the architecture that it was measured with."""
        return dict(self.about.get("options") or {})

    @property
    def failed(self) -> list[str]:
        """Names of the lines that fail."""
        return [line.name for line in self.lines if line.verdict == "fails"]

    @property
    def holds(self) -> bool:
        """Whether no line fails."""
        return not self.failed

    def line(self, name: str) -> Line:
        """The line called ``name``; KeyError if there is none."""
        return {line.name: line for line in self.lines}[name]

    def text(self) -> str:
        """The page for a terminal."""
        wide = max(len(line.name) for line in self.lines)
        head = f"{self.heading} ({self.architecture})"
        rows = [f"{x.name:<{wide}}  {x.verdict:<7}  {x.found}" for x in self.lines]
        return printable("\n".join([head, *rows, self.summary()]))

    def summary(self) -> str:
        """One sentence."""
        if self.failed:
            return f"{len(self.failed)} of {len(self.lines)} lines fail: {', '.join(self.failed)}"
        skipped = [line.name for line in self.lines if line.verdict == "skipped"]
        return "every line holds" + (f"; not measured: {', '.join(skipped)}" if skipped else "")

    def record(self) -> dict[str, Any]:
        """What a study keeps of it: date, options, the lines that fail, and each line in words."""
        return {
            "date": self.about.get("date"),
            **({"options": self.options} if self.options else {}),
            "failed": self.failed,
            "lines": {x.name: [x.verdict, x.found] for x in self.lines},
        }

    def write(self, folder: Path) -> Path:
        """Write NAME.json, NAME.md and NAME.html into ``folder``; the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{file_name(self.architecture, self.options)}.json"
        write_json(path, {"format": FORMAT, **asdict(self)})
        for suffix, text in ((".md", self.markdown()), (".html", self.html())):
            with whole(path.with_suffix(suffix)) as temporary:
                temporary.write_text(text)
        return path

    def markdown(self) -> str:
        """The page in Markdown."""

        def cell(text: str) -> str:
            return printable(text).replace("|", "\\|").replace("\n", " ")

        rows = [f"| {cell(x.name)} | {x.verdict} | {cell(x.found)} |" for x in self.lines]
        facts = [f"- {name}: {cell(str(value))}" for name, value in self._facts()]
        return "\n".join(
            [
                f"# Certificate of {cell(self.heading)}",
                "",
                f"{self.summary()[0].upper()}{self.summary()[1:]}.",
                "",
                "| what | verdict | found |",
                "|---|---|---|",
                *rows,
                "",
                *facts,
                "",
            ]
        )

    def html(self) -> str:
        """The page as one HTML file."""
        rows = "\n".join(
            f'<tr class="{x.verdict}"><th>{html.escape(x.name)}</th><td>{x.verdict}</td>'
            f"<td>{html.escape(printable(x.found))}</td></tr>"
            for x in self.lines
        )
        facts = "".join(
            f"<li>{html.escape(name)}: {html.escape(printable(str(value)))}</li>"
            for name, value in self._facts()
        )
        title = html.escape(printable(self.heading))
        return PAGE.format(title=title, summary=html.escape(self.summary()), rows=rows, facts=facts)

    def _facts(self) -> list[tuple[str, Any]]:
        code = {} if self.code is None else {"code": _text(self.code)}
        facts = {"architecture": self.architecture, **code, **self.about}
        return [(name, _text(value)) for name, value in facts.items() if value not in ({}, None)]


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Certificate of {title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid #8884 }}
th {{ white-space: nowrap; font-weight: 600 }}
.fails td:nth-child(2) {{ color: #c22; font-weight: 600 }}
.skipped, .note td:nth-child(2) {{ opacity: .7 }}
</style></head><body>
<h1>Certificate of {title}</h1>
<p>{summary}.</p>
<table>
{rows}
</table>
<ul>{facts}</ul>
</body></html>
"""


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return str(value)


def file_name(architecture: str, options: Mapping[str, Any] | None = None) -> str:
    """The name of the files of an architecture's certificate with options, without suffix."""
    parts = [architecture, *(f"{k} {v}" for k, v in sorted((options or {}).items()))]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", " ".join(parts))


def read(path: Path) -> Certificate:
    """A certificate from its JSON. StoreError where the file is none."""
    content = read_json(path)
    try:
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        lines = [Line(**line) for line in content.pop("lines")]
        return Certificate(lines=lines, **content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"this is no certificate: {type(error).__name__}: {error}",
            where=str(path),
            remedy="make it again: forcelaw certify",
        ) from error


def find(
    architecture: str,
    code: Mapping[str, str] | None,
    folders: Iterable[Path],
    options: Mapping[str, Any] | None = None,
) -> Certificate | None:
    """The certificate of an architecture with options, in the first folder that has one of this
    very code. Most lines are the same for both kinds of ``forces``: one of the other kind will do
    where there is none of this."""
    wanted = dict(options or {})
    kind = wanted.pop("forces", None)
    for folder in folders:
        fitting = []
        for path in sorted(folder.glob(f"{file_name(architecture)}*.json")):
            found = read(path)
            its = found.options
            its_kind = its.pop("forces", None)
            about = found.architecture, found.code, its
            if about == (architecture, code and dict(code), wanted):
                fitting.append((its_kind != kind, its_kind is not None, found))
        if fitting:
            return min(fitting, key=lambda each: each[:2])[2]
    return None
