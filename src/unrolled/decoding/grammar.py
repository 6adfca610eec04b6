"""Text that a JSON schema or a grammar allows: the tokens that may come next.

The grammar is followed by llguidance (extra ``grammar``). Legend: V tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.core.errors import DataError, UsageError, shown

MISSING = (
    "constrained text needs llguidance: pip install 'unrolled[grammar]' (it follows JSON schemas "
    "and grammars)"
)


class GrammarText(NamedTuple):
    """What a text has to be.

    Attributes:
        kind: ``json_schema`` or ``grammar``.
        text: the schema as JSON, or the grammar as Lark or GBNF.
        name: of the option or file that it comes from, for messages.
    """

    kind: str
    text: str
    name: str

    @classmethod
    def of_schema(cls, schema: str | Path | dict[str, Any]) -> GrammarText:
        """Take a JSON schema: a dictionary, JSON text, or a file of it.

        Raises:
            UserError: it is none.
        """
        if isinstance(schema, dict):
            return cls("json_schema", json.dumps(schema), "json_schema")
        text = str(schema)
        name = "json_schema"
        if not text.lstrip().startswith(("{", "[")):
            name = text
            text = _read(Path(schema), "json_schema")
        try:
            document = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UsageError(
                f"{name} is no JSON: {error}; give a JSON schema, or a file of one"
            ) from None
        if not isinstance(document, dict):
            raise UsageError(
                f'{name} is {shown(text)}; a JSON schema is an object, such as {{"type": "object"}}'
            )
        return cls("json_schema", text, name)

    @classmethod
    def of_file(cls, path: str | Path) -> GrammarText:
        """Take a file of a grammar. Raises UserError: it cannot be read."""
        return cls("grammar", _read(Path(path), "grammar"), str(path))


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{option} cannot be read ({getattr(error, 'strerror', None) or error}); give a file "
            "of text in UTF-8",
            path,
        ) from None


class _Vocabulary:
    """A vocabulary in the form that llguidance asks for."""

    bos_token_id: ClassVar[None] = None

    def __init__(
        self, pieces: Sequence[bytes], end: int, special: Sequence[int]
    ) -> None:
        self.eos_token_id = end
        self.tokens = list(pieces)
        self.special_token_ids = list(special)
        self._by_piece = {piece: id for id, piece in enumerate(pieces) if piece}
        self._longest = max(map(len, pieces))

    def __call__(self, text: bytes) -> list[int]:
        """Return ids of a text, the longest pieces first, up to where no piece goes on."""
        rest = bytes(text)
        ids: list[int] = []
        while rest:
            sizes = range(min(self._longest, len(rest)), 0, -1)
            size = next((n for n in sizes if rest[:n] in self._by_piece), 0)
            if not size:
                break
            ids.append(self._by_piece[rest[:size]])
            rest = rest[size:]
        return ids


class TextGrammar:
    """Follows one text, token by token, along a grammar.

    Args:
        grammar: what the text has to be.
        pieces: what each token adds to a text, in bytes (V,); nothing for specials.
        end: the token that ends a text.
        banned: tokens that are never written.

    Raises:
        UsageError: the grammar is none, or llguidance is missing.
    """

    def __init__(
        self,
        grammar: GrammarText,
        pieces: Sequence[bytes],
        end: int,
        banned: Sequence[int],
    ) -> None:
        try:
            import llguidance
        except ImportError:
            raise UsageError(MISSING) from None
        self._library: Any = llguidance
        self._name = grammar.name
        self._end = end
        special = [id for id, piece in enumerate(pieces) if not piece]
        vocabulary = _Vocabulary(pieces, end, [*special, *banned])
        wrapper = llguidance.TokenizerWrapper(vocabulary)
        tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=len(pieces))
        try:
            rules = self._library.grammar_from(grammar.kind, grammar.text)
            self._matcher = llguidance.LLMatcher(tokenizer, rules, log_level=0)
        except ValueError as error:
            raise self._wrong(error) from None
        self._check()
        words = -(-len(pieces) // 32)
        self._bits = np.zeros(words, dtype=np.int32)
        self._size = len(pieces)
        self._allowed = np.ones(len(pieces), dtype=bool)
        self._allowed[list(banned)] = False

    def _wrong(self, reason: object) -> UsageError:
        lines = str(reason).strip().splitlines() or ["no reason given"]
        return UsageError(f"{self._name} cannot be followed: {lines[0]}")

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._wrong(self._matcher.get_error())

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is one that the grammar allows."""
        return self._matcher.is_stopped() or self._matcher.is_accepting()

    def allowed(self) -> Tensor:
        """Return which tokens may come next, bool (V,).

        Raises:
            UsageError: none; the vocabulary lacks what the grammar asks for.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        allowed = bits[: self._size].astype(bool) & self._allowed
        allowed[self._end] = self._matcher.is_accepting()
        if not allowed.any() or self._matcher.is_error():
            raise self._unspelled()
        return torch.from_numpy(allowed)

    def _unspelled(self) -> UsageError:
        return UsageError(
            f"{self._name} asks for what no token of the vocabulary spells; train on text that "
            "holds it, or with tokenizer=bytes or bpe"
        )

    def take(self, token: int) -> None:
        """Go on by a token that was allowed.

        Raises:
            UsageError: only a longer piece than the vocabulary has could go on.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise self._unspelled()
