"""What a decoder reads of what an encoder has read, and the state that carries it along.

Shapes: S sources, M steps of a source, B rows (several may read one source: beams), L blocks,
K key-value heads, E width of a head, T steps of a chunk, N heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.nn.state import State, pack, unpack
from unrolled.ops.masking import real_steps


@dataclass(frozen=True, eq=False)
class Memory:
    """Keys and values of S sources, one copy each however many rows read it.

    Args:
        keys: of each of the L blocks (S, K, M, E); none for a decoder without attention.
        values: likewise; their E may differ from that of the keys.
        lengths: real steps of each source (S,), int64.
        rows: the source that each row reads (B,), int64.
        each: how many rows read each source, where row i reads source i // each; else 0.
        gaps: let sources that no row reads stay until they are half of all, for a reader that does
            not mind them: copying the others is dearer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor
    rows: Tensor
    each: int
    gaps: bool = False

    @classmethod
    def of(
        cls, keys: Sequence[Tensor], values: Sequence[Tensor], lengths: Tensor
    ) -> Self:
        """Return a memory of which every source is read by one row."""
        count = lengths.shape[0]
        own = torch.arange(count, device=lengths.device)
        return cls(tuple(keys), tuple(values), lengths, own, 1)

    def allowed(self, steps: int) -> Tensor | None:
        """Return which of ``steps`` steps of each source are real, bool (S, M); None for all.

        A source without steps may be looked at in its first, which is zero: a softmax needs one.
        """
        if bool((self.lengths == steps).all()):
            return None
        return real_steps(self.lengths.clamp(min=1), steps)

    def spread(self, per_source: Tensor) -> Tensor:
        """Return something of each source (S, ...) for each row (B, ...)."""
        if self.each == 1:
            return per_source
        return per_source.index_select(0, self.rows)

    def reorder(self, rows: Tensor) -> Self:
        """Return the memory whose row i is row ``rows[i]`` of this one; see ``State.reorder``.

        Keys and values are copied only where sources leave that no row reads any more.
        """
        chosen = self.rows.index_select(0, rows)
        if chosen.shape == self.rows.shape and torch.equal(chosen, self.rows):
            return self
        left, place = chosen.unique(return_inverse=True)
        if self.gaps and len(self.lengths) > len(left) > len(self.lengths) // 2:
            return replace(self, rows=chosen, each=0)
        kept = self if len(left) == len(self.lengths) else self._take(left)
        return replace(kept, rows=place, each=_each(place, len(left)))

    def _take(self, sources: Tensor) -> Self:
        return replace(
            self,
            keys=tuple(part.index_select(0, sources) for part in self.keys),
            values=tuple(part.index_select(0, sources) for part in self.values),
            lengths=self.lengths.index_select(0, sources),
        )

    def detach(self) -> Self:
        """Return the same numbers, cut off from the graph that made them."""
        keys = tuple(part.detach() for part in self.keys)
        return replace(
            self, keys=keys, values=tuple(part.detach() for part in self.values)
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all of it as named tensors, contiguous and detached."""
        found = {"lengths": self.lengths, "rows": self.rows}
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            found |= {f"keys.{layer}": key, f"values.{layer}": value}
        return {name: part.detach().contiguous() for name, part in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build what :meth:`to_tensors` described."""
        layers = range(sum(name.startswith("keys.") for name in tensors))
        lengths = tensors["lengths"]
        rows = tensors["rows"]
        keys = tuple(tensors[f"keys.{layer}"] for layer in layers)
        values = tuple(tensors[f"values.{layer}"] for layer in layers)
        return cls(keys, values, lengths, rows, _each(rows, len(lengths)))

    @classmethod
    def join(cls, memories: Sequence[Self]) -> Self:
        """Set the sources and rows of several memories side by side, in order."""
        before = 0
        rows = []
        for memory in memories:
            rows.append(memory.rows + before)
            before += len(memory.lengths)
        joined = torch.cat(rows)
        keys = zip(*(memory.keys for memory in memories), strict=True)
        values = zip(*(memory.values for memory in memories), strict=True)
        lengths = torch.cat([memory.lengths for memory in memories])
        together = tuple(map(_side_by_side, keys)), tuple(map(_side_by_side, values))
        return cls(*together, lengths, joined, _each(joined, before))


def _each(rows: Tensor, sources: int) -> int:
    """Return how many rows read each source, 0 where they do not stand in order."""
    if not sources or len(rows) % sources:
        return 0
    each = len(rows) // sources
    even = torch.arange(len(rows), device=rows.device) // max(1, each)
    return each if torch.equal(rows, even) else 0


def _side_by_side(parts: tuple[Tensor, ...]) -> Tensor:
    longest = max(part.shape[2] for part in parts)
    return torch.cat(
        [F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts]
    )


@dataclass(frozen=True, eq=False)
class DecoderState(State):
    """The state of a decoder: what it has written, and the memory that it reads.

    Args:
        inner: the state of its layer.
        memory: what the encoder has read.
        fed: what attention made of the last step (B, H), fed into the next (Luong et al. 2015,
            section 3.3); None where nothing is.
    """

    kind: ClassVar[str] = "decoder"
    inner: State
    memory: Memory
    fed: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.inner.rows

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        fed = None if self.fed is None else self.fed.index_select(0, rows)
        return type(self)(
            self.inner.reorder(rows, keep), self.memory.reorder(rows), fed
        )

    def detach(self) -> Self:
        fed = None if self.fed is None else self.fed.detach()
        return type(self)(self.inner.detach(), self.memory.detach(), fed)

    def to_tensors(self) -> dict[str, Tensor]:
        found = {f"inner/{name}": part for name, part in pack(self.inner).items()}
        found |= {
            f"memory/{name}": part for name, part in self.memory.to_tensors().items()
        }
        return (
            found
            if self.fed is None
            else found | {"fed": self.fed.detach().contiguous()}
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        def under(group: str) -> dict[str, Tensor]:
            start = f"{group}/"
            return {
                n.removeprefix(start): t
                for n, t in tensors.items()
                if n.startswith(start)
            }

        memory = Memory.from_tensors(under("memory"))
        return cls(unpack(under("inner")), memory, tensors.get("fed"))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        inner = type(states[0].inner).join([state.inner for state in states])
        memory = Memory.join([state.memory for state in states])
        if states[0].fed is None:
            return cls(inner, memory)
        return cls(
            inner, memory, torch.cat([cast(Tensor, state.fed) for state in states])
        )
