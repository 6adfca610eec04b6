"""Tokenizers that came with a checkpoint of somebody else: text to its ids and back."""

from __future__ import annotations

import copy
import itertools
import json
import re
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from unrolled.core.errors import DataError, UserError
from unrolled.core.files import JSON_BYTES, read_bytes, read_json
from unrolled.text.characters import byte_letters, valid_text
from unrolled.text.documents import check_document, import_library
from unrolled.text.streams import TextStream, check_id
from unrolled.text.tokenizers import BATCH, BLANK, PUBLISHED, Tokenizer
from unrolled.text.turns import KIND as CHAT
from unrolled.text.turns import ChatTokenizer

BROKEN = "\ufffd"  # what bytes are written as that make no character yet
FIRST_BYTE = 3  # of llama2.c: the id of byte 0
LONGEST_PIECE = 1024  # characters; real ones have some dozens
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # how the Llama kind writes a byte


class PublishedTokenizer(Tokenizer):
    """A vocabulary as it was published, and what stands before and after its texts.

    Text is cut as the document says, special tokens that it spells included, and nothing is
    unknown: ``unk_id`` and ``pad_id`` are no ids.

    Args:
        document: as the library ``tokenizers`` saves it; None where none came with the checkpoint.
        size: how many ids the model scores.
        start: what a text begins with; None where nothing is known to.
        ends: what ends a text.
        lacking: what to say where there is no document.
        chat_template: by which its makers tell turns of a talk apart, as a program that is never
            run; empty where there is none.

    Raises:
        UserError: it has more tokens than the model scores, or less than half as many.
    """

    pad_id = -1
    unk_id = -1

    def __init__(
        self,
        document: dict[str, Any] | None,
        size: int,
        start: int | None,
        ends: Sequence[int] = (),
        lacking: str = "",
        chat_template: str = "",
    ) -> None:
        self.kind = PUBLISHED
        self.chat_template = chat_template
        self.document = document or {}
        marks = [id for id in (start, *ends) if id is not None]
        # a model that has no mark at all reads its first token there
        self.bos_id = marks[0] if marks else 0
        self.eos_id = ends[0] if ends else self.bos_id
        self._marks = frozenset(marks)
        self._size = size
        self._start = start
        self._ends = tuple(ends)
        self._lacking = lacking
        self._backend = None
        if document is not None:
            self._check_size()

    @property
    def saved(self) -> dict[str, Any]:
        """All that is written into a run: the document, and what is known beside it."""
        return {
            "kind": self.kind,
            "size": self._size,
            "start": self._start,
            "ends": list(self._ends),
            "document": self.document,
        }

    def texts(self) -> list[str]:
        """Return what each id stands for; ids that are no token by their number."""
        document = self.document
        vocabulary = self._library().get_vocab(with_added_tokens=True)
        rules = [document.get(part) for part in ("pre_tokenizer", "decoder")]
        by_bytes = '"ByteLevel"' in json.dumps(rules)
        letters = {letter: byte for byte, letter in byte_letters().items()}
        texts = [f"\0{id}" for id in range(self._size)]
        single_bytes: dict[int, str] = {}
        for token, id in vocabulary.items():
            byte = _BYTE.fullmatch(token)
            if by_bytes and all(letter in letters for letter in token):
                text = bytes(letters[letter] for letter in token)
                texts[id] = text.decode("utf-8", "surrogateescape")
            elif byte is not None:
                text = bytes.fromhex(byte[1])
                single_bytes[id] = text.decode("utf-8", "surrogateescape")
            else:
                texts[id] = token.replace(BLANK, " ")
        # a character that is a token itself is not written by its byte
        known = set(texts)
        for id, character in single_bytes.items():
            if character not in known:
                texts[id] = character
        unknown = vocabulary.get(document["model"].get("unk_token"))
        for id, special in ((unknown, "<unk>"), (self._start, "<bos>")):
            if id is not None:
                texts[id] = f"\0{special}"
        texts[self.eos_id] = "\0<eos>"
        return texts

    def pieces(self) -> list[bytes]:
        pieces = super().pieces()
        for token in self.document.get("added_tokens") or []:
            # it is written by its id alone, and as text it is nothing
            if token.get("special") and token["id"] < len(pieces):
                pieces[token["id"]] = b""
        return pieces

    def _beginning(self, text: str, most: int) -> str:
        """Return all of a text: nothing is known of how long a token may be."""
        return text

    def _check_size(self) -> None:
        vocabulary = self._library().get_vocab(with_added_tokens=True)
        largest = max(vocabulary.values(), default=-1)
        if largest >= self._size or 2 * len(vocabulary) < self._size:
            raise UserError(
                f"the tokenizer has {len(vocabulary):,} tokens up to id {largest:,}, and the model "
                f"scores {self._size:,}: it is another model's; put its own there"
            )

    @property
    def size(self) -> int:
        return self._size

    @property
    def start_id(self) -> int:
        return self.bos_id

    @property
    def end_ids(self) -> tuple[int, ...]:
        return self._ends

    @property
    def unwritten_ids(self) -> tuple[int, ...]:
        return ()

    def id_of(self, name: str) -> int | None:
        """Return the id of a token by its name; None where there is none."""
        id: int | None = self._library().token_to_id(name)
        return id

    def without_specials(self) -> PublishedTokenizer:
        """Return what cuts texts likewise, and takes no text for a special token."""
        plain = copy.copy(self)
        plain._backend = None
        # some mark turns by tokens that are not said to be special
        added = self.document.get("added_tokens") or []
        special = [{**token, "special": True} for token in added]
        plain.document = {**self.document, "added_tokens": special}
        library = plain._library()
        # a text that spells "<|im_end|>" ends nothing
        library.encode_special_tokens = True
        return plain

    def beginning(self, text: str) -> list[int]:
        """Return the ids of a prompt, with the specials that the document puts before a text."""
        ids = list(self._library().encode(valid_text(text)).ids)
        return ids or [self.start_id]

    def _encode_with_library(self, texts: Sequence[str]) -> list[list[int]]:
        backend = self._library()
        rows: list[list[int]] = []
        for first in range(0, len(texts), BATCH):
            part = list(map(valid_text, texts[first : first + BATCH]))
            encodings = backend.encode_batch_fast(part, add_special_tokens=False)
            rows += [encoding.ids for encoding in encodings]
        return rows

    def stream(self) -> TextStream:
        """Return a decoder for ids that come one at a time."""
        return self.stream_after([])

    def stream_after(self, ids: Sequence[int]) -> TextStream:
        """Return a decoder for ids that follow others."""
        return PublishedStream(self._library(), self._size, self._marks, ids)

    def unknown(self, ids: Iterable[int]) -> int:
        """Return 0: a document has no id that is no token of its own."""
        return 0

    def token(self, id: int) -> str:
        """Return a token for showing to people; one of broken characters by its name."""
        check_id(id, self._size)
        backend = self._library()
        name = backend.id_to_token(id) or f"<{id}>"
        # after another token, since many decoders drop the blank before a text
        anchor = backend.encode("a", add_special_tokens=False).ids
        before = backend.decode(anchor, skip_special_tokens=False)
        both = backend.decode([*anchor, id], skip_special_tokens=False)
        text = both.removeprefix(before)
        return text if text and BROKEN not in text else name

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the first character and the end of what each id of ``encode`` was made of."""
        encoding = self._library().encode(valid_text(text), add_special_tokens=False)
        return list(encoding.offsets)

    def _library(self) -> Any:
        if not self.document:
            raise UserError(self._lacking)
        if self._backend is None:
            library = import_library()
            text = json.dumps(self.document)
            try:
                self._backend = library.Tokenizer.from_str(text)
            # the library has errors of its own for each part of a document
            except Exception as error:
                raise UserError(
                    f"the tokenizer cannot be read ({' '.join(str(error).split())})"
                ) from None
        return self._backend


class PublishedStream(TextStream):
    """Decodes as the library does, which may need the tokens before one to say its text.

    Those whose text came last are decoded again: they begin with a whole character, and what a
    decoder does to the start of a text is done to them.

    Args:
        backend: the library's tokenizer.
        size: how many ids there are.
        silent: ids that give no text.
        before: ids that were decoded already.
    """

    def __init__(
        self,
        backend: Any,
        size: int,
        silent: Collection[int],
        before: Iterable[int] = (),
    ) -> None:
        super().__init__(range(size))
        self._backend = backend
        self._silent = silent
        self._ids = [id for id in before if id not in silent]
        self._said = len(self._ids)

    def feed(self, id: int) -> str:
        check_id(id, len(self._tokens))
        return "" if id in self._silent else self._join(id)

    def _join(self, token: int) -> str:
        self._ids.append(token)
        text = self._new()
        # at most three more bytes make a character
        if text.endswith(BROKEN) and len(self._ids) - self._said < 4:
            return ""
        return self._taken(text)

    def finish(self) -> str:
        return self._taken(self._new())

    def _new(self) -> str:
        """Return the text of the ids that were not said yet."""
        before: str = self._backend.decode(self._ids[: self._said])
        text: str = self._backend.decode(self._ids)
        if text.startswith(before):
            return text.removeprefix(before)
        # what was said of bytes that make no character is said otherwise now
        pairs = zip(before, text, strict=False)
        alike = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        )
        return text[alike:]

    def _taken(self, text: str) -> str:
        if text:
            del self._ids[: self._said]
        self._said = len(self._ids)
        return text


def restored(saved: dict[str, Any], where: Path | str = "") -> PublishedTokenizer:
    """Return the tokenizer that ``saved`` was of.

    Raises:
        DataError: it holds something else.
    """
    try:
        size = saved["size"]
        start = saved["start"]
        ends = saved["ends"]
        document = saved["document"]
        marks = [*ends, *([] if start is None else [start])]
        numbers = [size, *marks]
        if not all(type(number) is int for number in numbers) or not document["model"]:
            raise ValueError("expected numbers of tokens, and a document")
        if not all(0 <= mark < size for mark in marks):
            raise ValueError("expected marks that are tokens")
        return PublishedTokenizer(document, size, start, ends)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise DataError(f"this is no tokenizer of a run ({error})", where) from None


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer of a run: of ours, published, or of talks. Raises DataError: it is none."""
    try:
        saved = read_json(path)
        kind = saved["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        # the reader of ours says what is wrong
        kind = ""
    if kind == PUBLISHED:
        return restored(saved, path)
    return _restored_chat(saved, path) if kind == CHAT else Tokenizer.load(path)


def _restored_chat(saved: dict[str, Any], where: Path) -> ChatTokenizer:
    """Return the tokenizer of talks that ``saved`` was of. Raises DataError: it is none."""
    try:
        kind = saved["base"]
        base = saved["tokenizer"]
        if kind != PUBLISHED:
            check_document(kind, base)
        return ChatTokenizer(tokenizer_of(kind, base), saved["template"])
    # the library has errors of its own for each part of a document
    except Exception as error:
        raise DataError(f"this is no tokenizer of a run ({error})", where) from None


def tokenizer_of(kind: str, saved: dict[str, Any]) -> Tokenizer:
    """Return a tokenizer from its kind and what ``saved`` gave."""
    return restored(saved) if kind == PUBLISHED else Tokenizer(kind, saved)


def read_document(path: Path) -> dict[str, Any]:
    """Return a ``tokenizer.json`` of the library ``tokenizers``. Raises DataError: it is none."""
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"no tokenizer can be read here ({error})", path) from None
    if not isinstance(document.get("model"), dict):
        raise DataError("expected a tokenizer.json with a model in it", path)
    # as it was last used in training; a text is read whole
    return {**document, "truncation": None, "padding": None}


