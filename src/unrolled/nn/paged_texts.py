"""Many texts through one transformer: a native call for a token of each, keys and values in pages.

Shapes: B texts, T steps of a chunk, L blocks, K key-value heads, P steps of a page, E width of a
head, V tokens.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.core.errors import UserError, is_out_of_memory
from unrolled.nn.attention_stream import CHUNK
from unrolled.nn.packed_model import PackedModel, TransformerParts
from unrolled.nn.pages import Pages
from unrolled.ops import native
from unrolled.ops.decoder import address

PAGE = 16  # steps: of what two texts have in common, up to so many are read again
FIRST_PAGES = 64


class PagedText:
    """A text that is read: its tokens, and the pages where their keys and values stand.

    Its pages are given back when nobody has it any more.
    """

    def __init__(
        self,
        tokens: list[int],
        pages: list[int],
        owner: Pages,
    ) -> None:
        self.tokens = tokens
        self.pages = pages
        weakref.finalize(self, owner.leave, pages).atexit = False

    def __len__(self) -> int:
        return len(self.tokens)


class PagedTexts:
    """Reads texts by the native core, each at its own length; what they begin with is read once.

    The numbers of a text depend neither on the others nor on their number.

    Args:
        parts: of a language model; see ``why_not_native``.
        precision: of the packed weights.
        most_bytes: that keys and values may take; None: half of what is free now.

    Raises:
        NotFinite: weights are not finite.
    """

    def __init__(
        self,
        parts: TransformerParts,
        precision: str = "float32",
        most_bytes: int | None = None,
    ) -> None:
        stack = parts.stack
        self.precision = precision
        self._stack = stack
        self._vocabulary = cast(nn.Linear, parts.head).out_features
        self._model = PackedModel(parts, precision, PAGE * FIRST_PAGES)
        self._most_bytes = _half_of_memory() if most_bytes is None else most_bytes
        self._page_shape = (stack.kv_heads, PAGE, stack.head_size)
        self._pages = Pages(PAGE, FIRST_PAGES)
        self._keys, self._values = self._room(FIRST_PAGES)

    @property
    def context(self) -> int | None:
        """Positions that can be read; None is no limit."""
        return self._stack.context

    @property
    def bytes(self) -> int:
        """Bytes of keys and values, used or not."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def explain(self) -> str:
        """Return one line: weights, and the cache with how many of its pages are free."""
        return (
            f"native core: {self.precision} weights, {self._model.decoder.bytes:,} bytes of them "
            f"read in a step; {self._pages.count:,} pages of {PAGE} steps, {self.bytes:,} bytes, "
            f"{self._pages.free:,} free"
        )

    @torch.no_grad()
    def read(self, tokens: Sequence[int]) -> tuple[PagedText, Tensor]:
        """Begin a text.

        Args:
            tokens: at least one.

        Returns:
            The text, and the scores of the token after it (1, V).

        Raises:
            ValueError: no token, one that the vocabulary has not, or more than the context.
            UserError: there is no memory for so many keys and values; other texts go on.
        """
        tokens = [int(token) for token in tokens]
        self._stack.check_context(len(tokens))
        if not tokens or min(tokens) < 0 or max(tokens) >= self._vocabulary:
            raise ValueError("expected tokens of the vocabulary, at least one")
        text = PagedText([], self._pages.shared(tokens), self._pages)
        text.tokens += tokens[: len(text.pages) * PAGE]
        scores = self._scores_for(1)
        for start in range(len(text), len(tokens), CHUNK):
            self._read_chunk(text, tokens[start : start + CHUNK], scores)
        return text, scores

    @torch.no_grad()
    def step(self, texts: Sequence[PagedText], tokens: Sequence[int]) -> Tensor:
        """Read one more token of some texts.

        Args:
            texts: B of them, each once.
            tokens: of each.

        Returns:
            The scores of what comes next (B, V).

        Raises:
            ValueError, UserError: see ``read``; no text was read then.
        """
        tokens = [int(token) for token in tokens]
        if len(tokens) != len(texts) or len({id(text) for text in texts}) != len(texts):
            raise ValueError("expected a token for each text, and each text once")
        longest = max(map(len, texts))
        self._stack.check_context(longest + 1)
        if min(tokens) < 0 or max(tokens) >= self._vocabulary:
            raise ValueError("expected tokens of the vocabulary")
        for text in texts:
            self._make_room(text, 1)
        lengths = np.array([len(text) for text in texts])
        table = np.zeros((len(texts), longest // PAGE + 1), np.int32)
        for row, text in zip(table, texts, strict=True):
            row[: len(text.pages)] = text.pages
        scores = self._scores_for(len(texts))
        self._call(np.array(tokens), lengths, table, scores, {})
        for text, token in zip(texts, tokens, strict=True):
            self._add(text, [token])
        return scores

    def _scores_for(self, rows: int) -> Tensor:
        return torch.empty(rows, self._vocabulary, dtype=torch.float32, device="cpu")

    def _read_chunk(
        self, text: PagedText, tokens: Sequence[int], scores: Tensor
    ) -> None:
        """Read some more tokens of a text; the scores after the last are written."""
        count = len(tokens)
        self._make_room(text, count)
        lengths = np.arange(len(text), len(text) + count)
        own = np.zeros(count, np.int64)
        score_at = np.full(count, -1)
        score_at[-1] = 0
        table = np.array([text.pages], np.int32)
        steps = {"own": own, "score_at": score_at}
        self._call(np.array(tokens), lengths, table, scores, steps)
        self._add(text, tokens)

    def _add(self, text: PagedText, tokens: Sequence[int]) -> None:
        """Note what was read of a text."""
        full = len(text) // PAGE
        text.tokens += tokens
        for index in range(full, len(text) // PAGE):
            before = text.pages[index - 1] if index else None
            part = text.tokens[index * PAGE : (index + 1) * PAGE]
            self._pages.fill(text.pages[index], before, part)

    def _make_room(self, text: PagedText, steps: int) -> None:
        """Take pages for so many more steps of a text."""
        needed = -(-(len(text) + steps) // PAGE) - len(text.pages)
        if needed > self._pages.free:
            self._grow(self._pages.count + needed - self._pages.free)
        for _ in range(needed):
            text.pages.append(self._pages.take())
        self._model.cover(len(text) + steps)

    def _grow(self, least: int) -> None:
        """Let there be at least so many pages, twice as many where they may be.

        Raises:
            UserError: there is no memory.
        """
        before = self._pages.count
        page_bytes = self.bytes // before
        most = self._most_bytes // page_bytes
        if least > most:
            raise UserError(_lacking(least, page_bytes))
        count = max(least, min(2 * before, most))
        try:
            keys, values = self._room(count)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(_lacking(count, page_bytes)) from None
        keys[:, :before] = self._keys
        values[:, :before] = self._values
        self._keys = keys
        self._values = values
        self._pages.grow(count)

    def _room(self, count: int) -> tuple[Tensor, Tensor]:
        """Return room for the keys and the values of so many pages (L, pages, K, P, E)."""
        # what is made in inference mode could not be changed outside of it
        with torch.inference_mode(False):
            shape = (len(self._stack.blocks), count, *self._page_shape)
            keys = torch.empty(shape, dtype=torch.float32, device="cpu")
            return keys, torch.empty_like(keys)

    def _call(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        table: NDArray[np.int32],
        scores: Tensor,
        steps: dict[str, NDArray[np.int64]],
    ) -> None:
        """Read a row for each of ``ids``.

        Args:
            ids, lengths: of each row.
            table: the pages of each text.
            scores: rows of scores.
            steps: own and score_at, where rows are steps of one text.
        """
        keys = self._keys
        embeddings = self._model.table
        assert embeddings is not None
        vectors, cosines, sines = self._model.positions.addresses()
        fields = {
            "threads": torch.get_num_threads(),
            "rows": len(ids),
            "cache_rows": keys.shape[1],
            "room": PAGE,
            "ids": ids.ctypes.data,
            "table": embeddings.data_ptr(),
            "tokens": len(embeddings),
            "places": vectors,
            "cosines": cosines,
            "sines": sines,
            "positions": self._model.positions.size,
            "keys": keys.data_ptr(),
            "values": self._values.data_ptr(),
            "lengths": lengths.ctypes.data,
            "logits": address(scores),
            "ld_logits": scores.shape[1],
            "scored": len(scores),
            "pages": table.ctypes.data,
            "sequences": len(table),
            "most_pages": table.shape[1],
        }
        fields |= {name: numbers.ctypes.data for name, numbers in steps.items()}
        call = native.decoding_of(fields, keys.stride()[:4])
        self._model.decoder.run(call)


def _lacking(pages: int, page_bytes: int) -> str:
    return (
        f"keys and values of {pages * PAGE:,} steps take {pages * page_bytes:,} bytes, more than "
        "there are; write fewer texts at once, or shorter ones"
    )


def _half_of_memory() -> int:
    """Return half of the bytes that are free now; no limit where that is not known."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return sys.maxsize
