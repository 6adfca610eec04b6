"""Ids to text, one at a time: text comes out only in whole characters."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")


class TextStream(ABC):
    """Turns ids into text as they come, in whole characters only.

    What ``feed`` returns, joined, and ``finish`` at the end are exactly ``decode`` of the ids.
    """

    def __init__(self, tokens: Sequence[Any]) -> None:
        self._tokens = tokens

    def feed(self, id: int) -> str:
        """Return the text that this id completes, often "". ValueError: no such id."""
        check_id(id, len(self._tokens))
        return "" if id < len(SPECIALS) else self._join(self._tokens[id])

    def finish(self) -> str:
        """Return what is still held back; bytes that make no character become U+FFFD."""
        return ""

    @abstractmethod
    def _join(self, token: Any) -> str:
        """Take a token in; return the text that it completes."""


class PlainStream(TextStream):
    """Tokens are text as they are."""

    def _join(self, token: str) -> str:
        return token


class BytesStream(TextStream):
    """Holds the bytes of an unfinished character."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        super().__init__(tokens)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def _join(self, token: bytes) -> str:
        return self._decoder.decode(token)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class JamoStream(TextStream):
    """Holds an initial, or an initial and a vowel, until the next token shows how it goes on."""

    def __init__(self, tokens: Sequence[str]) -> None:
        super().__init__(tokens)
        self._held = ""

    def _join(self, token: str) -> str:
        held = self._held
        code = ord(token)
        first = ord(held) if held else 0
        if 0x1100 <= first <= 0x1112 and 0x1161 <= code <= 0x1175:
            self._held = chr(0xAC00 + ((first - 0x1100) * 21 + code - 0x1161) * 28)
            return ""
        if first >= 0xAC00 and 0x11A8 <= code <= 0x11C2:
            self._held = ""
            return chr(first + code - 0x11A7)
        if 0x1100 <= code <= 0x1112:
            self._held = token
            return held
        self._held = ""
        return held + token

    def finish(self) -> str:
        held = self._held
        self._held = ""
        return held


class WordsStream(TextStream):
    """Puts a blank between words, none before closing marks and after opening ones."""

    CLOSING = frozenset(".,!?;:)]}%…”’»、。，！？")
    OPENING = frozenset("([{“‘«\n")

    def __init__(self, tokens: Sequence[str]) -> None:
        super().__init__(tokens)
        self._tight = True

    def _join(self, token: str) -> str:
        blank = "" if self._tight or token in self.CLOSING or token == "\n" else " "
        self._tight = token in self.OPENING
        return blank + token


class WhitespaceStream(WordsStream):
    """Puts a blank between words, none around a line end."""

    CLOSING = frozenset()
    OPENING = frozenset("\n")


class PiecesStream(TextStream):
    """Writes "▁" as a blank, but not the one that marks the first word."""

    def __init__(self, tokens: Sequence[str]) -> None:
        super().__init__(tokens)
        self._started = False

    def _join(self, token: str) -> str:
        if not self._started:
            self._started = True
            token = token.removeprefix("▁")
        return token.replace("▁", " ")


def check_id(id: int, size: int) -> None:
    """Raise ValueError unless ``id`` is one of ``size`` ids."""
    if not 0 <= id < size:
        raise ValueError(f"expected an id from 0 to {size - 1}, got {id}")
