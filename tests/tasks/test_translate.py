"""Translation: what is read and written, its scores, words that are copied and aligned."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import unrolled
from conftest import SMALL, mirrored
from unrolled.core.errors import DataError, UsageError
from unrolled.data.aligned import read_aligned
from unrolled.data.batches import IGNORED, collate
from unrolled.runs.plan import make_plan
from unrolled.tasks.alignment import copied, links, units
from unrolled.tasks.translate import Translate
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import shifted

SOURCES = ["a b c", "e d", "b", "a zebra c d", "e e e e e"]


def pairs(tmp_path: Path, count: int = 40) -> tuple[Path, Path]:
    files = tmp_path / "a.src", tmp_path / "a.tgt"
    for path, text in zip(files, mirrored(count, 7), strict=True):
        path.write_text(text)
    return files


def recipe(target: Path, **changes: Any) -> dict[str, Any]:
    """Return the keys of a tiny run on aligned files."""
    small = {key: value for key, value in SMALL.items() if key != "model.ngrams"}
    settings = {
        "task": "translate",
        "data.train_target": str(target),
        "data.tokenizer": "chars",
    }
    return small | settings | {"training.max_steps": 4} | changes


# ---------------------------------------------------------------------- a model that has learnt


def test_a_trained_model_writes_what_it_learnt_and_stops_by_itself(
    mirror: SimpleNamespace,
) -> None:
    run = unrolled.load(mirror.run)
    answers = run.answers(SOURCES[:3])
    assert [answer.text for answer in answers] == ["c b a", "d e", "b"]
    held = read_aligned(mirror.source, mirror.target, limit=200)
    for beam in (1, 5):
        run.adjust(beam=beam)
        translations = run.answers([row[0] for row in held.rows])
        assert all(answer.details["finished"] for answer in translations)
        right = [
            answer.text == row[1]
            for answer, row in zip(translations, held.rows, strict=True)
        ]
        assert sum(right) >= 190


def test_the_held_out_scores_are_told_with_signature_and_interval(
    mirror: SimpleNamespace,
) -> None:
    result = json.loads((mirror.run / "result.json").read_text())
    assert result["scores"]["bleu"] > 95
    assert "tok:none" in result["notes"][0]
    assert "±" in result["notes"][0]
    assert result["notes"][0] in mirror.said
    copy = next(
        baseline
        for baseline in result["baselines"]
        if baseline["name"] == "copy of the source"
    )
    assert copy["scores"]["bleu"] < 40 < result["scores"]["bleu"]
    page = (mirror.run / "report.html").read_text()
    assert "What it writes: 20 of" in page
    assert "tok:none" in (mirror.run / "README.md").read_text()
    # what is proposed next names both files
    (command,) = [
        line for line in mirror.said.splitlines() if f"train {mirror.source} " in line
    ]
    assert f" data.train_target={mirror.target} " in command
    assert command.endswith(f" layer=lstm --out {mirror.run}-lstm")


def test_the_loss_is_that_of_the_right_answers(mirror: SimpleNamespace) -> None:
    run = unrolled.load(mirror.run)
    assert isinstance(run.task, Translate)
    table = read_aligned(mirror.source, mirror.target, limit=50)
    examples, _ = run.task.encode(table, "stop")
    batch = collate(examples, np.arange(50))
    assert batch.targets is not None
    with torch.no_grad():
        logits = run.model(batch.inputs, batch.lengths, shifted(batch.targets, 2))
    expected = F.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED
    )
    scores = run.task.evaluate(run.model, examples, run.compute_device).scores
    assert scores["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))


def test_a_batch_of_one_answers_as_a_batch_of_many(mirror: SimpleNamespace) -> None:
    run = unrolled.load(mirror.run)
    together = run.answers(SOURCES)
    alone = [run.answers([source])[0] for source in SOURCES]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    scores = [
        [answer.details["score"] for answer in answers] for answers in (together, alone)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_unknown_words_are_copied_from_where_attention_looks(
    mirror: SimpleNamespace,
) -> None:
    run = unrolled.load(mirror.run)
    assert run.predict(["a zebra c d", "zebra b gnu"]) == ["d c zebra a", "gnu b zebra"]
    run.recipe = run.recipe.changed(data=run.recipe.data.changed(copy_unknown=False))
    run.adjust()
    assert "zebra" not in run.predict(["a zebra c d"])[0]


def test_words_are_aligned_and_the_best_answers_listed(mirror: SimpleNamespace) -> None:
    run = unrolled.load(mirror.run)
    run.adjust(alignment=True, n_best=3)
    (answer,) = run.answers(["a zebra c"])
    assert answer.details["alignment"] == [(2, 0), (1, 1), (0, 2)]
    assert answer.details["source_words"] == ["a", "zebra", "c"]
    best = answer.details["n_best"]
    assert (
        [candidate["text"] for candidate in best][:1] == [answer.text] == ["c zebra a"]
    )
    assert len(best) == 3
    assert sorted((candidate["score"] for candidate in best), reverse=True) == [
        b["score"] for b in best
    ]
    assert answer.probability is not None
    assert 0 < answer.probability <= 1


def test_an_answer_begins_as_asked_and_holds_or_lacks_words(
    mirror: SimpleNamespace,
) -> None:
    run = unrolled.load(mirror.run)
    run.adjust(begin="e e")
    assert run.predict(["a b"])[0].startswith("e e")
    run.adjust(banned=["b"])
    assert "b" not in run.predict(["a b c"])[0].split()
    run.adjust(required=["d e"])
    assert "d e" in run.predict(["a b c"])[0]
    run.adjust()
    assert run.predict(["a b c"]) == ["c b a"]


def test_a_score_by_another_search_changes_no_answer_meanwhile(
    mirror: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unrolled.load(mirror.run)
    searches = []
    before = run.predictor.options.search
    evaluate = type(run.task).evaluate

    def scored(task: Any, *arguments: Any) -> Any:
        # what another thread that answers just now would search by
        searches.append((arguments[-1].search.beam, run.predictor.options.search))
        return evaluate(task, *arguments)

    monkeypatch.setattr(type(run.task), "evaluate", scored)
    run.evaluate(
        mirror.source, target=mirror.target, **{"decoding.beam": 1, "data.limit": 20}
    )
    assert searches == [(1, before)]
    assert before.beam != 1
    # a search that is refused leaves the words as they were asked for
    run.adjust(begin="a")
    with pytest.raises(UsageError):
        run.adjust(begin="b", beam=10**9)
    assert run.predictor.options.constraints.begin == "a"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 3}, "did you mean 'beam'"),
        ({"beam": 0}, "beam=0"),
        ({"n_best": 9}, "needs a beam as wide"),
    ],
)
def test_a_setting_of_the_search_that_cannot_be_is_refused(
    mirror: SimpleNamespace, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        unrolled.load(mirror.run).adjust(**changes)


def test_other_tasks_have_no_search(home: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="trained to classify searches for no answers"):
        unrolled.load(home.runs["classify"]).adjust(beam=2)


# ---------------------------------------------------------------------- fields and models


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": "attention", "model.heads": 2, "model.tie": True},
        {"layer": "gru", "model.decoder": "lstm", "model.attention": "multiplicative"},
        {"layer": "attention", "model.heads": 2, "model.decoder": "gru"},
        {"layer": "lstm", "model.attention": "none"},
        {"data.joint": True, "model.share": True, "model.scale_embedding": True},
    ],
)
def test_every_kind_of_model_trains_and_is_read_back(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    source, target = pairs(tmp_path)
    settings = recipe(target, **changes)
    run = unrolled.train(
        source, out=tmp_path / "run", say=lambda text: None, quiet=True, **settings
    )
    before = run.answers(SOURCES)
    again = unrolled.load(tmp_path / "run").answers(SOURCES)
    assert [answer.text for answer in before] == [answer.text for answer in again]
    assert (tmp_path / "run" / "target.json").exists() != bool(
        changes.get("data.joint")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": "attention", "model.heads": 2, "training.learning_rate": 0.005},
        {"layer": "gru", "model.attention": "additive"},
        {
            "layer": "lstm",
            "model.attention": "multiplicative",
            "model.bidirectional": True,
        },
        {"layer": "rnn", "model.attention": "none"},
        {"layer": "attention", "model.heads": 2, "model.decoder": "lstm"},
        {"layer": "gru", "task": "rewrite"},
    ],
)
def test_every_kind_of_model_learns_where_to_end(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    words = [
        "".join(letters)
        for n in (1, 2, 3)
        for letters in itertools.permutations("abc", n)
    ]
    files = tmp_path / "a.src", tmp_path / "a.tgt"
    files[0].write_text("".join(f"{word}\n" for word in words * 30))
    files[1].write_text("".join(f"{word}{word.upper()}\n" for word in words * 30))
    settings = recipe(
        files[1],
        **{
            "model.hidden": 32,
            "model.embedding": 32,
            "model.dropout": 0.0,
            "model.head_dropout": 0.0,
            "model.embedding_dropout": 0.0,
            "training.learning_rate": 0.01,
            "training.batch_size": 30,
            "training.label_smoothing": 0.0,
            "training.average": "none",
            "training.max_steps": 300,
            "training.evaluate_every": 300,
            "training.schedule": "cosine",
            "data.max_tokens": 16,
            "data.dev": str(files[0]),
            "data.dev_target": str(files[1]),
        }
        | changes,
    )
    run = unrolled.train(
        files[0], out=tmp_path / "run", say=lambda text: None, quiet=True, **settings
    )
    for beam in (1, 5):
        run.adjust(beam=beam)
        answers = run.answers(words)
        assert all(answer.details["finished"] for answer in answers)
        right = [
            answer.text == word + word.upper()
            for answer, word in zip(answers, words, strict=True)
        ]
        assert sum(right) >= 12  # of 15; one that never ended would have 54 letters


def test_one_vocabulary_for_both_sides_is_learnt_from_both(tmp_path: Path) -> None:
    source = tmp_path / "a.en"
    target = tmp_path / "a.de"
    source.write_text("".join(f"{'abc' * n}\n" for n in range(1, 30)))
    target.write_text("".join(f"{'xyz' * n}\n" for n in range(1, 30)))
    for joint, size in ((True, 10), (False, 7)):
        plan = make_plan(
            str(source), recipe(target, **{"data.joint": joint}), dry_run=True
        )
        task = plan.prepared.task
        assert isinstance(task, Translate)
        assert task.inputs.tokenizer.size == task.output.tokenizer.size == size
        assert task.joint == joint


def test_sides_may_be_cut_in_different_ways(tmp_path: Path) -> None:
    source, target = pairs(tmp_path)
    settings = recipe(
        target, **{"data.target_tokenizer": "whitespace", "data.target_vocabulary": 7}
    )
    task = make_plan(str(source), settings, dry_run=True).prepared.task
    assert isinstance(task, Translate)
    assert (task.inputs.tokenizer.kind, task.output.tokenizer.kind) == (
        "chars",
        "whitespace",
    )
    assert task.output.tokenizer.size == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.share": True}, r"needs one vocabulary; set data\.joint=true"),
        (
            {"model.tie": True, "model.embedding": 6},
            "model.tie needs a target embedding",
        ),
        (
            {"data.joint": True, "data.target_tokenizer": "bpe"},
            "leave out data.target_tokenizer",
        ),
        ({"data.dev": "a.dev"}, "set data.dev_target=FILE"),
        ({"data.dev_target": "a.dev"}, "needs the file beside it: data.dev"),
        ({"task": "classify"}, "data.train_target is for task=translate or rewrite"),
        ({"data.shards": "always"}, "data.shards=always is for language models"),
        (
            {"training.metric": "accuracy"},
            "task=translate has bleu, chrf, loss, perplexity",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source, target = pairs(tmp_path)
    with pytest.raises(UsageError, match=message):
        make_plan(str(source), recipe(target, **changes), dry_run=True)


def test_a_plain_text_alone_is_no_pair(tmp_path: Path) -> None:
    source, _ = pairs(tmp_path)
    with pytest.raises(DataError, match=r"data\.train_target=FILE"):
        make_plan(str(source), {"task": "translate"}, dry_run=True)


def test_bleu_is_better_when_higher_and_loss_when_lower() -> None:
    assert Translate.measures == {
        "bleu": True,
        "chrf": True,
        "loss": False,
        "perplexity": False,
    }


# ---------------------------------------------------------------------- alignments, piece by piece


def test_pieces_belong_to_words() -> None:
    text = "hello world, hello words"
    for kind in ("bpe", "unigram", "bytes"):
        tokenizer = Tokenizer.fit(kind, [text] * 20, 300)
        ids = tokenizer.encode(text)
        words, indices = units(tokenizer, ids)
        assert words == ["hello", "world,", "hello", "words"]
        spelt = [
            "".join(
                tokenizer.token(i)
                for i, p in zip(ids, indices, strict=True)
                if p == word
            )
            for word in range(4)
        ]
        assert [spelling.strip(" ▁").replace("▁", "") for spelling in spelt] == words
    words_alone = Tokenizer.fit("words", ["hello , world"])
    assert units(words_alone, words_alone.encode("hello, moon"), "hello, moon") == (
        ["hello", ",", "moon"],
        [0, 1, 2],
    )


def test_a_word_is_linked_to_where_its_pieces_look_most() -> None:
    weights = np.array(
        [[0.6, 0.2, 0.2], [0.1, 0.45, 0.45], [0.6, 0.3, 0.1]], dtype=np.float32
    )
    # the second and third piece of the source are one word, and the first two of the answer
    assert links(weights, [0, 1, 1], [0, 0, 1]) == [(1, 0), (0, 1)]
    assert links(np.zeros((0, 3), dtype=np.float32), [0, 1, 2], []) == []


def test_a_copied_word_stands_as_its_tokenizer_joins_words() -> None:
    tokenizer = Tokenizer.fit("words", ["hello , world"])
    tokens = [*tokenizer.encode("hello"), tokenizer.unk_id, *tokenizer.encode(",")]
    weights = np.eye(3, dtype=np.float32)
    source = ["bye", "moon", "!"], [0, 1, 2]
    assert copied(tokenizer, tokens, weights, source) == "hello moon,"


def test_the_defaults_of_a_table_of_texts(tmp_path: Path) -> None:
    source, target = mirrored(60, 3)
    rows = zip(source.split("\n"), target.split("\n"), strict=True)
    path = tmp_path / "pairs.tsv"
    text = "".join(f"{a} and {a}\t{b} und {b}\n" for a, b in rows if a)
    path.write_text("source\ttarget\n" + text)
    plan = make_plan(str(path), {}, dry_run=True)
    assert plan.recipe.task == "translate"
    assert plan.recipe.data.tokenizer == "bpe"
    assert (plan.recipe.data.text, plan.recipe.data.label) == ("source", "target")
    assert any(
        "translate (many to many, unaligned)" in line for line in plan.prepared.lines
    )
