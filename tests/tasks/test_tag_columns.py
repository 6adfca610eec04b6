"""Tags of words, with columns of kinds, numbers and dates next to each word."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder

import unrolled
from conftest import SMALL, Call, write_jsonl
from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import collate
from unrolled.run import train
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks.baselines import measured

KEYS: dict[str, Any] = SMALL | {
    "training.max_steps": 150,
    "training.learning_rate": 0.02,
    "model.spelling": 4,
}
QUICK = KEYS | {"training.max_steps": 2}
POS = {"data.categories": ["pos"]}
WORDS = ("run", "play", "walk", "show", "look")


def phrases(count: int, seed: int) -> list[dict[str, Any]]:
    """Return words which are either noun or verb, and tags that only this tells."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randrange(1, 6))
        pos = [draw.choice(["NOUN", "VERB"]) for _ in words]
        tags = [{"NOUN": "B-X", "VERB": "O"}[kind] for kind in pos]
        rows.append({"tokens": words, "pos": pos, "ner_tags": tags})
    return rows


def conll(path: Path, rows: list[dict[str, Any]], *names: str) -> Path:
    lines: list[str] = []
    for row in rows:
        columns = [row[name] for name in names]
        lines += ["\t".join(cells) for cells in zip(*columns, strict=True)]
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run that reads words and what they are."""
    at = tmp_path_factory.mktemp("tagger")
    file = write_jsonl(at / "t.jsonl", phrases(80, 0))
    keys = KEYS | POS
    run = train(file, out=at / "run", say=lambda line: None, quiet=True, **keys)
    return SimpleNamespace(run=run, file=file, folder=at / "run")


def prepared(path: Path, **changes: Any) -> Prepared:
    return prepare(requested(str(path), {**QUICK, **changes}))


def test_words_alone_are_read_by_default(tagger: SimpleNamespace) -> None:
    made = prepared(tagger.file)
    assert made.task.schema.inputs == ("tokens",)
    assert made.facts["leaves_out"] == ["pos"]
    # saved as before there were columns beside the words
    assert list(made.task.to_json()["inputs"]) == ["column", "max_words", "spelt"]


def test_what_stands_next_to_a_word_is_learnt(tagger: SimpleNamespace) -> None:
    assert tagger.run.task.schema.inputs == ("tokens", "pos")
    assert tagger.run.result["scores"]["accuracy"] > 0.95
    made = prepared(tagger.file, **POS)
    lines, _ = measured(made.task.baselines(made.split))
    scores = {line.name: line.scores["accuracy"] for line in lines}
    assert scores["most frequent tag of the word"] < 0.8
    assert scores["most frequent tag of the word and its pos"] > 0.95


def test_features_are_those_of_scikit_learn(tagger: SimpleNamespace) -> None:
    made = prepared(tagger.file, **POS)
    lines = made.train.lines.tolist()
    rows = [phrases(80, 0)[line - 1] for line in lines]
    pos = np.array([kind for row in rows for kind in row["pos"]])[:, None]
    expected = OneHotEncoder(sparse_output=False).fit_transform(pos)
    np.testing.assert_array_equal(made.train.frames.flat, expected)
    assert made.train.lengths.tolist() == [len(row["pos"]) for row in rows]


def test_a_row_is_answered_however_it_is_given(
    tagger: SimpleNamespace, cli: Call
) -> None:
    run = unrolled.load(tagger.folder)
    words = ["run", "run", "show"]
    row = {"tokens": words, "pos": ["NOUN", "VERB", "VERB"]}
    text = {"tokens": "run run show", "pos": "NOUN VERB VERB"}
    cells = (words, row["pos"])
    answers = run.predict([row, json.dumps(row), text, cells])
    assert answers == ["B-X O O"] * 4
    assert cli("predict", tagger.folder, json.dumps(row))[0].strip() == "B-X O O"
    # one that was never seen is none of those that were
    assert len(run.predict([{"tokens": ["run"], "pos": ["X"]}])[0].split()) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("run run", 'expected an object, {"tokens": ..., "pos": ...}'),
        ({"tokens": ["run"]}, "has no 'pos'; expected tokens, pos"),
        (
            {"tokens": ["run", "run"], "pos": ["NOUN"]},
            "column 'pos' has 1 value for 2 words",
        ),
        (
            {"tokens": ["run"], "pos": [["NOUN"]]},
            r"'pos' holds \['NOUN'\] where a category is expected at word 1",
        ),
    ],
)
def test_a_row_that_lacks_what_is_read_is_refused(
    tagger: SimpleNamespace, row: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        unrolled.load(tagger.folder).predict([row])


def test_conll_with_and_without_the_tags_is_answered_and_scored(
    tmp_path: Path, cli: Call
) -> None:
    rows = phrases(80, 0)
    file = conll(tmp_path / "t.conll", rows, "tokens", "pos", "ner_tags")
    out = tmp_path / "run"
    run = train(file, out=out, say=lambda line: None, quiet=True, **KEYS, **POS)
    assert run.task.schema.inputs == ("words", "pos")
    expected = [" ".join(row["ner_tags"]) for row in rows]
    answers = cli("predict", out, "--file", file)[0].splitlines()
    assert answers == expected
    bare = conll(tmp_path / "b.conll", rows, "tokens", "pos")
    assert cli("predict", out, "--file", bare)[0].splitlines() == expected
    printed, _ = cli("evaluate", out, file)
    assert "accuracy  1.0000" in printed
    with pytest.raises(UserError, match="expected 2: words, pos, or an object"):
        unrolled.load(out).predict(["run run"])


def test_numbers_and_dates_stand_next_to_words_too(tmp_path: Path) -> None:
    rows = phrases(60, 1)
    for row in rows:
        row["size"] = [len(word) for word in row["tokens"]]
        row["day"] = "2021-03-01"  # of all words of the row
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    keys = {"data.numbers": ["size"], "data.dates": ["day"]}
    made = prepared(path, **keys)
    assert made.task.schema.inputs == ("tokens", "size", "day")
    assert not made.warnings
    sizes = [
        len(word) for line in made.train.lines for word in rows[line - 1]["tokens"]
    ]
    expected = (np.array(sizes) - np.mean(sizes)) / np.std(sizes)
    flat = made.train.frames.flat
    np.testing.assert_allclose(flat[:, 0], expected, atol=1e-5)
    # a Monday of March
    assert (flat[:, 4] == 1).all()
    lines, _ = measured(made.task.baselines(made.split))
    assert lines[-1].name == "logistic regression on the columns"
    assert lines[-1].scores["accuracy"] > 0.4


def test_a_column_of_another_length_is_an_error_of_the_row(tmp_path: Path) -> None:
    rows = phrases(40, 2)
    rows[6]["pos"] = [*rows[6]["pos"], "NOUN"]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=r"t\.jsonl:7: column 'pos' has \d values for"):
        prepared(path, **POS)
    made = prepared(path, **POS, **{"data.on_error": "skip"})
    assert len(made.train) + len(made.dev) == 39


@pytest.mark.parametrize("spelling", [0, 4])
def test_padding_and_neighbours_change_nothing(
    tagger: SimpleNamespace, spelling: int
) -> None:
    made = prepared(tagger.file, **POS, **{"model.spelling": spelling})
    torch.manual_seed(0)
    model: Any = made.task.build(made.recipe).double().eval()
    rows = np.arange(12)
    many = collate(made.train, rows)
    extra = [t.double() if t.is_floating_point() else t for t in many.extra]
    together = model(many.inputs, many.lengths, *extra)
    for row in rows.tolist():
        single = collate(made.train, np.array([row]))
        extra = [t.double() if t.is_floating_point() else t for t in single.extra]
        alone = model(single.inputs, single.lengths, *extra)[0]
        torch.testing.assert_close(
            together[row, : len(alone)], alone, rtol=1e-9, atol=1e-9
        )


def test_a_step_is_the_full_pass(tagger: SimpleNamespace) -> None:
    keys = {"model.bidirectional": False, "model.spelling": 0}
    made = prepared(tagger.file, **POS, **keys)
    model: Any = made.task.build(made.recipe).double().eval()
    batch = collate(made.train, np.array([0]))
    (features,) = batch.extra
    whole = model(batch.inputs, batch.lengths, features.double())[0]
    state = model.layer.initial_state(1)
    vectors = model.embedding(batch.inputs)
    read = torch.cat([vectors, features.double()], -1)
    for step, expected in enumerate(whole):
        y, state = model.layer.step(read[:, step], state)
        torch.testing.assert_close(model.head(y)[0], expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="stream its layer"):
        model.stream()


def test_a_saved_run_answers_as_the_trained_one(tagger: SimpleNamespace) -> None:
    row = {"tokens": ["play", "walk"], "pos": ["VERB", "NOUN"]}
    loaded = unrolled.load(tagger.folder)
    assert loaded.task.to_json() == tagger.run.task.to_json()
    ours = loaded.answers([row])[0].details
    assert ours == tagger.run.answers([row])[0].details
    assert ours["words"] == row["tokens"]


@pytest.mark.parametrize("both", [False, True])
def test_doctor_has_nothing_against_it(
    tagger: SimpleNamespace, cli: Call, both: bool
) -> None:
    keys = [f"{key}={json.dumps(value)}" for key, value in (KEYS | POS).items()]
    keys.append(f"model.bidirectional={json.dumps(both)}")
    printed, _ = cli("doctor", tagger.file, *keys)
    assert "0 problem" in printed
