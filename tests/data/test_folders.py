"""Folders: texts, class folders, tables of equal columns; errors that name the right file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Document, fingerprint, read, rows_of
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.series import StepColumns, gather


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    def make(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
        return tmp_path / "set"

    return make


def test_folders_named_by_their_label(folder: Any) -> None:
    path = folder(
        {
            "README.md": "about",
            ".git/x": "no",
            "pos/1.txt": "아주 좋다\n",
            "pos/deep/2.txt": "a, b\n",
            "neg/1.txt": "7, 6, 42\n",
            "neg/2.txt": "싫다\r\n정말\r\n".encode("cp949"),
        }
    )
    dataset = table(path)
    assert dataset.columns == ["text", "label"]
    assert dataset.rows == [
        ("7, 6, 42\n", "neg"),
        ("싫다\n정말\n", "neg"),
        ("아주 좋다\n", "pos"),
        ("a, b\n", "pos"),
    ]
    assert infer(dataset, ColumnHints()) == Schema("classify", ("text",), (), "label")
    assert dataset.position(dataset.lines[2]) == (str(path / "pos" / "1.txt"), 1)
    assert dataset.format.describe() == "folder of texts, without README.md"


def test_a_folder_of_texts_is_one_text_a_row(folder: Any) -> None:
    path = folder(
        {
            "b.txt": "second text.\nof two lines\n",
            "a.txt": "first, text\n",
            "LICENSE": "x",
        }
    )
    dataset = table(path)
    assert dataset.columns == ["text"]
    assert dataset.rows == [("first, text\n",), ("second text.\nof two lines\n",)]
    assert infer(dataset, ColumnHints()).task == "language"


def test_a_faulty_text_is_skipped_or_named(folder: Any) -> None:
    path = folder(
        {"a/1.txt": "fine\n", "b/2.txt": b"\x89PNG\r\n\x1a\n\0", "b/3.txt": "good\n"}
    )
    with pytest.raises(DataError, match=r"b/2\.txt: this is a PNG image"):
        read(path)
    dataset = table(path, on_error="skip")
    assert [row[1] for row in dataset.rows] == ["a", "b"]
    assert dataset.position(dataset.lines[-1]) == (str(path / "b" / "3.txt"), 1)


def test_a_line_inside_a_text_that_does_not_decode_is_named(folder: Any) -> None:
    path = folder({"1.txt": "one\n", "2.txt": b"a line\n" * 30 + b"caf\xe9\n"})
    with pytest.raises(DataError, match=r"2\.txt:31: not valid UTF-8") as caught:
        read(path)
    assert caught.value.line == 31


def test_faults_at_the_end_of_a_table_are_counted(folder: Any) -> None:
    path = folder(
        {"a.csv": "t,n\nx,1\ny,2\nz\nz\nz\n", "b.csv": "t,n\nu,1\nbad\nv,2\n"}
    )
    dataset = table(path, on_error="skip")
    assert [dataset.position(line)[1] for line in dataset.lines] == [2, 3, 2, 4]
    column_indices = [dataset.columns.index(name) for name in ("n", "t")]
    pieces = gather(dataset, StepColumns(column_indices[:1]), str, skip=True)
    assert [len(steps) for steps in pieces.steps] == [2, 1, 1]


def test_only_files_named_so_lie_beside_the_data(folder: Any) -> None:
    files = {
        f"{name}.txt": "words here\n"
        for name in ("complaint_notice", "notice_1", "mylicense")
    }
    beside = ["LICENSE", "readme.txt", "NOTICE.md", "Citation.cff"]
    hidden = ["desktop.ini", "Thumbs.db", "~$report.txt", ".DS_Store"]
    path = folder(files | dict.fromkeys(beside, "x") | dict.fromkeys(hidden, b"\0\1"))
    dataset = table(path)
    assert len(dataset.rows) == 3
    assert set(dataset.format.without) == set(beside)
    assert dataset.format.describe().endswith(" and 1 more")


@pytest.mark.parametrize("inner", ["", "aclImdb/"])
def test_parts_of_a_data_set_are_no_labels(
    folder: Any, tmp_path: Path, inner: str
) -> None:
    names = [
        f"{inner}{part}/{label}/1.txt"
        for part in ("test", "train")
        for label in ("neg", "pos")
    ]
    path = folder(dict.fromkeys([*names, f"{inner}imdb.vocab"], "good film\n"))
    below = path / inner
    command = rf"unrolled.train\('{below}/train', data=\{{'dev': '{below}/test'\}}\)`"
    with pytest.raises(DataError, match=rf"folders test, train are parts .*{command}"):
        read(path)
    folder({f"{inner}valid/pos/1.txt": "x\n"})
    with pytest.raises(DataError, match=rf"data=\{{'dev': '{below}/valid'\}}"):
        read(path)
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name in names:
            archive.write(path / name, name)
    with pytest.raises(DataError, match="unpack it and give"):
        read(tmp_path / "d.zip")
    assert {row[1] for row in table(below / "train").rows} == {"neg", "pos"}


def test_tables_of_equal_columns_are_one_table(folder: Any) -> None:
    path = folder(
        {
            "2024/b.csv": "text,label\nx,1\ny,0\nz,1\n",
            "2023/a.csv": "text,label\ngood,1\nbad,0\n",
        }
    )
    dataset = table(path)
    assert [row[0] for row in dataset.rows] == ["good", "bad", "x", "y", "z"]
    assert len(set(dataset.lines)) == 5
    last = dataset.position(dataset.lines[-1])
    assert last == (str(path / "2024" / "b.csv"), 4)
    assert str(invalid_row(InvalidCell("wrong"), *last)).startswith(
        f"{path}/2024/b.csv:4: wrong"
    )
    assert list(rows_of(path)) == list(zip(dataset.lines, dataset.rows, strict=True))


def test_errors_in_a_folder_of_tables_name_the_file(folder: Any) -> None:
    path = folder(
        {"a.csv": "text,label\ngood,1\n", "b.csv": "text,label\nx,1\nbad\ny,0\n"}
    )
    with pytest.raises(DataError, match=r"b\.csv:3: expected 2 fields"):
        read(path)
    dataset = table(path, on_error="skip")
    assert len(dataset.rows) == 3
    assert [(error.path, error.line) for error in dataset.skipped] == [
        (f"{path}/b.csv", 3)
    ]
    folder({"b.csv": "text,stars\nx,1\n"})
    with pytest.raises(
        DataError, match=r"b\.csv:1: the columns are text, stars, .*text, label"
    ):
        read(path)


def test_what_does_not_belong_together_is_refused(folder: Any, tmp_path: Path) -> None:
    path = folder({"a.csv": "text,label\ngood,1\n", "notes.txt": "some words\n"})
    with pytest.raises(
        DataError, match=r"notes\.txt: this is no table, and a\.csv is one"
    ):
        read(path)
    (path / "a.csv").unlink()
    folder({"pos/1.txt": "good\n"})
    with pytest.raises(DataError, match=r"notes\.txt: this file lies beside folders"):
        read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no data file"):
        read(tmp_path / "empty")


def test_a_folder_with_one_file_is_that_file(folder: Any) -> None:
    document = read(folder({"song.txt": "one\ntwo\n", "README": "about"}))
    assert isinstance(document, Document)
    assert document.text == "one\ntwo\n"


def test_a_fingerprint_tells_a_changed_file_or_name(folder: Any) -> None:
    path = folder({"a.csv": "1,2\n", "b.csv": "3,4\n"})
    first = fingerprint(path)
    assert fingerprint(path) == first
    folder({"b.csv": "3,5\n"})
    second = fingerprint(path)
    (path / "b.csv").rename(path / "c.csv")
    assert len({first, second, fingerprint(path)}) == 3


def test_tables_that_are_parts_of_a_data_set_are_not_joined(folder: Any) -> None:
    table_of = "text,label\na good film,1\na bad film,0\n"
    path = folder(
        {"x_test.csv": table_of, "x_train.csv": table_of, "x-dev.csv": table_of}
    )
    with pytest.raises(DataError, match=r"parts of one data set") as caught:
        read(path)
    command = f"unrolled.train('{path / 'x_train.csv'}', data={{'dev': '{path / 'x-dev.csv'}'}})`"
    assert command in str(caught.value)


def test_one_such_name_is_no_data_set(folder: Any) -> None:
    table_of = "text,label\na good film,1\na bad film,0\n"
    assert (
        len(table(folder({"test_a.csv": table_of, "test_b.csv": table_of})).rows) == 4
    )
