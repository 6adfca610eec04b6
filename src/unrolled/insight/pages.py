"""Renders the templates beside this file: what a person reads of a run."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unrolled.core.terminal import clean, clean_text

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def escaped(text: object) -> Markup:
    """Return text for HTML; what would ring, hide or turn the direction of writing is spelt out.

    Markup stays as it is.
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(clean_text(str(text))))


def plain(text: str) -> str:
    """Return text of the data as one line of Markdown that shows it letter by letter."""
    line = clean(" ".join(text.split()))
    return re.sub(r"[\\`*<>|~&\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def thousands(count: int) -> str:
    """Return 12345 as ``12,345``."""
    return f"{count:,}"


def render(template: str, **context: Any) -> str:
    """Return a template of that name, filled in; in one of HTML every expression is ``escaped``.

    Raises:
        jinja2.UndefinedError: the template names what ``context`` does not hold.
    """
    environment = _environment(is_html=template.endswith(".html"))
    return environment.get_template(template).render(context)


@cache
def _environment(is_html: bool) -> Environment:
    # jinja2 is needed once a training ends, and not by the other verbs
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=is_html,
        # jinja2's own escaping would let control characters through
        finalize=escaped if is_html else None,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        trim_blocks=True,
    )
    environment.filters.update(plain=plain, thousands=thousands)
    return environment
