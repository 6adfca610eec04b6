"""Labels: their order, the same name from every format, and names that are none."""

from __future__ import annotations

import json

import pytest

from unrolled.core.errors import UserError
from unrolled.data.columns import label
from unrolled.fields.base import InvalidCell, invalid_row
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
