"""What is said of a reading that may be wrong: what, in which line, and the key that settles it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import table
from unrolled.core.errors import DataWarning
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import read
from unrolled.data.warnings import lines_of, warnings_of, warnings_of_text

WORDS = ["film", "story", "music", "actors", "scene", "plot", "voice"]
ROWS = 80


def prose(row: int) -> str:
    return (
        " ".join(WORDS[(row * step) % len(WORDS)] for step in (1, 3, 5, 7)) + f" {row}"
    )


def rows_of(header: str, cells: Any, count: int = ROWS) -> str:
    return "\n".join([header, *map(cells, range(count))]) + "\n"


def said(path: Path, missing: str = "median", **hints: Any) -> list[DataWarning]:
    dataset = table(path)
    given = ColumnHints(**hints)
    return warnings_of(dataset, infer(dataset, given), given, missing)


def the_one(path: Path, **hints: Any) -> DataWarning:
    warnings = said(path, **hints)
    assert len(warnings) == 1, list(map(str, warnings))
    return warnings[0]


def test_a_plain_table_needs_no_word(write: Any) -> None:
    text = rows_of("text,label", lambda row: f"{prose(row)},{'ab'[row % 2]}")
    assert said(write(text)) == []
    numbers = rows_of("area,floor,price", lambda row: f"{30 + row},{row % 9},{row}.5")
    assert said(write(numbers)) == []


def test_lines_are_named_and_the_rest_counted() -> None:
    assert lines_of([7]) == "line 7"
    assert lines_of([7, 9]) == "lines 7, 9"
    assert lines_of(range(1, 8)) == "lines 1, 2, 3 and 4 more"


@pytest.mark.parametrize("mark", ["NA", "n/a", "-", ".", "?", "#N/A", "", "null"])
def test_missing_numbers_are_counted_with_their_lines(write: Any, mark: str) -> None:
    def cells(row: int) -> str:
        area = mark if row in (5, 57) else str(30 + row)
        return f"{area},{row % 9},{row}.5"

    path = write(rows_of("area,floor,price", cells))
    warning = the_one(path)
    assert warning.message == (
        "area holds no number in 2 rows (lines 7, 59): the median of training stands in, and a "
        "flag beside it"
    )
    assert (warning.key, warning.line) == ("data.missing", 7)
    (dropped,) = said(path, missing="drop")
    assert dropped.message.endswith(": their rows are left out")
    assert said(path, missing="error") == []  # the rows are refused when they are read


def test_what_is_no_number_is_shown(write: Any) -> None:
    def cells(row: int) -> str:
        return f"{'twelve' if row == 9 else row},{row % 9},{row}.5"

    assert (
        "in 1 row (line 11), such as 'twelve'"
        in the_one(write(rows_of("area,floor,price", cells))).message
    )


def test_a_doubtful_thousand(write: Any) -> None:
    path = write(rows_of("area,price", lambda row: f'{row},"{1 + row},{row:03d}"'))
    warning = the_one(path)
    assert warning.message.startswith(
        "price writes numbers as 1,000, read as 1000 with"
    )
    assert warning.message.endswith("it is read with '.' before decimals")
    assert warning.key == "data.decimal"
    assert said(path, decimal=",") == []


@pytest.mark.parametrize(
    ("spelt", "names"),
    [
        (["1", "1.0", "0"], "1, 1.0"),
        (["True", "TRUE", "false"], "True, TRUE"),
        (["pos", "neg", "neg\u200b"], "neg"),
        (["pos", "neg", "neg "], "'neg ', neg"),
    ],
)
def test_labels_that_are_one_are_named(
    write: Any, spelt: list[str], names: str
) -> None:
    text = rows_of("text,label", lambda row: f"{prose(row)},{spelt[row % 3]}")
    message = the_one(write(text)).message
    assert message.startswith("labels that differ by blanks or spelling alone are one")
    assert names in message


def test_labels_that_differ_by_case_stay_several(write: Any) -> None:
    names = ["pos", "Pos", "neg"]
    text = rows_of("text,label", lambda row: f"{prose(row)},{names[row % 3]}")
    warning = the_one(write(text))
    assert warning.message == "labels that differ by case alone are 2 labels: pos, Pos"
    assert warning.key == "mend the file where they are one"


def test_a_column_that_gives_the_answer_away(write: Any) -> None:
    def cells(row: int) -> str:
        return f"{['Kim', 'Lee'][row % 2]},{prose(row)},{'ab'[row % 2]}"

    first, second = said(write(rows_of("agent,text,label", cells)))
    assert first.message == (
        "agent alone gives the answer of 100% of the rows, where the commonest answer has 50%: it "
        "is left out"
    )
    assert first.key == "data.categories"
    assert "agent looks like whom or what a row is of" in second.message
    assert "data.group=agent" in second.key
    read = said(write(rows_of("team,text,label", cells)))
    assert "leave it out unless it is known before the answer is" in read[0].message


def day(row: int) -> str:
    return f"2021-{1 + row // 28:02d}-{1 + row % 28:02d}"


def test_a_series_is_proposed(write: Any) -> None:
    text = rows_of("date,sales", lambda row: f"{day(row)},{100 + row}.5", 28)
    warning = the_one(write(text))
    assert (
        "date has one row for each step of time: to forecast sales" in warning.message
    )
    assert warning.key == "data.window=24"
    assert said(write(text), window=5) == []


def test_steps_that_run_backwards_are_put_in_order(write: Any) -> None:
    text = rows_of("date,sales", lambda row: f"{day(27 - row)},{row}.5", 28)
    warning = the_one(write(text), window=5)
    assert warning.message.startswith(
        "date runs backwards in 27 rows (line 3 is the first)"
    )
    assert (warning.key, warning.line) == ("data.time", 3)


def test_steps_that_are_missing(write: Any) -> None:
    days = [1, 2, 3, 4, 5, 9, 10, 11, 12, 15, 16, 17]
    text = rows_of("date,sales", lambda row: f"2021-01-{days[row]:02d},{row}.5", 12)
    warning = the_one(write(text), window=5)
    assert "date goes on by 1 day a step, and by more in 2 " in warning.message
    assert warning.line == 7


def test_repeated_dates_propose_the_column_that_tells_sequences(write: Any) -> None:
    def cells(row: int) -> str:
        store, step = divmod(row, 28)
        return f"{day(step)},{step % 2},{'abc'[store]},{100 + row}.5"

    path = write(rows_of("date,open,store,sales", cells, 84))
    first = next(w for w in said(path, window=5) if "more than once" in w.message)
    assert first.key == "data.sequence=store"
    assert not any("once" in w.message for w in said(path, window=5, sequence="store"))


def test_the_order_of_day_and_month_that_no_date_tells(write: Any) -> None:
    text = rows_of(
        "when,city,price", lambda row: f"{1 + row % 12}/5/2021,{row},{row}.5"
    )
    warning = the_one(write(text))
    assert "whether the day or the month stands first" in warning.message


def test_cells_that_are_no_dates(write: Any) -> None:
    def cells(row: int) -> str:
        when = "soon" if row == 3 else f"2021-01-{1 + row % 28:02d}"
        return f"{when},{row},{row}.5"

    warning = the_one(write(rows_of("when,area,price", cells)))
    assert "when holds no date in 1 row (line 5)" in warning.message
    assert warning.line == 5


def test_texts_that_steps_leave_out(write: Any) -> None:
    def cells(row: int) -> str:
        return f"{row // 10},{row % 7},{prose(row)},{'ab'[row // 10 % 2]}"

    path = write(rows_of("ticket,x,message,label", cells))
    warning = next(w for w in said(path, sequence="ticket") if "message" in w.message)
    assert "which steps of a sequence do not have: it is left out" in warning.message


def test_a_warning_as_text_and_as_json(write: Any) -> None:
    path = write(rows_of("text,label,text", lambda row: f"{prose(row)},{row % 2},x"))
    warning = said(path)[0]
    assert str(warning) == (
        "warning: two columns are named text; the later one is read as text_2 (rename one)"
    )
    assert warning.to_json() == {
        "message": warning.message,
        "key": "rename one",
        "line": 1,
    }


def test_a_text_of_numbers_may_be_a_table(write: Any) -> None:
    numbers = "".join(f"{row} {row / 7:.3f} 12\n" for row in range(40))
    (warning,) = warnings_of_text(read(write(numbers, "housing.data")))
    assert "read as running text" in warning.message
    prose = "".join(f"in {1900 + row} the film was shown\n" for row in range(40))
    assert warnings_of_text(read(write(prose, "film.txt"))) == []
