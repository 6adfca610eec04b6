"""Sequences of numbers: gathered from rows, cut into windows, held out by time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import write_csv
from unrolled.core.errors import DataError
from unrolled.data.batches import collate
from unrolled.data.examples import Examples, Spans
from unrolled.data.sources import Table, read
from unrolled.fields.base import InvalidCell
from unrolled.fields.series import (
    Series,
    StepColumns,
    WindowSpec,
    gather,
    hold_out_end,
    order_in_time,
    times_of,
)


def check_label(cell: Any) -> None:
    if not cell:
        raise InvalidCell("no label")


def steps(path: Path, rows: list[tuple[Any, ...]], on_error: str = "stop") -> Table:
    dataset = read(write_csv(path, rows, ("who", "x", "y", "label")), on_error=on_error)  # type: ignore[arg-type]
    assert isinstance(dataset, Table)
    return dataset


def series(table: Table, sequence: int | None = None, skip: bool = False) -> Series:
    return gather(table, StepColumns([1, 2], 3, sequence), check_label, skip)


ROWS = [
    ("a", i, 10 * i, "up") if i % 3 else ("b", i, 10 * i, "down") for i in range(12)
]


def test_rows_of_equal_name_are_one_sequence_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    sequences = series(steps(tmp_path / "s.csv", ROWS), sequence=0)
    assert sequences.names == ["b", "a"]
    assert [row[1] for row in sequences.rows] == [
        [0, 3, 6, 9],
        [1, 2, 4, 5, 7, 8, 10, 11],
    ]
    assert [row[3] for row in sequences.rows] == [["down"] * 4, ["up"] * 8]
    assert sequences.steps == [[2, 5, 8, 11], [3, 4, 6, 7, 9, 10, 12, 13]]
    assert sequences.lines == [2, 3]


def test_a_file_is_one_sequence_and_so_is_each_file_of_a_folder(tmp_path: Path) -> None:
    whole = series(steps(tmp_path / "s.csv", ROWS))
    assert [row[1] for row in whole.rows] == [list(range(12))]
    (tmp_path / "f").mkdir()
    for name, part in (("one", ROWS[:5]), ("two", ROWS[5:])):
        write_csv(tmp_path / "f" / f"{name}.csv", part, ("who", "x", "y", "label"))
    folder = read(tmp_path / "f")
    assert isinstance(folder, Table)
    sequences = series(folder)
    assert [row[1] for row in sequences.rows] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9, 10, 11],
    ]
    assert [Path(name).name for name in sequences.names] == ["one.csv", "two.csv"]
    assert sequences.position(sequences.steps[1][2]) == (
        str(tmp_path / "f" / "two.csv"),
        4,
    )


@pytest.mark.parametrize("bad", ["", "x", "nan", "inf"])
def test_a_missing_value_is_named_with_its_line(tmp_path: Path, bad: str) -> None:
    rows = [*ROWS[:4], ("a", 4, bad, "up"), *ROWS[5:]]
    table = steps(tmp_path / "s.csv", rows)
    with pytest.raises(
        DataError, match=rf"s\.csv:6: column 'y' holds '{bad}' where a number"
    ):
        series(table)
    sequences = series(table, skip=True)
    assert [row[1] for row in sequences.rows] == [[0, 1, 2, 3], [5, 6, 7, 8, 9, 10, 11]]
    assert [error.line for error in sequences.skipped] == [6]


def test_a_row_that_the_reader_left_out_ends_a_sequence_too(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", ROWS, ("who", "x", "y", "label"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], "a,1", *lines[8:]]))
    table = read(path, on_error="skip")
    assert isinstance(table, Table)
    assert [row[1] for row in series(table).rows] == [
        [0, 1, 2, 3, 4, 5],
        [7, 8, 9, 10, 11],
    ]


def test_an_answer_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    table = steps(tmp_path / "s.csv", [*ROWS[:2], ("a", 2, 20, ""), *ROWS[3:]])
    with pytest.raises(DataError, match=r"s\.csv:4: no label"):
        series(table)


@pytest.mark.parametrize(
    ("window", "ahead"), [(3, 1), (1, 0), (5, 4), (12, 1), (11, 1)]
)
def test_windows_are_those_of_numpy(window: int, ahead: int) -> None:
    reading = WindowSpec(window=window, ahead=ahead)
    values = np.arange(12)
    slides = np.lib.stride_tricks.sliding_window_view(values, window)
    expected = [w for w in slides if w[-1] + ahead < 12]
    ends = reading.ends(12)
    assert [w[-1] for w in expected] == ends.tolist()
    assert reading.reach == window + ahead - 1
    assert len(ends) == max(0, 12 - reading.reach)


@pytest.mark.parametrize(("window", "ahead"), [(4, 1), (2, 3), (1, 0)])
def test_no_held_out_answer_is_seen_in_training(
    tmp_path: Path, window: int, ahead: int
) -> None:
    rows = [("a", i, i, "up") for i in range(40)]
    rows[17] = ("a", 17, "", "up")  # a gap cuts the sequence, and not its end
    whole = series(steps(tmp_path / "s.csv", rows), skip=True)
    reading = WindowSpec(True, None, window, ahead)
    train, dev = hold_out_end(whole, 0.25, reading.reach)
    answers = [
        [int(row[1][e + ahead]) for row in part.rows for e in reading.ends(len(row[1]))]
        for part in (train, dev)
    ]
    # the last 10 of the 39 steps that are left are answers, each once, and no other is
    assert answers[1] == list(range(30, 40))
    assert max(answers[0]) == 29
    read_in_training = {int(x) for row in train.rows for x in row[1]}
    assert read_in_training == set(range(30)) - {17}


def test_two_steps_are_the_fewest_that_can_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 steps cannot be split"):
        hold_out_end(series(steps(tmp_path / "s.csv", ROWS[:1])), 0.1, 0)


RNG = np.random.default_rng(0)


def test_spans_are_slices_padded_with_zeros() -> None:
    flat = RNG.normal(size=(20, 3)).astype(np.float32)
    starts = np.array([0, 3, 4, 15])
    lengths = np.array([5, 2, 9, 1])
    examples = Examples(np.arange(4), frames=Spans(flat, starts, lengths))
    assert examples.lengths.tolist() == [5, 2, 9, 1]
    batch = collate(examples, np.array([2, 0, 3]))
    assert batch.lengths is not None
    assert batch.inputs.shape == (3, 9, 3)
    for row, (start, length) in enumerate([(4, 9), (0, 5), (15, 1)]):
        np.testing.assert_array_equal(
            batch.inputs[row, :length], flat[start : start + length]
        )
        assert not batch.inputs[row, length:].any()
    assert batch.lengths.tolist() == [9, 5, 1]
    assert batch.steps == 15
    assert batch.inputs.dtype == torch.float32


# ---------------------------------------------------------------------- order, and what is missing


def timed(path: Path, rows: list[tuple[Any, ...]]) -> Table:
    dataset = read(write_csv(path, rows, ("day", "who", "x", "label")))
    assert isinstance(dataset, Table)
    return dataset


def days(count: int) -> list[tuple[Any, ...]]:
    return [(f"2021-01-{i + 1:02}", "ab"[i % 2], i, "up") for i in range(count)]


@pytest.mark.parametrize("sequence", [None, 1])
@pytest.mark.parametrize("seed", range(3))
def test_steps_stand_in_the_order_of_time(
    tmp_path: Path, sequence: int | None, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(20)
    rows = days(20)
    table = timed(tmp_path / "s.csv", [rows[i] for i in order])
    columns = StepColumns([2], 3, sequence, 0)
    sequences = gather(table, columns, check_label, False)
    expected = (
        [list(range(20))]
        if sequence is None
        else [[*range(0, 20, 2)], [*range(1, 20, 2)]]
    )
    assert sorted(row[2] for row in sequences.rows) == expected
    # each step keeps the line that it stands on
    for row, lines in zip(sequences.rows, sequences.steps, strict=True):
        assert [int(order[line - 2]) for line in lines] == row[2]


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    cells = ["2", "1", "2", "1", "1,5", "2"]
    rows = [(cell, "a", i, "up") for i, cell in enumerate(cells)]
    table = timed(tmp_path / "s.csv", rows)
    order = order_in_time(table, None, 0)
    assert order == np.argsort([2, 1, 2, 1, 1.5, 2], kind="stable").tolist()
    assert times_of(table, 0, True) == [2, 1, 2, 1, 1.5, 2]


def test_steps_in_order_are_left_as_they_are(tmp_path: Path) -> None:
    rows = days(6)
    assert order_in_time(timed(tmp_path / "a.csv", rows), None, 0) is None
    # of each sequence by itself
    one_by_one = [*rows[1::2], *rows[::2]]
    table = timed(tmp_path / "b.csv", one_by_one)
    assert order_in_time(table, 1, 0) is None
    assert order_in_time(table, None, 0) == [3, 0, 4, 1, 5, 2]


def test_a_time_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [*days(3), ("soon", "a", 4, "up"), *days(5)[3:]]
    table = timed(tmp_path / "s.csv", rows)
    columns = StepColumns([2], 3, time=0)
    with pytest.raises(DataError, match=r"s\.csv:5: column 'day' holds 'soon' where a"):
        gather(table, columns, check_label, False)
    # left out, it ends its sequence as any other row does
    pieces = gather(table, columns, check_label, True)
    assert [len(lines) for lines in pieces.steps] == [3, 2]


@pytest.mark.parametrize(
    ("missing", "pieces"),
    [("median", [[0, 1, None, 3, 4]]), ("drop", [[0, 1], [3, 4]])],
)
def test_a_missing_number_is_filled_later_or_ends_its_sequence(
    tmp_path: Path, missing: str, pieces: list[Any]
) -> None:
    rows = days(5)
    rows[2] = (*rows[2][:2], "NA", "up")
    table = timed(tmp_path / "s.csv", rows)
    spec = WindowSpec(True, missing=missing)
    sequences = gather(table, StepColumns([2], 3), check_label, False, spec)
    assert [row[2] for row in sequences.rows] == pieces
    assert [error.line for error in sequences.skipped] == [4] * (missing == "drop")


def test_what_is_neither_number_nor_missing_is_filled_in_training_alone(
    tmp_path: Path,
) -> None:
    rows = days(3)
    rows[1] = (*rows[1][:2], "broken", "up")
    table = timed(tmp_path / "s.csv", rows)
    spec = WindowSpec(True, missing="median")
    columns = StepColumns([2], 3)
    sequences = gather(table, columns, check_label, False, spec)
    assert [row[2] for row in sequences.rows] == [[0, None, 2]]
    with pytest.raises(DataError, match=r"s\.csv:3: column 'x' holds 'broken' where a"):
        gather(table, columns, check_label, False, spec, strict=True)
