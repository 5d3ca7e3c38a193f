"""Pages made from the code when the site is built.

A page says `<!-- generated: NAME -->`, and the function `NAME` below, called with no argument,
gives the Markdown that takes its place: the commands and their options from the parser, the keys of
a study from the pydantic models, laws and columns from where they are declared. Docstrings of the
package are made into reStructuredText for autodoc on the way.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import types
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
GENERATED = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def setup(app: Any) -> dict[str, bool]:
    app.connect("env-get-outdated", filled)
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", restructure)
    return {"parallel_read_safe": True}


def filled(app: Any, env: Any, added: Any, changed: Any, removed: Any) -> list[str]:
    """Pages that are read again at each build: what fills them may have changed, they have not."""
    return [
        page for page in env.found_docs if GENERATED.search(Path(env.doc2path(page)).read_text())
    ]


def fill(app: Any, page: str, source: list[str]) -> None:
    """Replace each `<!-- generated: NAME -->` of a page by what NAME() says."""
    source[0] = GENERATED.sub(lambda found: PAGES[found[1]](), source[0])


# -- commands ---------------------------------------------------------------------------------


def commands() -> str:
    """One section for each command: what it does, how it is called, its options."""
    from forcelaw.cli.main import build_parser

    return "\n".join(_command(build_parser(), level=1))


def _command(parser: argparse.ArgumentParser, level: int) -> list[str]:
    lines = []
    if level > 1:
        lines += [f"{'#' * level} {parser.prog}", ""]
        lines += ["```text", _usage(parser), "```", ""]
        if parser.description:
            lines += [*_prose(parser.description), ""]
        for group in parser._action_groups:
            lines += _options(group)
        if parser.epilog:
            lines += ["```text", parser.epilog.strip("\n").rstrip(), "```", ""]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                lines += _command(child, level + 1)
    return lines


def _usage(parser: argparse.ArgumentParser) -> str:
    # the width of argparse's own help is that of the terminal
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    return formatter.format_help().strip()


def _prose(text: str) -> list[str]:
    """Text of a help page: lines that are indented or laid out by hand stay as they are."""
    out = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if re.search(r"^ +\S|\S {3,}\S", part, re.MULTILINE):
            out += ["```text", part, "```", ""]
        else:
            out += [_escape(part), ""]
    return out


def _options(group: argparse._ArgumentGroup) -> list[str]:
    rows = []
    for action in group._group_actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        if action.help == argparse.SUPPRESS:
            continue
        rows.append(f"| {_names(action)} | {_escape(_help(action))} |")
    if not rows:
        return []
    title = {"options": "option", "positional arguments": "argument"}.get(group.title or "")
    head = [] if title else [f"**{_escape(group.title or '')}**", ""]
    about = [_escape(group.description), ""] if group.description else []
    return [*head, *about, f"| {title or 'option'} | meaning |", "|---|---|", *rows, ""]


def _names(action: argparse.Action) -> str:
    value = action.metavar or (
        None if action.choices is None else "|".join(map(str, action.choices))
    )
    if isinstance(value, tuple):
        value = " ".join(value)
    if not action.option_strings:
        return f"`{_cell(str(value or action.dest))}`"
    if action.nargs == 0:
        return ", ".join(f"`{name}`" for name in action.option_strings)
    return ", ".join(
        f"`{name} {_cell(str(value or action.dest.upper()))}`" for name in action.option_strings
    )


def _help(action: argparse.Action) -> str:
    words = {**vars(action), "prog": ""}
    return (action.help or "") % words


# -- keys of a study --------------------------------------------------------------------------


def _study_parts() -> list[tuple[str, Any]]:
    from forcelaw.study import config
    from forcelaw.study.slurm.options import Slurm
    from forcelaw.training.config import TrainOptions

    return [
        ("The file", config.Study),
        ("`data` as files", config.DataFiles),
        ("Entries of `architectures`", config.ArchitectureSpec),
        ("`replicates`", config.Replicates),
        ("`learning_rate`", config.LearningRate),
        ("`learning_rate` as a law", config.RateLaw),
        ("`sweep`", config.Sweep),
        ("`train`", TrainOptions),
        ("`slurm`", Slurm),
    ]


def study_keys() -> str:
    """Keys of a study file, of its parts, of `train`, and options of each architecture."""
    lines = []
    for title, model in _study_parts():
        lines += [f"## {title}", "", _escape(_first_paragraph(model)), "", *_fields(model), ""]
    return "\n".join([*lines, *_architecture_options()])


def _architecture_options() -> list[str]:
    from forcelaw.models import ARCHITECTURES
    from forcelaw.models.base import ModelConfig
    from forcelaw.study.config import RESERVED

    lines = ["## `options` of each architecture", ""]
    for name, entry in ARCHITECTURES.items():
        lines += [f"### {name}", "", f"{entry.title}, symmetry {entry.symmetry}.", ""]
        own = [f for f in entry.config.model_fields if f not in (*RESERVED, "depth")]
        shared = [f for f in own if f in ModelConfig.model_fields]
        own = [*(f for f in own if f not in shared), *shared]
        lines += [*_fields(entry.config, only=own), ""]
    return lines


def _fields(model: Any, only: list[str] | None = None) -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name in only or model.model_fields:
        field = model.model_fields[name]
        default = "required" if field.is_required() else _default(field)
        meaning = _escape(field.description or "")
        key = field.validation_alias or name  # as a file has it
        rows.append(f"| `{key}` | {_cell(_type(field.annotation))} | {default} | {meaning} |")
    return rows


def _anchor(title: str) -> str:
    return title.replace("`", "").replace(" ", "-").lower()


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or value == "" or isinstance(value, BaseModel):
        return ""
    return f"`{value!r}`" if not isinstance(value, str) else f"`{value}`"


def _type(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type(a) for a in get_args(annotation) if a is not types.NoneType)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {_type(get_args(annotation)[0])}"
    if get_origin(annotation) in (dict, tuple):
        return "mapping" if get_origin(annotation) is dict else "list"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    names |= {model: f"[{_anchor(title)}](#{_anchor(title)})" for title, model in _study_parts()}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


# -- laws, columns, results -------------------------------------------------------------------


def laws() -> str:
    """One section for each law: formula, meaning, parameters."""
    from forcelaw.laws.forms import LAWS

    lines = []
    for name, law in LAWS.items():
        form = law()
        lines += [f"## {name}", "", "```text", form.formula, "```", ""]
        lines += [_plain_docstring(law), ""]
        columns = ", ".join(f"`{role}`" for role in form.roles)
        if "x" in inspect.signature(law).parameters:
            columns += " or another one (option `x`)"
        parameters = ", ".join(f"`{p}`" for p in form.names)
        lines += [f"Columns: {columns}. Parameters: {parameters}. Floor: {form.floor} by default."]
        if law.change:
            lines += [f"Reported as `not_identified` where the data do not show `{law.change}`."]
        lines += [""]
    return "\n".join(lines)


def columns() -> str:
    from forcelaw.table.columns import markdown

    return markdown()


def verdict() -> str:
    """results/README.md. Its links lead to files of the repository and are shown as their paths;
    its pictures are those of the evidence."""
    text = (ROOT / "results" / "README.md").read_text()
    text = re.sub(r"!\[([^]]*)\]\(([^)]+)\)", r"![\1](../../results/\2)", text)

    def path(found: re.Match[str]) -> str:
        return f"{found[1]} (`{os.path.normpath(f'results/{found[2]}')}`)"

    return re.sub(r"(?<!!)\[([^]]+)\]\((?!http)([^)#]+)(#[^)]*)?\)", path, text)


PAGES = {
    "commands": commands,
    "study_keys": study_keys,
    "laws": laws,
    "columns": columns,
    "verdict": verdict,
}


# -- text -------------------------------------------------------------------------------------


def _escape(text: str) -> str:
    """Text from the code as Markdown: what would be markup there is shown as it is, except between
    backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    out = [p if p.startswith("`") else re.sub(r"([\\*_<>|\[\]$])", r"\\\1", p) for p in parts]
    return "".join(p.replace("|", "\\|") if p.startswith("`") else p for p in out)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _first_paragraph(thing: Any) -> str:
    return re.split(r"\n\s*\n", inspect.getdoc(thing) or "")[0].replace("``", "`")


