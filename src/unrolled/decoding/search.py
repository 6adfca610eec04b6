"""Writing an answer to each source: greedy, beam and diverse beam search, and draws.

Log-probabilities are the model's own: what may not be written is passed over, and the rest is not
made likelier. A source leaves the batch as soon as it is done: when ``beam x patience`` hypotheses
have ended (Kasai et al. 2022), or when ``n_best`` have ended whose scores no row can reach any
more, which is exact: a row of log-probability c ends with at most c over the penalty of the longest
answer, since later tokens only lower c, the penalty grows with length, and coverage never adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from unrolled.core.errors import UsageError
from unrolled.decoding.back_pointers import ENDED, BackPointers
from unrolled.decoding.beam_search import BeamSearch
from unrolled.decoding.constraints import Constraint
from unrolled.decoding.draws import Draws
from unrolled.decoding.request import SearchRequest
from unrolled.decoding.search_state import Decoder, SearchState
from unrolled.decoding.settings import Search as Search

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
    _check_rules(settings, end, limits, prefixes, banned, required, lengths)
    _check_coverage(model, settings, lengths)
    request = SearchRequest(
        settings, end, limits, prefixes or (), required or (), banned, banned_phrases
    )
    first = torch.full((len(limits),), start, device=device or torch.device("cpu"))
    search_state = SearchState(model, state, request, first, lengths, constraint)
    back_pointers = BackPointers(settings.length_penalty)
    if settings.sample:
        Draws(search_state, request, back_pointers, seed).run()
    else:
        BeamSearch(search_state, request, back_pointers).run()
    return _answers(back_pointers, request)


def _check_rules(
    settings: Search,
    end: int,
    limits: Sequence[int],
    prefixes: Sequence[Tokens | None] | None,
    banned: Tokens,
    required: Sequence[Sequence[Tokens]] | None,
    lengths: Sequence[int] | None,
) -> None:
    """Raise where the arguments of a search contradict each other or the settings."""
    of_sources = {"prefixes": prefixes, "required": required, "lengths": lengths}
    for name, values in of_sources.items():
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
    phrases = list(itertools.chain.from_iterable(required or ()))
    if phrases and (settings.sample or settings.diverse_groups > 1):
        raise UsageError(
            "required phrases need one beam; set sample=false and diverse_groups=1"
        )
    for phrase in phrases:
        if not phrase or not {end, *banned}.isdisjoint(phrase):
            raise UsageError(
                f"the required phrase {phrase} is empty or holds a banned token"
            )


def _check_coverage(
    model: Decoder, settings: Search, lengths: Sequence[int] | None
) -> None:
    """Raise where a coverage penalty is asked for that cannot be computed."""
    if not settings.coverage_penalty:
        return
    if not hasattr(model, "step_attending") or not getattr(model, "attends", True):
        raise UsageError(
            "coverage_penalty needs a model that attends to its source, and this one does "
            "not; set coverage_penalty=0"
        )
    if lengths is None:
        raise ValueError("coverage_penalty needs the lengths of the sources")


def _answers(
    back_pointers: BackPointers, request: SearchRequest
) -> list[list[Hypothesis]]:
    """Return the best of what was noted, source by source."""
    settings = request.settings
    records = back_pointers.sorted()
    is_grouped = settings.diverse_groups > 1 and not settings.sample
    if not is_grouped:
        # records stand by source, best first: how many of its source stand before each
        first_of_source = np.searchsorted(records["source"], records["source"])
        ranks = np.arange(len(records)) - first_of_source
        records = records[ranks < settings.n_best]
    answers: list[list[Hypothesis]] = [[] for _ in request.limits]
    groups: list[list[int]] = [[] for _ in request.limits]
    tokens, log_probs = back_pointers.trace(records)
    lists = zip(records, tokens.tolist(), log_probs.tolist(), strict=True)
    for record, tokens_padded, log_probs_padded in lists:
        length = int(record["length"])
        is_finished = bool(record["kind"] == ENDED)
        of_tokens = log_probs_padded[:length]
        of_end = [float(record["end_log_prob"])] if is_finished else []
        answer = Hypothesis(
            tokens=tokens_padded[:length],
            score=float(record["score"]),
            log_probability=float(record["total"]),
            finished=is_finished,
            log_probabilities=of_tokens + of_end,
        )
        answers[record["source"]].append(answer)
        groups[record["source"]].append(int(record["group"]))
    if not is_grouped:
        return answers
    pairs = zip(answers, groups, strict=True)
    return [
        _in_turn(of_source, groups_of_source, settings.n_best)
        for of_source, groups_of_source in pairs
    ]


def _in_turn(
    answers: list[Hypothesis], groups: list[int], n_best: int
) -> list[Hypothesis]:
    """Return ``n_best`` answers in order, none twice: the best of each group, then the second ...

    Args:
        answers: of all groups, best first.
        groups: the group of each.
        n_best: how many.
    """
    ranks = [groups[:index].count(group) for index, group in enumerate(groups)]
    by_rank = sorted(range(len(answers)), key=lambda index: (ranks[index], index))
    distinct: dict[tuple[int, ...], int] = {}
    for index in by_rank:
        distinct.setdefault(tuple(answers[index].tokens), index)
    chosen = sorted(list(distinct.values())[:n_best])
    return [answers[index] for index in chosen]
