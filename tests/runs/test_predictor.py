"""The predictor: rows to predictions in order, errors apart, side by side, lines of streams."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unrolled
from unrolled.core.errors import UserError
from unrolled.runs import predictor as predicting
from unrolled.runs.predictor import Predictor, stream_lines
from unrolled.tasks.base import AnswerOptions, OutputConstraints, Prediction


@pytest.fixture
def predictor(home: SimpleNamespace) -> Callable[[str], Predictor]:
    def load(kind: str) -> Predictor:
        return unrolled.load(home.runs[kind]).predictor

    return load


# ---------------------------------------------------------------------- rows in order


def test_a_row_is_the_same_in_every_form(predictor: Callable[..., Predictor]) -> None:
    houses = predictor("regress")
    text = "3,21"
    forms = [text, (3, 21), [3.0, "21"], {"area": 21, "rooms": 3}]
    together = houses.predict(forms)
    assert len({prediction.text for prediction in together}) == 1
    (expected,) = houses.predict(text)
    for form, prediction in zip(forms, together, strict=True):
        assert prediction == expected
        assert houses.predict_one(form) == expected
    assert houses.predict([]) == []


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("regress", [(3, 21), ("x", 21), (5, 27), (2, "soon"), (8, 20)]),
        ("classify", [("a great film",), (["x"],), ("",), ({"a": 1},), ("awful",)]),
    ],
)
def test_rows_that_cannot_be_answered_are_told_apart_and_in_order(
    predictor: Callable[..., Predictor], kind: str, rows: list[Any]
) -> None:
    answering = predictor(kind)
    answers = answering.predict_each(rows)
    assert [isinstance(answer, str) for answer in answers] == [
        False,
        True,
        False,
        True,
        False,
    ]
    for row, answer in zip(rows, answers, strict=True):
        assert answer == answering.predict_one(row)
        if isinstance(answer, str):
            assert "column" in answer
    # what is wrong with one row does not depend on the others
    assert answering.predict_each(rows[::-1]) == answers[::-1]


def test_sources_that_cannot_be_answered_cost_no_search(
    mirror: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = unrolled.load(mirror.run).predictor
    searched: list[int] = []
    predict = type(answering.task).predict

    def counted(task: Any, model: Any, rows: Any, *rest: Any) -> list[Prediction]:
        searched.append(len(rows))
        return predict(task, model, rows, *rest)

    monkeypatch.setattr(type(answering.task), "predict", counted)
    rows = [("",), ("a b",), ("a " * 21,), ("c d e",), ("a\0",)]
    answers = answering.predict_each(rows)
    assert searched == [2]
    texts = [answer if isinstance(answer, str) else answer.text for answer in answers]
    assert (texts[1], texts[3]) == ("b a", "e d c")
    for index, reason in ((0, "is empty"), (2, "22 tokens"), (4, "NUL character")):
        assert reason in texts[index]
    assert all(isinstance(answer, str) for answer in answering.predict_each([("",)]))
    assert searched == [2]


def test_typed_rows_come_with_their_answers_and_a_faulty_one_by_its_number(
    predictor: Callable[..., Predictor],
) -> None:
    houses = predictor("regress")
    rows = ["3,21", "5,27"]
    named = list(houses.predict_named(rows))
    assert [row for row, _ in named] == rows
    assert [prediction for _, prediction in named] == houses.predict(rows)
    with pytest.raises(UserError, match=r"^row 2: column 'area' holds 'x'"):
        list(houses.predict_named(["3,21", "5,x", "y,1"]))
    # one row needs no number
    with pytest.raises(UserError, match=r"^column 'area' holds 'x'"):
        list(houses.predict_named(["5,x"]))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RecursionError("too deep"), "it cannot be answered"),
        (OverflowError("too large"), "it cannot be answered"),
        (MemoryError(), "it takes more memory than there is"),
        (RuntimeError("CUDA out of memory"), "it takes more memory than there is"),
    ],
)
def test_whatever_fails_of_a_row_is_that_rows_error(
    predictor: Callable[..., Predictor],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    houses = predictor("regress")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(type(houses.task), "predict", fail)
    answer = houses.predict_one("3,21")
    assert isinstance(answer, str)
    assert message in answer


def test_an_error_of_ours_is_no_error_of_a_row(
    predictor: Callable[..., Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    houses = predictor("regress")

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(type(houses.task), "predict", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        houses.predict_one("3,21")


# ---------------------------------------------------------------------- side by side


def test_two_over_one_model_answer_side_by_side_each_by_its_own_options(
    mirror: SimpleNamespace,
) -> None:
    plain = unrolled.load(mirror.run).predictor
    constraints = OutputConstraints(begin="e e", banned=("b",), alignment=True)
    search = plain.options.search.changed(beam=2, n_best=2)
    options = AnswerOptions(search, constraints, score_tokenizer="none")
    other = replace(plain, options=options)
    assert other.model is plain.model
    sources = ["a b c", "e d", "b", "c c a"]
    expected = {False: plain.predict(sources), True: other.predict(sources)}
    assert expected[False][0].text == "c b a"
    assert all(answer.text.startswith("e e") for answer in expected[True])
    requests = [bool(number % 2) for number in range(12)]

    def answer(is_other: bool) -> list[Prediction]:
        return (other if is_other else plain).predict(sources)

    with ThreadPoolExecutor(4) as pool:
        for is_other, answers in zip(requests, pool.map(answer, requests), strict=True):
            assert answers == expected[is_other]


# ---------------------------------------------------------------------- streams of lines


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=6),
    st.integers(1, 20),
    st.booleans(),
)
def test_lines_are_those_of_split_and_long_ones_are_told(
    lines: list[bytes], most: int, end: bool
) -> None:
    joined = b"\n".join(lines) + (b"\n" if end and lines else b"")
    stream = SimpleNamespace(buffer=io.BytesIO(joined))
    read = list(stream_lines(stream, most))
    expected = joined.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    if expected:
        expected[0] = expected[0].removeprefix(b"\xef\xbb\xbf")
    assert len(read) == len(expected)
    for (text, reason), line in zip(read, expected, strict=True):
        line = line.rstrip(b"\r")
        if len(line) > most:
            assert text == ""
            assert "data.max_row" in reason
        else:
            assert (text, reason) == (line.decode("utf-8", "replace"), "")


class Endless:
    """A line of ``count`` pieces, then another, as ``readline`` of a file gives them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.last = io.BytesIO(b"\nok\n")

    def readline(self, size: int) -> bytes:
        if self.count == 0:
            return self.last.readline(size)
        self.count -= 1
        return b"x" * size


def test_of_a_line_without_end_a_little_is_read_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predicting, "READ", 64)
    stream = SimpleNamespace(buffer=Endless(1000))
    (first, reason), last = stream_lines(stream, 10)
    assert (first, "more than 10 bytes" in reason) == ("", True)
    assert last == ("ok", "")


def test_a_stream_of_text_holds_no_bytes_and_is_read_alike() -> None:
    lines = list(stream_lines(io.StringIO("좋아요\r\n\nfilm"), 9))
    assert lines == [("좋아요", ""), ("", ""), ("film", "")]


def test_a_line_is_answered_as_soon_as_it_is_read(
    predictor: Callable[..., Predictor],
) -> None:
    source = io.BytesIO(b"3,21\nx,21\n5,27\n")
    answers = predictor("regress").predict_stream(SimpleNamespace(buffer=source))
    row, answer = next(answers)
    assert row == "3,21"
    assert isinstance(answer, Prediction)
    assert source.tell() == len(b"3,21\n")
    row, answer = next(answers)
    assert row == "x,21"
    assert isinstance(answer, str)
    assert "column 'rooms' holds 'x'" in answer
    assert [row for row, _ in answers] == ["5,27"]
