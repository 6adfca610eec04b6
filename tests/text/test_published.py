"""Tokenizers of other people: ids as the library gives them, text piece by piece."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from unrolled.core.errors import DataError, UserError
from unrolled.text.published import (
    PublishedTokenizer,
    merges_by_score,
    read_document,
    read_llama2c,
)

TEXTS = ["the cat sat on the mat", "한국어 글자와 the man", "naïve 🙂🙃 cats"]


def document(kind: str) -> dict[str, Any]:
    """Return a tokenizer of byte-level pairs, or one of pieces with bytes for what is unknown."""
    if kind == "bytes":
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        marks = ["<|endoftext|>"]
    else:
        library = tokenizers.Tokenizer(
            models.BPE(unk_token="<unk>", byte_fallback=True)
        )
        library.pre_tokenizer = pre_tokenizers.Metaspace()
        library.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet = []
        marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=marks,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    library.train_from_iterator(TEXTS[:2] * 5, trainer)
    if kind == "pieces":
        library.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    values: dict[str, Any] = json.loads(library.to_str())
    # bytes are no specials, which decoding would leave out
    values["added_tokens"] = values["added_tokens"][:3]
    return values


def made(kind: str) -> tuple[PublishedTokenizer, tokenizers.Tokenizer]:
    values = document(kind)
    library = tokenizers.Tokenizer.from_str(json.dumps(values))
    size = library.get_vocab_size()
    marks = (0, (0,)) if kind == "bytes" else (1, (2,))
    return PublishedTokenizer(values, size, *marks), library


PAIRS = {kind: made(kind) for kind in ("bytes", "pieces")}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_the_librarys(kind: str, text: str) -> None:
    ours, library = PAIRS[kind]
    ids = library.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == ids
    assert ours.beginning(text) == library.encode(text).ids
    assert ours.beginning("") == [0 if kind == "bytes" else 1]
    assert ours.decode(ids) == library.decode(ids) == text
    assert len(ours.spans(text)) == len(ids)
    # an end mark is no text
    assert ours.decode([*ids, *ours.end_ids]) == text


@pytest.mark.parametrize("kind", PAIRS)
def test_what_follows_a_prompt_keeps_its_blank(kind: str) -> None:
    ours, _ = PAIRS[kind]
    ids = ours.beginning("the cat sat")
    before = ours.beginning("the cat")
    stream = ours.stream_after(before)
    pieces = [stream.feed(id) for id in ids[len(before) :]]
    assert "".join(pieces) + stream.finish() == " sat"


@pytest.mark.parametrize("kind", PAIRS)
@given(text=st.text(alphabet="the cat한글é🙂🙃👩\u200d\n", max_size=40))
def test_pieces_are_whole_characters_and_all_of_the_text(kind: str, text: str) -> None:
    ours, library = PAIRS[kind]
    ids = ours.encode(text)
    stream = ours.stream()
    pieces = [stream.feed(id) for id in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == library.decode(ids)


@pytest.mark.parametrize("kind", PAIRS)
@given(data=st.data())
def test_any_ids_are_decoded(kind: str, data: st.DataObject) -> None:
    # a model may write bytes that make no character
    ours, _ = PAIRS[kind]
    ids = data.draw(st.lists(st.integers(0, ours.size - 1), max_size=30))
    assert isinstance(ours.decode(ids), str)
    assert all(ours.token(id) for id in ids)


def test_a_text_is_read_whole(tmp_path: Path) -> None:
    _, library = PAIRS["bytes"]
    short = tokenizers.Tokenizer.from_str(library.to_str())
    short.enable_truncation(2)
    short.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    short.save(str(path))
    size = short.get_vocab_size()
    ours = PublishedTokenizer(read_document(path), size, 0, (0,))
    assert ours.beginning(TEXTS[0]) == library.encode(TEXTS[0]).ids


def test_sizes_that_do_not_fit_are_refused() -> None:
    values = document("bytes")
    for size in (100, 5000):
        with pytest.raises(UserError, match="another model's"):
            PublishedTokenizer(values, size, 0, (0,))


def test_work_for_long_tokens_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="token 1 has 10,000,000 characters; expected"):
        merges_by_score(["a", "a" * 10_000_000], [0.0, 0.0])
    assert merges_by_score(["a", "aa", "aaa"], [0, -1, -2]) == [
        ["a", "a"],
        ["a", "aa"],
        ["aa", "a"],
    ]
    tokens = ["<unk>", "<s>", "</s>", "b" * 5000]
    path = tmp_path / "tok4.bin"
    parts = [struct.pack("<fi", 0.0, len(token)) + token.encode() for token in tokens]
    path.write_bytes(struct.pack("<i", 5000) + b"".join(parts))
    with pytest.raises(DataError, match=r"tok4\.bin: token 3 has 5,000 characters"):
        read_llama2c(path, 4)
