"""Renders the templates beside this file: what a person reads of a run.

Pages of HTML extend ``templates/page.html``: one style, one bar of switches, two languages, and a
policy by which a browser loads nothing and runs no script but ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unrolled.core.terminal import clean
from unrolled.insight.words import escaped, t

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT = "page.js"  # of every page
LANGUAGE_CHOICES = ("auto", "en", "ko")


def plain(text: str) -> str:
    """Return text of the data as one line of Markdown that shows it letter by letter."""
    line = clean(" ".join(text.split()))
    return re.sub(r"[\\`*<>|~&\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def thousands(count: int) -> str:
    """Return 12345 as ``12,345``."""
    return f"{count:,}"


def page(
    template: str,
    *,
    lang: str = "auto",
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
    **context: Any,
) -> str:
    """Return a page that extends ``page.html``: one file, which loads nothing.

    Args:
        template: its name among the templates.
        lang: the language that is seen first, ``en`` or ``ko``; ``auto`` follows the browser.
        scripts, styles: names of templates that only this page needs; scripts run at its end.
        context: what the template names.
    """
    texts = [_source(name) for name in (SCRIPT, *scripts)]
    return render(
        template,
        lang=lang,
        policy=_policy(texts),
        head_script=Markup(texts[0]),
        scripts=[Markup(text) for text in texts[1:]],
        styles=[Markup(_source(name)) for name in styles],
        **context,
    )


def data_block(name: str, data: Any) -> Markup:
    """Return JSON that a page's script reads by its id; nothing in it can end the block or run."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    inert = text.replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return Markup(f'<script type="application/json" id="{name}">{inert}</script>')


def render(template: str, **context: Any) -> str:
    """Return a template of that name, filled in; in one of HTML every expression is ``escaped``.

    Raises:
        jinja2.UndefinedError: the template names what ``context`` does not hold.
    """
    environment = _environment(is_html=template.endswith(".html"))
    return environment.get_template(template).render(context)


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy of a page that holds these scripts and no other."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in scripts
    ]
    sources = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src {sources}"
    )


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
    environment.globals.update(t=t)
    return environment
