"""Searches side by side, one thread each, give the answers of one after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from unrolled.core.errors import UsageError
from unrolled.decoding.settings import Search
from unrolled.models import Unaligned
from unrolled.models.encoder_decoder import Native
from unrolled.nn import LayerConfig, TokenEmbedding, build_decoder, build_layer
from unrolled.nn.build import settings_of
from unrolled.ops import native
from unrolled.tasks import writing
from unrolled.tasks.base import OutputConstraints
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

HERE = ComputeDevice(torch.device("cpu"), "bf16", "")
LETTERS = Tokenizer.fit("chars", ["abcdefghij"])


def build(layer: str) -> Unaligned:
    torch.manual_seed(1)
    config = LayerConfig(hidden=16, layers=2 if layer == "attention" else 1)
    size = LETTERS.size
    encoder = build_layer(layer, settings_of(layer, config, bidirectional=True), 16)
    decoder = build_decoder(layer, settings_of(layer, config), 16, encoder)
    model = Unaligned(
        TokenEmbedding(size, 16), encoder, TokenEmbedding(size, 16), decoder, size
    )
    return model.eval()


def sources() -> list[list[int]]:
    drawn = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 12, (23,), generator=drawn).tolist()
    return [[*torch.randint(4, 14, (n,), generator=drawn).tolist(), 3] for n in lengths]


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("layer", ["attention", "gru"])
def test_threads_do_not_change_answers(
    layer: str, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROWS", 4)
    model = build(layer)
    settings = Search(beam=3, max_extra=6, min_length=1)
    threads(1)
    expected = writing.write(model, LETTERS, sources(), settings, HERE)
    threads(3)
    assert writing.write(model, LETTERS, sources(), settings, HERE) == expected
    assert torch.get_num_threads() == 3
    assert all(answer[0].tokens for answer in expected)


def test_draws_are_made_one_after_the_other(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROWS", 4)
    model = build("gru")
    settings = Search(sample=True, max_extra=6)
    answers = []
    for count in (1, 3):
        threads(count)
        torch.manual_seed(7)
        answers.append(writing.write(model, LETTERS, sources(), settings, HERE))
    assert answers[0] == answers[1]


def test_a_fault_in_a_thread_is_not_lost(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROWS", 4)
    model = build("gru")

    def broken(*args: Any) -> Any:
        raise RuntimeError("no memory")

    model.start = broken  # type: ignore[method-assign]
    threads(2)
    with pytest.raises(RuntimeError, match="no memory"):
        writing.write(model, LETTERS, sources(), Search(), HERE)
    with ThreadPoolExecutor(1) as pool:  # a new thread begins with as many as before
        assert pool.submit(torch.get_num_threads).result() == 2


def test_what_a_model_cannot_hold_is_not_required() -> None:
    config = LayerConfig(hidden=16, context=9)
    encoder = build_layer("attention", config.changed(bidirectional=True), 16)
    decoder = build_decoder("attention", config, 16, encoder)
    size = LETTERS.size
    model = Unaligned(
        TokenEmbedding(size, 16), encoder, TokenEmbedding(size, 16), decoder, size
    )
    constraints = OutputConstraints(begin="abc", required=("defghi",))
    with pytest.raises(
        UsageError, match="take 10 tokens with the end mark, and this model writes"
    ):
        writing.write(
            model.eval(), LETTERS, sources(), Search(), HERE, constraints=constraints
        )


def test_the_native_core_writes_what_torch_writes() -> None:
    if native.missing():
        pytest.skip(f"no native core: {native.missing()}")
    model = build("attention")
    assert isinstance(model.stepper(), Native)
    settings = Search(beam=4, n_best=4, max_extra=6)
    fast = writing.write(model, LETTERS, sources(), settings, HERE)
    model.stepper = lambda: model  # type: ignore[method-assign]
    slow = writing.write(model, LETTERS, sources(), settings, HERE)
    for mine, theirs in zip(fast, slow, strict=True):
        for answer, other in zip(mine, theirs, strict=True):
            assert answer.tokens == other.tokens
            # sums of up to twenty log-probabilities of fp32, taken in another order
            assert abs(answer.log_probability - other.log_probability) < 1e-4


@pytest.mark.parametrize("layer", ["attention", "gru"])
def test_a_beginning_is_written_whole_whatever_the_limit(layer: str) -> None:
    constraints = OutputConstraints(begin="abcde")
    settings = Search(beam=2, max_length=3)
    answers = writing.write(
        build(layer), LETTERS, sources(), settings, HERE, constraints=constraints
    )
    assert all(
        LETTERS.decode(answer[0].tokens).startswith("abcde") for answer in answers
    )


def test_a_phrase_required_twice_takes_the_room_of_one() -> None:
    config = LayerConfig(hidden=16, context=9)
    decoder = build_decoder(
        "attention", config, 16, build_layer("gru", LayerConfig(hidden=16), 16)
    )
    encoder = build_layer("gru", LayerConfig(hidden=16), 16)
    size = LETTERS.size
    model = Unaligned(
        TokenEmbedding(size, 16), encoder, TokenEmbedding(size, 16), decoder, size
    )
    constraints = OutputConstraints(required=("defgh", "defgh"))
    answers = writing.write(
        model.eval(), LETTERS, sources(), Search(beam=8), HERE, constraints=constraints
    )
    assert all("defgh" in LETTERS.decode(answer[0].tokens) for answer in answers)


def test_a_banned_word_is_spelt_in_no_other_way() -> None:
    pieces = Tokenizer.fit("bpe", ["lamp lamps lampe clamp la m p the the"] * 5, 290)
    torch.manual_seed(0)
    width = LayerConfig(hidden=16)
    size = pieces.size
    encoder = build_layer("gru", width, 16)
    decoder = build_decoder("gru", width, 16, encoder)
    table = TokenEmbedding(size, 16)
    model = Unaligned(TokenEmbedding(size, 16), encoder, table, decoder, size).eval()
    # a model that likes every way to spell one word, the one of the tokenizer best
    for number, text in enumerate((" lamp", " ", "la", "m", "p", " la", "l", "a")):
        for id in pieces.encode(text):
            model.head.bias.data[id] += 6 - 0.2 * number
    model.head.weight.data.zero_()
    settings = Search(beam=4, n_best=4, max_length=6)
    rows = [[pieces.encode("lamp")[0], 3]]
    free = writing.write(model, pieces, rows, settings, HERE)[0]
    assert any("lamp" in pieces.decode(answer.tokens).split() for answer in free)
    constraints = OutputConstraints(banned=("lamp",))
    constrained = writing.write(
        model, pieces, rows, settings, HERE, constraints=constraints
    )[0]
    assert constrained
    assert not any(
        "lamp" in pieces.decode(answer.tokens).split() for answer in constrained
    )
