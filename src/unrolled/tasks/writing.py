"""From encoded sources to texts: the search, words copied from the source, alignments.

Legend: M tokens of a source, T tokens of an answer.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unrolled.core.errors import UsageError, shown
from unrolled.data.batches import PAD
from unrolled.data.examples import Ints, Ragged
from unrolled.decoding.search import Hypothesis, search
from unrolled.decoding.settings import Search
from unrolled.models import Unaligned
from unrolled.models.unaligned import Steps
from unrolled.tasks.base import OutputConstraints, score_batches
from unrolled.text.streams import SPECIALS, WhitespaceStream, WordsStream
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

LONGEST_ASKED = (
    1000  # tokens of a beginning and of what is required: a search takes each of them
)
# sources that are answered together, and their padded tokens
ROWS = 64
TOKENS = 4096
WHOLE = {
    "words": WordsStream,
    "whitespace": WhitespaceStream,
}  # kinds whose tokens are words
PIECES = ("bpe", "unigram", "bytes")  # kinds that may spell a word in several ways
Weights = NDArray[np.float32]
Ids = list[int]
Phrases = list[Ids]


def refuse_unknown(target: Tokenizer, asks: OutputConstraints) -> None:
    """Raise UsageError where answers are to hold what the vocabulary has no pieces for."""
    for told in filter(None, (asks.begin, *asks.required)):
        if target.unk_id in target.encode(told):
            raise UsageError(
                f"{shown(told)} cannot be asked for: this model has never written all of it, so "
                "its vocabulary has no pieces for it; leave it out"
            )


def write(
    model: nn.Module,
    target: Tokenizer,
    sources: Sequence[Sequence[int]],
    settings: Search,
    place: ComputeDevice,
    *,
    asks: OutputConstraints | None = None,
    unknown: bool = False,
) -> list[list[Hypothesis]]:
    """Search for answers to sources, of like length together; return those of each, best first.

    Args:
        model: an ``Unaligned`` model in evaluation mode.
        target: the vocabulary of answers.
        sources: their ids, each with its end mark.
        settings: of the search.
        place: where the model computes.
        asks: what answers are to hold; found otherwise spelt than it was banned, anew without it.
        unknown: whether the unknown token may be written.
    """
    writer = cast(Unaligned, model)
    rows = Ragged.of(sources)
    asks = asks or OutputConstraints()
    found: list[list[Hypothesis]] = [[] for _ in sources]
    banned = [target.pad_id, target.bos_id, *([] if unknown else [target.unk_id])]
    phrases, begin, required, needed = _asked(target, asks, writer.longest)

    def answer(steps: Steps, chosen: Ints) -> None:
        never = phrases
        waiting = chosen
        while len(waiting):
            search_once(steps, waiting, never)
            spelt = {
                row: _spellings(target, found[row], asks.banned)
                for row in waiting.tolist()
            }
            new = [ids for each in spelt.values() for ids in each if ids not in never]
            never = [*never, *new]
            waiting = waiting[[bool(new and spelt[row]) for row in waiting.tolist()]]

    def search_once(steps: Steps, chosen: Ints, never: Phrases) -> None:
        ids, lengths = rows.take(chosen, PAD)
        told = lengths.tolist()
        count = len(chosen)
        limits = [
            min(settings.limit(n), writer.longest or settings.limit(n)) for n in told
        ]
        with torch.no_grad(), place.searching():
            answers = search(
                steps,
                steps.start(ids.to(place.device), lengths.to(place.device)),
                settings,
                start=target.bos_id,
                end=target.eos_id,
                limits=[max(needed, limit) for limit in limits],
                prefixes=[begin] * count if begin else None,
                banned=banned,
                banned_phrases=never,
                required=[required] * count if required else None,
                lengths=told,
                device=place.device,
            )
        for row, each in zip(chosen.tolist(), answers, strict=True):
            found[row] = each

    batches = score_batches(rows.lengths, TOKENS, ROWS)
    side_by_side(writer, batches, answer, place, alone=settings.sample)
    return found


def side_by_side(
    writer: Unaligned,
    batches: Sequence[Ints],
    answer: Callable[[Steps, Ints], None],
    place: ComputeDevice,
    alone: bool = False,
) -> None:
    """Answer batches, on the processor as many at a time as torch has threads, one thread each.

    A step of a search is small: two threads share two batches better than each step of one.
    Answers do not depend on it; draws would, since they share torch's generator, and go ``alone``.
    Batches come shortest first.
    """
    here = place.device.type == "cpu" and not alone
    threads = min(torch.get_num_threads(), len(batches)) if here else 1
    # from the longest: near the end no thread should wait for another's large batch
    waiting = iter(batches[::-1])
    before = torch.get_num_threads()
    lock = threading.Lock()
    stop = threading.Event()

    def work() -> None:
        if threads > 1:
            torch.set_num_threads(1)  # of this thread
        try:
            with place.searching():
                steps = writer.stepper()
            while not stop.is_set():
                with lock:
                    chosen = next(waiting, None)
                if chosen is None:
                    return
                answer(steps, chosen)
        finally:
            stop.set()  # nothing is left, or after a fault nobody answers the rest

    if threads <= 1:
        work()
        return
    try:
        with ThreadPoolExecutor(threads) as pool:
            done = [pool.submit(work) for _ in range(threads)]
            try:
                for each in done:
                    each.result()
            finally:
                stop.set()  # an interruption, too
    finally:
        torch.set_num_threads(before)  # threads to come begin with what was set last


def _asked(
    target: Tokenizer, asks: OutputConstraints, longest: int | None
) -> tuple[Phrases, Ids, Phrases, int]:
    """Return in ids what is banned, the beginning, what is required, and the tokens of those two.

    Raises:
        UsageError: they and the end mark are more than the ``longest`` that a model writes, or
            than ``LONGEST_ASKED`` where it has no limit.
    """
    begin = target.encode(asks.begin) if asks.begin else []
    unique = dict.fromkeys(tuple(_within(target, phrase)) for phrase in asks.required)
    required = [list(phrase) for phrase in unique]
    needed = 1 + len(begin) + sum(map(len, required))
    longest = LONGEST_ASKED if longest is None else longest
    if needed > longest:
        raise UsageError(
            f"the required phrases and the beginning take {needed} tokens with the end mark, and "
            f"this model writes {longest} at most; require less"
        )
    return _banned(target, asks.banned), begin, required, needed


def _banned(target: Tokenizer, words: Sequence[str]) -> Phrases:
    """Return the ids that spell banned words, at the start and later."""
    spelt = [target.encode(word) for word in words] + [
        _within(target, word) for word in words
    ]
    return [
        list(ids)
        for ids in dict.fromkeys(map(tuple, spelt))
        if target.unk_id not in ids
    ]


def _spellings(
    target: Tokenizer, answers: Sequence[Hypothesis], words: Sequence[str]
) -> Phrases:
    """Return the ids by which answers spell any of the words, as a whole word."""
    if not words or target.kind not in PIECES:
        return []
    found = []
    told = "|".join(map(re.escape, words))
    for tokens in (each.tokens for each in answers):
        matches = [*re.finditer(rf"(?<!\w)({told})(?!\w)", target.decode(tokens))]
        ends = (
            [len(target.decode(tokens[:n])) for n in range(len(tokens) + 1)]
            if matches
            else []
        )
        for match in matches:
            first = max(n for n, end in enumerate(ends) if end <= match.start())
            last = min(n for n, end in enumerate(ends) if end >= match.end())
            found.append(list(tokens[first:last]))
    return found


def _within(target: Tokenizer, phrase: str) -> list[int]:
    """Return the ids of a phrase as it stands after another word."""
    return target.encode(f" {phrase}" if target.kind in ("bpe", "bytes") else phrase)


# ---------------------------------------------------------------------- where answers look


def looks(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    start: int,
    place: ComputeDevice,
) -> list[Weights]:
    """Return where each token of each answer looks in its source: (T, M) without the end marks.

    Raises:
        UsageError: the model has no attention.
    """
    writer = cast(Unaligned, model)
    if sources and not writer.attends:
        raise UsageError(
            "this model has no attention, so there is no alignment (model.attention)"
        )
    found: list[Weights] = []
    for at in range(0, len(sources), ROWS):
        some = sources[at : at + ROWS]
        told = answers[at : at + ROWS]
        rows = np.arange(len(some))
        ids, lengths = Ragged.of(some).take(rows, PAD)
        inputs, _ = Ragged.of([[start, *tokens[:-1]] for tokens in told]).take(
            rows, PAD
        )
        given = [each.to(place.device) for each in (ids, lengths, inputs)]
        with torch.no_grad(), place.autocast():
            weights = writer.align(*given).float().cpu().numpy()
        found += [
            each[: len(tokens), : len(source) - 1]
            for each, source, tokens in zip(weights, some, told, strict=True)
        ]
    return found


def units(
    tokenizer: Tokenizer, ids: Sequence[int], text: str = ""
) -> tuple[list[str], list[int]]:
    """Return what people align, and for each id the one it belongs to: words, else tokens.

    ``text`` is what the ids were made of, where that is known: it tells the unknown ones.
    """
    if tokenizer.kind in PIECES:
        stream = tokenizer.stream()
        written = ""
        places = []
        for id in ids:
            written += stream.feed(id)
            places.append(max(0, len(written.split()) - 1))
        words = (written + stream.finish()).split() or [""]
        return words, [min(place, len(words) - 1) for place in places]
    names = [tokenizer.token(id) for id in ids]
    if text and tokenizer.kind in WHOLE:
        spelt = re.findall(
            tokenizer.document["pre_tokenizer"]["pattern"]["Regex"], text
        )
        names = spelt if len(spelt) == len(names) else names
    elif text and len(text) == len(names):
        names = list(text)
    return names, list(range(len(names)))


def links(
    weights: Weights, source: Sequence[int], answer: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (word of the source, word of the answer) for every word of the answer.

    Args:
        weights: where tokens look, (T, M).
        source, answer: the word of each token, as ``units`` gives them.
    """
    if not weights.size:
        return []
    words = np.zeros((max(answer) + 1, max(source) + 1))
    np.add.at(words, np.ix_(answer, source), weights)
    return [(int(place), word) for word, place in enumerate(words.argmax(1))]


def copied(
    target: Tokenizer,
    tokens: Sequence[int],
    weights: Weights,
    source: tuple[list[str], list[int]],
    banned: Sequence[str] = (),
) -> str:
    """Return the text of word tokens, each unknown one replaced by the word that it looks at.

    Of words that are not banned, that is; where there is none the unknown token stays.
    """
    words, places = source

    def copy(look: NDArray[np.float32]) -> str:
        seen = (words[places[at]] for at in np.argsort(-look, kind="stable").tolist())
        return next(
            (word for word in seen if word not in banned), target.token(target.unk_id)
        )

    spelt = [
        copy(weights[step]) if token == target.unk_id else target.token(token)
        for step, token in enumerate(tokens)
    ]
    stream = WHOLE[target.kind]([*SPECIALS, *spelt])
    return "".join(stream.feed(len(SPECIALS) + word) for word in range(len(spelt)))


def aligned(
    source: tuple[list[str], list[int]],
    answer: tuple[list[str], list[int]],
    weights: Weights,
) -> dict[str, Any]:
    """Return the words of both sides, and which word of the source each was written for."""
    pairs = links(weights, source[1], answer[1])
    return {"source_words": source[0], "answer_words": answer[0], "alignment": pairs}
