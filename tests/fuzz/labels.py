"""Labels that try to act on whoever reads a report, through every command that shows them."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.commands import InTurn, command
from tests.fuzz.isolated import Wrong
from tests.report.pages import Page

LABELS = [
    *(
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        '=HYPERLINK("http://x","y")',
    ),
    *("<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</script><script>alert(1)//"),
    *('" onmouseover="alert(1)', "' autofocus onfocus='alert(1)", "<svg/onload=alert(1)>"),
    *("javascript:alert(1)", "[x](javascript:alert(1))", "![x](http://x/y.png)", "<!-- x", "]]>"),
    *("a | b | c", "a\nb", "\n\n# title", "`x`", "\x1b[31mred\x07", "\x1b]0;title\x07", "\x9b31m"),
    *("\u202eright to left", "\u200bzero width", "$\\frac{1}{$", "$x$", "\\input{/etc/passwd}"),
    *("%{x} %s {} %n", "{{ 7 * 7 }}", "{% raw %}", "a" * 5000, "\U0001f9ea" * 300, " ", "nan", "0"),
    *("../../x", "/etc/passwd", "CON", "a\0b", "\ufeffx", "\\x3cimg\\x3e", "&lt;b&gt;", "%3Cb%3E"),
]


_IN_TURN = InTurn(LABELS)


def case(sound: Path, work: Path, chance: random.Random) -> tuple[str, Callable[[], None]]:
    """One label after the other; beside it a usual one, so that they are compared."""
    label = _IN_TURN()
    return f"label {label[:40]!r}", lambda: _show(label, work)


def _show(label: str, work: Path) -> None:
    """Report, fit, compare and diagnose a table with this label."""
    import polars as pl

    work.mkdir()
    rows = [
        {"run": f"{name} {n:g}", "architecture": name, "n": n, "d": d, "loss": n**-0.2 + d**-0.3}
        for name in (label, "plain")
        for n in (1e3, 4e3, 16e3, 64e3)
        for d in (1e5, 2e5, 4e5, 8e5)
    ]
    table = work / "runs.parquet"
    pl.DataFrame(rows).write_parquet(table)
    for words in (
        ["report", str(work), "--out", str(work / "page")],
        ["fit", str(table), "--resamples", "20"],
        ["compare", str(table), "--permutations", "20"],
        ["diagnose", str(table), "--resamples", "20"],
    ):
        code, out, err = command(words)
        if code not in (0, 1, 2, 3):
            raise Wrong(f"{words[0]}: code {code}")
        if not all(c.isprintable() or c in "\n\t" for c in out + err):
            raise Wrong(f"{words[0]} prints control characters")
    _page(Page((work / "page" / "report.html").read_text(encoding="utf-8")))
    for path in (work / "page").rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                if cell[:1] in list("=@\t\r") or (cell[:1] in list("+-") and not _number(cell)):
                    raise Wrong(f"{path.name}: {cell[:60]!r} starts a formula")
    for path in (work / "page").rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        if "<" in text or re.search(r"(?<!\\)\]\(", text):
            raise Wrong(f"{path.name}: Markdown or HTML of a label")


def _number(cell: str) -> bool:
    try:
        float(cell)
        return True
    except ValueError:
        return False


def _page(page: Page) -> None:
    if len(page.scripts) != 3:  # data, plotly, page
        raise Wrong(f"{len(page.scripts)} scripts on the page")
    for tag, given in page.tags:
        if tag in ("img", "iframe", "object", "embed", "base", "form"):
            raise Wrong(f"a tag {tag} on the page")
        if any(name.startswith("on") for name in given):
            raise Wrong(f"a handler in a tag {tag}: {given}")
