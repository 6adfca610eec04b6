"""The document that a tokenizer is: vocabulary and rules, as the library `tokenizers` saves them.

Each kind has one form of it; ``check_document`` refuses every other, whoever wrote the file.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from unrolled.text.streams import SPECIALS

PAD, UNK, BOS, EOS = range(4)
KINDS = ("chars", "jamo", "words", "whitespace", "bpe", "unigram", "bytes")

RUN = 64
# Runs are cut at RUN characters, so that one endless word costs no more than many short ones.
BPE_WORD = (
    r" ?\p{L}[\p{L}\p{M}]{0,63}| ?\p{N}{1,64}| ?[^\s\p{L}\p{N}]{1,64}"
    r"|\s{1,64}(?!\S)|\s{1,64}"
)
WORD = r"\n|\w+(?:['’]\w+)*|[^\w\s]"
# a word that spells a special token other than "<unk>" is cut after its "<"
WHITESPACE_WORD = r"\n|<(?=(?:pad|bos|eos)>(?!\S))|\S+"
# "<" stands alone, so that text which spells "<pad>" cannot be taken for the piece of that name;
# the patterns above keep it apart from the letters too. Python and the library read it alike.
UNIGRAM_WORD = r"\n|▁?[^▁\n<]{1,64}|▁?<|▁"

_ISOLATED = {"behavior": "Isolated", "invert": False}
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
_BPE_CUT = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": BPE_WORD}, **_ISOLATED},
        _BYTE_LEVEL,
    ],
}


def _document(
    model: dict[str, Any],
    cut: dict[str, Any] | None,
    decoder: dict[str, Any] | None,
    normalizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # else the library finds "<eos>" in text and takes it for the special
        "normalizer": normalizer,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _bpe_model(tokens: Sequence[str], merges: Sequence[Any] = ()) -> dict[str, Any]:
    """Return a BPE model; without merges it knows single characters only."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>" if tokens else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: id for id, token in enumerate(tokens)},
        "merges": list(merges),
    }


def character_document(tokens: Sequence[str], jamo: bool) -> dict[str, Any]:
    """Return the document of ``chars`` or ``jamo``."""
    normalizer = {"type": "NFD"} if jamo else None
    return _document(_bpe_model(tokens), None, {"type": "Fuse"}, normalizer)


def bytes_document(tokens: Sequence[str]) -> dict[str, Any]:
    """Return the document of ``bytes``."""
    return _document(_bpe_model(tokens), _BYTE_LEVEL, _BYTE_LEVEL)


def bpe_document(tokens: Sequence[str], merges: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the document of ``bpe``."""
    return _document(_bpe_model(tokens, merges), _BPE_CUT, _BYTE_LEVEL)


def word_document(vocab: dict[str, int], pattern: str) -> dict[str, Any]:
    """Return the document of ``words`` or ``whitespace``, which differ in their pattern."""
    cut = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Removed",
        "invert": True,
    }
    return _document(
        {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}, cut, None
    )


def unigram_document(vocab: list[list[Any]]) -> dict[str, Any]:
    """Return the document of ``unigram``."""
    model = {"type": "Unigram", "unk_id": UNK, "vocab": vocab, "byte_fallback": False}
    blanks = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    split = [blanks, {"type": "Split", "pattern": {"Regex": UNIGRAM_WORD}, **_ISOLATED}]
    cut = {"type": "Sequence", "pretokenizers": split}
    return _document(model, cut, {**blanks, "split": True})


# ---------------------------------------------------------------------- reading a document


def tokens_of(document: dict[str, Any]) -> list[str]:
    """Return the tokens in the order of their ids. Raises ValueError on a vocabulary with holes."""
    vocab = document["model"]["vocab"]
    if isinstance(vocab, list):
        tokens = [piece for piece, _ in vocab]
    else:
        tokens = sorted(vocab, key=vocab.__getitem__)
        ids = [vocab[token] for token in tokens]
        if ids != list(range(len(tokens))) or any(type(id) is not int for id in ids):
            raise ValueError("expected ids 0, 1, 2, ...")
    if tuple(tokens[: len(SPECIALS)]) != SPECIALS:
        raise ValueError(f"expected {SPECIALS} first")
    return tokens


def kind_of(document: dict[str, Any]) -> str:
    """Return the kind, which model and pre-tokenizer tell. Raises KeyError for a strange one."""
    model = document["model"]["type"]
    cut = document["pre_tokenizer"]
    if model == "WordLevel" and cut["pattern"]["Regex"] == WHITESPACE_WORD:
        return "whitespace"
    if model != "BPE":
        return {"WordLevel": "words", "Unigram": "unigram"}[model]
    if cut is None:
        return "jamo" if document["normalizer"] else "chars"
    return {"ByteLevel": "bytes", "Sequence": "bpe"}[cut["type"]]


def check_document(kind: str, document: dict[str, Any]) -> None:
    """Raise ValueError unless a document is one that a tokenizer of this kind writes.

    A library that reads any document would also read rules that take time or memory without end.
    """
    tokens = tokens_of(document)
    if not all(isinstance(token, str) and token for token in tokens):
        raise ValueError("expected tokens that are texts")
    expected = _EXPECTED[kind](tokens, document["model"])
    # as text: to Python true is 1, and 1.0 is 1
    if _canonical(document) != _canonical(expected):
        raise ValueError("expected what save writes")


def _canonical(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def _expected_characters(
    tokens: list[str], model: dict[str, Any], jamo: bool = False
) -> dict[str, Any]:
    if any(len(token) != 1 for token in tokens[len(SPECIALS) :]):
        raise ValueError("expected tokens of one character")
    return character_document(tokens, jamo)


def _expected_words(
    tokens: list[str], model: dict[str, Any], pattern: str
) -> dict[str, Any]:
    return word_document(model["vocab"], pattern)


def _expected_bpe(tokens: list[str], model: dict[str, Any]) -> dict[str, Any]:
    known = set(tokens)
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2 or not {*pair, "".join(pair)} <= known:
            raise ValueError("expected merges of known tokens")
    return bpe_document(tokens, model["merges"])


def _expected_unigram(tokens: list[str], model: dict[str, Any]) -> dict[str, Any]:
    scores = [score for _, score in model["vocab"]]
    if not all(type(score) is float and math.isfinite(score) for score in scores):
        raise ValueError("expected scores that are numbers")
    return unigram_document(model["vocab"])


def _expected_bytes(tokens: list[str], model: dict[str, Any]) -> dict[str, Any]:
    return bytes_document(tokens)


# what a saved document of each kind has to be, from its tokens and its model
_EXPECTED: dict[str, Callable[[list[str], dict[str, Any]], dict[str, Any]]] = {
    "chars": _expected_characters,
    "jamo": functools.partial(_expected_characters, jamo=True),
    "words": functools.partial(_expected_words, pattern=WORD),
    "whitespace": functools.partial(_expected_words, pattern=WHITESPACE_WORD),
    "bpe": _expected_bpe,
    "unigram": _expected_unigram,
    "bytes": _expected_bytes,
}


def import_library() -> Any:
    """Import the library, with its threads off unless the user turned them on.

    With threads it warns in every process forked later, as a loader of batches does.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers


def added_token(id: int, content: str, special: bool) -> dict[str, Any]:
    """Return a token that is found in text before it is cut; a special one gives no text."""
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }
