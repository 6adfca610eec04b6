"""A search under way: what is asked of each source, and the model with all that follows its rows.

Shapes: S sources in the batch, W rows of each, B = S x W rows in the order of the sources, V tokens
of the vocabulary, k candidates of a row, M steps of a source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from unrolled.decoding.beams import OUT, Floats, Ints, length_penalty
from unrolled.decoding.constraints import BannedPhrases, Constraint
from unrolled.decoding.lexical import Phrases, Required
from unrolled.decoding.settings import Search
from unrolled.ops.search import MOST, top_log_probabilities

_TINY = 1e-30  # a position that nobody has looked at: its logarithm stays finite


class Decoder(Protocol):
    """What a search asks of a model. With a coverage penalty also ``step_attending``.

    ``step_attending(tokens, state)`` returns logits, state and where each row looks in its source
    (B, M): at least 0, exactly 0 at padding, 1 in sum. A model that has ``best(tokens, state, k,
    banned)`` is asked for no other scores than those that a search without further rules looks at:
    the k largest log-probabilities of each row (B, k), their tokens (B, k), and the state.
    """

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token a row (B,); return scores (B, V), which are written to, and the state.

        The state has ``reorder(rows, keep=False)``, see ``unrolled.nn.state.State``.
        """
        ...


class Candidates(NamedTuple):
    """What may follow each row.

    Args:
        values: log-probabilities by the model (B, k), -inf where nothing is left.
        tokens: theirs (B, k).
        scores: those of all tokens (B, V), -inf where ruled out, and what to take off them (B, 1)
            for log-probabilities; None where the model chose by itself.
    """

    values: Tensor
    tokens: Tensor
    scores: tuple[Tensor, Tensor] | None = None