def _plain_docstring(thing: Any) -> str:
    text = inspect.getdoc(thing) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return "\n\n".join(_escape(part) for part in re.split(r"\n\s*\n", text))


def restructure(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read in the code. For the site a paragraph whose lines hang
    ("name: meaning", continued further in) becomes a list, so does one in which sentences begin
    with the names of parameters, and an indented paragraph is code."""
    out: list[str] = []
    names = _parameters(thing)
    for paragraph in re.split(r"\n[ \t]*\n", "\n".join(lines).expandtabs()):
        out += [*_paragraph([line for line in paragraph.split("\n") if line.strip()], names), ""]
    lines[:] = out


def _parameters(thing: Any) -> set[str]:
    """Names of parameters, and fields of a class."""
    try:
        names = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        names = set()
    return names | set(getattr(thing, "__annotations__", {}))


def _paragraph(lines: list[str], names: set[str]) -> list[str]:
    indents = [len(line) - len(line.lstrip()) for line in lines]
    if not lines or lines[0].lstrip().startswith(("*", "-", ":param", "..", ">>>")):
        return lines
    if min(indents) > 0:
        return ["::", "", *(f"    {line}" for line in lines)]
    if max(indents) > 0:
        hanging: list[str] = []
        for line, indent in zip(lines, indents):
            hanging += [line] if indent == 0 else []
            hanging[-1] += "" if indent == 0 else f" {line.strip()}"
        items = [item for line in hanging for item in _sentences(line, names)]
    else:
        items = _sentences(" ".join(lines), names)
    if len(items) == 1 and max(indents) == 0:
        return lines
    return [f"* {item}" for item in items]


def _sentences(text: str, names: set[str]) -> list[str]:
    """Text cut before each "name: " or "one, two: " of parameters that begins a sentence."""
    starts = [
        found.start()
        for found in re.finditer(r"(?:(?<=^)|(?<=[.;)] ))(\w+(?:, \w+)*): ", text)
        if set(found[1].split(", ")) <= names
    ]
    cuts = sorted({0, *starts, len(text)})
    items = [text[a:b].strip() for a, b in pairwise(cuts)]
    if not starts:
        return items
    return [
        re.sub(r"^(\w+(?:, \w+)*): ", r"``\1``: ", item) if a in starts else item
        for a, item in zip(cuts, items)
    ]
