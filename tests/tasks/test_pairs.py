"""Pairs of texts: rows that do not fit, on either side, and options that cannot be followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import unrolled
from conftest import table
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.aligned import read_aligned
from unrolled.data.sources import Format, Table
from unrolled.fields.text import Text
from unrolled.tasks.base import AnswerOptions, FileLayout, OutputConstraints
from unrolled.tasks.translate import Translate
from unrolled.text.tokenizers import Tokenizer

LAYOUT = FileLayout(["en", "de"], Format("table", ",", header=True))


def task_of(longest: int | None = 6, without: str = "") -> Translate:
    """Return a task that knows the letters from a to f."""
    tokenizer = Tokenizer.fit("chars", ["abcdef"])
    source = Text(("en",), tokenizer, None)
    target = Text(("de",), tokenizer, None)
    return Translate(source, target, longest, without, LAYOUT)


def rows_of(*rows: tuple[str | None, str | None]) -> Table:
    """Return a table whose rows stand on the lines after its header."""
    lines = list(range(2, len(rows) + 2))
    return Table("rows.csv", LAYOUT.format, LAYOUT.columns, list(rows), lines)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "abcdef,a",
            "column 'en' has 7 tokens with its end mark; data.max_tokens is 6",
        ),
        (
            "a,abcdef",
            "column 'de' has 7 tokens with its end mark; data.max_tokens is 6",
        ),
        (f"{'a' * 100_000},a", "column 'en' has 100,001 tokens with its end mark"),
        (",a", "column 'en' is empty"),
        ("a,  ", "column 'de' is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named_or_counted(
    write: Callable[..., Path], row: str, message: str
) -> None:
    path = write(f"en,de\nab,ba\n{row}\nabc,cba\n", "rows.csv")
    task = task_of()
    with pytest.raises(DataError, match=r"rows\.csv:3: " + message):
        task.encode(table(path), "stop")
    examples, errors = task.encode(table(path), "skip")
    assert examples.lines.tolist() == [2, 4]
    assert examples.references == ("ba", "cba")
    assert [error.line for error in errors] == [3]


# a cell that holds nothing is known at once, a text that is too long once it is encoded
FAULTY = rows_of(
    ("ab", "ba"),
    ("abcdefa", "a"),
    ("", "b"),
    ("a\x00", "b"),
    ("abc", "cba"),
    ("a", "abcdefa"),
    ("a", None),
    ("f", "f"),
)


def test_errors_stand_in_the_order_of_their_rows_whatever_they_are() -> None:
    examples, errors = task_of().encode(FAULTY, "skip")
    assert examples.lines.tolist() == [2, 6, 9]
    assert examples.sources == ("ab", "abc", "f")
    assert [error.line for error in errors] == [3, 4, 5, 7, 8]
    reasons = ["8 tokens", "is empty", "holds a NUL", "8 tokens", "is empty"]
    for error, reason in zip(errors, reasons, strict=True):
        assert reason in str(error)
    # tokens and texts are those of the same row
    assert examples.sequences.lengths.tolist() == [3, 4, 2]
    assert examples.targets is not None
    assert examples.targets.lengths.tolist() == [3, 4, 2]


def test_the_first_row_that_does_not_fit_is_the_error() -> None:
    with pytest.raises(DataError, match=r"rows\.csv:3: column 'en' has 8 tokens"):
        task_of().encode(FAULTY, "stop")
    # without a limit it is the first one that is empty
    with pytest.raises(DataError, match=r"rows\.csv:4: column 'en' is empty"):
        task_of(longest=None).encode(FAULTY, "stop")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_table_of_which_nothing_is_left_is_an_error(on_error: str) -> None:
    with pytest.raises(DataError, match=r"rows\.csv:2: column 'en' is empty"):
        task_of().encode(rows_of(("", "a"), ("abcdefa", "a")), on_error)
    with pytest.raises(DataError, match="no row is left to read"):
        task_of().encode(rows_of(), on_error)


def test_what_the_reader_left_out_is_told_before_what_does_not_fit() -> None:
    rows = rows_of(("ab", "ba"), ("", "b"))
    rows.skipped.append(DataError("it has 3 cells", "rows.csv", 9))
    _, errors = task_of().encode(rows, "skip")
    assert [error.line for error in errors] == [9, 3]


def test_characters_that_targets_leave_out_count_as_nothing() -> None:
    task = task_of(without="f")
    examples, errors = task.encode(rows_of(("f", "faf"), ("a", "ff")), "skip")
    assert (examples.sources, examples.references) == (("f",), ("a",))
    assert [str(error) for error in errors] == [
        "rows.csv:3: column 'de' is empty; mend the row, or set data.on_error=skip"
    ]


def test_texts_are_encoded_alike_in_chunks_of_any_size(
    mirror: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = unrolled.load(mirror.run).task
    rows = read_aligned(mirror.source, mirror.target, limit=50)
    whole, _ = task.encode(rows, "stop")
    monkeypatch.setattr("unrolled.tasks.pairs.TEXTS", 7)
    pieces, _ = task.encode(rows, "stop")
    assert np.array_equal(whole.sequences.flat, pieces.sequences.flat)
    assert np.array_equal(whole.targets.offsets, pieces.targets.offsets)


def test_a_source_that_cannot_be_answered_says_why(mirror: SimpleNamespace) -> None:
    run = unrolled.load(mirror.run)
    for row, reason in (
        ("", "is empty"),
        ("a " * 20, "has 21 tokens with its end mark; data.max_tokens is 20"),
        ("a\x00b", "holds a NUL character"),
        ("a " * 50_000, "has 50,001 tokens"),
    ):
        assert reason in run.task.why_not_answerable([row])
        with pytest.raises(UserError, match=reason):
            run.answers([row])
    assert run.task.why_not_answerable(["a " * 19]) == ""
    assert run.predict(["a " * 19])[0]


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "constraints",
    [OutputConstraints(begin="aX"), OutputConstraints(required=("ab", "bX"))],
)
def test_words_that_the_vocabulary_has_no_pieces_for_are_refused(
    constraints: OutputConstraints,
) -> None:
    options = AnswerOptions(constraints=constraints)
    with pytest.raises(UsageError, match="X' cannot be asked for"):
        task_of().check_options(options)


def test_words_that_can_be_written_or_are_banned_are_not_refused() -> None:
    constraints = OutputConstraints(begin="ab", banned=("X",), required=("fed",))
    task_of().check_options(AnswerOptions(constraints=constraints))


def test_an_alignment_needs_a_model_that_looks_at_its_source() -> None:
    options = AnswerOptions(constraints=OutputConstraints(alignment=True))
    task = task_of()
    without = SimpleNamespace(attends=False)
    with pytest.raises(UsageError, match="has no attention, so there is no alignment"):
        task.check_options(options, without)  # type: ignore[arg-type]
    task.check_options(options, SimpleNamespace(attends=True))  # type: ignore[arg-type]
    # before there is a model nothing is known of it
    task.check_options(options)
