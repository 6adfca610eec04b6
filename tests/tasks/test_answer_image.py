"""Answers that are written to questions about images, from a folder to predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unrolled
from unrolled.core.errors import UserError
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import read
from unrolled.scores.answers import word_f1
from unrolled.tasks.image_questions import most_frequent_answers, points_of

Call = Callable[..., tuple[str, str]]
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}
KEYS: dict[str, Any] = {
    "encoder.size": 16,
    "encoder.network": "plain",
    "model.hidden": 32,
    "model.embedding": 16,
    "training.threads": 1,
    "training.precision": "fp32",
    "training.batch_size": 8,
    "training.learning_rate": 0.01,
    "report.inside": False,
}


def coloured(folder: Path, count: int = 36, several: bool = False) -> Path:
    """Write squares of three colours, each with two questions and sentences for answers."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = list(COLOURS)
    rows = []
    for number in range(count):
        name = names[number % 3]
        noise = generator.integers(-15, 16, (16, 16, 3))
        pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        questions: list[tuple[str, Any]] = [
            ("what colour is it?", f"it is {name} number {number}"),
            ("is it red?", "yes it is" if name == "red" else f"no it is {name}"),
        ]
        if not several:
            questions[0] = ("what colour is it?", f"it is {name}")
        for question, answer in questions:
            rows.append(
                {"image": f"{number}.png", "question": question, "answer": answer}
            )
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "questions.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("answering")
    data = coloured(folder / "data")
    keys = {**KEYS, "task": "answer-image", "training.max_steps": 300}
    # eight held-out rows are soon right: the loss tells when all are
    keys["training.metric"] = "loss"
    run = unrolled.train(data, out=folder / "run", quiet=True, **keys)
    return data, run


def test_sentences_are_learnt(answering: tuple[Path, Any]) -> None:
    data, run = answering
    scores = run.evaluate(data)
    assert scores["accuracy"] > 0.9
    assert scores["word_f1"] >= scores["accuracy"]
    photo = data / "0.png"
    row = {"image": str(photo), "question": "What colour is it?"}
    assert run.predict([row]) == ["it is red"]


def test_a_run_that_is_read_back_says_the_same(answering: tuple[Path, Any]) -> None:
    data, run = answering
    assert unrolled.load(run.folder).evaluate(data) == run.evaluate(data)


def test_predict_on_the_command_line(answering: tuple[Path, Any], cli: Call) -> None:
    data, run = answering
    out, _ = cli("predict", run.folder, data / "2.png", "--question", "is it red?")
    assert out.strip() == "no it is blue"


def test_a_look_inside_shows_where_words_look(answering: tuple[Path, Any]) -> None:
    data, run = answering
    (trace,) = run.inspect(
        {"image": str(data / "1.png"), "question": "what colour is it?"}
    ).traces
    assert trace.answer == "it is green"
    assert trace.image.maps.shape[0] == len(trace.written)
    assert trace.tokens[0] == "what"
    (of_question,) = [part for part in trace.attention if part.kind == "source"]
    assert of_question.weights.shape[2] == len(trace.tokens)


@pytest.mark.parametrize(
    ("question", "message"),
    [("¿qué?", "no word of the questions"), ("", "is empty")],
)
def test_questions_that_cannot_be_read_are_refused(
    answering: tuple[Path, Any], question: str, message: str
) -> None:
    data, run = answering
    with pytest.raises(UserError, match=message):
        run.predict([{"image": str(data / "0.png"), "question": question}])


def test_sentences_that_differ_are_written_without_a_key(tmp_path: Path) -> None:
    table = read(coloured(tmp_path / "data", several=True))
    assert infer(table, ColumnHints()).task == "answer-image"


def test_answers_that_repeat_are_chosen_among(tmp_path: Path) -> None:
    table = read(coloured(tmp_path / "data"))
    assert infer(table, ColumnHints()).task == "ask-image"


def test_written_answers_count_as_people_gave_them() -> None:
    right = (("a dog",), ("red", "red", "red", "blue"), ("two", "three"))
    points = points_of(right, ["a dog", "blue", "four"])
    assert points.tolist() == pytest.approx([1, 1 / 3, 0])
    assert most_frequent_answers(right) == ["a dog", "red", "two"]


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("a red dog", ["a red dog"], 1.0),
        # two of three words, and two of four: 2 * 2 / 7
        ("a red cat", ["the big red cat"], 4 / 7),
        ("no no", ["no"], 2 / 3),
        ("cat", ["a dog", "the cat"], 2 / 3),
        ("", ["yes"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_words_count_as_often_as_both_have_them(
    answer: str, right: list[str], expected: float
) -> None:
    assert word_f1(answer.split(), [text.split() for text in right]) == expected


def test_words_of_a_source_without_words_cannot_be_counted(
    answering: tuple[Path, Any],
) -> None:
    data, run = answering
    with pytest.raises(UserError, match="a question about an image has none"):
        run.evaluate(data, **{"decoding.coverage_penalty": 0.2})


def test_both_vocabularies_are_taken_from_another_run(
    answering: tuple[Path, Any], tmp_path: Path
) -> None:
    _, run = answering
    data = coloured(tmp_path / "data", several=True)
    keys = {**KEYS, "training.max_steps": 1, "model.init": str(run.folder)}
    for task in ("answer-image", "ask-image"):
        out = tmp_path / task
        begun = unrolled.train(data, out=out, quiet=True, task=task, **keys)
        known = begun.task.question.tokenizer.texts()
        assert known == run.task.question.tokenizer.texts()
        if task == "answer-image":
            assert begun.task.tokenizer.texts() == run.task.tokenizer.texts()
