"""Writing on by steps says what reading everything anew at each token says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from unrolled.decoding.generate import CHUNK, TokenReader, generate, read
from unrolled.decoding.sampling import Sampling
from unrolled.models import LanguageModel
from unrolled.nn import LAYERS, LayerConfig, TokenEmbedding, build_layer

V = 11
CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0)


def language(name: str, context: int | None = None) -> LanguageModel:
    """Return a model in fp64, so that the two ways to compute cannot differ in a choice."""
    torch.manual_seed(3)
    settings = {"heads": 2, "context": context} if name == "attention" else {}
    config = LayerConfig(hidden=8, layers=2, **settings)
    model = LanguageModel(TokenEmbedding(V, 6), build_layer(name, config, 6), V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.6)
    return model.double().eval()


@torch.no_grad()
def naive(
    model: LanguageModel,
    prompt: Sequence[int],
    count: int,
    temperature: float,
    seed: int,
) -> list[int]:
    """Read the whole text anew for each token, with a plain softmax and draw."""
    generator = torch.Generator().manual_seed(seed)
    text = list(prompt)
    for _ in range(count):
        scores = model(torch.tensor([text]))[0][0, -1].float()
        if temperature == 0:
            text.append(int(scores.argmax()))
        else:
            law = (scores / temperature).double().softmax(-1)
            drawn = torch.rand((), dtype=torch.float64, generator=generator)
            # the first token at which the sum of probabilities passes the number drawn
            text.append(int((law.cumsum(-1) <= drawn).sum()))
    return text[len(prompt) :]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_steps_equal_reading_everything_anew(name: str, temperature: float) -> None:
    model = language(name)
    tokens = list(
        generate(model, [3, 1, 4], 40, Sampling(temperature=temperature), seed=11)
    )
    assert tokens == naive(model, [3, 1, 4], 40, temperature, 11)
    # a greedy text may run into a loop; a drawn one must not
    assert temperature == 0 or len(set(tokens)) > 4


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_a_prompt_longer_than_a_chunk_is_read_whole(name: str, size: int) -> None:
    model = language(name)
    prompt = torch.randint(
        V, (size,), generator=torch.Generator().manual_seed(size)
    ).tolist()
    with torch.no_grad():
        scores, _ = read(model, prompt, CPU)
        whole = model(torch.tensor([prompt]))[0][:, -1]
    # fp64 sums in another order
    torch.testing.assert_close(scores, whole, rtol=1e-10, atol=1e-10)


class Spy:
    """A model that notes what it is asked and how large its state is."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.context = model.context
        self.reads_prompts_whole = False
        self.answers_later = False
        self.read: list[int] = []
        self.sizes: list[int] = []

    def read_prompt(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self.read.append(tokens.shape[1])
        return self.model.read_prompt(tokens, state)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        scores, state = self.model.step(tokens, state)
        self.sizes.append(sum(t.numel() for t in state.to_tensors().values()))
        return scores, state


@pytest.mark.parametrize("name", LAYERS)
def test_the_state_of_a_layer_without_limit_does_not_grow(name: str) -> None:
    spy = Spy(language(name))
    made = list(generate(spy, [1] * (3 * CHUNK), 60, Sampling(), seed=0))
    assert len(made) == 60
    assert spy.read == [CHUNK] * 3
    assert len(spy.sizes) == 59  # the last token is not read
    if name == "attention":
        assert spy.sizes == sorted(set(spy.sizes))
    else:
        assert len(set(spy.sizes)) == 1


def test_a_reader_without_limit_keeps_no_text() -> None:
    reader = TokenReader(language("gru"), [1, 2], CPU, notice=lambda text: None)
    with torch.no_grad():
        for _ in range(50):
            reader.feed(torch.tensor([4]))
    assert len(reader.recent) == 2


@pytest.mark.parametrize("context", [1, 2, 7, 8])
@pytest.mark.parametrize("size", [1, 5, 30])
def test_past_its_context_a_model_reads_the_last_half_anew(
    context: int, size: int
) -> None:
    model = language("attention", context)
    prompt = [(3 * i) % V for i in range(size)]
    said: list[str] = []
    written = list(generate(model, prompt, 40, GREEDY, notice=said.append))

    half = max(1, context // 2)
    window = prompt if size <= context else prompt[-half:]
    expected = []
    with torch.no_grad():
        for _ in range(40):
            token = int(model(torch.tensor([window]))[0][0, -1].argmax())
            expected.append(token)
            window = [*window, token]
            window = window if len(window) <= context else window[-half:]
    assert written == expected
    why = "the prompt is longer than" if size > context else "the text outgrew"
    assert said == [f"{why} the model's context of {context} tokens; the window slides"]


def test_within_its_context_nothing_is_said() -> None:
    said: list[str] = []
    model = language("attention", 12)
    # the last token is yielded and never read, so 4 + 9 tokens fit into 12
    written = list(generate(model, [1, 2, 3, 4], 9, GREEDY, notice=said.append))
    assert said == []
    assert written == naive(model, [1, 2, 3, 4], 9, 0, 0)


class Fixed:
    """A model whose scores after reading token t are row t of a table."""

    context = None
    reads_prompts_whole = False
    answers_later = False

    def __init__(self, table: list[list[float]]) -> None:
        self.table = torch.tensor(table, dtype=torch.float32)

    def read_prompt(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.table[tokens[:, -1]], state

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.table[tokens], state


# 0 -> 1 -> 2 -> 3 -> 0 ..., with 3, then 2 as the second choices
CYCLE = Fixed([[0, 9, 8, 7], [0, 1, 9, 8], [0, 1, 2, 9], [9, 1, 2, 8]])


def test_an_end_token_ends_and_is_not_yielded() -> None:
    assert list(generate(CYCLE, [0], 10, GREEDY, ends=[3])) == [1, 2]
    assert list(generate(CYCLE, [0], 10, GREEDY, ends=[1])) == []
    assert list(generate(CYCLE, [0], 5, GREEDY)) == [1, 2, 3, 0, 1]


def test_banned_tokens_are_never_chosen() -> None:
    assert list(generate(CYCLE, [0], 4, GREEDY, banned=[1])) == [2, 3, 0, 2]
    hot = Sampling(temperature=1e300)
    drawn = list(generate(CYCLE, [0], 300, hot, seed=1, banned=[0, 2]))
    assert set(drawn) == {1, 3}


def test_no_more_than_asked() -> None:
    assert list(generate(CYCLE, [0], 0, GREEDY)) == []
    assert list(generate(CYCLE, [0], 1, GREEDY)) == [1]


def test_the_penalty_counts_the_prompt_and_what_was_made() -> None:
    strong = Sampling(temperature=0, repetition_penalty=100)
    # 1 was said in the prompt: from 0 the second choice, 2; then 3; then all are weakened alike,
    # and 0 is the best again. Had 3 not been counted, it would be said twice
    assert list(generate(CYCLE, [1, 0], 3, strong)) == [2, 3, 0]
    assert list(generate(CYCLE, [0], 3, strong)) == [1, 2, 3]


def test_a_seed_repeats_a_text_and_does_not_touch_the_global_generator() -> None:
    model = language("gru")

    def write(seed: int | None) -> list[int]:
        return list(generate(model, [1], 30, Sampling(temperature=2), seed=seed))

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert write(1) == write(1) != write(2)
    assert torch.equal(torch.get_rng_state(), before)
    first = write(None)
    assert write(None) != first
    torch.set_rng_state(before)
    assert write(None) == first


def test_tokens_come_as_they_are_made() -> None:
    spy = Spy(language("rnn"))
    stream = generate(spy, [1], 10, Sampling(), seed=0)
    next(stream)
    next(stream)
    assert len(spy.sizes) == 1


def test_gradients_stay_on_outside_and_off_inside() -> None:
    model = language("gru")
    stream = generate(model, [1], 3, Sampling(), seed=0)
    next(stream)
    assert torch.is_grad_enabled()
    assert model(torch.tensor([[1]]))[0].requires_grad
    spy = Spy(model)
    list(generate(spy, [1], 3, Sampling(), seed=0))
    reader = TokenReader(model, [1], CPU, notice=lambda text: None)
    assert reader.logits.requires_grad  # only generate turns gradients off


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="the prompt holds no token"):
        next(generate(CYCLE, [], 3, GREEDY))
