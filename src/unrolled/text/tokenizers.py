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
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, UsageError
from unrolled.core.files import read_json, write_text
from unrolled.text.characters import CODE_POINTS, byte_letters, code_points, valid_text
from unrolled.text.documents import (
    BOS,
    EOS,
    KINDS,
    PAD,
    RUN,
    UNK,
    WHITESPACE_WORD,
    WORD,
    check_document,
    import_library,
    kind_of,
    tokens_of,
)
from unrolled.text.fitting import fit
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

# the kind of a tokenizer that came with the checkpoint of another program
PUBLISHED = "published"

__all__ = [
    "BOS",
    "EOS",
    "KINDS",
    "PAD",
    "RUN",
    "SPECIALS",
    "UNK",
    "TextStream",
    "Tokenizer",
]

BATCH = (
    4096  # texts that the library encodes together: its own records take much memory
)
OF_CHARACTERS = ("chars", "jamo", "bytes")  # kinds that numpy encodes
BLANK = "\u2581"  # what pieces write a blank as


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
        self._tokens = tokens_of(document)
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
        return cls(kind, fit(kind, texts, size, min_count))

    @property
    def size(self) -> int:
        return len(self._tokens)

    @property
    def start_id(self) -> int:
        """What a language model reads before a fresh start."""
        return self.eos_id

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends a text that a language model writes."""
        return (self.eos_id,)

    @property
    def unwritten_ids(self) -> tuple[int, ...]:
        """What a language model never writes."""
        return (self.pad_id, self.unk_id, self.bos_id)

    def id_of(self, name: str) -> int | None:
        """Return the id of a token by its name; None where there is none."""
        return self._tokens.index(name) if name in self._tokens else None

    def without_specials(self) -> Tokenizer:
        """Return what cuts texts likewise, and takes no text for a special token."""
        return self

    def beginning(self, text: str) -> list[int]:
        """Return what a language model reads of a prompt: at least one id."""
        return [self.start_id, *self.encode(text)]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without specials other than ``unk_id``; linear time."""
        return self.encode_many([text])[0]

    def encode_many(
        self, texts: Sequence[str], most: int | None = None
    ) -> list[list[int]]:
        """Return the ids of each text; faster than one by one.

        Args:
            texts: the texts.
            most: how many ids of a text are returned; those after them are not made. None: all.
        """
        if most is not None:
            texts = [self._beginning(text, most) for text in texts]
        if self.kind in OF_CHARACTERS:
            rows = [self.encode_array(text).tolist() for text in texts]
        else:
            rows = self._encode_with_library(texts)
        return rows if most is None else [ids[:most] for ids in rows]

    def _encode_with_library(self, texts: Sequence[str]) -> list[list[int]]:
        backend = self._library()
        rows: list[list[int]] = []
        for start in range(0, len(texts), BATCH):
            part = list(map(valid_text, texts[start : start + BATCH]))
            rows += [encoding.ids for encoding in backend.encode_batch_fast(part)]
        return rows

    def _beginning(self, text: str, most: int) -> str:
        """Return the beginning of a text that holds its first ``most`` tokens, perhaps some more.

        A character, of a run that is cut at ``RUN`` characters, gives a token at least.
        """
        reach = most if self.kind in OF_CHARACTERS else (RUN + 1) * (most + 1)
        if len(text) <= reach or self.kind not in ("words", "whitespace"):
            return text[:reach]
        pattern = re.compile(WORD if self.kind == "words" else WHITESPACE_WORD)
        words = itertools.islice(pattern.finditer(text), most)
        end = max((word.end() for word in words), default=0)
        # one more, since what follows a word may end it
        return text[: end + 1]

    def encode_array(self, text: str, first: bool = True) -> NDArray[np.int32]:
        """Return the ids of a text as an array; ``encode`` gives the same ids as a list.

        Args:
            text: the text.
            first: false where the text goes on from a line end before it. ``unigram``, and some
                that were published, put a mark before the first word, which such a text must not
                have.
        """
        if self.kind == "bytes":
            values = np.frombuffer(valid_text(text).encode(), np.uint8)
            return values.astype(np.int32) + np.int32(len(SPECIALS))
        if self.kind in ("chars", "jamo"):
            return self._points[code_points(text, self.kind == "jamo")]
        if first or self.kind not in ("unigram", PUBLISHED):
            return np.array(self.encode(text), dtype=np.int32)
        before = self.encode("\n")
        ids = self.encode("\n" + text)
        if ids[: len(before)] != before:  # the line end is part of a longer token
            return np.array(self.encode(text), dtype=np.int32)
        return np.array(ids[len(before) :], dtype=np.int32)

    @functools.cached_property
    def _points(self) -> NDArray[np.int32]:
        """The id of every code point, for kinds whose tokens are characters."""
        ids = np.full(CODE_POINTS, UNK, dtype=np.int32)
        for id, token in enumerate(self._tokens[len(SPECIALS) :], len(SPECIALS)):
            ids[ord(token)] = id
        return ids

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the rule that cuts text, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.saved).encode()).hexdigest()

    @property
    def saved(self) -> dict[str, Any]:
        """All that is written into a run, and read back by ``text.published.load_tokenizer``."""
        return self.document

    def texts(self) -> list[str]:
        """Return what each id stands for, alike in all kinds, so that vocabularies can be matched.

        Blanks are blanks, and words begin with one, as pieces at the beginning of a word do. Bytes
        that make no character are Python's surrogate escapes; specials begin with a NUL.
        """
        texts = [f"\0{special}" for special in SPECIALS]
        for id in range(len(SPECIALS), self.size):
            token = self._tokens[id]
            if self._bytes:
                token = self._bytes[id].decode("utf-8", "surrogateescape")
            elif self.kind == "unigram":
                token = token.replace(BLANK, " ")
            elif self.kind in ("words", "whitespace"):
                token = text_of_word(token)
            texts.append(token)
        return texts

    def pieces(self) -> list[bytes]:
        """Return what each id adds to a text, in bytes of UTF-8; nothing for specials.

        Raises:
            UsageError: what an id adds depends on those beside it.
        """
        if self.kind in ("words", "whitespace", "jamo"):
            raise UsageError(
                f"a text of tokenizer={self.kind} cannot be held to a grammar: what a token writes "
                "depends on those beside it; train with tokenizer=bpe, bytes, chars or unigram"
            )
        pieces: list[bytes] = []
        for text in self.texts():
            is_special = text.startswith("\0") and text != "\0"
            piece = b"" if is_special else text.encode("utf-8", "surrogateescape")
            pieces.append(piece)
        return pieces

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

    def stream_after(self, ids: Sequence[int]) -> TextStream:
        """Return such a decoder for ids that follow others."""
        stream = self.stream()
        follows = bool(ids) and ids[-1] >= len(SPECIALS)
        if follows and isinstance(stream, PiecesStream | WordsStream):
            # whether a blank stands before a word depends on the one before it alone
            stream.feed(ids[-1])
        return stream

    def continued(self, before: Sequence[int], ids: Iterable[int]) -> str:
        """Return the text of ids that follow others, the blank between them included."""
        stream = self.stream_after(before)
        return "".join([stream.feed(id) for id in ids]) + stream.finish()

    def token(self, id: int) -> str:
        """Return a token for showing to people; bytes that are no whole character as <EA>."""
        check_id(id, self.size)
        if id < len(SPECIALS) or not self._bytes:
            return self._tokens[id]
        try:
            return self._bytes[id].decode()
        except UnicodeDecodeError:
            return "".join(f"<{byte:02X}>" for byte in self._bytes[id])

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the first character and the end of what each id of ``encode`` was made of.

        Several ids may be of one character, where it has several bytes or jamo.
        """
        if self.kind not in OF_CHARACTERS:
            return list(self._library().encode(valid_text(text)).offsets)
        spans: list[tuple[int, int]] = []
        for index, character in enumerate(text):
            count = len(self.encode_array(character))
            spans += [(index, index + 1)] * count
        return spans

    def unknown(self, ids: Iterable[int]) -> int:
        """Return how many of the ids stand for something not in the vocabulary."""
        return sum(id == UNK for id in ids)

    def save(self, path: Path) -> None:
        """Write the tokenizer to a JSON file that ``tokenizers.Tokenizer.from_file`` reads too.

        There, ``jamo`` takes text apart with NFD, which equals ours for Korean and ASCII text.
        """
        text = json.dumps(self.saved, ensure_ascii=False, indent=1, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what ``save`` wrote. Raises DataError when the file is not such a tokenizer."""
        try:
            document = read_json(path)
            kind = kind_of(document)
            check_document(kind, document)
            tokenizer = cls(kind, document)
            if kind not in OF_CHARACTERS:
                tokenizer._library()
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot be read: {reason}", path) from None
        # the library has errors of its own for each part of a document
        except Exception:
            raise DataError(
                "this is no tokenizer that unrolled saved; train anew", path
            ) from None
        return tokenizer

    def _library(self) -> tokenizers.Tokenizer:
        if self._backend is None:
            library = import_library()
            self._backend = library.Tokenizer.from_str(json.dumps(self.document))
        return self._backend


def text_of_word(word: str) -> str:
    """Return a word with the blank that it stands behind; marks stand behind none."""
    return f" {word}" if word[:1].isalnum() else word


def _token_bytes(tokens: Sequence[str]) -> list[bytes]:
    back = {letter: byte for byte, letter in byte_letters().items()}
    specials = [b""] * len(SPECIALS)
    return specials + [
        bytes(back[c] for c in token) for token in tokens[len(SPECIALS) :]
    ]
