"""N-gram models of tokens, interpolated with Witten-Bell weights.

A token with many different followers trusts its own counts less (Chen and Goodman 1999, section
2.5). Shapes: N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.data.examples import Ints, Ragged

Probabilities = NDArray[np.float64]


def witten_bell(
    counts: Ints, times: Ints, followers: Ints, lower: Probabilities
) -> Probabilities:
    """Return the probability of tokens (N,) after their contexts.

    Args:
        counts: how often each stood after its context, (N,).
        times: how often the context stood, (N,).
        followers: how many different tokens stood after it, (N,).
        lower: the probability of the token after a shorter context, (N,).
    """
    all_times = times + followers
    weight = times / np.maximum(1, all_times)
    conditional = weight * counts / np.maximum(1, times)
    return conditional + (1 - weight) * lower


def frequencies(tokens: Ints, size: int) -> Probabilities:
    """Return the probability of each of ``size`` tokens by itself, one added to each count."""
    counts = np.bincount(tokens, minlength=size) + 1.0
    frequencies: Probabilities = counts / (len(tokens) + size)
    return frequencies


def ngram_nats(
    train: Ragged,
    scored: Ragged,
    order: int,
    size: int,
    kinds: tuple[Ints, Ints] | None = None,
) -> float:
    """Return what the tokens of texts cost a model of n-grams, in nats, the sum of all.

    Args:
        train: the texts that are counted, each with its end mark.
        scored: the texts that are scored.
        order: tokens of the longest n-gram.
        size: tokens of the vocabulary.
        kinds: the kind of each text of either part: each kind then has counts of its own, below
            which stand the frequencies of tokens in all texts. None: all texts are of one kind.
    """
    rows = Ragged.join([train, scored])
    tokens = np.asarray(rows.flat, dtype=np.int64)
    trained = len(train.flat)
    is_first = np.zeros(len(tokens), dtype=bool)
    starts = rows.offsets[:-1]
    is_first[starts[rows.lengths > 0]] = True
    single = frequencies(tokens[:trained], size)
    model = _Counted(
        tokens,
        is_first,
        trained,
        size,
    )
    probabilities = single[tokens]
    contexts = np.zeros_like(tokens)
    if kinds is not None:
        of_rows = np.concatenate(kinds)
        contexts = np.repeat(of_rows, rows.lengths)
        probabilities = model.interpolated(contexts, probabilities)
    for _ in range(order - 1):
        contexts = model.longer(contexts)
        probabilities = model.interpolated(contexts, probabilities)
    logarithms = np.log(probabilities[trained:])
    return float(-logarithms.sum())


@dataclass(frozen=True, slots=True)
class _Counted:
    """Tokens (N,) of texts one after another, of which the first ``trained`` are counted.

    ``is_first`` marks where a text begins. The context of each token is a number, equal ones the
    same (N,).
    """

    tokens: Ints
    is_first: NDArray[np.bool_]
    trained: int
    size: int

    def longer(self, contexts: Ints) -> Ints:
        """Return contexts that are one token longer.

        Before a text stands what is no token, as often as it is asked for.
        """
        base = self.size + 1
        joined = contexts * base + self.size
        before = contexts[:-1] * base + self.tokens[:-1]
        goes_on = ~self.is_first[1:]
        joined[1:][goes_on] = before[goes_on]
        _, numbers = np.unique(joined, return_inverse=True)
        return numbers.astype(np.int64)

    def interpolated(
        self,
        contexts: Ints,
        lower: Probabilities,
    ) -> Probabilities:
        """Return the probability of each token, given that after a shorter context (N,)."""
        keys = contexts * self.size + self.tokens
        distinct, pairs = np.unique(keys, return_inverse=True)
        counted_pairs = pairs[: self.trained]
        counted_contexts = contexts[: self.trained]
        counts = np.bincount(
            counted_pairs,
            minlength=len(distinct),
        )
        size = int(contexts.max()) + 1
        times = np.bincount(
            counted_contexts,
            minlength=size,
        )
        seen = distinct[counts > 0]
        followers = np.bincount(
            seen // self.size,
            minlength=size,
        )
        return witten_bell(
            counts[pairs],
            times[contexts],
            followers[contexts],
            lower,
        )
