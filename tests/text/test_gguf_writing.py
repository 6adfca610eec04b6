"""Published tokenizers as metadata of GGUF: those that are known by their rule, and scores."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from unrolled.core.errors import UserError
from unrolled.text.gguf import DOCUMENT, PREFIX, gguf_tokenizer
from unrolled.text.gguf_writing import metadata_of
from unrolled.text.published import PublishedTokenizer, bpe_model, merges_by_score

TEXT = "the cat's 1234 hats, DON'T  stop\n\n  it'LL be 3.14 한국어 naïve 🙂\t\r\n x 12 345678"
LATER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(**settings: Any) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, **settings}


def later(digits: str, trimmed: bool) -> dict[str, Any]:
    split = {
        "type": "Split",
        "pattern": {"Regex": LATER % digits},
        "behavior": "Isolated",
        "invert": False,
    }
    letters = byte_level(trim_offsets=trimmed, use_regex=False)
    return {"type": "Sequence", "pretokenizers": [split, letters]}


# as they stand in the tokenizer.json of each: the name of llama.cpp, and parts of the document
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("gpt-2", {"pre_tokenizer": byte_level(trim_offsets=True)}),
    "SmolLM2": (
        "smollm",
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    byte_level(trim_offsets=True, use_regex=True),
                ],
            }
        },
    ),
    "Llama 3": (
        "llama-bpe",
        {"pre_tokenizer": later("{1,3}", True), "ignore_merges": True},
    ),
    "Qwen 2.5": (
        "qwen2",
        {"pre_tokenizer": later("", False), "normalizer": {"type": "NFC"}},
    ),
}


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # uncut, so that merges reach over what every rule cuts
    library.train_from_iterator([TEXT, TEXT[7:], "the cat sat on the mat"], trainer)
    values: dict[str, Any] = json.loads(library.to_str())["model"]
    return values


def tokenizer(
    model: dict[str, Any], ignore_merges: bool = False, **parts: Any
) -> PublishedTokenizer:
    """Return one of byte pairs, with one special token after them."""
    size = len(model["vocab"])
    mark = {
        "id": size,
        "content": "<|end|>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [mark],
        "normalizer": None,
        "post_processor": None,
        "decoder": byte_level(trim_offsets=True, use_regex=True),
        "model": {**model, "ignore_merges": ignore_merges},
        **copy.deepcopy(parts),
    }
    return PublishedTokenizer(document, size + 3, size, (size,))


def read_by_llama_cpp(values: dict[str, Any]) -> tokenizers.Tokenizer:
    """Return what the metadata say without the whole document."""
    metadata = {key: value for key, value in values.items() if key != DOCUMENT}
    for name in ("token_type", "scores"):
        if PREFIX + name in metadata:
            numbers = np.array(metadata[PREFIX + name])
            metadata[PREFIX + name] = SimpleNamespace(values=numbers)
    document = gguf_tokenizer(metadata)
    assert document is not None
    return tokenizers.Tokenizer.from_str(json.dumps(document))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rules_are_known(name: str, model: dict[str, Any]) -> None:
    rule, parts = PUBLISHED[name]
    ours = tokenizer(model, **parts)
    values, notes = metadata_of(ours, ours.size)
    assert values[f"{PREFIX}pre"] == rule
    assert any("NFC" in note for note in notes) == (rule == "qwen2")
    theirs = read_by_llama_cpp(values)
    library = tokenizers.Tokenizer.from_str(json.dumps(ours.document))
    for text in (TEXT, TEXT[::-1], "<|end|>12", " 's 'S's"):
        assert theirs.encode(text).ids == library.encode(text).ids
    # the rules differ on this text, so that a wrong name would be seen
    others = [tokenizer(model, **PUBLISHED[other][1]) for other in PUBLISHED]
    assert len({tuple(other.encode(TEXT)) for other in others}) == len(PUBLISHED)


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": byte_level(use_regex=False)},
        {"pre_tokenizer": later("{1,2}", True)},
        {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": False},
                    byte_level(),
                ],
            }
        },
        {"pre_tokenizer": byte_level(), "normalizer": {"type": "NFC"}},
        {"pre_tokenizer": later("", False)},
        {"pre_tokenizer": byte_level(), "ignore_merges": True},
        {"pre_tokenizer": later("{1,3}", True)},
        {"pre_tokenizer": None},
    ],
)
def test_what_goes_with_no_name_is_refused(
    parts: dict[str, Any], model: dict[str, Any]
) -> None:
    trimmed = copy.deepcopy(parts)
    rules = trimmed["pre_tokenizer"] or {}
    for rule in (rules, *rules.get("pretokenizers", [])):
        if rule.get("type") == "ByteLevel":
            # the library asks for it, and no token follows from it
            rule.setdefault("trim_offsets", True)
    ours = tokenizer(model, **trimmed)
    with pytest.raises(UserError, match="gguf has no tokenizer of this kind"):
        metadata_of(ours, ours.size)


def pieces(merges: list[list[str]], tokens: list[str], size: int) -> PublishedTokenizer:
    """Return pieces of Llama's kind, with a token added after them."""
    document = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": len(tokens),
                "content": "<user>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": bpe_model(tokens, merges, "<unk>"),
    }
    return PublishedTokenizer(document, size, 1, (2,))


def test_every_token_has_a_score_and_those_of_no_merge_the_worst() -> None:
    letters = [*"▁abc", "ab", "abc", "▁abc", "bc"]
    tokens = ["<unk>", "<s>", "</s>", *letters]
    joined = merges_by_score(letters, [0, 0, 0, 0, -1, -2, -3, -9])
    merges = [pair for pair in joined if "".join(pair) != "bc"]
    size = 20
    ours = pieces(merges, tokens, size)
    values, _ = metadata_of(ours, size)
    lists = [values[PREFIX + name] for name in ("tokens", "scores", "token_type")]
    assert [len(listed) for listed in lists] == [size] * 3
    scores = dict(
        zip(values[f"{PREFIX}tokens"], values[f"{PREFIX}scores"], strict=True)
    )
    made = {"".join(pair) for pair in merges}
    worst = min(scores[token] for token in made)
    assert all(scores[token] < worst for token in scores if token not in made)
    theirs = read_by_llama_cpp(values)
    text = "abc abab <user> cab"
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)
