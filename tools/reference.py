"""Writes docs/keys.md and docs/commands.md from the code.

``--check`` writes nothing and fails when they differ, when a key has no description, or when a page
still holds a placeholder or names a file that is not there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from unrolled.cli.main import app
from unrolled.core.config import nested
from unrolled.nn.build import LAYERS
from unrolled.tasks.recipe import Recipe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PLACEHOLDERS = ("DEMO_OUTPUT", "RESULT_ROWS")
NOTE = "<!-- written from the code by `make docs`; change the code, not this page -->\n"
NAMES = {
    str: ("text",),
    int: ("whole number",),
    float: ("number",),
    bool: ("true", "false"),
    NoneType: ("null",),
}


def _type(annotation: Any) -> str:
    """Return a type as people write it: text, whole number, `a`, `b` or `c`, ... or null."""
    alternatives = list(_alternatives(annotation))
    *before, last = alternatives
    return f"{', '.join(before)} or {last}" if before else last


def _alternatives(annotation: Any) -> Iterator[str]:
    """Yield what a value may be, each choice of its own."""
    if annotation in NAMES:
        yield from NAMES[annotation]
        return
    arguments = get_args(annotation)
    kind = get_origin(annotation)
    if kind is Literal:
        for choice in arguments:
            yield f"`{choice}`"
    elif kind is Annotated:
        yield from _alternatives(arguments[0])
    elif kind in (list, tuple):
        yield f"list of {_type(arguments[0])}"
    elif kind is dict:
        # the names in every mapping of a recipe are labels
        yield f"mapping of label to {_type(arguments[1])}"
    elif kind in (Union, UnionType):
        for alternative in arguments:
            yield from _alternatives(alternative)
    else:
        raise TypeError(f"no name for the type {annotation}; add it to NAMES")


def _default(field: FieldInfo) -> str:
    """Return a field's default as YAML spells it; nothing where the program chooses."""
    default = field.default
    if default is PydanticUndefined or default is None:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default != "" else '`""`'


def _description(prefix: str, name: str, field: FieldInfo) -> str:
    """Return what a key does, and of a setting of layers which layers have it."""
    description = field.description or ""
    if prefix != "model.":
        return description
    users = [layer for layer, kind in LAYERS.items() if name in kind.uses]
    if users and len(users) < len(LAYERS):
        return f"{', '.join(users)}: {description}"
    return description


def _table(config: type[BaseModel], prefix: str) -> list[str]:
    rows = ["| key | type | default | what it does |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in config.model_fields.items():
        group = nested(field.annotation)
        if group is not None:
            summary = (group.__doc__ or "").split("\n")[0]
            inner += ["", f"## `{prefix}{name}`", "", summary, ""]
            inner += _table(group, f"{prefix}{name}.")
            continue
        cells = (
            f"`{prefix}{name}`",
            _type(field.annotation),
            _default(field),
            _description(prefix, name, field),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows + inner


def undescribed(config: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the keys that say nothing of what they do."""
    keys: list[str] = []
    for name, field in config.model_fields.items():
        group = nested(field.annotation)
        if group is not None:
            keys += undescribed(group, f"{prefix}{name}.")
        elif not field.description:
            keys.append(f"{prefix}{name}")
    return keys


def keys_page() -> str:
    """Return the page of all keys of a recipe."""
    lines = [
        NOTE,
        "# Keys of a recipe",
        "",
        "Any key can be set on the command line as `key=value`, or in a YAML file. An empty",
        "default means that the program chooses and saves its choice in `config.yaml`. What the",
        "rarer keys are for, each with a command: [tuning](tuning.md).",
        "",
        *_table(Recipe, ""),
    ]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the page of all commands with their help."""
    lines = [NOTE, "# Commands", ""]
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    for name, command in group.commands.items():
        # the class that the command itself would use: typer brings its own copy of click
        context = command.context_class(
            command,
            info_name=f"unrolled {name}",
            max_content_width=96,
            terminal_width=96,
        )
        text = command.get_help(context)
        lines += [f"## unrolled {name}", "", "```", text.rstrip(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def unfinished(page: Path) -> list[str]:
    """Return what is unfinished in a page: placeholders, and links to files that are not there."""
    text = page.read_text("utf-8")
    problems = [
        f"holds the placeholder {word}" for word in PLACEHOLDERS if word in text
    ]
    # what stands in code is shown and not followed
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    links = re.findall(
        r"\]\(\s*<?([^)\s>]+)|(?:src|href)=\"([^\"]+)|^\[[^]]+\]:\s+(\S+)", prose, re.M
    )
    for parts in links:
        path = "".join(parts).partition("#")[0]
        is_file = path and not re.match(r"[a-z][a-z+.-]*:|//", path, re.IGNORECASE)
        if is_file and not (page.parent / path).exists():
            problems.append(f"names {path}, which is not there")
    return [f"{page.relative_to(ROOT)} {problem}" for problem in problems]


def write() -> int:
    """Write the pages; return the exit code."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), "utf-8")
    return 0


def check() -> int:
    """Print what differs from the code, is undescribed or unfinished; return the exit code."""
    problems: list[str] = []
    for name, make in PAGES.items():
        path = DOCS / name
        if not path.exists() or path.read_text("utf-8") != make():
            problems.append(f"docs/{name} differs from the code; run `make docs`")
    for key in undescribed(Recipe):
        problems.append(f"the key {key} has no description")
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        problems += unfinished(page)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


PAGES = {"keys.md": keys_page, "commands.md": commands_page}

if __name__ == "__main__":
    sys.exit(check() if "--check" in sys.argv else write())
