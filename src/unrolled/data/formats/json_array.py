"""A JSON array of objects, over any number of lines, by itself or in an object: {"data": [...]}.

It is read an object at a time.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

from unrolled.core.errors import DataError, UserError
from unrolled.data.archives import BROKEN, Origin, is_too_long
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.formats.jsonl import JsonLinesFormat, ObjectRows
from unrolled.data.json_values import Keys, json_object, json_rows, keys_of
from unrolled.data.lines import Report, nfc

_CHUNK = 1 << 16  # characters
_SNIFFED_OBJECTS = 1000  # objects whose keys are the columns
# an object whose first keys hold plain values, up to an array of objects
_WRAPPED = re.compile(
    r'\s*\{(?:\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[-+.\w]+)\s*,)*\s*"[^"\\]*"\s*:\s*(?=\[\s*\{)'
)
_BLANKS = "\ufeff \t\r\n"
_MARK = re.compile(r'["\\{}\[\]]')
# the line an object begins on, and its text; None: it is too long
Piece = tuple[int, str | None]


class JsonArrayFormat(ObjectRows, FileFormat):
    kind = "json_array"
    title = "JSON array"

    def sniff(self, head: Head) -> Sniffed | None:
        if array_of(head) != "{":
            return None
        format = replace(head.packed, kind=self.kind)
        keys = columns_of(head.origin, format)
        return Sniffed(replace(format, optional=keys.optional), keys.columns)

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        pieces = objects(file.origin, file.format)
        yield from json_rows(
            pieces,
            file.origin,
            file.columns,
            file.needed,
            report,
            file.format.optional,
        )


def array_of(head: Head) -> str | None:
    """Return what each row of an array begins with: { or [; None where a file is no such array."""
    if _WRAPPED.match(head.start) and is_one_object(head):
        return "{"
    array = re.match(r'\s*\[\s*(\{\s*["}]|\[)', head.start)
    if array is None:
        return None
    opener = array.group(1)[0]
    if opener == "[":
        lines = [line.strip() for line in head.lines if line.strip()]
        # rows that begin with a list, one a line
        if len(lines) > 1 and all(line.startswith("[[") for line in lines[:2]):
            return None
    return opener


def is_one_object(head: Head) -> bool:
    """Return whether an object is all that a file holds, and not the first of its lines."""
    if JsonLinesFormat.names(head.name):
        return False
    first, _, rest = head.start.partition("\n")
    # an object by itself on the first line, with others below it, is a row
    return not (rest.strip() and first.rstrip().rstrip(",").endswith("}"))


def columns_of(origin: Origin, format: Format) -> Keys:
    """Return the keys of the first objects. Raises DataError: there is no object."""
    first = itertools.islice(objects(origin, format), _SNIFFED_OBJECTS)
    pieces = [(line, text) for line, text in first if text is not None]
    keys = keys_of([text for _, text in pieces])
    if keys.columns:
        return keys
    for line, text in pieces:
        try:
            json_object(text)
        except UserError as error:
            raise DataError(str(error), origin.name, line) from None
    raise DataError("this JSON array holds no object with a key", origin.name, 1)


def objects(origin: Origin, format: Format, opener: str = "{") -> Iterator[Piece]:
    """Yield each object of the array as text in NFC, in memory that the longest row bounds.

    Args:
        origin, format: the file, and how it is encoded.
        opener: what a row begins with: { or, where rows are lists, [.

    Raises:
        DataError: the array is not closed, holds something else than objects, or goes on after its
            end; or bytes do not decode.
    """
    scanner = _Scanner(origin, opener)
    with origin.open() as raw:
        encoding = "utf-8-sig" if format.encoding == "utf-8" else format.encoding
        text = io.TextIOWrapper(raw, encoding)
        try:
            chunk = text.read(_CHUNK)
            wrapped = _WRAPPED.match(chunk)
            if wrapped:
                scanner.open_wrapper(wrapped.group())
                chunk = chunk[wrapped.end() :]
            while chunk:
                yield from scanner.read(chunk)
                if scanner.is_done():
                    break
                chunk = text.read(_CHUNK)
        except UnicodeDecodeError as error:
            message = f"bytes that are no {format.encoding} ({error.reason}); name data.encoding"
            raise DataError(message, origin.name, scanner.line) from None
        except BROKEN as error:
            raise origin.broken(error, scanner.line) from None
    scanner.end()


class _Scanner:
    """Cuts the text of an array into its objects, whatever chunks it comes in."""

    def __init__(self, origin: Origin, opener: str) -> None:
        self.origin = origin
        self.opener = opener
        self.line = 1
        self.depth = 0  # of brackets; 1 is within the array, between its objects
        self.in_string = False
        self.escaped = False  # whether the character before was a backslash in a string
        self.ended = False
        self.begun = 0  # the line on which the object that is read begins
        # its text so far, or what stands between two objects
        self.parts: list[str] = []
        self.size = 0
        self.wrapped = False  # whether the array stands in an object

    def open_wrapper(self, text: str) -> None:
        """Pass over the beginning of the object that the array stands in."""
        self.wrapped = True
        self.line += text.count("\n")

    def is_done(self) -> bool:
        """Whether all rows were read: what else stands in the object is none."""
        return self.wrapped and self.ended

    def read(self, chunk: str) -> Iterator[Piece]:
        """Yield the objects that end in the next characters of the file."""
        kept = position = 0  # from where characters are not in ``parts``, nor looked at
        if self.escaped:
            self.escaped = False
            position = 1
        counted = 0
        while mark := _MARK.search(chunk, position):
            at = mark.start()
            character = mark.group()
            position = at + 1
            self.line += chunk.count("\n", counted, at)
            counted = at
            if self.in_string:
                if character == "\\":
                    position = at + 2
                    self.escaped = at + 2 > len(chunk)
                self.in_string = character != '"'
                continue
            if character == '"' and self.depth > 1:
                self.in_string = True
            elif character in "[{":
                if self.depth <= 1:
                    self._keep(chunk[kept:at])
                    self._between(character)
                    kept = at if self.depth else at + 1
                    self.begun = self.line if self.depth else 0
                self.depth += 1
            elif character in "]}":
                self.depth -= 1
                if self.depth <= 1:
                    end = at + 1 if self.depth == 1 else at
                    self._keep(chunk[kept:end])
                    kept = at + 1
                    if self.depth == 1:
                        yield self._taken()
                    else:
                        self._between(character)
                        self.ended = True
                        if self.wrapped:
                            return
            elif self.depth <= 1:
                raise self._strange(character)
        self._keep(chunk[kept:])
        self.line += chunk.count("\n", counted)

    def end(self) -> None:
        """Raise DataError where the file ends within the array."""
        if not self.ended:
            message = "this JSON array has no end; copy the file anew, or close its last object"
            raise DataError(message, self.origin.name, self.begun or 1)
        self._between("")

    def _keep(self, text: str) -> None:
        self.size += len(text)
        if self.depth <= 1 or self.size <= self.origin.max_row:
            self.parts.append(text)

    def _taken(self) -> Piece:
        text = "".join(self.parts)
        size = self.size
        self.parts = []
        self.size = 0
        if size > self.origin.max_row or is_too_long(text, self.origin.max_row):
            return self.begun, None
        return self.begun, nfc(text)

    def _between(self, character: str) -> None:
        """Refuse what stands before a bracket outside of all objects, but for one comma."""
        text = "".join(self.parts).strip(_BLANKS)
        self.parts = []
        self.size = 0
        first = not self.begun
        fits = character not in ("[", "{")
        if not fits:
            fits = character == (self.opener if self.depth else "[")
        expected = "," if character == self.opener and self.depth and not first else ""
        # as some programs write it, a comma may stand behind the last row
        text = text if first or character != "]" else text.removeprefix(",")
        if not fits or text != expected or (self.ended and (text or character)):
            raise self._strange(text or character)

    def _strange(self, text: str) -> DataError:
        excerpt = (text.strip(f",{_BLANKS}") or text)[:20]
        what = "objects alone; write [{...}, {...}]"
        if self.opener == "[":
            what = "lists alone; write [[...], [...]]"
        message = f"{excerpt!r} where an array holds {what}"
        return DataError(message, self.origin.name, self.line)
