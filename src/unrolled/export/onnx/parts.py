"""What stands around a layer: vectors of tokens, pooling, n-grams, the spelling of words.

Shapes: B rows, T steps, H features, O outputs, U distinct words, C pieces of a word.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from unrolled.core.errors import UserError
from unrolled.export.onnx.attention import attention
from unrolled.export.onnx.graph import INFINITY, Graph, Value
from unrolled.export.onnx.recurrent import States, recurrent
from unrolled.nn import Attention, Layer, Memoryless, NGrams, Pooling, TokenEmbedding
from unrolled.nn.memoryless import ACTIVATIONS
from unrolled.nn.ngrams import LOUDNESS, PRIME
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.spelling import SpelledWords

LOW = 21  # bits: those above are folded into those below
LARGEST_BUCKETS = 2**20  # whose hash hangs on the low 2 LOW - 1 bits alone
LAST = 2**63 - 1  # the end of any axis


def read_layer(
    graph: Graph,
    layer: Layer,
    x: Value,
    lengths: Value,
    state: States | None = None,
) -> tuple[Value, States]:
    """Return the outputs of a layer (B, T, H) over x (B, T, D), and its state, if it has one."""
    if isinstance(layer, Recurrent):
        return recurrent(graph, layer, x, lengths, state)
    if isinstance(layer, Attention):
        return attention(graph, layer, x, lengths), ()
    assert isinstance(layer, Memoryless)
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    y = graph.zero_padding(x, lengths)
    for stage in layer.stages:
        if isinstance(stage, nn.Linear):
            y = y.linear(stage)
        elif type(stage) in names:
            y = y.activated(names[type(stage)])
    return graph.zero_padding(y, lengths), ()


def embed(graph: Graph, embedding: TokenEmbedding, tokens: Value) -> Value:
    """Return the vectors (..., D) of tokens (...)."""
    table = graph.weight(embedding.weight)
    vectors = table.apply("Gather", tokens)
    return vectors if embedding.scale == 1 else vectors * float(embedding.scale)


# ---------------------------------------------------------------------- one vector a sequence


def pool(
    graph: Graph,
    pooling: Pooling,
    x: Value,
    lengths: Value,
) -> Value:
    """Return (B, H), or (B, 2 H) for mean-max, for x (B, T, H), zero at padding."""
    if pooling.kind == "last":
        return _last(graph, pooling, x, lengths)
    if pooling.kind == "mean":
        return _mean(x, lengths)
    if pooling.kind == "max":
        return _max(graph, x, lengths)
    if pooling.kind == "mean-max":
        both = [_mean(x, lengths), _max(graph, x, lengths)]
        return graph.joined(both)
    return _attended(graph, pooling, x, lengths)


def _zero_empty(graph: Graph, lengths: Value, pooled: Value) -> Value:
    """Return (B, H) with zeros for rows without a step."""
    some = lengths > 0
    return graph.chosen(some.wider(1), pooled, 0.0)


def _last(
    graph: Graph,
    pooling: Pooling,
    x: Value,
    lengths: Value,
) -> Value:
    newest = lengths.apply("Max", 1) - 1
    pooled = x.apply("GatherND", newest.wider(1), batch_dims=1)
    if pooling.reverse_size:
        # what was read backwards ended at the first step
        first = x.apply("Gather", 0, axis=1)
        split = pooling.size - pooling.reverse_size
        backward = first.part(split, pooling.size, 1)
        pooled = graph.joined([pooled.part(0, split, 1), backward])
    return _zero_empty(graph, lengths, pooled)


def _mean(x: Value, lengths: Value) -> Value:
    some = lengths.apply("Max", 1)
    count = some.cast(np.float32)
    return x.sum(1) / count.wider(1)


def _max(graph: Graph, x: Value, lengths: Value) -> Value:
    mask = graph.real_steps(x, lengths).wider(2)
    masked = graph.chosen(mask, x, INFINITY)
    highest = masked.apply("ReduceMax", (1,), keepdims=0)
    return _zero_empty(graph, lengths, highest)


def _attended(
    graph: Graph,
    pooling: Pooling,
    x: Value,
    lengths: Value,
) -> Value:
    """Return steps weighed by what a learnt query says of them (Yang et al. 2016, eq. 5-7)."""
    hidden = x.linear(pooling.key).activated("tanh")
    scores = hidden.linear(pooling.query)
    mask = graph.real_steps(x, lengths).wider(2)
    # lowest and not -inf: a row without steps would else be 0/0
    lowest = float(np.finfo(np.float32).min)
    masked = graph.chosen(mask, scores, lowest)
    weighed = masked.apply("Softmax", axis=1) * x
    return weighed.sum(1)


# ---------------------------------------------------------------------- n-grams


def refuse_buckets(ngrams: NGrams) -> None:
    """Raise UserError for a number of buckets that the hash here does not serve."""
    buckets = ngrams.buckets
    if buckets & (buckets - 1) or buckets > LARGEST_BUCKETS:
        raise UserError(
            f"n-grams of {buckets:,} buckets have no counterpart in ONNX; it takes a power of two "
            f"up to {LARGEST_BUCKETS:,}"
        )


def sum_ngrams(
    graph: Graph,
    ngrams: NGrams,
    tokens: Value,
    lengths: Value,
) -> Value:
    """Return what n-grams add (B, O) for tokens (B, T) of which ``lengths`` (B,) are real.

    The hash is that of ``NGrams.bucket_indices`` in its low bits, on which the bucket hangs; so
    no product passes 63 bits.
    """
    positions = graph.positions(tokens)
    rows = lengths.wider(1)
    key: Value | None = None
    indices: list[Value] = []
    kept: list[Value] = []
    for size in range(1, ngrams.longest + 1):
        added = _shifted(tokens, size - 1) + 1
        grown = added if key is None else key * PRIME + added
        key = grown % 2 ** (2 * LOW - 1)
        folded = key ^ (key / 2**LOW)
        indices.append(folded % ngrams.buckets)
        kept.append(positions + size <= rows)
    real = graph.joined(kept).cast(np.float32)
    count = real.sum(1, keep=True)
    root = count.apply("Max", 1.0).apply("Sqrt")
    shares = real * LOUDNESS / root
    table = graph.weight(ngrams.weight)
    vectors = table.apply("Gather", graph.joined(indices))
    total = shares.wider(1) @ vectors
    return total.narrower(1)


def _shifted(tokens: Value, by: int) -> Value:
    """Return tokens (B, T) moved to the left by so many steps, zeros behind them."""
    if not by:
        return tokens
    padded = tokens.apply("Pad", (0, 0, 0, by), 0)
    return padded.part(by, LAST, 1)


# ---------------------------------------------------------------------- words


def spell(
    graph: Graph,
    words: SpelledWords,
    tokens: Value,
    pieces: Value,
    counts: Value,
    indices: Value,
) -> Value:
    """Return the vectors of words (B, T, ``words.width``); see ``SpelledWords.forward``."""
    vectors = embed(graph, words.pieces, pieces)
    steps, _ = read_layer(graph, words.layer, vectors, counts)
    spelt = pool(graph, words.pooling, steps, counts)
    if words.ngrams is not None:
        added = sum_ngrams(graph, words.ngrams, pieces, counts)
        spelt = graph.joined([spelt, added])
    own = embed(graph, words.words, tokens)
    return graph.joined([own, spelt.apply("Gather", indices)])
