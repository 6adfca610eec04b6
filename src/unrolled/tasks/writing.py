"""From encoded sources to texts: constraints in ids, and searches side by side."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError, shown
from unrolled.data.batches import PAD
from unrolled.data.examples import Ints, Ragged
from unrolled.decoding.search import Hypothesis, search
from unrolled.decoding.settings import Search
from unrolled.models.encoder_decoder import EncoderDecoder, Steps
from unrolled.tasks.alignment import PIECES
from unrolled.tasks.base import OutputConstraints, Prediction, score_batches
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

# tokens of a beginning and of what is required: a search takes each of them
LONGEST_REQUIRED = 1000
# sources that are answered together, and their padded tokens
ROWS = 64
TOKENS = 4096
Ids = list[int]
Phrases = list[Ids]
# the text of an answer, and what else ``--json`` shows of it
TextWithDetails = tuple[str, dict[str, Any]]


class SourceBatches(Protocol):
    """Sources that are answered, to be read a batch at a time."""

    @property
    def lengths(self) -> Ints:
        """Real steps of each of the N sources."""
        ...

    def take(self, rows: Ints, pad: int) -> tuple[Tensor, ...]:
        """Return some of them side by side, as the model reads them, and their lengths (B,).

        What else the model reads of them may follow.
        """
        ...


def refuse_unknown(target: Tokenizer, constraints: OutputConstraints) -> None:
    """Raise UsageError where answers are to hold what the vocabulary has no pieces for."""
    for text in filter(None, (constraints.begin, *constraints.required)):
        if target.unk_id in target.encode(text):
            raise UsageError(
                f"{shown(text)} cannot be asked for: this model has never written all of it, so "
                "its vocabulary has no pieces for it; leave it out"
            )


def write(
    model: nn.Module,
    target: Tokenizer,
    sources: Sequence[Sequence[int]] | SourceBatches,
    settings: Search,
    compute_device: ComputeDevice,
    *,
    constraints: OutputConstraints | None = None,
    unknown: bool = False,
    seed: int | None = None,
) -> list[list[Hypothesis]]:
    """Search for answers to sources, of like length together; return those of each, best first.

    Args:
        model: an ``EncoderDecoder`` in evaluation mode.
        target: the vocabulary of answers.
        sources: their ids, each with its end mark; or sources of another kind.
        settings: of the search.
        compute_device: where the model computes.
        constraints: what answers are to hold; one found otherwise spelt than it was banned is
            searched for anew without it.
        unknown: whether the unknown token may be written.
        seed: of draws; None draws from torch's own generator.
    """
    decoding = cast(EncoderDecoder, model)
    constraints = constraints or OutputConstraints()
    batched = cast(
        SourceBatches,
        Ragged.of(sources) if isinstance(sources, list | tuple) else sources,
    )
    writer = _Writer(
        decoding,
        target,
        batched,
        settings,
        compute_device,
        constraints,
        _constraint_ids(target, constraints, decoding.longest),
        unwritten(target, unknown),
        [[] for _ in batched.lengths],
        seed,
    )
    batches = score_batches(writer.sources.lengths, TOKENS, ROWS)
    alone = settings.sample
    side_by_side(decoding, batches, writer.answer, compute_device, alone=alone)
    return writer.answers


def unwritten(target: Tokenizer, unknown: bool = False) -> Ids:
    """Return the tokens that no answer holds; ``unknown`` is whether the unknown one may stand."""
    return [target.pad_id, target.bos_id, *([] if unknown else [target.unk_id])]


def best_of(
    texts: Sequence[TextWithDetails], answers: Sequence[Hypothesis]
) -> Prediction:
    """Return the best of the answers to a source, with its score, and the others beside it."""
    (text, details) = texts[0]
    best = answers[0]
    details = {"score": best.score, "finished": best.finished, **details}
    if len(answers) > 1:
        details["n_best"] = [
            {"text": text, "score": answer.score, **more}
            for (text, more), answer in zip(texts, answers, strict=True)
        ]
    return Prediction(text, math.exp(best.log_probability), details)


@dataclass(frozen=True, slots=True)
class _ConstraintIds:
    """Constraints in ids; ``needed`` are the tokens of what must be written, its end included."""

    banned: Phrases
    begin: Ids
    required: Phrases
    needed: int


@dataclass(frozen=True, slots=True)
class _Writer:
    """What all batches of one request share; each thread writes ``answers`` of its own rows."""

    model: EncoderDecoder
    target: Tokenizer
    sources: SourceBatches
    settings: Search
    compute_device: ComputeDevice
    constraints: OutputConstraints
    ids: _ConstraintIds
    banned_tokens: Ids
    answers: list[list[Hypothesis]]
    seed: int | None

    def answer(self, steps: Steps, rows: Ints) -> None:
        """Answer some rows, anew without each spelling of a banned word that was written."""
        banned = self.ids.banned
        waiting = rows
        while len(waiting):
            self._search(steps, waiting, banned)
            spelt = {
                row: _spellings(self.target, self.answers[row], self.constraints.banned)
                for row in waiting.tolist()
            }
            new: Phrases = []
            for spellings in spelt.values():
                new += [ids for ids in spellings if ids not in banned]
            banned = [*banned, *new]
            waiting = waiting[[bool(new and spelt[row]) for row in waiting.tolist()]]

    def _search(self, steps: Steps, rows: Ints, banned: Phrases) -> None:
        source, lengths, *extra = self.sources.take(rows, PAD)
        count = len(rows)
        device = self.compute_device.device
        required = self.ids.required
        begin = self.ids.begin
        with torch.no_grad(), self.compute_device.searching():
            hypotheses = search(
                steps,
                steps.start(
                    source.to(device),
                    lengths.to(device),
                    *(tensor.to(device) for tensor in extra),
                ),
                self.settings,
                start=self.target.bos_id,
                end=self.target.eos_id,
                limits=[self._limit(length) for length in lengths.tolist()],
                prefixes=[begin] * count if begin else None,
                banned=self.banned_tokens,
                banned_phrases=banned,
                required=[required] * count if required else None,
                lengths=lengths.tolist(),
                seed=None if self.seed is None else self.seed + int(rows[0]),
                device=device,
            )
        for row, best_first in zip(rows.tolist(), hypotheses, strict=True):
            self.answers[row] = best_first

    def _limit(self, source_length: int) -> int:
        """Return the most tokens of an answer to a source of so many."""
        limit = self.settings.limit(source_length)
        if self.model.longest:
            limit = min(limit, self.model.longest)
        return max(self.ids.needed, limit)


def side_by_side(
    model: EncoderDecoder,
    batches: Sequence[Ints],
    answer: Callable[[Steps, Ints], None],
    compute_device: ComputeDevice,
    alone: bool = False,
) -> None:
    """Answer batches, on the processor as many at a time as torch has threads, one thread each.

    A step of a search is small: two threads share two batches better than each step of one.
    Answers do not depend on it; draws would, since they share torch's generator, and go ``alone``.
    Batches come shortest first.
    """
    on_processor = compute_device.device.type == "cpu" and not alone
    threads = min(torch.get_num_threads(), len(batches)) if on_processor else 1
    # from the longest: near the end no thread should wait for another's large batch
    waiting = iter(batches[::-1])
    before = torch.get_num_threads()
    lock = threading.Lock()  # an iterator may not be asked by two threads at once
    stop = threading.Event()

    def work() -> None:
        if threads > 1:
            torch.set_num_threads(1)  # of this thread
        try:
            with compute_device.searching():
                steps = model.stepper()
            while not stop.is_set():
                with lock:
                    rows = next(waiting, None)
                if rows is None:
                    return
                answer(steps, rows)
        finally:
            stop.set()  # nothing is left, or after an error nobody answers the rest

    if threads <= 1:
        work()
        return
    try:
        with ThreadPoolExecutor(threads) as pool:
            workers = [pool.submit(work) for _ in range(threads)]
            try:
                for worker in workers:
                    worker.result()
            finally:
                stop.set()  # an interruption, too
    finally:
        torch.set_num_threads(before)  # threads to come begin with what was set last


def _constraint_ids(
    target: Tokenizer, constraints: OutputConstraints, longest: int | None
) -> _ConstraintIds:
    """Return constraints in ids.

    Raises:
        UsageError: what must be written takes more than the ``longest`` that a model writes, or
            than ``LONGEST_REQUIRED`` where it has no limit.
    """
    begin = target.encode(constraints.begin) if constraints.begin else []
    phrases = (tuple(_within(target, phrase)) for phrase in constraints.required)
    required = [list(phrase) for phrase in dict.fromkeys(phrases)]
    needed = 1 + len(begin) + sum(map(len, required))
    longest = LONGEST_REQUIRED if longest is None else longest
    if needed > longest:
        raise UsageError(
            f"the required phrases and the beginning take {needed} tokens with the end mark, and "
            f"this model writes {longest} at most; require less"
        )
    banned = _banned(target, constraints.banned)
    return _ConstraintIds(banned, begin, required, needed)


def _banned(target: Tokenizer, words: Sequence[str]) -> Phrases:
    """Return the ids that spell banned words, at the start and later."""
    at_start = [tuple(target.encode(word)) for word in words]
    later = [tuple(_within(target, word)) for word in words]
    spelt = dict.fromkeys([*at_start, *later])
    return [list(ids) for ids in spelt if target.unk_id not in ids]


def _spellings(
    target: Tokenizer, answers: Sequence[Hypothesis], words: Sequence[str]
) -> Phrases:
    """Return the ids by which answers spell any of the words, as a whole word."""
    if not words or target.kind not in PIECES:
        return []
    spellings = []
    alternatives = "|".join(map(re.escape, words))
    pattern = re.compile(rf"(?<!\w)({alternatives})(?!\w)")
    for answer in answers:
        tokens = answer.tokens
        matches = list(pattern.finditer(target.decode(tokens)))
        if not matches:
            continue
        ends = [len(target.decode(tokens[:count])) for count in range(len(tokens) + 1)]
        for match in matches:
            first = max(n for n, end in enumerate(ends) if end <= match.start())
            last = min(n for n, end in enumerate(ends) if end >= match.end())
            spellings.append(list(tokens[first:last]))
    return spellings


def _within(target: Tokenizer, phrase: str) -> Ids:
    """Return the ids of a phrase as it stands after another word."""
    return target.encode(f" {phrase}" if target.kind in ("bpe", "bytes") else phrase)
