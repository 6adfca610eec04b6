"""Writes docs/keys.md and docs/commands.md from the code.

``--check`` writes nothing and fails when they differ, or when a page still holds a placeholder or
names a file that is not there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from unrolled.cli.main import app
from unrolled.core.config import nested
from unrolled.nn.build import LAYERS
from unrolled.tasks.recipe import Recipe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PLACEHOLDERS = ("DEMO_OUTPUT", "RESULT_ROWS")
NOTE = "<!-- written from the code by `make docs`; change the code, not this page -->\n"


def _type(annotation: Any) -> str:
    text = str(annotation) if not isinstance(annotation, type) else annotation.__name__
    for old, new in (
        ("typing.Literal", ""),
        ("['", "`"),
        ("']", "`"),
        ("', '", "` `"),
        (" | None", ""),
    ):
        text = text.replace(old, new)
    return text.replace("|", "or")


def _table(config: type[BaseModel], prefix: str) -> list[str]:
    rows = ["| key | type | default | what it does |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in config.model_fields.items():
        group = nested(field.annotation)
        if group is not None:
            inner += [
                "",
                f"## `{prefix}{name}`",
                "",
                (group.__doc__ or "").split("\n")[0],
                "",
            ]
            inner += _table(group, f"{prefix}{name}.")
            continue
        default = "" if field.default is PydanticUndefined else field.default
        if isinstance(default, bool):
            default = str(default).lower()  # as YAML writes it
        shown = "" if default is None else f"`{default}`"
        description = field.description or ""
        if prefix == "model.":
            users = [layer for layer, kind in LAYERS.items() if name in kind.uses]
            if users and len(users) < len(LAYERS):
                description = f"{description} ({', '.join(users)})".strip()
        kind_of_value = _type(field.annotation)
        rows.append(f"| `{prefix}{name}` | {kind_of_value} | {shown} | {description} |")
    return rows + inner


def keys_page() -> str:
    """Return the page of all keys of a recipe."""
    lines = [
        NOTE,
        "# Keys of a recipe",
        "",
        "Any key can be set on the command line as `key=value`, or in a YAML file. An empty",
        "default means that the program chooses and saves its choice in `config.yaml`.",
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


def faults(page: Path) -> list[str]:
    """Return what is unfinished in a page: placeholders, and links to files that are not there."""
    text = page.read_text("utf-8")
    found = [f"holds the placeholder {word}" for word in PLACEHOLDERS if word in text]
    # what stands in code is shown and not followed
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    links = re.findall(
        r"\]\(\s*<?([^)\s>]+)|(?:src|href)=\"([^\"]+)|^\[[^]]+\]:\s+(\S+)", prose, re.M
    )
    for target in ("".join(parts) for parts in links):
        path = target.partition("#")[0]
        beside = path and not re.match(r"[a-z][a-z+.-]*:|//", path, re.IGNORECASE)
        if beside and not (page.parent / path).exists():
            found.append(f"names {path}, which is not there")
    return [f"{page.relative_to(ROOT)} {fault}" for fault in found]


def main() -> int:
    """Write the pages, or compare them."""
    differing = []
    for name, page in (("keys.md", keys_page()), ("commands.md", commands_page())):
        path = DOCS / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text("utf-8") != page:
                differing.append(name)
        else:
            path.write_text(page, "utf-8")
    if differing:
        print(
            f"docs differ from the code: {', '.join(differing)}; run `make docs`",
            file=sys.stderr,
        )
    unfinished = []
    if "--check" in sys.argv:
        pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
        for page in pages:
            if page.exists():
                unfinished += faults(page)
        print("\n".join(unfinished), end="\n" if unfinished else "", file=sys.stderr)
    return 1 if differing or unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
