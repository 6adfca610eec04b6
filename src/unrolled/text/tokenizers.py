"""Text to token ids and back, with a vocabulary learnt from the user's own text.

Seven kinds, all saved as one ``tokenizer.json`` of the library ``tokenizers``:

- ``chars``: one id a character.
- ``jamo``: as ``chars``, with Hangul syllables taken apart (한 is ㅎ, ㅏ, ㄴ in conjoining form).
- ``words``: words and punctuation marks; blanks are not kept.
- ``whitespace``: what stands between blanks, and line ends: for text that was cut into words
  before. The word ``<unk>``, by which such text marks rare words, is the unknown token.
- ``bpe``: byte-level byte pair encoding; nothing is ever unknown.
- ``unigram``: the likeliest segmentation into learnt pieces, blanks kept as "▁".
- ``bytes``: one id a byte of UTF-8; nothing to learn.

BPE-dropout is not offered: the library draws it from a random source that takes no seed, and a run
could then not be repeated.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, UsageError, UserError, unknown
from unrolled.core.files import read_json, write_text
from unrolled.text.streams import (
    SPECIALS,
    BytesStream,
    JamoStream,
    PiecesStream,
    PlainStream,
    TextStream,
    WhitespaceStream,
    WordsStream,
    check_id,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = ["KINDS", "SPECIALS", "TextStream", "Tokenizer"]

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


class Tokenizer:
    """A vocabulary and the rule that cuts text into its tokens.

    Text that spells a special token ("<eos>") is ordinary text; only code can put in the special
    ids. Text is taken as it is: give NFC (``sources.nfc``), as the readers of files do. ``jamo``
    composes every sequence of conjoining jamo on the way back, which is exact for NFC text.

    Attributes:
        kind: one of KINDS.
        size: how many ids there are, the four specials included.
        pad_id, unk_id, bos_id, eos_id: 0, 1, 2, 3.
        document: all of it, as ``save`` writes it.
    """

    pad_id = PAD
    unk_id = UNK
    bos_id = BOS
    eos_id = EOS

    def __init__(self, kind: str, document: dict[str, Any]) -> None:
        """Take a document as ``tokenizers`` saves it; use ``fit`` or ``load`` instead."""
        self.kind = kind
        self.document = document
        self._tokens = _tokens(document)
        self._bytes = _token_bytes(self._tokens) if kind in ("bpe", "bytes") else []
        self._backend: tokenizers.Tokenizer | None = None

    @classmethod
    def fit(
        cls, kind: str, texts: Iterable[str], size: int = 16000, min_count: int = 1
    ) -> Tokenizer:
        """Learn a vocabulary; the same texts in the same order give the same file, byte for byte.

        Args:
            kind: chars, jamo, words, whitespace, bpe, unigram or bytes.
            texts: read once.
            size: ids at most, the four specials included; ``bytes`` always has 260.
            min_count: characters, words or pieces seen less often are left out.

        Raises:
            UsageError: no such kind, or a size too small for it.
            UserError: the texts hold nothing to learn from.
        """
        if kind not in KINDS:
            raise UsageError(unknown("tokenizer", kind, KINDS))
        least = 260 if kind == "bpe" else 5
        if size < least and kind != "bytes":
            raise UsageError(
                f"a {kind} tokenizer of size {size} is too small; at least {least}"
            )
        learners: dict[str, Callable[[Iterable[str], int, int], dict[str, Any]]] = {
            "chars": _fit_chars,
            "jamo": functools.partial(_fit_chars, jamo=True),
            "words": functools.partial(_fit_words, pattern=WORD),
            "whitespace": functools.partial(_fit_words, pattern=WHITESPACE_WORD),
            "bpe": _fit_bpe,
            "unigram": _fit_unigram,
            "bytes": _fit_bytes,
        }
        seen = _Seen(texts)
        document = learners[kind](seen, size, min_count)
        if not seen.any or len(_tokens(document)) == len(SPECIALS):
            reason = (
                "they are all empty"
                if not seen.any
                else f"no token {min_count} times or more"
            )
            raise UserError(f"the texts give no {kind} vocabulary: {reason}; add text")
        return cls(kind, document)

    @property
    def size(self) -> int:
        return len(self._tokens)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without specials other than ``unk_id``; linear time."""
        return self.encode_many([text])[0]

    def encode_many(
        self, texts: Sequence[str], most: int | None = None
    ) -> list[list[int]]:
        """Return the ids of each text; faster than one by one.

        Args:
            texts: the texts.
            most: how many ids of a text are wanted; those after them are not made. None: all.
        """
        if most is not None:
            texts = [self._beginning(text, most) for text in texts]
        found: list[list[int]] = []
        if self.kind in ("chars", "jamo", "bytes"):
            found = [self.encode_array(text).tolist() for text in texts]
        else:
            backend = self._library()
            for start in range(
                0, len(texts), 4096
            ):  # the library's own records take much memory
                part = [_valid(text) for text in texts[start : start + 4096]]
                found += [item.ids for item in backend.encode_batch_fast(part)]
        return found if most is None else [ids[:most] for ids in found]

    def _beginning(self, text: str, most: int) -> str:
        """Return the beginning of a text that holds its first ``most`` tokens, perhaps some more.

        A character, of a run that is cut at ``RUN`` characters, gives a token at least.
        """
        reach = (
            most if self.kind in ("chars", "jamo", "bytes") else (RUN + 1) * (most + 1)
        )
        if len(text) <= reach or self.kind not in ("words", "whitespace"):
            return text[:reach]
        pattern = re.compile(WORD if self.kind == "words" else WHITESPACE_WORD)
        ends = (found.end() for found in itertools.islice(pattern.finditer(text), most))
        # one more, since what follows a word may end it
        return text[: max(ends, default=0) + 1]

    def encode_array(self, text: str, first: bool = True) -> NDArray[np.int32]:
        """Return the ids of a text as an array; ``encode`` gives the same ids as a list.

        Args:
            text: the text.
            first: false where the text goes on from a line end before it. ``unigram`` alone puts a
                mark before the first word, which such a text must not have.
        """
        if self.kind == "bytes":
            found = np.frombuffer(_valid(text).encode(), np.uint8)
            return found.astype(np.int32) + np.int32(len(SPECIALS))
        if self.kind in ("chars", "jamo"):
            return self._points[_code_points(text, self.kind == "jamo")]
        if first or self.kind != "unigram":
            return np.array(self.encode(text), dtype=np.int32)
        before = self.encode("\n")
        ids = self.encode("\n" + text)
        return np.array(ids[len(before) :], dtype=np.int32)

    @functools.cached_property
    def _points(self) -> NDArray[np.int32]:
        """The id of every code point, for kinds whose tokens are characters."""
        found = np.full(0x110000, UNK, dtype=np.int32)
        for id, token in enumerate(self._tokens[len(SPECIALS) :], len(SPECIALS)):
            found[ord(token)] = id
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the rule that cuts text, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.document).encode()).hexdigest()

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids; specials, ``unk_id`` too, give nothing.

        ``chars``, ``jamo``, ``bpe`` and ``bytes`` give back exactly the text that was encoded, as
        far as its characters are known. ``unigram`` does too, less one blank at the very start;
        ``words`` puts one blank between words and none before a comma or after a bracket;
        ``whitespace`` puts one blank between words.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        stream = self.stream()
        return "".join([stream.feed(id) for id in ids]) + stream.finish()

    def stream(self) -> TextStream:
        """Return a decoder for ids that come one at a time."""
        if self._bytes:
            return BytesStream(self._bytes)
        kinds: dict[str, type[TextStream]] = {
            "chars": PlainStream,
            "jamo": JamoStream,
            "words": WordsStream,
            "whitespace": WhitespaceStream,
            "unigram": PiecesStream,
        }
        return kinds[self.kind](self._tokens)

    def token(self, id: int) -> str:
        """Return a token for showing to people; bytes that are no whole character as <EA>."""
        check_id(id, self.size)
        if id < len(SPECIALS) or not self._bytes:
            return self._tokens[id]
        try:
            return self._bytes[id].decode()
        except UnicodeDecodeError:
            return "".join(f"<{byte:02X}>" for byte in self._bytes[id])

    def unknown(self, ids: Iterable[int]) -> int:
        """Return how many of the ids stand for something not in the vocabulary."""
        return sum(id == UNK for id in ids)

    def save(self, path: Path) -> None:
        """Write the tokenizer to a JSON file that ``tokenizers.Tokenizer.from_file`` reads too.

        There, ``jamo`` takes text apart with NFD, which equals ours for Korean and ASCII text.
        """
        text = json.dumps(self.document, ensure_ascii=False, indent=1, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what ``save`` wrote. Raises DataError when the file is not such a tokenizer."""
        try:
            document = read_json(path)
            kind = _kind(document)
            _check(kind, document)
            tokenizer = cls(kind, document)
            if kind not in ("chars", "jamo", "bytes"):
                tokenizer._library()
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror or error}", path
            ) from None
        except (
            Exception
        ):  # the library has errors of its own for each part of a document
            raise DataError(
                "this is no tokenizer that unrolled saved; train anew", path
            ) from None
        return tokenizer

    def _library(self) -> tokenizers.Tokenizer:
        if self._backend is None:
            library = _import()
            self._backend = library.Tokenizer.from_str(json.dumps(self.document))
        return self._backend


# ---------------------------------------------------------------------- learning


class _Seen(Iterator[str]):
    """Passes texts on, made valid, and remembers whether any held something."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self.any = False

    def __next__(self) -> str:
        text = _valid(next(self._texts))
        self.any = self.any or bool(text)
        return text


def _fit_chars(
    texts: Iterable[str], size: int, min_count: int, jamo: bool = False
) -> dict[str, Any]:
    counts = _count_characters(texts, jamo)
    ordered = sorted(
        (c for c in counts if counts[c] >= min_count), key=lambda c: (-counts[c], c)
    )
    tokens = [*SPECIALS, *ordered[: size - len(SPECIALS)]]
    normalizer = {"type": "NFD"} if jamo else None
    return _document(_bpe_model(tokens), None, {"type": "Fuse"}, normalizer)


def _count_characters(texts: Iterable[str], jamo: bool) -> dict[str, int]:
    """Return how often each character occurs; texts are counted about 1 Mi characters at a time."""
    counts = np.zeros(0x110000, dtype=np.int64)
    held = []
    size = 0
    for text in itertools.chain(texts, [None]):
        held.append(text or "")
        size += len(held[-1])
        if size >= 1 << 20 or text is None:
            counts += np.bincount(
                _code_points("".join(held), jamo), minlength=len(counts)
            )
            held = []
            size = 0
    return {chr(point): int(counts[point]) for point in np.flatnonzero(counts).tolist()}


def _code_points(text: str, jamo: bool) -> NDArray[np.uint32]:
    """Return the code points of a text; those of two or three jamo for a Hangul syllable."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    if not jamo or text.isascii():
        return points
    number = points - np.uint32(
        0xAC00
    )  # others than syllables wrap round to a large number
    syllable = number < 11172
    parts = np.stack(
        [points, 0x1161 + number % 588 // 28, 0x11A7 + number % 28], axis=1
    )
    parts[syllable, 0] = 0x1100 + number[syllable] // 588
    kept = np.stack(
        [np.ones_like(syllable), syllable, syllable & (number % 28 > 0)], axis=1
    )
    return parts[kept]


def _fit_bytes(texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    any(texts)  # the caller refuses empty texts for this kind as for the others
    alphabet = [_byte_letters()[byte] for byte in range(256)]
    return _document(_bpe_model([*SPECIALS, *alphabet]), _BYTE_LEVEL, _BYTE_LEVEL)


def _fit_bpe(texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    library = _import()
    empty = _document(_bpe_model([]), _BPE_CUT, _BYTE_LEVEL)
    backend = library.Tokenizer.from_str(json.dumps(empty))
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(_byte_letters().values()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return _document(_bpe_model(tokens, model["merges"]), _BPE_CUT, _BYTE_LEVEL)


def _fit_words(
    texts: Iterable[str], size: int, min_count: int, pattern: str
) -> dict[str, Any]:
    library = _import()
    empty = _word_document({"<unk>": 0}, pattern)
    backend = library.Tokenizer.from_str(json.dumps(empty))
    trainer = library.trainers.WordLevelTrainer(
        vocab_size=size,
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    # text may hold the word "<unk>", which the trainer gives an id of its own
    words = [
        word for word in sorted(vocab, key=vocab.__getitem__) if word not in SPECIALS
    ]
    vocab = {word: id for id, word in enumerate([*SPECIALS, *words])}
    return _word_document(vocab, pattern)


def _word_document(vocab: dict[str, int], pattern: str) -> dict[str, Any]:
    cut = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Removed",
        "invert": True,
    }
    return _document(
        {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}, cut, None
    )


def _fit_unigram(texts: Iterable[str], size: int, min_count: int) -> dict[str, Any]:
    from unrolled.text import unigram

    words = unigram.count_words(texts, UNIGRAM_WORD)
    pieces = unigram.train(words, size - len(SPECIALS), min_count)
    return _unigram_document(
        [[token, 0.0] for token in SPECIALS] + [list(p) for p in pieces]
    )


def _unigram_document(vocab: list[list[Any]]) -> dict[str, Any]:
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


# ---------------------------------------------------------------------- the JSON document

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


def _check(kind: str, document: dict[str, Any]) -> None:
    """Raise ValueError unless a document is one that a tokenizer of this kind writes.

    A library that reads any document would also read rules that take time or memory without end.
    """
    model = document["model"]
    tokens = _tokens(document)
    if not all(isinstance(token, str) and token for token in tokens):
        raise ValueError("expected tokens that are texts")
    if kind == "unigram":
        scores = [score for _, score in model["vocab"]]
        if not all(type(score) is float and math.isfinite(score) for score in scores):
            raise ValueError("expected scores that are numbers")
        expected = _unigram_document(model["vocab"])
    elif kind in ("words", "whitespace"):
        expected = _word_document(
            model["vocab"], WORD if kind == "words" else WHITESPACE_WORD
        )
    elif kind == "bpe":
        known = set(tokens)
        for merge in model["merges"]:
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if len(pair) != 2 or not {*pair, "".join(pair)} <= known:
                raise ValueError("expected merges of known tokens")
        expected = _document(_bpe_model(tokens, model["merges"]), _BPE_CUT, _BYTE_LEVEL)
    elif kind == "bytes":
        expected = _document(_bpe_model(tokens), _BYTE_LEVEL, _BYTE_LEVEL)
    else:
        normalizer = {"type": "NFD"} if kind == "jamo" else None
        expected = _document(_bpe_model(tokens), None, {"type": "Fuse"}, normalizer)
        if any(len(token) != 1 for token in tokens[len(SPECIALS) :]):
            raise ValueError("expected tokens of one character")
    # as text: to Python true is 1, and 1.0 is 1
    if _canonical(document) != _canonical(expected):
        raise ValueError("expected what save writes")


def _canonical(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def _tokens(document: dict[str, Any]) -> list[str]:
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


def _kind(document: dict[str, Any]) -> str:
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


def _token_bytes(tokens: Sequence[str]) -> list[bytes]:
    back = {letter: byte for byte, letter in _byte_letters().items()}
    specials = [b""] * len(SPECIALS)
    return specials + [
        bytes(back[c] for c in token) for token in tokens[len(SPECIALS) :]
    ]


@functools.cache
def _byte_letters() -> dict[int, str]:
    """Return the printable letter by which byte-level models write each byte (as GPT-2 did)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(0x100 + number) for number, byte in enumerate(rest)}


def _valid(text: str) -> str:
    """Return the text with halves of surrogate pairs, which UTF-8 cannot hold, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def _import() -> Any:
    """Import the library, with its threads off unless the user turned them on.

    With threads it warns in every process forked later, as a loader of batches does.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers
