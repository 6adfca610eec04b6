"""Writing an answer to each source: greedy, beam and diverse beam search, and draws.

Log-probabilities are the model's own: what may not be written is passed over, and the rest is not
made likelier. A source leaves the batch as soon as it is done: when ``beam x patience`` hypotheses
have ended (Kasai et al. 2022), or when ``n_best`` have ended whose scores no row can reach any
more, which is exact: a row of log-probability c ends with at most c over the penalty of the longest
answer, since later tokens only lower c, the penalty grows with length, and coverage never adds.

Shapes: S sources in the batch, W rows of each, G groups, n rows of a group, k candidates of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from unrolled.core.errors import UsageError
from unrolled.decoding.beams import (
    CUT,
    ENDED,
    LACKING,
    OUT,
    BackPointers,
    Bools,
    Floats,
    Ints,
    Steps,
    arrange,
    expand,
    select,
)
from unrolled.decoding.constraints import Constraint
from unrolled.decoding.sampling import choose
from unrolled.decoding.settings import Search as Search
from unrolled.decoding.walk import Decoder, SearchRequest, SearchState

Tokens = Sequence[int]


class Hypothesis(NamedTuple):
    """One answer.

    Args:
        tokens: what was written, the end mark left out.
        score: log-probability over the length penalty (GNMT's, of the tokens and the end mark),
            plus the coverage penalty.
        log_probability: of all tokens and the end mark, by the model (natural logarithm).
        finished: whether it ended by itself and was not cut off.
        log_probabilities: of each token, and of the end mark where it was written.
    """

    tokens: list[int]
    score: float
    log_probability: float
    finished: bool
    log_probabilities: list[float]


@torch.no_grad()
def search(
    model: Decoder,
    state: Any,
    settings: Search,
    *,
    start: int,
    end: int,
    limits: Tokens,
    prefixes: Sequence[Tokens | None] | None = None,
    banned: Tokens = (),
    banned_phrases: Sequence[Tokens] = (),
    required: Sequence[Sequence[Tokens]] | None = None,
    constraint: Constraint | None = None,
    lengths: Sequence[int] | None = None,
    seed: int | None = None,
    device: torch.device | None = None,
) -> list[list[Hypothesis]]:
    """Return answers to each source of a batch, best first; those cut off come last.

    Args:
        model: what reads tokens and says what may follow.
        state: its state before the first step, a row a source; it is used up.
        settings: how to search.
        start: the token read first.
        end: the token that ends an answer.
        limits: the most tokens of an answer to each source, prefix and end mark included, at least
            1; raised where required phrases would not fit. See ``Search.limit``.
        prefixes: for each source what its answers begin with, scored like the rest; None is free.
            Beside a source with a prefix, or with required phrases, the others' log-probabilities
            may differ in the last digits, where the model chooses by itself (``Decoder.best``).
        banned: tokens never chosen.
        banned_phrases: sequences of tokens that never occur.
        required: for each source the phrases that must occur; the beam should be wider than they
            have tokens.
        constraint: further rules, made for this batch. What it or ``banned`` forbids is not
            required all the same.
        lengths: steps of each source; only the coverage penalty needs them.
        seed: of draws; None draws from torch's own generator.
        device: where the model is.

    Raises:
        UsageError: the settings do not fit the model or each other.
        ValueError: the arguments contradict each other.
    """
    if not limits:
        return []
    _check(model, settings, end, limits, prefixes, banned, required, lengths)
    job = SearchRequest(
        settings,
        end,
        limits,
        [prefix or () for prefix in prefixes or ()],
        required or (),
    )
    first = torch.full((len(limits),), start, device=device or torch.device("cpu"))
    walk = SearchState(model, state, job, first, lengths)
    walk.ban(banned, banned_phrases, constraint)
    book = BackPointers(settings.length_penalty)
    _draw(walk, job, book, seed) if settings.sample else _Beams(walk, job, book).run()
    return _answers(book, job)


def _check(
    model: Decoder,
    settings: Search,
    end: int,
    limits: Sequence[int],
    prefixes: Sequence[Tokens | None] | None,
    banned: Tokens,
    required: Sequence[Sequence[Tokens]] | None,
    lengths: Sequence[int] | None,
) -> None:
    for name, values in (
        ("prefixes", prefixes),
        ("required", required),
        ("lengths", lengths),
    ):
        if values is not None and len(values) != len(limits):
            raise ValueError(
                f"expected {name} of {len(limits)} sources, got {len(values)}"
            )
    if min(limits) < 1:
        raise ValueError(f"expected limits of at least one token, got {min(limits)}")
    if end in banned or any(end in (prefix or ()) for prefix in prefixes or ()):
        raise ValueError(
            "the end mark is banned or in a prefix; leave it out, or set min_length"
        )
    phrases = [phrase for of_source in required or () for phrase in of_source]
    if phrases and (settings.sample or settings.diverse_groups > 1):
        raise UsageError(
            "required phrases need one beam; set sample=false and diverse_groups=1"
        )
    for phrase in phrases:
        if not phrase or not {end, *banned}.isdisjoint(phrase):
            raise UsageError(
                f"the required phrase {phrase} is empty or holds a banned token"
            )
    if settings.coverage_penalty:
        if not hasattr(model, "step_attending") or not getattr(model, "attends", True):
            raise UsageError(
                "coverage_penalty needs a model that attends to its source, and this one does "
                "not; set coverage_penalty=0"
            )
        if lengths is None:
            raise ValueError("coverage_penalty needs the lengths of the sources")


class _Beams:
    """A beam of each source, and what has ended of it."""

    def __init__(
        self, walk: SearchState, job: SearchRequest, book: BackPointers
    ) -> None:
        self.walk = walk
        self.job = job
        self.book = book
        groups = job.settings.diverse_groups
        self.sources = np.arange(len(job.limits))  # of the batch, while they are in it
        self.rows = self.sources  # what the book calls the rows (B,)
        self.total = np.zeros((len(job.limits), 1))  # log-probability (S, W)
        self.tally = np.zeros((len(job.limits), groups), np.int64)  # how many ended
        self.best = np.full(
            (len(job.limits), groups, job.quota), OUT
        )  # scores of those

    def run(self) -> None:
        """Search until every source is done."""
        job = self.job
        beam = self.job.settings.beam
        while len(self.sources):
            step = self.walk.step + 1
            shape = self.total.shape
            forced = job.forced(self.sources, step)
            each = None if forced is None else forced.repeat(shape[1])
            found = self.walk.candidates(beam + 1, each)
            values, tokens = (
                part.cpu().numpy().reshape(*shape, -1) for part in found[:2]
            )
            pool = expand(self.total, values, tokens, beam)
            on, ended = self._select(pool)
            for at, source in enumerate(self.sources.tolist() if job.required else ()):
                if source in job.required and (forced is None or forced[at] < 0):
                    start = at * shape[1]
                    rows = slice(start, start + shape[1])
                    assert found.scores is not None
                    logits, norm = (part[rows] for part in found.scores)
                    on[at], ended[at] = job.required[source].select(
                        pool[at], self.total[at], logits, norm
                    )
                    on[at] = on[at, arrange(on["parent"][at : at + 1])[0]]
            self._end(ended, step)
            self._go_on(on, step)

    def _select(self, pool: Steps) -> tuple[Steps, Steps]:
        """Choose group by group, out of (S, W, k); what goes on and what ends, (S, beam) each."""
        job = self.job
        penalty = 0.0
        found: list[tuple[Steps, Steps]] = []
        for first in range(0, job.settings.beam, job.width):
            rows = (
                slice(0, 1) if pool.shape[1] == 1 else slice(first, first + job.width)
            )
            if (
                found
            ):  # Hamming diversity, Vijayakumar et al. 2018, equation 5 and section 4.1
                taken = np.concatenate([on["token"] for on, _ in found], 1)
                times = (pool["token"][:, rows, :, None] == taken[:, None, None]).sum(
                    -1
                )
                penalty = job.settings.diversity_penalty * times
            on, ended = select(pool[:, rows], job.width, job.end, penalty)
            order = arrange(on["parent"] - rows.start)
            found.append((np.take_along_axis(on, order, 1), ended))
        on, ended = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
        return on, ended

    def _end(self, ended: Steps, step: int) -> None:
        """Note what has ended."""
        at, place = np.isfinite(ended["total"]).nonzero()
        if not len(at):
            return
        row = at * self.total.shape[1] + ended["parent"][at, place]
        group = place // self.job.width
        scores = np.full(ended["total"].shape, OUT)
        scores[at, place] = self.book.close(
            source=self.sources[at],
            group=group,
            kind=ENDED,
            at=step - 1,
            row=self.rows[row],
            total=ended["total"][at, place],
            last=ended["value"][at, place],
            coverage=self.walk.coverage(row),
        )
        known = np.concatenate([self.best, scores.reshape(*self.tally.shape, -1)], 2)
        self.best = -np.sort(-known, axis=2)[:, :, : self.job.quota]
        np.add.at(self.tally, (at, group), 1)

    def _go_on(self, on: Steps, step: int) -> None:
        """Take the step, and let the sources leave that are done."""
        job = self.job
        dead = ~np.isfinite(on["total"])
        if (
            dead.any()
        ):  # too few candidates: rows that cannot win copy the best of their source
            on["total"][dead] = OUT
            best = on["total"].argmax(1)[:, None]
            for name in ("parent", "token"):
                part = on[name]
                part[dead] = np.broadcast_to(
                    np.take_along_axis(part, best, 1), dead.shape
                )[dead]
        base = np.arange(len(self.sources))[:, None] * self.total.shape[1]
        rows = base + on["parent"]
        self.book.add(self.rows[rows].ravel(), on["token"].ravel(), on["value"].ravel())
        full = job.limits[self.sources] <= step
        # nothing may follow and nothing ended: what stood before this step is all there is
        lost = dead.all(1) & (self.tally == 0).all(1)
        if lost.any():
            before = base + np.arange(self.total.shape[1])
            self._cut(lost, before, self.total, step - 1)
        for at, source in enumerate(self.sources.tolist() if job.required else ()):
            if source in job.required:
                job.required[source].follow(on["parent"][at], on["token"][at])
        if full.any():
            self._cut(full & ~lost, rows, on["total"], step)
        hope = (
            on["total"].reshape(*self.tally.shape, -1).max(2)
            / job.penalty[self.sources]
        )
        done = (self.tally >= job.enough[self.sources]) | (self.best[:, :, -1] >= hope)
        order = np.flatnonzero(~(full | done.all(1)))
        self.rows = np.arange(rows.size).reshape(rows.shape)[order].ravel()
        self.sources = self.sources[order]
        self.total = on["total"][order]
        self.tally = self.tally[order]
        self.best = self.best[order]
        if len(order):
            self.walk.follow(rows[order].ravel(), on["token"][order].ravel())

    def _cut(self, which: Bools, rows: Ints, total: Floats, at: int) -> None:
        """Note the rows (S, W) of some sources as cut off after ``at`` tokens."""
        source, place = (which[:, None] & (total > OUT)).nonzero()
        kinds = np.full(total.shape, CUT)
        for number in np.flatnonzero(which).tolist():
            required = self.job.required.get(int(self.sources[number]))
            if required is not None and len(required.rows) == total.shape[1]:
                kinds[number][~required.complete()] = LACKING
        row = rows[source, place]
        self.book.close(
            source=self.sources[source],
            group=place // self.job.width,
            kind=kinds[source, place],
            at=at,
            row=source * total.shape[1] + place
            if at == self.walk.step
            else self.rows[row],
            total=total[source, place],
            coverage=self.walk.coverage(row),
        )


def _draw(
    walk: SearchState, job: SearchRequest, book: BackPointers, seed: int | None
) -> None:
    """Draw ``n_best`` answers to each source; each row leaves when its answer ends."""
    settings = job.settings
    device = walk.device
    generator = (
        None if seed is None else torch.Generator(device=device).manual_seed(seed)
    )
    sources = np.arange(len(job.limits)).repeat(settings.n_best)
    parents = sources  # the row of the model's batch that each row goes on from
    # what the book calls those rows
    names = sources
    total = np.zeros(len(sources))
    said: torch.Tensor | None = None
    while len(sources):
        logits = walk.read()
        order = torch.from_numpy(parents).to(device)
        own = logits.double().log_softmax(1)[order]
        allowed = walk.allowed()
        if allowed is not None:
            logits = logits.masked_fill(~allowed, OUT)
        logits = logits.index_fill(1, walk.banned(), OUT)[order]
        stuck = ~logits.amax(1).isfinite().cpu().numpy()
        logits[torch.from_numpy(stuck).to(device)] = 0.0
        if said is None:
            said = torch.zeros_like(logits, dtype=torch.bool)
        chosen = choose(logits, settings.sampling, said, generator)
        forced = job.forced(sources, walk.step)
        if forced is not None:
            must = torch.from_numpy(forced).to(device)
            chosen = torch.where(must < 0, chosen, must)
            stuck &= forced < 0
        values = own.gather(1, chosen[:, None])[:, 0].cpu().numpy()
        said.scatter_(1, chosen[:, None], True)
        tokens = chosen.cpu().numpy()
        ended = (tokens == job.end) & ~stuck
        full = job.limits[sources] <= walk.step
        book.add(names, tokens, values)
        total = np.where(stuck, total, total + values)
        gone = stuck | ended | full
        written = ~(stuck | ended)
        book.close(
            source=sources[gone],
            kind=np.where(ended, ENDED, CUT)[gone],
            at=(walk.step - 1 + written)[gone],
            row=np.where(written, np.arange(len(names)), names)[gone],
            total=total[gone],
            last=values[gone],
            coverage=walk.coverage(parents[gone]),
        )
        left = np.flatnonzero(~gone)
        if len(left):
            walk.follow(parents[left], tokens[left])
        sources = sources[left]
        total = total[left]
        names = left
        parents = np.arange(len(left))
        said = said[torch.from_numpy(left).to(device)]


def _answers(book: BackPointers, job: SearchRequest) -> list[list[Hypothesis]]:
    """Return the best of what was noted, source by source."""
    settings = job.settings
    records = book.sorted()
    grouped = settings.diverse_groups > 1 and not settings.sample
    if not grouped:
        place = np.arange(len(records)) - np.searchsorted(
            records["source"], records["source"]
        )
        records = records[place < settings.n_best]
    tokens, values = book.trace(records)
    answers: list[list[Hypothesis]] = [[] for _ in job.limits]
    groups: list[list[int]] = [[] for _ in job.limits]
    for record, written, each in zip(
        records, tokens.tolist(), values.tolist(), strict=True
    ):
        at = int(record["at"])
        finished = bool(record["kind"] == ENDED)
        log_probabilities = each[:at] + [float(record["last"])] * finished
        score = float(record["score"])
        total = float(record["total"])
        answer = Hypothesis(written[:at], score, total, finished, log_probabilities)
        answers[record["source"]].append(answer)
        groups[record["source"]].append(int(record["group"]))
    if not grouped:
        return answers
    pairs = zip(answers, groups, strict=True)
    return [_in_turn(found, group, settings.n_best) for found, group in pairs]


def _in_turn(
    found: list[Hypothesis], groups: list[int], n_best: int
) -> list[Hypothesis]:
    """Return the best of each group, then the second best ..., each once, ``n_best`` in order."""
    turns = [groups[:place].count(group) for place, group in enumerate(groups)]
    order = sorted(range(len(found)), key=lambda place: (turns[place], place))
    distinct: dict[tuple[int, ...], int] = {}
    for place in order:
        distinct.setdefault(tuple(found[place].tokens), place)
    return [found[place] for place in sorted(list(distinct.values())[:n_best])]
