"""What stands around a layer: vectors of tokens, pooling, n-grams, the spelling of words.

Shapes: B rows, T steps, H features, O outputs, U distinct words, C pieces of a word.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from unrolled.core.errors import UserError
from unrolled.export.onnx.attention import attention
from unrolled.export.onnx.graph import INFINITY, Graph
from unrolled.export.onnx.recurrent import States, recurrent
from unrolled.nn import Attention, Layer, Memoryless, NGrams, Pooling, TokenEmbedding
from unrolled.nn.memoryless import ACTIVATIONS
from unrolled.nn.ngrams import LOUDNESS, PRIME
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.spelling import SpelledWords

LOW = 21  # bits: those above are folded into those below
LARGEST_BUCKETS = 2**20  # whose hash hangs on the low 2 LOW - 1 bits alone
FP32 = 1  # what ONNX calls it


def read_layer(
    graph: Graph, layer: Layer, x: str, lengths: str, state: States | None = None
) -> tuple[str, States]:
    """Return the outputs of a layer (B, T, H) over x (B, T, D), and its state, if it has one."""
    if isinstance(layer, Recurrent):
        return recurrent(graph, layer, x, lengths, state)
    if isinstance(layer, Attention):
        return attention(graph, layer, x, lengths), ()
    assert isinstance(layer, Memoryless)
    return _memoryless(graph, layer, x, lengths), ()


def _memoryless(graph: Graph, layer: Memoryless, x: str, lengths: str) -> str:
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    real = graph.real_steps(x, lengths)
    y = graph.zero_padding(x, real)
    for stage in layer.stages:
        if isinstance(stage, nn.Linear):
            y = graph.linear(y, stage)
        elif type(stage) in names:
            y = graph.activation(y, names[type(stage)])
    return graph.zero_padding(y, real)


def embed(graph: Graph, embedding: TokenEmbedding, tokens: str) -> str:
    """Return the vectors (..., D) of tokens (...)."""
    vectors = graph.apply("Gather", graph.weight(embedding.weight), tokens)
    if embedding.scale == 1:
        return vectors
    return graph.apply("Mul", vectors, graph.constant(embedding.scale))


# ---------------------------------------------------------------------- one vector a sequence


def pool(graph: Graph, pooling: Pooling, x: str, lengths: str) -> str:
    """Return (B, H), or (B, 2 H) for mean-max, for x (B, T, H), zero at padding."""
    if pooling.kind == "last":
        return _last(graph, pooling, x, lengths)
    if pooling.kind == "mean":
        return _mean(graph, x, lengths)
    if pooling.kind == "max":
        return _max(graph, x, lengths)
    if pooling.kind == "mean-max":
        return graph.joined(_mean(graph, x, lengths), _max(graph, x, lengths))
    return _attended(graph, pooling, x, lengths)


def _not_empty(graph: Graph, lengths: str) -> str:
    """Return which rows have a step, bool (B, 1)."""
    some = graph.apply("Greater", lengths, graph.constant(0, np.int64))
    return graph.apply("Unsqueeze", some, graph.ints(1))


def _last(graph: Graph, pooling: Pooling, x: str, lengths: str) -> str:
    one = graph.constant(1, np.int64)
    newest = graph.apply("Sub", graph.apply("Max", lengths, one), one)
    step = graph.apply("Unsqueeze", newest, graph.ints(1))
    found = graph.apply("GatherND", x, step, batch_dims=1)
    if pooling.reverse_size:
        # what was read backwards ended at the first step
        first = graph.apply("Gather", x, graph.constant(0, np.int64), axis=1)
        split = pooling.size - pooling.reverse_size
        forward = graph.part(found, 0, split, 1)
        found = graph.joined(forward, graph.part(first, split, pooling.size, 1))
    zero = graph.constant(0.0)
    return graph.apply("Where", _not_empty(graph, lengths), found, zero)


def _mean(graph: Graph, x: str, lengths: str) -> str:
    total = graph.apply("ReduceSum", x, graph.ints(1), keepdims=0)
    count = graph.apply("Max", lengths, graph.constant(1, np.int64))
    column = graph.apply(
        "Unsqueeze", graph.apply("Cast", count, to=FP32), graph.ints(1)
    )
    return graph.apply("Div", total, column)


def _max(graph: Graph, x: str, lengths: str) -> str:
    mask = graph.apply("Unsqueeze", graph.real_steps(x, lengths), graph.ints(2))
    masked = graph.apply("Where", mask, x, graph.constant(INFINITY))
    highest = graph.apply("ReduceMax", masked, graph.ints(1), keepdims=0)
    zero = graph.constant(0.0)
    return graph.apply("Where", _not_empty(graph, lengths), highest, zero)


def _attended(graph: Graph, pooling: Pooling, x: str, lengths: str) -> str:
    """Return steps weighed by what a learnt query says of them (Yang et al. 2016, eq. 5-7)."""
    hidden = graph.activation(graph.linear(x, pooling.key), "tanh")
    scores = graph.linear(hidden, pooling.query)
    mask = graph.apply("Unsqueeze", graph.real_steps(x, lengths), graph.ints(2))
    # lowest and not -inf: a row without steps would else be 0/0
    lowest = graph.constant(np.finfo(np.float32).min)
    masked = graph.apply("Where", mask, scores, lowest)
    weights = graph.apply("Softmax", masked, axis=1)
    return graph.apply(
        "ReduceSum", graph.apply("Mul", weights, x), graph.ints(1), keepdims=0
    )


# ---------------------------------------------------------------------- n-grams


def refuse_buckets(ngrams: NGrams) -> None:
    """Raise UserError for a number of buckets that the hash here does not serve."""
    buckets = ngrams.buckets
    if buckets & (buckets - 1) or buckets > LARGEST_BUCKETS:
        raise UserError(
            f"n-grams of {buckets:,} buckets have no counterpart in ONNX; it takes a power of two "
            f"up to {LARGEST_BUCKETS:,}"
        )


def sum_ngrams(graph: Graph, ngrams: NGrams, tokens: str, lengths: str) -> str:
    """Return what n-grams add (B, O) for tokens (B, T) of which ``lengths`` (B,) are real.

    The hash is that of ``NGrams.bucket_indices`` in its low bits, on which the bucket hangs; so
    no product passes 63 bits.
    """
    positions = graph.positions(tokens)
    rows = graph.apply("Unsqueeze", lengths, graph.ints(1))
    low = graph.constant(2 ** (2 * LOW - 1), np.int64)
    buckets = graph.constant(ngrams.buckets, np.int64)
    one = graph.constant(1, np.int64)
    key = ""
    indices: list[str] = []
    kept: list[str] = []
    for size in range(1, ngrams.longest + 1):
        added = graph.apply("Add", _shifted(graph, tokens, size - 1), one)
        if key:
            grown = graph.apply("Mul", key, graph.constant(PRIME, np.int64))
            added = graph.apply("Add", grown, added)
        key = graph.apply("Mod", added, low)
        high = graph.apply("Div", key, graph.constant(2**LOW, np.int64))
        folded = graph.apply("BitwiseXor", key, high)
        indices.append(graph.apply("Mod", folded, buckets))
        ends = graph.apply("Add", positions, graph.constant(size, np.int64))
        kept.append(graph.apply("LessOrEqual", ends, rows))
    real = graph.apply("Cast", graph.joined(*kept), to=FP32)
    return _weighed(graph, ngrams, graph.joined(*indices), real)


def _shifted(graph: Graph, tokens: str, by: int) -> str:
    """Return tokens (B, T) moved to the left by so many steps, zeros behind them."""
    if not by:
        return tokens
    zero = graph.constant(0, np.int64)
    wide = graph.apply("Pad", tokens, graph.ints(0, 0, 0, by), zero)
    end = np.iinfo(np.int64).max
    return graph.part(wide, by, int(end), 1)


def _weighed(graph: Graph, ngrams: NGrams, indices: str, real: str) -> str:
    """Return the sum (B, O) of the vectors of real n-grams over the root of their number."""
    count = graph.apply("ReduceSum", real, graph.ints(1), keepdims=1)
    some = graph.apply("Max", count, graph.constant(1.0))
    scale = graph.apply("Div", graph.constant(LOUDNESS), graph.apply("Sqrt", some))
    vectors = graph.apply("Gather", graph.weight(ngrams.weight), indices)
    shares = graph.apply("Unsqueeze", graph.apply("Mul", real, scale), graph.ints(1))
    return graph.apply("Squeeze", graph.apply("MatMul", shares, vectors), graph.ints(1))


# ---------------------------------------------------------------------- words


def spell(
    graph: Graph,
    words: SpelledWords,
    tokens: str,
    pieces: str,
    counts: str,
    indices: str,
) -> str:
    """Return the vectors of words (B, T, ``words.width``); see ``SpelledWords.forward``."""
    vectors = embed(graph, words.pieces, pieces)
    steps, _ = read_layer(graph, words.layer, vectors, counts)
    read = [pool(graph, words.pooling, steps, counts)]
    if words.ngrams is not None:
        read.append(sum_ngrams(graph, words.ngrams, pieces, counts))
    spelt = graph.joined(*read)
    return graph.joined(
        embed(graph, words.words, tokens), graph.apply("Gather", spelt, indices)
    )
