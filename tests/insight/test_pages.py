"""Templates: what stands in the data is shown letter by letter, and a missing name is an error."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
import sys

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from unrolled.insight import pages, words


def test_html_is_escaped_and_markup_is_not() -> None:
    assert words.escaped("<b>\"'&\x07\u202e\n") == (
        "&lt;b&gt;&quot;&#x27;&amp;\\x07\\u202e\n"
    )
    assert words.escaped(Markup("<b>")) == "<b>"
    assert words.escaped(1.5) == "1.5"
    cells = [("<i>\x07", [(1234, 0.5)])]
    page = pages.render("matrix.html", names=["<i>\x07"], rows=cells)
    assert page.count(">&lt;i&gt;\\x07</th>") == 2
    assert ">1,234</td>" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("<a|b>", r"\<a\|b\>"),
        (" two\n\nlines ", "two lines"),
        ("\x1b[2J", r"\\x1b\[2J"),
    ],
)
def test_markdown_is_one_line_and_shows_every_letter(text: str, shown: str) -> None:
    assert pages.plain(text) == shown


@pytest.mark.parametrize("name", ["report.html", "card.md", "matrix.html"])
def test_a_name_that_is_missing_is_an_error(name: str) -> None:
    with pytest.raises(UndefinedError):
        pages.render(name)


def test_the_templates_are_read_when_a_page_is_written() -> None:
    code = "import unrolled.insight.pages, sys; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_policy_allows_the_scripts_of_a_page_and_no_other() -> None:
    page = pages.page("page.html")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    rules = html.unescape(policy)
    assert rules.startswith("default-src 'none';")
    assert rules.endswith(f"script-src 'sha256-{digest}'")
    assert "connect-src" not in rules


def test_data_for_a_script_cannot_end_its_block() -> None:
    data = {"text": "</script><script>alert(1)</script><!--"}
    block = pages.data_block("trace", data)
    assert block.count("</script>") == 1
    assert "<!--" not in block
    (body,) = re.findall(r">(.*)</script>", block)
    assert json.loads(body) == data


def test_a_language_may_be_chosen() -> None:
    assert '<html lang="en" data-lang="auto">' in pages.page("page.html")
    assert '<html lang="ko" data-lang="ko">' in pages.page("page.html", lang="ko")
