"""Answers that are drawn token by token: no row knows of another, and leaves when it has ended.

Shapes: N rows that are still being written, V tokens of the vocabulary, B rows that the model read.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unrolled.decoding.back_pointers import CUT, ENDED, BackPointers
from unrolled.decoding.beams import OUT, Bools, Floats, Ints
from unrolled.decoding.request import SearchRequest
from unrolled.decoding.sampling import choose
from unrolled.decoding.search_state import SearchState


class Draws:
    """``n_best`` draws of each source, side by side.

    All arrays have an entry a row that is still being written (N,): its ``sources`` number, its
    log-probability so far (``totals``), the row of the model's batch that it goes on from
    (``parents``), and its row in the last step of the back pointers (``recorded_rows``). Only
    before the first step do several rows go on from one of the model's, which has read a source
    once; after it they are the model's own, and ``parents`` counts up.

    Args:
        state: the model before the first step, a row a source.
        request: what is asked for.
        back_pointers: where the steps and the answers are noted.
        seed: of the draws; None draws from torch's own generator.
    """

    def __init__(
        self,
        state: SearchState,
        request: SearchRequest,
        back_pointers: BackPointers,
        seed: int | None,
    ) -> None:
        self.state = state
        self.request = request
        self.back_pointers = back_pointers
        self.generator: torch.Generator | None = None
        if seed is not None:
            self.generator = torch.Generator(device=state.device)
            self.generator.manual_seed(seed)
        sources = np.arange(len(request.limits))
        self.sources = sources.repeat(request.settings.n_best)
        self.parents = self.sources
        self.recorded_rows = self.sources
        self.totals = np.zeros(len(self.sources))
        self.said: Tensor | None = None  # tokens that each row has written, bool (N, V)

    def run(self) -> None:
        """Draw until every row has ended."""
        while len(self.sources):
            tokens, log_probs, stuck = self._draw()
            self._go_on(tokens, log_probs, stuck)

    def _draw(self) -> tuple[Ints, Floats, Bools]:
        """Return each row's token, its log-probability, and whether the row is stuck, (N,) each.

        A row is stuck that may take no token; what stands for it here is not looked at.
        """
        state = self.state
        logits = state.read()
        parents = state.on_device(self.parents)
        log_probs = logits.double().log_softmax(1)[parents]
        allowed = state.allowed()
        if allowed is not None:
            logits = logits.masked_fill(~allowed, OUT)
        logits = logits.index_fill(1, state.banned(), OUT)
        logits = logits[parents]
        best = logits.amax(1)
        stuck = ~best.isfinite().cpu().numpy()
        # the draw is from all rows at once, and would fail at one without a probability
        logits[state.on_device(stuck)] = 0.0
        if self.said is None:
            self.said = torch.zeros_like(logits, dtype=torch.bool)
        sampling = self.request.settings.sampling
        chosen = choose(logits, sampling, self.said, self.generator)
        forced = self.request.forced(self.sources, state.step)
        if forced is not None:
            # drawn all the same, so that a prefix changes no other row's draws
            forced_tokens = state.on_device(forced)
            chosen = torch.where(forced_tokens < 0, chosen, forced_tokens)
            stuck &= forced < 0
        column = chosen[:, None]
        self.said.scatter_(1, column, True)
        log_probs = log_probs.gather(1, column)[:, 0]
        return chosen.cpu().numpy(), log_probs.cpu().numpy(), stuck

    def _go_on(
        self,
        tokens: Ints,
        log_probs: Floats,
        stuck: Bools,
    ) -> None:
        """Take the step (N,); rows that end, reach their limit or are stuck leave."""
        step = self.state.step
        ended = (tokens == self.request.end) & ~stuck
        full = self.request.limits[self.sources] <= step
        self.back_pointers.add(self.recorded_rows, tokens, log_probs)
        totals = self.totals + log_probs
        totals = np.where(stuck, self.totals, totals)
        gone = stuck | ended | full
        # a row that wrote no token now is one of the step before
        written = ~(stuck | ended)
        own_rows = np.arange(len(tokens))
        rows = np.where(written, own_rows, self.recorded_rows)
        kinds = np.where(ended, ENDED, CUT)
        self.back_pointers.close(
            source=self.sources[gone],
            kind=kinds[gone],
            length=(step - 1 + written)[gone],
            row=rows[gone],
            total=totals[gone],
            end_log_prob=log_probs[gone],
            coverage=self.state.coverage(self.parents[gone]),
        )
        staying = np.flatnonzero(~gone)
        if len(staying):
            parents = self.parents[staying]
            self.state.follow(parents, tokens[staying])
        self.sources = self.sources[staying]
        self.totals = totals[staying]
        self.recorded_rows = staying
        self.parents = np.arange(len(staying))
        assert self.said is not None
        self.said = self.said[self.state.on_device(staying)]
