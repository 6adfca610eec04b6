"""Documents that stand one after another in rows, none of which is to see another.

Shapes: B rows, T steps, S documents, D features, L steps of the longest document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unrolled.nn.state import State
from unrolled.ops.layout import Layout, packed

SHORT = 8  # steps up to which documents are padded to one length
Read = tuple[Tensor, State]
Unroll = Callable[[Tensor, State | None, Tensor], Read]
UnrollPacked = Callable[[Tensor, Layout, State | None], Read]


@dataclass(frozen=True, eq=False)
class DocumentRows:
    """Where each document of a batch of rows stands, and its steps as a row of their own.

    Attributes:
        document: which one each step is of (B * T,), row after row.
        step: which step of it (B * T,).
        lengths: steps of each (S,).
        row: the row of the batch that each stands in (S,).
        is_first: whether it is the first of its row, which goes on from a state (S,).
        last: the last document of each row (B,).
        state: what each begins with (S rows); None is the start.
    """

    document: Tensor
    step: Tensor
    lengths: Tensor
    row: Tensor
    is_first: Tensor
    last: Tensor
    state: State | None = None

    @classmethod
    def of(cls, starts: Tensor) -> DocumentRows:
        """Return the documents of rows, given where they begin, bool (B, T)."""
        count, steps = starts.shape
        begins = starts.clone()
        begins[:, 0] = True
        flat = begins.flatten()
        begin = flat.nonzero()[:, 0]
        document = flat.cumsum(0) - 1
        size = count * steps
        position = torch.arange(
            size,
            device=starts.device,
        )
        counts = begins.sum(1)
        last = counts.cumsum(0) - 1
        return cls(
            document=document,
            step=position - begin[document],
            lengths=document.bincount(minlength=len(begin)),
            row=begin // steps,
            is_first=begin % steps == 0,
            last=last,
        )

    def begun(self, state: State, beginning: State) -> DocumentRows:
        """Return the same documents with the state that each begins with.

        Args:
            state: what is carried into each row.
            beginning: the state before a text, one row.
        """
        both = type(state).join([state, beginning])
        before_a_text = len(self.last)
        sources = torch.where(self.is_first, self.row, before_a_text)
        return replace(self, state=both.reorder(sources))

    def unroll(self, unroll: Unroll, x: Tensor) -> tuple[Tensor, State]:
        """Read each document as a row of its own, those of like length side by side.

        Args:
            unroll: a layer's.
            x: (B, T, D).

        Returns:
            y (B, T, H) and the state after the last document of each row.
        """
        flat = x.flatten(0, 1)
        groups = self._groups()
        outputs: list[Tensor] = []
        chosen: list[Tensor] = []
        after: list[State] = []
        for group in groups:
            steps, positions, shape = self._padded_positions(group)
            count, longest = shape
            padded = flat.new_zeros(count * longest, flat.shape[1])
            own_steps = flat[steps]
            padded = padded.index_copy(0, positions, own_steps)
            rows = padded.unflatten(0, shape)
            own = None
            if self.state is not None:
                own = self.state.reorder(group)
            lengths = self.lengths[group]
            y, new = unroll(rows, own, lengths)
            y_flat = y.flatten(0, 1)
            outputs.append(y_flat[positions])
            chosen.append(steps)
            after.append(new)
        every_step = torch.cat(chosen)
        y = torch.cat(outputs)[_inverse(every_step)]
        every_document = torch.cat(groups)
        last = _inverse(every_document)[self.last]
        joined = type(after[0]).join(after)
        outputs_in_rows = y.unflatten(0, x.shape[:2])
        return outputs_in_rows, joined.reorder(last)

    def unroll_packed(self, unroll: UnrollPacked, x: Tensor) -> tuple[Tensor, State]:
        """Read the documents packed, without padding; see ``unroll``."""
        layout, positions = self.packed()
        flat = x.flatten(0, 1)
        empty = torch.empty_like(flat)
        steps = empty.index_copy(0, positions, flat)
        y, after = unroll(steps, layout, self.state)
        in_order = y[positions]
        outputs = in_order.unflatten(0, x.shape[:2])
        return outputs, after.reorder(self.last)

    def packed(self) -> tuple[Layout, Tensor]:
        """Return how the steps of all documents stand packed, and where each does (B * T,)."""
        lengths, order = self.lengths.sort(
            descending=True,
            stable=True,
        )
        rank = _inverse(order)
        longest = int(lengths[0])
        steps = torch.arange(
            longest,
            device=lengths.device,
        )
        shortest_first = lengths.flip(0)
        ended = torch.searchsorted(
            shortest_first,
            steps,
            right=True,
        )
        active = len(lengths) - ended
        begins = active.cumsum(0) - active
        begin_of_step = begins[self.step]
        positions = begin_of_step + rank[self.document]
        return packed(active, order), positions

    def _groups(self) -> list[Tensor]:
        """Return the documents in groups, the longest of each at most twice the shortest.

        Those of up to ``SHORT`` steps are one group.
        """
        size = self.lengths.clamp(min=SHORT) - 0.5
        power = size.log2().floor()
        groups: list[Tensor] = []
        for value in power.unique():
            is_own = power == value
            own = is_own.nonzero()
            groups.append(own[:, 0])
        return groups

    def _padded_positions(
        self, group: Tensor
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return the steps (M,) of some documents, where each stands padded, rows and steps."""
        lengths = self.lengths[group]
        longest = int(lengths.max())
        count = len(group)
        index = torch.full_like(self.lengths, -1)
        index[group] = torch.arange(
            count,
            device=group.device,
        )
        own = index[self.document]
        is_chosen = own >= 0
        chosen = is_chosen.nonzero()[:, 0]
        before = own[chosen] * longest
        padded = before + self.step[chosen]
        shape = count, longest
        return chosen, padded, shape


def _inverse(order: Tensor) -> Tensor:
    """Return where each number stands in an order of all numbers from 0 on."""
    inverse = torch.empty_like(order)
    count = len(order)
    inverse[order] = torch.arange(
        count,
        device=order.device,
    )
    return inverse
