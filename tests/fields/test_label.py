"""Labels: their order, the same name from every format, and names that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from unrolled.core.errors import UserError
from unrolled.data.columns import label
from unrolled.fields.base import InvalidCell, MissingCell, invalid_row
from unrolled.fields.label import Label


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "2", "9"], ("2", "9", "10")),
        ([10, 9.0, 2], ("2", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([True, False], ("false", "true")),
        (["x ", "x"], ("x",)),
        (["", "a", None, " "], ("a",)),
    ],
)
def test_labels_are_ordered_as_numbers_or_as_words(
    values: list[object], names: tuple[str, ...]
) -> None:
    assert Label.fit("y", values).names == names


def test_json_and_csv_write_the_same_label() -> None:
    assert [label(cell) for cell in (1, 1.0, "1", " 1 ", True, None)] == [
        "1",
        "1",
        "1",
        "1",
        "true",
        "",
    ]


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_label_is_none_of_the_names(empty: str | None) -> None:
    field = Label.fit("y", ["a", empty, "b"])
    with pytest.raises(InvalidCell, match="column 'y' holds no label"):
        field.check(empty)
    with pytest.raises(UserError, match="column 'y' holds no label"):
        Label.fit("y", [empty])


def test_a_label_that_training_did_not_see_names_the_known_and_the_nearest() -> None:
    field = Label.fit("y", ["positive", "negative"])
    assert [field.check(name) for name in ("negative", "positive")] == [0, 1]
    with pytest.raises(InvalidCell) as caught:
        field.check("positiv")
    message = str(invalid_row(caught.value, "test.csv", 7))
    assert message.startswith("test.csv:7: label 'positiv' was not seen in training ")
    assert "(known: negative, positive); did you mean 'positive'?" in message
    assert message.endswith("mend the row, or set data.on_error=skip")


@pytest.mark.parametrize("cell", [["a"], {"a": 1}])
def test_a_label_that_is_no_plain_value_is_refused(cell: object) -> None:
    # it is no name to learn, and an error where it stands
    field = Label.fit("y", ["a", cell, "b"])
    assert field.names == ("a", "b")
    with pytest.raises(InvalidCell, match="where a label is expected"):
        field.check(cell)


def test_a_label_field_survives_json() -> None:
    field = Label.fit("y", ["2", "10", "9"])
    assert Label.from_json(json.loads(json.dumps(field.to_json()))) == field


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["1", "1.0", 1, "2", 2.0], ("1", "2")),
        (["1.0", "1.0", "1", "2"], ("1.0", "2")),
        (["TRUE", True, "true", "FALSE"], ("FALSE", "true")),
        (["a b", "a  b", "a\u00a0b", "c"], ("a b", "c")),
        (["gut", "gut\u200b", "\ufeffgut", "schlecht"], ("gut", "schlecht")),
        (["\uff21", "A", "A", "B"], ("A", "B")),
        # what may be two labels stays two
        (["Yes", "yes", "yes"], ("Yes", "yes")),
        (["007", "7", "7"], ("007", "7")),
        (["1", "1.5", "-1"], ("-1", "1", "1.5")),
    ],
)
def test_what_is_surely_one_label_is_one_under_its_commonest_name(
    values: list[object], names: tuple[str, ...]
) -> None:
    field = Label.fit("y", values)
    assert field.names == names
    # every spelling is read as one of them
    assert {field.check(value) for value in values} == set(range(len(names)))


@pytest.mark.parametrize("empty", ["", " ", None, "NaN", "null", "<NA>", "#N/A"])
def test_a_row_without_a_label_is_left_out_where_they_are_optional(empty: Any) -> None:
    values = ["a", empty, "b"]
    field = Label.fit("y", values, optional=True)
    assert field.names == ("a", "b")
    with pytest.raises(MissingCell, match="column 'y' holds no label"):
        field.check(empty)
    again = Label.from_json(json.loads(json.dumps(field.to_json())))
    assert again == field


@pytest.mark.parametrize("name", ["none", "NA", "-", "?", "unknown", "n/a"])
def test_a_mark_that_may_be_a_label_is_one(name: str) -> None:
    field = Label.fit("y", [name, "b"], optional=True)
    assert name in field.names
    assert field.names[field.check(name)] == name


def test_two_names_of_one_spelling_are_told_apart_by_it_alone() -> None:
    # as runs of before have them
    field = Label("y", ("1", "1.0", "2"))
    assert [field.check(name) for name in ("1", "1.0", "2.0")] == [0, 1, 2]
    with pytest.raises(InvalidCell, match="was not seen in training"):
        field.check("1.00")
