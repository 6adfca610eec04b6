"""Texts that are written for labels and numbers: which column is which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import table, write_csv
from unrolled.core.errors import DataError, UsageError
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Table

LANGUAGES = ("German", "Korean", "Greek")


def names(folder: Path, header: tuple[str, ...] = ("language", "name", "age")) -> Table:
    rows = [(LANGUAGES[row % 3], f"name{row:02}x", row % 7 + 0.5) for row in range(30)]
    return table(write_csv(folder / "names.csv", rows, header))


def written(data: Table, **hints: Any) -> Schema:
    return infer(data, ColumnHints(task="write", **hints))


def shortly(schema: Schema) -> tuple[Any, ...]:
    return schema.task, schema.numbers, schema.categories, schema.answer


def test_labels_and_numbers_are_read_and_the_text_is_written(tmp_path: Path) -> None:
    schema = written(names(tmp_path))
    assert shortly(schema) == ("write", ("age",), ("language",), "name")
    assert schema.writes_texts
    assert schema.inputs == ("age", "language")
    # labels come again and again: rows are told apart by their texts
    assert schema.identifying == ("name",)
    assert Schema("classify", ("text",), answer="label").identifying == ("text",)


def test_columns_that_are_named_are_taken_and_no_others(tmp_path: Path) -> None:
    data = names(tmp_path)
    schema = written(data, categories=("language",))
    assert shortly(schema) == ("write", (), ("language",), "name")
    schema = written(data, numbers=("age",), label="name")
    assert shortly(schema) == ("write", ("age",), (), "name")
    schema = written(data, without=("numbers",))
    assert shortly(schema) == ("write", (), ("language",), "name")
    # numbers may be kinds
    schema = written(data, categories=("age", "language"))
    assert schema.categories == ("age", "language")


def test_a_column_with_the_name_of_a_text_is_the_text(tmp_path: Path) -> None:
    rows = [
        (f"first {row}", LANGUAGES[row % 3], f"and another {row}") for row in range(30)
    ]
    data = table(write_csv(tmp_path / "a.csv", rows, ("review", "language", "remark")))
    assert written(data).answer == "review"
    assert written(data, label="remark").answer == "remark"


def test_without_a_task_a_table_is_one_of_labels(tmp_path: Path) -> None:
    data = names(tmp_path, ("label", "name", "age"))
    assert infer(data, ColumnHints()).task == "classify"


@pytest.mark.parametrize(
    ("hints", "error", "message"),
    [
        ({"text": ("name",)}, UsageError, "reads no data.text; .* task=rewrite"),
        ({"dates": ("age",)}, UsageError, r"reads no data\.dates"),
        (
            {"without": ("numbers", "categories")},
            DataError,
            r"'name' needs labels or numbers .*data\.categories",
        ),
        (
            {"label": "name", "categories": ("name",)},
            DataError,
            "name others with data.categories",
        ),
        ({"categories": ("langage",)}, UsageError, "did you mean 'language'"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, hints: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        written(names(tmp_path), **hints)


def test_a_table_without_texts_is_refused(tmp_path: Path) -> None:
    data = table(
        write_csv(tmp_path / "a.csv", [(n, 2 * n) for n in range(9)], ("a", "b"))
    )
    with pytest.raises(DataError, match=r"no column holds texts.*data\.label"):
        written(data)
