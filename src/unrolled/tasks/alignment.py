"""Where answers look in their sources: attention weights, words side by side, words copied.

Legend: M tokens of a source, T tokens of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unrolled.core.errors import UsageError
from unrolled.data.batches import PAD
from unrolled.data.examples import Ragged
from unrolled.models import Unaligned
from unrolled.text.streams import SPECIALS, WhitespaceStream, WordsStream
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

ROWS = 64  # sources that are aligned together
# kinds whose tokens are words
WHOLE = {"words": WordsStream, "whitespace": WhitespaceStream}
PIECES = ("bpe", "unigram", "bytes")  # kinds that may spell a word in several ways
Weights = NDArray[np.float32]
# what people align, words or else tokens, and for each id the index of the one it belongs to
Units = tuple[list[str], list[int]]


def attention_weights(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    start: int,
    compute_device: ComputeDevice,
) -> list[Weights]:
    """Return how each token of each answer attends to its source: (T, M) without the end marks.

    Args:
        model: an ``Unaligned`` model in evaluation mode.
        sources: their ids, each with its end mark.
        answers: the ids of an answer to each.
        start: the mark that the decoder reads first.
        compute_device: where the model computes.

    Raises:
        UsageError: the model has no attention.
    """
    unaligned = cast(Unaligned, model)
    if sources and not unaligned.attends:
        raise UsageError(
            "this model has no attention, so there is no alignment (model.attention)"
        )
    weights_of_answers: list[Weights] = []
    for first in range(0, len(sources), ROWS):
        end = first + ROWS
        batch_sources = sources[first:end]
        batch_answers = answers[first:end]
        padded = _padded_weights(
            unaligned, batch_sources, batch_answers, start, compute_device
        )
        rows = zip(padded, batch_sources, batch_answers, strict=True)
        for weights, source, tokens in rows:
            size = len(source) - 1
            weights_of_answers.append(weights[: len(tokens), :size])
    return weights_of_answers


@torch.no_grad()
def _padded_weights(
    model: Unaligned,
    sources: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    start: int,
    compute_device: ComputeDevice,
) -> Weights:
    """Return the attention of a batch of answers to their sources (B, T, M), end marks too."""
    device = compute_device.device
    rows = np.arange(len(sources))
    ids, lengths = Ragged.of(sources).take(rows, PAD)
    # what the decoder has read before it writes a token
    before = Ragged.of([[start, *tokens[:-1]] for tokens in answers])
    inputs, _ = before.take(rows, PAD)
    with compute_device.autocast():
        weights = model.align(ids.to(device), lengths.to(device), inputs.to(device))
    return cast(Weights, weights.float().cpu().numpy())


def units(tokenizer: Tokenizer, ids: Sequence[int], text: str = "") -> Units:
    """Return what people align, and for each id the one it belongs to: words, else tokens.

    ``text`` is what the ids were made of, where that is known: it has the unknown ones.
    """
    if tokenizer.kind in PIECES:
        stream = tokenizer.stream()
        written = ""
        word_indices = []
        for id in ids:
            written += stream.feed(id)
            count = len(written.split())
            word_indices.append(max(0, count - 1))
        written += stream.finish()
        words = written.split() or [""]
        last = len(words) - 1
        return words, [min(index, last) for index in word_indices]
    names = [tokenizer.token(id) for id in ids]
    if text and tokenizer.kind in WHOLE:
        pattern = tokenizer.document["pre_tokenizer"]["pattern"]["Regex"]
        spelt = re.findall(pattern, text)
        names = spelt if len(spelt) == len(names) else names
    elif text and len(text) == len(names):
        names = list(text)
    return names, list(range(len(names)))


def links(
    weights: Weights, source: Sequence[int], answer: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (word of the source, word of the answer) for every word of the answer.

    Args:
        weights: attention weights of tokens, (T, M).
        source, answer: the word of each token, as ``units`` gives them.
    """
    if not weights.size:
        return []
    answer_words = max(answer) + 1
    source_words = max(source) + 1
    # the weights of words are the sums over their tokens
    words = np.zeros((answer_words, source_words))
    np.add.at(words, np.ix_(answer, source), weights)
    strongest = words.argmax(1).tolist()
    return [(index, word) for word, index in enumerate(strongest)]


def copied(
    target: Tokenizer,
    tokens: Sequence[int],
    weights: Weights,
    source: Units,
    banned: Sequence[str] = (),
) -> str:
    """Return the text of word tokens, each unknown one replaced by the word that it looks at.

    Of words that are not banned, that is; where there is none the unknown token stays.
    """
    words, word_indices = source
    unknown = target.token(target.unk_id)

    def copy(token_weights: NDArray[np.float32]) -> str:
        likeliest_first = np.argsort(-token_weights, kind="stable").tolist()
        candidates = (words[word_indices[index]] for index in likeliest_first)
        return next((word for word in candidates if word not in banned), unknown)

    spelt = [
        copy(weights[step]) if token == target.unk_id else target.token(token)
        for step, token in enumerate(tokens)
    ]
    stream = WHOLE[target.kind]([*SPECIALS, *spelt])
    first = len(SPECIALS)
    ids = range(first, first + len(spelt))
    return "".join(map(stream.feed, ids))


def aligned(source: Units, answer: Units, weights: Weights) -> dict[str, Any]:
    """Return the words of both sides, and which word of the source each was written for."""
    source_words, source_indices = source
    answer_words, answer_indices = answer
    return {
        "source_words": source_words,
        "answer_words": answer_words,
        "alignment": links(weights, source_indices, answer_indices),
    }
