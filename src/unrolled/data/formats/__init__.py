"""Formats of data files: one file each here, and a line in ``FORMATS``.

The first whose ``sniff`` recognises a file reads it, so that their order says which one wins:
what the first bytes give away, then what the lines do, and tables and running text last.
"""

from __future__ import annotations

from unrolled.data.formats.base import FileFormat, Format, format_of, register
from unrolled.data.formats.conllu import Conllu
from unrolled.data.formats.dictionary import Dictionary
from unrolled.data.formats.folder import Folder
from unrolled.data.formats.hub import Hub
from unrolled.data.formats.json_array import JsonArray
from unrolled.data.formats.jsonl import JsonLines
from unrolled.data.formats.parquet import Parquet
from unrolled.data.formats.table import DelimitedTable
from unrolled.data.formats.text import RunningText
from unrolled.data.formats.trees import Trees

FORMATS: tuple[FileFormat, ...] = (
    Parquet(),
    JsonArray(),
    JsonLines(),
    Conllu(),
    Trees(),
    Dictionary(),
    DelimitedTable(),
    RunningText(),
)
# rows that are those of no single file
OTHERS = (Folder(), Hub())

register(*FORMATS, *OTHERS)

__all__ = ["FORMATS", "OTHERS", "FileFormat", "Format", "format_of", "register"]
