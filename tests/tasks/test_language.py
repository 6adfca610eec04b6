"""The language model: every token scored once, with the context that the docstring promises."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unrolled
from conftest import SONG
from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import Lanes
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Format, read
from unrolled.decoding.sampling import Sampling
from unrolled.models import LanguageModel
from unrolled.runs.recipes import requested
from unrolled.tasks.base import FileLayout
from unrolled.tasks.language import Language, TokenStream
from unrolled.tasks.language_scores import TOLERANCE
from unrolled.tasks.recipe import Recipe
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import next_token
from unrolled.training.precision import choose

PLACE = choose("cpu", "fp32")


def step_by_step(model: LanguageModel, start: int, tokens: list[int]) -> list[float]:
    """Return the nats of each token, read one at a time from a fresh start."""
    state = model.layer.initial_state(1, torch.device("cpu"))
    token = start
    nats = []
    for following in tokens:
        logits, state = model.step(torch.tensor([token]), state)
        nats.append(-float(logits.double().log_softmax(-1)[0, following]))
        token = following
    return nats


def test_loss_perplexity_and_bits_are_those_of_the_steps(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["language"])
    text = (
        "row your boat\n한국 stream row row\n"  # 한국 was not seen and counts as well
    )
    path = tmp_path / "t.txt"
    path.write_text(text, encoding="utf-8")
    scores = run.evaluate(path)
    assert isinstance(run.task, Language)
    assert isinstance(run.model, LanguageModel)
    ids = run.task.tokenizer.encode(text)
    with torch.no_grad():
        nats = step_by_step(run.model, run.task.tokenizer.eos_id, ids)
    assert scores["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert len(text.encode()) == len(text) + 4
    assert scores["bits_per_byte"] == pytest.approx(
        sum(nats) / math.log(2) / len(text.encode()), rel=1e-5
    )


def language(
    layer: str, text: str, window: int = 8
) -> tuple[Language, LanguageModel, TokenStream]:
    """Return an untrained model of a text."""
    model = {"hidden": 8, "embedding": 8} | (
        {"heads": 2} if layer == "attention" else {}
    )
    recipe = Recipe.read(
        {"layer": layer, "model": model, "training": {"window": window}}
    )
    data = Document("t.txt", Format("text"), text)
    task = Language.fit(recipe, Schema("language"), data)
    torch.manual_seed(3)
    built = task.build(recipe).eval()
    assert isinstance(built, LanguageModel)
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(3)  # far from even guesses
    return task, built, task.encode(data, "stop")[0]


def random_text(size: int) -> str:
    return "".join(np.random.default_rng(size).choice(list("abcde\n"), size))


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 2049, 4097, 6150])
def test_lanes_score_every_token_once(size: int) -> None:
    # a network without memory sees one token back, so lanes cannot change its score
    task, model, stream = language("none", random_text(size))
    scores = task.evaluate(model, stream, PLACE).scores
    before = torch.tensor([task.tokenizer.eos_id, *stream.tokens[:-1].tolist()])
    with torch.no_grad():
        logits = model(before[None])[0][0].double().log_softmax(-1)
    nats = -logits[torch.arange(size), torch.from_numpy(stream.tokens.astype(np.int64))]
    assert scores["loss"] == pytest.approx(float(nats.mean()), rel=1e-5)
    right = logits.argmax(-1).numpy() == stream.tokens
    assert scores["accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize("layer", ["gru", "attention"])
def test_a_large_vocabulary_is_scored_in_parts(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model, stream = language(layer, random_text(4500))
    whole = task.evaluate(model, stream, PLACE).scores
    monkeypatch.setattr(
        "unrolled.tasks.language_scores.SCORED", 3 * 2 * 9 * task.tokenizer.size
    )
    sizes: list[int] = []
    model.head.register_forward_hook(lambda *given: sizes.append(given[2].numel()))
    parts = task.evaluate(model, stream, PLACE).scores
    assert max(sizes) <= 3 * 2 * 9 * task.tokenizer.size
    for name, score in whole.items():
        # fp32 sums in another order
        assert parts[name] == pytest.approx(score, rel=1e-5), name


def test_a_lane_reads_what_stands_before_it() -> None:
    task, model, stream = language("gru", random_text(4500))
    with torch.no_grad():
        nats = step_by_step(model, task.tokenizer.eos_id, stream.tokens.tolist())
    # 512 tokens of warm-up leave nothing of a GRU's start to be seen
    scores = task.evaluate(model, stream, PLACE).scores
    assert scores["loss"] == pytest.approx(np.mean(nats), rel=1e-4)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 12, 13, 50, 401])
def test_windows_score_every_token_once_with_at_least_half_the_reach(size: int) -> None:
    task, model, stream = language("attention", random_text(size), window=8)
    assert model.context == 8
    width = min(8, size)
    fresh = max(1, width // 2)
    tokens = stream.tokens.astype(np.int64)
    start = task.tokenizer.eos_id
    nats = []
    for position in range(size):
        begin = 0 if position < width else -(-(position - width + 1) // fresh) * fresh
        seen = torch.tensor([[start, *tokens[begin:position].tolist()]])
        with torch.no_grad():
            logits = model(seen)[0][0, -1].double().log_softmax(-1)
        nats.append(-float(logits[tokens[position]]))
    assert task.evaluate(model, stream, PLACE).scores["loss"] == pytest.approx(
        np.mean(nats), rel=1e-4
    )


def test_rows_of_text_are_each_ended_and_counted_in_bytes(tmp_path: Path) -> None:
    task, _, _ = language("none", "abc한\n")
    path = tmp_path / "t.csv"
    path.write_text("text\nab\n한c\n")
    stream, skipped = task.encode(read(path), "stop", Schema("language", ("text",)))
    tokenizer = task.tokenizer
    end = tokenizer.eos_id
    assert stream.tokens.tolist() == [
        *tokenizer.encode("ab"),
        end,
        *tokenizer.encode("한c"),
        end,
    ]
    assert (stream.size, stream.unknown, skipped) == (2 + 4, 0, [])


def test_a_text_of_many_rows_names_its_column(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("poem,year\nrow row,1\nyour boat,2\n")
    run = unrolled.load(home.runs["language"])
    with pytest.raises(UserError, match=r"name the column with data\.text"):
        run.evaluate(path)
    assert run.evaluate(path, **{"data.text": "poem"})["loss"] > 0


def test_greedy_text_is_what_the_steps_say(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["language"])
    assert isinstance(run.task, Language)
    assert isinstance(run.model, LanguageModel)
    tokenizer = run.task.tokenizer
    ids = [tokenizer.eos_id, *tokenizer.encode("row ")]
    for _ in range(12):
        with torch.no_grad():
            logits = run.model(torch.tensor([ids]))[0][0, -1]
        logits[[tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id]] = -math.inf
        ids.append(int(logits.argmax()))
    assert run.generate("row ", 12, temperature=0) == tokenizer.decode(ids[5:])


def test_a_language_model_answers_no_rows(home: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match=r"use run\.generate\(prompt\)"):
        unrolled.load(home.runs["language"]).predict(["row"])


def test_training_compares_candidates_or_adds_penalties_where_asked() -> None:
    task, model, stream = language("gru", random_text(400))

    def loss(**training: float) -> float:
        recipe = Recipe.read({"layer": "gru", "training": {"window": 8, **training}})
        batch = task.source(stream, recipe, model).batch(0, 0)
        return float(task.objective(recipe, model)(model, batch, None).sum.detach())

    plain = loss()
    assert loss(candidates=task.tokenizer.size) == pytest.approx(plain, rel=1e-5)
    torch.manual_seed(0)
    assert loss(candidates=2) != pytest.approx(plain, rel=1e-5)
    assert loss(activation=1) > plain * 1.0001
    with pytest.raises(UsageError, match=r"training\.candidates goes without"):
        loss(candidates=4, label_smoothing=0.1)


def test_awd_lstm_has_the_published_size_and_trains() -> None:
    recipe = requested(
        str(Path(__file__).parents[2] / "examples/wikitext2-awd.yaml"), {}
    )
    words = "\n".join(f"w{i}" for i in range(33_276)) + "\n<unk> w0\n"
    data = Document("t.txt", Format("text"), words)
    task = Language.fit(recipe, Schema("language"), data)
    # 33,278 words with the line end and <unk>, and three marks of our own
    assert task.tokenizer.size == 33_278 + 3
    model = task.build(recipe)
    layers = 4 * (
        1150 * (400 + 1150 + 2) + 1150 * (2 * 1150 + 2) + 400 * (1150 + 400 + 2)
    )
    assert (
        sum(p.numel() for p in model.parameters())
        == layers + 33_281 * 401
        == 33_557_281
    )
    recipe = recipe.changed(training=recipe.training.changed(batch_size=2, window=3))
    stream = task.encode(data, "stop")[0]
    batch = task.source(stream, recipe, model).batch(0, 0)
    loss = task.objective(recipe, model.train())(model, batch, None)
    assert batch.inputs.shape == (2, 3)
    # untrained: about even guesses
    nats = float((loss.logs["nats"][0] / loss.count).detach())
    assert nats == pytest.approx(math.log(33_281), rel=0.05)


def test_a_state_cannot_be_carried_over_a_limited_reach() -> None:
    task, model, _ = language("attention", random_text(50))
    recipe = Recipe.read({"layer": "attention", "training": {"carry": True}})
    with pytest.raises(
        UsageError, match=r"training\.carry=true needs a layer of unlimited reach"
    ):
        task.objective(recipe, model)


def latched(kind: str, text: str) -> tuple[Language, LanguageModel, TokenStream]:
    """Return a model that says other things for good once it has read the mark of a beginning."""
    task, model, stream = language(kind, text)
    size = 8
    end = task.tokenizer.eos_id
    weights: dict[str, torch.Tensor] = dict(model.named_parameters())
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
        weights["embedding.weight"][end, 0] = 1
        w = weights["layer.weight_ih_l0"]
        b = weights["layer.bias_ih_l0"]
        if (
            kind == "lstm"
        ):  # input, forget, candidate, output: the mark alone opens the input
            w[:size, 0] = 40
            b[:size] = -20
            b[size:] = 20
        else:  # reset, update, candidate: the mark alone opens the update
            w[size : 2 * size, 0] = -40
            b[size:] = 20
        weights["head.weight"][:, 0] = torch.linspace(-3, 3, model.head.out_features)
    return task, model, stream


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("size", [4095, 4096, 4500, 9000])
def test_every_lane_begins_with_the_mark(kind: str, size: int) -> None:
    task, model, stream = latched(kind, random_text(size))
    score = task.evaluate(model, stream, PLACE).scores["loss"]
    with torch.no_grad():
        nats = step_by_step(model, task.tokenizer.eos_id, stream.tokens.tolist())
    assert score == pytest.approx(np.mean(nats), abs=TOLERANCE)


LAYERS = ["none", "rnn", "lstm", "gru", "mingru"]


@pytest.mark.parametrize("layer", LAYERS)
@settings(deadline=None, max_examples=8)
@given(
    size=st.integers(1, 9000),
    seed=st.integers(0, 99),
    loud=st.sampled_from([0.5, 2.0, 5.0]),
)
def test_lanes_score_what_one_pass_scores(
    layer: str, size: int, seed: int, loud: float
) -> None:
    task, model, stream = language(layer, random_text(size))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, loud)  # loud cells remember for good
    score = task.evaluate(model, stream, PLACE).scores["loss"]
    before = torch.tensor([[task.tokenizer.eos_id, *stream.tokens[:-1].tolist()]])
    with torch.no_grad():
        scores = model(before)[0][0].double()
    truth = torch.from_numpy(stream.tokens.astype(np.int64))
    expected = float(torch.nn.functional.cross_entropy(scores, truth))
    assert score == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("carry", [True, False])
def test_a_state_that_was_lost_is_replaced_by_a_beginning(carry: bool) -> None:
    task, model, stream = latched("gru", random_text(600))
    source = Lanes(stream.tokens, 2, 16, 0, task.tokenizer.eos_id)
    batch = source.batch(0, 1)
    assert not batch.restart
    state = model(source.batch(0, 0).inputs)[1] if carry else None
    loss = next_token()(model, batch, state)
    first = batch.inputs.clone()
    if not carry:  # no text was read before: each row begins with the mark
        first[:, 0] = task.tokenizer.eos_id
    scores = model(first, state)[0]
    expected = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss.sum, expected)


def test_a_window_read_anew_begins_with_the_mark() -> None:
    task, model, _ = language("attention", random_text(300))
    read: list[list[int]] = []

    class Watched:
        context = model.context
        reads_prompts_whole = False
        answers_later = False

        def read_prompt(self, tokens: torch.Tensor, state: object = None) -> object:
            if state is None:
                read.append(tokens[0].tolist())
            return model.read_prompt(tokens, state)  # type: ignore[arg-type]

        step = model.step

    model.stepper = Watched  # type: ignore[assignment, method-assign]
    list(task.generate(model, "abcde", 30, Sampling(temperature=0.0)))
    assert len(read) > 2
    assert {tokens[0] for tokens in read} == {task.tokenizer.eos_id}


@pytest.mark.parametrize(
    ("prompt", "lacking"), [("row your bäzk", "ä, z, k"), ("row your boat", None)]
)
def test_what_a_prompt_holds_that_training_did_not_is_said(
    home: SimpleNamespace, prompt: str, lacking: str | None
) -> None:
    run = unrolled.load(home.runs["language"])
    assert isinstance(run.task, Language)
    unknown = [c for c in dict.fromkeys(prompt) if c not in SONG]
    assert run.task.unknown_in(prompt) == unknown
    said: list[str] = []
    sampling = Sampling()
    pieces = run.task.generate(
        run.model, prompt, 4, sampling, seed=1, notice=said.append
    )
    assert "".join(pieces)
    unknown_said = [line for line in said if "was not in the training text" in line]
    assert len(unknown_said) == (lacking is not None)
    assert lacking is None or unknown_said[0].endswith(f": {lacking}")


def test_of_words_those_that_are_unknown_are_said() -> None:
    tokenizer = Tokenizer.fit("words", ["row your boat gently down the stream"], 20, 1)
    layout = FileLayout(["text"], Format("text"))
    task = Language(tokenizer, ("text",), layout)
    assert task.unknown_in("row the kayak gently, kayak") == ["kayak", "gently,"]
    assert task.unknown_in("") == []
