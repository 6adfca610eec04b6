"""Running text: what is left when a file is nothing else. A line is a row where rows are read."""

from __future__ import annotations

from collections.abc import Iterator

from unrolled.data.formats.base import DataFile, FileFormat, Head, Row, Sniffed
from unrolled.data.lines import Report, numbered_lines

COLUMNS = ("text",)


class TextFormat(FileFormat):
    kind = "text"
    title = "plain text"
    names_columns = False
    running = True
    bounded = False

    def sniff(self, head: Head) -> Sniffed:
        return Sniffed(head.format, list(COLUMNS))

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        for line, text in numbered_lines(file.origin, file.format, report):
            yield line, (text,)
