"""The captions of the pages, by key and in two languages: one table, ``templates/words/*.json``.

A page holds both languages, and ``html[lang]`` says which one is seen: what was written once is
read in either, without a network.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from unrolled.core.terminal import clean_text

TABLE = Path(__file__).parent / "templates" / "words"
LANGUAGES = ("en", "ko")


def escaped(text: object) -> Markup:
    """Return text for HTML; what would ring, hide or turn the direction of writing is spelt out.

    Markup stays as it is, and a phrase becomes its two languages.
    """
    if isinstance(text, Markup):
        return text
    if isinstance(text, Phrase):
        return text.__html__()
    return Markup(html.escape(clean_text(str(text))))


@dataclass(frozen=True, slots=True)
class Phrase:
    """Text in both languages, escaped for HTML."""

    en: Markup
    ko: Markup

    def __html__(self) -> Markup:
        """Both languages, of which ``html[lang]`` shows one."""
        if self.en == self.ko:
            return self.en
        spans = [
            f'<span class="w" lang="{language}">{getattr(self, language)}</span>'
            for language in LANGUAGES
        ]
        return Markup("".join(spans))

    def __str__(self) -> str:
        """The English text."""
        return self.text("en")

    def text(self, language: str) -> str:
        """Return the text of one language, without markup."""
        markup: Markup = getattr(self, language)
        return markup.striptags()

    def attribute(self, name: str) -> Markup:
        """Return an attribute such as ``aria-label``; the page's script changes its language."""
        en, ko = (html.escape(self.text(language)) for language in LANGUAGES)
        if en == ko:
            return Markup(f'{name}="{en}"')
        return Markup(f'{name}="{en}" data-w="{name}" data-en="{en}" data-ko="{ko}"')


def both(text: object) -> Phrase:
    """Return text that is the same in both languages, such as a name, as a phrase."""
    if isinstance(text, Phrase):
        return text
    return Phrase(escaped(text), escaped(text))


def named(group: str, name: str) -> Phrase:
    """Return the caption ``group.name`` of a name of ours; one without a caption stays as it is."""
    key = f"{group}.{'_'.join(name.replace(',', '').split())}"
    return t(key) if key in table() else both(name)


@cache
def table() -> dict[str, dict[str, str]]:
    """Return every caption: key to language to text, with ``{name}`` where a value stands."""
    captions: dict[str, dict[str, str]] = {}
    for path in sorted(TABLE.glob("*.json")):
        captions.update(json.loads(path.read_text("utf-8")))
    return captions


def t(key: str, /, **values: object) -> Phrase:
    """Return the caption of a key in both languages, with values put in.

    Args:
        key: ``page.caption``, as the table has it.
        values: by the names in the caption; text is escaped, a phrase gives each language its own.

    Raises:
        KeyError: the table has no such key, or a value is missing.
    """
    caption = table()[key]
    parts = {name: both(value) for name, value in values.items()}
    texts = []
    for language in LANGUAGES:
        filled = {name: getattr(part, language) for name, part in parts.items()}
        texts.append(escaped(caption[language]).format(**filled))
    return Phrase(*texts)
