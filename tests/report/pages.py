"""Read a page of the report back: tags, tables, texts."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """tags: (name, attributes) in order. tables: id or position -> rows of cells. scripts: their
    texts. text: all visible text."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[dict[str, Any]]]] = []
        self.ids: dict[str, int] = {}
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)
        if tag == "table":
            self.ids[attributes.get("id") or f"#{len(self.tables)}"] = len(self.tables)
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self.tables[-1][-1].append({"tag": tag, "text": "", **attributes})
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text += data
            if "table" in self.open and self.tables[-1] and self.tables[-1][-1]:
                self.tables[-1][-1][-1]["text"] += data + " "

    def table(self, name: str) -> list[list[dict[str, Any]]]:
        return self.tables[self.ids[name]]

    @property
    def figures(self) -> list[list[dict[str, Any]]]:
        return json.loads(self.scripts[0])

    @property
    def words(self) -> str:
        return " ".join(self.text.split())
