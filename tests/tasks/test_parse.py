"""Parsing: what is read and written, scores against those of single answers, and bad input."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from conftest import SMALL, table, write_csv
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import collate
from unrolled.data.schema import Schema
from unrolled.data.trees import parse, plain
from unrolled.decoding.settings import Search
from unrolled.runs.keys import deep
from unrolled.scores.brackets import BracketCounts, match
from unrolled.tasks.base import AnswerOptions
from unrolled.tasks.parse import END, OPENS, SHUT, START, XX, Parse
from unrolled.tasks.recipe import Recipe
from unrolled.training.precision import choose

SCHEMA = Schema("parse", ("words",), (), "tree")
PLACE = choose("cpu", "fp32")
NOUNS = ["cat", "dog", "bird"]
VERBS = ["sees", "hears"]


def phrase(draw: random.Random, depth: int = 0) -> str:
    noun = f"(NP (DT the) (NN {draw.choice(NOUNS)}))"
    if depth < 1 and draw.random() < 0.3:
        return f"(NP {noun} (PP (IN near) {phrase(draw, depth + 1)}))"
    return noun


def bank(count: int, seed: int) -> list[str]:
    """Return trees of a small grammar, with a trace and functions in some."""
    draw = random.Random(seed)
    trees = []
    for _ in range(count):
        subject = phrase(draw).replace("(NP", "(NP-SBJ-1", 1)
        end = draw.choice([" (. .)", ""])
        trees.append(
            f"(ROOT (S {subject} (VP (VBZ {draw.choice(VERBS)}) {phrase(draw)} "
            f"(SBAR (-NONE- 0))){end}))"
        )
    return trees


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    at = tmp_path_factory.mktemp("parse")
    file = at / "bank.ptb"
    file.write_text("\n".join(bank(120, 1)) + "\n")
    run = unrolled.train(
        file,
        out=at / "run",
        say=lambda text: None,
        quiet=True,
        **SMALL
        | {
            "layer": "gru",
            "model.bidirectional": True,
            "model.decoder": "attention",
            "model.hidden": 24,
            "model.embedding": 24,
            "model.spelling": 4,
            "model.heads": 2,
            "training.max_steps": 180,
            "training.learning_rate": 0.01,
            "training.batch_size": 16,
            "training.evaluate_every": 180,
        },
    )
    return SimpleNamespace(folder=at / "run", file=file, run=run)


def fitted(path: Path, **changes: Any) -> tuple[Parse, Recipe]:
    recipe = Recipe.read(deep({"task": "parse", "model.spelling": 4, **changes}))
    data = table(path)
    task = Parse.fit(recipe, SCHEMA, data)
    return task, recipe


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.ptb"
    path.write_text("(S (NP (DT the) (NN cat)) (VP (VBZ sits)))\n(NP (NN rain))\n")
    return path


def test_trees_become_tokens_and_the_next_words_are_fed(small: Path) -> None:
    task, recipe = fitted(small)
    names = task.labels.names
    assert names == ("NP", "S", "VP")
    examples, errors = task.encode(table(small), "stop")
    assert not errors
    np_, s, vp = range(OPENS, OPENS + 3)
    batch = collate(examples, np.array([0, 1]))
    assert batch.targets is not None
    assert batch.targets[0].tolist() == [s, np_, XX, XX, SHUT, vp, XX, SHUT, SHUT, END]
    # once a word is written the next one is read
    _, cat, sits = (task.size + batch.inputs[0]).tolist()
    none = task.size
    assert task.decoder_inputs(batch)[0].tolist() == [
        START,
        s,
        np_,
        cat,
        sits,
        SHUT,
        vp,
        none,
        SHUT,
        SHUT,
    ]
    assert task.decoder_inputs(batch)[1, :4].tolist() == [START, np_, none, SHUT]
    model = task.build(recipe)
    # every word is one token to write, and one of its own to read
    assert model.head.out_features == task.size == OPENS + 3
    assert model.target.size == task.size + task.inputs.size


def test_how_large_trees_grow_is_learnt(small: Path) -> None:
    task, _ = fitted(small)
    # (S (NP: two; 9 tokens over 3 words: 3 a word and 2
    assert (task.run, task.growth) == (2, 3)
    assert task.limits([3]) == [12]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize(
    "kind",
    [
        {"layer": "lstm"},
        {"layer": "attention", "model.bidirectional": True, "model.hidden": 16},
    ],
)
def test_an_untrained_model_writes_trees_over_the_right_words(
    small: Path, kind: dict[str, Any], beam: int
) -> None:
    torch.manual_seed(1)
    task, recipe = fitted(small, **kind)
    model = task.build(recipe).eval()
    options = AnswerOptions(Search(beam=beam))
    rows = [["one"], ["(", "two", "(x)"], [f"w{i}" for i in range(40)]]
    answers = task.predict(model, [(row,) for row in rows], PLACE, options)
    assert len(answers) == 3
    for row, answer in zip(rows, answers, strict=True):
        tree = parse(answer.text)
        assert plain(tree) == tree
        assert answer.details["words"] == list(tree.words)
        assert len(tree.words) == len(row)
    assert parse(answers[1].text).words == ("-LRB-", "two", "-LRB-x-RRB-")


def test_a_small_grammar_is_learnt(trained: SimpleNamespace, tmp_path: Path) -> None:
    run = unrolled.load(trained.folder)
    path = tmp_path / "new.ptb"
    trees = [plain(parse(text)) for text in bank(40, 9)]
    path.write_text("\n".join(map(str, trees)) + "\n")
    scores = run.evaluate(path)
    answers = run.answers([" ".join(tree.words) for tree in trees])
    total = BracketCounts()
    for answer, tree in zip(answers, trees, strict=True):
        predicted = parse(answer.text)
        assert predicted.words == tree.words
        total += match(tree.spans, predicted.spans, tree.tags)
    assert scores["valid"] == 1
    assert scores["f1"] == pytest.approx(total.f1)
    assert scores["precision"] == pytest.approx(total.precision)
    assert scores["recall"] == pytest.approx(total.recall)
    assert scores["complete"] == pytest.approx(total.complete)
    assert scores["f1"] > 0.9


def test_its_search_is_set_like_any_other(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(trained.folder)
    path = tmp_path / "new.ptb"
    path.write_text("\n".join(bank(20, 5)) + "\n")
    scores = run.evaluate(path, **{"decoding.beam": 1})
    run.adjust(beam=1)
    assert run.recipe.decoding.beam == 1
    assert run.evaluate(path) == scores
    with pytest.raises(UsageError, match="parse writes no text that could hold"):
        run.adjust(begin="(S")
    with pytest.raises(UsageError, match=r"decoding\.n_best=2: parse writes one tree"):
        run.adjust(beam=4, n_best=2)
    assert (run.recipe.decoding.beam, run.recipe.decoding.n_best) == (1, 1)


def test_it_stops_by_itself(trained: SimpleNamespace) -> None:
    """Without the constraint the end mark still follows the last bracket that closes."""
    run = trained.run
    task = run.task
    model = run.model
    examples, _ = task.encode(table(trained.file), "stop")
    batch = collate(examples, np.arange(20))
    assert batch.targets is not None
    scores = model(
        batch.inputs, batch.lengths, task.decoder_inputs(batch), *batch.extra
    )
    ends = batch.targets == END
    inner = batch.targets >= XX
    assert (scores.argmax(-1)[ends] == END).float().mean() > 0.9
    assert (scores.argmax(-1)[inner] == END).float().mean() < 0.05


def test_a_batch_of_one_says_what_a_batch_of_many_says(
    trained: SimpleNamespace,
) -> None:
    rows = [
        "the cat sees the dog",
        "the bird near the cat hears the dog .",
        "the dog hears the cat",
    ]
    assert [trained.run.predict([row])[0] for row in rows] == trained.run.predict(rows)


def test_a_table_with_a_column_of_trees_is_read(tmp_path: Path) -> None:
    rows = [(plain(parse(tree)), tree) for tree in bank(12, 3)]
    path = write_csv(
        tmp_path / "t.csv",
        [(" ".join(t.words), text) for t, text in rows],
        ("text", "tree"),
    )
    recipe = Recipe.read({"task": "parse"})
    data = table(path)
    task = Parse.fit(recipe, Schema("parse", ("text",), (), "tree"), data)
    examples, _ = task.encode(data, "stop")
    assert examples.trees == tuple(tree for tree, _ in rows)
    assert task.schema.inputs == ("text",)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("(S (XP (NN a)))", "label 'XP' was not seen in training"),
        ("(S (NN a)", "1 bracket not closed"),
        ("", "there is no tree"),
        ("(S " + "(NN a) " * 9 + ")", "9 words and data.max_tokens is 8"),
    ],
)
def test_a_faulty_row_is_named_or_counted(
    tmp_path: Path, small: Path, bad: str, message: str
) -> None:
    task, _ = fitted(small, **{"data.max_tokens": 8})
    path = write_csv(
        tmp_path / "t.csv",
        [("1", "(S (NN a))"), ("2", bad), ("3", "(S (NN b))")],
        ("id", "tree"),
    )
    with pytest.raises(DataError, match=message) as caught:
        task.encode(table(path), "stop")
    assert caught.value.line == 3
    examples, errors = task.encode(table(path), "skip")
    assert examples.lines.tolist() == [2, 4]
    assert [error.line for error in errors] == [3]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "no word"),
        ("", "no word"),
        ("a b c d e f g h i", "9 words and data.max_tokens is 8"),
        (["New York"], "'New York' is no word"),
        (["a", ""], "'' is no word"),
        (["a\x00"], "is no word"),
    ],
)
def test_what_cannot_be_parsed_is_told(small: Path, row: Any, message: str) -> None:
    task, recipe = fitted(small, **{"data.max_tokens": 8})
    assert message.split("'")[-1] in task.why_not_answerable((row,))
    with pytest.raises(UserError, match=message):
        task.predict(task.build(recipe).eval(), [(row,)], PLACE)
    assert task.why_not_answerable((["fine"],)) == ""


def test_a_bad_line_of_a_text_gets_an_empty_answer(small: Path, tmp_path: Path) -> None:
    from unrolled.cli.answering import answer_file
    from unrolled.run import train

    changes = {"training.max_steps": 2, "model.hidden": 8, "training.threads": 1}
    run = train(
        small, out=tmp_path / "run", say=lambda line: None, quiet=True, **changes
    )
    given = tmp_path / "in.txt"
    written = tmp_path / "out.txt"
    given.write_text("the dog\n\n" + "dog " * 2000 + "\nthe cat\n", "utf-8")
    answer_file(run, given, {}, written, False)
    lines = written.read_text("utf-8").splitlines()
    assert [line[:1] for line in lines] == ["(", "", "", "("]
