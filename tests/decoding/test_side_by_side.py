"""Texts written side by side: each is what it is by itself, whatever is written beside it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.decoding.test_speculative import model

from unrolled import ops
from unrolled.decoding.generate import generate
from unrolled.decoding.sampling import Sampling
from unrolled.models import LanguageModel
from unrolled.models.batched import Batched
from unrolled.nn import LSTM, TokenEmbedding
from unrolled.ops import native

PROMPTS = [[1], [1, 2, 1, 2], [3] * 20, [1, 2, 1, 2], [2, 3, 1]]


def side_by_side(
    stepper: Batched, prompts: list[list[int]], **options: Any
) -> list[list[int]]:
    """Write on from all prompts, a token of each in turn; the seed of each is its number."""
    sampling = options.pop("sampling", Sampling(temperature=0.8))
    writers: list[Iterator[int]] = [
        generate(stepper, prompt, 40 + 3 * number, sampling, seed=number, **options)
        for number, prompt in enumerate(prompts)
    ]
    texts: list[list[int]] = [[] for _ in prompts]
    alive = list(zip(texts, writers, strict=True))
    while alive:
        going_on = []
        for text, writer in alive:
            token = next(writer, None)
            if token is not None:
                text.append(token)
                going_on.append((text, writer))
        alive = going_on
    return texts


@pytest.mark.parametrize("kind", ["attention", "lstm"])
@pytest.mark.parametrize("core", ["auto", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ends": [4]},
        {"sampling": Sampling(temperature=0, repetition_penalty=1.3), "banned": [4]},
    ],
)
def test_each_is_what_it_is_by_itself(
    kind: str, core: str, options: dict[str, Any]
) -> None:
    made = model(3, kind)
    with ops.use(core):
        together = side_by_side(made.batched(), PROMPTS, **options)
        for number, prompt in enumerate(PROMPTS):
            given = {"sampling": Sampling(temperature=0.8), **options}
            sampling = given.pop("sampling")
            alone = generate(
                made.stepper(), prompt, 40 + 3 * number, sampling, seed=number, **given
            )
            assert together[number] == list(alone)
    if options.get("ends"):
        assert len({len(text) for text in together}) > 1


@pytest.mark.parametrize("core", ["auto", "reference"])
def test_a_window_slides_in_each_text(core: str) -> None:
    made = model(3, context=12)
    said: list[str] = []
    with ops.use(core):
        short = generate(
            made.batched(), [1, 2, 1], 10, Sampling(), seed=1, notice=said.append
        )
        # the tenth token fills the context, and nothing is chosen after it
        assert len(list(short)) == 10
        assert not said
        together = side_by_side(made.batched(), PROMPTS, notice=said.append)
        for number, prompt in enumerate(PROMPTS):
            options: dict[str, Any] = {"seed": number, "notice": lambda text: None}
            alone = generate(
                made.stepper(),
                prompt,
                40 + 3 * number,
                Sampling(temperature=0.8),
                **options,
            )
            assert together[number] == list(alone)
    assert len(said) == len(PROMPTS)


@pytest.mark.skipif(not native.available(), reason="needs the native core")
def test_a_token_of_every_text_is_one_call() -> None:
    made = model(3)
    stepper = made.batched()
    before = native.count("step")
    texts = side_by_side(stepper, [[1, 2, 3]] * 4)
    # the prompt of each, and as many steps as the longest text has tokens, but for its last
    assert native.count("step") - before <= 4 + len(texts[-1])
    gc.collect()
    pool: Any = stepper.pool
    assert pool._pages.free == pool._pages.count


def test_what_steps_many_is_chosen_as_what_steps_one() -> None:
    made = model(3)
    has_core = native.available()
    assert made.batched().path == ("pages" if has_core else "torch")
    assert model(3, "lstm").batched().path == ("native" if has_core else "torch")
    with ops.use("reference"):
        assert made.batched().path == "torch"
    several: Any = LanguageModel(TokenEmbedding(5, 8), LSTM(8, 8, 2, last_size=4), 5)
    # one row has a native step, two have none
    assert several.eval().batched().path == "torch"
    assert side_by_side(several.batched(), [[1], [2]])
    with pytest.raises(Exception, match="precision is half; choose out of float32"):
        made.batched("half")
    with pytest.raises(NotImplementedError):
        made.batched().unroll(torch.zeros(1, 1, dtype=torch.int64))
