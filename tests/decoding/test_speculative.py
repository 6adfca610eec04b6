"""Drafts: the text, or its distribution, is what it is without one."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from unrolled.decoding.generate import TokenReader, generate
from unrolled.decoding.sampling import Sampling
from unrolled.decoding.speculative import Guess, ModelDraft, RepeatDraft, check
from unrolled.models import LanguageModel
from unrolled.nn import LSTM, Attention, TokenEmbedding

V = 5
CPU = torch.device("cpu")


def model(
    seed: int, layer: str = "attention", context: int | None = None
) -> LanguageModel:
    torch.manual_seed(seed)
    if layer == "lstm":
        inner: Any = LSTM(8, 8)
    else:
        inner = Attention(8, 8, 2, 2, context=context)
    made = LanguageModel(TokenEmbedding(V, 8), inner, V)
    for weight in made.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=1.2 * weight.shape[1] ** -0.5)
    return made.eval()


def drafted_by(other: LanguageModel) -> Any:
    stepper = other.stepper()

    def make(generator: torch.Generator | None) -> ModelDraft:
        reader = TokenReader(stepper, [1], CPU, lambda text: None, keep=True)
        return ModelDraft(reader, generator)

    return make


def repeated(generator: torch.Generator | None) -> RepeatDraft:
    return RepeatDraft()


DRAFTS = {
    "ngram": lambda: repeated,
    "attention": lambda: drafted_by(model(7)),
    "lstm": lambda: drafted_by(model(8, "lstm")),
    "short": lambda: drafted_by(model(7, context=9)),
}


@pytest.mark.parametrize("context", [None, 12])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_text_is_the_same(
    draft: str, context: int | None, penalty: float
) -> None:
    greedy = Sampling(temperature=0, repetition_penalty=penalty)
    big = model(3, context=context)
    said: list[str] = []
    options: dict[str, Any] = {"banned": [4], "notice": said.append}
    plain = list(generate(big.stepper(), [1, 2, 1, 2], 60, greedy, **options))
    got = list(
        generate(
            big.stepper(), [1, 2, 1, 2], 60, greedy, draft=DRAFTS[draft](), **options
        )
    )
    assert got == plain
    assert len(got) == 60
    assert len(said) == (0 if context is None else 2)


@pytest.mark.parametrize("draft", ["ngram", "attention", "lstm"])
def test_drawn_texts_have_the_same_distribution(draft: str) -> None:
    """Each text of three tokens as often as its probability says, of 2,000 draws."""
    big = model(3)
    sampling = Sampling(temperature=1.3, top_k=4)
    prompt = [1, 2, 1]
    expected: dict[tuple[int, ...], float] = {}
    with torch.no_grad():
        for text in itertools.product(range(V), repeat=3):
            logits = big(torch.tensor([[*prompt, *text]]))[0][0, 2:5] / 1.3
            border = logits.topk(4).values[:, -1:]
            chance = logits.masked_fill(logits < border, -torch.inf).softmax(1)
            own = chance[torch.arange(3), torch.tensor(text)]
            expected[text] = float(own.prod())
    draws = 2000
    stepper = big.stepper()
    make = DRAFTS[draft]()
    torch.manual_seed(11)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(draws):
        counts[tuple(generate(stepper, prompt, 3, sampling, draft=make))] += 1
    assert all(expected[text] > 0 for text in counts)
    common = {text: p for text, p in expected.items() if p * draws >= 5}
    statistic = sum(
        (counts[text] - p * draws) ** 2 / (p * draws) for text, p in common.items()
    )
    # chi-square: mean = degrees of freedom, variance twice that; 4.5 deviations
    degrees = len(common) - 1
    assert statistic < degrees + 4.5 * (2 * degrees) ** 0.5


def test_a_guess_that_is_not_kept_is_drawn_anew_from_what_is_left() -> None:
    own = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    of_draft = torch.tensor([[0.7, 0.2, 0.1]])
    generator = torch.Generator().manual_seed(1)
    firsts: Counter[int] = Counter()
    for _ in range(4000):
        token = int(torch.multinomial(of_draft[0], 1, generator=generator))
        kept, following = check(Guess([token], of_draft), own, generator)
        firsts[token if kept else following] += 1
    for token, chance in enumerate(own[0].tolist()):
        # four standard errors
        assert (
            abs(firsts[token] / 4000 - chance)
            < 4 * (chance * (1 - chance) / 4000) ** 0.5
        )


def test_what_stood_before_is_guessed() -> None:
    draft = RepeatDraft()
    assert draft.guess([5, 6, 7, 8, 5, 6], 3, lambda x: x).tokens == [7, 8, 5]
    assert draft.guess([5, 6, 7, 8, 5, 6, 9], 3, lambda x: x).tokens == []
    # none of the three was kept: it waits for two tokens
    assert draft.guess([5, 6, 7, 8, 5, 6, 9, 6], 2, lambda x: x).tokens == []
    text = [5, 6, 7, 8, 5, 6, 9, 6, 9]
    assert draft.guess(text, 2, lambda x: x).tokens == [6, 9]
    # the window slid: what is gone is not guessed from
    assert draft.guess([9, 6, 1, 6], 4, lambda x: x).tokens == [1, 6]


def test_recurrent_models_write_without_a_draft_and_say_so() -> None:
    said: list[str] = []
    small = model(8, "lstm")
    options: dict[str, Any] = {"seed": 3, "notice": said.append}
    plain = list(generate(small.stepper(), [1], 9, Sampling(), seed=3))
    got = generate(small.stepper(), [1], 9, Sampling(), draft=repeated, **options)
    assert list(got) == plain
    assert said == ["a draft is left out: it helps models of attention alone"]
