"""What keeps a search to trees over given words.

Legend: B rows (hypotheses), S sources, M words of the longest source, V tokens that are written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alphabet:
    """The tokens that trees are written with.

    ``word`` stands for the next word of the source, ``close`` for a bracket that closes, ``end``
    for the end mark; ``first`` and all after it, up to ``size``, open a bracket. Others are never
    written.
    """

    word: int
    close: int
    end: int
    first: int
    size: int


@dataclass(frozen=True, eq=False)
class TreeConstraint:
    """A constraint that leaves nothing but trees over the words of the source.

    A tree is one bracket. It holds every word once and in order, every bracket in it holds a word
    and is closed, and the end mark follows at once. After ``run`` brackets that open a word must
    come, and no bracket opens that could not be closed within the limit: every search ends.

    Use :meth:`over`. ``words`` (S, M) is what the model reads once each word is written; the rest
    has an entry a row (B,): its ``source``, how many words are ``written`` and ``left``,
    the ``depth`` of open brackets, how many of these opened since the last word (``opened``), the
    tokens that may still be written (``room``, the end mark included), and whether the last token
    was a bracket that opened (``fresh``).
    """

    alphabet: Alphabet
    run: int
    words: Tensor
    source: Tensor
    written: Tensor
    left: Tensor
    depth: Tensor
    opened: Tensor
    room: Tensor
    fresh: Tensor

    @classmethod
    def over(
        cls,
        alphabet: Alphabet,
        words: Tensor,
        lengths: Tensor,
        limits: Tensor,
        run: int,
    ) -> Self:
        """Return the constraint before the first token.

        Args:
            alphabet: the tokens of trees.
            words: what the model reads once each word is written (S, M), padded at the right.
            lengths: how many words there are (S,).
            limits: the most tokens of a tree with its end mark (S,).
            run: brackets that may open without a word between.

        Raises:
            ValueError: a source without words, or a limit that not even the smallest tree keeps.
        """
        lengths = lengths.to(words.device)
        limits = limits.to(words.device)
        if bool((lengths < 1).any()) or bool((limits < lengths + 3).any()) or run < 1:
            raise ValueError(
                "expected at least one word a source, room for one bracket around them and an end "
                f"mark, and a run of at least 1; got {lengths.tolist()} words, "
                f"{limits.tolist()} tokens and {run}"
            )
        zeros = torch.zeros_like(lengths)
        sources = torch.arange(len(lengths), device=words.device)
        return cls(
            alphabet,
            run,
            words,
            source=sources,
            written=zeros,
            left=lengths,
            depth=zeros,
            opened=zeros,
            room=limits,
            fresh=zeros.bool(),
        )

    def allowed(self) -> Tensor:
        """Return which tokens each row may take, bool (B, V)."""
        is_inside = self.depth > 0
        has_words = self.left > 0
        # a bracket more needs its own two tokens beside what is open, the words and the end mark
        fits = self.room >= 2 + self.left + self.depth + 1
        is_first = self.written == 0  # the one bracket around all words
        opens = has_words & (self.opened < self.run) & fits & (is_inside | is_first)
        # the outermost bracket closes behind the last word, and no bracket without a word in it
        closes = is_inside & ~self.fresh & ((self.depth > 1) | ~has_words)
        mask = torch.zeros(
            len(self.depth),
            self.alphabet.size,
            dtype=torch.bool,
            device=self.words.device,
        )
        mask[:, self.alphabet.first :] = opens[:, None]
        mask[:, self.alphabet.word] = is_inside & has_words
        mask[:, self.alphabet.close] = closes
        mask[:, self.alphabet.end] = ~is_inside & ~has_words
        return mask

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        """Return the constraint whose row i is row ``rows[i]`` of this one after ``tokens[i]``."""
        is_word = tokens == self.alphabet.word
        is_close = tokens == self.alphabet.close
        is_open = tokens >= self.alphabet.first
        words = is_word.long()
        opened = is_open.long()
        return replace(
            self,
            source=self.source[rows],
            written=self.written[rows] + words,
            left=self.left[rows] - words,
            depth=self.depth[rows] + opened - is_close.long(),
            opened=(self.opened[rows] + opened).masked_fill(is_word, 0),
            room=self.room[rows] - 1,
            fresh=is_open,
        )

    def feed(self, tokens: Tensor) -> Tensor:
        """Return what the model reads for the tokens just advanced by (B,)."""
        last = self.words[self.source, (self.written - 1).clamp(min=0)]
        return torch.where(tokens == self.alphabet.word, last, tokens)
