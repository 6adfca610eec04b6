"""Rewriting: several right answers, symbols, what is left out, rows held out by their word."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import unrolled
from conftest import SMALL
from unrolled.core.errors import DataError
from unrolled.data.split import hold_out
from unrolled.runs.plan import Plan, make_plan
from unrolled.tasks.base import GeneratedTexts
from unrolled.tasks.rewrite import Rewrite

STEPS = {key: value for key, value in SMALL.items() if key != "model.ngrams"}


def dictionary(path: Path, words: int = 60) -> Path:
    """Write words with one or two pronunciations each."""
    draw = random.Random(5)
    lines = []
    for number in range(words):
        word = "".join(draw.choices("abst", k=5)) + str(number)
        for further in range(1 + number % 2):
            mark = f"({further + 1})" if further else ""
            sounds = " ".join(draw.choices(["AH0", "B", "EH1", "S", "T"], k=6))
            lines.append(f"{word}{mark} IY1 {sounds} # {number}\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    changes = STEPS | {"data.target_without": "012", "data.holdout": 0.2}
    return make_plan(str(dictionary(tmp_path / "words.dict")), changes, dry_run=True)


def test_a_dictionary_is_read_without_a_word(plan: Plan) -> None:
    task = plan.prepared.task
    assert isinstance(task, Rewrite)
    assert (task.inputs.tokenizer.kind, task.output.tokenizer.kind) == (
        "chars",
        "whitespace",
    )
    assert task.output.tokenizer.size == 4 + len({"IY", "AH", "B", "EH", "S", "T"})
    assert not any(
        c in reference for reference in plan.prepared.dev.references for c in "012"
    )


def test_all_answers_of_a_word_are_on_one_side_and_each_is_right(plan: Plan) -> None:
    train = plan.prepared.train
    dev = plan.prepared.dev
    task = plan.prepared.task
    assert isinstance(task, Rewrite)
    assert set(train.sources).isdisjoint(dev.sources)
    assert len(train) + len(dev) == 90
    requested = task.requested(dev)
    assert len(requested.sources) == len(set(dev.sources)) < len(dev)
    assert {len(right) for right in requested.references} == {1, 2}
    _, held = hold_out([*train.sources, *dev.sources], 0, 0.2)
    assert len(held) == len(dev)


def written(answers: list[str], references: list[list[str]]) -> GeneratedTexts:
    return GeneratedTexts(
        np.arange(len(answers)), ["x"] * len(answers), references, answers
    )


def test_the_nearest_of_the_right_answers_counts(plan: Plan) -> None:
    task = plan.prepared.task
    assert isinstance(task, Rewrite)
    scores, notes = task.measure(
        written(["AH B", "S T", "B"], [["AH B", "EH B"], ["S", "S T T"], ["EH", "T"]])
    )
    # S T is one symbol from either answer, of which the longer has three; B is one of one wrong
    assert scores == pytest.approx({"wer": 2 / 3, "cer": (0 + 1 + 1) / (2 + 3 + 1)})
    assert "wrong symbols" in notes[0]
    assert notes[1] == "3 of them have several right answers"


def test_characters_are_counted_where_targets_are_words(tmp_path: Path) -> None:
    path = tmp_path / "go.tsv"
    path.write_text("".join(f"word{n}\t말말{n}\n" for n in range(40)))
    changes = STEPS | {"data.target_tokenizer": "jamo", "training.max_steps": 4}
    run = unrolled.train(
        path, out=tmp_path / "run", say=lambda line: None, quiet=True, **changes
    )
    task = run.task
    assert isinstance(task, Rewrite)
    scores, notes = task.measure(written(["말", "말말"], [["말말"], ["말말", "달"]]))
    assert scores == {"wer": 0.5, "cer": 0.25}
    assert "wrong characters" in notes[0]
    assert set(run.result["scores"]) == {"wer", "cer", "loss", "perplexity"}
    assert run.result["baselines"][0]["scores"]["wer"] == 1.0
    again = run.evaluate(path)
    assert again["wer"] == pytest.approx(
        run.evaluate(path, **{"decoding.beam": 5})["wer"]
    )
    assert (
        run.evaluate(path, **{"data.text": "column2", "data.label": "column1"})["loss"]
        > 0
    )


def test_a_table_of_words_without_an_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "go.tsv"
    path.write_text("".join(f"word{n}\t말{n}\n" for n in range(40)) + "alone\t\n")
    with pytest.raises(DataError, match=r"go\.tsv:41: column 'column2' is empty"):
        make_plan(str(path), STEPS, dry_run=True)
    changes = STEPS | {"data.on_error": "skip"}
    lines = make_plan(str(path), changes, dry_run=True).prepared.lines
    assert any("skipped 1 faulty row" in line for line in lines)
