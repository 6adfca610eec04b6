"""The worst answers: which they are, where they stand, and how much of a row is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unrolled
from conftest import write_csv, write_jsonl
from unrolled.data.sources import Table, read
from unrolled.insight.mistakes import LONGEST, mistakes
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks.base import ClassPredictions, Evaluation, Task


def scored(path: Path, **changes: Any) -> Prepared:
    """Return a file that is scored on itself, so that its examples are all its rows."""
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return prepare(requested(str(path), {"data.dev": str(path)} | settings))


def listed(
    prepared: Prepared, evaluation: Evaluation, count: int = 20
) -> list[tuple[Any, ...]]:
    given = mistakes(prepared.task, prepared.dev_data, prepared.dev, evaluation, count)
    assert {mistake.path for mistake in given} <= {prepared.dev_data.path}
    return [(m.line, "|".join(m.text), m.truth, m.answer, m.size) for m in given]


def judged(truth: Any, answers: Any, sure: Any, **columns: Any) -> Evaluation:
    rows = np.arange(len(truth))
    items = {"rows": rows} | {key: np.array(value) for key, value in columns.items()}
    return Evaluation(
        {},
        judged=ClassPredictions(
            truth=np.array(truth),
            predicted=np.array(answers),
            confidence=np.array(sure),
            **items,
        ),
    )


def test_wrong_labels_come_surest_first_and_equals_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(6)]
    prepared = scored(write_csv(tmp_path / "r.csv", rows, ("text", "label")))
    evaluation = judged(
        [0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 1, 0], [0.6, 0.99, 0.9, 0.7, 0.6, 0.6]
    )
    expected = [
        (4, "text 2||", "a", "b", 0.9),
        (5, "text 3||", "b", "a", 0.7),
        (2, "text 0||", "a", "b", 0.6),
        (6, "text 4||", "a", "b", 0.6),
        (7, "text 5||", "b", "a", 0.6),
    ]
    assert listed(prepared, evaluation) == expected
    assert listed(prepared, evaluation, 2) == expected[:2]
    assert listed(prepared, evaluation, 0) == []


def test_lines_are_right_where_rows_were_skipped_or_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(
        'text,label\n"one\ntwo",a\nthree,\nfour,b\nfive,a\nsix,b\nseven,a\n'
    )
    prepared = scored(
        path, data__on_error="skip", data__label="label", data__text="text"
    )
    assert prepared.dev.lines.tolist() == [2, 5, 6, 7, 8]
    evaluation = judged([0, 1, 0, 1, 0], [1, 0, 0, 1, 0], [0.9, 0.8, 1, 1, 1])
    assert listed(prepared, evaluation) == [
        (2, "one\ntwo||", "a", "b", 0.9),
        (5, "four||", "b", "a", 0.8),
    ]


def test_values_come_by_their_error_and_a_right_one_is_left_out(tmp_path: Path) -> None:
    rows = [(n, n * n % 7, 3 * n + 0.5) for n in range(9)]
    prepared = scored(
        write_csv(tmp_path / "n.csv", rows, ("x", "y", "z")), data__label="z"
    )
    pairs = np.array([[row[2], row[2]] for row in rows], dtype=float)
    pairs[4, 1] = -1.25
    pairs[7, 1] = 22
    assert listed(prepared, Evaluation({}, pairs=pairs)) == [
        (6, "x: 4, y: 2||", "12.5", "-1.25", 13.75),
        (9, "x: 7, y: 0||", "21.5", "22", 0.5),
    ]


def test_a_word_is_shown_in_its_sentence(tmp_path: Path) -> None:
    rows = [
        {"words": ["the", "cat", "runs"], "tags": ["D", "N", "V"]},
        {"words": ["dog", "runs"], "tags": ["N", "V"]},
    ]
    prepared = scored(write_jsonl(tmp_path / "t.jsonl", rows))
    evaluation = judged(
        [0, 1, 2, 1, 2],
        [0, 2, 2, 0, 1],
        [1, 0.8, 1, 0.5, 0.9],
        rows=[0, 0, 0, 1, 1],
        words=[0, 1, 2, 0, 1],
    )
    assert listed(prepared, evaluation) == [
        (2, "dog |runs|", "V", "N", 0.9),
        (1, "the |cat| runs", "N", "V", 0.8),
        (2, "|dog| runs", "N", "D", 0.5),
    ]


def test_a_step_is_shown_with_its_own_line(tmp_path: Path) -> None:
    rows = [(who, n * n % 5, "ab"[n // 3 % 2]) for n in range(12) for who in "pq"]
    rows[5] = ("q", "?", "a")  # a gap: the next step begins another sequence
    path = write_csv(tmp_path / "s.csv", rows, ("who", "x", "phase"))
    settings = {
        "data__numbers": "x",
        "data__label": "phase",
        "data__missing": "error",
    }
    prepared = scored(path, data__sequence="who", data__on_error="skip", **settings)
    assert prepared.dev.lengths.tolist() == [12, 2, 9]
    evaluation = judged(
        [0, 0, 1], [1, 1, 0], [0.9, 0.8, 0.7], rows=[0, 1, 2], words=[7, 1, 0]
    )
    steps = ("step 8", "step 2", "step 1")
    assert [m[:2] for m in listed(prepared, evaluation)] == [
        (line, f"|{step}| of a sequence of numbers")
        for line, step in zip((2 + 14, 3 + 2, 3 + 6), steps, strict=True)
    ]
    lists = [{"frames": [1, 2, n], "phase": list("aba")} for n in range(3)]
    prepared = scored(write_jsonl(tmp_path / "s.jsonl", lists))
    assert listed(prepared, judged([0], [1], [0.9], rows=[1], words=[2]))[0][0] == 2


def test_long_rows_are_cut_and_a_word_keeps_its_neighbours(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(200)]
    prepared = scored(
        write_jsonl(tmp_path / "t.jsonl", [{"words": words, "tags": ["A", "B"] * 100}])
    )
    (row,) = mistakes(
        prepared.task,
        prepared.dev_data,
        prepared.dev,
        judged([0], [1], [0.9], words=[100]),
        20,
    )
    before, word, after = row.text
    assert (word, before[0], after[-1]) == ("w100", "…", "…")
    assert before.endswith("w98 w99 ")
    assert after.startswith(" w101 w102")
    assert len(before) == len(after) == LONGEST // 2
    rows = [("x" * 999, "a"), ("y" * LONGEST, "b"), ("z", "a")]
    prepared = scored(write_csv(tmp_path / "r.csv", rows, ("text", "label")))
    texts = [
        m[1].strip("|")
        for m in listed(prepared, judged([0, 1, 0], [1, 0, 1], [0.9, 0.8, 0.7]))
    ]
    assert texts == ["x" * (LONGEST - 1) + "…", "y" * LONGEST, "z"]


def test_a_text_has_no_rows_to_list(home: Any) -> None:
    prepared = prepare(requested(str(home.files["language"]), {}))
    assert isinstance(prepared.task, Task)
    assert not isinstance(read(home.files["language"]), Table)
    assert listed(prepared, Evaluation({})) == []


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_what_was_judged_is_what_the_model_answers(home: Any, kind: str) -> None:
    run = unrolled.load(home.runs[kind])
    prepared = prepare(run.recipe)
    judged = run.task.evaluate(run.model, prepared.dev, run.compute_device).judged
    assert judged is not None
    assert isinstance(prepared.dev_data, Table)
    answers = run.answers([(row[0],) for row in prepared.dev_data.rows])
    truth = [row[1] if kind == "tag" else [row[1]] for row in prepared.dev_data.rows]
    predictions = [a.details["tags"] if kind == "tag" else [a.text] for a in answers]
    sure = [
        a.details["probabilities"] if kind == "tag" else [a.probability]
        for a in answers
    ]
    words = np.zeros_like(judged.rows) if judged.words is None else judged.words
    at = list(zip(judged.rows.tolist(), words.tolist(), strict=True))
    assert sorted(at) == [
        (n, k) for n, row in enumerate(truth) for k in range(len(row))
    ]
    names = run.task.output.names  # type: ignore[attr-defined]
    assert [names[k] for k in judged.truth] == [truth[n][k] for n, k in at]
    assert [names[k] for k in judged.predicted] == [predictions[n][k] for n, k in at]
    # float32 outputs of other batches differ in their last bits
    np.testing.assert_allclose(
        judged.confidence, [sure[n][k] for n, k in at], rtol=1e-4
    )
