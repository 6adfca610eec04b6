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
    has an entry a row (B,): its ``source``, how many words are written (``place``) and ``left``,
    the ``depth`` of open brackets, how many of these opened since the last word (``opened``), the
    tokens that may still be written (``room``, the end mark included), and whether the last token
    was a bracket that opened (``fresh``).
    """

    alphabet: Alphabet
    run: int
    words: Tensor
    source: Tensor
    place: Tensor
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
        none = torch.zeros_like(lengths)
        own = torch.arange(len(lengths), device=words.device)
        return cls(
            alphabet, run, words, own, none, lengths, none, none, limits, none.bool()
        )

    def allowed(self) -> Tensor:
        """Return which tokens each row may take, bool (B, V)."""
        inside = self.depth > 0
        more = self.left > 0
        # a bracket more needs its own two tokens beside what is open, the words and the end mark
        fits = self.room >= 2 + self.left + self.depth + 1
        opens = more & (self.opened < self.run) & fits & (inside | (self.place == 0))
        mask = torch.zeros(
            len(self.depth),
            self.alphabet.size,
            dtype=torch.bool,
            device=self.words.device,
        )
        mask[:, self.alphabet.first :] = opens[:, None]
        mask[:, self.alphabet.word] = inside & more
        mask[:, self.alphabet.close] = inside & ~self.fresh & ((self.depth > 1) | ~more)
        mask[:, self.alphabet.end] = ~inside & ~more
        return mask

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        """Return the constraint whose row i is row ``rows[i]`` of this one after ``tokens[i]``."""
        word = tokens == self.alphabet.word
        close = tokens == self.alphabet.close
        opens = tokens >= self.alphabet.first
        return replace(
            self,
            source=self.source[rows],
            place=self.place[rows] + word.long(),
            left=self.left[rows] - word.long(),
            depth=self.depth[rows] + opens.long() - close.long(),
            opened=(self.opened[rows] + opens.long()).masked_fill(word, 0),
            room=self.room[rows] - 1,
            fresh=opens,
        )

    def feed(self, tokens: Tensor) -> Tensor:
        """Return what the model reads for the tokens just advanced by (B,)."""
        last = self.words[self.source, (self.place - 1).clamp(min=0)]
        return torch.where(tokens == self.alphabet.word, last, tokens)
