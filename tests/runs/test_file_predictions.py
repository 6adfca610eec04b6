"""Answers to the rows of a file: as many as it has, in its order, those that were left out too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unrolled
from conftest import write_csv
from unrolled.core.errors import DataError
from unrolled.data.sources import rows_of
from unrolled.runs import file_predictions
from unrolled.runs.file_predictions import in_step

SENTENCES = """\
1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_

1\tSue\udcff\tSue\tPROPN\t_\t_\t2\tnsubj\t_\t_
2\tlikes\udc80\tlike\tVERB\t_\t_\t0\troot\t_\t_

1\ttea\ttea\tNOUN\t_\t_\t0\troot\t_\t_

1\tmar\tmar\tNOUN\t_\t_\t0\troot\t_\t_
"""


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write_files(files: dict[str, Any]) -> Path:
        for name, content in files.items():
            path = tmp_path / "files" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
        return tmp_path / "files"

    return write_files


def lost(path: Path) -> list[bool]:
    """Return for each row of a file whether it was left out, in its order."""
    return [row is None for _, row in in_step(rows_of(path, on_error="skip"))]


# ---------------------------------------------------------------------- rows in step


def test_a_record_of_several_lines_is_one_row_that_was_left_out(
    write: Callable[..., Path],
) -> None:
    rows = [
        b'"a",1',
        b'"b\nb \xff, ""x""\n\xfe""b",0',
        b'"c, d",1',
        b"\xff,0",
        b'"e\ne",1',
        b"f,0",
    ]
    path = write(b"text,label\n" + b"\n".join(rows) + b"\n", "d.csv")
    assert lost(path) == [False, True, False, True, False, False]


def test_two_lost_lines_of_a_sentence_are_one_row(write: Callable[..., Path]) -> None:
    path = write(SENTENCES.encode("utf-8", "surrogateescape"), "a.conllu")
    assert lost(path) == [False, True, False, False]


def test_a_text_that_was_left_out_keeps_its_index_among_the_files(
    folder: Callable[..., Path],
) -> None:
    texts: dict[str, Any] = {f"{n:03}.txt": "one\ntwo\n" * 20 for n in range(9)}
    damaged = b"a line\n" * 30 + b"caf\xe9\n"
    path = folder(texts | dict.fromkeys(["003.txt", "004.txt", "008.txt"], damaged))
    assert [index for index, is_lost in enumerate(lost(path)) if is_lost] == [3, 4, 8]


def test_rows_at_the_end_of_a_table_come_before_the_next_table(
    folder: Callable[..., Path],
) -> None:
    path = folder({"a.csv": "t,n\nx,1\ny,2\nz\nz\nz\n", "b.csv": "t,n\nu,1\nz\nv,2\n"})
    assert lost(path) == [False, False, True, True, True, False, True, False]


def test_lines_are_counted_over_all_files(folder: Callable[..., Path]) -> None:
    path = folder({"a.csv": "t,n\nx,1\nz\n", "b.csv": "t,n\nz\nv,2\n"})
    rows = rows_of(path, on_error="skip")
    lines = [line for line, _ in in_step(rows)]
    assert lines == sorted(set(lines))
    names = [Path(rows.position(line)[0]).name for line in lines]
    assert names == ["a.csv", "a.csv", "b.csv", "b.csv"]


# ---------------------------------------------------------------------- answers of a file

# more than any number of a house
HUGE = 1e31
HOUSES = [(3, 21), (HUGE, 22), (5, 23), (6, HUGE), (7, 25), (HUGE, HUGE), (8, 27)]


@pytest.mark.parametrize("chunk", [1, 2, 256])
def test_answers_stand_beside_their_rows_whatever_was_wrong_between(
    home: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    monkeypatch.setattr(file_predictions, "CHUNK", chunk)
    run = unrolled.load(home.runs["regress"])
    path = write_csv(tmp_path / "t.csv", HOUSES, ("rooms", "area"))
    answered = run.predict_file(path, **{"data.on_error": "skip"})
    assert answered.columns == ["rooms", "area"]
    pairs = list(answered)
    assert [tuple(row.values()) for row, _ in pairs] == [
        tuple(map(str, row)) for row in HOUSES
    ]
    is_valid = [True, False, True, False, True, False, True]
    valid = [row for row, fits in zip(HOUSES, is_valid, strict=True) if fits]
    expected = iter(run.predict(valid))
    for (_, prediction), fits in zip(pairs, is_valid, strict=True):
        assert prediction.text == (next(expected) if fits else "")
    assert answered.error_count == 3
    assert answered.first_error is not None
    assert answered.first_error.line == 3


def test_a_row_that_has_no_answer_ends_the_answers_when_it_is_reached(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["regress"])
    path = write_csv(tmp_path / "t.csv", HOUSES, ("rooms", "area"))
    answered = iter(run.predict_file(path))
    row, prediction = next(answered)
    assert row == {"rooms": "3", "area": "21"}
    assert prediction.text
    with pytest.raises(DataError, match=r"t\.csv:3: column 'rooms' holds '1e\+31'"):
        next(answered)


@pytest.mark.parametrize("lines", [1, 3, 1024])
def test_line_n_of_a_text_is_answered_by_line_n(
    mirror: SimpleNamespace,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    lines: int,
) -> None:
    monkeypatch.setattr(file_predictions, "LINES", lines)
    run = unrolled.load(mirror.run)
    texts = ["a b c", "", "e d", "a " * 21, "b", "c\0"]
    path = write("".join(f"{text}\n" for text in texts), "in.txt")
    answered = run.predict_file(path)
    pairs = list(answered)
    assert [prediction.text for _, prediction in pairs] == [
        "c b a",
        "",
        "d e",
        "",
        "b",
        "",
    ]
    (name,) = answered.columns
    assert [row[name] for row, _ in pairs][::2] == texts[::2]
    assert answered.error_count == 3
    assert answered.first_error is not None
    assert answered.first_error.line == 2


def test_long_lines_are_answered_a_few_at_a_time(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_predictions, "CHARACTERS", 10)
    path = write("aaaa\nbbbb\ncccc\ndddddddddddd\ne\n", "in.txt")
    rows = file_predictions.LineRows(path, None, "text", 1000)
    sizes = [[line.text for line in chunk] for chunk in rows.chunks()]
    assert sizes == [["aaaa", "bbbb", "cccc"], ["dddddddddddd"], ["e"]]


def test_columns_are_read_by_their_names_in_any_order(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["regress"])
    rows = [(area, rooms) for rooms, area in [(3, 21), (5, 23)]]
    path = write_csv(tmp_path / "t.csv", rows, ("area", "rooms"))
    texts = [prediction.text for _, prediction in run.predict_file(path)]
    assert texts == run.predict([(3, 21), (5, 23)])
