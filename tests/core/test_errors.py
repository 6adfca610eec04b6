"""Errors say what is wrong and what to do, in one line."""

from __future__ import annotations

from pathlib import Path

from unrolled.core.errors import DataError, UsageError, UserError, nearest, unknown


def test_exit_codes() -> None:
    assert UserError("x").exit_code == 1
    assert UsageError("x").exit_code == 2
    assert DataError("x", "f").exit_code == 1
    assert issubclass(UsageError, UserError)
    assert issubclass(DataError, UserError)


def test_a_data_error_names_file_and_line() -> None:
    error = DataError("a cell is missing", Path("a/b.csv"), 7)
    assert str(error) == "a/b.csv:7: a cell is missing"
    assert (error.path, error.line) == ("a/b.csv", 7)
    assert str(DataError("it is empty", "b.csv")) == "b.csv: it is empty"


def test_nearest() -> None:
    assert nearest("LSMT", ["rnn", "lstm", "gru"]) == "lstm"
    assert nearest("zzzz", ["rnn", "lstm"]) is None
    assert nearest("x", []) is None


def test_unknown_names_the_nearest_or_all() -> None:
    assert unknown("layer", "gur", ["rnn", "gru"]) == (
        "there is no layer 'gur'; did you mean 'gru'?"
    )
    assert (
        unknown("layer", "zzzz", ["rnn", "gru"])
        == "there is no layer 'zzzz'; known: rnn, gru"
    )
