"""A text for labels and numbers: what it costs, what is drawn, and rows from a file to a text."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import unrolled
from conftest import SMALL, write_csv
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import collate
from unrolled.data.sources import read
from unrolled.runs.plan import make_plan
from unrolled.tasks.ngram_model import ngram_nats
from unrolled.tasks.write_text import ORDERS, ConditionedTexts, WriteText

Call = Callable[..., tuple[str, str]]
STEPS = 3
KEYS: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if key != "model.ngrams"},
    "task": "write",
    "training.max_steps": STEPS,
    "training.batch_size": 8,
}
LETTERS = {"Korean": "가나다", "Greek": "αβγ", "English": "abc"}


def named(path: Path, count: int = 60, numbers: bool = False) -> Path:
    """Write names of letters that tell their language."""
    draw = random.Random(3)
    languages = sorted(LETTERS)
    rows = []
    for number in range(count):
        language = languages[number % 3]
        letters = draw.choices(LETTERS[language], k=draw.randrange(2, 6))
        cells = (number % 7 + 0.5,) if numbers else ()
        rows.append((language, *cells, "".join(letters) + str(number)))
    header = ("language", *(("age",) if numbers else ()), "name")
    return write_csv(path, rows, header)


def trained(path: Path, folder: Path, **keys: Any) -> Any:
    return unrolled.train(path, out=folder, quiet=True, **{**KEYS, **keys})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named(tmp_path_factory.mktemp("names") / "names.csv")


@pytest.fixture(scope="module")
def run(data: Path) -> Any:
    return trained(data, data.parent / "run")


def encoded(run: Any, data: Path) -> ConditionedTexts:
    task = run.task
    assert isinstance(task, WriteText)
    return task.encode(read(data), "stop")[0]


def test_a_table_is_understood_and_texts_are_held_out(run: Any, data: Path) -> None:
    schema = run.task.schema
    assert (schema.task, schema.categories, schema.answer) == (
        "write",
        ("language",),
        "name",
    )
    assert run.task.tokenizer.kind == "chars"
    lines = json.loads((run.folder / "result.json").read_text())["found"]
    # by the text: each language is on both sides
    assert any("by the hash of name" in line for line in lines)
    plan = make_plan(str(data), KEYS, dry_run=True)
    train = plan.prepared.train
    dev = plan.prepared.dev
    assert set(train.references).isdisjoint(dev.references)
    assert set(dev.sources) <= set(train.sources)


def test_the_loss_is_the_cross_entropy_of_each_character(run: Any, data: Path) -> None:
    examples = encoded(run, data)
    model = run.model
    nats = 0.0
    count = 0
    for row in range(len(examples)):
        batch = collate(examples, np.array([row]))
        assert batch.targets is not None
        assert batch.lengths is not None
        inputs = torch.cat([torch.tensor([[2]]), batch.targets[:, :-1]], 1)
        with torch.no_grad():
            scores = model(batch.inputs, batch.lengths, inputs)
        nats += float(F.cross_entropy(scores[0], batch.targets[0], reduction="sum"))
        count += batch.targets.numel()
    characters = sum(map(len, examples.references))
    # a mark behind each text
    assert count == characters + len(examples)
    scores = run.evaluate(data)
    assert scores["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    bits = nats / math.log(2) / characters
    assert scores["bits_per_character"] == pytest.approx(bits, rel=1e-5)


def test_simple_methods_are_scored_in_bits_of_a_character(tmp_path: Path) -> None:
    data = named(tmp_path / "names.csv")
    plan = make_plan(str(data), KEYS, dry_run=True)
    prepared = plan.prepared
    train = prepared.train
    dev = prepared.dev
    methods = dict(prepared.task.baselines(prepared.split))
    size = prepared.task.tokenizer.size
    names = sorted(LETTERS)
    kinds = tuple(
        np.array([names.index(source) for source in part.sources])
        for part in (train, dev)
    )
    characters = sum(map(len, dev.references))
    assert len(methods) == 2 * len(ORDERS)
    for order in ORDERS:
        losses = []
        for name, of_kinds in (("", None), (" of each label", kinds)):
            nats = ngram_nats(train.targets, dev.targets, order, size, of_kinds)
            scores = methods[f"{order}-grams{name}"]()
            assert scores is not None
            assert scores["bits_per_character"] == nats / math.log(2) / characters
            assert scores["loss"] == pytest.approx(nats / len(dev.targets.flat))
            losses.append(scores["loss"])
        # the letters of a name are those of its language
        assert losses[1] < losses[0]


def test_the_label_says_which_letters_are_written(tmp_path: Path) -> None:
    data = named(tmp_path / "names.csv", 240)
    keys = {
        "model.hidden": 32,
        "training.max_steps": 150,
        "training.batch_size": 32,
        "training.learning_rate": 0.01,
    }
    run = trained(data, tmp_path / "run", **keys)
    for language, letters in LETTERS.items():
        (text,) = run.predict([language])
        assert text[0] in letters
    scores = run.result["scores"]
    alone = {b["name"]: b["scores"]["loss"] for b in run.result["baselines"]}
    assert scores["loss"] < min(alone[f"{order}-grams"] for order in ORDERS)


def test_what_is_drawn_is_seeded_and_compared_with_training(
    run: Any, data: Path
) -> None:
    examples = encoded(run, data)
    task = run.task
    predictor = run.predictor
    state = torch.random.get_rng_state()
    first = task.evaluate(
        run.model, examples, predictor.compute_device, predictor.options
    )
    # nothing else draws differently because of it
    assert torch.equal(state, torch.random.get_rng_state())
    second = task.evaluate(
        run.model, examples, predictor.compute_device, predictor.options
    )
    assert first.written is not None
    assert second.written is not None
    texts = list(first.written.answers)
    assert texts == list(second.written.answers)
    assert first.scores == second.scores
    held_in = make_plan(str(data), KEYS, dry_run=True).prepared.train.references
    assert first.scores["new"] == np.mean([text not in held_in for text in texts])
    assert first.scores["distinct"] == len(set(texts)) / len(texts)
    # validation draws nothing
    scores = task.validate(
        run.model, examples, predictor.compute_device, predictor.options
    )
    assert scores == {name: first.scores[name] for name in scores}
    assert set(scores) == {"loss", "perplexity", "bits_per_character"}


def test_some_of_the_examples_are_as_they_are_among_all(run: Any, data: Path) -> None:
    examples = encoded(run, data)
    some = examples.pick(np.array([4, 1]))
    assert some.sources == (examples.sources[4], examples.sources[1])
    assert some.references == (examples.references[4], examples.references[1])
    assert (len(some), some.answers) == (2, 2)
    by = run.evaluate(data, **{"data.by": "language"})["by_language"]
    assert sum(part["rows"] for part in by.values()) == len(examples)


def test_a_row_of_many_is_as_one_alone(run: Any) -> None:
    rows = ["Korean", "Greek", "English", "Korean"]
    together = run.predict(rows)
    assert together == [run.predict([row])[0] for row in rows]
    assert together[0] == together[3]
    assert run.predict([{"language": "Greek"}]) == [together[1]]
    assert run.predict([("Greek",)]) == [together[1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Koraen", "'Koraen' was not seen in training .*did you mean 'Korean'"),
        ("", "column 'language' holds no label"),
        ({"tongue": "Korean"}, "has no 'language'"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused(run: Any, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run.predict([row])


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("language,name", "Korean,", r"new\.csv:2: column 'name' is empty"),
        ("language,name", "Klingon,a", "'Klingon' was not seen in training"),
        ("language,text", "Korean,a", r"no column 'name'.*data\.label"),
        (
            "language,name",
            f"Korean,{'a' * 300}",
            "301 tokens .* data.max_tokens is 256",
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(
    run: Any, tmp_path: Path, header: str, row: str, message: str
) -> None:
    path = tmp_path / "new.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match=message):
        run.evaluate(path)
    if header == "language,name":
        path.write_text(f"{header}\n{row}\nKorean,가\n")
        assert run.evaluate(path, **{"data.on_error": "skip"})["loss"] > 0


def test_rows_on_the_command_line_and_in_a_file(
    run: Any, tmp_path: Path, cli: Call
) -> None:
    (korean,) = run.predict(["Korean"])
    assert cli("predict", run.folder, "Korean")[0] == f"{korean}\n"
    path = tmp_path / "rows.csv"
    path.write_text("language\nKorean\nKlingon\nKorean\n")
    out, said = cli("predict", run.folder, "--file", path)
    assert out.split("\n") == [korean, "", korean, ""]
    assert "rows.csv:3: label 'Klingon' was not seen in training" in said
    words = ("--set", "decoding.sample=true", "--set", "decoding.n_best=3")
    drawn = [
        cli("predict", run.folder, "Greek", "--json", *words, "--seed", seed)[0]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(json.loads(drawn[0])["n_best"]) == 3
    out, _ = cli("predict", run.folder, "Greek", "--begin", "β")
    assert out.startswith("β")


def test_a_model_of_several_columns_reads_all_of_them(tmp_path: Path) -> None:
    data = named(tmp_path / "names.csv", 60, numbers=True)
    run = trained(data, tmp_path / "run", **{"training.max_steps": 20})
    assert run.task.schema.inputs == ("age", "language")
    # as the columns of the file stand
    typed = run.predict(["Korean,2.5"])
    assert run.predict([{"language": "Korean", "age": 2.5}]) == typed
    with pytest.raises(UserError, match="'old' where a number is expected"):
        run.predict([{"language": "Korean", "age": "old"}])
    examples = encoded(run, data)
    assert examples.vectors is not None
    changed = examples.vectors[:1].copy()
    changed[0, 0] += 1
    source = run.model.source
    first, second = (
        source(torch.from_numpy(rows)) for rows in (examples.vectors[:1], changed)
    )
    # age has the first features, language the others
    differs = (first != second)[0, 0]
    half = source.output_size // 2
    assert differs[:half].all()
    assert not differs[half:].any()
    columns = run.inspect("Korean,2.5").to_json()["attributions"]["columns"]
    assert set(columns) == {"age", "language"}


def test_the_look_inside_says_what_the_label_adds(run: Any) -> None:
    values = run.inspect("Korean").to_json()
    assert values["tokens"] == ["Korean"]
    assert values["answer"] == run.predict(["Korean"])[0]
    attributions = values["attributions"]
    (added,) = attributions["columns"].values()
    difference = values["explained"]["probability"] - attributions["baseline"]
    assert added == pytest.approx(difference, abs=1e-3)


@pytest.mark.parametrize(
    "keys",
    [
        {"layer": "rnn", "model.attention": "additive"},
        {"model.attention": "none"},
        {"layer": "lstm", "model.attention": "multiplicative"},
        {"layer": "attention", "model.heads": 2},
        {"data.tokenizer": "jamo", "model.tie": True},
    ],
    ids=["rnn", "none", "lstm", "attention", "jamo"],
)
def test_every_decoder_writes_and_is_read_back(
    data: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    run = trained(data, tmp_path / "run", **keys)
    again = unrolled.load(tmp_path / "run")
    assert again.evaluate(data) == run.evaluate(data)
    assert again.predict(["Greek"]) == run.predict(["Greek"])
    task: Any = again.task
    assert np.array_equal(task.seen, run.task.seen)
    assert task.to_json() == run.task.to_json()


def test_a_training_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    # scored at every step, so that both choose their weights alike
    keys = {"training.schedule": "constant", "training.evaluate_every": 1}
    whole = trained(data, tmp_path / "whole", **keys)
    trained(data, tmp_path / "run", **{**keys, "training.max_steps": STEPS - 1})
    resumed = unrolled.train(
        data, out=tmp_path / "run", resume=True, quiet=True, **{**KEYS, **keys}
    )
    weights = whole.model.state_dict()
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_doctor_compares_texts_and_knows_their_characters(
    data: Path, cli: Call
) -> None:
    out, _ = cli("doctor", data, "task=write", "model.hidden=8", "model.embedding=8")
    # labels stand in both parts, and texts do not
    assert "scored rows stands in training" in out
    assert "unknown tokens" in out
    assert "0 problem" in out


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer": "none"}, "no state"),
        (
            {"layer": "attention", "model.heads": 2, "model.context": 8},
            r"raise model\.context",
        ),
        ({"data.text": "name"}, "task=rewrite"),
        ({"model.ngrams": 3}, "not for write"),
        ({"training.reward": "cider_d"}, "not for write"),
    ],
)
def test_keys_that_mean_nothing_are_refused(
    data: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(str(data), KEYS | keys, dry_run=True)


def test_a_row_has_no_words_to_align(run: Any) -> None:
    with pytest.raises(UsageError, match="no words to align"):
        run.adjust(alignment=True)
    with pytest.raises(UsageError, match="cannot be asked for"):
        run.adjust(begin="Ж")
