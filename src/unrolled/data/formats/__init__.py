"""Formats of data files: one file each here, and a line in ``FORMATS``.

The first whose ``sniff`` recognises a file reads it, so that their order says which one wins:
what the first bytes give away, then what the lines do, and tables and running text last.
"""

from __future__ import annotations

from unrolled.data.formats.arrays import ArraysFormat
from unrolled.data.formats.base import FileFormat, Format, format_of, register
from unrolled.data.formats.captions_json import CaptionsJsonFormat
from unrolled.data.formats.conll import ConllFormat
from unrolled.data.formats.conllu import ConlluFormat
from unrolled.data.formats.dictionary import DictionaryFormat
from unrolled.data.formats.entity_spans import EntitySpansFormat
from unrolled.data.formats.folder import FolderFormat
from unrolled.data.formats.hub import HubFormat
from unrolled.data.formats.json_array import JsonArrayFormat
from unrolled.data.formats.json_columns import JsonColumnsFormat
from unrolled.data.formats.json_lists import JsonListsFormat
from unrolled.data.formats.jsonl import JsonLinesFormat
from unrolled.data.formats.parquet import ParquetFormat
from unrolled.data.formats.table import TableFormat
from unrolled.data.formats.text import TextFormat
from unrolled.data.formats.trees import TreesFormat
from unrolled.data.formats.word_table import WordTableFormat
from unrolled.data.formats.workbook import WorkbookFormat

FORMATS: tuple[FileFormat, ...] = (
    ParquetFormat(),
    ArraysFormat(),
    WorkbookFormat(),
    EntitySpansFormat(),
    CaptionsJsonFormat(),
    JsonArrayFormat(),
    JsonColumnsFormat(),
    JsonListsFormat(),
    JsonLinesFormat(),
    ConllFormat(),
    ConlluFormat(),
    TreesFormat(),
    DictionaryFormat(),
    WordTableFormat(),
    TableFormat(),
    TextFormat(),
)
# rows that are those of no single file
OTHERS = (FolderFormat(), HubFormat())

register(*FORMATS, *OTHERS)

__all__ = ["FORMATS", "OTHERS", "FileFormat", "Format", "format_of", "register"]
