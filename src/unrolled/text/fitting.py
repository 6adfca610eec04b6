"""Learning a vocabulary from texts: one function a kind, each gives the document of a tokenizer."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from unrolled.core.errors import UsageError, UserError, unknown
from unrolled.text import unigram
from unrolled.text.characters import CODE_POINTS, byte_letters, code_points, valid_text
from unrolled.text.documents import (
    KINDS,
    UNIGRAM_WORD,
    WHITESPACE_WORD,
    WORD,
    bpe_document,
    bytes_document,
    character_document,
    import_library,
    tokens_of,
    unigram_document,
    word_document,
)
from unrolled.text.streams import SPECIALS

Fit = Callable[[Iterable[str], int, int], dict[str, Any]]
BLOCK = 1 << 20  # characters counted together


def fit(kind: str, texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    """Return the document of a tokenizer; arguments and errors are those of ``Tokenizer.fit``."""
    if kind not in KINDS:
        raise UsageError(unknown("tokenizer", kind, KINDS))
    least = 260 if kind == "bpe" else 5
    if size < least and kind != "bytes":
        raise UsageError(
            f"a {kind} tokenizer of size {size} is too small; at least {least}"
        )
    seen = _Seen(texts)
    document = _FITS[kind](seen, size, min_count)
    if not seen.any or len(tokens_of(document)) == len(SPECIALS):
        reason = f"no token {min_count} times or more"
        if not seen.any:
            reason = "they are all empty"
        raise UserError(f"the texts give no {kind} vocabulary: {reason}; add text")
    return document


class _Seen(Iterator[str]):
    """Passes texts on, made valid, and remembers whether any held something."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self.any = False

    def __next__(self) -> str:
        text = valid_text(next(self._texts))
        self.any = self.any or bool(text)
        return text


def _fit_characters(
    texts: Iterable[str], size: int, min_count: int, jamo: bool = False
) -> dict[str, Any]:
    counts = _count_characters(texts, jamo)
    common = [letter for letter in counts if counts[letter] >= min_count]
    ordered = sorted(common, key=lambda letter: (-counts[letter], letter))
    tokens = [*SPECIALS, *ordered[: size - len(SPECIALS)]]
    return character_document(tokens, jamo)


def _count_characters(texts: Iterable[str], jamo: bool) -> dict[str, int]:
    """Return how often each character occurs; texts are counted about a BLOCK at a time."""
    counts = np.zeros(CODE_POINTS, dtype=np.int64)
    held = []
    size = 0
    # the last one, which is no text, counts what is left
    for text in itertools.chain(texts, [None]):
        if text is not None:
            held.append(text)
            size += len(text)
        if size >= BLOCK or text is None:
            points = code_points("".join(held), jamo)
            counts += np.bincount(points, minlength=CODE_POINTS)
            held = []
            size = 0
    occurring = np.flatnonzero(counts).tolist()
    return {chr(point): int(counts[point]) for point in occurring}


def _fit_bytes(texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    any(texts)  # the caller refuses empty texts for this kind as for the others
    alphabet = [byte_letters()[byte] for byte in range(256)]
    return bytes_document([*SPECIALS, *alphabet])


def _fit_bpe(texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    library = import_library()
    empty = json.dumps(bpe_document([]))
    backend = library.Tokenizer.from_str(empty)
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(byte_letters().values()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return bpe_document(tokens, model["merges"])


def _fit_words(
    texts: Iterable[str], size: int, min_count: int, pattern: str
) -> dict[str, Any]:
    library = import_library()
    empty = json.dumps(word_document({"<unk>": 0}, pattern))
    backend = library.Tokenizer.from_str(empty)
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=size,
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    # text may hold the word "<unk>", which the trainer gives an id of its own
    ordered = sorted(vocab, key=vocab.__getitem__)
    words = [word for word in ordered if word not in SPECIALS]
    ids = {word: id for id, word in enumerate([*SPECIALS, *words])}
    return word_document(ids, pattern)


def _fit_unigram(texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    words = unigram.count_words(texts, UNIGRAM_WORD)
    pieces = unigram.train(words, size - len(SPECIALS), min_count)
    specials = [[token, 0.0] for token in SPECIALS]
    return unigram_document(specials + [list(piece) for piece in pieces])


_FITS: dict[str, Fit] = {
    "chars": _fit_characters,
    "jamo": functools.partial(_fit_characters, jamo=True),
    "words": functools.partial(_fit_words, pattern=WORD),
    "whitespace": functools.partial(_fit_words, pattern=WHITESPACE_WORD),
    "bpe": _fit_bpe,
    "unigram": _fit_unigram,
    "bytes": _fit_bytes,
}
