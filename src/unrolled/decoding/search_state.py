"""A search under way: the model, and all that follows its rows.

Shapes: S sources in the batch, W rows of each, B = S x W rows in the order of the sources, N rows
that go on, V tokens of the vocabulary, k candidates of a row, M steps of a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from unrolled.decoding.beams import OUT, Bools, Floats, Ints
from unrolled.decoding.constraints import BannedPhrases, Constraint
from unrolled.decoding.request import SearchRequest
from unrolled.ops.search import MOST, top_log_probabilities

_TINY = 1e-30  # attention to a position that had none: its logarithm stays finite


class Decoder(Protocol):
    """What a search asks of a model. With a coverage penalty also ``step_attending``.

    ``step_attending(tokens, state)`` returns logits, state and where each row looks in its source
    (B, M): at least 0, exactly 0 at padding, 1 in sum. A model that has ``best(tokens, state, k,
    banned)`` is asked for no other scores than those that a search without further rules looks at:
    the k largest log-probabilities of each row (B, k), their tokens (B, k), and the state.
    """

    def step(
        self,
        tokens: Tensor,
        state: Any,
    ) -> tuple[Tensor, Any]:
        """Read one token a row (B,); return scores (B, V), which are written to, and the state.

        The state has ``reorder(rows, keep=False)``, see ``unrolled.nn.state.State``.
        """
        ...


class Candidates(NamedTuple):
    """What may follow each row.

    Args:
        log_probs: log-probabilities by the model (B, k), best first, -inf where nothing is left.
        tokens: theirs (B, k).
        logits: scores of all tokens (B, V), -inf where ruled out; None where the model chose.
        norms: what to take off ``logits`` for log-probabilities (B, 1); None beside None.
    """

    log_probs: Tensor
    tokens: Tensor
    logits: Tensor | None = None
    norms: Tensor | None = None


class SearchState:
    """The model on its way: its state, what rules over it and where it has looked, row by row.

    Everything here has the same B rows in the same order: ``tokens``, the rows of ``state`` and of
    ``rules``, and ``attention_sums``. ``follow`` alone changes them, and all of them at once.

    Args:
        model, state, constraint: see ``unrolled.decoding.search``.
        request: what is asked for.
        tokens: the token that each row reads first (S,).
        lengths: steps of each source; only for the coverage penalty.
    """

    def __init__(
        self,
        model: Any,
        state: Any,
        request: SearchRequest,
        tokens: Tensor,
        lengths: Sequence[int] | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.model = model
        self.state = state
        self.request = request
        self.tokens = tokens
        self.device = tokens.device
        self.step = 0  # the one whose scores were read last, from 1
        self.lengths = torch.tensor(lengths or (), device=self.device)
        self.attention_sums: Tensor | None = None  # over the steps so far (B, M)
        # as a set: a token named twice would count twice in a sum over the banned ones
        never = set(request.banned)
        self.banned_phrases: list[Sequence[int]] = []
        for phrase in request.banned_phrases:
            if len(phrase) > 1:
                self.banned_phrases.append(phrase)
            else:
                never.update(phrase)
        self._never = self._sorted(never)
        self._never_nor_end = self._sorted(never | {request.end})
        # the constraint stands first: of all rules it alone may change what is read
        self.has_constraint = constraint is not None
        self.rules: list[Constraint] = []
        if constraint is not None:
            self.rules.append(constraint)
        # a rule has to see all scores, coverage the attention: then the model may not choose
        rules = self.banned_phrases or self.rules or request.required
        is_free = not rules and not request.settings.coverage_penalty
        self.best = getattr(model, "best", None) if is_free else None

    def _sorted(self, tokens: set[int]) -> Tensor:
        ordered = sorted(tokens)
        return torch.tensor(ordered, dtype=torch.int64, device=self.device)

    def on_device(self, array: Ints | Bools) -> Tensor:
        """Return an array of the host where the model is."""
        return torch.from_numpy(array).to(self.device)

    def read(self) -> Tensor:
        """Read a token a row; return the scores of the next (B, V)."""
        self.step += 1
        if self.request.settings.coverage_penalty:
            logits, self.state, attention_weights = self.model.step_attending(
                self.tokens, self.state
            )
            self._add_attention(attention_weights)
        else:
            logits, self.state = self.model.step(self.tokens, self.state)
        if self.step == 1 and self.banned_phrases:  # the vocabulary is known from here
            rows, vocabulary = logits.shape
            rule = BannedPhrases(self.banned_phrases, vocabulary, rows, self.device)
            self.rules.append(rule)
        return logits

    def _add_attention(self, attention_weights: Tensor) -> None:
        """Add where each row looked in its source (B, M)."""
        steps = attention_weights.shape[1]
        sums = self.attention_sums
        if sums is None:
            # padding counts as seen from the beginning, and so costs nothing
            positions = torch.arange(steps, device=self.device)
            is_padding = positions >= self.lengths[:, None]
            sums = is_padding.to(attention_weights.dtype)
        # M shrinks when the longest sources have left
        self.attention_sums = sums[:, :steps] + attention_weights

    def coverage(self, rows: Ints) -> Floats | float:
        """Return what ``rows`` (N,) have ignored: Wu et al. 2016, equation 14; at most 0."""
        if self.attention_sums is None:
            return 0.0
        sums = self.attention_sums[self.on_device(rows)]
        seen = sums.double().clamp(_TINY, 1)
        ignored = seen.log().sum(1).cpu().numpy()
        return self.request.settings.coverage_penalty * ignored

    def banned(self) -> Tensor:
        """Return the tokens that no row may take now, (N,) in order."""
        if self.step <= self.request.settings.min_length:
            return self._never_nor_end
        return self._never

    def allowed(self) -> Tensor | None:
        """Return what each row may take now, bool (B, V); None where no rule objects."""
        allowed: Tensor | None = None
        for mask in [rule.allowed() for rule in self.rules]:
            if mask is not None:
                allowed = mask if allowed is None else allowed & mask
        return allowed

    def follow(self, rows: Ints, tokens: Ints) -> None:
        """Go on with row ``rows[i]`` by ``tokens[i]``, (N,) each: N is the next B."""
        # a greedy search mostly leaves all rows where they are, and then nothing is copied
        stayed = np.array_equal(rows, np.arange(len(self.tokens)))
        self.tokens = self.on_device(tokens)
        order = self.on_device(rows)
        if not stayed:
            self.state = self.state.reorder(order, keep=False)
            if self.attention_sums is not None:
                self.attention_sums = self.attention_sums[order]
        self.rules = [rule.advance(order, self.tokens) for rule in self.rules]
        if self.has_constraint:
            self.tokens = self.rules[0].feed(self.tokens)

    def candidates(
        self,
        k: int,
        forced: Ints | None = None,
    ) -> Candidates:
        """Read a token a row; return the best that may follow.

        Args:
            k: how many of each row.
            forced: the token that each row must take (B,), -1 where it is free.
        """
        if self.best is not None and forced is None and k <= MOST:
            self.step += 1
            log_probs, tokens, self.state = self.best(
                self.tokens, self.state, k, self.banned()
            )
            return Candidates(log_probs.nan_to_num_(OUT, OUT, OUT), tokens)
        logits = self.read()
        if forced is None:
            return self._best_allowed(logits, k)
        # a forced token may be banned otherwise: its score is taken before any is ruled out
        forced_tokens = self.on_device(forced)[:, None]
        forced_logits = logits.gather(1, forced_tokens.clamp(min=0))
        candidates = self._best_allowed(logits, k)
        assert candidates.norms is not None
        forced_log_probs = forced_logits - candidates.norms
        return _forced(candidates, forced_tokens, forced_log_probs)

    def _best_allowed(self, logits: Tensor, k: int) -> Candidates:
        """Return the best of scores (B, V), which are written to, that nothing rules out."""
        banned = self.banned()
        allowed = self.allowed()
        if allowed is not None:
            whole_norms = _norms(logits)
            is_free = allowed.all(1, keepdim=True)
            logits = logits.masked_fill(~allowed, OUT)
        if banned.numel():
            banned_logits = logits[:, banned]
            logits.index_fill_(1, banned, OUT)
        k = min(k, logits.shape[1])
        log_probs, tokens = top_log_probabilities(logits, k)
        # Log-probabilities are over all tokens, also those ruled out. The sum over what is left
        # comes with the best, so a few banned tokens cost no other pass over the vocabulary.
        best = logits.gather(1, tokens)
        norms = best[:, :1] - log_probs[:, :1]
        is_dead = log_probs.isnan()  # no score, or one without bound
        log_probs = log_probs.masked_fill(is_dead, OUT)
        if banned.numel():
            of_the_rest = norms.nan_to_num(OUT)
            norms = _norms(torch.cat([of_the_rest, banned_logits], 1))
            log_probs = torch.where(is_dead, log_probs, best - norms)
        if allowed is not None:
            # A row that no rule touches keeps the numbers from above: what it gets must not depend
            # on whether another row's rule objects.
            norms = torch.where(is_free, norms, whole_norms)
            log_probs = torch.where(is_free | is_dead, log_probs, best - norms)
        return Candidates(log_probs, tokens, logits, norms)


def _forced(
    candidates: Candidates, forced_tokens: Tensor, forced_log_probs: Tensor
) -> Candidates:
    """Return the candidates where some rows have one: ``forced_tokens`` (B, 1), -1 is free.

    That one stands first, and the other k - 1 of the row have -inf.
    """
    log_probs = candidates.log_probs
    is_free = forced_tokens < 0
    ranks = torch.arange(log_probs.shape[1], device=log_probs.device)
    alone = torch.where(ranks == 0, forced_log_probs, OUT)
    return candidates._replace(
        log_probs=torch.where(is_free, log_probs, alone),
        tokens=torch.where(is_free, candidates.tokens, forced_tokens),
    )


def _norms(logits: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials (B, 1).

    ``torch.logsumexp`` rounds a row by where it stands in the batch, ``log_softmax`` does not.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    largest, where = wide.max(1, keepdim=True)
    return largest - wide.log_softmax(1).gather(1, where)
