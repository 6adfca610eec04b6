"""Texts in pages against the same model reading each by itself in torch, and against each other.

Tolerance: see test_attention_stream.py.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.test_attention_stream import KINDS, NEAR, V, by_torch, ids, model

from unrolled.core.errors import UserError
from unrolled.models import LanguageModel
from unrolled.nn.packed_model import TransformerParts
from unrolled.nn.paged_texts import PAGE, PagedTexts
from unrolled.nn.pages import Pages
from unrolled.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="needs the native core")


def texts_of(made: LanguageModel, **options: Any) -> PagedTexts:
    return PagedTexts(TransformerParts.of_model(made, LanguageModel), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_any_length_equal_torchs(kind: str) -> None:
    made = model(kind)
    texts = texts_of(made)
    rows = [
        row[:length].tolist()
        for row, length in zip(ids(4, 60), (1, 16, 33, 50), strict=True)
    ]
    expected = {}
    begun = []
    for row in rows:
        text, scores = texts.read(row)
        expected, _ = by_torch(made, torch.tensor([row]))
        torch.testing.assert_close(scores, expected[:, -1], **NEAR)
        begun.append(text)
    for token in range(12):
        scores = texts.step(begun, [token + number for number in range(4)])
        for number, row in enumerate(rows):
            row.append(token + number)
            expected, _ = by_torch(made, torch.tensor([row]))
            torch.testing.assert_close(scores[number], expected[0, -1], **NEAR)
        # who comes later, or leaves, changes nothing
        if token == 5:
            begun.pop(1)
            rows.pop(1)
            again, _ = texts.read(rows[0])
            begun.append(again)
            rows.append(list(rows[0]))


def test_no_bit_depends_on_the_other_texts() -> None:
    made = model("qwen3", read=256, hidden=256, heads=8, kv_heads=4, layers=2)
    tokens = ids(9, 40).tolist()
    together = texts_of(made)
    begun = [together.read(row[:30])[0] for row in tokens]
    alone = texts_of(made)
    first, _ = alone.read(tokens[4][:30])
    for step in range(30, 40):
        scores = together.step(begun, [row[step] for row in tokens])
        assert torch.equal(scores[4:5], alone.step([first], [tokens[4][step]]))


def test_a_beginning_is_read_once() -> None:
    texts = texts_of(model())
    prompt = ids(1, 3 * PAGE + 5)[0].tolist()
    first, scores = texts.read(prompt)
    other, same = texts.read(prompt)
    assert torch.equal(scores, same)
    assert other.pages[:3] == first.pages[:3]
    assert other.pages[3] != first.pages[3]
    # another text with the same beginning, and one whose last token fills a page
    third, _ = texts.read([*prompt[: 2 * PAGE], 1, 2, 3])
    assert third.pages[:2] == first.pages[:2]
    assert third.pages[2] != first.pages[2]
    whole, _ = texts.read(prompt[: 2 * PAGE])
    assert whole.pages[0] == first.pages[0]
    free = texts._pages.free
    pages = first.pages[:3]
    del first, other, third, whole
    gc.collect()
    assert texts._pages.free > free
    # it is kept for the next text that begins so
    again, scores_again = texts.read(prompt)
    assert again.pages[:3] == pages
    assert torch.equal(scores, scores_again)


def test_no_memory_is_taken_with_the_number_of_texts() -> None:
    texts = texts_of(model())
    tokens = ids(200, 24).tolist()
    for row in tokens:
        text, _ = texts.read(row)
        texts.step([text], [3])
    assert texts._pages.count == 64
    assert texts._pages.free == 64 - len(text.pages)
    assert f"{texts.bytes:,} bytes" in texts.explain()


def test_a_full_cache_is_said_and_other_texts_go_on() -> None:
    made = model()
    texts = texts_of(made, most_bytes=texts_of(made).bytes)
    first, _ = texts.read(ids(1, 63 * PAGE)[0].tolist())
    with pytest.raises(UserError, match="write fewer texts at once"):
        texts.read([5] * (2 * PAGE))
    assert texts._pages.free == 1
    texts.step([first], [1])
    larger = texts_of(made)
    long = ids(1, 200 * PAGE)[0].tolist()
    text, scores = larger.read(long)
    expected, _ = by_torch(made, torch.tensor([long]))
    torch.testing.assert_close(scores, expected[:, -1], **NEAR)
    assert larger._pages.count >= 200
    assert len(text) == len(long)


def test_what_cannot_be_read() -> None:
    texts = texts_of(model("gpt2"))
    text, _ = texts.read([1] * 64)
    for tokens in ([], [V], [-1]):
        with pytest.raises(ValueError, match="tokens of the vocabulary"):
            texts.read(tokens)
    with pytest.raises(ValueError, match="65"):
        texts.read([1] * 65)
    with pytest.raises(ValueError, match="65"):
        texts.step([text], [1])
    other, _ = texts.read([2])
    with pytest.raises(ValueError, match="tokens of the vocabulary"):
        texts.step([other], [V])
    for texts_given, tokens in (([other, other], [1, 2]), ([other], [1, 2])):
        with pytest.raises(ValueError, match="each text once"):
            texts.step(texts_given, tokens)
    assert len(other) == 1
    # numbers of other widths are read by what they say
    last, _ = texts.read(np.array([2, 3], np.int32))
    again, _ = texts.read([2])
    narrow = texts.step([other, again], np.array([3, 4], np.int32))
    torch.testing.assert_close(narrow[:1], texts.read([2, 3])[1], **NEAR)
    assert len(last) == 2


def test_pages_that_were_left_go_in_order() -> None:
    pages = Pages(2, 4)
    text = [pages.take(), pages.take()]
    pages.fill(text[0], None, [1, 2])
    pages.fill(text[1], text[0], [3, 4])
    assert pages.shared([1, 2, 3, 4, 5]) == text
    pages.leave(text)
    assert pages.free == 2
    pages.leave(text)
    assert pages.free == 4
    taken = [pages.take(), pages.take(), pages.take()]
    # the second page of the text had to go, not the first
    assert taken[2] == text[1]
    assert pages.shared([1, 2, 3, 4, 5]) == text[:1]
    assert pages.free == 0
    with pytest.raises(IndexError):
        pages.take()
    pages.leave(taken)
    # the same content a second time is not known twice
    twice = pages.take()
    pages.fill(twice, None, [1, 2])
    assert pages.shared([1, 2, 9]) == text[:1]
