"""Several columns of text, and values predicted from text: every way to read them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unrolled
from conftest import SMALL, write_csv
from unrolled.runs.prepare import prepare
from unrolled.runs.recipes import requested


def pairs(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Return two texts and whether they begin with the same word, which neither tells alone."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        first = draw.choice(["yes", "no"])
        second = draw.choice(["yes", "no"])
        rows.append(
            (
                first,
                f"{second} {draw.choice('abc')}",
                "same" if first == second else "other",
            )
        )
    return rows


def stars(count: int, seed: int) -> list[tuple[str, str, int]]:
    draw = random.Random(seed)
    words = {"awful": -1, "dull": 0, "good": 1, "superb": 2}
    rows = []
    for _ in range(count):
        title = draw.choice(sorted(words))
        body = draw.choice(sorted(words))
        rows.append((title, f"a {body} film", 3 + words[title] + words[body]))
    return rows


READERS = [
    {},
    {"model.bidirectional": False},
    {"layer": "lstm", "training.pretrain_epochs": 1},
    {"layer": "attention", "model.heads": 2, "model.bidirectional": False},
    {"model.ngrams": 2},
]


@pytest.mark.parametrize(
    "reader", READERS, ids=lambda reader: "-".join(map(str, reader)) or "plain"
)
def test_two_texts_are_read_one_after_the_other(
    tmp_path: Path, reader: dict[str, Any]
) -> None:
    path = write_csv(tmp_path / "p.csv", pairs(120, 1), ("one", "two", "label"))
    run = unrolled.train(
        path,
        out=tmp_path / "r",
        quiet=True,
        say=lambda text: None,
        **SMALL | reader | {"training.max_steps": 6, "data.text": ["one", "two"]},
    )
    assert run.task.schema.text == ("one", "two")
    rows = pairs(30, 2)
    answers = run.answers([row[:2] for row in rows])
    test = write_csv(tmp_path / "t.csv", rows, ("one", "two", "label"))
    right = np.mean([a.text == row[2] for a, row in zip(answers, rows, strict=True)])
    assert run.evaluate(test)["accuracy"] == pytest.approx(right)
    # which text a word is in matters, and a row is read alike in every form
    given, turned = run.answers([("yes", "no"), ("no", "yes")])
    assert given.probability != pytest.approx(turned.probability, rel=1e-6)
    same = run.answers(["yes,no", {"one": "yes", "two": "no"}, ("yes", "no")])
    for answer in same:
        assert answer.probability == pytest.approx(given.probability, rel=1e-6)


def test_each_text_ends_with_its_own_mark(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", pairs(50, 1), ("one", "two", "label"))
    prepared = prepare(
        requested(str(path), {"data.text": ["one", "two"], "data.tokenizer": "words"})
    )
    tokenizer = prepared.task.inputs.tokenizer  # type: ignore[attr-defined]
    sequences = prepared.train.sequences
    for row, (first, second, _) in zip(
        range(len(prepared.train)), prepared.train_data.rows, strict=True
    ):  # type: ignore[union-attr]
        ids = sequences.flat[
            sequences.offsets[row] : sequences.offsets[row + 1]
        ].tolist()
        end = tokenizer.eos_id
        expected = [*tokenizer.encode(first), end, *tokenizer.encode(second), end]
        assert ids == expected


@pytest.mark.parametrize("columns", [["title"], ["title", "body"]])
def test_a_number_is_predicted_from_text(tmp_path: Path, columns: list[str]) -> None:
    path = write_csv(tmp_path / "s.csv", stars(200, 1), ("title", "body", "stars"))
    run = unrolled.train(
        path,
        out=tmp_path / "r",
        quiet=True,
        say=lambda text: None,
        task="regress",
        **SMALL
        | {
            "training.max_steps": 90,
            "training.learning_rate": 0.02,
            "data.text": columns,
            "data.tokenizer": "words",
        },
    )
    rows = stars(60, 2)
    test = write_csv(tmp_path / "t.csv", rows, ("title", "body", "stars"))
    names = ("title", "body", "stars")
    cells = [tuple(row[names.index(name)] for name in columns) for row in rows]
    values = [answer.details["value"] for answer in run.answers(cells)]
    mae = np.abs(np.array(values) - [row[2] for row in rows]).mean()
    scores = run.evaluate(test)
    assert scores["mae"] == pytest.approx(mae, rel=1e-4)
    # the title alone leaves the body's share, 1 on average, in doubt
    assert mae < 0.3 if len(columns) == 2 else 0.5 < mae < 1.3