def read_llama2c(path: Path, size: int) -> dict[str, Any]:
    """Return the document of a vocabulary that llama2.c wrote.

    The file holds the longest token's bytes, and of each token its score (float), its length and
    its bytes. Adjacent tokens are merged while the vocabulary holds them together, the best score
    first: byte pair encoding with the ranks of scores, and bytes where a character is unknown.

    Args:
        path: such as ``tok512.bin``.
        size: how many tokens it must have.

    Raises:
        DataError: it has another number of tokens, one that is too long, or is no such file.
    """
    try:
        data = read_bytes(path, JSON_BYTES)
        tokens, scores = _pairs(data)
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"this is no vocabulary of llama2.c ({error})", path) from None
    if len(tokens) != size:
        raise DataError(
            f"expected the {size:,} tokens of the model, got {len(tokens):,}; name its own file",
            path,
        )
    if len(set(tokens)) != size or size < FIRST_BYTE:
        raise DataError("expected tokens that differ from each other", path)
    try:
        return _document_of(tokens, scores)
    except UserError as error:
        raise DataError(str(error), path) from None


def _pairs(data: bytes) -> tuple[list[str], list[float]]:
    """Return the tokens and scores of a file. Raises ValueError or struct.error: it has others."""
    tokens: list[str] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= len(data) - at:
            raise ValueError(f"token {len(tokens)} is longer than the file")
        tokens.append(data[at : at + length].decode())
        scores.append(score)
        at += length
    return tokens, scores


def merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """Return byte pair merges that join adjacent tokens in the order of scores, the best first.

    Every cut of every token is tried, so the longest token bounds the work.

    Raises:
        UserError: a token is longer than ``LONGEST_PIECE``.
    """
    for id, token in enumerate(tokens):
        if len(token) > LONGEST_PIECE:
            raise UserError(
                f"token {id:,} has {len(token):,} characters; expected at most {LONGEST_PIECE:,}"
            )
    vocabulary = set(tokens)
    ranked = sorted(range(len(tokens)), key=lambda id: (-scores[id], id))
    merges: list[list[str]] = []
    for id in ranked:
        token = tokens[id]
        for cut in range(1, len(token)):
            pair = [token[:cut], token[cut:]]
            if all(part in vocabulary for part in pair):
                merges.append(pair)
    return merges


def template(token: str, id: int) -> dict[str, Any]:
    """Return what puts a token before every text."""
    mark = {"id": token, "ids": [id], "tokens": [token]}
    before = {"SpecialToken": {"id": token, "type_id": 0}}
    single = [before, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {token: mark},
    }


def _document_of(tokens: list[str], scores: list[float]) -> dict[str, Any]:
    decoders = [
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Prepend", "prepend": " "},
        "pre_tokenizer": None,
        "post_processor": template("<s>", 1),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": bpe_model(tokens, merges_by_score(tokens, scores), tokens[0]),
    }


def bpe_model(
    tokens: Sequence[str],
    merges: list[list[str]],
    unknown: str | None,
    byte_fallback: bool = True,
) -> dict[str, Any]:
    """Return a model of byte pairs.

    Args:
        tokens: in the order of their ids.
        merges: in the order in which they are done.
        unknown: the token of what is not known.
        byte_fallback: write what is not known by the tokens of its bytes, such as <0x0A>.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": {token: id for id, token in enumerate(tokens)},
        "merges": merges,
    }