class SearchRequest:
    """What is asked for, source by source.

    Args:
        settings, end: see ``unrolled.decoding.search``.
        limits: the most tokens of an answer (S,).
        prefixes: what answers begin with; empty for those that are free.
        phrases: what each source requires; empty where none does.
    """

    def __init__(
        self,
        settings: Search,
        end: int,
        limits: Sequence[int],
        prefixes: Sequence[Sequence[int]],
        phrases: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        self.settings = settings
        self.end = end
        self.limits = np.array(limits)
        longest = max(map(len, prefixes), default=0)
        rows = [[*prefix, *[-1] * (longest - len(prefix))] for prefix in prefixes]
        self.prefixes: Ints = np.array(rows, np.int64).reshape(len(rows), longest)
        self.required = {
            source: Required(Phrases(of_source), settings.beam, end)
            for source, of_source in enumerate(phrases)
            if of_source
        }
        groups = settings.diverse_groups
        self.width = settings.beam // groups  # rows of a group
        self.quota = -(-settings.n_best // groups)  # answers that a group owes
        self.enough = np.full(
            (len(limits), 1), self._enough(self.width)
        )  # ended hypotheses
        for source, required in self.required.items():
            self.enough[source] = self._enough(required.top)
            needed = (
                required.phrases.size + 1 + (len(prefixes[source]) if prefixes else 0)
            )
            self.limits[source] = max(self.limits[source], needed)
        self.penalty = length_penalty(self.limits, settings.length_penalty)[:, None]

    def _enough(self, width: int) -> float:
        """Return at how many ended hypotheses to stop, where ``width`` rows may end at once."""
        patience = self.settings.patience
        if patience is None:
            return 1 if self.settings.beam == 1 else math.inf  # greedy goes one way
        return max(self.quota, round(width * patience))

    def forced(self, sources: Ints, step: int) -> Ints | None:
        """Return the token that each source must write now (S,), -1 where it is free."""
        if step > self.prefixes.shape[1]:
            return None
        forced = self.prefixes[sources, step - 1]
        return forced if (forced >= 0).any() else None


class SearchState:
    """The model on its way: its state, what rules over it and where it has looked, row by row.

    Args:
        model, state: see ``unrolled.decoding.search``.
        job: what is asked for.
        tokens: the token that each row reads first (S,).
        lengths: steps of each source; only for the coverage penalty.
    """

    def __init__(
        self,
        model: Any,
        state: Any,
        job: SearchRequest,
        tokens: Tensor,
        lengths: Sequence[int] | None,
    ) -> None:
        self.model = model
        self.state = state
        self.job = job
        self.tokens = tokens
        self.device = tokens.device
        self.step = 0
        self.lengths = torch.tensor(lengths or [], device=self.device)
        self.seen: Tensor | None = None  # attention so far (B, M)

    def ban(
        self,
        tokens: Sequence[int],
        phrases: Sequence[Sequence[int]],
        constraint: Constraint | None,
    ) -> None:
        """Set what may not be written."""
        single = sorted(
            {*tokens, *(phrase[0] for phrase in phrases if len(phrase) == 1)}
        )
        self.never = torch.tensor(single, dtype=torch.int64, device=self.device)
        early = sorted(
            {*single, self.job.end}
        )  # twice, a token would count twice in the sum
        self.early = torch.tensor(early, device=self.device)
        self.phrases = [phrase for phrase in phrases if len(phrase) > 1]
        self.fed = constraint is not None  # the first rule says what is read
        self.rules: list[Constraint] = [] if constraint is None else [constraint]
        more = self.phrases or self.rules or self.job.required
        alone = not more and not self.job.settings.coverage_penalty
        self.best = getattr(self.model, "best", None) if alone else None

    def read(self) -> Tensor:
        """Read a token a row; return the scores of the next (B, V)."""
        self.step += 1
        if not self.job.settings.coverage_penalty:
            logits, self.state = self.model.step(self.tokens, self.state)
        else:
            logits, self.state, looks = self.model.step_attending(
                self.tokens, self.state
            )
            if self.seen is None:  # what is no part of the source counts as seen
                steps = torch.arange(looks.shape[1], device=self.device)
                self.seen = (steps >= self.lengths[:, None]).to(looks.dtype)
            # the longest sources may have left
            self.seen = self.seen[:, : looks.shape[1]] + looks
        if self.step == 1 and self.phrases:
            rows, vocabulary = logits.shape
            self.rules.append(
                BannedPhrases(self.phrases, vocabulary, rows, self.device)
            )
        return logits

    def coverage(self, rows: Ints) -> Floats | float:
        """Return what ``rows`` (N,) have ignored: Wu et al. 2016, equation 14; at most 0."""
        if self.seen is None:
            return 0.0
        seen = (
            self.seen[torch.from_numpy(rows).to(self.device)].double().clamp(_TINY, 1)
        )
        return self.job.settings.coverage_penalty * seen.log().sum(1).cpu().numpy()

    def banned(self) -> Tensor:
        """Return the tokens that no row may take now (N,)."""
        return self.early if self.step <= self.job.settings.min_length else self.never

    def allowed(self) -> Tensor | None:
        """Return what each row may take now, bool (B, V); None where no rule objects."""
        allowed: Tensor | None = None
        for mask in [rule.allowed() for rule in self.rules]:
            if mask is not None:
                allowed = mask if allowed is None else allowed & mask
        return allowed

    def follow(self, rows: Ints, tokens: Ints) -> None:
        """Go on with row ``rows[i]`` by ``tokens[i]``."""
        before = self.tokens.shape[0]
        self.tokens = torch.from_numpy(tokens).to(self.device)
        order = torch.from_numpy(rows).to(self.device)
        if len(rows) != before or (rows != np.arange(before)).any():
            self.state = self.state.reorder(order, keep=False)
            self.seen = None if self.seen is None else self.seen[order]
        self.rules = [rule.advance(order, self.tokens) for rule in self.rules]
        if self.fed:
            self.tokens = self.rules[0].feed(self.tokens)

    def candidates(self, k: int, forced: Ints | None) -> Candidates:
        """Read a token a row; return the best that may follow.

        Args:
            k: how many of each row.
            forced: the token that each row must take (B,), -1 where it is free.
        """
        if self.best is not None and forced is None and k <= MOST:
            self.step += 1
            values, tokens, self.state = self.best(
                self.tokens, self.state, k, self.banned()
            )
            return Candidates(values.nan_to_num_(OUT, OUT, OUT), tokens)
        logits = self.read()
        must = None
        banned = self.banned()
        allowed = self.allowed()
        if forced is not None:
            must = torch.from_numpy(forced).to(self.device)[:, None]
            given = logits.gather(1, must.clamp(min=0))
        if allowed is not None:
            whole = _norm(logits)
            untouched = allowed.all(1, keepdim=True)
            logits = logits.masked_fill(~allowed, OUT)
        if banned.numel():
            hidden = logits[:, banned]
            logits.index_fill_(1, banned, OUT)
        values, tokens = top_log_probabilities(logits, min(k, logits.shape[1]))
        # the sum over what is left comes with the best, so a few banned tokens cost no other pass
        best = logits.gather(1, tokens)
        # no score, or one without bound
        norm = best[:, :1] - values[:, :1]
        dead = values.isnan()
        values = values.masked_fill(dead, OUT)
        if banned.numel():
            norm = _norm(torch.cat([norm.nan_to_num(OUT), hidden], 1))
            values = torch.where(dead, values, best - norm)
        if allowed is not None:  # what a row gets must not depend on the rows beside it
            norm = torch.where(untouched, norm, whole)
            values = torch.where(untouched | dead, values, best - norm)
        if must is not None:
            first = torch.arange(values.shape[1], device=self.device) == 0
            values = torch.where(
                must < 0, values, torch.where(first, given - norm, OUT)
            )
            tokens = torch.where(must < 0, tokens, must)
        return Candidates(values, tokens, (logits, norm))


def _norm(logits: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials (B, 1).

    ``torch.logsumexp`` rounds a row by where it stands in the batch, ``log_softmax`` does not.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    largest, where = wide.max(1, keepdim=True)
    return largest - wide.log_softmax(1).gather(1, where)
