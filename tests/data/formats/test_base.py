"""The registry of formats: which one wins, what each says of itself, and how one is added."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import unrolled.data.formats as formats
from conftest import table
from unrolled.core.errors import UserError
from unrolled.data import reader
from unrolled.data.archives import Origin, find
from unrolled.data.formats import FORMATS, OTHERS, base
from unrolled.data.formats.base import DataFile, FileFormat, Format, Head, Row, Sniffed
from unrolled.data.lines import Report, numbered_lines
from unrolled.data.sources import parse_row, read

ROOT = Path(formats.__file__).parent


class KeyedFormat(FileFormat):
    """Lines of key=value: a format that the package does not know."""

    kind = "keyed"
    title = "keyed lines"
    suffixes = ("keyed",)

    def sniff(self, head: Head) -> Sniffed | None:
        if not self.names(head.name) and "=" not in head.lines[0]:
            return None
        return Sniffed(replace(head.format, kind=self.kind), ["key", "value"])

    def rows(self, file: DataFile, report: Report) -> Iterator[Row]:
        for line, text in numbered_lines(file.origin, file.format, report):
            yield line, tuple(text.split("=", 1))


def test_every_file_here_is_a_format_that_is_listed() -> None:
    listed = {
        type(known).__module__.rpartition(".")[2] for known in (*FORMATS, *OTHERS)
    }
    assert listed == {path.stem for path in ROOT.glob("*.py")} - {"__init__", "base"}
    kinds = [known.kind for known in (*FORMATS, *OTHERS)]
    assert len(set(kinds)) == len(kinds)


def test_a_format_is_added_by_one_line(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a=1\nb=x=y\n")
    assert read(path).format.kind == "text"
    monkeypatch.setattr(reader, "FORMATS", (KeyedFormat(), *FORMATS))
    monkeypatch.setattr(base, "_BY_KIND", {**base._BY_KIND})
    base.register(KeyedFormat())
    dataset = table(path)
    assert (dataset.columns, dataset.rows) == (
        ["key", "value"],
        [("a", "1"), ("b", "x=y")],
    )
    assert dataset.format.describe() == "keyed lines, UTF-8"
    assert parse_row("c=3", dataset.format, dataset.columns) == ("c=3",)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("PAR1", "parquet"),
        ('[{"a": 1}]', "json_array"),
        ('{"a": 1}\n', "jsonl"),
        ("1\ta\ta\tX\tX\t_\t0\troot\t_\t_\n", "conllu"),
        ("(S (N a))\n" * 2, "trees"),
        ("a EY1\nb B IY1\n", "dictionary"),
        ("text,label\na b,1\n", "table"),
        ("Call me Ishmael.\n", "text"),
    ],
)
def test_the_first_that_recognises_a_file_wins(
    write: Any, monkeypatch: pytest.MonkeyPatch, content: str, kind: str
) -> None:
    parquet = formats.parquet
    monkeypatch.setattr(parquet, "columns_of", lambda origin: (["a"], []))
    head = Head(find(write(content)), None)
    winners = [known.kind for known in FORMATS if known.sniff(head) is not None]
    assert winners[0] == kind
    assert winners[-1] == "text"  # which takes every file


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("a.csv", ["word_table", "table"]),
        ("a.TSV.gz", ["word_table", "table"]),
        ("a.jsonl", ["jsonl"]),
        ("a.ndjson.gz", ["jsonl"]),
        ("a.conll", ["conll", "conllu"]),
        ("a.conllu", ["conllu"]),
        ("a.tree", ["trees"]),
        ("a.mrg", ["trees"]),
        ("a.dict", ["dictionary"]),
        ("a.parquet", ["parquet"]),
        ("a.json", []),
        ("csv", []),
        ("a.csv.txt", []),
    ],
)
def test_names_of_files(name: str, kinds: list[str]) -> None:
    assert [known.kind for known in FORMATS if known.names(name)] == kinds


def test_what_formats_say_of_themselves() -> None:
    header = Format("table", "\t", header=True)
    assert header.describe() == "tab-separated, header, UTF-8"
    assert header.named
    assert not Format("table", "\t").named
    assert not Format("text").named
    assert Format("conllu").named
    assert Format("table", quoted=True).describe() == (
        "one column, no header, quoted, UTF-8"
    )
    assert Format("table", ",", quoted=True).describe() == (
        "comma-separated, no header, UTF-8"
    )
    assert Format("jsonl", gzip=True).describe() == "JSON lines, UTF-8, gzip"
    mixed = Format("text", encoding="cp949", newline="mixed", zip=True)
    assert mixed.describe() == "plain text, CP949, mixed line ends, zip"
    folder = Format("folder", without=("a", "b", "c", "d", "e"))
    assert folder.describe() == "folder of texts, without a, b, c and 2 more"
    assert Format("hub").describe() == "data set of the hub"
    objects = [known.kind for known in (*FORMATS, *OTHERS) if known.objects]
    assert objects == ["parquet", "json_array", "json_columns", "jsonl", "hub"]


def test_a_kind_that_is_none_is_said() -> None:
    with pytest.raises(UserError, match="'xml' is no format of data files"):
        Format("xml").describe()


def test_a_file_is_read_only_as_far_as_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}]')
    calls = []
    monkeypatch.setattr(base, "encoding_of", lambda origin: calls.append(1) or "utf-8")
    head = Head(Origin(path), None)
    assert head.bytes == b'[{"a": 1}]'
    assert re.match(r"\[", head.start)
    assert not calls  # which may take a look at the whole file
    assert head.packed.kind == "text"
    assert head.lines == ['[{"a": 1}]']
    assert len(calls) == 1
