"""Greedy, beam and diverse beam search: what is kept of each source, step by step.

Shapes: S sources in the batch, W rows of each (1 before the first step, ``beam`` after it),
B = S x W rows, G groups of n rows, k candidates of a row, Q answers that a group owes.
"""

from __future__ import annotations

import numpy as np

from unrolled.decoding.back_pointers import CUT, ENDED, LACKING, BackPointers
from unrolled.decoding.beams import (
    OUT,
    Bools,
    Floats,
    Ints,
    Steps,
    arrange,
    expand,
    select,
)
from unrolled.decoding.lexical import RequiredPhrases
from unrolled.decoding.request import SearchRequest
from unrolled.decoding.search_state import Candidates, SearchState


class BeamSearch:
    """A beam of each source, and what has ended of it.

    The rows of a source stand side by side, those of a group too: row w of source s is row
    s x W + w of the model's batch, and of group w // n. When a source is done its rows leave all
    arrays at once, those here and the model's; ``sources`` says which are left.

    Args:
        state: the model before the first step, a row a source.
        request: what is asked for.
        back_pointers: where the steps and the hypotheses that ended are noted.
    """

    def __init__(
        self,
        state: SearchState,
        request: SearchRequest,
        back_pointers: BackPointers,
    ) -> None:
        self.state = state
        self.request = request
        self.back_pointers = back_pointers
        count = len(request.limits)
        groups = request.settings.diverse_groups
        # number of each source that is still in the batch (S,)
        self.sources = np.arange(count)
        # the row of each row (B,) in the last step of the back pointers, which was noted before
        # sources left the batch
        self.recorded_rows = self.sources
        # log-probability (S, W); -inf for a row that only fills up the beam
        self.totals = np.zeros((count, 1))
        # how many hypotheses have ended, and the best scores of these, best first
        self.ended_counts = np.zeros((count, groups), np.int64)
        shape = (count, groups, request.quota)
        self.best_scores = np.full(shape, OUT)

    def run(self) -> None:
        """Search until every source is done."""
        while len(self.sources):
            step = self.state.step + 1
            going, ended = self._choose(step)
            self._end(ended, step)
            self._go_on(going, step)

    def _choose(self, step: int) -> tuple[Steps, Steps]:
        """Read a token a row; return what goes on and what ends, (S, beam) each."""
        beam = self.request.settings.beam
        shape = self.totals.shape
        forced = self.request.forced(self.sources, step)
        forced_rows = None if forced is None else forced.repeat(shape[1])
        # one more than go on: the end mark may be among them
        candidates = self.state.candidates(beam + 1, forced_rows)
        log_probs = candidates.log_probs.cpu().numpy()
        tokens = candidates.tokens.cpu().numpy()
        pool = expand(
            self.totals,
            log_probs.reshape(*shape, -1),
            tokens.reshape(*shape, -1),
            beam,
        )
        going, ended = self._select(pool)
        for index, required in self._requiring():
            if forced is None or forced[index] < 0:
                steps = self._select_required(index, required, pool, candidates)
                going[index], ended[index] = steps
        return going, ended

    def _requiring(self) -> list[tuple[int, RequiredPhrases]]:
        """Return the sources of the batch that require phrases: index in it, and their rows."""
        required = self.request.required
        if not required:
            return []
        return [
            (index, required[source])
            for index, source in enumerate(self.sources.tolist())
            if source in required
        ]

    def _select(self, pool: Steps) -> tuple[Steps, Steps]:
        """Choose group by group, out of (S, W, k); what goes on and what ends, (S, beam) each.

        A group avoids the tokens of those before it: Hamming diversity, Vijayakumar et al. 2018,
        equation 5 and section 4.1.
        """
        settings = self.request.settings
        width = self.request.width
        going: list[Steps] = []
        ended: list[Steps] = []
        penalty: Floats | float = 0.0
        for first in range(0, settings.beam, width):
            # before the first step all groups go on from the one row of their source
            offset = first if pool.shape[1] > 1 else 0
            of_group = pool[:, offset : offset + width]
            if going:
                taken = np.concatenate([steps["token"] for steps in going], 1)
                tokens = of_group["token"][..., None]
                matches = tokens == taken[:, None, None]
                counts = matches.sum(-1)
                penalty = settings.diversity_penalty * counts
            chosen, ending = select(of_group, width, self.request.end, penalty)
            # among its own rows, so that a group stays where it is
            order = arrange(chosen["parent"] - offset)
            arranged = np.take_along_axis(chosen, order, 1)
            going.append(arranged)
            ended.append(ending)
        return np.concatenate(going, 1), np.concatenate(ended, 1)

    def _select_required(
        self,
        index: int,
        required: RequiredPhrases,
        pool: Steps,
        candidates: Candidates,
    ) -> tuple[Steps, Steps]:
        """Choose for the source at ``index`` what goes on and what ends, (beam,) each."""
        width = self.totals.shape[1]
        rows = slice(index * width, (index + 1) * width)
        assert candidates.logits is not None
        assert candidates.norms is not None
        going, ended = required.select(
            pool[index],
            self.totals[index],
            candidates.logits[rows],
            candidates.norms[rows],
        )
        (order,) = arrange(going["parent"][None])
        return going[order], ended

    def _end(self, ended: Steps, step: int) -> None:
        """Note what has ended in this step, (S, beam), ``total`` -inf where nothing has."""
        source, column = np.isfinite(ended["total"]).nonzero()
        if not len(source):
            return
        chosen = ended[source, column]
        group = column // self.request.width
        row = source * self.totals.shape[1] + chosen["parent"]
        scores = np.full(ended.shape, OUT)
        # the end mark is no row of this step: the hypothesis ends at its parent in the last one
        scores[source, column] = self.back_pointers.close(
            source=self.sources[source],
            group=group,
            kind=ENDED,
            length=step - 1,
            row=self.recorded_rows[row],
            total=chosen["total"],
            end_log_prob=chosen["log_prob"],
            coverage=self.state.coverage(row),
        )
        np.add.at(self.ended_counts, (source, group), 1)
        by_group = scores.reshape(*self.ended_counts.shape, -1)
        known = np.concatenate([self.best_scores, by_group], 2)
        best_first = -np.sort(-known, axis=2)
        self.best_scores = best_first[:, :, : self.request.quota]

    def _go_on(self, going: Steps, step: int) -> None:
        """Take the step, (S, beam), and let the sources leave that are done.

        The order matters: a source that is lost is cut off by the rows before the step, one at its
        limit by the rows after it, and coverage is of the rows that the model has read, which
        ``follow`` moves last.
        """
        dead = ~np.isfinite(going["total"])
        if dead.any():
            _fill_up(going, dead)
        parents = going["parent"]
        tokens = going["token"]
        totals = going["total"]
        # rows of the model's batch: those before the step, and the parents of those after it
        before = np.arange(self.totals.size).reshape(self.totals.shape)
        rows = before[:, :1] + parents
        recorded_rows = np.arange(rows.size).reshape(rows.shape)
        self.back_pointers.add(
            self.recorded_rows[rows].ravel(),
            tokens.ravel(),
            going["log_prob"].ravel(),
        )
        full = self.request.limits[self.sources] <= step
        # nothing may follow and nothing ended: what stood before this step is all there is
        none_ended = (self.ended_counts == 0).all(1)
        lost = dead.all(1) & none_ended
        if lost.any():
            recorded_before = self.recorded_rows.reshape(before.shape)
            self._cut(lost, before, recorded_before, self.totals, step - 1)
        for index, required in self._requiring():
            required.follow(parents[index], tokens[index])
        if full.any():
            self._cut(full & ~lost, rows, recorded_rows, totals, step)
        leaving = full | self._is_done(totals)
        staying = np.flatnonzero(~leaving)
        self.recorded_rows = recorded_rows[staying].ravel()
        self.sources = self.sources[staying]
        self.totals = totals[staying]
        self.ended_counts = self.ended_counts[staying]
        self.best_scores = self.best_scores[staying]
        if len(staying):
            rows = rows[staying]
            tokens = tokens[staying]
            self.state.follow(rows.ravel(), tokens.ravel())

    def _is_done(self, totals: Floats) -> Bools:
        """Return which sources (S,) need no further step, given the rows' totals (S, beam)."""
        by_group = totals.reshape(*self.ended_counts.shape, -1)
        # no row can reach a better score than this: see ``unrolled.decoding.search``
        penalty = self.request.penalty[self.sources]
        bounds = by_group.max(2) / penalty
        is_bounded = self.best_scores[:, :, -1] >= bounds
        has_enough = self.ended_counts >= self.request.enough[self.sources]
        return (has_enough | is_bounded).all(1)

    def _cut(
        self,
        which: Bools,
        rows: Ints,
        recorded_rows: Ints,
        totals: Floats,
        length: int,
    ) -> None:
        """Note all rows of some sources as cut off; those that only fill up the beam are none.

        Args:
            which: the sources (S,).
            rows: the row of the model's batch that has read each row's tokens but the last (S, W).
            recorded_rows: each row's row of step ``length`` of the back pointers (S, W).
            totals: log-probability of each (S, W).
            length: tokens that each has written.
        """
        is_real = totals > OUT
        source, column = (is_real & which[:, None]).nonzero()
        kinds = np.full(totals.shape, CUT)
        for index, required in self._requiring():
            if which[index]:
                kinds[index][~required.complete()] = LACKING
        self.back_pointers.close(
            source=self.sources[source],
            group=column // self.request.width,
            kind=kinds[source, column],
            length=length,
            row=recorded_rows[source, column],
            total=totals[source, column],
            coverage=self.state.coverage(rows[source, column]),
        )


def _fill_up(going: Steps, dead: Bools) -> None:
    """Let rows (S, beam) for which there was no candidate copy the best row of their source.

    Every source keeps as many rows as the others. A copy has -inf in total: it cannot end, win or
    be cut off, and none of its children can.
    """
    going["total"][dead] = OUT
    best = going["total"].argmax(1)[:, None]
    for name in ("parent", "token"):
        column = going[name]
        of_best = np.take_along_axis(column, best, 1)
        column[dead] = np.broadcast_to(of_best, dead.shape)[dead]
