"""What tasks share: frozen fields, columns of files, options, and what a layer can reach."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from unrolled.core.errors import DataError, UsageError
from unrolled.data.sources import Document, Format, Table
from unrolled.nn import build_layer
from unrolled.runs.keys import deep
from unrolled.tasks.base import (
    AnswerOptions,
    FileLayout,
    OutputConstraints,
    Task,
    check_reach,
    locate,
    need_table,
    score_batches,
)
from unrolled.tasks.names import OF_KINDS, TASKS
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class

NAMED = Format("table", ",", header=True)
UNNAMED = Format("table", ",")
KINDS = [task_class(name) for name in TASKS]
for kind, tasks in OF_KINDS.items():
    KINDS += [task_class(name, kind) for name in tasks]


def table(columns: list[str], format: Format = NAMED) -> Table:
    return Table("rows.csv", format, columns, [], [])


def recipe(**keys: Any) -> Recipe:
    return Recipe.read(deep(keys))


# ---------------------------------------------------------------------- a task is frozen


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_attribute_of_a_task_can_be_changed(kind: type[Task]) -> None:
    # what a task holds does not matter here, and no method is called
    task: Any = object.__new__(kind)
    names = [field.name for field in dataclasses.fields(task)]
    assert "layout" in names
    for name in (*names, *kind.measures, "name", "metric", "anything"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(task, name, None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(task, name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_metric_of_a_task_is_one_of_its_measures(kind: type[Task]) -> None:
    assert kind.metric in kind.measures
    assert "loss" in kind.measures


# ---------------------------------------------------------------------- columns of a file


def test_columns_are_found_by_name_in_any_order() -> None:
    file = table(["label", "other", "text"])
    assert locate(file, ["text", "label"], ["text", "label"]) == [2, 0]
    assert locate(file, [], ["text", "label"]) == []


def test_columns_without_names_stand_where_those_of_training_stood() -> None:
    trained = ["id", "text", "label"]
    whole = table(["column1", "column2", "column3"], UNNAMED)
    assert locate(whole, ["text", "label"], trained, "label") == [1, 2]
    # a file that is to be answered may lack the answer, or hold the inputs alone
    unanswered = table(["column1", "column2"], UNNAMED)
    assert locate(unanswered, ["text"], trained, "label") == [1]
    inputs = table(["column1"], UNNAMED)
    assert locate(inputs, ["text"], trained, "label") == [0]


@pytest.mark.parametrize(
    ("format", "columns", "line"),
    [
        (NAMED, ["texts", "label"], 1),
        # by position alone where the file has no names
        (NAMED, ["column1", "column2"], 1),
        (UNNAMED, ["column1", "column2", "column3", "column4"], None),
    ],
)
def test_a_column_that_is_missing_is_named(
    format: Format, columns: list[str], line: int | None
) -> None:
    with pytest.raises(DataError, match=r"column 'text'.*data\.text=\.\.\.") as caught:
        locate(table(columns, format), ["text"], ["text", "label"], "label")
    assert (str(caught.value.path), caught.value.line) == ("rows.csv", line)


def test_a_column_that_is_missing_is_answered_with_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'texts'"):
        locate(table(["texts", "label"]), ["text"], ["text", "label"])


def test_the_layout_of_a_file_is_its_columns_and_its_format() -> None:
    assert FileLayout.of(table(["a", "b"])) == FileLayout(["a", "b"], NAMED)
    running = Format("text")
    text = Document("song.txt", running, "row row row")
    assert FileLayout.of(text) == FileLayout([], running)


def test_a_plain_text_is_no_table() -> None:
    rows = table(["a"])
    assert need_table(rows) is rows
    with pytest.raises(DataError, match="a table with an answer column is needed"):
        need_table(Document("song.txt", Format("text"), "row"))


# ---------------------------------------------------------------------- options of answers


def test_the_options_of_answers_are_those_of_the_recipe() -> None:
    keys = {
        "decoding.beam": 3,
        "data.copy_unknown": False,
        "data.score_tokenizer": "none",
    }
    options = AnswerOptions.of(recipe(**keys))
    assert options.search.beam == 3
    assert not options.copy_unknown
    assert options.score_tokenizer == "none"
    assert options.constraints == OutputConstraints()
    constraints = OutputConstraints(begin="a", banned=("b",))
    options = AnswerOptions.of(recipe(), constraints)
    assert options == AnswerOptions(constraints=constraints)


# ---------------------------------------------------------------------- rows and layers


@pytest.mark.parametrize(
    ("most", "texts", "message"),
    [
        (None, 1, "a row may have any number: set data.max_tokens to 12 or less"),
        (13, 1, "a row may have 13: set data.max_tokens to 12 or less"),
        (7, 2, "a row may have 14: set data.max_tokens to 6 or less"),
    ],
)
def test_a_row_longer_than_a_layer_reads_is_refused(
    most: int | None, texts: int, message: str
) -> None:
    keys = {"layer": "attention", "model.context": 12, "model.heads": 2}
    short = recipe(**keys, **{"data.max_tokens": most})
    layer = build_layer("attention", short.model, 8)
    with pytest.raises(UsageError, match=message):
        check_reach(layer, short, texts)


def test_a_row_that_fits_or_a_layer_without_end_is_not_refused() -> None:
    keys = {"layer": "attention", "model.context": 12, "model.heads": 2}
    fitting = recipe(**keys, **{"data.max_tokens": 6})
    layer = build_layer("attention", fitting.model, 8)
    check_reach(layer, fitting)
    check_reach(layer, fitting, texts=2)
    endless = recipe(**{"layer": "gru", "data.max_tokens": None})
    check_reach(build_layer("gru", endless.model, 8), endless, texts=9)


def test_batches_that_are_scored_hold_every_row_once_and_like_lengths() -> None:
    lengths = np.array([5, 1, 9, 1, 5, 3])
    batches = score_batches(lengths, tokens=10, rows=3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 10
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest == sorted(longest)
