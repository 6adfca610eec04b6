"""Tagging: scores over words, recomputed from single answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from sklearn import metrics

import unrolled
from conftest import SMALL, sentences, write_jsonl
from unrolled.core.errors import UserError


def test_the_scores_of_a_tagger_are_those_of_its_answers(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["tag"])
    rows = sentences(40, 11)
    for row in rows[:20]:  # wrong tags, so that the scores are not all 1
        row["tags"][0] = "D"
    scores = run.evaluate(write_jsonl(tmp_path / "t.jsonl", rows))
    answers = run.answers([(row["words"],) for row in rows])
    predicted = [tag for answer in answers for tag in answer.details["tags"]]
    truth = [tag for row in rows for tag in row["tags"]]
    assert 0.5 < scores["accuracy"] < 1
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(truth, predicted, average="macro")
    )


def test_one_tag_for_each_word_however_it_is_written(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["tag"])
    words = ["the", "cat", "runs"]
    rows = [
        "the cat runs",
        " the  cat runs ",
        '{"words": ["the", "cat", "runs"]}',
        (words,),
    ]
    rows += [{"words": words}]  # type: ignore[list-item]
    answers = run.answers(rows)
    assert {answer.text for answer in answers} == {"D N V"}
    assert answers[0].details["words"] == words
    assert len(answers[0].details["probabilities"]) == 3
    mean = sum(answers[0].details["probabilities"]) / 3
    assert answers[0].probability == pytest.approx(mean)


def test_a_row_without_words_is_refused(home: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="column 'words' holds no word"):
        unrolled.load(home.runs["tag"]).predict([" "])


def test_words_without_spelling(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "t.jsonl", sentences(60, 5))
    run = unrolled.train(
        file,
        out=tmp_path / "run",
        say=lambda text: None,
        quiet=True,
        **{**SMALL, "model.spelling": 0, "training.max_steps": 40},
    )
    assert not (tmp_path / "run" / "tokenizer.json").exists()
    assert run.predict(["the cat runs"]) == unrolled.load(tmp_path / "run").predict(
        ["the cat runs"]
    )


def test_a_damaged_list_of_words_is_named(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(home.runs["tag"], folder)
    (folder / "words.json").write_text("[1]")
    with pytest.raises(UserError, match=r"words\.json.*train anew"):
        unrolled.load(folder)
